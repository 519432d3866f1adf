import csv
import itertools
import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, detection
from evaluation.characteristics import DIAGNOSIS_RULES, measure, rules_of
from evaluation.diagnosis import SLICES, diagnose
from evaluation.error_kinds import KINDS, judge
from tests.evaluation.helpers import predicted, shared, truth
from tspbench.storage.annotations import read_annotations
from tspbench.storage.predictions import read_predictions
from tspbench.storage.thumos import read_thumos_csv

THUMOS14, ACTIVITYNET = DETECTION_PROTOCOLS["thumos14"], DETECTION_PROTOCOLS["activitynet"]
VIDEOS, LABELS = ("a", "b", "c"), ("jump", "run")
quick = settings(max_examples=60, deadline=None)

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
DURATIONS = st.tuples(*[st.sampled_from([0.0, 1.0, 1.25, 2.0, math.nan])] * 3)


def diagnosed(truth_rows, prediction_rows, protocol=THUMOS14, durations=100.0, videos=VIDEOS, labels=LABELS):
    """Diagnose rows (video, label, start, end, …); every video lasts 100 s unless ``durations`` names them."""
    seconds = durations if isinstance(durations, dict) else dict.fromkeys(videos, durations)
    ground_truth = truth(truth_rows, videos=videos, labels=labels)
    lengths = np.array([seconds[video] for video in videos], dtype=np.float64)
    return diagnose(ground_truth, lengths, predicted(prediction_rows), protocol)


def ranked(*rows):
    """Give rows (video, label, start, end) falling scores."""
    return [(*row, -rank) for rank, row in enumerate(rows)]


def planted(result):
    """Return how often each kind was found at each threshold, without those never found."""
    counts = result.false_positives.counts.sum(axis=0).tolist()
    return {kind: row[0] if len(row) == 1 else row for kind, row in zip(KINDS, counts, strict=True) if any(row)}


def by_name(result):
    return {scores.characteristic.name: scores for scores in result.buckets}


RUN_AND_JUMP = [("a", "run", 0, 10), ("a", "jump", 20, 30)]


def test_every_kind_planted_once_twice_thrice():
    found = diagnosed(
        RUN_AND_JUMP,
        ranked(
            ("a", "run", 0, 10),  # right
            ("a", "run", 0, 9),  # 9/10 of a segment that is taken: double detection
            ("a", "run", 0, 5),  # 1/2, which reaches the threshold: double detection
            ("a", "run", 20, 30),  # wrong label
            ("a", "run", 0, 4),  # 4/10: localization
            ("a", "run", 9, 19),  # 1/19: background
            ("a", "run", 26, 34),  # 4/14 of the jump: confusion
            ("a", "run", 29, 30),  # 1/10 of the jump: confusion
            ("b", "run", 0, 10),  # nothing there: background
            ("outside", "run", 0, 10),  # no video of the ground truth: background
        ),
    )
    assert planted(found) == {
        "true_positive": 1,
        "double_detection": 2,
        "wrong_label": 1,
        "localization": 1,
        "confusion": 2,
        "background": 3,
    }
    # There is one segment of the class, so that each slice holds one prediction.
    kinds = [KINDS[k] for k in found.false_positives.counts[:, :, 0].argmax(axis=1)]
    assert kinds[:5] == ["true_positive", "double_detection", "double_detection", "wrong_label", "localization"]
    assert kinds[5:] == ["background", "confusion", "confusion", "background", "background"]


def test_kinds_depend_on_the_threshold():
    # 72 of 100: found from 0.50 to 0.70, five of ten thresholds.
    segments = [("a", "run", 0, 100), ("b", "jump", 0, 100)]
    rows = ranked(("a", "run", 0, 100), ("a", "run", 0, 72), ("b", "jump", 0, 72), ("b", "run", 0, 72))
    assert planted(diagnosed(segments, rows, ACTIVITYNET)) == {
        "true_positive": [2] * 5 + [1] * 5,
        "double_detection": [1] * 5 + [0] * 5,
        "wrong_label": [1] * 5 + [0] * 5,
        "localization": [0] * 5 + [2] * 5,
        "confusion": [0] * 5 + [1] * 5,
    }


def test_a_prediction_that_overlaps_most_with_a_taken_segment_can_take_another():
    # The second lies on the first segment, which is taken, and has 8/12 with the other: right at 0.50 to 0.65.
    rows = ranked(("a", "run", 0, 10), ("a", "run", 0, 10))
    found = diagnosed([("a", "run", 0, 10), ("a", "run", 2, 12)], rows, ACTIVITYNET)
    assert planted(found) == {"true_positive": [2] * 4 + [1] * 6, "double_detection": [0] * 4 + [1] * 6}


