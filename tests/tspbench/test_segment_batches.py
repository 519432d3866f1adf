"""Segments show the rows that they touch, whoever reads them, in batches of like length."""

import numpy as np
import pytest
import torch

from tests.tspbench.stages.feature_sets import MEANING
from tspbench.segment_batches import BUCKET_BATCHES, Segment, SegmentBatches, SegmentStreams
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features

CPU = torch.device("cpu")


def numbered(rows, dim, first=0):
    """Return rows that tell their own number."""
    return np.repeat(np.arange(first, first + rows, dtype=np.float32)[:, None], dim, axis=1)


@pytest.fixture
def visual(tmp_path):
    """Three videos of 8 s: 16 rows of half a second each; row k stands for the middle of [k / 2, k / 2 + 1 / 2)."""
    videos = {f"v{k}": VideoFeatures(numbered(16, 4, 100 * k), 8.0, "none") for k in range(3)}
    write_features(tmp_path / "visual.h5", videos, MEANING)
    return FeatureFiles([tmp_path / "visual.h5"])


@pytest.fixture
def sound(tmp_path):
    """One row a second, of the first two videos."""
    meaning = RowMeaning("vggish", "w", clip_frames=1, stride_frames=1, frame_rate=1.0, feature_dim=3, precision="fp32")
    videos = {f"v{k}": VideoFeatures(numbered(8, 3, 100 * k), 8.0, "none") for k in range(2)}
    write_features(tmp_path / "sound.h5", videos, meaning)
    return FeatureFiles([tmp_path / "sound.h5"])


def only(segments, batch_size=8, workers=0):
    return next(iter(SegmentBatches(segments, batch_size, CPU, workers, seed=0).longest_first()))


@pytest.mark.parametrize(
    ("start", "end", "rows"),
    [
        (1.0, 2.5, [2, 3, 4]),  # from row edge to row edge
        (1.1, 2.4, [2, 3, 4]),  # a row that is touched is shown whole
        (1.1, 1.2, [2]),
        (1.0, 1.0, [2]),  # no length: still one row
        (8.0, 8.0, [15]),  # at the very end: the last one
        (7.9, 20.0, [15]),
        (-5.0, 0.2, [0]),
        (-np.inf, np.inf, list(range(16))),
    ],
)
def test_a_segment_shows_the_rows_that_it_touches(visual, start, end, rows):
    _, (stream,) = only(SegmentStreams([visual], [Segment("v1", 8.0, start, end)]))
    assert stream.features[0, 0].tolist() == [100 + row for row in rows]
    assert stream.mask.tolist() == [[True] * len(rows)]
    assert stream.row_steps.tolist() == [1.0]


def test_sound_is_cut_by_its_own_time_and_is_silent_where_there_is_none(visual, sound):
    segments = [Segment("v1", 8.0, 2.0, 4.0), Segment("v2", 8.0, 2.0, 4.0)]
    _, (seen, heard) = only(SegmentStreams([visual, sound], segments))
    assert seen.features[:, 0].tolist() == [[104, 105, 106, 107], [204, 205, 206, 207]]
    assert heard.features[:, 0].tolist() == [[102, 103], [0, 0]]
    assert heard.mask.tolist() == [[True, True], [True, False]]
    assert heard.row_steps[0] == 2.0  # a second is two rows of half a second


def test_padding_is_zero_and_masked(visual):
    numbers, (stream,) = only(SegmentStreams([visual], [Segment("v0", 8.0, 1.0, 1.5), Segment("v1", 8.0, 0.0, 1.5)]))
    assert numbers == [1, 0]
    assert stream.mask.tolist() == [[True, True, True], [True, False, False]]
    assert stream.features[1, 0].tolist() == [2, 0, 0]


def some_segments(count):
    rng = np.random.default_rng(0)
    edges = np.sort(rng.uniform(0, 8, (count, 2)), axis=1)
    return [Segment(f"v{k % 3}", 8.0, start, end) for k, (start, end) in enumerate(edges.tolist())]


def test_an_epoch_has_every_segment_once_in_batches_of_like_length(visual):
    segments = SegmentStreams([visual], some_segments(BUCKET_BATCHES * 4 * 2 + 3))
    batches = SegmentBatches(segments, 4, CPU, 0, seed=3)
    first, again, second = ([chosen for chosen, _ in batches.epoch(epoch)] for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    for epoch in (first, second):
        assert len(epoch) == batches.steps()
        assert sorted(k for chosen in epoch for k in chosen) == list(range(len(segments)))
    padded = sum(int(segments.lengths[chosen].max()) * len(chosen) for chosen in first)
    order = np.random.default_rng(0).permutation(len(segments))
    unsorted = sum(int(segments.lengths[order[k : k + 4]].max()) * 4 for k in range(0, len(order), 4))
    whole = int(segments.lengths.sum())
    assert padded - whole < 0.3 * (unsorted - whole)
    # And the batches are not sorted themselves.
    assert [segments.lengths[chosen].max() for chosen in first] != sorted(
        segments.lengths[chosen].max() for chosen in first
    )


def test_the_longest_come_first_where_the_order_is_free(visual):
    segments = SegmentStreams([visual], some_segments(20))
    lengths = [
        segments.lengths[k] for chosen, _ in SegmentBatches(segments, 3, CPU, 0, 0).longest_first() for k in chosen
    ]
    assert lengths == sorted(segments.lengths, reverse=True)


def test_workers_change_nothing(visual, sound):
    segments = SegmentStreams([visual, sound], some_segments(10))
    here, there = (list(SegmentBatches(segments, 3, CPU, workers, seed=1).epoch(2)) for workers in (0, 1))
    assert [chosen for chosen, _ in here] == [chosen for chosen, _ in there]
    for (_, streams), (_, others) in zip(here, there, strict=True):
        for stream, other in zip(streams, others, strict=True):
            assert torch.equal(stream.features, other.features)
            assert torch.equal(stream.mask, other.mask)
            assert torch.equal(stream.row_steps, other.row_steps)


def test_an_epoch_can_begin_at_any_batch_and_knows_its_videos(visual):
    segments = SegmentStreams([visual], some_segments(20))
    batches = SegmentBatches(segments, 3, CPU, 0, seed=1)
    whole = [chosen for chosen, _ in batches.epoch(2)]
    assert len(whole) == 7
    for first in (0, 3, 7):
        assert [chosen for chosen, _ in batches.epoch(2, first)] == whole[first:]
    assert [batches.names(2, step) for step in range(7)] == [[f"v{k % 3}" for k in chosen] for chosen in whole]
