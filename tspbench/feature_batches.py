"""Batches of whole videos for localizers, from memory or streamed by worker processes."""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from baselines.contract import FeatureBatch
from tspbench.errors import UserError
from tspbench.feature_views import Features, FeatureViews, Order, TimeSettings
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles

__all__ = ["FeatureBatches", "FeatureVideos", "FeatureViews", "TimeSettings"]


class FeatureBatches:
    """Views in batches on a device, the same to the last bit however they are read.

    Args:
        views: where batches come from.
        batch_size: views in a batch.
        device: where batches are brought.
        workers: processes that read the files and prepare; 0: this one. Features in memory need none and start none.
        seed: of the order of training views.
    """

    def __init__(self, views: FeatureViews, batch_size: int, device: torch.device, workers: int, seed: int) -> None:
        self.views = views
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self._orders = _Orders(views)
        self._loader: DataLoader[Features | UserError] | None = None
        if workers and not views.in_memory:
            self._loader = DataLoader(
                _Reader(views.files),
                batch_size=None,
                sampler=self._orders,
                num_workers=workers,
                collate_fn=_as_it_is,
                multiprocessing_context="spawn",  # HDF5 files that are open here must not be read behind a fork
                persistent_workers=True,
                generator=torch.Generator(),  # or a number for the workers would come from the global one
            )

    def steps(self) -> int:
        """How many batches there are."""
        return math.ceil(len(self.views) / self._batch_size)

    def epoch(self, epoch: int) -> Iterator[FeatureBatch]:
        """Yield all views in an order that follows from (seed, epoch)."""
        order = np.random.default_rng([self._seed, 20, epoch]).permutation(len(self.views)).tolist()
        for _, batch in self._batches(order):
            yield batch

    def in_order(self) -> Iterator[tuple[list[int], FeatureBatch]]:
        """Yield all views in their order: (numbers of the views, their batch)."""
        return self._batches(list(range(len(self.views))))

    def _batches(self, order: list[int]) -> Iterator[tuple[list[int], FeatureBatch]]:
        batches = [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]
        if self._loader is None:
            for chosen in batches:
                yield chosen, self.views.batch(chosen).to(self._device)
            return
        self._orders.batches = batches
        with _deaf_to_interrupts():
            read = iter(self._loader)
        for chosen, features in zip(batches, read, strict=True):
            if isinstance(features, UserError):
                raise features
            yield chosen, self._moved(self.views.batch(chosen, features))

    def _moved(self, batch: FeatureBatch) -> FeatureBatch:
        if self._device.type == "cuda":
            batch = replace(batch, features=batch.features.pin_memory().to(self._device, non_blocking=True))
        return batch.to(self._device)


class _Orders(Sampler[Order]):
    """What each batch needs; the batches are set between epochs, so that workers live on."""

    def __init__(self, views: FeatureViews) -> None:
        self._views = views
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[Order]:
        return (self._views.order(chosen) for chosen in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Reader(Dataset[Features | UserError]):
    """Reads whole batches in a worker.

    Arrays travel through a pipe: tensors would need shared memory, of which containers have little. A user's mistake
    is handed over like a batch, because torch would bury it in a traceback.
    """

    def __init__(self, files: FeatureFiles) -> None:
        self._files = files

    def __getitem__(self, order: Order) -> Features | UserError:
        try:
            return order.fill(lambda piece: piece.read(self._files))
        except UserError as error:
            return error


def _as_it_is(item: Any) -> Any:
    return item


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C: this one does, and ends them."""
    resource_tracker.ensure_running()  # its own start would end what follows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class FeatureVideos:
    """The videos of one subset as a localizer sees them: features resampled to ``steps`` steps, segments in steps.

    Args:
        files: the feature set.
        videos: annotated videos that have features, all of them.
        labels: class names in the order of their indices.
        steps: T.
    """

    def __init__(
        self, files: FeatureFiles, videos: Sequence[VideoAnnotations], labels: Sequence[str], steps: int
    ) -> None:
        self._views = FeatureViews(files, videos, labels, steps, TimeSettings(), training=True)
        self.names, self.timelines = self._views.names, self._views.timelines

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, chosen: Sequence[int], device: torch.device) -> FeatureBatch:
        """Return some of the videos as a batch on ``device``."""
        return self._views.batch(chosen).to(device)

    def epoch(self, epoch: int, batch_size: int, seed: int, device: torch.device) -> Iterator[FeatureBatch]:
        """Yield all videos in an order that follows from (seed, epoch)."""
        return FeatureBatches(self._views, batch_size, device, 0, seed).epoch(epoch)
