"""The videos of a feature study with their actions, and how the clips of its feature sets lie in time."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.feature_study import clip_actions
from tspbench.stages.segments import annotated_actions
from tspbench.storage.features import FeatureFiles
from tspbench.storage.row_clips import RowClips, read_row_clips

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SPARE_SHARE: Final = 0.05  # of the clips may be more in one set: some keep the last one of a video, some drop it


class StudiedVideo(NamedTuple):
    """A video that every feature set has: its name, length, (N, 2) actions in seconds and their (N,) classes."""

    name: str
    duration: float | None
    segments: Floats
    classes: Integers

    def clip_actions(self, files: FeatureFiles) -> Integers:
        """Return the class of each clip of a feature set, see `feature_study.clip_actions`."""
        count = files.count(self.name)
        centres = files.centres(self.name, count, files.duration(self.name, self.duration))
        return clip_actions(centres, self.segments, self.classes)


class StudiedVideos(NamedTuple):
    """What is studied: class names, and the videos of each role."""

    labels: tuple[str, ...]
    training: list[StudiedVideo]
    validation: list[StudiedVideo]


def studied_videos(dataset: Dataset, files: Mapping[str, FeatureFiles]) -> tuple[StudiedVideos, list[str]]:
    """Return the videos that every set has, without segments that the protocol ignores, and what is left out.

    Raises:
        UserError: the sets have no video of a role in common, or none in which something that counts is annotated.
    """
    annotations, ignored = dataset.read(), DETECTION_PROTOCOLS[dataset.protocol].ignored_label
    labels = tuple(label for label in annotations.labels if label != ignored)
    index = {label: place for place, label in enumerate(labels)}
    notes: list[str] = []
    found: dict[str, list[StudiedVideo]] = {}
    for role in ("training", "validation"):
        annotated = annotations.subset(dataset.subset(role))
        there = [video for video in annotated if all(video.name in each for each in files.values())]
        kept = [(video, actions) for video in there if (actions := annotated_actions(video, ignored)) is not None]
        if not there:
            raise UserError(
                f"{dataset.annotations}: expected some of its {len(annotated):,} {role} videos (such as "
                f"{annotated[0].name}) in every feature set ({', '.join(files)}), found none: give the files of both "
                "subsets, as NAME=TRAINING.h5,VALIDATION.h5."
            )
        if not kept:
            raise UserError(
                f"{dataset.annotations}: expected something else than {ignored!r} in one of the {len(there):,} {role} "
                f"videos (first: {there[0].name}) that every feature set has, found nothing: give features of others."
            )
        if len(there) < len(annotated):
            notes.append(
                f"{len(annotated) - len(there):,} of {len(annotated):,} {role} videos are left out, because not every "
                "set has features of them."
            )
        found[role] = [
            StudiedVideo(video.name, video.duration_seconds, segments, np.array([index[each] for each in named], int))
            for video, (segments, named) in kept
        ]
    if len(labels) == 1:
        notes.append(f"The set has one class, {labels[0]}: there is no accuracy of classes.")
    return StudiedVideos(labels, found["training"], found["validation"]), notes


@dataclass(frozen=True)
class ClipTimes:
    """How the clips of a feature set lie in time.

    Attributes:
        clips: as the attributes of the files tell; None: the files do not tell, and rows are spread over each video.
        validation_clips: how many there are in the validation videos.
    """

    clips: RowClips | None
    validation_clips: int

    def alike(self, other: "ClipTimes") -> bool:
        """Whether the similarity of neighbouring clips here can be compared with that in ``other``.

        It can if clips are equally long and equally far apart. Where a set does not tell, the number of clips in the
        same videos says how far apart they are.
        """
        most = max(self.validation_clips, other.validation_clips)
        if abs(self.validation_clips - other.validation_clips) > SPARE_SHARE * most:
            return False
        if self.clips is None or other.clips is None:
            return True
        return all(map(math.isclose, _seconds(self.clips), _seconds(other.clips)))

    def __str__(self) -> str:
        """Say it in a few words."""
        many = f"{self.validation_clips:,} clips in the validation videos"
        if self.clips is None:
            return many
        length, apart = _seconds(self.clips)
        return f"{many}, each of {length:.2f} s, every {apart:.2f} s"


def clip_times(files: FeatureFiles, videos: Iterable[StudiedVideo]) -> ClipTimes:
    """Return how the clips of a feature set lie in time.

    Args:
        files: of the set.
        videos: of validation.

    Raises:
        UserError: its files do not agree, or a clip has no numbers.
    """
    if files.feature_dim == 0:
        raise UserError(f"{files.paths[0]}: expected (T, D) with D of at least 1, found D of 0: extract it again.")
    each = {path: read_row_clips(str(path), FeatureFiles([path]).meaning()) for path in files.paths}
    first, clips = next(iter(each.items()))
    if other := next((path for path, found in each.items() if found != clips), None):
        raise UserError(
            f"{other}: expected clips as in {first} ({_told(clips)}), found {_told(each[other])}: give the files of "
            "one feature set, or correct the attributes."
        )
    return ClipTimes(clips, sum(files.count(video.name) for video in videos))


def row_meaning(files: FeatureFiles, times: ClipTimes) -> str:
    """Say what a row of a feature set is."""
    size = f"{files.feature_dim} numbers a clip"
    if times.clips is None:
        return f"{size}, spread evenly over each video, for the file does not say which clips they are"
    return f"{size} of {_told(times.clips)}"


def time_notes(times: Mapping[str, ClipTimes]) -> list[str]:
    """Say what a reader has to know before similarities are compared."""
    overlapping = [
        name for name, each in times.items() if each.clips and each.clips.stride_frames < each.clips.clip_frames
    ]
    notes = [f"Neighbouring clips overlap, which makes them alike: {', '.join(overlapping)}."] if overlapping else []
    if not all(a.alike(b) for a, b in itertools.combinations(times.values(), 2)):
        notes.append(
            "The clips of the sets differ in length or distance "
            f"({'; '.join(f'{name}: {each}' for name, each in times.items())}): the longer clips are, and the nearer "
            "in time, the more alike neighbours look, so that similarities and the contrast of such sets cannot be "
            "compared, and have no difference here."
        )
    return notes


def _seconds(clips: RowClips) -> tuple[float, float]:
    """Return the length of a clip, and how far apart clips are."""
    return clips.clip_frames / clips.frame_rate, clips.stride_frames / clips.frame_rate


def _told(clips: RowClips | None) -> str:
    if clips is None:
        return "not told"
    length, apart = _seconds(clips)
    return f"{clips.clip_frames} frames ({length:.2f} s), every {clips.stride_frames} frames ({apart:.2f} s)"
