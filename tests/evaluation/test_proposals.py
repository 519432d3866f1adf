import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evaluation import PROPOSAL_PROTOCOLS, ProposalProtocol, VideoSet, proposals
from tests.evaluation import oracle
from tests.evaluation.helpers import predicted, truth

VIDEOS, LABELS = ("a", "b", "c"), ("jump", "run")
# Few distinct values, so that equal scores, equal overlaps and equal segments are common.
TIMES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (min(pair) / 4, max(pair) / 4))
TRUTHS = st.lists(
    st.builds(lambda v, c, t: (v, c, *t), st.sampled_from(VIDEOS), st.sampled_from(LABELS), TIMES), max_size=8
)
SCORES = st.integers(0, 3).map(lambda score: score / 4)
PROPOSALS = st.lists(
    st.builds(
        lambda v, c, t, s: (v, c, *t, s),
        st.sampled_from((*VIDEOS, "outside")),
        st.sampled_from(("", *LABELS)),
        TIMES,
        SCORES,
    ),
    max_size=16,
)
WEIGHTS = st.tuples(*[st.integers(0, 3)] * 3)
quick = settings(max_examples=60, deadline=None)

HIT_1, HIT_2, MISS = (0, 1), (5, 6), (8, 9)


def budget(number, *shown, thresholds=(0.5,), **rules):
    """Return a protocol of ``number`` proposals a video that shows the recall at ``shown``."""
    return ProposalProtocol(
        name="test", thresholds=thresholds, budget=number, shown=shown, source="these tests", **rules
    )


THREE = budget(2, 1, 2, thresholds=(0.3, 0.5, 1.0))


def evaluate(truth_rows, proposal_rows, protocol, weights=None, videos=VIDEOS):
    ground_truth = truth(truth_rows, videos=videos, labels=LABELS)
    return proposals.score(proposals.statistics(ground_truth, predicted(proposal_rows), protocol), weights)


def metrics(truth_rows, proposal_rows, protocol, weights=None):
    return evaluate(truth_rows, proposal_rows, protocol, weights).metrics()


def of_a(*times, video="a"):
    """Return proposals (start, end) of one video, the surest first."""
    return [(video, "", *segment, -float(rank)) for rank, segment in enumerate(times)]


TWO_SEGMENTS = [("a", "run", *HIT_1), ("a", "jump", *HIT_2)]


def test_with_the_budget_for_every_video_it_is_the_recall_of_the_best():
    result = evaluate(TWO_SEGMENTS, of_a(MISS, HIT_1, MISS, HIT_2), budget(4, 1, 2, 3, 4))
    # Recall is 0 up to point 49, 1/2 from point 50 (AN 2), 1 at point 100. Each of the 99 trapezoids is 4/100 wide.
    area = (Fraction(1, 4) + 49 * Fraction(1, 2) + Fraction(3, 4)) * Fraction(4, 100) / 4
    assert result.metrics() == {"AR@1": 0, "AR@2": 0.5, "AR@3": 0.5, "AR@4": 1, "AUC": pytest.approx(float(area))}
    assert result.recall.tolist() == [[0.0] * 49 + [0.5] * 50 + [1.0]]
    np.testing.assert_allclose(result.number, np.arange(1, 101) / 25)


def test_recall_is_averaged_over_the_thresholds():
    # [0, 1) is found with IoU 4/5 by the first proposal and with IoU 1 by the second.
    result = evaluate(
        [("a", "run", 0, 1)], of_a((0, 0.8), (0, 1)), budget(2, 1, 2, thresholds=(0.5, 0.75, 0.8, 0.9, 1.0))
    )
    assert result.recall[:, [49, 99]].tolist() == [[1, 1], [1, 1], [1, 1], [0, 1], [0, 1]]
    assert result.metrics()["AR@1"] == pytest.approx(float(Fraction(3, 5)), abs=1e-15)
    assert result.metrics()["AR@2"] == 1