def test_the_highest_overlap_decides_also_where_its_own_class_reaches_the_threshold():
    # Of the second prediction the jump has 8/8, the run, which is taken, 8/10.
    segments = [("a", "run", 0, 10), ("a", "jump", 0, 8)]
    assert planted(diagnosed(segments, ranked(("a", "run", 0, 10), ("a", "run", 0, 8)))) == {
        "true_positive": 1,
        "wrong_label": 1,
    }


@pytest.mark.parametrize("segments", list(itertools.permutations([("a", "run", 0, 10), ("a", "jump", 0, 10)])))
def test_of_equal_overlaps_its_own_class_decides(segments):
    rows = ranked(("a", "run", 0, 10), ("a", "run", 0, 10), ("a", "run", 0, 4))
    assert planted(diagnosed(segments, rows)) == {"true_positive": 1, "double_detection": 1, "localization": 1}


def test_the_ten_best_slices_count():
    segments = [("a", "run", 0, 10), ("a", "run", 20, 30), ("a", "jump", 40, 50)]
    rows = ranked(*[("b", "run", 0, 10)] * 25, *[("b", "jump", 0, 10)] * 3)
    result = diagnosed(segments, rows)
    # Two runs and one jump a slice, while there are any.
    assert result.false_positives.predictions.tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert planted(result) == {"background": 23}
    assert result.counts["best_predictions"] == 23


def test_shares_are_means_over_the_thresholds_and_nan_in_an_empty_slice():
    rows = ranked(("a", "run", 0, 72), ("a", "jump", 0, 1))
    shares = diagnosed([("a", "run", 0, 100), ("b", "jump", 0, 1)], rows, ACTIVITYNET).false_positives.shares
    # Of two predictions in the first slice one is right at half the thresholds, the other lies on 1/100 of the run.
    assert dict(zip(KINDS, shares[0].tolist(), strict=True)) == {
        "true_positive": 1 / 4,
        "double_detection": 0.0,
        "wrong_label": 0.0,
        "localization": 1 / 4,
        "confusion": 0.0,
        "background": 1 / 2,
    }
    assert np.isnan(shares[1:]).all()


def test_normalised_precision_by_hand():
    segments = [("a", "run", 10 * k, 10 * k + 5) for k in range(3)] + [("b", "jump", 0, 5)]
    rows = ranked(("c", "run", 0, 5), ("a", "run", 0, 5), ("b", "jump", 0, 5))
    result = diagnosed(segments, rows)
    assert result.instances_per_class == 2
    # Run: recall 1/3 after one error, so precision (1/3 · 2) / (1/3 · 2 + 1) = 2/5. Jump: precision 1.
    run = Fraction(1, 3) * Fraction(2, 5)
    assert result.average_map == pytest.approx(float((run + 1) / 2), abs=1e-15)
    assert result.false_positives.average_map == result.average_map


def test_impact_by_hand():
    rows = ranked(("b", "run", 0, 10), ("a", "run", 20, 30), ("a", "run", 0, 10))
    result = diagnosed(RUN_AND_JUMP, rows)
    # N = 1; run is found after a background error and a wrong label: 1/3, without either 1/2. Jump is not found: 0.
    assert result.false_positives.average_map == pytest.approx(1 / 6, abs=1e-15)
    gain = pytest.approx(float((Fraction(1, 2) - Fraction(1, 3)) / 2), abs=1e-15)
    assert result.false_positives.impact == {
        "double_detection": 0.0,
        "wrong_label": gain,
        "localization": 0.0,
        "confusion": 0.0,
        "background": gain,
    }


def test_a_kind_is_removed_at_each_threshold_alone():
    # The first prediction is a localization error from 0.75 on, at five of ten thresholds, where it halves precision.
    segments = [("a", "run", 0, 100), ("b", "run", 0, 100)]
    result = diagnosed(segments, ranked(("a", "run", 0, 72), ("b", "run", 0, 100)), ACTIVITYNET)
    # N = 2. To 0.70 both are right: 1. Then recall 1/2 after one error: 1/2 · 1/2, without the error 1/2.
    assert result.average_map == pytest.approx(float((1 + Fraction(1, 4)) / 2), abs=1e-15)
    assert result.false_positives.impact["localization"] == pytest.approx(1 / 8, abs=1e-15)


