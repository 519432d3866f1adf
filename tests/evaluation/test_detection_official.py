"""The rules of THUMOS Challenge 2014, and where they differ from the field's usual ones."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, detection
from tests.evaluation import oracle
from tests.evaluation.helpers import predicted, truth

OFFICIAL = replace(DETECTION_PROTOCOLS["thumos14-official"], thresholds=(0.5,))
USUAL = replace(DETECTION_PROTOCOLS["thumos14"], thresholds=(0.5,))
VIDEOS, LABELS = ("a", "b", "c"), ("jump", "run", "Ambiguous")

# Few distinct values, so that equal scores, equal overlaps and equal segments are common.
TIMES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (min(pair) / 4, max(pair) / 4))
TRUTHS = st.lists(
    st.builds(lambda v, c, t: (v, c, *t), st.sampled_from(VIDEOS), st.sampled_from(LABELS), TIMES), max_size=10
)
DETECTIONS = st.lists(
    st.builds(
        lambda v, c, t, s: (v, c, *t, s / 4),
        st.sampled_from((*VIDEOS, "outside")),
        st.sampled_from(LABELS[:2]),
        TIMES,
        st.integers(0, 3),
    ),
    max_size=12,
)
quick = settings(max_examples=60, deadline=None)


def evaluate(truth_rows, prediction_rows, protocol, weights=None, videos=VIDEOS):
    ground_truth = truth(truth_rows, videos=videos, labels=LABELS)
    return detection.score(detection.statistics(ground_truth, predicted(prediction_rows), protocol), weights)


def both(truth_rows, detections):
    """Return the AP of class "run" at 0.5, usual and official; a detection of video a is (start, end), surest first."""
    rows = [("a", "run", *times, -float(rank)) for rank, times in enumerate(detections)]
    return [evaluate(truth_rows, rows, protocol).average_precision[1, 0] for protocol in (USUAL, OFFICIAL)]


def test_they_differ_on_an_overlap_equal_to_the_threshold():
    assert both([("a", "run", 0, 10)], [(0, 5)]) == [1, 0]


def test_they_differ_on_who_chooses():
    # The surest detection takes the segment with IoU 6/10; the segment takes the second, with IoU 1, and the first
    # stays wrong: precision 1/2 at every recall.
    assert both([("a", "run", 0, 10)], [(0, 6), (0, 10)]) == [1, 0.5]


def test_they_differ_on_ambiguous_segments():
    # The surest detection touches an Ambiguous segment: wrong (1 right of 2), or as if it were not there.
    assert both([("a", "run", 0, 10), ("a", "Ambiguous", 20, 30)], [(29, 60), (0, 10)]) == [0.5, 1]


def test_they_differ_on_the_mean_of_precision():
    # Right, wrong, right. Of the 11 recalls, 0 to 0.5 have precision 1, and 0.6 to 1 have 2/3.
    usual, official = both([("a", "run", 0, 1), ("a", "run", 5, 6)], [(0, 1), (8, 9), (5, 6)])
    assert usual == pytest.approx(float(Fraction(1, 2) + Fraction(1, 2) * Fraction(2, 3)), abs=1e-15)
    assert official == pytest.approx(float((6 + 5 * Fraction(2, 3)) / 11), abs=1e-15)


def test_its_thresholds_are_lower():
    # IoU 3/10: above 0.1 and 0.2, and not above the threshold 0.3, which is one bit higher than the literal.
    result = evaluate([("a", "run", 0, 10)], [("a", "run", 0, 3, 0.5)], DETECTION_PROTOCOLS["thumos14-official"])
    assert result.metrics() == {
        "mAP@0.10": 1,
        "mAP@0.20": 1,
        "mAP@0.30": 0,
        "mAP@0.40": 0,
        "mAP@0.50": 0,
        "average_mAP": pytest.approx(0.4, abs=1e-15),
    }


def test_a_recall_is_reached_with_exactly_its_tenths_of_the_segments():
    # 3 of 10: recalls 0, 0.1, 0.2 and 0.3. As a float 3/10 is below 3 · 0.1, and one would be lost.
    assert 3 / 10 < 3 * 0.1
    _, official = both([("a", "run", i, i + 1) for i in range(10)], [(0, 1), (1, 2), (2, 3)])
    assert official == pytest.approx(float(Fraction(4, 11)), abs=1e-15)


def test_nothing_right_counts_zero_and_everything_right_one():
    assert both([("a", "run", 0, 1)], []) == [0, 0]
    assert both([("a", "run", 0, 1)], [(5, 6)]) == [0, 0]
    assert both([("a", "run", 0, 1), ("b", "jump", 0, 1)], [(0, 1)]) == [1, 1]


def test_a_detection_on_an_ambiguous_segment_may_be_right():
    # Forgiven and right, wrong, right: precision 1 up to recall 0.5, then 2/3. Were the first left out, it would be 0
    # right of 1 and 1 of 2.
    rows = [("a", "run", 0, 10), ("a", "run", 50, 60), ("a", "Ambiguous", 9, 20)]
    _, official = both(rows, [(0, 10), (30, 40), (50, 60)])
    assert official == pytest.approx(float((6 + 5 * Fraction(2, 3)) / 11), abs=1e-15)


def test_forgiven_is_what_shares_time_with_an_ambiguous_segment_of_the_video():
    rows = [("a", "run", 0, 1), ("a", "Ambiguous", 10, 20), ("a", "Ambiguous", 18, 30), ("b", "run", 0, 1)]
    found = [
        ("a", "run", 0, 10, 0.9),  # ends where the Ambiguous segment starts
        ("a", "run", 0, 10.5, 0.8),
        ("a", "run", 25, 90, 0.7),
        ("b", "run", 10, 20, 0.6),  # another video
        ("outside", "run", 10, 20, 0.5),
        ("a", "jump", 19, 20, 0.4),  # of any class
    ]
    ground_truth = truth(rows, videos=VIDEOS, labels=LABELS)
    statistics = detection.statistics(ground_truth, predicted(found), OFFICIAL)
    assert statistics.prediction.tolist() == [5, 0, 1, 2, 3, 4]
    assert statistics.forgiven.tolist() == [True, False, True, True, False, False]
    # By the usual rules nothing is forgiven.
    assert not detection.statistics(ground_truth, predicted(found), USUAL).forgiven.any()


def test_equal_scores_come_in_the_fixed_order_not_the_right_ones_first():
    # The wrong one starts earlier.
    rows = [("a", "run", 5, 6, 0.5), ("a", "run", 0, 1, 0.5)]
    assert evaluate([("a", "run", 5, 6)], rows, OFFICIAL).average_map == 0.5


def test_a_class_without_ground_truth_is_undefined_and_the_ambiguous_one_is_none():
    result = evaluate([("a", "run", 0, 1), ("a", "Ambiguous", 0, 1)], [("a", "run", 0, 1, 0.5)], OFFICIAL)
    assert result.undefined_labels == ("jump",)
    assert result.average_map == 1


@quick
@given(TRUTHS, DETECTIONS)
def test_it_is_the_official_algorithm(truth_rows, prediction_rows):
    protocol = replace(OFFICIAL, thresholds=(0.25, 0.5, 0.75))
    result = evaluate(truth_rows, prediction_rows, protocol)
    ambiguous = [row for row in truth_rows if row[1] == "Ambiguous"]
    for index, label in enumerate(LABELS[:2]):
        annotated, named = ([row for row in rows if row[1] == label] for rows in (truth_rows, prediction_rows))
        expected = [
            oracle.official_thumos14_average_precision(annotated, ambiguous, named, threshold) if annotated else np.nan
            for threshold in protocol.thresholds
        ]
        np.testing.assert_allclose(result.average_precision[index], expected, rtol=0, atol=1e-12)


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
    weighted = evaluate(truth_rows, rows, OFFICIAL, np.array(weights))
    repeated = evaluate(copied(truth_rows), copied(rows), OFFICIAL, videos=names)
    np.testing.assert_allclose(weighted.average_precision, repeated.average_precision, rtol=0, atol=1e-12)
