import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from evaluation import temporal_iou
from tspbench import reference_rows
from tspbench.reference_rows import FREE_REFERENCES, REFERENCES, UNTRAINED, closest_on_grid
from tspbench.timeline import Timeline


def pairs(steps, longest=None):
    """All segments [s, e) of whole steps, up to ``longest`` steps."""
    return np.array([(s, e) for s in range(steps) for e in range(s + 1, min(steps, s + (longest or steps)) + 1)]) * 1.0


def test_the_whole_video_is_one_segment():
    segments, scores = UNTRAINED["whole-video"](12.5)
    assert_array_equal(segments, [[0.0, 12.5]])
    assert_array_equal(scores, [1.0])


def test_the_uniform_grid_halves_again_and_again():
    segments, scores = UNTRAINED["uniform-grid"](16.0)
    assert_array_equal(segments[:7], [[0, 16], [0, 8], [8, 16], [0, 4], [4, 8], [8, 12], [12, 16]])
    assert_array_equal(scores[:7], [1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    assert len(segments) == len(scores) == 63
    assert_allclose(np.diff(segments[31:], axis=1), 0.5)
    assert (np.diff(scores) <= 0).all()


def test_the_closest_segment_by_hand():
    """A grid of 4 steps of 2 s. [1, 5) has IoU 4 / 6 with [0, 6), 3 / 5 with [2, 6) and [0, 4), 2 / 4 with [2, 4)."""
    truth = np.array([[1.0, 5.0], [2.0, 4.0], [6.5, 7.0]])
    closest, iou = closest_on_grid(truth, pairs(4), [Timeline.whole(8.0, 4)], 8.0)
    assert_array_equal(closest, [[0, 6], [2, 4], [6, 8]])
    assert_allclose(iou, [4 / 6, 1, 0.5 / 2])


def test_the_best_window_is_taken():
    """Steps of 1 s, windows [0, 4) and [4, 8), segments of at most 3 steps: no window holds [3, 6) as a whole."""
    windows = [Timeline(0.0, 1.0, 4), Timeline(4.0, 1.0, 4)]
    truth = np.array([[3.0, 6.0], [5.0, 7.0], [0.0, 4.0]])
    assert_array_equal(closest_on_grid(truth, pairs(4, 3), windows, 8.0)[0], [[4, 6], [5, 7], [0, 3]])


def test_what_lies_beyond_the_video_is_cut_off_as_in_prediction():
    """Steps of 2 s reach 1 s beyond a video of 7 s: [4, 8) becomes [4, 7), which is [4, 7) itself."""
    closest, iou = closest_on_grid(np.array([[4.0, 7.0]]), pairs(4), [Timeline(0.0, 2.0, 4)], 7.0)
    assert_array_equal(closest, [[4, 7]])
    assert_array_equal(iou, [1.0])


def test_without_a_grid_every_segment_can_be_said():
    truth = np.array([[0.123, 4.56]])
    closest, iou = closest_on_grid(truth, None, [], 8.0)
    assert_array_equal(closest, truth)
    assert_array_equal(iou, [1.0])


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 10)), max_size=5), st.integers(1, 7), st.integers(1, 40))
def test_nothing_on_the_grid_is_closer(segments, steps, together):
    truth = np.array([(start, start + length) for start, length in segments]).reshape(-1, 2)
    timelines = [Timeline.whole(20.0, steps), Timeline(3.0, 0.7, steps)]
    grid = pairs(steps)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reference_rows, "CELLS_AT_ONCE", together)
        closest, iou = closest_on_grid(truth, grid, timelines, 20.0)
    every = np.clip(np.concatenate([timeline.to_seconds(grid) for timeline in timelines]), 0.0, 20.0)
    assert_array_equal(iou, np.diag(temporal_iou(truth, closest)))
    assert_array_equal(iou, temporal_iou(truth, every).max(axis=1, initial=0))


def test_every_reference_has_a_name():
    assert set(UNTRAINED) < set(FREE_REFERENCES) < set(REFERENCES)
