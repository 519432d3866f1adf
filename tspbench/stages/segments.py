"""Annotations → TSP ground truth: foreground and background segments, as CSV."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment, find_gaps, fit_clips, label_counts
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.tsp_segments import SegmentRow, VideoMetadata, write_segments


@dataclass(frozen=True)
class SegmentCounts:
    """What a ground truth holds.

    Attributes:
        videos: with at least one segment.
        actions: foreground segments.
        background: background segments.
        kept_actions: foreground segments that a clip fits into.
        kept_background: background segments that a clip fits into.
        clips_per_epoch: clips of an epoch in which every segment that is kept gives as many.
    """

    videos: int
    actions: int
    background: int
    kept_actions: int
    kept_background: int
    clips_per_epoch: int


def cut(
    videos: Iterable[VideoAnnotations],
    metadata: Mapping[str, VideoMetadata],
    shortest_gap_seconds: float,
    *,
    ignored_label: str | None = None,
    as_released: bool = False,
) -> list[SegmentRow]:
    """Cut videos into their actions and the background between them.

    Args:
        videos: annotations of one split; videos that are not in ``metadata`` are left out.
        metadata: video → its file; the duration there counts, not the annotated one.
        shortest_gap_seconds: of background: 16/15 on THUMOS14, 16/3 on ActivityNet (FACTS: one clip and five).
        ignored_label: see `annotated_actions`.
        as_released: see `find_gaps`.

    Returns:
        Rows in the order of TSP's files: the actions, video by video in the order of ``metadata``, then the background
        of the videos sorted by name.
    """
    place = {video: number for number, video in enumerate(metadata)}
    actions: list[SegmentRow] = []
    background: list[SegmentRow] = []
    for video in sorted((video for video in videos if video.name in place), key=lambda video: place[video.name]):
        annotated = annotated_actions(video, ignored_label)
        if annotated is None:
            continue
        segments, labels = annotated
        file = metadata[video.name]
        gaps = find_gaps(segments, file.duration_seconds, shortest_gap_seconds, as_released=as_released)
        background += [SegmentRow(video.name, start, end, None, file) for start, end in gaps.tolist()]
        actions += [
            SegmentRow(video.name, start, end, label, file)
            for (start, end), label in zip(segments.tolist(), labels, strict=True)
        ]
    return [*actions, *sorted(background, key=lambda row: (row.video, row.start))]


def write_ground_truth(
    path: Path,
    videos: Sequence[VideoAnnotations],
    metadata: Mapping[str, VideoMetadata],
    shortest_gap_seconds: float,
    *,
    ignored_label: str | None = None,
    as_released: bool = False,
) -> list[SegmentRow]:
    """Write the ground truth of one split; arguments and result as in `cut`.

    Raises:
        UserError: no annotated video is in ``metadata``, or none of them has an action.
    """
    rows = cut(videos, metadata, shortest_gap_seconds, ignored_label=ignored_label, as_released=as_released)
    if all(row.label is None for row in rows):
        first = next((video.name for video in videos), None)
        raise UserError(
            f"{path} is not written: expected actions in at least one of {len(videos)} annotated videos (first: "
            f"{first}) that are among the {len(metadata)} video files, found none: check the video names and the split."
        )
    write_segments(path, rows)
    return rows


def annotated_actions(
    video: VideoAnnotations, ignored_label: str | None
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """Return the actions of a video, (N, 2) in seconds, and their labels.

    Segments of ``ignored_label`` (THUMOS14's "Ambiguous") are dropped before anything is cut, so that they are no
    action, and background where no action covers them: so the released files have it. A video of which nothing is
    left (video_test_0001292) is None: it is in none of them. A video in which nothing is annotated has 0 actions.
    """
    kept = np.array([label != ignored_label for label in video.labels], dtype=bool)
    if len(kept) and not kept.any():
        return None
    return video.segments[kept], tuple(label for label in video.labels if label != ignored_label)


def labelled_segments(
    rows: Iterable[SegmentRow], labels: Sequence[str], clip_seconds: float, where: str
) -> list[LabelledSegment]:
    """Return the segments that a clip fits into, as TSP's training reads them from its files (`fit_clips`).

    Args:
        rows: of a ground truth.
        labels: action classes in the order of their indices.
        clip_seconds: length of a clip.
        where: what the sentence of an error starts with, such as the file's name.

    Raises:
        UserError: a label is not in ``labels``.
    """
    index = {label: number for number, label in enumerate(labels)}
    durations, found = {}, []
    for row in rows:
        if row.label is not None and row.label not in index:
            choose(f"action label of the data set (in {where}, video {row.video!r})", row.label, labels)
        action = BACKGROUND if row.label is None else index[row.label]
        found.append(LabelledSegment(row.video, row.start, row.end, action))
        durations[row.video] = row.file.duration_seconds
    return fit_clips(found, durations, clip_seconds)


def count_segments(rows: Sequence[SegmentRow], clip_seconds: float, clips_per_segment: int) -> SegmentCounts:
    """Count a ground truth before and after segments that no clip fits into are dropped.

    Args:
        rows: of the ground truth.
        clip_seconds: length of a clip, 16/15 in TSP.
        clips_per_segment: how many clips an epoch draws from each, 5 in TSP.
    """
    labels = sorted({row.label for row in rows if row.label is not None})
    kept = label_counts(labelled_segments(rows, labels, clip_seconds, ""))
    actions = sum(row.label is not None for row in rows)
    return SegmentCounts(
        videos=len({row.video for row in rows}),
        actions=actions,
        background=len(rows) - actions,
        kept_actions=kept["foreground"],
        kept_background=kept["background"],
        clips_per_epoch=clips_per_segment * sum(kept.values()),
    )