def test_predictions_beyond_the_ten_best_slices_count_for_sensitivity_only():
    rows = ranked(*[("b", "run", 0, 10)] * 10, ("a", "run", 0, 10))
    result = diagnosed([("a", "run", 0, 10)], rows)
    assert result.false_positives.average_map == 0.0
    assert result.average_map == pytest.approx(1 / 11, abs=1e-15)


def test_sensitivity_by_hand():
    # Of THUMOS14's buckets 2 s is XS and 5 s is S.
    rows = ranked(("a", "run", 10, 15), ("b", "run", 0, 5), ("a", "run", 0, 2))
    result = diagnosed([("a", "run", 0, 2), ("a", "run", 10, 15)], rows)
    # N = 2: precision 1 at recall 1/2, and 2 / (2 + 1) at recall 1.
    base = Fraction(1, 2) * (1 + Fraction(2, 3))
    assert result.average_map == pytest.approx(float(base), abs=1e-15)
    length = by_name(result)["length"]
    assert length.segments.tolist() == [1, 1, 0, 0, 0]
    # Alone, the short one has recall 1 after one error, and N stays 2: 2 / (2 + 1). The long one comes first.
    assert length.average_map[:2].tolist() == pytest.approx([2 / 3, 1], abs=1e-15)
    assert np.isnan(length.average_map[2:]).all()
    assert length.lowest == pytest.approx(float(Fraction(2, 3) / base), abs=1e-15)
    assert length.highest == pytest.approx(float(1 / base), abs=1e-15)


def test_sensitivity_is_the_mean_over_the_classes_of_the_bucket():
    segments = [("a", "run", 0, 2), ("b", "jump", 0, 2), ("c", "jump", 0, 5)]
    length = by_name(diagnosed(segments, ranked(("a", "run", 0, 2), ("c", "jump", 0, 5))))["length"]
    # XS: run is found, jump is not. S: there is no run.
    assert length.average_map[:2].tolist() == [1 / 2, 1]


def test_a_prediction_that_takes_segments_of_two_buckets_counts_in_neither():
    # The first has 0.6 with A and takes it up to there, so that the second takes B, with 31/40; then it takes A.
    segments = [("a", "run", 0, 30), ("a", "run", 0, 40)]
    result = diagnosed(segments, ranked(("a", "run", 0, 18), ("a", "run", 0, 31)), ACTIVITYNET)
    # N = 2. Up to 0.60 both are right; then recall 1/2 after one error.
    assert result.average_map == pytest.approx(float(Fraction(3, 10) + Fraction(7, 10) * Fraction(1, 4)), abs=1e-15)
    # XS holds A, which the first finds at three of ten thresholds. S holds B, which only the second finds.
    assert by_name(result)["length"].average_map[:2].tolist() == pytest.approx([3 / 10, 0], abs=1e-15)


@pytest.mark.parametrize(("errors", "missed"), [(18, 0.0), (19, 1.0)])
def test_a_segment_found_at_a_precision_of_a_twentieth_is_missed(errors, missed):
    # N = 1 and recall 1: precision 1/19 or 1/20.
    rows = ranked(*[("b", "run", 0, 10)] * errors, ("a", "run", 0, 10))
    result = diagnosed([("a", "run", 0, 10)], rows)
    assert result.false_negatives == missed
    assert by_name(result)["length"].false_negatives[2] == missed


def test_false_negatives_by_hand():
    # Run is found at five of ten thresholds, jump always, the third never.
    segments = [("a", "run", 0, 100), ("b", "jump", 0, 20), ("c", "jump", 0, 20)]
    result = diagnosed(segments, ranked(("a", "run", 0, 72), ("b", "jump", 0, 20)), ACTIVITYNET)
    assert result.false_negatives == pytest.approx(float((Fraction(1, 2) + 0 + 1) / 3), abs=1e-15)
    # 20 s is XS, 100 s is M.
    np.testing.assert_array_equal(by_name(result)["length"].false_negatives, [1 / 2, np.nan, 1 / 2, np.nan, np.nan])


