"""What is wrong with the actions of one split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tspbench.datasets import Dataset
from tspbench.pretraining.segments import cut_segments
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.captions import SPARE_SECONDS

Severity = Literal["error", "warning", "note"]
# Clips of the encoders that are pretrained on Kinetics: 16 frames at 15 a second (TSP, train/opts.py).
CLIP_SECONDS: Final = 16 / 15
# Background that pretraining takes unless it is told otherwise (`PretrainSettings.shortest_gap_clips`).
USUAL_GAP_CLIPS: Final = 5
DROPPED_SHARE: Final = 0.1  # of the actions; THUMOS14 loses 13 % to clips of the usual length, ActivityNet 1 %
SAME_ACTION_TIOU: Final = 0.5  # two annotations of one action overlap like this, two actions of two people seldom do
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        severity: "error" spoils training or scores, "warning" costs something and is in published sets, too, "note"
            is good to know.
        where: file or folder, and split.
        sentence: what was found, with examples, and what to do.
    """

    severity: Severity
    where: str
    sentence: str


@dataclass(frozen=True)
class Split:
    """A split without the segments that its protocol ignores.

    Attributes:
        role: "training" or "validation".
        subset: its name in the annotation file.
        where: for findings.
        videos: annotated.
        scanned: video → length in seconds, of those that a scan could read.
        lengths: the same, of the others as annotated, as far as they are known.
    """

    role: str
    subset: str
    where: str
    videos: tuple[VideoAnnotations, ...]
    scanned: Mapping[str, float]
    lengths: Mapping[str, float]

    @property
    def actions(self) -> list[tuple[VideoAnnotations, int]]:
        """Every action: its video, and its place there."""
        return [(video, place) for video in self.videos for place in range(len(video.labels))]


def check_times(split: Split, dataset: Dataset, clip_seconds: float) -> Iterator[Finding]:
    """Look for actions in wrong places, for too short ones, and for too little between them; times are seconds.

    Args:
        split: to check.
        dataset: that it is of.
        clip_seconds: length of a clip of the encoder to be trained.
    """
    yield from _late(split, dataset.card.benchmark)
    yield from _misplaced(split)
    yield from _clips(split, clip_seconds)
    yield from _background(dataset, split, clip_seconds)


def _late(split: Split, benchmark: str | None) -> list[Finding]:
    """Find actions that end after their video: up to `SPARE_SECONDS` is rounding, up to a clip is carelessness.

    More is an error, except in a benchmark: published files have some, and everybody's scores are with them.
    """
    beyond = {
        (video, place): video.segments[place, 1] - split.lengths[video.name]
        for video, place in split.actions
        if video.name in split.lengths
    }
    late = [action for action, seconds in beyond.items() if seconds > SPARE_SECONDS]
    longest = max(beyond.values(), default=0.0)
    what = f"after the end of the video, by up to {longest:.1f} s"
    severity: Severity = "error" if longest > CLIP_SECONDS and benchmark is None else "warning"
    return _about(split, severity, late, what, "correct them, or look for the right video")


def _misplaced(split: Split) -> list[Finding]:
    early = [(video, place) for video, place in split.actions if video.segments[place, 0] < 0]
    empty = [(video, place) for video, place in split.actions if not np.ptp(video.segments[place])]
    return [
        *_about(split, "error", early, "with a start before 0", "correct them"),
        *_about(split, "warning", empty, "without length, which nothing can find", "correct or remove them"),
    ]


def check_lengths(split: Split) -> Iterator[Finding]:
    """Compare the annotated lengths with those of the files, and say where neither is known."""
    other = [
        f"{video.name} ({video.duration_seconds:.1f} s, its file {split.scanned[video.name]:.1f} s)"
        for video in split.videos
        if video.duration_seconds
        and video.name in split.scanned
        and abs(video.duration_seconds - split.scanned[video.name]) > max(1.0, 0.02 * split.scanned[video.name])
    ]
    if other:
        told = f"{counted(len(other), 'video')} annotated with another length than that of the file"
        yield Finding("warning", split.where, f"{told}: {examples(other)}; look whether these are the right videos.")
    unknown = [video.name for video in split.videos if video.name not in split.lengths]
    if unknown:
        told = f"{counted(len(unknown), 'video')} of unknown length, so that ends and background are not checked"
        yield Finding("note", split.where, f"{told}: {examples(unknown)}; run `tspbench data scan`.")


