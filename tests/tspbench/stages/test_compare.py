import json
import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

import evaluation
from evaluation import METRICS, Metric
from evaluation.segments import Floats
from evaluation.significance import Difference, paired_bootstrap
from tests.tspbench.helpers import one_sentence
from tspbench.errors import UserError
from tspbench.stages.compare import Comparison, compare, verdict
from tspbench.stages.score import read_scored, read_target
from tspbench.storage.statistics import write_statistics

VIDEOS = [f"v{number:02d}" for number in range(30)]


def predictions(path, hits, unknown=False):
    """Write a file that finds the segments of the videos in ``hits`` and misses the others."""
    results = {
        name: [{"label": "run", "score": 0.9 if name in hits else 0.1, "segment": [0, 8 if name in hits else 1]}]
        for name in VIDEOS
    }
    if unknown:
        results["elsewhere"] = [{"label": "run", "score": 0.05, "segment": [0, 8]}]
    path.write_text(json.dumps({"results": results}))
    return path


@pytest.fixture
def truth(tmp_path):
    database = {name: {"subset": "val", "annotations": [{"segment": [0, 8], "label": "run"}]} for name in VIDEOS}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    return tmp_path / "truth.json"


@pytest.fixture
def files(tmp_path):
    """Write systems that find 10, 10 others, and 28 of 30 videos."""
    return [
        predictions(tmp_path / "a.json", VIDEOS[:10]),
        predictions(tmp_path / "b.json", VIDEOS[5:15]),
        predictions(tmp_path / "c.json", VIDEOS[:28]),
    ]


def compared(a, b, truth, task="tal", **options):
    return compare(task, a, b, [truth], "val", "thumos14", **{"repetitions": 199, **options})


def test_a_comparison_by_hand(files, truth, tmp_path):
    # Hits come before misses, so that the average precision is the share of videos that are found.
    found = compared([files[0]], [files[2]], truth, json_out=tmp_path / "out" / "c.json")
    difference = found.metrics["average_mAP"]
    assert (difference.a, difference.b) == (pytest.approx(10 / 30), pytest.approx(28 / 30))
    assert difference.difference == pytest.approx(18 / 30)
    # No resample misses 18 / 30 by as much again.
    assert difference.p == 1 / 200
    assert 0.35 < difference.low < 0.5 < 0.7 < difference.high < 0.85
    assert list(found.metrics) == ["mAP@0.30", "mAP@0.40", "mAP@0.50", "mAP@0.60", "mAP@0.70", "average_mAP"]
    written = json.loads((tmp_path / "out" / "c.json").read_bytes())
    assert written == {
        "task": "tal",
        "a": [str(files[0])],
        "b": [str(files[2])],
        "metrics": {
            name: {
                "a": one.a,
                "b": one.b,
                "difference": one.difference,
                "low": one.low,
                "high": one.high,
                "p": one.p,
                "undefined": 0,
            }
            for name, one in found.metrics.items()
        },
        "failed": {},
        "videos": 30,
        "repetitions": 199,
        "level": 0.95,
        "seed": 0,
        "signature": read_scored(read_target("tal", [truth], "val", "thumos14"), files[0]).signature,
    }


@pytest.mark.parametrize("task", ["tal", "proposals"])
def test_files_and_memory_agree(files, truth, task):
    target = read_target(task, [truth], "val", "thumos14")
    a, b, c = (read_scored(target, path).statistics for path in files)
    expected = paired_bootstrap(METRICS[task].score, [a], [b, c], np.random.default_rng(5), 60, 0.9)
    found = compared(files[:1], files[1:], truth, task, repetitions=60, level=0.9, seed=5)
    assert found.metrics == expected
    assert (found.videos, found.repetitions, found.level, found.seed) == (30, 60, 0.9, 5)


def test_a_file_does_not_differ_from_itself(files, truth):
    found = compared(files[:1], files[:1], truth)
    value = found.metrics["mAP@0.50"].a
    assert found.metrics["mAP@0.50"] == Difference(value, value, 0, 0, 0, 1, 0)
    assert verdict(found, "mAP@0.50").startswith("A and B have the same mAP@0.50 on every resample of the videos. ")


def test_a_thousand_resamples_are_the_rule(files, truth):
    calls = []
    found = compare("tal", files[:1], files[1:2], [truth], "val", "thumos14", report=lambda *call: calls.append(call))
    assert (found.repetitions, found.seed, found.level) == (1000, 0, 0.95)
    assert (len(calls), calls[-1]) == (1000, (1000, 1000))


