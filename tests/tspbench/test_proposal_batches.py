"""Whole videos with the best of their proposals, in steps, whoever reads them."""

import numpy as np
import pytest
import torch

from baselines.refiner_contract import ProposalBatch
from tests.tspbench.stages.feature_sets import CLASSES, MEANING
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.proposal_batches import ProposalBatches, RefineSettings
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, VideoFeatures, write_features

NAMES = [f"v{k}" for k in range(7)]


@pytest.fixture
def files(tmp_path):
    """Write videos of 4 to 10 s, two rows a second, of which row k of video v tells 100 v + k."""
    videos = {}
    for k, name in enumerate(NAMES):
        rows = 100 * k + np.repeat(np.arange(8 + 2 * k, dtype=np.float32)[:, None], 4, axis=1)
        videos[name] = VideoFeatures(rows, 4.0 + k, "none")
    write_features(tmp_path / "f.h5", videos, MEANING)
    return FeatureFiles([tmp_path / "f.h5"])


def batches_of(files, proposed, step_seconds=None, memory_bytes=1 << 20, workers=0, batch_size=3, **settings):
    videos = [
        VideoAnnotations(name, "train", 4.0 + k, np.array([[1.0, 2.5], [3.0, 4.0]]), ("run", "jump"))
        for k, name in enumerate(NAMES)
    ]
    time = TimeSettings(mode="padded", step_seconds=step_seconds)
    views = FeatureViews(files, videos, CLASSES, 1, time, training=False, memory_bytes=memory_bytes)
    settings = RefineSettings(**settings)
    return ProposalBatches(views, proposed, settings, batch_size=batch_size, workers=workers, seed=3)


def some(*segments):
    return np.array(segments, dtype=np.float64), np.linspace(1, 0.5, len(segments))


def everywhere():
    rng = np.random.default_rng(0)
    return {name: some(*np.sort(rng.uniform(0, 4, (5, 2)), axis=1)) for name in NAMES}


def test_proposals_and_truth_are_in_steps_of_the_whole_video(files):
    batches = batches_of(files, {"v1": some([1.0, 3.0], [0.25, 5.0]), "v3": some([6.5, 7.0])})
    ((numbers, batch),) = batches.in_order()
    assert numbers == [1, 3]
    assert [segments.tolist() for segments in batch.proposals] == [[[2.0, 6.0], [0.5, 10.0]], [[13.0, 14.0]]]
    assert [scores.tolist() for scores in batch.scores] == [[1.0, 0.5], [1.0]]
    assert batch.segments[0].tolist() == [[2.0, 5.0], [6.0, 8.0]]
    assert batch.labels[0].tolist() == [1, 0]
    # Each video at its own length: no padding.
    assert [features[0].tolist() for features in batch.features] == [
        [100.0 + row for row in range(10)],
        [300.0 + row for row in range(14)],
    ]


def test_a_step_may_have_another_length_than_a_row(files):
    batches = batches_of(files, {"v0": some([1.0, 3.0])}, step_seconds=0.25)
    ((_, batch),) = batches.in_order()
    assert batch.features[0].shape == (4, 16)
    assert batch.proposals[0].tolist() == [[4.0, 12.0]]
    assert batch.segments[0].tolist() == [[4.0, 10.0], [12.0, 16.0]]


def test_what_lies_outside_the_video_is_cut_off_or_left_out(files):
    """Video v0 lasts 4 s; the last half step of 0.75 s lies behind its end."""
    proposed = {
        "v0": some([3.0, 9.0], [-1.0, 0.75], [-2.0, 0.0], [4.0, 5.0], [2.0, 2.0], [0.0, 1.5]),
        "v1": some([5.0, 6.0]),
        "v2": (np.empty((0, 2)), np.empty(0)),
    }
    batches = batches_of(files, proposed, step_seconds=0.75)
    ((numbers, batch),) = batches.in_order()
    assert numbers == [0]
    assert batch.proposals[0].numpy() == pytest.approx(np.array([[4, 16 / 3], [0, 1], [0, 2]]))
    assert batch.scores[0].tolist() == pytest.approx([1.0, 0.9, 0.5])
    assert len(batches) == batches.steps() == 1


def test_the_best_are_those_that_lie_inside(files):
    batches = batches_of(files, {"v0": some([4.0, 5.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0])}, best=2)
    assert batches.proposals[0][0].tolist() == [[2.0, 4.0], [4.0, 6.0]]


def shown(batch: ProposalBatch) -> list[int]:
    """Tell the videos of a batch by their first row."""
    return [int(features[0, 0]) // 100 for features in batch.features]


def test_an_epoch_shows_every_video_as_often_as_asked(files):
    batches = batches_of(files, everywhere(), batch_size=4, passes=3)
    assert batches.steps() == 6  # 21 by 4
    first, again, second = ([shown(batch) for batch, _ in batches.epoch(epoch)] for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [4] * 5 + [1]
        assert sorted(k for batch in epoch for k in batch) == sorted(list(range(7)) * 3)
    others = everywhere()
    del others["v2"]
    assert {k for batch, _ in batches_of(files, others).epoch(0) for k in shown(batch)} == {0, 1, 3, 4, 5, 6}


def test_whoever_reads_changes_nothing(files):
    kept, read, by_workers = (
        [batch for batch, _ in batches_of(files, everywhere(), None, memory, workers, passes=2).epoch(1)]
        for memory, workers in ((1 << 20, 0), (0, 0), (0, 1))
    )
    assert len(kept) == len(read) == len(by_workers) == 5
    for batch, *others in zip(kept, read, by_workers, strict=True):
        for other in others:
            for part in ("features", "proposals", "scores", "segments", "labels"):
                for mine, theirs in zip(getattr(batch, part), getattr(other, part), strict=True):
                    assert torch.equal(mine, theirs)


def test_an_epoch_can_begin_at_any_batch_and_knows_its_videos(files):
    batches = batches_of(files, everywhere(), batch_size=4, passes=3)
    whole = [(shown(batch), videos) for batch, videos in batches.epoch(1)]
    assert [videos for _, videos in whole] == [4] * 5 + [1]
    for first in (0, 2, 5, 6):
        assert [(shown(batch), videos) for batch, videos in batches.epoch(1, first)] == whole[first:]
    assert [batches.names(1, step) for step in range(6)] == [[f"v{k}" for k in videos] for videos, _ in whole]
