import numpy as np
import pytest

from evaluation import temporal_iou
from evaluation.matching import match, match_by_segment, ranked, total_order
from tests.evaluation.helpers import predicted, truth


def matched(truth_rows, prediction_rows, thresholds, find=match):
    """Return, for predictions in the order given, whether they match at each threshold."""
    ground_truth = truth([("v", "run", *row) for row in truth_rows])
    predictions = predicted([("v", "run", *row) for row in prediction_rows]).aligned_to(ground_truth)
    order = total_order(predictions)
    table = find(ground_truth, predictions, order, np.array(thresholds))
    return table[np.argsort(order)].tolist()


def chosen(truth_rows, prediction_rows, thresholds):
    """Return the same where segments choose."""
    return matched(truth_rows, prediction_rows, thresholds, match_by_segment)


def test_the_highest_overlap_is_taken_not_the_first():
    # The first prediction overlaps [0, 10) by 8/10 and [1, 9) wholly; taking the latter leaves the former free.
    assert matched([(0, 10), (1, 9)], [(1, 9, 0.9), (0, 10, 0.8)], [0.9]) == [[True], [True]]


def test_a_taken_segment_leaves_the_next_best():
    # Both prefer [0, 10); the second still reaches [0, 8) with IoU 8/10.
    assert matched([(0, 8), (0, 10)], [(0, 10, 0.9), (0, 10, 0.8)], [0.8, 0.9]) == [[True, True], [True, False]]


def test_a_segment_is_found_once():
    assert matched([(0, 10)], [(0, 10, 0.8), (0, 9, 0.9)], [0.5]) == [[False], [True]]


def test_thresholds_do_not_disturb_each_other():
    # At 0.5 the first prediction takes the segment; at 0.9 it does not, and the second can.
    assert matched([(0, 10)], [(0, 6, 0.9), (0, 10, 0.8)], [0.5, 0.9]) == [[True, False], [False, True]]


def test_an_overlap_equal_to_the_threshold_is_enough():
    assert matched([(0, 10)], [(0, 5, 0.9)], [0.5, np.nextafter(0.5, 1)]) == [[True, False]]


@pytest.mark.parametrize("swap", [False, True])
def test_equal_overlap_takes_the_earliest_start(swap):
    # [2, 6) overlaps [0, 4) and [4, 8) by 2/6 each. Had it taken [4, 8), then [4, 8) would find nothing.
    rows = [(0, 4), (4, 8)]
    assert matched(rows[::-1] if swap else rows, [(2, 6, 0.9), (4, 8, 0.8)], [0.3]) == [[True], [True]]


@pytest.mark.parametrize("swap", [False, True])
def test_equal_overlap_and_start_take_the_earliest_end(swap):
    # [0, 4) overlaps [0, 2) by 2/4 and [0, 8) by 4/8. Had it taken [0, 8), then [0, 8) would find nothing.
    rows = [(0, 2), (0, 8)]
    assert matched(rows[::-1] if swap else rows, [(0, 4, 0.9), (0, 8, 0.8)], [0.5]) == [[True], [True]]


def test_the_same_instant_matches_and_another_does_not():
    assert matched([(3, 3)], [(4, 4, 0.9), (3, 3, 0.8)], [0.5, 1.0]) == [[False, False], [True, True]]


@pytest.mark.parametrize("find", [match, match_by_segment])
def test_other_videos_and_labels_do_not_match(find):
    ground_truth = truth([("a", "run", 0, 1), ("b", "jump", 0, 1)])
    rows = [("a", "jump", 0, 1, 0.4), ("b", "run", 0, 1, 0.3), ("c", "run", 0, 1, 0.2), ("a", "run", 0, 1, 0.1)]
    predictions = predicted(rows).aligned_to(ground_truth)
    table = find(ground_truth, predictions, np.arange(4), np.array([0.5]))
    assert table.ravel().tolist() == [False, False, False, True]


