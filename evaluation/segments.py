"""GroundTruth, Predictions: arrays that check themselves.

Times are seconds and segments are [start, end). A segment of length zero is legal, because published annotations hold
some; a segment that ends before it starts, and a time or score that is not finite, are errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CLASS_AGNOSTIC = -1


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated segments of one subset of a dataset; row i of every array is segment i.

    Attributes:
        videos: every video of the subset, also those without a segment; no name twice.
        labels: every class; no name twice. A class may have no segment.
        video: index into ``videos``, int64 (N,).
        start: seconds, float64 (N,).
        end: seconds, float64 (N,).
        label: index into ``labels``, int64 (N,).

    Raises:
        ValueError: an array has another type or shape, holds NaN or an index out of range, or ``end < start``.
    """

    videos: tuple[str, ...]
    labels: tuple[str, ...]
    video: Integers
    start: Floats
    end: Floats
    label: Integers

    def __post_init__(self) -> None:
        check_names("GroundTruth.videos", self.videos)
        check_names("GroundTruth.labels", self.labels)
        check_indices("GroundTruth.video", self.video, 0, len(self.videos), len(self.video))
        check_segments("GroundTruth", self.start, self.end, len(self.video))
        check_indices("GroundTruth.label", self.label, 0, len(self.labels), len(self.video))

    def __len__(self) -> int:
        return len(self.video)

    def where(self, kept: Booleans) -> "GroundTruth":
        """Return the segments that ``kept``, bool (N,), marks; the videos and labels stay."""
        return replace(self, video=self.video[kept], start=self.start[kept], end=self.end[kept], label=self.label[kept])

    def of_videos(self, names: Sequence[str]) -> "GroundTruth":
        """Return the part of ``names``, each of which must be one of ``videos``."""
        place = np.full(len(self.videos), -1, dtype=np.int64)
        index = {name: number for number, name in enumerate(self.videos)}
        place[[index[name] for name in names]] = np.arange(len(names))
        part = self.where(place[self.video] >= 0)
        return replace(part, videos=tuple(names), video=place[part.video])


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted segments; row i of every array is prediction i. The order of rows has no meaning.

    Attributes:
        video: index into ``videos``, int64 (N,).
        start: seconds, float64 (N,).
        end: seconds, float64 (N,).
        score: higher is more certain, any finite scale, float64 (N,).
        label: index into ``labels``, or -1 for a class-agnostic proposal, int64 (N,).
        videos: the names that ``video`` points into; no name twice.
        labels: the names that ``label`` points into; no name twice.

    Raises:
        ValueError: an array has another type or shape, holds NaN or an index out of range, or ``end < start``.
    """

    video: Integers
    start: Floats
    end: Floats
    score: Floats
    label: Integers
    videos: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        check_names("Predictions.videos", self.videos)
        check_names("Predictions.labels", self.labels)
        check_indices("Predictions.video", self.video, 0, len(self.videos), len(self.video))
        check_segments("Predictions", self.start, self.end, len(self.video))
        _check_finite("Predictions.score", self.score, len(self.video))
        check_indices("Predictions.label", self.label, CLASS_AGNOSTIC, len(self.labels), len(self.video))

    def __len__(self) -> int:
        return len(self.video)

    def where(self, kept: Booleans) -> "Predictions":
        """Return the predictions that ``kept``, bool (N,), marks; the names stay."""
        return replace(
            self,
            video=self.video[kept],
            start=self.start[kept],
            end=self.end[kept],
            score=self.score[kept],
            label=self.label[kept],
        )

    def aligned_to(self, ground_truth: GroundTruth) -> "Predictions":
        """Return the same predictions, pointing into the names of ``ground_truth``.

        The videos become those of ``ground_truth``, followed by those that it lacks; the labels become its labels.

        Raises:
            ValueError: a prediction has a label that ``ground_truth`` does not know.
        """
        if self.labels == ground_truth.labels and self.videos[: len(ground_truth.videos)] == ground_truth.videos:
            return self
        known = set(ground_truth.videos)
        videos = ground_truth.videos + tuple(name for name in self.videos if name not in known)
        video_index = {name: index for index, name in enumerate(videos)}
        label_index = {name: index for index, name in enumerate(ground_truth.labels)}
        unknown = {self.labels[index] for index in np.unique(self.label) if index >= 0} - label_index.keys()
        if unknown:
            raise ValueError(f"Predictions have labels that the ground truth does not know: {sorted(unknown)}.")
        # The last entry is where the index -1 of a class-agnostic proposal lands.
        new_label = np.array([*(label_index.get(name, CLASS_AGNOSTIC) for name in self.labels), CLASS_AGNOSTIC])
        new_video = np.array([video_index[name] for name in self.videos], dtype=np.int64)
        return replace(
            self,
            video=new_video[self.video],
            label=new_label[self.label],
            videos=videos,
            labels=ground_truth.labels,
        )


def check_names(what: str, names: tuple[str, ...]) -> None:
    """Raise ValueError if a name comes twice."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"{what} must name each entry once, received {twice!r} twice.")


def _check_array(what: str, array: NDArray[np.generic], dtype: type[np.generic], length: int) -> None:
    if array.dtype != dtype or array.shape != (length,):
        raise ValueError(
            f"{what} must be {dtype.__name__} of shape ({length},), received {array.dtype} of shape {array.shape}."
        )


def _check_finite(what: str, array: Floats, length: int) -> None:
    _check_array(what, array, np.float64, length)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{what} must be finite, received {array[bad[0]]} in row {bad[0]}.")


def check_indices(what: str, array: Integers, lowest: int, stop: int, length: int) -> None:
    """Raise ValueError unless ``array`` is int64 (length,) within [lowest, stop)."""
    _check_array(what, array, np.int64, length)
    bad = np.flatnonzero((array < lowest) | (array >= stop))
    if bad.size:
        raise ValueError(f"{what} must lie in [{lowest}, {stop}), received {array[bad[0]]} in row {bad[0]}.")


def check_segments(what: str, start: Floats, end: Floats, length: int) -> None:
    """Raise ValueError unless both are finite float64 (length,) and no segment ends before it starts."""
    _check_finite(f"{what}.start", start, length)
    _check_finite(f"{what}.end", end, length)
    bad = np.flatnonzero(end < start)
    if bad.size:
        row = bad[0]
        raise ValueError(f"{what} must not end before it starts, received [{start[row]}, {end[row]}) in row {row}.")
