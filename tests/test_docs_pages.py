"""Each page of docs/ is tried: what it tells people to type is typed, on made-up files and with small settings."""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.test_architecture import ROOT
from tests.test_cli import run
from tests.test_real_benchmarks import activitynet
from tspbench.datasets import generate
from tspbench.datasets.synthetic import SyntheticSettings

__all__ = ["activitynet"]  # a fixture

PAGES = {page.stem: page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
README = (ROOT / "README.md").read_text("utf-8").partition("## Compare two feature files\n")[2].partition("\n## ")[0]
MAPS = ("steps=16", "max_duration=16", "hidden_1d=16", "hidden_2d=8", "hidden_3d=16")
# What makes a command quick, by its verb and perhaps by what it trains; nothing else is added.
LESS = {
    "pretrain": ["fit.epochs=1", "fit.workers=0", "clips_per_segment=1"],
    "pretrain lofi": ["fit.epochs=1", "fit.workers=0", "end_to_end.config.hidden_1d=16"],
    "evaluate": ["fit.epochs=1", *(f"config.{size}" for size in MAPS)],
    "evaluate actionformer": ["config.hidden=16"],
    "evaluate my_localizer.py:Actionness": ["fit.epochs=2"],
    "evaluate pgcn": ["fit.epochs=1", "config.hidden=16"],
    "evaluate captioning": [
        "fit.epochs=1",
        "generator.fit.epochs=1",
        "generator.config.hidden=16",
        *(f"config.{size}" for size in ("d_model=16", "heads=2", "layers=1")),
    ],
    "run": ["tasks.tal.fit.epochs=1", *(f"tasks.tal.config.{size}" for size in MAPS)],
}  # fmt: skip
# What is too large, or lies elsewhere.
INSTEAD = {"r2plus1d_18": "tiny", "/videos/activitynet": "videos"}


def blocks(text, language):
    """Return (the rest of the fence's line, content) of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\b *(.*)\n((?:.*\n)*?)```", text, re.MULTILINE)


def commands(text):
    """Return the lines that a text tells people to type, as arguments behind "uv run"."""
    lines = [line.partition(" #")[0] for _, block in blocks(text, "bash") for line in block.splitlines()]
    typed = [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]
    assert all(parts[:2] == ["uv", "run"] for parts in typed)
    return [[INSTEAD.get(part, part) for part in parts[2:]] for parts in typed]


def small(arguments):
    """Return a command of tspbench with settings that make it quick."""
    kinds = [arguments[0], *(f"{arguments[0]} {part}" for part in arguments[1:])]
    changes = next((LESS[kind] for kind in reversed(kinds) if kind in LESS), [])
    return [*arguments, *(part for change in changes for part in ("--set", change))]


def follow(text):
    """Run the commands of a text, one after the other, as they stand but for their size."""
    for name, content in blocks(text, "python"):
        if name:
            Path(name).write_text(content)
    for program, *arguments in commands(text):
        if program == "tspbench":
            result = run(*small(arguments))
            assert result.exit_code == 0, f"{shlex.join(arguments)}\n{result.stderr}\n{result.exception!r}"
        else:
            first = arguments.index("tspbench") + 1
            command = [Path(sys.executable).with_name(program), *arguments[:first], *small(arguments[first:])]
            own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)
            assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A data set as `tspbench data init` leaves it, with captions, and features of its videos."""
    work = tmp_path_factory.mktemp("generated")
    settings = SyntheticSettings(training_videos=5, validation_videos=3)
    generate("synthetic", work / "my-videos", settings, 0, lambda _done, _total: None)
    small = ["--set", "fit.epochs=1", "--set", "fit.workers=0", "--set", "clips_per_segment=1"]
    pretrain = ["pretrain", "--dataset", work / "my-videos", "--method", "tac", "--encoder", "tiny"]
    made = run(*pretrain, "--out", work / "tac", *small)
    assert made.exit_code == 0, made.stderr
    weights = work / "tac" / "pretrain" / "tac" / "encoder.safetensors"
    extract = ["extract", "--checkpoint", weights, "--dataset", work / "my-videos", "--stride-frames", 6]
    assert run(*extract, "--out", work / "tsp.h5", "--class-scores", work / "labels.json").exit_code == 0
    return work


@pytest.fixture
def mine(generated, tmp_path, monkeypatch):
    """The folder in which somebody with a data set of their own works."""
    shutil.copytree(generated / "my-videos", tmp_path / "my-videos")
    for name in ("tsp.h5", "labels.json"):
        shutil.copy(generated / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_page_is_followed():
    tests = {name.removeprefix("test_page_").replace("_", "-") for name in globals() if name.startswith("test_page_")}
    assert tests | {"python"} == set(PAGES) | {"python"}, "tests.tspbench.test_api follows that of Python"


def test_page_compare_my_encoder(mine):
    follow(PAGES["compare-my-encoder"])
    rows = (mine / "runs" / "table" / "table.md").read_text()
    assert all(f"| {name} | " in rows for name in ("before", "tac", "tsp"))
    assert (mine / "runs" / "table" / "report.html").is_file()
    assert (mine / "runs" / "study" / "study.json").is_file()


def test_page_own_videos(mine):
    videos = mine / "my-videos" / "videos"
    (mine / "my-videos" / "dataset.toml").unlink()
    shutil.copy(next(videos.glob("validation_*")), mine / "new.mp4")
    follow(PAGES["own-videos"])
    assert {path.suffix for path in (mine / "found").rglob("new*")} >= {".json", ".csv", ".srt", ".vtt", ".png"}


def test_page_add_a_localizer(mine):
    follow(PAGES["add-a-localizer"])


def test_page_scale_out(mine):
    follow(PAGES["scale-out"])
    with h5py.File(mine / "tsp.h5") as file:
        assert len(file) == 8


def test_page_captions(mine):
    rng = np.random.default_rng(0)
    (mine / "vggish").mkdir()
    for name, video in json.loads((mine / "my-videos" / "annotations.json").read_text())["database"].items():
        heard = rng.standard_normal((round(video["duration"] / 0.96), 8))
        np.save(mine / "vggish" / f"{name}.npy", heard.astype(np.float32))
    (mine / "glove.txt").write_text("a " + " ".join(["0.5"] * 300) + "\n")
    follow(PAGES["captions"])


def test_page_released_features(activitynet):
    for name, model in (("tac", "tac_on_activitynet"), ("tsp", "tsp_on_activitynet")):
        for part in ("train", "valid"):
            source = activitynet / "features" / f"r2plus1d_34-{model}-{part}_features.h5"
            shutil.copy(source, f"{name}_{part}.h5")
    Path("npy-folder").mkdir()
    np.save("npy-folder/a.npy", np.ones((4, 3), np.float32))
    follow(PAGES["released-features"])


def test_page_reproduce_a_table(activitynet):
    for part in ("train", "valid"):
        released = activitynet / "features" / f"r2plus1d_34-tac_on_activitynet-{part}_features.h5"
        shutil.copy(released, f"tac_{part}.h5")
    follow(PAGES["reproduce-a-table"])


def test_page_score_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    action = {"segment": [1.0, 5.0], "label": "Jump"}
    database = {f"v{k}": {"duration": 9.0, "subset": "validation", "annotations": [action]} for k in range(4)}
    Path("activity_net.v1-3.min.json").write_text(json.dumps({"database": database}))
    for seed, name in enumerate(("predictions", "proposals", "tac", "tsp", "tac0", "tac1", "tsp0", "tsp1")):
        ends = np.sort(np.random.default_rng(seed).uniform(0, 9, (4, 2)), axis=1).tolist()
        results = {f"v{k}": [{"segment": ends[k], "label": "Jump", "score": 0.5}] for k in range(4)}
        Path(f"{name}.json").write_text(json.dumps({"results": results}))
    Path("predictions.json.gz").write_bytes(gzip.compress(Path("predictions.json").read_bytes()))
    told = [{"sentence": "Somebody jumps.", "timestamp": [1.0, 5.0]}]
    Path("captions.json").write_text(json.dumps({"results": {f"v{k}": told for k in range(4)}}))
    for name in ("val_1", "val_2"):
        true = {"duration": 9.0, "timestamps": [[1.0, 5.0]], "sentences": ["A man jumps twice."]}
        Path(f"{name}.json").write_text(json.dumps({f"v{k}": true for k in range(4)}))
    Path("test_annotations").mkdir()
    Path("test_annotations/Diving_test.txt").write_text("video_test_0000001 1.0 5.0\n")
    Path("detections.txt").write_text("video_test_0000001 1.2 5.0 26 0.9\n")
    follow(PAGES["score-files"])


def test_the_readme_compares_two_feature_files(tmp_path, monkeypatch):
    """With the columns that it shows, and nothing but the arrays in the files; the new features tell of the action."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("old", "new"):
        with h5py.File(f"{name}.h5", "w") as file:
            for k in range(10):
                file[f"v{k}"] = rng.standard_normal((40, 8)).astype(np.float32)
                file[f"v{k}"][10:20] += 2.0 * (name == "new")
    columns = blocks(README, "csv")[0][1].splitlines()[0]
    rows = [f"v{k},10,20,Jump,{'training' if k < 6 else 'validation'},40" for k in range(10)]
    Path("my-set").mkdir()
    Path("my-set/annotations.csv").write_text("\n".join([columns, *rows]) + "\n")
    follow(README)
    assert "| new − old | +" in Path("runs/old-new/table.md").read_text()
