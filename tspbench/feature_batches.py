"""Batches of whole videos for localizers, from memory or streamed by worker processes."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from baselines.contract import FeatureBatch
from tspbench import ranks
from tspbench.feature_reading import Workers
from tspbench.feature_views import FeatureViews


class FeatureBatches:
    """Views in batches on a device, the same to the last bit however they are read.

    Args:
        views: where batches come from.
        batch_size: views in a batch.
        device: where batches are brought; to a GPU from pinned memory where workers read.
        workers: processes that read the files and prepare; 0: this one. Features in memory need none and start none.
        seed: of the order of training views.
    """

    def __init__(self, views: FeatureViews, batch_size: int, device: torch.device, workers: int, seed: int) -> None:
        self.views = views
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self._workers = Workers(views.files, workers) if workers and not views.in_memory else None

    def steps(self) -> int:
        """How many batches there are."""
        return math.ceil(len(self.views) / self._batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[FeatureBatch, int]]:
        """Yield all views in an order that follows from (seed, epoch), from the batch ``first`` on.

        Of each batch this process gets its share (`ranks.share`), and the number of views of the whole batch.
        """
        wholes = self._drawn(epoch)[first:]
        own = self._batches([ranks.share(whole) for whole in wholes])
        for whole, (_, batch) in zip(wholes, own, strict=True):
            yield batch, len(whole)

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the videos of a batch of `epoch`, over all processes."""
        return [self.views.names[self.views.views[number].video] for number in self._drawn(epoch)[step]]

    def in_order(self) -> Iterator[tuple[list[int], FeatureBatch]]:
        """Yield all views in their order: (numbers of the views, their batch)."""
        return self._batches(self._cut(list(range(len(self.views)))))

    def _drawn(self, epoch: int) -> list[list[int]]:
        return self._cut(np.random.default_rng([self._seed, 20, epoch]).permutation(len(self.views)).tolist())

    def _cut(self, order: list[int]) -> list[list[int]]:
        return [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]

    def _batches(self, groups: list[list[int]]) -> Iterator[tuple[list[int], FeatureBatch]]:
        if self._workers is None:
            for chosen in groups:
                yield chosen, self.views.batch(chosen).to(self._device)
            return
        read = self._workers.read(self.views.order(chosen) for chosen in groups)
        for chosen, features in zip(groups, read, strict=True):
            yield chosen, self._moved(self.views.batch(chosen, features))

    def _moved(self, batch: FeatureBatch) -> FeatureBatch:
        if self._device.type == "cuda":
            batch = replace(batch, features=batch.features.pin_memory().to(self._device, non_blocking=True))
        return batch.to(self._device)
