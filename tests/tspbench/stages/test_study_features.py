"""A study of small feature files, whose numbers can be told by hand."""

import json
import math

import numpy as np
import pytest

from tests.tspbench.helpers import names, one_sentence, silent
from tspbench.datasets import open_dataset
from tspbench.plots import image_bytes
from tspbench.stages import study_features as stage
from tspbench.stages import study_set
from tspbench.stages.study_features import study_features
from tspbench.stages.study_tables import ClipCounts, study_markdown, study_tables
from tspbench.storage.features import RowMeaning, VideoFeatures, write_entries, write_features
from tspbench.storage.recipes import write_toml
from tspbench.study_verbs import study_feature_sets

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
    assert found.counts == {"training_videos": 6, "validation_videos": 6, "classes": 2}
    assert found.clip_counts == {name: ClipCounts(60, 60, 60, 24, 1 / 2) for name in ("telling", "empty")}
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
    total = 2 * 2 * 12 + 3 * 100  # of each set, checked and read, and of both together
    assert told == [(done, total) for done in range(1, total + 1)]


def test_several_files_are_one_set(study, tmp_path):
    halves = [write_set(tmp_path / "1.h5", empty, VIDEOS[:6]), write_set(tmp_path / "2.h5", empty, VIDEOS[6:])]
    assert study(a=halves).metrics == study(a=write_set(tmp_path / "all.h5", empty)).metrics


def test_videos_that_a_set_lacks_are_left_out_of_all(study, tmp_path):
    found = study(a=write_set(tmp_path / "1.h5"), b=write_set(tmp_path / "2.h5", empty, VIDEOS[:-1]))
    assert found.counts["validation_videos"] == 5
    assert found.notes[0] == "1 of 6 validation videos are left out, because not every set has features of them."


def test_one_class_has_no_accuracy(study, tmp_path):
    one = write_dataset(tmp_path / "one", labels=("run",))
    found = study(of=one, a=write_set(tmp_path / "t.h5"), b=write_set(tmp_path / "e.h5", empty))
    assert "class_accuracy" not in found.metrics["a"]
    assert math.isnan(found.clip_counts["a"].most_frequent_class)
    assert found.notes == ("The set has one class, run: there is no accuracy of classes.",)
    assert "class accuracy" not in study_markdown(found, [])


def test_ignored_segments_are_no_action(study, tmp_path):
    ambiguous = {"segment": [0.0, 10.0], "label": "Ambiguous"}
    of = write_dataset(tmp_path / "thumos", extra=[ambiguous], protocol="thumos14")
    found = study(of=of, a=write_set(tmp_path / "t.h5"))
    assert (found.clip_counts["a"].foreground, found.counts["classes"]) == (24, 2)


def test_many_training_clips_are_drawn_from(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_set, "TRAINING_CLIPS", 30)
    found = study(a=write_set(tmp_path / "t.h5"))
    assert (found.clip_counts["a"].training, found.clip_counts["a"].fitted) == (60, 30)
    assert found.notes == ("a: probes are fitted on 30 of 60 training clips, drawn at random.",)
    assert found.metrics["a"]["foreground_AUC"].estimate == 1.0
    assert found.metrics["a"]["class_accuracy"].estimate == 1.0


def test_rows_without_attributes_cover_their_video_evenly(study, tmp_path):
    write_entries(tmp_path / "t.h5", ((name, telling(int(name[1:])), {}) for name in VIDEOS), {})
    found = study(a=tmp_path / "t.h5")
    assert found.metrics["a"]["foreground_AUC"].estimate == 1.0
    assert "does not say which clips" in found.clips["a"]


def bare(path, rows=telling, videos=VIDEOS, attributes=None):
    """Write a set that does not say which clips its rows are, unless ``attributes`` do."""
    write_entries(path, ((name, rows(int(name[1:])), {}) for name in videos), attributes or {})
    return path


def compared(found):
    """Return pair → whether its similarities have differences; the probes always have."""
    pairs = {f"{pair.a}{pair.b}": set(pair.metrics) for pair in found.differences}
    assert all({"foreground_AUC", "class_accuracy"} <= metrics for metrics in pairs.values())
    return {pair: {"contrast", "similarity_inside"} <= metrics for pair, metrics in pairs.items()}


