import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import (
    LabelledSegment,
    cut_segments,
    epoch_segments,
    find_gaps,
    fit_clips,
    label_counts,
)


def cut(actions, duration=100.0, shortest=1.0, gap=5.0, classes=None):
    """Return the (start, end, action) of each segment."""
    array = np.array(actions, dtype=np.float64).reshape(-1, 2)
    classes = list(range(len(array))) if classes is None else classes
    segments = cut_segments("v", duration, array, classes, shortest, gap)
    assert {segment.video for segment in segments} <= {"v"}
    return [(segment.start, segment.end, segment.action) for segment in segments]


B = BACKGROUND


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([(10, 20)], [(10, 20, 0), (0, 10, B), (20, 100, B)]),
        ([], [(0, 100, B)]),
        ([(0, 100)], [(0, 100, 0)]),
        ([(0, 97)], [(0, 97, 0)]),  # 3 s are too short a background
        ([(60, 100)], [(60, 100, 0), (0, 60, B)]),
        # Overlapping and nested actions; background is what their union leaves.
        ([(10, 30), (20, 40)], [(10, 30, 0), (20, 40, 1), (0, 10, B), (40, 100, B)]),
        ([(10, 50), (20, 30)], [(10, 50, 0), (20, 30, 1), (0, 10, B), (50, 100, B)]),
        # The order in the file does not matter to the background.
        ([(60, 70), (10, 20)], [(60, 70, 0), (10, 20, 1), (0, 10, B), (20, 60, B), (70, 100, B)]),
        # Gaps: exactly at the limit, just below.
        ([(0, 45), (50, 100)], [(0, 45, 0), (50, 100, 1), (45, 50, B)]),
        ([(0, 45.01), (50, 100)], [(0, 45.01, 0), (50, 100, 1)]),
        # Actions: exactly as long as a clip, shorter, of length 0; those that are dropped still end the background.
        ([(50, 51)], [(50, 51, 0), (0, 50, B), (51, 100, B)]),
        ([(50, 50.9)], [(0, 50, B), (50.9, 100, B)]),
        ([(50, 50)], [(0, 50, B), (50, 100, B)]),
        # Annotations that leave the video.
        ([(-5, 10), (90, 120)], [(0, 10, 0), (90, 100, 1), (10, 90, B)]),
        ([(150, 160)], [(0, 100, B)]),
    ],
)
def test_cutting_by_hand(actions, expected):
    assert cut(actions) == expected


def test_classes_and_regions():
    segments = cut_segments("v", 30.0, np.array([[5.0, 10.0], [12.0, 20.0]]), [7, 3], 1.0, 2.0)
    assert [(s.action, s.region) for s in segments] == [(7, 0), (3, 0), (B, 1), (B, 1), (B, 1)]
    assert label_counts(segments) == {"foreground": 2, "background": 3}


@given(
    actions=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 150)), max_size=12),
    duration=st.integers(1, 450),
    gap=st.integers(1, 40),
)
def test_actions_and_gaps_are_counted_as_on_a_ruler(actions, duration, gap):
    segments = [(start, start + length) for start, length in actions]
    # Gaps between actions after the end of the video count as whole, and then end with the video.
    last = max([duration, *(start + length for start, length in actions)])
    free = np.ones(last, dtype=bool)
    for start, end in segments:
        free[start:end] = False
    if last > duration:
        free[max([duration, *(end for _, end in segments)]) :] = False
    runs, first = 0, None
    for second, is_free in enumerate([*free, False]):
        if is_free and first is None:
            first = second
        elif not is_free and first is not None:
            runs, first = runs + (second - first >= gap and first < duration), None
    found = cut(segments, duration, shortest=0.5, gap=gap)
    background = [(start, end) for start, end, action in found if action == B]
    # An action of length 0 cuts a gap in two on paper and not on the ruler: leave those cases out.
    if all(length for _, length in actions):
        assert len(background) == runs
    assert all(free[int(start) : int(end)].all() and end <= duration for start, end in background)