@pytest.mark.parametrize(
    ("benchmark", "place", "values", "expected"),
    [
        ("activitynet", 0, [0.0, 0.2, 0.2000001, 0.6, 0.8, 1.0], [0, 0, 1, 2, 3, 4]),
        ("activitynet", 0, [1.0000001, np.nan, np.inf], [-1, -1, -1]),
        ("activitynet", 1, [0.0, 30, 30.5, 60, 120, 180, 180.5, 1e9], [0, 0, 1, 1, 2, 3, 4, 4]),
        ("activitynet", 2, [1, 2, 4, 5, 8, 9, 1000], [0, 1, 1, 2, 2, 3, 3]),
        ("thumos14", 0, [0.01, 0.02, 0.03, 0.06, 0.08, 0.081, 1.0, 1.1], [0, 0, 1, 2, 3, 4, 4, -1]),
        ("thumos14", 1, [3, 3.5, 6, 12, 18, 18.5], [0, 1, 1, 2, 3, 4]),
        ("thumos14", 2, [1, 2, 40, 41, 80, 81], [0, 1, 1, 2, 2, 3]),
    ],
)  # fmt: skip
def test_a_bucket_holds_its_upper_bound(benchmark, place, values, expected):
    characteristic = DIAGNOSIS_RULES[benchmark].characteristics[place]
    assert characteristic.bucket_of(np.array(values, dtype=np.float64)).tolist() == expected


def test_ranges_as_text():
    coverage, length, instances = DIAGNOSIS_RULES["activitynet"].characteristics
    assert coverage.ranges() == ("[0, 0.2]", "(0.2, 0.4]", "(0.4, 0.6]", "(0.6, 0.8]", "(0.8, 1]")
    assert length.ranges() == ("[0, 30]", "(30, 60]", "(60, 120]", "(120, 180]", "above 180")
    assert instances.ranges() == ("1", "2 to 4", "5 to 8", "above 8")


@pytest.mark.parametrize(("protocol", "expected"), [(ACTIVITYNET, [1, 2, 0, 0]), (THUMOS14, [0, 3, 0, 0])])
def test_instances_are_those_of_the_class_or_of_the_video(protocol, expected):
    # One run and two jumps in one video: XS is 1, S is 2 and more.
    segments = [("a", "run", 0, 10), ("a", "jump", 20, 30), ("a", "jump", 40, 50)]
    assert by_name(diagnosed(segments, [], protocol))["instances"].segments.tolist() == expected


def test_instances_are_counted_before_any_is_left_out():
    segments = [("a", "run", 0, 10), ("a", "run", 5, 5)]
    assert by_name(diagnosed(segments, [], ACTIVITYNET))["instances"].segments.tolist() == [0, 1, 0, 0]


def test_zero_length_segments_and_those_longer_than_their_video_are_left_out():
    segments = [("a", "run", 0, 10), ("a", "run", 50, 50), ("b", "jump", 0, 10), ("c", "run", 0, 10)]
    rows = ranked(("a", "run", 0, 10), ("b", "run", 0, 10), ("a", "run", 50, 50))
    result = diagnosed(segments, rows, durations={"a": 100, "b": 9, "c": 10})
    assert result.instances_per_class == 2  # two runs; no class without a segment counts
    assert planted(result) == {"true_positive": 1, "background": 2}
    names = ("ground_truth", "diagnosed", "zero_length_ground_truth", "coverage_above_one")
    assert [result.counts[name] for name in names] == [4, 2, 1, 1]
    # 10/100 and 10/10 of the video are both XL of THUMOS14.
    assert by_name(result)["coverage"].segments.tolist() == [0, 0, 0, 0, 2]


def test_a_duration_of_zero_leaves_its_segments_out():
    result = diagnosed(
        [("a", "run", 0, 10), ("a", "run", 5, 5), ("b", "run", 0, 10)], [], durations={"a": 0, "b": 20, "c": 1}
    )
    assert (result.counts["coverage_above_one"], result.counts["zero_length_ground_truth"]) == (1, 1)
    assert result.counts["diagnosed"] == 1


def test_segments_of_unknown_duration_have_no_coverage():
    segments = [("a", "run", 0, 10), ("b", "run", 0, 10)]
    result = diagnosed(segments, ranked(("a", "run", 0, 10)), durations={"a": 100, "b": math.nan, "c": 1})
    coverage = by_name(result)["coverage"]
    assert coverage.segments.tolist() == [0, 0, 0, 0, 1]
    assert coverage.shares.tolist() == [0, 0, 0, 0, 1]
    assert coverage.average_map[4] == 1
    assert result.counts["without_coverage"] == 1
    # They count everywhere else.
    assert by_name(result)["length"].segments.sum() == result.counts["diagnosed"] == 2
    assert result.false_negatives == 1 / 2