def test_clips_that_overlap_or_differ_are_told(study, tmp_path):
    wide = RowMeaning("tiny", "", 16, 8, 8.0, 4, "fp32")
    found = study(a=write_set(tmp_path / "a.h5"), b=write_set(tmp_path / "b.h5", meaning=wide))
    assert found.notes[0] == "Neighbouring clips overlap, which makes them alike: b."
    assert "a: 60 clips in the validation videos, each of 1.00 s, every 1.00 s; b: 60 clips" in found.notes[1]
    assert compared(found) == {"ab": False}


def test_clips_are_the_same_in_seconds_whatever_the_frame_rate(study, tmp_path):
    twice = RowMeaning("tiny", "", 16, 16, 16.0, 4, "fp32")
    found = study(a=write_set(tmp_path / "a.h5"), b=write_set(tmp_path / "b.h5", meaning=twice))
    assert found.notes == ()
    assert compared(found) == {"ab": True}


def test_another_distance_of_clips_is_told_without_attributes(study, tmp_path):
    found = study(
        a=bare(tmp_path / "a.h5"),
        b=bare(tmp_path / "b.h5", empty),
        c=bare(tmp_path / "c.h5", lambda k: telling(k)[::2]),
    )
    assert compared(found) == {"ab": True, "ac": False, "bc": False}
    (note,) = found.notes
    assert "a: 60 clips in the validation videos; b: 60 clips in the validation videos; c: 30 clips" in note
    assert "similarities and the contrast of such sets cannot be compared" in note
    probes, similarities, differences = study_tables(found)
    assert "The contrast is left out of pairs whose clips differ in length or distance" in differences.sentence
    assert [row[1:3] for row in differences.rows if row[0] == "contrast"] == [["a", "b"]]
    # Each set has its own clips, and its own share of the most frequent class.
    assert (found.clip_counts["b"].validation, found.clip_counts["c"].validation) == (60, 30)
    assert "counted on 30 validation clips, 12 of them foreground" in study_markdown(found, [])
    assert "the most frequent class 50.0 % of foreground clips." in probes.sentence
    assert len(similarities.rows) == 3


def test_chance_is_told_of_each_set_that_differs_in_it(study, tmp_path):
    def uneven(k):
        return telling(k) if k % 2 else np.repeat(telling(k), 2, axis=0)

    found = study(a=bare(tmp_path / "a.h5"), b=bare(tmp_path / "b.h5", uneven))
    sentence = study_tables(found)[0].sentence
    assert sentence.endswith("the most frequent class 50.0 % (a), 66.7 % (b) of foreground clips.")


@pytest.mark.parametrize(("step", "told"), [(1, False), (2, True)])
def test_the_picture_says_where_similarities_cannot_be_compared(study, tmp_path, monkeypatch, step, told):
    footnotes = []
    monkeypatch.setattr(stage, "probes_figure", lambda _metrics, footnote: footnotes.append(footnote))
    study(a=bare(tmp_path / "a.h5"), b=bare(tmp_path / "b.h5", lambda k: telling(k)[::step]))
    assert footnotes[0].startswith("95 % intervals over 6 validation videos of small")
    assert ("similarities cannot be compared" in footnotes[0]) == told


def test_what_rounds_to_zero_has_no_sign(study, tmp_path):
    path = write_set(tmp_path / "e.h5", empty)
    found = study(a=path, b=bare(tmp_path / "b.h5", lambda k: np.concatenate([empty(k)] * 2, axis=1)))
    rows = study_tables(found)[2].rows
    assert [row[3:] for row in rows] == [["0.00", "0.00 to 0.00", "1.000"]] * 2 + [["0.000", "0.000 to 0.000", "1.000"]]


def test_a_set_with_a_few_clips_more_can_be_compared(study, tmp_path):
    longer = bare(tmp_path / "b.h5", lambda k: np.concatenate([telling(k), telling(k)[:1]]) if k == 7 else telling(k))
    found = study(a=bare(tmp_path / "a.h5"), b=longer)
    assert compared(found) == {"ab": True}
    assert found.notes == ()


