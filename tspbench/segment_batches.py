"""Segments of videos with the rows of features that show them, in batches of like length."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.caption_contract import Stream, Streams
from tspbench.feature_reading import Features, Order, Piece, Workers
from tspbench.storage.features import FeatureFiles
from tspbench.timeline import Timeline
from tspbench.video_names import known_name

Floats = NDArray[np.float64]
Proposals = dict[str, tuple[Floats, Floats]]
"""Video → segments (n, 2) in seconds and scores (n,), best first."""

BUCKET_BATCHES: Final = 16  # so many batches of training segments are drawn together and sorted by length


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        video: its name in the feature files.
        duration_seconds: of the whole video.
        start_seconds: where the segment begins.
        end_seconds: where it ends.
    """

    video: str
    duration_seconds: float
    start_seconds: float
    end_seconds: float

    @property
    def lasts(self) -> bool:
        """Whether it has a length."""
        return self.end_seconds > self.start_seconds

    @classmethod
    def whole(cls, video: str, duration_seconds: float) -> Self:
        """Return all rows of a video as one segment."""
        return cls(video, duration_seconds, -math.inf, math.inf)


class SegmentStreams:
    """The rows of several segments in each feature set; rows are read when they are asked for, and none is kept.

    A segment shows every row whose step it touches, at least one. A video that a set other than the first lacks is
    silent there: one row of zeros.

    Args:
        sources: feature sets, the visual one first.
        segments: of videos that the first set has.
    """

    def __init__(self, sources: Sequence[FeatureFiles], segments: Sequence[Segment]) -> None:
        self.sources = list(sources)
        self.segments = list(segments)
        self._pieces = [_pieces(files, segments) for files in sources]
        self.lengths = np.array([_length(piece) for piece in self._pieces[0]], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.segments)

    def some(self, chosen: Sequence[int]) -> Self:
        """Return some of the segments."""
        some = copy(self)
        some.segments = [self.segments[k] for k in chosen]
        some._pieces = [[pieces[k] for k in chosen] for pieces in self._pieces]
        some.lengths = self.lengths[np.array(chosen, dtype=np.int64)]
        return some

    def timeline(self, segment: int) -> Timeline:
        """Return the time line of a segment's whole video, whose steps are the rows of the first feature set."""
        piece = self._pieces[0][segment]
        assert piece is not None  # noqa: S101 - the first set has every video
        return piece.timeline

    def orders(self, chosen: Sequence[int]) -> list[Order]:
        """Return what has to be read for some of the segments, one order a feature set."""
        orders = []
        for files, pieces in zip(self.sources, self._pieces, strict=True):
            some = [pieces[k] for k in chosen]
            orders.append(Order(some, (len(some), files.feature_dim, max(map(_length, some)))))
        return orders

    def streams(self, chosen: Sequence[int], features: Sequence[Features]) -> Streams:
        """Return some of the segments on the CPU.

        Args:
            chosen: numbers of the segments.
            features: (B, C, T) of each feature set, as read by `orders`.
        """
        streams = []
        for read, pieces in zip(features, self._pieces, strict=True):
            lengths = torch.tensor([_length(pieces[k]) for k in chosen])
            mask = torch.arange(read.shape[2]) < lengths[:, None]
            row_steps = [self._row_seconds(pieces, k) / self._row_seconds(self._pieces[0], k) for k in chosen]
            streams.append(Stream(torch.from_numpy(read), mask, torch.tensor(row_steps, dtype=torch.float32)))
        return tuple(streams)

    def _row_seconds(self, pieces: Sequence[Piece | None], segment: int) -> float:
        piece = pieces[segment]
        return self.segments[segment].duration_seconds if piece is None else piece.timeline.step_seconds


class SegmentBatches:
    """Segments in batches on a device, the same to the last bit however they are read.

    Args:
        segments: where batches come from.
        batch_size: segments in a batch.
        device: where batches are brought; to a GPU from pinned memory where workers read.
        workers: processes that read; 0: this one.
        seed: of the order in training.
    """

    def __init__(
        self, segments: SegmentStreams, batch_size: int, device: torch.device, workers: int, seed: int
    ) -> None:
        self.segments = segments
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self._workers = [Workers(files, workers) for files in segments.sources] if workers else None

    def steps(self) -> int:
        """How many batches there are."""
        return math.ceil(len(self.segments) / self._batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[list[int], Streams]]:
        """Yield all segments in an order that follows from (seed, epoch), from the batch ``first`` on.

        As (their numbers, what they show).

        Segments of like length share a batch, so that little of it is padding: `BUCKET_BATCHES` batches are drawn at
        random, sorted by length and cut, and all batches are shuffled.
        """
        return self._read(self._drawn(epoch)[first:])

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the videos of a batch of `epoch`."""
        return [self.segments.segments[number].video for number in self._drawn(epoch)[step]]

    def longest_first(self) -> Iterator[tuple[list[int], Streams]]:
        """Yield all segments: (their numbers, what they show); if memory is too small, the first batch says so."""
        return self._read(self._cut(np.argsort(-self.segments.lengths, kind="stable")))

    def _drawn(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, 40, epoch])
        order = rng.permutation(len(self.segments))
        size = self._batch_size * BUCKET_BATCHES
        buckets = [order[first : first + size] for first in range(0, len(order), size)]
        lengths = self.segments.lengths
        ordered = [bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets]
        batches = [batch for bucket in ordered for batch in self._cut(bucket)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def _cut(self, order: NDArray[np.int64]) -> list[list[int]]:
        return [order[first : first + self._batch_size].tolist() for first in range(0, len(order), self._batch_size)]

    def _read(self, batches: list[list[int]]) -> Iterator[tuple[list[int], Streams]]:
        parts = [self._read_one(number, batches) for number in range(len(self.segments.sources))]
        for chosen, features in zip(batches, zip(*parts, strict=True), strict=True):
            yield chosen, self._moved(self.segments.streams(chosen, features))

    def _read_one(self, number: int, batches: list[list[int]]) -> Iterator[Features]:
        """Yield the batches' features of one feature set."""
        files = self.segments.sources[number]
        orders = (self.segments.orders(chosen)[number] for chosen in batches)
        if self._workers is None:
            return (order.fill(lambda piece: piece.read(files)) for order in orders)
        return self._workers[number].read(orders)

    def _moved(self, streams: Streams) -> Streams:
        if self._device.type == "cuda":
            streams = tuple(replace(stream, features=stream.features.pin_memory()) for stream in streams)
        return tuple(
            Stream(
                stream.features.to(self._device, non_blocking=True),
                stream.mask.to(self._device),
                stream.row_steps.to(self._device),
            )
            for stream in streams
        )


def _pieces(files: FeatureFiles, segments: Sequence[Segment]) -> list[Piece | None]:
    there = files.videos
    row_timeline = cache(files.row_timeline)  # which opens the file: once for the many segments of a video
    pieces: list[Piece | None] = []
    for segment in segments:
        name = known_name(segment.video, there)
        pieces.append(None if name is None else _piece(name, segment, row_timeline(name, segment.duration_seconds)))
    return pieces


def _piece(video: str, segment: Segment, timeline: Timeline) -> Piece:
    start, end = timeline.to_steps(np.array([[segment.start_seconds, segment.end_seconds]]))[0]
    first = min(math.floor(start), timeline.steps - 1)
    last = max(first + 1, math.ceil(end))
    return Piece(video, segment.duration_seconds, timeline, first, last, as_rows=True)


def _length(piece: Piece | None) -> int:
    return 1 if piece is None else piece.end - piece.first
