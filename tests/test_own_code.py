"""Encoders and localizers of one's own, from the command line: the examples of docs, and a recipe with one's own."""

from pathlib import Path

import pytest

from tests.test_architecture import ROOT
from tests.test_cli import assert_one_sentence, run
from tests.tspbench.helpers import small_dataset
from tests.tspbench.test_own_code import ENCODER
from tspbench.storage.features import FeatureFiles
from tspbench.storage.records import read_record
from tspbench.storage.runs import feature_files, read_run

EXAMPLES = ROOT / "docs" / "examples"
LOCALIZER = f"{EXAMPLES}/my_localizer.py:Actionness"
ENCODERS = {"timm": f"{EXAMPLES}/timm_encoder.py:TimmEncoder", "videomae": f"{EXAMPLES}/videomae_encoder.py:VideoMAE"}
VIDEOMAE = {
    "image_size": 32,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SHORT = ["--set", "fit.epochs=1", "--set", "config.steps=8"]
RECIPE = """
name = "mine"
title = "One's own"
encoder = "own.py:Mine"
references = ["upper-mark"]
[data]
target = "small"
[extract]
stride_frames = 4
[pretrain.taught]
method = "tac"
data = "target"
init = "random"
clips_per_segment = 1
[pretrain.taught.fit]
epochs = 1
[tasks.tal]
name = "localizer.py:Actionness"
config = { steps = 8 }
fit = { epochs = 1 }
[[rows]]
name = "as it comes"
features = "own.py:Mine"
[[rows]]
name = "taught"
features = "taught"
"""


def features_of(row):
    """Return the feature file of a row of the run in out/."""
    rows = {row.name: row for row in read_run(Path("out")).tables[0].rows}
    return feature_files(Path("out"), rows[row])[0]


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("small") / "small").folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Give the examples small models with random weights."""
    from transformers import VideoMAEConfig, VideoMAEModel  # which takes seconds, in every test process

    VideoMAEModel(VideoMAEConfig(**VIDEOMAE)).save_pretrained(tmp_path / "videomae")
    values = {"VIDEOMAE": str(tmp_path / "videomae"), "TIMM_MODEL": "test_vit", "TIMM_PRETRAINED": "0"}
    for name, value in {**values, "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)


def test_the_examples_go_from_videos_to_a_table(dataset, offline, tmp_path):
    for row, encoder in ENCODERS.items():
        where = ["--dataset", dataset, "--stride-frames", "8", "--out", tmp_path / f"{row}.h5"]
        done("extract", "--encoder", encoder, *where)
    meanings = {row: FeatureFiles([tmp_path / f"{row}.h5"]).meaning() for row in ENCODERS}
    assert {row: meaning["encoder"] for row, meaning in meanings.items()} == ENCODERS
    assert [meanings["videomae"][fact] for fact in ("feature_dim", "clip_frames", "frame_rate")] == [16, 4, 7.5]
    rows = [part for row in ENCODERS for part in ("--features", f"{row}={tmp_path / row}.h5")]
    out = tmp_path / "run"
    result = done(
        "evaluate", "--task", "tal", "--dataset", dataset, *rows, "--localizer", LOCALIZER, "--out", out, *SHORT
    )
    table = read_run(out).tables[0]
    assert table.facts["localizer"] == LOCALIZER
    assert table.facts["settings"] == "changed"
    for row in ENCODERS:
        assert row in result.output
        assert read_record(out / "tal" / row / "score").status == "finished"


def test_a_recipe_of_ones_own_is_taken_up_until_a_file_is_edited(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").symlink_to(dataset)
    own, localizer = tmp_path / "own.py", tmp_path / "localizer.py"
    own.write_text(ENCODER)
    localizer.write_text((EXAMPLES / "my_localizer.py").read_text())
    (tmp_path / "mine.toml").write_text(RECIPE)
    assert "Ready to run." in done("check", "mine.toml", "--out", "out").output
    (tmp_path / "other.py").write_text(ENCODER)
    result = run("check", "mine.toml", "--set", "pretrain.taught.init=other.py:Mine", "--out", "out")
    assert_one_sentence(result, "pretrain.taught.init", "own.py:Mine", "other.py:Mine")

    def prints():
        done("run", "mine.toml", "--out", "out")
        records = sorted((tmp_path / "out").rglob("record.json"))
        return {
            path.parent.relative_to(tmp_path / "out").as_posix(): read_record(path.parent).fingerprint
            for path in records
        }

    first = prints()
    assert read_record(tmp_path / "out" / "pretrain" / "taught").settings["encoder"] == "own.py:Mine"
    assert prints() == first
    localizer.write_text(localizer.read_text() + "\n# Another line.\n")
    second = prints()
    assert {path for path in first if first[path] != second[path]} >= {
        f"tal/{row}/{verb}" for row in ("as-it-comes", "taught") for verb in ("train", "predict", "score")
    }
    assert second["tal/upper-mark-of-the-grid/predict"] != first["tal/upper-mark-of-the-grid/predict"]
    assert all(second[path] == first[path] for path in first if not path.startswith("tal/"))
    own.write_text(own.read_text().replace("self.fc(clips", "2 * self.fc(clips"))
    third = prints()  # the initial weights are random as before
    assert third["pretrain/taught"] != second["pretrain/taught"]
    assert all(third[path] != second[path] for path in second if path.startswith("features/"))
    result = run(
        "extract", "--checkpoint", "out/pretrain/taught/encoder.safetensors", "--dataset", "small", "--out", "F"
    )
    assert_one_sentence(result, "own.py:Mine", "--encoder")
    where = ["--checkpoint", "out/pretrain/taught/encoder.safetensors", "--dataset", "small", "--out", "F.h5"]
    done("extract", "--encoder", "own.py:Mine", *where)
    less = ["--set", "fit.epochs=1", "--set", "clips_per_segment=1"]
    done("pretrain", "--encoder", "own.py:Mine", "--dataset", "small", "--method", "tac", "--out", "taught", *less)
    predicted_with_ones_own(tmp_path, dataset)
    initial = read_record(tmp_path / "taught" / "pretrain" / "tac").inputs["initial encoder"]
    assert initial == FeatureFiles([features_of("as it comes")]).meaning()["weights"]


def predicted_with_ones_own(folder, dataset):
    """Find actions in a video by the rows of the run in out/, whose code may have moved and changed since."""
    video = sorted(dataset.glob("videos/*"))[0]
    code = {"--encoder": "own.py:Mine", "--localizer": "localizer.py:Actionness"}

    def predict(row, **given):
        given = [part for option, name in {**code, **given}.items() if name for part in (option, name)]
        return run("predict", video, "--run", "out", "--row", row, "--out", f"found-{row}", *given)

    moved = folder / "elsewhere.py"
    moved.write_text((folder / "own.py").read_text())
    for row in ("as it comes", "taught"):
        result = predict(row)
        assert result.exit_code == 0, result.output
        assert "has changed" not in result.output
        assert f"{video.stem}: " in result.output
    assert read_record(Path("found-taught/records") / video.stem).inputs["encoder's code"]
    path = Path(f"found-taught/{video.stem}.json")
    found = path.read_bytes()
    result = predict("taught", **{"--encoder": f"{moved}:Mine"})
    assert (result.exit_code, path.read_bytes()) == (0, found)
    moved.write_text(f"{moved.read_text()}# Another line.\n")
    result = predict("taught", **{"--encoder": f"{moved}:Mine"})
    assert f"{moved}:Mine has changed since it was trained" in result.stderr
    # The weights that a class comes with are those of its code.
    assert_one_sentence(predict("as it comes", **{"--encoder": f"{moved}:Mine"}), "Mine", "--checkpoint")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (ENCODER.replace("feature_dim = 3", "feature_dim = 5"), ["(2, 5)", "(2, 3)", "feature_dim"]),
        (f"import no_such_module\n{ENCODER}", ["line 1", "no_such_module"]),
        (ENCODER.replace("class Mine", "class Mime"), ["'Mine'", "did you mean 'Mime'?"]),
    ],
    ids=["feature_dim", "import", "name"],
)
def test_an_encoder_that_does_not_fit_is_one_sentence_everywhere(dataset, tmp_path, text, parts):
    (tmp_path / "own.py").write_text(text)
    encoder = f"{tmp_path}/own.py:Mine"
    out = ["--out", tmp_path / "out"]
    assert_one_sentence(run("extract", "--encoder", encoder, "--dataset", dataset, *out), "own.py", *parts)
    where = ["--dataset", dataset, "--method", "tac"]
    assert_one_sentence(run("pretrain", "--encoder", encoder, *where, *out), "own.py", *parts)
    (tmp_path / "mine.toml").write_text(RECIPE.replace("own.py:Mine", encoder).replace('"small"', f'"{dataset}"'))
    assert_one_sentence(run("check", tmp_path / "mine.toml", "--set", "tasks.tal.name=gtad", *out), "own.py", *parts)
    assert not (tmp_path / "out").exists()


def test_lists_say_how_to_bring_ones_own():
    assert "--encoder path/to/file.py:ClassName" in done("list", "encoders").output.splitlines()[-1]
    assert "--localizer path/to/file.py:ClassName" in done("list", "localizers").output.splitlines()[-1]