@pytest.mark.parametrize(
    ("actions", "union", "released"),
    [
        # Nested: the released files go on at 30, where the action ends that began last.
        ([(10, 60), (20, 30)], [(0, 10), (60, 100)], [(0, 10), (30, 100)]),
        # Overlapping without nesting: no difference.
        ([(10, 30), (20, 60)], [(0, 10), (60, 100)], [(0, 10), (60, 100)]),
        # Inside an action as long as the video there is background, too.
        ([(0, 100), (20, 30), (40, 50)], [], [(30, 40), (50, 100)]),
        # Two that begin together: the one that comes last in the file.
        ([(10, 60), (10, 30)], [(0, 10), (60, 100)], [(0, 10), (30, 100)]),
        ([(10, 30), (10, 60)], [(0, 10), (60, 100)], [(0, 10), (60, 100)]),
        # Behind the end, gaps between actions are kept as they are, and there is none after the last action.
        ([(80, 120), (150, 160)], [(0, 80), (120, 150)], [(0, 80), (120, 150)]),
        ([(150, 160)], [(0, 150)], [(0, 150)]),
        ([], [(0, 100)], [(0, 100)]),
    ],
)
def test_gaps_by_hand(actions, union, released):
    array = np.array(actions, dtype=np.float64).reshape(-1, 2)
    for as_released, expected in ((False, union), (True, released)):
        gaps = find_gaps(array, 100.0, 5.0, as_released=as_released)
        assert gaps.shape == (len(expected), 2)
        assert_array_equal(gaps, np.array(expected, dtype=np.float64).reshape(-1, 2))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), max_size=8), st.integers(1, 9))
def test_both_ways_of_cutting_agree_where_actions_do_not_overlap(actions, gap):
    ends = np.cumsum([start + length for start, length in actions])
    apart = np.array([(end - length, end) for (_, length), end in zip(actions, ends, strict=True)]).reshape(-1, 2)
    first, second = (find_gaps(apart.astype(float), 1e4, gap, as_released=each) for each in (False, True))
    assert_array_equal(first, second)


def test_segments_are_fitted_to_their_videos():
    segments = [
        LabelledSegment("a", -1.0, 1.0, 0),  # 1 s of it is in the video
        LabelledSegment("a", 9.5, 20.0, 1),  # half a second
        LabelledSegment("b", 9.5, 20.0, 1),
        LabelledSegment("a", 12.0, 20.0, 2),  # nothing
        LabelledSegment("a", 3.0, 3.0, 2),
        LabelledSegment("a", 4.0, 4.9, B),
        LabelledSegment("a", 4.0, 5.0, B),
    ]
    assert fit_clips(segments, {"a": 10.0, "b": 15.0}, 1.0) == [
        LabelledSegment("a", 0.0, 1.0, 0),
        LabelledSegment("b", 9.5, 15.0, 1),
        LabelledSegment("a", 4.0, 5.0, B),
    ]


def segments_of(foreground, background):
    actions = [LabelledSegment("v", k, k + 2.0, k % 3) for k in range(foreground)]
    return [*actions, *(LabelledSegment("v", k, k + 2.0, B) for k in range(background))]


@given(st.integers(1, 20), st.integers(0, 50), st.integers(1, 6), st.integers(0, 2**32))
def test_a_balanced_epoch_is_half_background(foreground, background, clips, seed):
    segments = segments_of(foreground, background)
    chosen = epoch_segments(segments, clips, "balanced", np.random.default_rng(seed))
    counts = np.bincount(chosen, minlength=len(segments))
    assert_array_equal(counts[:foreground], clips)
    shared_out = counts[foreground:]
    if background:
        assert shared_out.sum() == foreground * clips
        assert shared_out.max() - shared_out.min() <= 1  # evenly
    assert len(chosen) == foreground * clips * (2 if background else 1)


@given(st.integers(1, 20), st.integers(0, 50), st.integers(1, 6), st.integers(0, 2**32))
def test_an_epoch_of_every_segment(foreground, background, clips, seed):
    segments = segments_of(foreground, background)
    chosen = epoch_segments(segments, clips, "every-segment", np.random.default_rng(seed))
    assert_array_equal(np.bincount(chosen, minlength=len(segments)), clips)
    if not background:
        assert_array_equal(chosen, epoch_segments(segments, clips, "balanced", np.random.default_rng(seed)))


@pytest.mark.parametrize("sampling", ["balanced", "every-segment"])
def test_an_epoch_follows_from_its_generator_and_is_in_random_order(sampling):
    segments = segments_of(20, 30)
    first, again, other = (epoch_segments(segments, 5, sampling, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any()
    regions = np.array([segments[k].region for k in first])
    assert 60 < (regions[1:] != regions[:-1]).sum() < 140  # about half of 199


def test_background_takes_turns_from_epoch_to_epoch():
    segments = segments_of(2, 40)
    seen = [set(epoch_segments(segments, 5, "balanced", np.random.default_rng(seed)).tolist()) for seed in range(40)]
    assert set.union(*seen) == set(range(42))
