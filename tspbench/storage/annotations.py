"""ActivityNet annotation files: videos, subsets, segments, labels.

The format is ``{"database": {video: {"subset", "duration"?, "annotations": [{"segment": [start, end], "label"}]}}}``,
plain or gzipped; other keys are ignored. Times are seconds. Segments of length zero are kept: published files hold
some. Error messages count annotations from 1.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.segments import GroundTruth
from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.storage.json_files import (
    found,
    is_number,
    read_content,
    read_entries,
    read_json,
    segment_problem,
    uncollected,
    unknown_label,
)


@dataclass(frozen=True, eq=False)
class VideoAnnotations:
    """What an annotation file says about one video.

    Attributes:
        name: the video's key in the file.
        subset: such as "training".
        duration_seconds: None if the file does not state it.
        segments: [start, end) in seconds in file order, float64 (n, 2).
        labels: class name of each segment, length n.
    """

    name: str
    subset: str
    duration_seconds: float | None
    segments: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Annotations:
    """A whole annotation file.

    Attributes:
        path: the file, for messages.
        videos: in file order.
    """

    path: Path
    videos: tuple[VideoAnnotations, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Every label of every subset, sorted."""
        return tuple(sorted({label for video in self.videos for label in video.labels}))

    def subset(self, name: str) -> list[VideoAnnotations]:
        """Return the videos of a subset in file order, also those without a segment.

        Raises:
            UserError: the file has no such subset.
        """
        choose(f"subset of {self.path}", name, {video.subset for video in self.videos})
        return [video for video in self.videos if video.subset == name]

    def ground_truth(self, subset: str, labels: tuple[str, ...] | None = None) -> GroundTruth:
        """Return the segments of a subset.

        Args:
            subset: such as "validation".
            labels: the classes, in the order of their indices; ``self.labels`` if None.

        Raises:
            UserError: the file has no such subset, the subset has no segment, or a label is not in ``labels``.
        """
        videos = self.subset(subset)
        index = {label: number for number, label in enumerate(self.labels if labels is None else labels)}
        for video in videos:
            for number, label in enumerate(video.labels, start=1):
                if label not in index:
                    raise UserError(
                        f"{self.path}, video {video.name!r}, annotation {number}: expected a label of the given list, "
                        f"found {unknown_label(label, index)}; correct it or add it to the list."
                    )
        counts = [len(video.labels) for video in videos]
        if not sum(counts):
            raise UserError(
                f"{self.path}: expected annotated segments in subset {subset!r}, found none in "
                f"{len(videos):,} video(s); choose another subset or a file that annotates this one."
            )
        segments = np.concatenate([video.segments for video in videos])
        return GroundTruth(
            videos=tuple(video.name for video in videos),
            labels=tuple(index),
            video=np.repeat(np.arange(len(videos)), counts),
            start=segments[:, 0].copy(),
            end=segments[:, 1].copy(),
            label=np.array([index[label] for video in videos for label in video.labels], dtype=np.int64),
        )


@uncollected()
def read_annotations(path: Path) -> Annotations:
    """Read an ActivityNet annotation file, .json or .json.gz.

    Raises:
        UserError: the file is missing, damaged, not JSON, or an entry does not fit the format; the sentence names
            the video and the annotation.
    """
    database = read_entries(path, "database", "annotation")
    return Annotations(path, tuple(_video(path, name, entry) for name, entry in database.items()))


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a list of labels: a JSON list of strings, or a .txt file with one label a line.

    Raises:
        UserError: the file is missing, not such a list, empty, or names a label twice.
    """
    if path.suffix == ".txt":
        text = read_content(path, "label").decode(errors="replace")
        labels: object = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        labels = read_json(path, "label")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{path}: expected a list of labels, found {found(labels)}; give a JSON list of strings.")
    twice = next((label for number, label in enumerate(labels) if label in labels[:number]), None)
    if twice is not None:
        raise UserError(f"{path}: expected each label once, found {twice!r} twice; remove one.")
    return tuple(labels)


def _video(path: Path, name: str, entry: object) -> VideoAnnotations:
    where = f"{path}, video {name!r}"
    if not isinstance(entry, dict):
        raise UserError(f'{where}: expected an object with "subset" and "annotations", found {found(entry)}; mend it.')
    subset, duration, annotations = entry.get("subset"), entry.get("duration"), entry.get("annotations")
    if not isinstance(subset, str):
        raise UserError(f'{where}: expected the name of a "subset", found {found(subset)}; name one, such as "test".')
    if not isinstance(annotations, list):
        raise UserError(
            f'{where}: expected a list of "annotations", found {found(annotations)}; give [] if there are none.'
        )
    if duration is not None and not (is_number(duration) and duration >= 0):
        raise UserError(
            f'{where}: expected a "duration" in seconds, found {found(duration)}; correct it or leave it out.'
        )
    for number, annotation in enumerate(annotations, start=1):
        _check_annotation(f"{where}, annotation {number}", annotation)
    return VideoAnnotations(
        name=name,
        subset=subset,
        duration_seconds=None if duration is None else float(duration),
        segments=np.array([annotation["segment"] for annotation in annotations], dtype=np.float64).reshape(-1, 2),
        labels=tuple(annotation["label"] for annotation in annotations),
    )


def _check_annotation(where: str, annotation: object) -> None:
    if not isinstance(annotation, dict):
        expected, value = 'an object with "segment" and "label"', annotation
    elif problem := segment_problem(annotation.get("segment")):
        expected, value = problem, annotation.get("segment")
    elif not isinstance(annotation.get("label"), str):
        expected, value = 'the name of a "label"', annotation.get("label")
    else:
        return
    raise UserError(f"{where}: expected {expected}, found {found(value)}; correct or remove this annotation.")