def test_recall_is_pooled_over_the_videos():
    # Two of the three segments of a, none of b: 2/4, not the mean of 2/3 and 0.
    rows = [*TWO_SEGMENTS, ("a", "run", 20, 21), ("b", "run", *HIT_1)]
    found = [*of_a(HIT_1, HIT_2), *of_a(MISS, MISS, video="b")]
    assert metrics(rows, found, budget(2, 2))["AR@2"] == 0.5


def test_a_proposal_may_find_several_segments():
    rows = [("a", "run", 0, 10), ("a", "jump", 0, 9), ("a", "run", 0, 10)]
    assert metrics(rows, of_a((0, 10)), budget(1, 1))["AR@1"] == 1


def test_an_overlap_equal_to_the_threshold_is_enough():
    assert metrics([("a", "run", 0, 10)], of_a((0, 5)), budget(1, 1, thresholds=(0.5,)))["AR@1"] == 1
    assert metrics([("a", "run", 0, 10)], of_a((0, 5)), budget(1, 1, thresholds=(np.nextafter(0.5, 1),)))["AR@1"] == 0


def test_a_budget_below_the_file_is_spent_in_proportion():
    # 4 proposals for 2 videos at a budget of 1: a keeps int(3 · 2/4) = 1, and b int(1 · 2/4) = 0 of its perfect one.
    rows = [("a", "run", *HIT_1), ("b", "run", *HIT_2)]
    assert metrics(rows, [*of_a(HIT_1, MISS, MISS), *of_a(HIT_2, video="b")], budget(1, 1))["AR@1"] == 0.5
    assert metrics(rows, [*of_a(MISS, HIT_1, MISS), *of_a(HIT_2, video="b")], budget(1, 1))["AR@1"] == 0


def test_a_file_below_the_budget_has_its_last_word_early():
    # One proposal at a budget of 4: point j uses int(j/100 · 4), so that all is found from point 25 (AN 1) on.
    result = evaluate([("a", "run", *HIT_1)], of_a(HIT_1), budget(4, 1, 4))
    assert result.recall.tolist() == [[0.0] * 24 + [1.0] * 76]
    assert result.metrics()["AUC"] == pytest.approx(float(Fraction(1, 2) + 75) / 100)


def test_the_highest_area_at_a_budget_of_100_is_99_percent():
    assert metrics([("a", "run", *HIT_1)], of_a(HIT_1), budget(100, 1, 100)) == {
        "AR@1": 1,
        "AR@100": 1,
        "AUC": pytest.approx(float(Fraction(99, 100))),
    }


def test_the_rounding_of_floats_is_truncated_as_by_the_official_evaluator():
    # 49 · (2/49) is a little below 2 in floats: one proposal of 49 is kept at a budget of 2, two of 50.
    assert 49 * (2 / 49) < 2
    assert metrics([("a", "run", *HIT_1)], of_a(MISS, HIT_1, *[MISS] * 47), budget(2, 2))["AR@2"] == 0
    assert metrics([("a", "run", *HIT_1)], of_a(MISS, HIT_1, *[MISS] * 48), budget(2, 2))["AR@2"] == 1


def test_the_operations_of_floats_are_in_the_official_order():
    # Of 14 proposals for two videos each keeps 5 of 7; had 2/14 been taken first, it would keep 4.
    assert int(7 * (5 * 2 / 14)) == 5
    assert int(7 * (5 * (2 / 14))) == 4
    seven = [*[MISS] * 4, HIT_1, MISS, MISS]
    rows = [("a", "run", *HIT_1), ("b", "run", *HIT_1)]
    assert metrics(rows, [*of_a(*seven), *of_a(*seven, video="b")], budget(5, 5))["AR@5"] == 1


