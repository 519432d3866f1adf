"""Proposals of videos with the features they lie in, in batches for refiners."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from baselines.refiner_contract import ProposalBatch
from tspbench.config import Settings
from tspbench.feature_reading import Workers
from tspbench.feature_views import FeatureViews

Floats = NDArray[np.float64]
Proposed = Mapping[str, tuple[Floats, Floats]]
"""Video → proposals (n, 2) in seconds and their scores (n,), best first."""


class RefineSettings(Settings):
    """What a refiner sees of the proposals.

    Args:
        best: so many of a video at most, those with the best scores; none: all, as P-GCN's release takes all of its
            lists.
        passes: how often an epoch shows each training video, each time with other proposals drawn from it.
    """

    best: int | None = Field(None, ge=1)
    passes: int = Field(1, ge=1)


class ProposalBatches:
    """Whole videos in batches on the CPU, each with its best proposals, the same to the last bit whoever reads them.

    What a proposal has beyond the ends of its video is cut off. Videos of which nothing is proposed are left out.

    Args:
        views: whole videos: mode "padded", not for training (which would cut long ones).
        proposed: what is proposed of these videos; it may speak of others.
        settings: see `RefineSettings`.
        batch_size: videos in a batch.
        workers: processes that read the files; 0: this one. Features in memory need none and start none.
        seed: of the order in training.

    Attributes:
        views: see above.
        proposals: number of a video among ``views`` → its proposals (n, 2) in steps and their scores (n,), best first,
            both float32; n is 1 or more.
    """

    def __init__(
        self,
        views: FeatureViews,
        proposed: Proposed,
        settings: RefineSettings,
        *,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        self.views = views
        self._passes, self._batch_size, self._seed = settings.passes, batch_size, seed
        self.proposals: dict[int, tuple[Tensor, Tensor]] = {}
        for number, name in enumerate(views.names):
            if name in proposed:
                segments, scores = self._in_steps(number, *proposed[name])
                if len(scores):
                    self.proposals[number] = segments[: settings.best], scores[: settings.best]
        self._workers = Workers(views.files, workers) if workers and not views.in_memory else None

    def __len__(self) -> int:
        return len(self.proposals)

    def steps(self) -> int:
        """How many batches an epoch has."""
        return math.ceil(len(self) * self._passes / self._batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[ProposalBatch, int]]:
        """Yield every video ``passes`` times, from the batch ``first`` on, each batch with the number of its videos.

        All of them come in one order that follows from (seed, epoch).
        """
        return ((batch, len(chosen)) for chosen, batch in self._batches(self._drawn(epoch)[first * self._batch_size :]))

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the videos of a batch of `epoch`."""
        drawn = self._drawn(epoch)[step * self._batch_size : (step + 1) * self._batch_size]
        return [self.views.names[number] for number in drawn]

    def in_order(self) -> Iterator[tuple[Sequence[int], ProposalBatch]]:
        """Yield every video once: (numbers of the videos, their batch)."""
        return self._batches(list(self.proposals))

    def _drawn(self, epoch: int) -> list[int]:
        numbers = list(self.proposals)
        order = np.random.default_rng([self._seed, 50, epoch]).permutation(len(self) * self._passes)
        return [numbers[k % len(self)] for k in order.tolist()]

    def _in_steps(self, video: int, segments_seconds: Floats, scores: Floats) -> tuple[Tensor, Tensor]:
        """Return the proposals of a video of which something lies inside."""
        inside = np.clip(segments_seconds, 0.0, self.views.durations[video])
        segments = torch.from_numpy(self.views.timelines[video].to_steps(inside)).float()
        kept = segments[:, 1] > segments[:, 0]
        return segments[kept], torch.from_numpy(scores).float()[kept]

    def _batches(self, order: Sequence[int]) -> Iterator[tuple[Sequence[int], ProposalBatch]]:
        # A video of a batch is read by itself: together they would be padded to the longest.
        read = None if self._workers is None else self._workers.read(self.views.order([number]) for number in order)
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            seen = [self.views.batch([number], None if read is None else next(read)) for number in chosen]
            proposals = [self.proposals[number] for number in chosen]
            yield (
                chosen,
                ProposalBatch(
                    features=[each.features[0] for each in seen],
                    proposals=[segments for segments, _ in proposals],
                    scores=[scores for _, scores in proposals],
                    segments=[each.segments[0] for each in seen],
                    labels=[each.labels[0] for each in seen],
                ),
            )
