import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from tspbench.timeline import Timeline


def test_seconds_and_steps_by_hand():
    timeline = Timeline(duration=20.0, steps=50)
    seconds = np.array([[0.0, 20.0], [4.0, 6.0], [1.0, 1.0]])
    steps = np.array([[0.0, 50.0], [10.0, 15.0], [2.5, 2.5]])
    assert_allclose(timeline.to_steps(seconds), steps, atol=1e-12)
    assert_allclose(timeline.to_seconds(steps), seconds, atol=1e-12)


def test_segments_are_clipped_to_the_video():
    assert_array_equal(Timeline(10.0, 5).to_steps(np.array([[-1.0, 3.0], [8.0, 12.0]])), [[0, 1.5], [4, 5]])


def test_no_segment_is_no_segment():
    assert Timeline(10.0, 5).to_steps(np.empty((0, 2))).shape == (0, 2)


@given(
    duration=st.floats(0.1, 1e5),
    steps=st.integers(1, 4096),
    shares=arrays(np.float64, (7, 2), elements=st.floats(0, 1)),
)
def test_seconds_come_back_from_steps(duration, steps, shares):
    timeline = Timeline(duration, steps)
    seconds = shares * duration
    in_steps = timeline.to_steps(seconds)
    assert in_steps.min() >= 0
    assert in_steps.max() <= steps
    assert_allclose(timeline.to_seconds(in_steps), seconds, rtol=1e-12, atol=1e-12 * duration)


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
    resampled = Timeline(duration, steps).resample(features, centres)
    assert resampled.dtype == np.float32
    assert_allclose(resampled, reference, rtol=0, atol=1e-5)


def test_three_rows_by_hand():
    # Steps of 1 s in a video of 6 s, asked at 0.5, 1.5, …, 5.5; rows at 1, 2 and 5 s.
    rows = np.array([[0.0, 8.0], [4.0, 0.0], [1.0, 6.0]], dtype=np.float32)
    resampled = Timeline(6.0, 6).resample(rows, np.array([1.0, 2.0, 5.0]))
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
    assert_array_equal(Timeline(4.0, 8).resample(rows, (np.arange(8) + 0.5) / 2), rows)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_single_row_is_held_throughout(steps):
    row = np.array([[3.0, -1.0]], dtype=np.float32)
    assert_array_equal(Timeline(9.0, steps).resample(row, np.array([4.0])), np.repeat(row, steps, axis=0))


def test_no_step_lies_outside_what_the_rows_span():
    rows = np.array([[1.0], [2.0]], dtype=np.float32)
    assert_array_equal(Timeline(100.0, 4).resample(rows, np.array([1.0, 2.0])), [[2], [2], [2], [2]])