def test_labels_are_not_looked_at():
    rows = [("a", "run", *HIT_1, 0.9), ("a", "jump", *HIT_1, 0.8), ("a", "jump", *HIT_2, 0.7), ("a", "run", *MISS, 0.6)]
    # The second proposal is the first once more; that the third names a class right or wrong does not matter.
    expected = {"AR@1": 0.5, "AR@2": 0.5, "AR@3": 1}
    for relabelled in (rows, [(row[0], "", *row[2:]) for row in rows], [(row[0], "swim", *row[2:]) for row in rows]):
        assert metrics(TWO_SEGMENTS, relabelled, budget(4, 1, 2, 3)).items() >= expected.items()


@pytest.mark.parametrize("video", ["b", "elsewhere"], ids=["without a segment", "outside"])
def test_proposals_for_other_videos_use_up_budget(video):
    # Alone, a keeps both of its proposals; with two more in the file, int(2 · 2 · 1/4) = 1.
    rows = of_a(MISS, HIT_1)
    assert metrics([("a", "run", *HIT_1)], rows, budget(2, 2))["AR@2"] == 1
    assert metrics([("a", "run", *HIT_1)], [*rows, *of_a(HIT_1, HIT_2, video=video)], budget(2, 2))["AR@2"] == 0


def test_videos_without_a_segment_get_no_budget():
    # b and c hold none: the one video a may spend 1, not 3.
    rows = of_a(MISS, MISS, HIT_1)
    assert metrics([("a", "run", *HIT_1)], rows, budget(1, 1))["AR@1"] == 0
    assert metrics([(video, "run", *HIT_1) for video in VIDEOS], rows, budget(1, 1))["AR@1"] == float(Fraction(1, 3))


def test_a_video_without_proposals_is_missed():
    # Two videos may spend 4, a has 1: point j uses int(j/100 · 4), so that recall is 1/2 from point 25 on.
    rows = [("a", "run", *HIT_1), ("b", "run", *HIT_1)]
    area = (Fraction(1, 4) + 75 * Fraction(1, 2)) / 100
    assert metrics(rows, of_a(HIT_1), budget(2, 1, 2)) == {"AR@1": 0.5, "AR@2": 0.5, "AUC": pytest.approx(float(area))}


@pytest.mark.parametrize("rows", [[], of_a(HIT_1, video="b"), of_a(*[HIT_1] * 9, video="elsewhere")])
def test_nothing_proposed_where_there_are_segments_counts_zero(rows):
    result = evaluate([("a", "run", *HIT_1)], rows, budget(2, 1, 2))
    assert not result.recall.any()
    assert result.metrics() == {"AR@1": 0, "AR@2": 0, "AUC": 0}


def test_nothing_kept_counts_zero():
    # int(1 · 1 · 1/3) = 0.
    rows = [*of_a(HIT_1), *of_a(HIT_1, HIT_1, video="b")]
    assert metrics([("a", "run", *HIT_1)], rows, budget(1, 1)) == {"AR@1": 0, "AUC": 0}


def test_nothing_annotated_is_undefined():
    result = evaluate([], of_a(HIT_1), budget(2, 1, 2))
    assert np.isnan(result.recall).all()
    assert all(math.isnan(value) for value in result.metrics().values())


def test_nothing_resampled_that_holds_a_segment_is_undefined():
    assert math.isnan(metrics([("a", "run", *HIT_1)], of_a(HIT_1), budget(1, 1), np.array([0, 1, 1]))["AR@1"])


def test_a_segment_of_length_zero_is_never_found():
    rows = [("a", "run", 3, 3), ("a", "run", *HIT_1)]
    assert metrics(rows, of_a((3, 3), HIT_1), budget(2, 1, 2)).items() >= {"AR@1": 0, "AR@2": 0.5}.items()


def test_ignored_segments_and_excluded_videos_do_not_count():
    protocol = budget(2, 2, ignored_label="jump", video_set=VideoSet("without-b", "these tests", excluded=("b",)))
    rows = [("a", "run", *HIT_1), ("a", "jump", *HIT_2), ("b", "run", *HIT_1), ("c", "jump", *HIT_1)]
    ground_truth = truth(rows, videos=VIDEOS, labels=LABELS)
    statistics = proposals.statistics(ground_truth, predicted([*of_a(HIT_1), *of_a(MISS, video="b")]), protocol)
    assert statistics.videos == ("a", "c")
    assert statistics.ground_truth_video.tolist() == [0]
    # The proposal for b is gone: it is not outside, and uses no budget.
    assert (statistics.proposals.tolist(), statistics.outside) == ([1, 0], 0)
    assert proposals.score(statistics).metrics()["AR@2"] == 1