def test_a_match_of_unknown_coverage_is_in_no_bucket():
    segments = [("a", "run", 0, 10), ("b", "run", 0, 10)]
    rows = ranked(("b", "run", 0, 10), ("a", "run", 0, 10))
    coverage = by_name(diagnosed(segments, rows, durations={"a": 100, "b": math.nan, "c": 1}))["coverage"]
    # Were the first an error, this would be 2/3.
    assert coverage.average_map[4] == 1


def test_without_durations_there_is_no_coverage():
    result = diagnosed(RUN_AND_JUMP, [], durations=math.nan)
    assert list(by_name(result)) == ["length", "instances"]
    assert result.counts["without_coverage"] == result.counts["diagnosed"] == 2


def test_a_class_without_a_segment_has_no_part():
    rows = ranked(("a", "jump", 0, 10), ("a", "run", 0, 10))
    result = diagnosed([("a", "run", 0, 10)], rows)
    assert (result.average_map, result.instances_per_class) == (1, 1)
    assert planted(result) == {"true_positive": 1}
    assert result.counts["labels_without_ground_truth"] == 1
    assert result.counts["predictions_of_labels_without_ground_truth"] == 1
    assert result.counts["predictions"] == 2


def test_a_class_without_predictions_counts_zero():
    result = diagnosed(RUN_AND_JUMP, ranked(("a", "run", 0, 10)))
    assert result.average_map == 1 / 2
    assert result.counts["labels_without_predictions"] == 1


def test_nothing_predicted():
    result = diagnosed(RUN_AND_JUMP, [])
    assert (result.average_map, result.false_negatives) == (0, 1)
    assert np.isnan(result.false_positives.shares).all()
    assert set(result.false_positives.impact.values()) == {0.0}
    length = by_name(result)["length"]
    assert np.isnan([length.lowest, length.highest]).all()
    assert result.counts["missing_videos"] == 3


def test_nothing_annotated():
    result = diagnosed([("a", "run", 5, 5)], ranked(("a", "run", 0, 10)))
    scalars = (result.average_map, result.false_negatives, result.instances_per_class)
    assert np.isnan([*scalars, *result.false_positives.impact.values()]).all()
    assert result.false_positives.predictions.tolist() == [0] * SLICES
    for scores in result.buckets:
        assert scores.segments.sum() == 0
        assert np.isnan([*scores.shares, *scores.average_map, *scores.false_negatives, scores.lowest]).all()


def test_counts_of_videos():
    result = diagnosed(RUN_AND_JUMP, ranked(("a", "run", 0, 10), ("outside", "run", 0, 1), ("elsewhere", "run", 0, 1)))
    names = ("videos", "missing_videos", "unknown_videos", "predictions_of_unknown_videos")
    assert [result.counts[name] for name in names] == [3, 2, 2, 2]


def test_ignored_segments_and_excluded_videos_are_the_protocols():
    videos = ("video_test_0000270", "a", "b")
    segments = [("video_test_0000270", "run", 0, 10), ("a", "run", 0, 10), ("b", "Ambiguous", 0, 10)]
    rows = ranked(("video_test_0000270", "run", 0, 10), ("b", "run", 0, 10), ("a", "run", 0, 10))
    protocol = DETECTION_PROTOCOLS["thumos14-211"]
    seconds = {"video_test_0000270": 10, "a": 1000, "b": 10}
    result = diagnosed(segments, rows, protocol, seconds, videos, ("run", "Ambiguous"))
    assert planted(result) == {"true_positive": 1, "background": 1}
    names = ("videos", "ground_truth", "labels", "labels_without_ground_truth", "predictions")
    assert [result.counts[name] for name in names] == [2, 1, 1, 0, 2]
    # 10 of 1000 s: each duration is that of its own video.
    assert by_name(result)["coverage"].segments.tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("name", DETECTION_PROTOCOLS)
def test_every_protocol_is_diagnosed_by_the_rules_of_detad(name):
    result = diagnosed(RUN_AND_JUMP, ranked(("a", "run", 0, 5)), DETECTION_PROTOCOLS[name])
    assert result.rules is DIAGNOSIS_RULES["thumos14" if name.startswith("thumos14") else "activitynet"]
    assert result.protocol.thresholds == ((0.5,) if name.startswith("thumos14") else ACTIVITYNET.thresholds)
    assert (result.protocol.name, result.protocol.ties) == (name, DETECTION_PROTOCOLS[name].ties)
    assert (result.protocol.matching, result.protocol.interpolation) == ("detection", "all-point")
    # The official THUMOS14 rule wants an overlap above the threshold; here 1/2 suffices.
    assert result.false_positives.counts[0, 0, 0] == 1


