import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from tspbench.timeline import Timeline, interpolated


def resampled_by(timeline, rows, centres):
    """Return what a localizer is given for the steps of ``timeline``."""
    return interpolated(rows, timeline.places(centres))


def test_seconds_and_steps_by_hand():
    timeline = Timeline.whole(duration_seconds=20.0, steps=50)
    seconds = np.array([[0.0, 20.0], [4.0, 6.0], [1.0, 1.0]])
    steps = np.array([[0.0, 50.0], [10.0, 15.0], [2.5, 2.5]])
    assert_allclose(timeline.to_steps(seconds), steps, atol=1e-12)
    assert_allclose(timeline.to_seconds(steps), seconds, atol=1e-12)


def test_segments_are_clipped_to_the_video():
    assert_array_equal(Timeline.whole(10.0, 5).to_steps(np.array([[-1.0, 3.0], [8.0, 12.0]])), [[0, 1.5], [4, 5]])


def test_a_window_of_a_video_by_hand():
    # Steps of 0.5 s; the window covers steps 4 to 9 of a time line that begins at 1 s: seconds 3 to 6.
    window = Timeline(1.0, 0.5, 20).window(4, 6)
    assert window == Timeline(3.0, 0.5, 6)
    seconds = np.array([[3.0, 6.0], [3.5, 4.75], [0.0, 3.25], [5.0, 9.0], [0.0, 1.0]])
    assert_array_equal(window.to_steps(seconds), [[0, 6], [1, 3.5], [0, 0.5], [4, 6], [0, 0]])
    assert_array_equal(window.to_seconds(np.array([[0.0, 6.0], [1.0, 3.5]])), [[3, 6], [3.5, 4.75]])


def test_a_time_line_may_begin_before_its_video():
    # Clips of 8 frames every 12 at 12 a second: the step of row 0, centred at 1/3 s, begins at -1/6 s.
    timeline = Timeline(-1 / 6, 1.0, 3)
    assert_allclose(timeline.to_steps(np.array([[0.0, 1.0]])), [[1 / 6, 7 / 6]])
    assert_allclose(timeline.to_seconds(np.array([[0.0, 3.0]])), [[-1 / 6, 17 / 6]])


@pytest.mark.parametrize(
    ("start", "step", "steps"),
    [(np.nan, 1.0, 3), (0.0, 0.0, 3), (0.0, -1.0, 3), (0.0, np.inf, 3), (0.0, np.nan, 3), (0.0, 1.0, 0)],
)
def test_what_is_no_time_line_is_refused(start, step, steps):
    with pytest.raises(ValueError, match="above 0"):
        Timeline(start, step, steps)


def test_no_segment_is_no_segment():
    assert Timeline.whole(10.0, 5).to_steps(np.empty((0, 2))).shape == (0, 2)


@given(
    duration=st.floats(0.1, 1e5),
    steps=st.integers(1, 4096),
    shares=arrays(np.float64, (7, 2), elements=st.floats(0, 1)),
)
def test_seconds_come_back_from_steps(duration, steps, shares):
    timeline = Timeline.whole(duration, steps)
    seconds = shares * duration
    in_steps = timeline.to_steps(seconds)
    assert in_steps.min() >= 0
    assert in_steps.max() <= steps
    assert_allclose(timeline.to_seconds(in_steps), seconds, rtol=1e-12, atol=1e-12 * duration)


@given(
    start=st.floats(-10, 1e4),
    step=st.floats(0.01, 100),
    steps=st.integers(1, 4096),
    offset=st.integers(0, 4096),
    shares=arrays(np.float64, (7, 2), elements=st.floats(0, 1)),
)
def test_seconds_come_back_from_the_steps_of_a_window_and_are_the_whole_ones_moved(start, step, steps, offset, shares):
    whole = Timeline(start, step, offset + steps)
    window = whole.window(offset, steps)
    seconds = window.start_seconds + shares * (steps * step)
    in_steps = window.to_steps(seconds)
    assert in_steps.min() >= 0
    assert in_steps.max() <= steps
    scale = abs(start) + (offset + steps) * step
    assert_allclose(window.to_seconds(in_steps), seconds, rtol=0, atol=1e-12 * scale)
    assert_allclose(in_steps + offset, whole.to_steps(seconds), rtol=0, atol=1e-12 * scale / step)


@given(
    rows=st.integers(1, 120),
    steps=st.integers(1, 120),
    duration=st.floats(0.5, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_evenly_spread_rows_are_resampled_as_torch_does(rows, steps, duration, seed):
    features = np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)
    centres = (np.arange(rows) + 0.5) * (duration / rows)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(features.T)[None].double(), size=steps, mode="linear", align_corners=False
    )[0].T.numpy()
    resampled = resampled_by(Timeline.whole(duration, steps), features, centres)
    assert resampled.dtype == np.float32
    assert_allclose(resampled, reference, rtol=0, atol=1e-5)


def test_three_rows_by_hand():
    # Steps of 1 s in a video of 6 s, asked at 0.5, 1.5, …, 5.5; rows at 1, 2 and 5 s.
    rows = np.array([[0.0, 8.0], [4.0, 0.0], [1.0, 6.0]], dtype=np.float32)
    resampled = resampled_by(Timeline.whole(6.0, 6), rows, np.array([1.0, 2.0, 5.0]))
    expected = [
        [0, 8],  # before the first row: held
        [2, 4],  # half way from row 0 to row 1
        [3.5, 1],  # a sixth of the way from row 1 to row 2
        [2.5, 3],
        [1.5, 5],
        [1, 6],  # after the last row: held
    ]
    assert_allclose(resampled, expected, atol=1e-6)


def test_rows_at_the_asked_instants_come_back_unchanged():
    rows = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    assert_array_equal(resampled_by(Timeline.whole(4.0, 8), rows, (np.arange(8) + 0.5) / 2), rows)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_single_row_is_held_throughout(steps):
    row = np.array([[3.0, -1.0]], dtype=np.float32)
    assert_array_equal(resampled_by(Timeline.whole(9.0, steps), row, np.array([4.0])), np.repeat(row, steps, axis=0))


def test_no_step_lies_outside_what_the_rows_span():
    rows = np.array([[1.0], [2.0]], dtype=np.float32)
    assert_array_equal(resampled_by(Timeline.whole(100.0, 4), rows, np.array([1.0, 2.0])), [[2], [2], [2], [2]])


def test_some_of_the_rows_are_enough_for_some_of_the_steps():
    rows = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    timeline, centres = Timeline(0.3, 0.7, 25), np.arange(40) * 0.5 + 0.2
    whole, places = resampled_by(timeline, rows, centres), timeline.places(centres)
    for first, end in ((0, 25), (0, 5), (7, 13), (24, 25)):
        wanted = places[first:end]
        low, high = int(wanted[0]), int(wanted[-1]) + 2
        assert_array_equal(interpolated(rows[low:high], wanted - low), whole[first:end])
