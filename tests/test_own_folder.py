"""A new user's folder of six videos and one CSV: docs/own-videos.md leads to a table, with broken videos, too."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import av
import pytest
from numpy.testing import assert_allclose

from tests.test_architecture import ROOT
from tests.test_cli import assert_one_sentence, run
from tests.test_end_to_end import state
from tests.tspbench.helpers import cut, silent
from tspbench.datasets import open_dataset, synthetic
from tspbench.storage.features import FeatureFiles
from tspbench.storage.records import read_record

SECTION = (ROOT / "docs" / "own-videos.md").read_text("utf-8")
BLOCK = re.search(r"^```bash\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)[1]
COMMANDS = {parts[3]: parts[3:] for parts in map(shlex.split, BLOCK.splitlines())}  # after "uv run tspbench"
COLUMNS = re.search(r"^```csv\n(.*)\n", SECTION, re.MULTILINE)[1].split(",")
# What makes the commands quick; nothing else is added to them.
LESS = {
    "pretrain": ["fit.epochs=1", "clips_per_segment=1"],
    "evaluate": ["fit.epochs=1", *(f"config.{size}=16" for size in ("steps", "max_duration", "hidden_1d"))],
}
TRAINING, VALIDATION = ([f"{split}_000{k}" for k in range(3)] for split in ("training", "validation"))
BROKEN = ("training_0002", "validation_0001")
HOME, FEATURES, TABLE = Path("my-videos"), Path("tsp.h5"), Path("runs/my-table/table.md")
SCAN, LINT = ("data", "scan", HOME), ("data", "lint", HOME)


def tried(name):
    """Run a command of the page, in small."""
    return run(*COMMANDS[name], *(part for change in LESS.get(name, []) for part in ("--set", change)))


def done(name):
    result = tried(name)
    assert result.exit_code == 0, result.output
    return result


def rows():
    """Return row → its numbers, of the first table of the run."""
    lines = TABLE.read_text().partition("\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    return {name: list(map(float, numbers)) for name, *numbers, _interval in cells}


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """Make what a user has: a folder of six videos, with two classes in either split, and a CSV; and keep the truth."""
    work = tmp_path_factory.mktemp("brought")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "UNTRIMMED_KINDS", synthetic.UNTRIMMED_KINDS[:2])
        size = synthetic.SyntheticSettings(training_videos=len(TRAINING), validation_videos=len(VALIDATION))
        synthetic.write_untrimmed(work / "generated", size, 0, silent)
    home = (work / "generated" / "videos").rename(work / HOME)
    (work / "generated" / "annotations.json").rename(work / "truth.json")
    shutil.rmtree(work / "generated")
    with (home / "actions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for name, entry in json.loads((work / "truth.json").read_bytes())["database"].items():
            for action in entry["annotations"]:
                start, end = action["segment"]
                # As on the page, some times are mm:ss.
                end = f"0:{end:.12f}" if entry["subset"] == "validation" else end
                row = {"video": f"{name}.mp4", "label": action["label"], "split": entry["subset"]}
                table.writerow({**row, "start": start, "end": end})
    return work


@pytest.fixture(scope="module")
def finished(brought, tmp_path_factory):
    """Run the four commands; tests work in copies."""
    work = shutil.copytree(brought, tmp_path_factory.mktemp("finished") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        return work, {name: done(name) for name in COMMANDS}


@pytest.fixture(scope="module")
def scanned(brought, tmp_path_factory):
    """Break a video of each split, then scan; tests work in copies."""
    work = shutil.copytree(brought, tmp_path_factory.mktemp("scanned") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        done("data")
        truncate()
        return work, run(*SCAN)


@pytest.fixture
def work(request, tmp_path, monkeypatch):
    """Work in a copy of what the fixture named by the test's parameter leaves."""
    given = request.getfixturevalue(request.param)
    folder = given[0] if isinstance(given, tuple) else given
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "work"))


