import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, DetectionProtocol, VideoSet, detection
from tests.evaluation import oracle
from tests.evaluation.helpers import predicted, truth

HALF = DetectionProtocol(name="half", thresholds=(0.5,), source="these tests")
THUMOS14 = DETECTION_PROTOCOLS["thumos14"]
VIDEOS, LABELS = ("a", "b", "c"), ("jump", "run")

# Few distinct values, so that equal scores, equal overlaps and equal segments are common.
TIMES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (min(pair) / 4, max(pair) / 4))
TRUTHS = st.lists(st.builds(lambda v, c, t: (v, c, *t), st.sampled_from(VIDEOS), st.sampled_from(LABELS), TIMES))
SCORES = st.integers(0, 3).map(lambda score: score / 4)
DETECTIONS = st.lists(
    st.builds(
        lambda v, c, t, s: (v, c, *t, s), st.sampled_from((*VIDEOS, "outside")), st.sampled_from(LABELS), TIMES, SCORES
    ),
    max_size=12,
)
quick = settings(max_examples=60, deadline=None)


def evaluate(truth_rows, prediction_rows, protocol=HALF, weights=None, **names):
    ground_truth = truth(truth_rows, videos=names.get("videos", VIDEOS), labels=names.get("labels", LABELS))
    return detection.score(detection.statistics(ground_truth, predicted(prediction_rows), protocol), weights)


def average_precision(truth_times, detections):
    """Return the AP at 0.5 of one class of one video; a detection is (start, end), the surest first."""
    rows = [("a", "run", *times, -rank) for rank, times in enumerate(detections)]
    result = evaluate([("a", "run", *times) for times in truth_times], rows, labels=("run",))
    return result.average_precision[0, 0]


HIT_1, HIT_2, MISS = (0, 1), (5, 6), (8, 9)


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([HIT_1, HIT_2], Fraction(1)),
        ([HIT_1, HIT_2, MISS], Fraction(1)),
        ([HIT_1, MISS, HIT_2], Fraction(1, 2) * 1 + Fraction(1, 2) * Fraction(2, 3)),
        # The precision at the first hit is 1/2, and 2/3 is reached beyond it.
        ([MISS, HIT_1, HIT_2], Fraction(2, 3)),
        ([MISS, HIT_1], Fraction(1, 2) * Fraction(1, 2)),
        # A segment found a second time is a false positive.
        ([HIT_1, HIT_1, HIT_2], Fraction(1, 2) * 1 + Fraction(1, 2) * Fraction(2, 3)),
        ([MISS], Fraction(0)),
        ([], Fraction(0)),
    ],
)
def test_average_precision_by_hand(detections, expected):
    assert average_precision([HIT_1, HIT_2], detections) == pytest.approx(float(expected), abs=1e-15)


def test_means_by_hand():
    # Class "run" is found from 0.3 to 0.5 (IoU 1/2), class "jump" at every threshold.
    result = evaluate(
        [("a", "run", 0, 10), ("b", "jump", 0, 10)],
        [("a", "run", 0, 5, 0.9), ("b", "jump", 0, 10, 0.1)],
        THUMOS14,
    )
    assert result.average_precision.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert result.mean_average_precision.tolist() == [1, 1, 1, 0.5, 0.5]
    assert result.average_map == pytest.approx(float(Fraction(4, 5)), abs=1e-15)
    assert result.metrics() == {
        "mAP@0.30": 1,
        "mAP@0.40": 1,
        "mAP@0.50": 1,
        "mAP@0.60": 0.5,
        "mAP@0.70": 0.5,
        "average_mAP": result.average_map,
    }


def test_a_prediction_outside_the_subset_is_a_false_positive():
    rows = [("elsewhere", "run", 0, 1, 0.9), ("a", "run", 0, 1, 0.5)]
    ground_truth = truth([("a", "run", 0, 1)])
    statistics = detection.statistics(ground_truth, predicted(rows), HALF)
    assert statistics.video.tolist() == [detection.OUTSIDE, 0]
    assert detection.score(statistics).average_map == 0.5
    # It is no video of the subset, so it is not resampled either: 2 true of 3.
    assert detection.score(statistics, np.array([2])).average_map == pytest.approx(2 / 3, abs=1e-15)


def test_a_prediction_in_a_video_without_a_segment_is_a_false_positive():
    assert evaluate([("a", "run", 0, 1)], [("b", "run", 0, 1, 0.9), ("a", "run", 0, 1, 0.5)]).average_map == 0.5


def test_a_class_without_predictions_counts_zero():
    result = evaluate([("a", "run", 0, 1), ("a", "jump", 0, 1)], [("a", "run", 0, 1, 0.5)])
    assert result.average_precision.tolist() == [[0.0], [1.0]]
    assert result.average_map == 0.5
    assert result.undefined_labels == ()


