"""A study of small feature files, whose numbers can be told by hand."""

import json
import math

import numpy as np
import pytest

from tests.tspbench.helpers import names, one_sentence, silent
from tspbench.datasets import open_dataset
from tspbench.plots import image_bytes
from tspbench.stages import study_features as stage
from tspbench.stages.study_features import study_features
from tspbench.stages.study_tables import study_markdown, study_tables
from tspbench.storage.features import RowMeaning, VideoFeatures, write_entries, write_features
from tspbench.storage.recipes import write_toml

MEANING = RowMeaning("tiny", "", 8, 8, 8.0, 4, "fp32")  # clip k is second k to k + 1
SECONDS = 10
VIDEOS = [f"v{k}" for k in range(12)]  # the first half for training
ACTION = [3.0, 7.0]


def write_dataset(folder, segment=ACTION, labels=("even", "odd"), extra=(), protocol="activitynet"):
    database = {
        name: {
            "duration": SECONDS,
            "subset": "train" if k < len(VIDEOS) / 2 else "val",
            "annotations": [{"segment": segment, "label": labels[k % len(labels)]}, *extra],
        }
        for k, name in enumerate(VIDEOS)
    }
    folder.mkdir(exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    card = {"name": "small", "annotations": "annotations.json", "protocol": protocol}
    write_toml(folder / "dataset.toml", {**card, "splits": {"training": "train", "validation": "val"}})
    return open_dataset(str(folder))


def telling(k):
    """Return features that say all: what is foreground, and in it whether the video is even or odd."""
    rows = np.zeros((SECONDS, 4), dtype=np.float32)
    rows[:, 0] = 1.0
    rows[3:7] = (0.0, 1.0, 0.01 * (k % 2), 0.01 * (1 - k % 2))
    return rows


def empty(k):
    return np.random.default_rng(k).normal(size=(SECONDS, 4)).astype(np.float32)


def write_set(path, rows=telling, videos=VIDEOS, meaning=MEANING):
    features = {name: VideoFeatures(rows(int(name[1:])), float(SECONDS), "none") for name in videos}
    write_features(path, features, meaning)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Resample less, and draw nothing but where a test asks for `image_bytes` itself."""
    monkeypatch.setattr(stage, "REPETITIONS", 100)
    monkeypatch.setattr(stage, "image_bytes", lambda _figure, file_format="png": file_format.encode())


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data")


@pytest.fixture
def study(dataset, tmp_path):
    """Return a way to study feature files of the data set."""

    def run(out="out", of=dataset, **sets):
        chosen = {name: paths if isinstance(paths, list) else [paths] for name, paths in sets.items()}
        return study_features(chosen, of, tmp_path / out, report=silent)

    return run


def test_a_study_by_hand(study, tmp_path):
    found = study(telling=write_set(tmp_path / "t.h5"), empty=write_set(tmp_path / "e.h5", empty))
    assert found.counts == {
        "training_videos": 6,
        "training_clips": 60,
        "fitted_clips": 60,
        "validation_videos": 6,
        "validation_clips": 60,
        "foreground_clips": 24,
        "classes": 2,
    }
    assert found.most_frequent_class == 1 / 2
    telling_metrics = {name: interval.estimate for name, interval in found.metrics["telling"].items()}
    # Two groups of features lie on either side of their mean.
    assert telling_metrics == pytest.approx(
        {
            "foreground_AUC": 1.0,
            "class_accuracy": 1.0,
            "similarity_inside": 1.0,
            "similarity_background": 1.0,
            "similarity_across": -1.0,
            "contrast": 2.0,
        },
        abs=1e-3,
    )
    auc = found.metrics["empty"]["foreground_AUC"]
    assert auc.low < 0.5 < auc.high
    (pair,) = found.differences
    assert (pair.a, pair.b) == ("telling", "empty")
    assert pair.metrics["foreground_AUC"].difference == pytest.approx(auc.estimate - 1)
    assert pair.metrics["foreground_AUC"].p < 0.05
    assert found.notes == ()


def test_a_study_writes_tables_numbers_and_pictures(study, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "image_bytes", image_bytes)
    found = study(telling=write_set(tmp_path / "t.h5"))
    out = tmp_path / "out"
    pictures = ["probes.png", "probes.svg", "similarity.png", "similarity.svg"]
    assert names(out) == [*pictures, "study.json", "study.md"]
    written = json.loads((out / "study.json").read_bytes())
    assert written["metrics"]["telling"]["foreground_AUC"]["estimate"] == 1.0
    assert written["settings"] == {"l2": 0.001, "repetitions": 100, "level": 0.95, "seed": 0}
    text = (out / "study.md").read_text()
    assert "| telling | 100.00 | 100.00 to 100.00 | 100.00 | 100.00 to 100.00 |" in text
    assert "4 numbers a clip of 8 frames (1.00 s), every 8 frames (1.00 s)" in text
    assert "## Differences" not in text
    assert (out / "probes.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "similarity.svg").read_bytes()
    assert [table.heading for table in study_tables(found)] == ["Linear probes", "Similarity of neighbouring clips"]


def test_the_same_study_gives_the_same_bytes(study, tmp_path):
    path = write_set(tmp_path / "e.h5", empty)
    study("one", empty=path)
    study("two", empty=path)
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_numbers_go_to_another_file_as_well(dataset, tmp_path):
    path = write_set(tmp_path / "t.h5")
    study_features({"a": [path]}, dataset, tmp_path / "out", json_out=tmp_path / "n.json", report=silent)
    assert (tmp_path / "n.json").read_bytes() == (tmp_path / "out" / "study.json").read_bytes()


def test_progress_counts_videos_and_resamples(dataset, tmp_path):
    told = []
    sets = {"a": [write_set(tmp_path / "t.h5")], "b": [write_set(tmp_path / "e.h5", empty)]}
    study_features(sets, dataset, tmp_path / "out", report=lambda done, total: told.append((done, total)))
    total = 2 * 12 + 3 * 100  # of each set, and of both together
    assert told == [(done, total) for done in range(1, total + 1)]


def test_several_files_are_one_set(study, tmp_path):
    halves = [write_set(tmp_path / "1.h5", empty, VIDEOS[:6]), write_set(tmp_path / "2.h5", empty, VIDEOS[6:])]
    assert study(a=halves).metrics == study(a=write_set(tmp_path / "all.h5", empty)).metrics


def test_videos_that_a_set_lacks_are_left_out_of_all(study, tmp_path):
    found = study(a=write_set(tmp_path / "1.h5"), b=write_set(tmp_path / "2.h5", empty, VIDEOS[:-1]))
    assert found.counts["validation_videos"] == 5
    assert found.notes == ("1 of 6 validation videos are left out, because not every set has features of them.",)


def test_one_class_has_no_accuracy(study, tmp_path):
    one = write_dataset(tmp_path / "one", labels=("run",))
    found = study(of=one, a=write_set(tmp_path / "t.h5"), b=write_set(tmp_path / "e.h5", empty))
    assert "class_accuracy" not in found.metrics["a"]
    assert math.isnan(found.most_frequent_class)
    assert found.notes == ("The set has one class, run: there is no accuracy of classes.",)
    assert "class accuracy" not in study_markdown(found, [])


def test_ignored_segments_are_no_action(study, tmp_path):
    ambiguous = {"segment": [0.0, 10.0], "label": "Ambiguous"}
    of = write_dataset(tmp_path / "thumos", extra=[ambiguous], protocol="thumos14")
    found = study(of=of, a=write_set(tmp_path / "t.h5"))
    assert (found.counts["foreground_clips"], found.counts["classes"]) == (24, 2)


def test_many_training_clips_are_drawn_from(study, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "TRAINING_CLIPS", 30)
    found = study(a=write_set(tmp_path / "t.h5"))
    assert (found.counts["training_clips"], found.counts["fitted_clips"]) == (60, 30)
    assert found.notes == ("a: probes are fitted on 30 of 60 training clips, drawn at random.",)
    assert found.metrics["a"]["foreground_AUC"].estimate == 1.0
    assert found.metrics["a"]["class_accuracy"].estimate == 1.0


def test_rows_without_attributes_cover_their_video_evenly(study, tmp_path):
    write_entries(tmp_path / "t.h5", ((name, telling(int(name[1:])), {}) for name in VIDEOS), {})
    found = study(a=tmp_path / "t.h5")
    assert found.metrics["a"]["foreground_AUC"].estimate == 1.0
    assert "does not say which clips" in found.clips["a"]


def test_clips_that_overlap_or_differ_are_told(study, tmp_path):
    wide = RowMeaning("tiny", "", 16, 8, 8.0, 4, "fp32")
    found = study(a=write_set(tmp_path / "a.h5"), b=write_set(tmp_path / "b.h5", meaning=wide))
    assert found.notes[0] == "Neighbouring clips overlap, which makes them alike: b."
    assert "different lengths or strides" in found.notes[1]


def test_names_do_not_break_tables_or_pictures(study, tmp_path):
    found = study(**{"a|b$<i>$_{": write_set(tmp_path / "t.h5")})
    assert "| a\\|b$&lt;i>$_{ | 100.00 |" in study_markdown(found, [])


def test_without_a_video_in_common_nothing_is_studied(study, tmp_path):
    with one_sentence("annotations.json", "6 validation videos", "v6"):
        study(a=write_set(tmp_path / "t.h5", telling, VIDEOS[:6]))


@pytest.mark.parametrize(("segment", "inside"), [([0.0, 10.0], 60), ([20.0, 30.0], 0)])
def test_both_foreground_and_background_are_needed(study, tmp_path, segment, inside):
    of = write_dataset(tmp_path / "all", segment)
    with one_sentence("t.h5", f"found {inside} of 60 inside"):
        study(of=of, a=write_set(tmp_path / "t.h5"))