def test_statistics_by_hand():
    rows = [("b", "run", *HIT_1), ("a", "run", 0, 10), ("c", "run", *HIT_1)]
    found = [*of_a(MISS, (0, 6), (0, 10), video="a"), *of_a(MISS, video="b"), *of_a(MISS, MISS, video="elsewhere")]
    ground_truth = truth(rows, videos=VIDEOS, labels=LABELS)
    statistics = proposals.statistics(ground_truth, predicted(found), budget(2, 2, thresholds=(0.1, 0.5, 0.9)))
    assert statistics.proposals.tolist() == [3, 1, 0]
    assert statistics.outside == 2
    assert statistics.ground_truth_video.tolist() == [1, 0, 2]
    assert statistics.before.tolist() == [[1, 1, 1], [0, 1, 2], [0, 0, 0]]


def test_equal_scores_come_in_the_order_of_start_or_of_the_file_backwards():
    rows = [("a", "", *MISS, 0.5), ("a", "", *HIT_1, 0.5)]
    by_file = budget(2, 1, ties="file")
    assert metrics([("a", "run", *HIT_1)], rows, budget(2, 1))["AR@1"] == 1
    assert metrics([("a", "run", *HIT_1)], rows[::-1], budget(2, 1))["AR@1"] == 1
    assert metrics([("a", "run", *HIT_1)], rows, by_file)["AR@1"] == 1
    assert metrics([("a", "run", *HIT_1)], rows[::-1], by_file)["AR@1"] == 0


