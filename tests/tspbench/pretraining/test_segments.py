import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.evaluation.helpers import shared
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment, balanced_epoch, cut_segments, label_counts


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
    free = np.ones(duration, dtype=bool)
    for start, end in segments:
        free[start:end] = False
    runs, length = 0, 0
    for second in [*free, False]:
        if not second:
            runs, length = runs + (length >= gap), 0
        else:
            length += 1
    found = cut(segments, duration, shortest=0.5, gap=gap)
    background = [(start, end) for start, end, action in found if action == B]
    # An action of length 0 cuts a gap in two on paper and not on the ruler: leave those cases out.
    if all(length for _, length in actions):
        assert len(background) == runs
    assert all(free[int(start) : int(end)].all() for start, end in background)


@pytest.mark.parametrize(("name", "videos"), [("valid", 200), ("test", 212)])
def test_background_is_cut_as_in_the_ground_truth_of_tsp(name, videos):
    """FACTS 10.2: the same number of background segments in every video of THUMOS14."""
    actions, durations, published = defaultdict(list), {}, defaultdict(int)
    with gzip.open(shared(f"data/thumos14/{name}_tsp_groundtruth.csv.gz"), "rt") as file:
        for row in csv.DictReader(file):
            video = row["video-name"]
            durations[video] = float(row["video-duration"])
            if row["temporal-region-label"] == "Action":
                actions[video].append((float(row["t-start"]), float(row["t-end"])))
            else:
                published[video] += 1
    assert len(durations) == videos

    def background(video, duration):
        return sum(action == B for _, _, action in cut(actions[video], duration, shortest=16 / 15, gap=16 / 15))

    # A few videos are annotated beyond their end: the published cut follows the annotations, ours the video.
    ends = {video: max([durations[video], *(end for _, end in actions[video])]) for video in durations}
    assert {video: background(video, ends[video]) for video in durations} == {v: published[v] for v in durations}
    others = {video for video in durations if background(video, durations[video]) != published[video]}
    assert others == {"valid": {"video_validation_0000364"}, "test": {"video_test_0000270", "video_test_0000814"}}[name]
    assert all(ends[video] > durations[video] + 14 for video in others)


def segments_of(foreground, background):
    actions = [LabelledSegment("v", k, k + 2.0, k % 3) for k in range(foreground)]
    return [*actions, *(LabelledSegment("v", k, k + 2.0, B) for k in range(background))]


@given(st.integers(1, 20), st.integers(0, 50), st.integers(1, 6), st.integers(0, 2**32))
def test_an_epoch_is_half_background(foreground, background, clips, seed):
    segments = segments_of(foreground, background)
    chosen = balanced_epoch(segments, clips, np.random.default_rng(seed))
    counts = np.bincount(chosen, minlength=len(segments))
    assert_array_equal(counts[:foreground], clips)
    shared_out = counts[foreground:]
    if background:
        assert shared_out.sum() == foreground * clips
        assert shared_out.max() - shared_out.min() <= 1  # evenly
    assert len(chosen) == foreground * clips * (2 if background else 1)


def test_an_epoch_follows_from_its_generator_and_is_in_random_order():
    segments = segments_of(20, 30)
    first, again, other = (balanced_epoch(segments, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any()
    regions = np.array([segments[k].region for k in first])
    assert 60 < (regions[1:] != regions[:-1]).sum() < 140  # about half of 199


def test_background_takes_turns_from_epoch_to_epoch():
    segments = segments_of(2, 40)
    seen = [set(balanced_epoch(segments, 5, np.random.default_rng(seed)).tolist()) for seed in range(40)]
    assert set.union(*seen) == set(range(42))