def test_equal_scores_by_the_file():
    # Run is found by the row that comes first; the official order of two equals is the reverse of the file.
    rows = [("a", "run", 0, 6, 0.5), ("a", "run", 0, 10, 0.5)]
    protocol = DETECTION_PROTOCOLS["activitynet-file-order"]
    by_file = [diagnosed(RUN_AND_JUMP, order, protocol).average_map for order in (rows, rows[::-1])]
    assert by_file[0] > by_file[1]


FINITE = "durations must be finite seconds of 0 or more, or nan where unknown."


@pytest.mark.parametrize(
    ("label", "durations", "name", "message"),
    [
        ("", [1, 1, 1], "thumos14", "Detections need a label, received the class-agnostic label -1 in row 0."),
        ("swim", [1, 1, 1], "thumos14", "Predictions have labels that the ground truth does not know: ['swim']."),
        ("run", [1, 1], "thumos14", "durations must be of shape (3,), received (2,)."),
        ("run", [1, -1, 1], "thumos14", FINITE),
        ("run", [1, math.inf, 1], "thumos14", FINITE),
        ("run", [1, 1, 1], "mine", "DETAD has rules for activitynet, thumos14, received the protocol 'mine'."),
    ],
)
def test_what_does_not_fit(label, durations, name, message):
    ground_truth = truth([("a", "run", 0, 1)], videos=VIDEOS, labels=LABELS)
    predictions, seconds = predicted([("a", label, 0, 1, 0.5)]), np.array(durations, dtype=np.float64)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        diagnose(ground_truth, seconds, predictions, replace(THUMOS14, name=name))


def numbers(result):
    """Return everything that was measured as one list, classes and videos left out."""
    found = result.false_positives
    parts = [found.predictions, found.counts, found.average_map, list(found.impact.values()), result.average_map]
    parts += [result.instances_per_class, result.false_negatives, list(result.counts.values())]
    for scores in result.buckets:
        parts += [scores.segments, scores.average_map, scores.false_negatives, scores.lowest, scores.highest]
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


@quick
@given(TRUTHS, DETECTIONS, DURATIONS, st.randoms(use_true_random=False), st.sampled_from([THUMOS14, ACTIVITYNET]))
def test_order_changes_nothing_to_the_last_bit(truth_rows, prediction_rows, durations, random, protocol):
    def shuffled(items):
        return random.sample(list(items), len(items))

    seconds = dict(zip(VIDEOS, durations, strict=True))
    before = diagnosed(truth_rows, prediction_rows, protocol, seconds)
    names = {"videos": tuple(shuffled(VIDEOS)), "labels": tuple(shuffled(LABELS))}
    after = diagnosed(shuffled(truth_rows), shuffled(prediction_rows), protocol, seconds, **names)
    np.testing.assert_array_equal(numbers(after), numbers(before))


def test_the_order_of_many_classes_changes_nothing_to_the_last_bit():
    # One of n segments is found in class n, after n errors: a sum whose plain value depends on the order.
    segments = [("a", str(n), 2 * i, 2 * i + 1) for n in range(1, 20) for i in range(n)]
    rows = [("b", str(n), i, i + 1, 0.9) for n in range(1, 20) for i in range(n)]
    rows += [("a", str(n), 0, 1, 0.5) for n in range(1, 20)]
    orders = [np.random.default_rng(seed).permutation(np.arange(1, 20)).astype(str).tolist() for seed in range(20)]
    results = [numbers(diagnosed(segments, rows, labels=tuple(labels))) for labels in orders]
    assert len({result.tobytes() for result in results}) == 1


@quick
@given(TRUTHS, DETECTIONS, st.sampled_from([THUMOS14, ACTIVITYNET]))
def test_detections_are_matched_as_for_the_map(truth_rows, prediction_rows, protocol):
    segments = [row for row in truth_rows if row[2] < row[3]]
    ground_truth, predictions = truth(segments, videos=VIDEOS, labels=LABELS), predicted(prediction_rows)
    expected = detection.statistics(ground_truth, predictions, protocol)
    judged = judge(ground_truth, predictions.aligned_to(ground_truth), protocol)
    np.testing.assert_array_equal(judged.match >= 0, expected.true_positive)
    np.testing.assert_array_equal(judged.kind == 0, expected.true_positive)
    # Each segment is taken once at most, and by its own class.
    for taken in judged.match.T:
        rows = np.flatnonzero(taken >= 0)
        assert len(np.unique(taken[rows])) == len(rows)
        assert (ground_truth.label[taken[rows]] == judged.label[rows]).all()