def truncate():
    """Cut two videos at 60 %: one has its index at the end and loses it, the other keeps it and promises more."""
    for name, options in zip(BROKEN, ({}, {"movflags": "faststart"}), strict=True):
        path = HOME / f"{name}.mp4"
        with av.open(str(path)) as source, av.open(f"{name}.mp4", "w", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        cut(Path(f"{name}.mp4"), path, 0.6)


def test_the_readme_shows_four_commands():
    assert list(COMMANDS) == ["data", "pretrain", "extract", "evaluate"]
    assert len(BLOCK.splitlines()) == len(COMMANDS)
    assert "Four commands" in SECTION


@pytest.mark.parametrize("work", ["finished"], indirect=True)
def test_four_commands_reach_a_table(work, finished):
    _, told = finished
    database = json.loads(Path("truth.json").read_bytes())["database"]
    read = open_dataset(str(HOME)).read()
    assert {video.name: video.subset for video in read.videos} == {k: v["subset"] for k, v in database.items()}
    for video in read.videos:
        actions = database[video.name]["annotations"]
        assert_allclose(video.segments, [action["segment"] for action in actions], atol=1e-9)
        assert video.labels == tuple(action["label"] for action in actions)
    assert "3 with 11 actions for training, 3 with 7 actions for validation" in told["data"].stdout
    assert FeatureFiles([FEATURES]).videos == {*TRAINING, *VALIDATION}
    found = rows()
    assert list(found) == ["Random features", "tsp"]
    assert all(len(numbers) == 4 and all(0 <= number <= 100 for number in numbers) for numbers in found.values())
    assert found["tsp"][0] > 0
    table = TABLE.read_text()
    assert table.startswith("# Finding actions on my-videos\n")
    assert "|videos:3|segments:7|" in table
    assert "count as missed" not in table
    assert "tsp − Random features" in table
    assert f"{found['tsp'][-1]:.2f}" in told["evaluate"].stdout


@pytest.mark.parametrize("work", ["finished"], indirect=True)
def test_called_again_the_commands_skip_what_is_finished(work):
    before, features, table = state(Path("runs")), FEATURES.read_bytes(), TABLE.read_bytes()
    assert_one_sentence(tried("data"), HOME / "dataset.toml", "is there already")
    told = [done(name).stderr for name in ("pretrain", "extract", "evaluate")]
    assert FEATURES.read_bytes() == features
    assert TABLE.read_bytes() == table
    after = state(Path("runs"))
    assert set(after) == set(before)
    assert {path.name for path in after if after[path] != before[path]} <= {"table.md", "run.json"}
    assert ": " not in told[0].replace("Encoder: ", ""), "no stage told of progress"
    assert ": " not in told[2].replace("Table: ", ""), "no stage told of progress"


@pytest.mark.parametrize("work", ["finished"], indirect=True)
def test_without_a_scan_a_truncated_video_is_a_sentence(work):
    """The others lose nothing by it."""
    truncate()
    shutil.rmtree("runs/mine/features")
    weights = Path("runs/mine/pretrain/tsp/encoder.safetensors").read_bytes()
    assert_one_sentence(tried("pretrain"), "2 of 6 videos", HOME / "training_0002.mp4", "the other 4 are kept")
    assert Path("runs/mine/pretrain/tsp/encoder.safetensors").read_bytes() == weights
    FEATURES.unlink()
    assert_one_sentence(tried("extract"), "2 of 6 videos", HOME / "training_0002.mp4", "the other 4 are kept")
    assert not FEATURES.exists()
    assert run(*LINT).exit_code == 0, "whether files can be read is for the scan to say"


def test_a_scan_quarantines_the_truncated_videos(scanned):
    _, result = scanned
    assert result.exit_code == 1
    assert "4 of 6 videos can be used" in result.stdout
    assert "2 are quarantined: 2 truncated." in result.stdout
    lines = result.stdout.splitlines()
    assert "training_0002: training_0002.mp4 is truncated (the index of its frames is missing)" in result.stdout
    (other,) = (line for line in lines if line.startswith("validation_0001: "))
    assert re.search(r"is truncated \(its header promises [\d,]+ bytes, [\d,]+ are there\)", other)


@pytest.mark.parametrize("work", ["scanned"], indirect=True)
def test_pretraining_and_extraction_follow_the_manifest_and_evaluation_counts_what_is_missing(work):
    told = {name: done(name).stderr for name in ("pretrain", "extract", "evaluate")}
    for split, name in zip(("training", "validation"), BROKEN, strict=True):
        assert (
            f"my-videos: 1 of 3 {split} videos are quarantined (the first: {name}.mp4 is truncated" in told["pretrain"]
        )
        assert f"Quarantined: {name}.mp4 is truncated" in told["extract"]
        assert f"{FEATURES}: no features of 1 of 3 {split} videos (first: {name})." in told["evaluate"]
    segments = read_record(Path("runs/mine/pretrain/tsp")).figures["training_segments"]
    database = json.loads(Path("truth.json").read_bytes())["database"]
    assert segments["foreground"] == sum(len(database[name]["annotations"]) for name in TRAINING[:2])
    assert FeatureFiles([FEATURES]).videos == {*TRAINING, *VALIDATION} - set(BROKEN)
    record = read_record(Path("runs/my-table/tal/tsp/score"))
    assert record.figures["counts"]["missing_videos"] == 1
    assert "|videos:3|segments:7|" in record.figures["signature"]
    assert "tsp: no prediction for 1 of the 3 scored videos; they count as missed." in TABLE.read_text()
    # The only thing that would be found in the missing video cannot be.
    share = len(database[BROKEN[1]]["annotations"]) / 7
    assert 0 < share < 1
    assert all(0 <= number <= 100 * (1 - share) + 0.01 for number in rows()["tsp"])
    again = done("pretrain").stderr
    assert again.startswith("Encoder: ")


@pytest.mark.parametrize("work", ["scanned"], indirect=True)
def test_a_video_that_changed_after_the_scan_has_to_be_scanned_again(work):
    for name in BROKEN:
        shutil.copy(f"{name}.mp4", HOME / f"{name}.mp4")  # downloaded again, whole
    assert_one_sentence(tried("pretrain"), "training_0002.mp4 has changed since it was scanned", "data scan")
    assert not Path("runs/mine/pretrain/tsp/encoder.safetensors").exists()
    linted = run(*LINT)
    assert linted.exit_code == 1
    assert "training_0002.mp4 has changed since it was scanned" in linted.stdout
    result = run(*SCAN)
    assert result.exit_code == 0, result.output
    assert "6 of 6 videos can be used" in result.stdout
    assert done("pretrain").stderr.count("are not there") == 0
    assert FeatureFiles([Path("runs/mine/features/random-encoder/features.h5")]).videos == {*TRAINING, *VALIDATION}
    shutil.copy(HOME / "training_0001.mp4", HOME / "training_0000.mp4")
    assert_one_sentence(tried("extract"), "training_0000.mp4 has changed since it was scanned", "data scan")
    assert not FEATURES.exists()


@pytest.mark.parametrize("work", ["scanned"], indirect=True)
def test_a_video_that_came_after_the_scan_has_to_be_scanned(work):
    shutil.copy(HOME / "training_0000.mp4", HOME / "another.mp4")
    assert_one_sentence(tried("pretrain"), "another.mp4 is not in the manifest", "data scan")


@pytest.mark.parametrize("work", ["brought"], indirect=True)
def test_lint_before_and_after_a_scan(work):
    """Only a scan knows how long the videos are, and so where actions end too late."""
    with (HOME / "actions.csv").open("a") as table:
        table.write("training_0000.mp4,23.0,26.5,Bouncing disc,training\n")
    done("data")
    before = run(*LINT)
    assert before.exit_code == 0
    assert "3 videos of unknown length, so that ends and background are not checked" in before.stdout
    assert "error: " not in before.stdout
    assert run(*SCAN).exit_code == 0
    after = run(*LINT)
    assert after.exit_code == 1
    assert "of unknown length" not in after.stdout
    (error,) = (line for line in after.stdout.splitlines() if line.startswith("error: "))
    assert "1 action after the end of the video, by up to 2.5 s: training_0000" in error
    mended = (HOME / "actions.csv").read_text().replace("23.0,26.5", "23.0,24.0")
    (HOME / "actions.csv").write_text(mended)
    last = run(*LINT)
    assert last.exit_code == 0
    assert last.stdout == (
        "training (training): 3 of 3 annotated videos are there; a clip fits into 11 of 12 actions.\n"
        "validation (validation): 3 of 3 annotated videos are there; a clip fits into 7 of 7 actions.\n"
        "Nothing to mend.\n"
    )