def test_thumos14_goes_to_a_thousand_proposals():
    # One proposal a video at a budget of 1000 is used from point 1 (AN 10) on; AN 50 is point 5.
    rows = [("a", "run", *HIT_1)]
    result = evaluate(rows, of_a(HIT_1), PROPOSAL_PROTOCOLS["thumos14"])
    assert list(result.metrics()) == ["AR@50", "AR@100", "AR@200", "AR@500", "AR@1000", "AUC"]
    # The 45th of 1000 proposals finds the segment: used by AN 50, not by AN 40.
    result = evaluate(rows, of_a(*[MISS] * 44, HIT_1, *[MISS] * 955), PROPOSAL_PROTOCOLS["thumos14"])
    assert result.average_recall.tolist() == [0.0] * 4 + [1.0] * 96
    assert result.metrics()["AR@50"] == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1, 1]), "video_weights must be integers of shape (3,), received int64 of shape (2,)."),
        (np.array([1, -2, 0]), "video_weights must not be negative, received -2."),
    ],
)
def test_weights_are_multiplicities(weights, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate([("a", "run", *HIT_1)], [], budget(1, 1), weights)


@quick
@given(TRUTHS.filter(bool), PROPOSALS, st.sampled_from([1, 2, 4, 50]))
def test_it_is_the_official_algorithm(truth_rows, proposal_rows, number):
    protocol = replace(THREE, budget=number, shown=(number,))
    expected = oracle.recall_curve(truth_rows, proposal_rows, protocol.thresholds, number)
    result = evaluate(truth_rows, proposal_rows, protocol)
    np.testing.assert_array_equal(result.recall, expected)
    average = expected.mean(axis=0)
    assert result.metrics()[f"AR@{number}"] == pytest.approx(average[-1], abs=1e-15)
    area = sum((average[j] + average[j + 1]) / 2 for j in range(99)) / 100
    assert result.metrics()["AUC"] == pytest.approx(area, abs=1e-12)


@quick
@given(TRUTHS, PROPOSALS, st.randoms(use_true_random=False))
def test_order_changes_nothing_to_the_last_bit(truth_rows, proposal_rows, random):
    def shuffled(items):
        return random.sample(list(items), len(items))

    before = evaluate(truth_rows, proposal_rows, THREE)
    for _ in range(10):
        after = evaluate(shuffled(truth_rows), shuffled(proposal_rows), THREE, videos=shuffled(VIDEOS))
        np.testing.assert_array_equal(after.recall, before.recall)
        np.testing.assert_array_equal([*after.metrics().values()], [*before.metrics().values()])


@quick
@given(TRUTHS, PROPOSALS, st.integers(-20, 20))
def test_the_unit_of_time_changes_nothing(truth_rows, proposal_rows, power):
    def scaled(rows):
        return [(row[0], row[1], row[2] * 2.0**power, row[3] * 2.0**power, *row[4:]) for row in rows]

    before = evaluate(truth_rows, proposal_rows, THREE)
    after = evaluate(scaled(truth_rows), scaled(proposal_rows), THREE)
    np.testing.assert_array_equal(after.recall, before.recall)


@quick
@given(TRUTHS, PROPOSALS, WEIGHTS)
def test_a_weight_is_a_number_of_copies_to_the_last_bit(truth_rows, proposal_rows, weights):
    times = dict(zip(VIDEOS, weights, strict=True))

    def copied(rows):
        return [(f"{row[0]}{copy}", *row[1:]) for row in rows for copy in range(times.get(row[0], 1))]

    names = [f"{video}{copy}" for video in VIDEOS for copy in range(times[video])]
    weighted = evaluate(truth_rows, proposal_rows, THREE, np.array(weights))
    repeated = evaluate(copied(truth_rows), copied(proposal_rows), THREE, videos=names)
    np.testing.assert_array_equal(weighted.recall, repeated.recall)
    np.testing.assert_array_equal([*weighted.metrics().values()], [*repeated.metrics().values()])


@quick
@given(TRUTHS.filter(bool), st.data())
def test_perfect_proposals_within_the_budget_find_everything(truth_rows, data):
    assume(all(start < end for _, _, start, end in truth_rows))
    scores = data.draw(st.lists(SCORES, min_size=len(truth_rows), max_size=len(truth_rows)))
    rows = [(*row, score) for row, score in zip(truth_rows, scores, strict=True)]
    # A video holds at most 8 segments here: at a budget of 8 nothing is cut off.
    assert metrics(truth_rows, rows, replace(THREE, budget=8, shown=(8,)))["AR@8"] == 1


@quick
@given(TRUTHS.filter(bool), PROPOSALS)
def test_recall_rises_with_the_number_and_falls_with_the_threshold(truth_rows, proposal_rows):
    recall = evaluate(truth_rows, proposal_rows, THREE).recall
    assert (np.diff(recall, axis=1) >= 0).all()
    assert (np.diff(recall, axis=0) <= 0).all()


@quick
@given(TRUTHS.filter(bool), PROPOSALS, st.sampled_from(VIDEOS), TIMES)
def test_within_the_budget_one_more_proposal_loses_nothing(truth_rows, proposal_rows, video, times):
    # Of the end of the curve, where all are used: in between, one more proposal changes every video's share.
    wide = replace(THREE, budget=20, shown=(20,))
    before = metrics(truth_rows, proposal_rows, wide)["AR@20"]
    assert metrics(truth_rows, [*proposal_rows, (video, "", *times, -1.0)], wide)["AR@20"] >= before


def test_beyond_the_budget_one_more_proposal_can_push_another_out():
    # Of 2 proposals a keeps both at a budget of 2; with one of b in the file, int(2 · 2/3) = 1.
    assert metrics(TWO_SEGMENTS, of_a(HIT_1, HIT_2), budget(2, 2))["AR@2"] == 1
    assert metrics(TWO_SEGMENTS, [*of_a(HIT_1, HIT_2), *of_a(MISS, video="b")], budget(2, 2))["AR@2"] == 0.5