@quick
@given(st.lists(TIMES.filter(lambda times: times[0] < times[1]), min_size=1), DETECTIONS)
def test_of_classes_of_one_size_the_normalised_map_is_the_plain_one(times, prediction_rows):
    segments = [(video, label, *pair) for pair, video in zip(times, itertools.cycle(VIDEOS)) for label in LABELS]
    result = diagnosed(segments, prediction_rows, ACTIVITYNET, math.nan)
    ground_truth = truth(segments, videos=VIDEOS, labels=LABELS)
    plain = detection.score(detection.statistics(ground_truth, predicted(prediction_rows), ACTIVITYNET))
    assert result.average_map == pytest.approx(plain.average_map, abs=1e-12)
    # All lengths lie in the first bucket, which is then everything.
    length = by_name(result)["length"]
    assert length.average_map[0] == result.average_map
    assert length.false_negatives[0] == result.false_negatives


@quick
@given(TRUTHS.filter(lambda rows: any(row[2] < row[3] for row in rows)), DETECTIONS, DURATIONS)
def test_what_holds_of_every_diagnosis(truth_rows, prediction_rows, durations):
    result = diagnosed(truth_rows, prediction_rows, ACTIVITYNET, dict(zip(VIDEOS, durations, strict=True)))
    counts = result.counts
    left_out = counts["zero_length_ground_truth"] + counts["coverage_above_one"]
    assert counts["diagnosed"] == counts["ground_truth"] - left_out
    if not counts["diagnosed"]:
        return
    found = result.false_positives
    assert (found.counts.sum(axis=1) == found.predictions[:, None]).all()
    # To remove errors never makes precision worse.
    assert min(found.impact.values()) >= -1e-12
    for scores in result.buckets:
        without = counts["without_coverage"] if scores.characteristic.name == "coverage" else 0
        assert scores.segments.sum() == counts["diagnosed"] - without
        held = scores.segments > 0
        np.testing.assert_array_equal(np.isnan(scores.average_map), ~held)
        assert ((scores.average_map[held] >= 0) & (scores.average_map[held] <= 1 + 1e-12)).all()


def real_activitynet():
    annotations = read_annotations(shared("data/activitynet/annotations_19228.json"))
    seconds = [video.duration_seconds for video in annotations.subset("validation")]
    return annotations.ground_truth("validation"), np.array(seconds)


def real_thumos14():
    annotations = read_thumos_csv(shared("data/thumos14/test_groundtruth_with_ambiguous.csv"))
    ground_truth = annotations.ground_truth("test")
    with shared("data/thumos14/test_groundtruth_with_ambiguous.csv").open() as file:
        seconds = {row["video-name"]: float(row["video-duration"]) for row in csv.DictReader(file)}
    return ground_truth, np.array([seconds[video] for video in ground_truth.videos])