def check_repeats(split: Split) -> list[Finding]:
    """Find actions that are annotated twice, and actions of one class that overlap."""
    most: dict[tuple[VideoAnnotations, int], float] = {}
    for video in split.videos:
        for place, tiou in _overlaps(video):
            most[video, place] = max(tiou, most.get((video, place), 0.0))
    same = [action for action, tiou in most.items() if tiou == 1]
    near = [action for action, tiou in most.items() if SAME_ACTION_TIOU <= tiou < 1]
    some = [action for action, tiou in most.items() if tiou < SAME_ACTION_TIOU]
    return [
        *_about(split, "warning", same, "annotated twice, with the same times", "remove one of each two"),
        *_about(split, "warning", near, "overlapping one of the same class by half", "remove one if they are one"),
        *_about(split, "note", some, "overlapping one of the same class", "see whether they are two"),
    ]


def _overlaps(video: VideoAnnotations) -> Iterator[tuple[int, float]]:
    """Yield the later one of every two actions of one class that overlap, and their temporal IoU."""
    order = sorted(range(len(video.labels)), key=lambda place: (video.labels[place], *video.segments[place]))
    for rank, first in enumerate(order):
        start, end = video.segments[first]
        for second in order[rank + 1 :]:
            next_start, next_end = video.segments[second]
            if video.labels[second] != video.labels[first] or (next_start >= end and next_start > start):
                break
            if (next_start, next_end) == (start, end):
                yield second, 1.0
            elif next_start < min(end, next_end):
                yield second, (min(end, next_end) - next_start) / (max(end, next_end) - start)


def _clips(split: Split, clip_seconds: float) -> Iterator[Finding]:
    """Say how many actions are too short for pretraining, if they are many; of those after the end says `_late`."""
    every = len(split.actions)
    dropped = sum(
        start < split.lengths.get(video.name, np.inf) and end - start < clip_seconds - 1e-6
        for video in split.videos
        for start, end in video.segments.tolist()
    )
    if every and dropped >= DROPPED_SHARE * every:
        share = dropped / every
        told = f"{dropped:,} of {every:,} actions ({share:.0%}) are shorter than a clip, {clip_seconds:.2f} s"
        mend = "pretraining drops them; an encoder with shorter clips keeps more"
        yield Finding("error" if share > 0.5 else "note", split.where, f"{told}: {mend}.")


def _background(dataset: Dataset, split: Split, clip_seconds: float) -> Iterator[Finding]:
    """Look for something between actions that TSP's region head can learn from, unless the card brings it."""
    known = all(video.name in split.lengths for video in split.videos)
    if split.role != "training" or not known or not split.actions or dataset.segments("training") is not None:
        return
    gaps = {
        clips: sum(cut_counts(video, split, clip_seconds, clips)[1] for video in split.videos)
        for clips in (1, USUAL_GAP_CLIPS)
    }
    if not gaps[1]:
        told = f"No video has {clip_seconds:.2f} s (a clip) without an action"
        mend = "TSP learns nothing from it but a constant; annotate untrimmed videos, or pretrain with --method tac"
        yield Finding("warning", split.where, f"{told}: {mend}.")
    elif not gaps[USUAL_GAP_CLIPS]:
        told = f"No video has {USUAL_GAP_CLIPS * clip_seconds:.1f} s without an action, which pretraining asks for"
        mend = "give --set shortest_gap_clips=1 to pretrain"
        yield Finding("warning", split.where, f"{told}: {mend} ({gaps[1]:,} stretches last a clip).")


def cut_counts(video: VideoAnnotations, split: Split, clip_seconds: float, gap_clips: int = 1) -> tuple[int, int]:
    """Return how many actions and stretches of background pretraining takes from a video."""
    if video.name not in split.lengths and not video.labels:
        return 0, 0
    length = split.lengths[video.name] if video.name in split.lengths else float(video.segments.max())
    classes = [0] * len(video.labels)
    cut = cut_segments(video.name, length, video.segments, classes, clip_seconds, gap_clips * clip_seconds)
    background = sum(segment.region for segment in cut)
    return len(cut) - background, background


def _about(
    split: Split, severity: Severity, actions: Sequence[tuple[VideoAnnotations, int]], what: str, mend: str
) -> list[Finding]:
    """Return a finding about some actions, none if there are none."""
    if not actions:
        return []
    told = []
    for video, place in actions[:_EXAMPLES]:
        start, end = video.segments[place]
        told.append(f"{video.name}, action {place + 1} ({video.labels[place]}, {start:g} to {end:g} s)")
    return [
        Finding(
            severity, split.where, f"{counted(len(actions), 'action')} {what}: {examples(told, len(actions))}; {mend}."
        )
    ]


def counted(number: int, kind: str) -> str:
    """Count things of a kind: "1 class", "2 classes"."""
    plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return f"{number:,} {kind if number == 1 else plural}"


def examples(names: Sequence[str], count: int | None = None) -> str:
    """Name the first few of ``count`` things (None: of ``names``), and say how many more there are."""
    more = (len(names) if count is None else count) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
