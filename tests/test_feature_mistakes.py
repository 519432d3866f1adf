"""Features that do not fit `tspbench evaluate`: one sentence that names file and entry, and nothing is trained."""

import shutil

import h5py
import numpy as np
import pytest

from tests.test_cli import assert_one_sentence, run
from tests.tspbench.stages.feature_sets import write_rows, write_set
from tspbench.storage.records import read_record

CARD = """name = "small"
annotations = "annotations.json"
videos = "videos"
protocol = "activitynet"
[splits]
training = "train"
validation = "val"
"""
SMALL = [f"config.{size}" for size in ("steps=8", "max_duration=8", "hidden_1d=16", "hidden_2d=8", "hidden_3d=16")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data set of 5 training and 3 validation videos of 8 s, and its features: 16 rows of 4 numbers a video."""
    folder = tmp_path_factory.mktemp("small")
    dataset = write_set(folder / "set")
    (folder / "set" / "dataset.toml").write_text(CARD)
    write_rows(folder / "good.h5", dataset)
    return folder


def evaluate(small, out, *features, settings=()):
    changes = [item for change in (*SMALL, "fit.epochs=1", *settings) for item in ("--set", change)]
    rows = [item for feature in features for item in ("--features", feature)]
    return run("evaluate", "--task", "tal", "--dataset", small / "set", *rows, "--out", out, *changes)


def replaced(rows):
    def change(file):
        attributes = dict(file["v6"].attrs)
        del file["v6"]
        file.create_dataset("v6", data=rows).attrs.update(attributes)

    return change


def nan(file):
    file["v6"][7, 1] = np.nan


def another_stride(file):
    """96 frames in steps of 6 are 16 rows; in steps of 3 they would be 31."""
    file.attrs["stride_frames"] = 3


def no_stride(file):
    del file.attrs["stride_frames"]


MISTAKES = {
    "NaN": (nan, ["'v6'", "NaN or infinity", "extract"]),
    "infinity": (replaced(np.full((16, 4), np.inf, np.float32)), ["'v6'", "NaN or infinity"]),
    "another dimension": (replaced(np.zeros((16, 5), np.float32)), ["'v6'", "(T, 4)", "(16, 5)"]),
    "no rows": (replaced(np.zeros((0, 4), np.float32)), ["'v6'", "T of at least 1", "(0, 4)"]),
    "one vector": (replaced(np.zeros(4, np.float32)), ["'v6'", "(T, 4)", "(4,)"]),
    "text": (replaced("rows"), ["'v6'", "numbers"]),
    "rows that contradict the stride": (another_stride, ["'v0'", "expected about 31 rows", "found 16"]),
    "half of the attributes": (no_stride, ["stride_frames"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_one_sentence_before_anything_is_trained(small, tmp_path, mistake):
    change, parts = MISTAKES[mistake]
    shutil.copy(small / "good.h5", tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        change(file)
    result = evaluate(small, tmp_path / "out", f"good={small / 'good.h5'}", f"bad={tmp_path / 'bad.h5'}")
    assert_one_sentence(result, tmp_path / "bad.h5", *parts)
    assert not list((tmp_path / "out").rglob("train"))


def test_a_truncated_file_is_one_sentence(small, tmp_path):
    (tmp_path / "bad.h5").write_bytes((small / "good.h5").read_bytes()[:3000])
    assert_one_sentence(evaluate(small, tmp_path / "out", f"a={tmp_path / 'bad.h5'}"), tmp_path / "bad.h5")


def test_two_files_of_one_set_have_one_dimension(small, tmp_path):
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["another"] = np.zeros((3, 7), np.float32)
    result = evaluate(small, tmp_path / "out", f"a={small / 'good.h5'},{tmp_path / 'more.h5'}")
    assert_one_sentence(result, tmp_path / "more.h5", "7", "4")


def test_a_video_is_in_one_file_only(small, tmp_path):
    shutil.copy(small / "good.h5", tmp_path / "again.h5")
    result = evaluate(small, tmp_path / "out", f"a={small / 'good.h5'},{tmp_path / 'again.h5'}")
    assert_one_sentence(result, tmp_path / "again.h5", "'v0'", "the same video", small / "good.h5")


def test_missing_videos_are_counted_and_score_as_missed(small, tmp_path):
    shutil.copy(small / "good.h5", tmp_path / "few.h5")
    with h5py.File(tmp_path / "few.h5", "r+") as file:
        del file["v1"], file["v6"], file["v7"]
    result = evaluate(small, tmp_path / "out", f"few={tmp_path / 'few.h5'}")
    assert result.exit_code == 0, result.stderr
    assert "no features of 1 of 5 training videos (first: v1)" in result.stderr
    assert "no features of 2 of 3 validation videos (first: v6)" in result.stderr
    counts = read_record(tmp_path / "out" / "tal" / "few" / "score").figures["counts"]
    assert (counts["videos"], counts["missing_videos"]) == (3, 2)
    assert "few: no prediction for 2 of the 3 scored videos; they count as missed." in result.stdout


def test_settings_that_do_not_fit_the_features_are_one_sentence(small, tmp_path):
    good = f"a={small / 'good.h5'}"
    for settings, parts in (
        (["time.mode=windows", "time.window_stride=9"], ["window_stride", "8 steps"]),
        (["time.mode=padded"], ["padding", "gtad"]),
        (["time.step_seconds=1.0"], ["step_seconds", "rescale"]),
        (["time.mode=windows", "time.step_seconds=-1.0"], ["step_seconds", "-1.0"]),
        (["fit.learning_rates.localizer=nan"], ["fit.learning_rates", "finite"]),
        (["fit.select=best"], ["fit.select", "last"]),
    ):
        assert_one_sentence(evaluate(small, tmp_path / "out", good, settings=settings), *parts)