def test_files_of_one_set_have_the_same_clips(study, tmp_path):
    nearer = RowMeaning("tiny", "", 8, 4, 8.0, 4, "fp32")
    halves = [
        write_set(tmp_path / "1.h5", empty, VIDEOS[:6]),
        write_set(tmp_path / "2.h5", empty, VIDEOS[6:], nearer),
    ]
    with one_sentence("2.h5", "1.h5", "every 8 frames (1.00 s)", "every 4 frames (0.50 s)"):
        study(a=halves)


def test_attributes_that_do_not_fit_the_rows_are_found(study, tmp_path):
    nearer = RowMeaning("tiny", "", 8, 4, 8.0, 4, "fp32")
    with one_sentence("t.h5", "v0", "about 19 rows", "found 10"):
        study(a=write_set(tmp_path / "t.h5", meaning=nearer))


@pytest.mark.parametrize("which", ["out", "json"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(dataset, tmp_path, which):
    (tmp_path / "taken").write_text("")
    out, json_out = tmp_path / "out", tmp_path / "n.json"
    if which == "out":
        out = tmp_path / "taken" / "out"
    else:
        json_out = tmp_path / "taken" / "n.json"
    told = []
    with one_sentence("taken", "cannot be written"):
        study_features(
            {"a": [write_set(tmp_path / "t.h5")]},
            dataset,
            out,
            json_out=json_out,
            report=lambda *done: told.append(done),
        )
    assert told == []


def test_what_is_there_stays_until_a_study_is_finished(study, tmp_path):
    path = write_set(tmp_path / "t.h5")
    study(a=path)
    before = (tmp_path / "out" / "study.md").read_bytes()
    with one_sentence("holds NaN"):
        study(a=bare(tmp_path / "n.h5", lambda k: telling(k) * (math.nan if k == 9 else 1)))
    assert (tmp_path / "out" / "study.md").read_bytes() == before
    assert not [name for name in names(tmp_path / "out") if "part" in name]


def test_the_same_features_do_not_differ(study, tmp_path):
    path = write_set(tmp_path / "e.h5", empty)
    (pair,) = study(a=path, b=path).differences
    for found in pair.metrics.values():
        assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_validation_video_has_no_interval(study, tmp_path):
    found = study(a=write_set(tmp_path / "1.h5", videos=VIDEOS[:7]), b=write_set(tmp_path / "2.h5", empty))
    assert all(math.isnan(each.low) for each in found.metrics["b"].values())
    assert all(each.p == 1 and math.isnan(each.low) for each in found.differences[0].metrics.values())
    assert "a, b: few validation videos have what is counted (foreground AUC: 1" in found.notes[-1]
    assert "on clips of 1 validation video." in study_markdown(found, [])


def test_few_videos_show_no_difference(study, tmp_path):
    found = study(a=write_set(tmp_path / "1.h5", videos=VIDEOS[:9]), b=write_set(tmp_path / "2.h5", empty))
    assert found.differences[0].metrics["contrast"].p == 2**-2
    assert "foreground AUC: 3," in found.notes[-1]


def test_the_command_names_the_pictures_that_there_are(tmp_path, capsys):
    of = annotated(tmp_path / "whole", lambda k: [(0.0, 10.0, "run")] if k % 2 else [])
    study_feature_sets(
        [f"a={write_set(tmp_path / 't.h5')}"], str(of.annotations.parent), tmp_path / "out", seed=0, json_out=None
    )
    told = capsys.readouterr().err
    assert "probes.png" in told
    assert "similarity.png" not in told


def annotated(folder, annotation, protocol="activitynet"):
    """Write a data set in which video k has the (start, end, label) of ``annotation(k)``."""
    of = write_dataset(folder, protocol=protocol)
    content = json.loads((folder / "annotations.json").read_text())
    for k, name in enumerate(VIDEOS):
        found = [{"segment": [start, end], "label": label} for start, end, label in annotation(k)]
        content["database"][name]["annotations"] = found
    (folder / "annotations.json").write_text(json.dumps(content))
    return of


def test_one_video_with_actions_is_one_video_whatever_lies_beside_it(study, tmp_path):
    of = annotated(tmp_path / "one", lambda k: [(3.0, 7.0, "run")] if k < 6 or k == 8 else [])
    found = study(of=of, a=write_set(tmp_path / "a.h5", empty), b=write_set(tmp_path / "b.h5"))
    assert math.isnan(found.metrics["a"]["foreground_AUC"].low)
    assert math.isnan(found.metrics["a"]["contrast"].low)
    assert not math.isnan(found.metrics["a"]["similarity_background"].low)
    (pair,) = found.differences
    assert (pair.metrics["foreground_AUC"].p, pair.metrics["contrast"].p) == (1.0, 1.0)
    few, lacking = found.notes[1:]
    assert "foreground AUC: 1, similarity in an action: 1, similarity across a boundary: 1, contrast: 1)" in few
    assert "those are left out of an interval that hold nothing to count (foreground AUC: " in lacking


def test_what_is_nowhere_has_no_value(study, tmp_path):
    of = annotated(tmp_path / "whole", lambda k: [(0.0, 10.0, "run")] if k % 2 else [])
    found = study(of=of, a=write_set(tmp_path / "a.h5", empty))
    assert math.isnan(found.metrics["a"]["contrast"].estimate)
    assert "a: no value where there is nothing to count (similarity across a boundary, contrast)." in found.notes
    # Nothing begins or ends in any video: there is nothing to picture, and the picture of another study goes.
    (tmp_path / "out" / "similarity.png").write_bytes(b"old")
    study(of=of, a=tmp_path / "a.h5")
    assert [name for name in names(tmp_path / "out") if "similarity" in name] == []


def test_features_that_are_all_the_same_tell_nothing(study, tmp_path):
    found = study(a=bare(tmp_path / "c.h5", lambda _k: np.full((SECONDS, 4), 0.1, dtype=np.float32))).metrics["a"]
    assert (found["foreground_AUC"].estimate, found["class_accuracy"].estimate) == (0.5, 0.5)
    assert math.isnan(found["similarity_inside"].estimate)


def test_a_class_without_a_training_clip_is_told(study, tmp_path):
    of = annotated(tmp_path / "late", lambda k: [(3.0, 7.0, "late" if k == 8 else ("even", "odd")[k % 2])])
    found = study(of=of, a=write_set(tmp_path / "t.h5"))
    assert found.metrics["a"]["class_accuracy"].estimate == 20 / 24
    (note,) = found.notes
    assert note == "a: the probe of classes is fitted on no clip of 1 of 3 classes (first: late), and cannot tell them."


def test_a_subset_with_ignored_segments_alone_is_none(study, tmp_path):
    of = annotated(tmp_path / "none", lambda k: [(3.0, 7.0, "Ambiguous" if k < 6 else "run")], "thumos14")
    with one_sentence("annotations.json", "something else than 'Ambiguous'", "6 training videos", "v0"):
        study(of=of, a=write_set(tmp_path / "t.h5"))


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (lambda k: telling(k)[: 0 if k == 7 else SECONDS], ("v7", "T of at least 1", "(0, 4)")),
        (lambda k: telling(k)[:, :0], ("t.h5", "D of at least 1")),
        (lambda k: telling(k)[:, 0], ("v0", "(10,)")),
        (lambda k: telling(k)[:, : 3 if k == 8 else 4], ("v8", "(10, 3)")),
    ],
)
def test_rows_of_another_shape_are_found(study, tmp_path, rows, parts):
    with one_sentence(*parts):
        study(a=bare(tmp_path / "t.h5", rows))


def test_long_videos_are_pictured_with_fewer_clips(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_set, "PICTURED_CLIPS", 4)
    seen = []
    monkeypatch.setattr(stage, "similarity_figure", lambda _names, videos, _footnote: seen.extend(videos))
    study(a=write_set(tmp_path / "t.h5"))
    assert [video.matrices[0].shape for video in seen] == [(4, 4)] * 4
    assert [video.spans_seconds[0] for video in seen] == [(0.0, 12.0)] * 4


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