def stored(path, source, truth, protocol="thumos14", task="tal"):
    """Write the statistics of a prediction file as a run keeps them."""
    scored = read_scored(read_target(task, [truth], "val", protocol), source)
    write_statistics(path, scored.statistics, scored.signature)
    return path


def test_statistics_stand_for_predictions(files, truth, tmp_path):
    kept = [stored(tmp_path / f"{path.stem}.npz", path, truth) for path in files]
    expected = compared(files[:1], files[1:], truth)
    alone = compare("tal", kept[:1], kept[1:], repetitions=199)
    assert (alone.metrics, alone.signature) == (expected.metrics, expected.signature)
    assert compared(kept[:1], [kept[1], files[2]], truth).metrics == expected.metrics


def test_files_that_were_not_scored_alike_are_refused(files, truth, tmp_path):
    other = stored(tmp_path / "other.npz", files[1], truth, "activitynet")
    with one_sentence(files[0], "(mAP|protocol:thumos14|", other, "(mAP|protocol:activitynet|", "not scored alike"):
        compared(files[:1], [other], truth)
    with one_sentence("not scored alike"):
        compared([files[0], other], files[1:2], truth)


def test_statistics_of_another_task_are_refused(files, truth, tmp_path):
    other = stored(tmp_path / "other.npz", files[1], truth, task="proposals")
    with one_sentence(other, "expected statistics of the task tal, found proposals; give --task proposals."):
        compared(files[:1], [other], truth)


def test_predictions_need_a_ground_truth(files):
    with one_sentence(files[0], "expected a ground truth to score it against, found none; give --ground-truth"):
        compare("tal", files[:1], files[1:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "tall"}, "'tall' is not a known task (did you mean 'tal'?)"),
        ({"repetitions": 10}, "repetitions must be at least 39 for a level of 0.95, received 10."),
        ({"level": 95.0}, "level must lie within (0, 1), received 95.0."),
    ],
)
def test_settings_that_do_not_fit(files, truth, options, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        compared(files[:1], files[1:2], truth, **options)


def test_unknown_videos_of_one_file(files, truth, tmp_path):
    stranger = predictions(tmp_path / "stranger.json", VIDEOS[5:15], unknown=True)
    with one_sentence(stranger, "video 'elsewhere'", "--unknown-videos"):
        compared(files[:1], [stranger], truth)
    found = compared(files[:1], [stranger], truth, unknown="drop")
    assert found.metrics == compared(files[:1], files[1:2], truth).metrics
    assert found.signature.endswith("|unknown-videos:dropped")


@dataclass(frozen=True)
class HalfFailed:
    """Statistics of two metrics, one of which could not be computed."""

    videos: tuple[str, ...]
    values: Floats
    problems: dict[str, str]


@dataclass(frozen=True)
class HalfResult:
    value: float

    def metrics(self):
        return {"METEOR": float("nan"), "ROUGE_L": self.value}


def test_a_metric_that_failed_is_left_out_and_said(tmp_path, monkeypatch):
    def statistics(truth, predictions, protocol) -> HalfFailed:
        raise NotImplementedError

    def score(statistics, weights=None):
        return HalfResult(float(np.average(statistics.values, weights=weights)))

    monkeypatch.setitem(evaluation.METRICS, "half", Metric("half", statistics, score))
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, problems in zip(paths, ({}, {"METEOR": "no Java"}), strict=True):
        write_statistics(path, HalfFailed(("a", "b"), np.array([0.25, 0.75]), problems), "half")
    found = compare("half", paths[:1], paths[1:], repetitions=99)
    assert found.failed == {"METEOR": "no Java"}
    assert found.metrics == {"ROUGE_L": Difference(0.5, 0.5, 0, 0, 0, 1, 0)}


NAN = float("nan")
CLAUSE = "The 1,234 videos were resampled; with one seed each, this says nothing about chance in training."


def said(difference, **changes):
    whole = Comparison(
        task="tal",
        a=("a.json",),
        b=("b.json",),
        metrics={"AUC": difference},
        failed={},
        videos=1234,
        repetitions=1000,
        level=0.95,
        seed=0,
        signature="",
    )
    return verdict(replace(whole, **changes), "AUC")


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            Difference(0.3, 0.3123, 0.0123, 0.008, 0.017, 1 / 1001, 0),
            "B is better in AUC by 1.23 points (95 % interval 0.80 to 1.70, p = 0.001).",
        ),
        (
            Difference(0.3123, 0.3, -0.0123, -0.017, -0.008, 0.05, 0),
            "A is better in AUC by 1.23 points (95 % interval 0.80 to 1.70, p = 0.050).",
        ),
        (
            Difference(0.3, 0.31, 0.01, 0.005, 0.015, 1 / 10001, 0),
            "B is better in AUC by 1.00 points (95 % interval 0.50 to 1.50, p < 0.001).",
        ),
        (
            Difference(0.31, 0.3, -0.01, -0.03, 0.01, 0.3, 0),
            "No difference in AUC is shown: B - A is -1.00 points (95 % interval -3.00 to 1.00, p = 0.300).",
        ),
        # The interval and p need not agree; a difference is shown if both show it.
        (
            Difference(0.3, 0.31, 0.01, -0.001, 0.021, 0.04, 0),
            "No difference in AUC is shown: B - A is 1.00 points (95 % interval -0.10 to 2.10, p = 0.040).",
        ),
        (
            Difference(0.3, 0.31, 0.01, 0.001, 0.021, 0.06, 0),
            "No difference in AUC is shown: B - A is 1.00 points (95 % interval 0.10 to 2.10, p = 0.060).",
        ),
        # Equal scores that are not equal on every resample.
        (
            Difference(0.3, 0.3, 0.0, -0.01, 0.01, 1.0, 0),
            "No difference in AUC is shown: B - A is 0 points (95 % interval -1.00 to 1.00, p = 1.000).",
        ),
        (Difference(0.3, 0.3, 0.0, 0.0, 0.0, 1.0, 0), "A and B have the same AUC on every resample of the videos."),
        # What is small is not said to be 0.
        (
            Difference(0.3, 0.30002, 0.00002, 0.00001, 0.00003, 0.001, 0),
            "B is better in AUC by 0.002 points (95 % interval 0.001 to 0.003, p = 0.001).",
        ),
        (Difference(NAN, NAN, NAN, NAN, NAN, NAN, 0), "Nothing is shown about AUC: it has no value for A and B."),
        (Difference(0.3, NAN, NAN, NAN, NAN, NAN, 0), "Nothing is shown about AUC: it has no value for B."),
        (
            Difference(0.3, 0.3, 0.0, NAN, NAN, NAN, 980),
            "Nothing is shown about AUC: it has no value on 980 resamples of the videos.",
        ),
    ],
)
def test_a_verdict_with_one_seed_each(difference, sentence):
    assert said(difference) == f"{sentence} {CLAUSE}"