REAL = {"activitynet": real_activitynet, "thumos14": real_thumos14}
# Shares in percent of the segments that DETAD keeps of the two ground truths.
SHARES = {
    "activitynet": {
        "coverage": [41.4, 12.5, 9.5, 11.9, 24.7],
        "length": [53.2, 16.3, 17.0, 9.4, 4.1],
        "instances": [49.0, 33.7, 12.0, 5.3],
    },
    "thumos14": {
        "coverage": [71.0, 19.6, 4.9, 1.8, 2.7],
        "length": [48.4, 25.3, 21.7, 3.4, 1.1],
        "instances": [0.4, 65.6, 21.6, 12.3],
    },
}
# What DETAD's own functions (its src/, patched for Python 3 and NumPy 2) say of the golden predictions, to 13 decimals;
# "shares" are those of the second slice. On THUMOS14 they were told to prefer the prediction's own class among segments
# of equal tIoU, and to count instances by video, as their data file does.
PARITY = {
    "activitynet": {
        "average_map": 0.4163115140747,
        "best": 0.4163115140747,
        "impact": [0.0679041240498, 0.0002875562154, 0.0867621400644, 0.0023703299679, 0.0041837728958],
        "shares": [0.1259882253995, 0.258971124194, 0.0064339781329, 0.3907625455565, 0.0935099523409, 0.1243341743762],
        "predictions": [7272, 7134, 5627, 2808, 691, 56, 0, 0, 0, 0],
        "coverage": [0.2969527276397, 0.471489764089, 0.581920617008, 0.6335376100058, 0.6790974820631],
        "length": [0.3573349535247, 0.5424305505316, 0.6144910127016, 0.6705834839659, 0.736132557729],
        "instances": [0.6063791111028, 0.338981245836, 0.1540804487034, 0.06715646722],
        "missed coverage": [0.6386303191489, 0.4062913907285, 0.2958152958153, 0.2460829493088, 0.1633277685031],
        "missed length": [0.5464341085271, 0.3261200338123, 0.2438610662359, 0.2121522693997, 0.1808724832215],
        "missed instances": [0.1968004490598, 0.5298939641109, 0.7651376146789, 0.8662337662338],
    },
    "thumos14": {
        "average_map": 0.5049534162429,
        "best": 0.5045601046483,
        "impact": [0.1815902449034, 0.0002808787002, 0.0062878824849, 0.0012319741348, 0.0053695044148],
        "shares": [
            0.1149493746278,
            0.3567599761763,
            0.1194163192376,
            0.0985705777248,
            0.0628350208457,
            0.2474687313877,
        ],
        "predictions": [3358, 3358, 3151, 2490, 2105, 1713, 1624, 1343, 1068, 789],
        "coverage": [0.4286863056742, 0.6414604056452, 0.7132985533412, 0.736607787334, 0.7645438712927],
        "length": [0.4890850279441, 0.5678292681193, 0.6517497552933, 0.5637374082146, 0.6474453875562],
        "instances": [0.9873359918316, 0.5651414657006, 0.1938875526823, 0.0852534231691],
        "missed coverage": [0.4603441040705, 0.1945288753799, 0.1144578313253, 0.0819672131148, 0.0444444444444],
        "missed length": [0.4280442804428, 0.2937720329025, 0.3671232876712, 0.2894736842105, 0.1621621621622],
        "missed instances": [0.0, 0.2233318202451, 0.5790921595598, 0.8232445520581],
    },
}


@pytest.mark.parametrize(
    ("benchmark", "kept", "per_class"),
    [("activitynet", 7272, Fraction(3636, 100)), ("thumos14", 3358, Fraction(1679, 10))],
)
def test_the_buckets_of_the_real_ground_truths(benchmark, kept, per_class):
    ground_truth, durations = REAL[benchmark]()
    result = diagnose(ground_truth, durations, predicted([]), DETECTION_PROTOCOLS[benchmark])
    assert result.counts["diagnosed"] == kept
    assert result.instances_per_class == float(per_class)
    shares = {name: [round(100 * share, 1) for share in scores.shares] for name, scores in by_name(result).items()}
    assert shares == SHARES[benchmark]


@pytest.mark.parametrize("benchmark", REAL)
def test_parity_with_detad(benchmark):
    ground_truth, durations = REAL[benchmark]()
    predictions = read_predictions(shared(f"golden/predictions_{benchmark}.json.gz"), ground_truth)
    result = diagnose(ground_truth, durations, predictions, DETECTION_PROTOCOLS[benchmark])
    found = {
        "average_map": result.average_map,
        "best": result.false_positives.average_map,
        "impact": list(result.false_positives.impact.values()),
        "shares": result.false_positives.shares[1].tolist(),
        "predictions": result.false_positives.predictions.tolist(),
        **{name: scores.average_map.tolist() for name, scores in by_name(result).items()},
        **{f"missed {name}": scores.false_negatives.tolist() for name, scores in by_name(result).items()},
    }
    assert found == {name: pytest.approx(expected, abs=1e-12) for name, expected in PARITY[benchmark].items()}


def test_lengths_and_instances_are_those_of_detads_file():
    # Two videos of its thumos14_test_extra_characteristics.json; the second has one CricketBowling and two CricketShot.
    ground_truth, durations = real_thumos14()
    values = measure(ground_truth, durations, rules_of(THUMOS14))
    first, second = (
        ground_truth.video == ground_truth.videos.index(name) for name in ("video_test_0000292", "video_test_0001460")
    )
    assert (values["length"][first].tolist(), values["instances"][first].tolist()) == ([1.5], [1])
    assert values["length"][second].tolist() == pytest.approx([1.0, 0.7, 1.2])
    assert values["instances"][second].tolist() == [3, 3, 3]