def test_a_class_without_ground_truth_is_undefined_and_changes_nothing():
    result = evaluate([("a", "run", 0, 1)], [("a", "run", 0, 1, 0.5), ("a", "jump", 0, 1, 0.9)])
    assert math.isnan(result.average_precision[0, 0])
    assert result.average_map == 1.0
    assert result.undefined_labels == ("jump",)


def test_nothing_annotated_is_undefined():
    result = evaluate([], [("a", "run", 0, 1, 0.5)])
    assert math.isnan(result.average_map)
    assert np.isnan(result.mean_average_precision).all()
    assert result.undefined_labels == LABELS


def test_nothing_predicted_counts_zero():
    assert evaluate([("a", "run", 0, 1)], []).average_map == 0.0


def test_rows_are_sorted_and_know_which_prediction_they_are():
    rows = [("b", "run", 0, 1, 0.5), ("a", "jump", 0, 1, 0.1), ("a", "run", 0, 1, 0.5), ("a", "run", 0, 1, 0.7)]
    ground_truth = truth([("a", "run", 0, 1)], videos=VIDEOS, labels=LABELS)
    statistics = detection.statistics(ground_truth, predicted(rows), HALF)
    assert statistics.prediction.tolist() == [1, 3, 2, 0]
    assert statistics.label.tolist() == [0, 1, 1, 1]
    assert statistics.video.tolist() == [0, 0, 0, 1]
    assert statistics.true_positive.ravel().tolist() == [False, True, False, False]
    assert not statistics.forgiven.any()


