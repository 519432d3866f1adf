"""Data set → the labelled segments that an encoder learns from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.pretraining import METHODS
from tspbench.pretraining.segments import LabelledSegment, Sampling, cut_segments, label_counts
from tspbench.progress import say
from tspbench.stages.segments import annotated_actions, labelled_segments
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.tsp_segments import SegmentRow, read_segments
from tspbench.storage.video import VideoError, scan_video
from tspbench.video_names import known_name

T = TypeVar("T")

ROLES: Final = ("training", "validation")


class LessonSettings(Protocol):
    """What of `PretrainSettings` decides over segments."""

    @property
    def method(self) -> str:
        """Key of `METHODS`."""

    @property
    def sampling(self) -> Sampling:
        """See `epoch_segments`."""

    @property
    def shortest_gap_clips(self) -> float:
        """Background shorter than so many clips is left out."""


@dataclass(frozen=True)
class Lesson:
    """What an encoder is to learn: segments to draw clips from, and everything they refer to.

    Args:
        videos: video → file.
        training: segments for training.
        validation: segments for choosing the epoch.
        labels: action classes in the order of their indices.
        gvf: video → (D,) global feature, None where the method asks for none.
    """

    videos: Mapping[str, Path]
    training: Sequence[LabelledSegment]
    validation: Sequence[LabelledSegment]
    labels: Sequence[str]
    gvf: Mapping[str, NDArray[np.float32]] | None


def prepare_lesson(
    dataset: Dataset, spec_seconds: float, settings: LessonSettings, gvf: Mapping[str, NDArray[np.float32]] | None
) -> Lesson:
    """Bring a data set's videos as labelled segments.

    They are those of the ground truth that the data set names for a role, or else cut from its annotations. Classes are
    the labels of the annotations, without the one that the data set's protocol ignores; without annotations, those of
    the training ground truth.

    Args:
        dataset: with the splits "training" and "validation".
        spec_seconds: length of a clip.
        settings: method and limits.
        gvf: global features; every video must have one when the method asks for them.

    Raises:
        UserError: no video of a split is there, a split has no action, or a GVF is missing.
    """
    sources = _sources(dataset)
    named = {video for source in sources.values() for video in source.videos}
    files = _by_annotated_name(dataset.video_files(), named)
    gvf = None if gvf is None else _by_annotated_name(gvf, named)
    splits = {role: _segments(dataset, role, source, files, spec_seconds, settings) for role, source in sources.items()}
    needed = {segment.video for segments in splits.values() for segment in segments}
    if gvf is not None and needed - set(gvf):
        missing = sorted(needed - set(gvf))
        raise UserError(
            f"The global video features lack {len(missing)} of {len(needed)} videos, first {missing[0]!r}: extract "
            "features of the initial encoder for all of them."
        )
    videos = {name: files[name] for name in sorted(needed)}
    return Lesson(videos, splits["training"], splits["validation"], sources["training"].labels, gvf)


@dataclass(frozen=True)
class _Source:
    """Where the segments of a role come from.

    Attributes:
        where: file, and subset, for messages.
        labels: action classes in the order of their indices.
        videos: video → its rows of a ground truth, or its annotations.
    """

    where: str
    labels: tuple[str, ...]
    videos: Mapping[str, list[SegmentRow] | VideoAnnotations]


def _sources(dataset: Dataset) -> dict[str, _Source]:
    paths = {role: path for role in ROLES if (path := dataset.segments(role)) is not None}
    ready = {role: _by_video(read_segments(path)) for role, path in paths.items()}
    annotations = cache(dataset.read)  # not read where nobody needs them

    def annotated(role: str) -> dict[str, VideoAnnotations]:
        return {video.name: video for video in annotations().subset(dataset.subset(role))}

    if dataset.card.annotations is None and "training" in ready:
        named = {row.label for rows in ready["training"].values() for row in rows if row.label is not None}
    else:
        named = set(annotations().labels) - {_ignored_label(dataset)}
    labels = tuple(sorted(named))
    sources = {}
    for role in ROLES:
        if role not in ready:
            sources[role] = _Source(f"{dataset.annotations}, subset {dataset.subset(role)!r}", labels, annotated(role))
            continue
        rows = ready[role]
        if role in dataset.trial:
            tried = annotated(role)
            rows = {video: each for video, each in rows.items() if video in tried}
        sources[role] = _Source(str(paths[role]), labels, rows)
    return sources


def _ignored_label(dataset: Dataset) -> str | None:
    return DETECTION_PROTOCOLS[dataset.protocol].ignored_label


def _by_video(rows: Iterable[SegmentRow]) -> dict[str, list[SegmentRow]]:
    found: dict[str, list[SegmentRow]] = {}
    for row in rows:
        found.setdefault(row.video, []).append(row)
    return found


def _segments(
    dataset: Dataset,
    role: str,
    source: _Source,
    files: Mapping[str, Path],
    clip_seconds: float,
    settings: LessonSettings,
) -> list[LabelledSegment]:
    """Return the segments of one split; videos that are not there are counted aloud and left out."""
    there = [video for video in source.videos if video in files]
    manifest = dataset.manifest()
    lengths = _by_annotated_name(dataset.lengths(), source.videos)
    quarantined = _by_annotated_name(manifest.quarantined if manifest else {}, source.videos)
    gone = [video for video in source.videos if video not in files and video not in quarantined]
    kept_out = [video for video in source.videos if video in quarantined]
    if gone:
        say(f"{dataset.name}: {len(gone)} of {len(source.videos)} {role} videos are not there (first: {gone[0]}).")
    if kept_out:
        why = quarantined[kept_out[0]]
        say(f"{dataset.name}: {len(kept_out)} of {len(source.videos)} {role} videos are quarantined (the first: {why})")
    ignored_label = _ignored_label(dataset)
    found: list[LabelledSegment] = []
    actions = 0
    for name in there:
        video = source.videos[name]
        if isinstance(video, VideoAnnotations):
            shortest_gap = settings.shortest_gap_clips * clip_seconds
            # What a scan has measured counts more than what is annotated: some published lengths are wrong.
            duration = lengths.get(name) or video.duration_seconds or measured_seconds(files[name])
            if duration is None:
                continue
            found += _cut(video, duration, source.labels, ignored_label, clip_seconds, shortest_gap)
            annotated = annotated_actions(video, ignored_label)
            actions += len(annotated[0]) if annotated else 0
        else:
            found += labelled_segments(video, source.labels, clip_seconds, source.where)
            actions += sum(row.label is not None for row in video)
    kept = label_counts(found)["foreground"]
    # TSP's code shows TAC the background, too, without a label: so does "every-segment", in training.
    wanted = METHODS[settings.method].wants_background or (role == "training" and settings.sampling == "every-segment")
    if not wanted:
        found = [segment for segment in found if not segment.region]
    if not kept:
        raise UserError(
            f"{source.where}: expected actions of {clip_seconds:.2f} s or more in videos of {dataset.videos}, found "
            "none: check the video names and the splits."
        )
    if kept < actions:
        say(
            f"{dataset.name}: {actions - kept} of {actions} {role} actions are left out, because no clip of "
            f"{clip_seconds:.2f} s fits into them."
        )
    return found


def _cut(
    video: VideoAnnotations,
    duration: float,
    labels: Sequence[str],
    ignored_label: str | None,
    clip_seconds: float,
    shortest_gap: float,
) -> list[LabelledSegment]:
    annotated = annotated_actions(video, ignored_label)
    if annotated is None:
        return []
    classes = [labels.index(label) for label in annotated[1]]
    return cut_segments(video.name, duration, annotated[0], classes, clip_seconds, shortest_gap)


def _by_annotated_name(there: Mapping[str, T], named: Iterable[str]) -> dict[str, T]:
    """Return what there is of videos by the names that the annotations give them, with the prefix ``v_`` or without."""
    return {video: there[name] for video in named if (name := known_name(video, there)) is not None}


def measured_seconds(path: Path) -> float | None:
    """Return how long a video is, of which nothing else says it; None, said aloud, if it cannot be read."""
    try:
        return scan_video(path).duration
    except VideoError as error:
        say(f"{path.name} is left out: {error}")
        return None
