"""Captions: sentences with their segments, arrays that check themselves.

The captions that a model wrote and those that people wrote (one reference file) have the same form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.segments import Floats, Integers, check_indices, check_names, check_segments


@dataclass(frozen=True, eq=False)
class Captions:
    """Sentences about segments of videos; row i of every array is caption i.

    Attributes:
        videos: every video, also those without a caption; no name twice.
        video: index into ``videos``, int64 (N,).
        start: seconds, float64 (N,).
        end: seconds, float64 (N,).
        sentences: one text each, any Unicode, also empty, length N. Within a video the order of rows says which
            captions count where a protocol limits their number, and nothing else.

    Raises:
        ValueError: an array has another type or shape, holds NaN or an index out of range, or ``end < start``.
    """

    videos: tuple[str, ...]
    video: Integers
    start: Floats
    end: Floats
    sentences: tuple[str, ...]

    def __post_init__(self) -> None:
        check_names("Captions.videos", self.videos)
        check_indices("Captions.video", self.video, 0, len(self.videos), len(self.sentences))
        check_segments("Captions", self.start, self.end, len(self.sentences))

    def __len__(self) -> int:
        return len(self.sentences)

    def rows(self) -> dict[str, Integers]:
        """Return the rows of each video of ``videos``, in their order, int64 (n,)."""
        order = np.argsort(self.video, kind="stable")
        bounds = np.searchsorted(self.video[order], np.arange(len(self.videos) + 1))
        return {name: order[bounds[i] : bounds[i + 1]] for i, name in enumerate(self.videos)}


def all_videos(references: Sequence[Captions]) -> tuple[str, ...]:
    """Return the videos that have a sentence in any of the reference files, sorted."""
    return tuple(sorted({file.videos[index] for file in references for index in np.unique(file.video)}))