def test_a_segment_chooses_the_highest_overlap_not_the_surest():
    # The surest prediction, with IoU 6/10, is left to nobody.
    assert chosen([(0, 10)], [(0, 6, 0.9), (0, 10, 0.8)], [0.5]) == [[False], [True]]
    assert matched([(0, 10)], [(0, 6, 0.9), (0, 10, 0.8)], [0.5]) == [[True], [False]]


def test_a_segment_chooses_the_surest_of_equal_overlap():
    assert chosen([(0, 10)], [(2, 10, 0.7), (0, 8, 0.9), (1, 9, 0.8)], [0.5]) == [[False], [True], [False]]


@pytest.mark.parametrize("swap", [False, True])
def test_segments_choose_in_the_order_of_start(swap):
    # [1, 11) has IoU 9/11 with both segments. Had [2, 12) chosen first, [0, 10) would be left with [5, 12), IoU 5/12.
    rows = [(0, 10), (2, 12)]
    assert chosen(rows[::-1] if swap else rows, [(1, 11, 0.9), (5, 12, 0.8)], [0.6]) == [[True], [True]]


@pytest.mark.parametrize("swap", [False, True])
def test_segments_of_equal_start_choose_in_the_order_of_end(swap):
    # [0, 10) has IoU 8/10 with the first and 10/12 with the second. Had the second taken it, the first would be left
    # with [0, 15), IoU 8/15; so the second is, with IoU 12/15.
    rows = [(0, 8), (0, 12)]
    assert chosen(rows[::-1] if swap else rows, [(0, 10, 0.9), (0, 15, 0.8)], [0.7]) == [[True], [True]]


def test_an_overlap_equal_to_the_threshold_is_not_enough_for_a_segment():
    assert chosen([(0, 10)], [(0, 5, 0.9)], [np.nextafter(0.5, 0), 0.5]) == [[True, False]]


def test_a_chosen_prediction_is_chosen_once_at_each_threshold():
    # Both segments prefer [0, 10); the second is left with [0, 9), whose IoU 9/10 is not above 0.9.
    found = [[True, True], [True, False]]
    assert chosen([(0, 10), (0, 10)], [(0, 10, 0.9), (0, 9, 0.8)], [0.8, 0.9]) == found


def test_its_overlap_is_that_of_the_module_to_the_last_bit():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = np.sort(rng.uniform(0, 10, (2, 2)), axis=1)
        (iou,) = temporal_iou(one[None], other[None])[0]
        if iou > 0:
            assert matched([other], [(*one, 0.5)], [iou, np.nextafter(iou, 2)]) == [[True, False]]
            assert chosen([other], [(*one, 0.5)], [np.nextafter(iou, 0), iou]) == [[True, False]]


def test_the_total_order():
    rows = [
        ("a", "run", 0, 1, 0.9),  # score first
        ("a", "run", 0, 9, 0.5),  # then the name of the video
        ("b", "run", 0, 5, 0.5),  # then the start
        ("b", "run", 1, 2, 0.5),  # then the end
        ("b", "jump", 1, 3, 0.5),  # then the name of the label
        ("b", "run", 1, 3, 0.5),
        ("a", "run", 0, 1, 0.1),
    ]
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(len(rows))
        predictions = predicted([rows[index] for index in shuffled])
        assert shuffled[total_order(predictions)].tolist() == list(range(len(rows)))


def test_groups_come_one_after_the_other():
    rows = [("a", "run", 0, 1, 0.9), ("b", "jump", 0, 3, 0.5), ("a", "jump", 0, 9, 0.5), ("b", "jump", 2, 5, 0.5)]
    predictions = predicted(rows)
    assert ranked(predictions, predictions.video, "fixed").tolist() == [0, 2, 1, 3]
    assert ranked(predictions, predictions.label, "fixed").tolist() == [0, 2, 1, 3]
    # Of equal scores the last of the file comes first.
    assert ranked(predictions, predictions.video, "file").tolist() == [0, 2, 3, 1]
    assert ranked(predictions, predictions.label, "file").tolist() == [0, 3, 2, 1]