def test_ignored_segments_and_excluded_videos_do_not_count():
    rules = replace(
        HALF, ignored_label="Ambiguous", video_set=VideoSet("without-b", "these tests", excluded=("b", "elsewhere"))
    )
    rows = [("a", "run", 0, 1), ("a", "Ambiguous", 5, 6), ("b", "run", 0, 1), ("c", "Ambiguous", 0, 1)]
    found = [("elsewhere", "run", 0, 1, 0.9), ("b", "run", 0, 1, 0.8), ("a", "run", 5, 6, 0.7), ("a", "run", 0, 1, 0.6)]
    ground_truth = truth(rows, videos=VIDEOS, labels=("run", "Ambiguous"))
    statistics = detection.statistics(ground_truth, predicted(found), rules)
    assert statistics.videos == ("a", "c")
    assert (statistics.ground_truth_video.tolist(), statistics.ground_truth_label.tolist()) == ([0], [0])
    # What is said of excluded videos is gone, and a detection on an ignored segment is wrong: 1 right of 2.
    assert statistics.video.tolist() == [0, 0]
    result = detection.score(statistics)
    assert result.average_map == 0.5
    # The ignored label is no class that lacks ground truth.
    assert result.undefined_labels == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", "", 0, 1, 0.5), "Detections need a label, received the class-agnostic label -1 in row 0."),
        (("a", "swim", 0, 1, 0.5), "Predictions have labels that the ground truth does not know: ['swim']."),
    ],
)
def test_a_prediction_needs_a_known_label(row, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate([("a", "run", 0, 1)], [row])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1, 1]), "video_weights must be integers of shape (3,), received int64 of shape (2,)."),
        (np.ones(3), "video_weights must be integers of shape (3,), received float64 of shape (3,)."),
        (np.array([1, -2, 0]), "video_weights must not be negative, received -2."),
    ],
)
def test_weights_are_multiplicities(weights, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate([("a", "run", 0, 1)], [], weights=weights)


@quick
@given(TRUTHS, DETECTIONS, st.tuples(*[st.integers(0, 3)] * 3))
def test_it_is_the_official_algorithm(truth_rows, prediction_rows, weights):
    result = evaluate(truth_rows, prediction_rows, THUMOS14, np.array(weights))
    expected = oracle.mean_average_precision(
        truth_rows, prediction_rows, THUMOS14.thresholds, dict(zip(VIDEOS, weights, strict=True))
    )
    np.testing.assert_allclose(result.mean_average_precision, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("protocol", ["thumos14", "thumos14-official"])
@settings(quick, max_examples=30)
@given(TRUTHS, DETECTIONS, st.randoms(use_true_random=False))
def test_order_changes_nothing_to_the_last_bit(protocol, truth_rows, prediction_rows, random):
    def shuffled(items):
        return random.sample(list(items), len(items))

    rules = DETECTION_PROTOCOLS[protocol]
    before = evaluate(truth_rows, prediction_rows, rules)
    for _ in range(10):
        labels = shuffled(LABELS)
        after = evaluate(shuffled(truth_rows), shuffled(prediction_rows), rules, videos=shuffled(VIDEOS), labels=labels)
        np.testing.assert_array_equal(
            after.average_precision, before.average_precision[[LABELS.index(label) for label in labels]]
        )
        np.testing.assert_array_equal([*after.metrics().values()], [*before.metrics().values()])


def test_the_order_of_many_classes_changes_nothing_to_the_last_bit():
    # One of n segments is found in class n: average precision 1/n, whose plain sum depends on the order.
    truth_rows = [("a", str(n), i, i + 1) for n in range(1, 20) for i in range(n)]
    prediction_rows = [("a", str(n), 0, 1, 0.5) for n in range(1, 20)]
    orders = [np.random.default_rng(seed).permutation(np.arange(1, 20)).astype(str).tolist() for seed in range(20)]
    scores = {evaluate(truth_rows, prediction_rows, labels=labels).average_map for labels in orders}
    assert len(scores) == 1
    assert scores.pop() == pytest.approx(float(sum(Fraction(1, n) for n in range(1, 20)) / 19), abs=1e-15)


@quick
@given(TRUTHS.filter(bool), st.data())
def test_perfect_predictions_score_one(truth_rows, data):
    scores = data.draw(st.lists(SCORES, min_size=len(truth_rows), max_size=len(truth_rows)))
    rows = [(*row, score) for row, score in zip(truth_rows, scores, strict=True)]
    assert set(evaluate(truth_rows, rows, DETECTION_PROTOCOLS["activitynet"]).metrics().values()) == {1.0}


@quick
@given(TRUTHS, DETECTIONS, st.integers(-20, 20))
def test_the_unit_of_time_changes_nothing(truth_rows, prediction_rows, power):
    def scaled(rows):
        return [(row[0], row[1], row[2] * 2.0**power, row[3] * 2.0**power, *row[4:]) for row in rows]

    before = evaluate(truth_rows, prediction_rows, THUMOS14)
    after = evaluate(scaled(truth_rows), scaled(prediction_rows), THUMOS14)
    np.testing.assert_array_equal(after.average_precision, before.average_precision)


@quick
@given(TRUTHS, DETECTIONS, st.tuples(*[st.integers(0, 3)] * 3), st.randoms(use_true_random=False))
def test_a_weight_is_a_number_of_copies(truth_rows, prediction_rows, weights, random):
    # Copies need names of their own here, which would break ties within a video in another way than one name does.
    scores = random.sample(range(100), len(prediction_rows))
    rows = [(*row[:4], score / 128) for row, score in zip(prediction_rows, scores, strict=True)]
    times = dict(zip(VIDEOS, weights, strict=True))

    def copied(rows):
        return [(f"{row[0]}{copy}", *row[1:]) for row in rows for copy in range(times.get(row[0], 1))]

    names = [f"{video}{copy}" for video in VIDEOS for copy in range(times[video])]
    weighted = evaluate(truth_rows, rows, THUMOS14, np.array(weights))
    repeated = evaluate(copied(truth_rows), copied(rows), THUMOS14, videos=names)
    np.testing.assert_allclose(weighted.average_precision, repeated.average_precision, rtol=0, atol=1e-12)
    assert weighted.undefined_labels == repeated.undefined_labels


def curve(truth_rows, prediction_rows, protocol=HALF, labels=LABELS):
    ground_truth = truth(truth_rows, videos=VIDEOS, labels=labels)
    return detection.precision_recall(detection.statistics(ground_truth, predicted(prediction_rows), protocol))


def test_a_precision_recall_curve_by_hand():
    # Two segments, of which the 1st and the 3rd detection find one: precision 1 up to recall 1/2, then 2/3.
    rows = [("a", "run", 0, 1, 0.9), ("a", "run", 8, 9, 0.8), ("a", "run", 5, 6, 0.7)]
    recall, precision = curve([("a", "run", 0, 1), ("a", "run", 5, 6)], rows, labels=("run",))
    assert recall.tolist() == [j / 100 for j in range(101)]
    assert precision.tolist() == [[1.0] * 51 + [2 / 3] * 50]
    # A class that nothing is said of has precision 0; one without ground truth changes nothing.
    _, mean = curve([("a", "run", 0, 1), ("a", "run", 5, 6), ("b", "jump", 0, 1)], rows, labels=(*LABELS, "swim"))
    assert mean[0] == pytest.approx(precision[0] / 2)
    # What is never reached has precision 0.
    _, half = curve([("a", "run", 0, 1), ("a", "run", 5, 6)], rows[:1], labels=("run",))
    assert half.tolist() == [[1.0] * 51 + [0.0] * 50]
    _, none = curve([], [])
    assert none.shape == (1, 101)
    assert np.isnan(none).all()


@quick
@given(TRUTHS, DETECTIONS)
def test_a_precision_recall_curve_falls_and_holds_the_eleven_points(truths, detections):
    eleven = replace(HALF, thresholds=(0.25, 0.5), interpolation="11-point")
    _, precision = curve(truths, detections, eleven)
    assert np.isnan(precision).all() or np.all(np.diff(precision, axis=1) <= 0)
    mean = evaluate(truths, detections, eleven).mean_average_precision
    assert precision[:, ::10].mean(axis=1) == pytest.approx(mean, nan_ok=True)
