"""Clips with labels for encoders, epoch by epoch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tspbench.clips import clip_frames_at, segment_clip_starts
from tspbench.encoders.contract import Preprocessing
from tspbench.pretraining.contract import ClipLabels
from tspbench.pretraining.segments import LabelledSegment, Sampling, epoch_segments
from tspbench.storage.video import Frames, VideoInfo, open_video, scan_video
from tspbench.streaming import padded_grid

# Decoded videos are kept in memory as far as they fit in so many bytes; others are read clip by clip.
CACHE_BYTES: Final = 1 << 30
VALIDATION: Final = -1  # the "epoch" in which clips are evenly spaced instead of drawn

Key = tuple[int, int, int]  # epoch, place in the epoch, segment
Sample = tuple[Tensor, Tensor, Tensor, Tensor]  # clip, action, region, GVF
Batch = tuple[Tensor, ClipLabels]


class ClipReader:
    """Reads clips of many videos by time, decoding a video once where all of them fit in memory together."""

    def __init__(self, videos: Mapping[str, Path], spec: Preprocessing, cache_bytes: int = CACHE_BYTES) -> None:
        self._videos, self._spec = videos, spec
        self._share = cache_bytes // max(1, len(videos))  # what a video may take if each takes as much
        self._infos: dict[str, VideoInfo] = {}
        self._whole: dict[str, Frames] = {}

    def read(self, video: str, start: float) -> Frames:
        """Return the (clip_frames, H, W, 3) uint8 frames of the clip that starts at ``start`` seconds."""
        if video not in self._infos:
            self._infos[video] = scan_video(self._videos[video])
        info = self._infos[video]
        grid = padded_grid(info, self._spec)
        places = clip_frames_at(start, self._spec.clip_frames, self._spec.frame_rate, len(grid))
        if len(grid) * info.frame_bytes > self._share:
            return open_video(info).read(grid[places])
        if video not in self._whole:
            self._whole[video] = open_video(info).read(grid)
        return self._whole[video][places]


class ClipDataset(Dataset[Sample]):
    """Clips drawn from labelled segments; a clip follows from (seed, epoch, place) alone, whichever worker reads it."""

    def __init__(
        self,
        reader: ClipReader,
        spec: Preprocessing,
        segments: Sequence[LabelledSegment],
        gvf: Mapping[str, NDArray[np.float32]] | None,
        clips_per_segment: int,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.segments = segments
        self.clips_per_segment = clips_per_segment
        self.sampling = sampling
        self.seed = seed
        self._reader, self._spec, self._gvf = reader, spec, gvf

    def __getitem__(self, key: Key) -> Sample:
        """Return one clip (3, F, crop, crop), its action, its region and its video's GVF (empty when there is none)."""
        epoch, place, index = key
        segment = self.segments[index]
        if epoch == VALIDATION:
            starts = segment_clip_starts(
                segment.start, segment.end, self.clips_per_segment, self._spec.clip_seconds, None
            )
            start, generator = float(starts[place % self.clips_per_segment]), None
        else:
            rng = np.random.default_rng([self.seed, 10, epoch, place])
            start = float(segment_clip_starts(segment.start, segment.end, 1, self._spec.clip_seconds, rng)[0])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clip = self._spec.apply(torch.from_numpy(self._reader.read(segment.video, start)), generator)
        gvf = self._gvf[segment.video] if self._gvf is not None else np.empty(0, dtype=np.float32)
        return clip, torch.tensor(segment.action), torch.tensor(segment.region), torch.from_numpy(gvf)


class _Keys(Sampler[list[Key]]):
    """The batches of one epoch as keys; the epoch is set between epochs, so that workers live on."""

    def __init__(self, dataset: ClipDataset, batch_size: int) -> None:
        self._dataset, self._batch_size = dataset, batch_size
        self.epoch = VALIDATION

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            yield [(self.epoch, first + k, int(index)) for k, index in enumerate(chosen)]

    def __len__(self) -> int:
        return math.ceil(len(self._order()) / self._batch_size)

    def _order(self) -> NDArray[np.int64]:
        segments, clips = self._dataset.segments, self._dataset.clips_per_segment
        if self.epoch == VALIDATION:
            return np.repeat(np.arange(len(segments)), clips)
        rng = np.random.default_rng([self._dataset.seed, 11, self.epoch])
        return epoch_segments(segments, clips, self._dataset.sampling, rng)


class ClipBatches:
    """The clip batches of each epoch, with (B, 3, F, H, W) clips and their `ClipLabels`, on a device.

    Args:
        dataset: where clips come from.
        batch_size: clips in a batch.
        device: where batches are brought.
        workers: processes that decode; 0: this one.
    """

    def __init__(self, dataset: ClipDataset, batch_size: int, device: torch.device, workers: int) -> None:
        self._keys = _Keys(dataset, batch_size)
        self._device = device
        # Workers are spawned, never forked: decoders that were used before a fork deadlock behind it.
        self._loader: DataLoader[Sample] = DataLoader(
            dataset,
            batch_sampler=self._keys,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0), or of `VALIDATION`."""
        self._keys.epoch = epoch
        for clips, action, region, gvf in self._loader:
            labels = ClipLabels(action, region, gvf if gvf.shape[1] else None)
            yield clips.to(self._device, non_blocking=True), labels.to(self._device)

    def steps(self) -> int:
        """How many batches a training epoch has."""
        self._keys.epoch = 0
        return len(self._keys)
