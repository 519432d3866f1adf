import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tspbench.clips import clip_centres, clip_frames_at, frame_grid, segment_clip_starts


def constant(frames, rate):
    """Return the timestamps and the duration of a video of constant rate."""
    return np.arange(frames) / rate, frames / rate


def in_milliseconds(frames, rate):
    """Return what a container that keeps whole milliseconds says of a video of constant rate."""
    times = np.round(np.arange(frames) / rate, 3)
    return times, float(times[-1] + np.median(np.diff(times)))


@pytest.mark.parametrize("video", [constant, in_milliseconds])
def test_30_to_15_frames_a_second_is_every_second_frame(video):
    assert_array_equal(frame_grid(*video(1052, 30), 15.0), np.arange(0, 1052, 2))


@pytest.mark.parametrize("video", [constant, in_milliseconds])
@pytest.mark.parametrize(("rate", "step"), [(15, 1), (30, 2), (45, 3), (60, 4)])
def test_whole_multiples_of_the_rate_skip_evenly(video, rate, step):
    assert_array_equal(frame_grid(*video(301, rate), 15.0), np.arange(0, 301, step))


@pytest.mark.parametrize("rate", [30000 / 1001, 24.83, 25, 24000 / 1001, 12.5, 10])
@pytest.mark.parametrize("video", [constant, in_milliseconds])
def test_other_rates_take_the_nearest_frame(video, rate):
    times, duration = video(240, rate)
    grid = frame_grid(times, duration, 15.0)
    instants = np.arange(len(grid)) / 15
    assert_allclose(np.abs(times[grid] - instants), np.abs(times[:, None] - instants).min(axis=0), atol=1e-9)
    assert abs(len(grid) - 240 / rate * 15) < 1
    assert instants[-1] < duration <= instants[-1] + 1 / 15 + 0.001 + 1e-6


def test_2997_frames_a_second_by_hand():
    # Frame 2k is shown at 2k · 1.001 / 30 s, k / 15000 s after the instant k / 15 s. Half a frame is
    # 1.001 / 60 s, reached at k = 250.25: from k = 251 on, the frame before is nearer.
    times, duration = constant(1200, 30000 / 1001)
    grid = frame_grid(times, duration, 15.0)
    assert_array_equal(grid[:251], np.arange(0, 502, 2))
    assert_array_equal(grid[251:], np.arange(501, 1200, 2))
    assert len(grid) == 601  # 40.04 s


def test_2483_frames_a_second_by_hand():
    # frame shown nearest to k / 15 s is round(k · 24.83 / 15) = round(1.6553 k)
    assert_array_equal(frame_grid(*constant(25, 24.83), 15.0)[:8], [0, 2, 3, 5, 7, 8, 10, 12])


def test_slow_videos_repeat_frames():
    assert_array_equal(frame_grid(*constant(4, 5), 15.0), [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3])


def test_a_variable_rate_is_sampled_by_time():
    times = np.array([0.0, 0.1, 0.2, 1.2, 1.3])
    assert_array_equal(frame_grid(times, 1.4, 5.0), [0, 2, 2, 2, 3, 3, 3])  # at 0, .2, .4, .6, .8, 1, 1.2


def test_a_video_of_one_frame_is_that_frame_for_its_duration():
    assert_array_equal(frame_grid(np.zeros(1), 0.2, 15.0), [0, 0, 0])
    assert_array_equal(frame_grid(np.zeros(1), 0.001, 15.0), [0])


@given(
    gaps=st.lists(st.floats(0.001, 2.0), min_size=0, max_size=60),
    last=st.floats(0.001, 1.0),
    rate=st.sampled_from([1.0, 7.5, 12.0, 15.0, 29.97]),
)
def test_the_grid_is_ascending_in_range_and_as_long_as_the_video(gaps, last, rate):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    duration = float(times[-1] + last)
    grid = frame_grid(times, duration, rate)
    assert grid.dtype == np.int64
    assert grid[0] == 0
    assert (np.diff(grid) >= 0).all()
    assert grid.max() < len(times)
    assert abs(len(grid) - duration * rate) <= 1
    instants = np.arange(len(grid)) / rate
    nearest = np.abs(times[:, None] - instants).min(axis=0)
    assert_allclose(np.abs(times[grid] - instants), nearest, atol=1e-9)


def test_centres_by_hand():
    # Clips of 16 frames at 15 fps every 8 frames: [0, 16), [8, 24), [16, 32), middles at frames 8, 16, 24.
    assert_allclose(clip_centres(3, 16, 8, 15.0), np.array([8, 16, 24]) / 15, atol=1e-12)


def test_validation_clips_are_spread_from_end_to_end():
    assert_allclose(segment_clip_starts(10.0, 20.0, 5, 2.0, None), [10, 12, 14, 16, 18])
    assert_allclose(segment_clip_starts(10.0, 12.0, 3, 2.0, None), [10, 10, 10])
    assert_allclose(segment_clip_starts(10.0, 11.0, 2, 2.0, None), [10, 10])  # shorter than a clip


@given(st.floats(0, 100), st.floats(0, 50), st.integers(0, 2**32))
def test_training_clips_lie_inside_their_segment(start, length, seed):
    starts = segment_clip_starts(start, start + length, 20, 1.0, np.random.default_rng(seed))
    assert starts.shape == (20,)
    assert (starts >= start).all()
    assert (starts <= max(start, start + length - 1.0)).all()


def test_training_clips_fill_their_segment():
    starts = segment_clip_starts(3.0, 8.0, 2000, 1.0, np.random.default_rng(0))
    counts, _ = np.histogram(starts, bins=4, range=(3, 7))
    assert (np.abs(counts - 500) < 100).all()


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0.0, [0, 1, 2, 3]),
        (0.26, [3, 4, 5, 6]),  # 3.12 frames
        (0.5, [6, 7, 8, 9]),
        (0.9, [6, 7, 8, 9]),  # the last place from which a whole clip fits
    ],
)
def test_a_clip_starts_at_the_nearest_frame_and_stays_inside(start, expected):
    assert_array_equal(clip_frames_at(start, 4, 12.0, 10), expected)


def test_a_video_shorter_than_a_clip_repeats_its_last_frame():
    assert_array_equal(clip_frames_at(0.2, 5, 12.0, 3), [0, 1, 2, 2, 2])