@pytest.mark.parametrize(
    ("a", "b", "clause"),
    [
        (
            ("1", "2", "3"),
            ("1", "2"),
            "The 1,234 videos were resampled; chance in training is that between the seeds, 3 of A and 2 of B.",
        ),
        (
            ("1",),
            ("1", "2"),
            "The 1,234 videos were resampled; chance in training is that between the 2 seeds of B, taken to be the "
            "same for A.",
        ),
        (
            ("1", "2"),
            ("1",),
            "The 1,234 videos were resampled; chance in training is that between the 2 seeds of A, taken to be the "
            "same for B.",
        ),
    ],
)
def test_a_verdict_with_several_seeds(a, b, clause):
    sentence = said(Difference(0.3, 0.3123, 0.0123, 0.008, 0.017, 1 / 1001, 0), a=a, b=b)
    assert sentence == f"B is better in AUC by 1.23 points (95 % interval 0.80 to 1.70, p = 0.001). {clause}"


def test_a_verdict_by_another_level():
    difference = Difference(0.3, 0.3123, 0.0123, 0.008, 0.017, 0.02, 0)
    assert said(difference, level=0.9).startswith("B is better in AUC by 1.23 points (90 % interval 0.80 to 1.70, ")
    assert said(difference, level=0.99).startswith("No difference in AUC is shown: ")


def test_one_video_shows_nothing():
    difference = Difference(0.0, 0.5, 0.5, math.nan, math.nan, 1.0, 0)
    comparison = Comparison("tal", ("a",), ("b",), {"mAP": difference}, {}, 1, 1000, 0.95, 0, "s")
    assert verdict(comparison, "mAP").startswith("No difference in mAP is shown: one video says nothing about others. ")


def test_a_file_is_one_seed(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="expected each seed of a system once, found this file twice; remove one"):
        compare("tal", [path, path], [tmp_path / "b.json"], [path])
