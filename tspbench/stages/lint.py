"""What is wrong with a data set before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.datasets import CARD, Dataset
from tspbench.errors import UserError
from tspbench.pretraining.segments import cut_segments
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.captions import SPARE_SECONDS, read_caption_file

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
# Clips of the encoders that are pretrained on Kinetics: 16 frames at 15 a second (TSP, train/opts.py).
CLIP_SECONDS: Final = 16 / 15
# Background that pretraining takes unless it is told otherwise (`PretrainSettings.shortest_gap_clips`).
USUAL_GAP_CLIPS: Final = 5
DROPPED_SHARE: Final = 0.1  # of the actions; THUMOS14 loses 13 % to clips of the usual length, ActivityNet 1 %
SAME_ACTION_TIOU: Final = 0.5  # two annotations of one action overlap like this, two actions of two people seldom do
# Where ends lie so many times beyond their videos, times are milliseconds; frames are at most 120 a second.
MILLISECONDS_FROM: Final = 120.0
LONGEST_USUAL_ACTION: Final = 300.0  # median in seconds; ActivityNet's is 28
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
class SplitCounts:
    """What of a split can be used.

    Attributes:
        role: "training" or "validation".
        subset: its name in the annotation file.
        videos: annotated.
        with_file: of them, how many are on disk; the others are missing.
        actions: annotated.
        kept: of them, those that last a clip within their video; pretraining drops the others.
    """

    role: str
    subset: str
    videos: int
    with_file: int
    actions: int
    kept: int


@dataclass(frozen=True)
class _Split:
    """A split without the segments that its protocol ignores.

    Attributes:
        role: "training" or "validation".
        subset: its name in the annotation file.
        where: for findings.
        videos: annotated.
        lengths: video → seconds, as far as they are known: scanned, or else annotated.
    """

    role: str
    subset: str
    where: str
    videos: tuple[VideoAnnotations, ...]
    lengths: Mapping[str, float]

    @property
    def actions(self) -> list[tuple[VideoAnnotations, int]]:
        """Every action: its video, and its place there."""
        return [(video, place) for video in self.videos for place in range(len(video.labels))]


def lint(dataset: Dataset, durations: Mapping[str, float], clip_seconds: float = CLIP_SECONDS) -> list[Finding]:
    """Look for mistakes in a data set.

    Args:
        dataset: as opened.
        durations: video → length in seconds, as scanned; where there is none, the annotated one counts.
        clip_seconds: length of a clip of the encoder to be trained.

    Returns:
        What was found, errors first; nothing where all is well.
    """
    found = [*_other_files(dataset)]
    if dataset.card.annotations is not None or not dataset.card.captions:
        try:
            annotations = dataset.read()
            splits = _splits(dataset, annotations, durations)
        except UserError as error:
            found.append(Finding("error", str(dataset.folder / CARD), str(error)))
        else:
            found += [*_empty(dataset, splits), *_labels(splits, str(annotations.path))]
            units = _units(splits, str(annotations.path))
            for split in splits:
                found += [*_lengths(split, durations), *_repeats(split)]
                if not units:  # in another unit everything is late, or no action is short
                    found += [*_late(split), *_times(split), *_clips(split, clip_seconds)]
                    found += _background(dataset, split, clip_seconds)
            found += units
            found += _files(dataset, annotations, splits)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def kept_report(
    dataset: Dataset, durations: Mapping[str, float], clip_seconds: float = CLIP_SECONDS
) -> list[SplitCounts]:
    """Count what of each split can be used; arguments as for `lint`.

    Raises:
        UserError: the annotations cannot be read, or the card names a split that they do not have.
    """
    try:
        files = dataset.video_files()
    except UserError:  # what `lint` tells
        files = {}
    return [
        SplitCounts(
            role=split.role,
            subset=split.subset,
            videos=len(split.videos),
            with_file=sum(video.name in files for video in split.videos),
            actions=len(split.actions),
            kept=sum(_cut(video, split, clip_seconds)[0] for video in split.videos),
        )
        for split in _splits(dataset, dataset.read(), durations)
    ]


def _splits(dataset: Dataset, annotations: Annotations, durations: Mapping[str, float]) -> list[_Split]:
    ignored = DETECTION_PROTOCOLS[dataset.protocol].ignored_label
    annotated = {video.name: video.duration_seconds for video in annotations.videos if video.duration_seconds}
    return [
        _Split(
            role=role,
            subset=subset,
            where=f"{annotations.path}, {role}",
            videos=tuple(_without(video, ignored) for video in annotations.subset(subset)),
            lengths={**annotated, **durations},
        )
        for role, subset in dataset.card.splits.items()
    ]


def _without(video: VideoAnnotations, ignored: str | None) -> VideoAnnotations:
    kept = [place for place, label in enumerate(video.labels) if label != ignored]
    return replace(video, segments=video.segments[kept], labels=tuple(video.labels[place] for place in kept))


def _other_files(dataset: Dataset) -> Iterator[Finding]:
    """Check what the card names beside videos and annotations."""
    for role, paths in dataset.card.captions.items():
        for path in (dataset.folder / name for name in paths):
            try:
                read_caption_file(path)
            except UserError as error:
                yield Finding("error", f"{path}, {role}", str(error))


def _empty(dataset: Dataset, splits: Sequence[_Split]) -> Iterator[Finding]:
    for role in ("training", "validation"):
        split = next((split for split in splits if split.role == role), None)
        if split is None:
            yield Finding("error", str(dataset.folder / CARD), f"There is no split for {role}: add it to [splits].")
        elif not split.actions:
            told = f"None of the {len(split.videos):,} videos has an action: annotate some."
            yield Finding("error", split.where, told)


def _units(splits: Sequence[_Split], where: str) -> list[Finding]:
    """Suspect that times are frames or milliseconds."""
    ends = {video.name: video.segments[:, 1].max() for split in splits for video in split.videos if video.labels}
    lengths = {name: length for split in splits for name, length in split.lengths.items() if name in ends}
    ratios = np.array([ends[name] / length for name, length in lengths.items()])
    if len(ratios):
        beyond = ratios[ratios > 2]
        if 2 * len(beyond) < len(ratios):
            return []
        unit = "milliseconds" if np.median(beyond) >= MILLISECONDS_FROM else "frames"
        told = f"In {len(beyond):,} of {len(ratios):,} videos actions end far beyond the video's end"
        return [Finding("error", where, f"{told}: are these times {unit}? Give seconds, or mm:ss.")]
    times = np.concatenate([video.segments for split in splits for video in split.videos] or [np.zeros((0, 2))])
    if len(times) and (times % 1 == 0).all() and np.median(times[:, 1] - times[:, 0]) >= LONGEST_USUAL_ACTION:
        told = "All times are whole numbers, and half of the actions would last five minutes or more"
        return [Finding("error", where, f"{told}: are these times frames or milliseconds? Give seconds, or mm:ss.")]
    return []


def _late(split: _Split) -> list[Finding]:
    """Find actions that end after their video; up to `SPARE_SECONDS` is rounding, up to a clip is carelessness."""
    beyond = {
        (video, place): video.segments[place, 1] - split.lengths[video.name]
        for video, place in split.actions
        if video.name in split.lengths
    }
    late = [action for action, seconds in beyond.items() if seconds > SPARE_SECONDS]
    longest = max(beyond.values(), default=0.0)
    what = f"after the end of the video, by up to {longest:.1f} s"
    severity: Severity = "error" if longest > CLIP_SECONDS else "warning"
    return _about(split, severity, late, what, "correct them, or look for the right video")


def _times(split: _Split) -> list[Finding]:
    early = [(video, place) for video, place in split.actions if video.segments[place, 0] < 0]
    empty = [(video, place) for video, place in split.actions if not np.ptp(video.segments[place])]
    return [
        *_about(split, "error", early, "with a start before 0", "correct them"),
        *_about(split, "warning", empty, "without length, which nothing can find", "correct or remove them"),
    ]


def _lengths(split: _Split, durations: Mapping[str, float]) -> Iterator[Finding]:
    """Compare the annotated lengths with those of the files, and say where neither is known."""
    other = [
        f"{video.name} ({video.duration_seconds:.1f} s, its file {durations[video.name]:.1f} s)"
        for video in split.videos
        if video.duration_seconds
        and video.name in durations
        and abs(video.duration_seconds - durations[video.name]) > max(1.0, 0.02 * durations[video.name])
    ]
    if other:
        told = f"{_some(other, 'video')} annotated with another length than that of the file"
        yield Finding("warning", split.where, f"{told}: {_first(other)}; look whether these are the right videos.")
    unknown = [video.name for video in split.videos if video.name not in split.lengths]
    if unknown:
        told = f"{_some(unknown, 'video')} of unknown length, so that ends and background are not checked"
        yield Finding("note", split.where, f"{told}: {_first(unknown)}; run `tspbench data scan`.")


def _repeats(split: _Split) -> list[Finding]:
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


def _labels(splits: Sequence[_Split], where: str) -> Iterator[Finding]:
    counts = {split.role: Counter(label for video in split.videos for label in video.labels) for split in splits}
    training, validation = counts.get("training", Counter()), counts.get("validation", Counter())
    every = training + validation
    letters = {label: "".join(filter(str.isalnum, label.casefold())) or label for label in every}
    for one, other in combinations(sorted(every), 2):
        rare, usual = sorted((one, other), key=lambda label: every[label])
        if letters[one] == letters[other]:
            told = f"{one!r} ({every[one]:,} actions) and {other!r} ({every[other]:,}) are two classes"
            yield Finding("error", where, f"{told}, and differ in nothing but case and punctuation: write them alike.")
        elif every[rare] <= 2 and every[usual] >= 3 * every[rare] and _is_typo(letters[rare], letters[usual]):
            told = f"{rare!r} ({every[rare]:,} of the actions) looks like a slip for {usual!r} ({every[usual]:,})"
            yield Finding("warning", where, f"{told}: correct it if it is.")
    unseen = sorted(set(validation) - set(training))
    if unseen and training:
        told = f"{_some(unseen, 'class')} in validation alone, so that nothing can learn them"
        yield Finding("error", where, f"{told}: {_first(unseen)}; add some to training, or correct the split.")
    single = sorted(label for label, count in training.items() if count < 2)
    if single:
        told = f"{_some(single, 'class')} with a single action for training"
        yield Finding("warning", where, f"{told}: {_first(single)}; annotate more, or leave the class out.")


def _clips(split: _Split, clip_seconds: float) -> Iterator[Finding]:
    """Say how many actions the clip filter of pretraining drops, if they are many."""
    every = len(split.actions)
    dropped = every - sum(_cut(video, split, clip_seconds)[0] for video in split.videos)
    if every and dropped >= DROPPED_SHARE * every:
        share = dropped / every
        told = f"{dropped:,} of {every:,} actions ({share:.0%}) are shorter than a clip, {clip_seconds:.2f} s"
        mend = "pretraining drops them; an encoder with shorter clips keeps more"
        yield Finding("error" if share > 0.5 else "note", split.where, f"{told}: {mend}.")


def _background(dataset: Dataset, split: _Split, clip_seconds: float) -> Iterator[Finding]:
    """Look for something between actions that TSP's region head can learn from, unless the card brings it."""
    known = all(video.name in split.lengths for video in split.videos)
    if split.role != "training" or not known or not split.actions or dataset.segments("training") is not None:
        return
    gaps = {
        clips: sum(_cut(video, split, clip_seconds, clips)[1] for video in split.videos)
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


def _files(dataset: Dataset, annotations: Annotations, splits: Sequence[_Split]) -> Iterator[Finding]:
    where = str(dataset.videos)
    if not dataset.videos.is_dir():
        yield Finding("note", where, "There are no videos: features of this set have to come from elsewhere.")
        return
    try:
        files = dataset.video_files()
    except UserError as error:
        yield Finding("error", where, str(error))
        return
    for split in splits:
        missing = [video.name for video in split.videos if video.name not in files]
        if missing:
            told = f"{len(missing):,} of {_some(split.videos, 'video')} for {split.role} without a file"
            severity: Severity = "error" if len(missing) == len(split.videos) else "warning"
            yield Finding(severity, where, f"{told}: {_first(missing)}; add them, or see whether names are the same.")
    annotated = {video.name for video in annotations.videos}
    unknown = sorted(path.name for name, path in files.items() if name not in annotated)
    if unknown:
        told = f"{_some(unknown, 'file')} without annotation"
        yield Finding("note", where, f"{told}: {_first(unknown)}; a video without actions wants an entry, too.")


def _cut(video: VideoAnnotations, split: _Split, clip_seconds: float, gap_clips: int = 1) -> tuple[int, int]:
    """Return how many actions and stretches of background pretraining takes from a video."""
    if video.name not in split.lengths and not video.labels:
        return 0, 0
    length = split.lengths[video.name] if video.name in split.lengths else float(video.segments.max())
    classes = [0] * len(video.labels)
    cut = cut_segments(video.name, length, video.segments, classes, clip_seconds, gap_clips * clip_seconds)
    background = sum(segment.region for segment in cut)
    return len(cut) - background, background


def _is_typo(one: str, other: str) -> bool:
    """Whether one letter too many, too few, another or two in the wrong order make ``one`` of ``other``."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    swapped = len(one) == 2 and one == other[::-1]
    return (swapped or max(len(one), len(other)) == 1) and not (one + other).isdigit()


def _about(
    split: _Split, severity: Severity, actions: Sequence[tuple[VideoAnnotations, int]], what: str, mend: str
) -> list[Finding]:
    """Return a finding about some actions, none if there are none."""
    if not actions:
        return []
    told = []
    for video, place in actions[:_EXAMPLES]:
        start, end = video.segments[place]
        told.append(f"{video.name}, action {place + 1} ({video.labels[place]}, {start:g} to {end:g} s)")
    examples = _first(told, len(actions))
    return [Finding(severity, split.where, f"{_some(actions, 'action')} {what}: {examples}; {mend}.")]


def _some(things: Sized, kind: str) -> str:
    """Count things of a kind: "1 class", "2 classes"."""
    plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return f"{len(things):,} {kind if len(things) == 1 else plural}"


def _first(names: Sequence[str], count: int | None = None) -> str:
    more = (len(names) if count is None else count) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
