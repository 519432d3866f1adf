"""Reads the features of batches, here or in worker processes, which start at once because nothing here loads torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tspbench.processes import deaf_to_interrupts, end_with_parent
from tspbench.storage.features import FeatureFiles, Rows
from tspbench.timeline import Timeline, interpolated

Features = NDArray[np.float32]  # (B, C, T)
AHEAD: Final = 2  # batches that each worker is ahead of who takes them


@dataclass(frozen=True)
class Piece:
    """What has to be read for a part of a video: small, because it is sent to whichever process reads.

    Attributes:
        video: its name.
        duration_seconds: of the video.
        timeline: of the whole video.
        first: first step wanted.
        end: step behind the last one wanted; past the video's end its last step is continued.
        as_rows: whether steps are the file's rows as they are; else they are interpolated.
    """

    video: str
    duration_seconds: float
    timeline: Timeline
    first: int
    end: int
    as_rows: bool

    def read(self, files: FeatureFiles) -> Rows:
        """Return the (n, C) steps as far as the video goes, reading only the rows between which they lie."""
        end = min(self.end, self.timeline.steps)
        if self.as_rows:
            return files.rows(self.video, self.first, end)
        centres = files.centres(self.video, files.count(self.video), self.duration_seconds)
        places = self.timeline.places(centres)[self.first : end]
        low = min(int(places[0]), max(0, len(centres) - 2))
        return interpolated(files.rows(self.video, low, int(places[-1]) + 2), places - low)


@dataclass(frozen=True)
class Order:
    """What has to be read for a batch of features, and its shape (B, C, T); where there is no piece are zeros."""

    pieces: Sequence[Piece | None]
    shape: tuple[int, int, int]

    def fill(self, read: Callable[[Piece], Rows]) -> Features:
        """Return the features, zero behind the end of a piece."""
        features = np.zeros(self.shape, dtype=np.float32)
        for place, piece in enumerate(self.pieces):
            if piece is None:
                continue
            rows = read(piece)
            features[place, :, : len(rows)] = rows.T
            features[place, :, len(rows) : piece.end - piece.first] = rows[-1][:, None]
        return features


class Workers:
    """Processes that read orders. They start with the first one, and end with this object or with this process.

    Args:
        files: the feature set.
        workers: how many.
    """

    def __init__(self, files: FeatureFiles, workers: int) -> None:
        self._paths, self._workers = files.paths, workers
        # Spawned, never forked: HDF5 files that are open here must not be read behind a fork.
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)

    def read(self, orders: Iterable[Order]) -> Iterator[Features]:
        """Yield the features of each order in turn, reading `AHEAD`.

        Raises:
            UserError: what reading says, in the same words as if it were done here.
        """
        ahead: deque[Future[Features]] = deque()
        for order in orders:
            with deaf_to_interrupts():
                ahead.append(self._pool.submit(_fill, self._paths, order))
            if len(ahead) > AHEAD * self._workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _fill(paths: tuple[Path, ...], order: Order) -> Features:
    return order.fill(lambda piece: piece.read(_opened(paths)))


@cache
def _opened(paths: tuple[Path, ...]) -> FeatureFiles:
    return FeatureFiles(paths)
