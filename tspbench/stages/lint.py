"""What is wrong with a data set before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.datasets import CARD, Dataset, find_videos
from tspbench.errors import UserError
from tspbench.stages.lint_actions import (
    CLIP_SECONDS,
    Finding,
    Severity,
    Split,
    check_lengths,
    check_repeats,
    check_times,
    counted,
    cut_counts,
    examples,
)
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.captions import read_caption_file
from tspbench.video_names import known_name

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
# Where ends lie so many times beyond their videos, times are milliseconds; frames are at most 120 a second.
MILLISECONDS_FROM: Final = 120.0
LONGEST_USUAL_ACTION: Final = 300.0  # median in seconds; ActivityNet's is 28


@dataclass(frozen=True)
class SplitCounts:
    """What of a split can be used.

    Attributes:
        role: "training" or "validation".
        subset: its name in the annotation file.
        videos: annotated.
        with_file: of them, how many are on disk and can be used; the others are missing or quarantined.
        actions: annotated.
        kept: of them, those that last a clip within their video; pretraining drops the others.
    """

    role: str
    subset: str
    videos: int
    with_file: int
    actions: int
    kept: int


class _OnDisk(NamedTuple):
    """The videos on disk: name → file, those in quarantine → why, name → seconds, and what is wrong with them all."""

    files: Mapping[str, Path]
    quarantined: Mapping[str, str]
    durations: Mapping[str, float]
    problems: Sequence[Finding] = ()


def lint(dataset: Dataset, durations: Mapping[str, float], clip_seconds: float = CLIP_SECONDS) -> list[Finding]:
    """Look for mistakes in a data set.

    Args:
        dataset: as opened.
        durations: video → length in seconds, as scanned; where there is none, and where the files are others since,
            the annotated one counts.
        clip_seconds: length of a clip of the encoder to be trained.

    Returns:
        What was found, errors first; nothing where all is well.
    """
    found = [*_other_files(dataset)]
    if dataset.card.annotations is not None or not dataset.card.captions:
        try:
            annotations = dataset.read()
            for subset in dataset.card.splits.values():
                annotations.subset(subset)
        except UserError as error:
            found.append(Finding("error", str(dataset.folder / CARD), str(error)))
        else:
            there = _on_disk(dataset, durations)
            splits = _splits(dataset, annotations, there.durations)
            found += [*_empty(dataset, splits), *_labels(splits, str(annotations.path))]
            units = _units(splits, str(annotations.path))
            for split in splits:
                found += [*check_lengths(split), *check_repeats(split)]
                if not units:  # in another unit everything is late, or no action is short
                    found += check_times(split, dataset, clip_seconds)
            found += [*units, *there.problems, *_files(dataset, annotations, splits, there)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def kept_report(
    dataset: Dataset, durations: Mapping[str, float], clip_seconds: float = CLIP_SECONDS
) -> list[SplitCounts]:
    """Count what can be used of each split that the annotations have; arguments as for `lint`.

    Raises:
        UserError: the annotations cannot be read.
    """
    there = _on_disk(dataset, durations)
    usable = there.files.keys() - there.quarantined.keys()
    return [
        SplitCounts(
            role=split.role,
            subset=split.subset,
            videos=len(split.videos),
            with_file=sum(known_name(video.name, usable) is not None for video in split.videos),
            actions=len(split.actions),
            kept=sum(cut_counts(video, split, clip_seconds)[0] for video in split.videos),
        )
        for split in _splits(dataset, dataset.read(), there.durations)
    ]


def _on_disk(dataset: Dataset, durations: Mapping[str, float]) -> _OnDisk:
    where = str(dataset.videos)
    if not dataset.videos.is_dir():
        told = "There are no videos: features of this set have to come from elsewhere."
        return _OnDisk({}, {}, durations, [Finding("note", where, told)])
    files: Mapping[str, Path] = {}
    try:
        files = find_videos(dataset.videos)
        manifest = dataset.manifest()
        if manifest is not None:
            manifest.check(files)
    except UserError as error:
        return _OnDisk(files, {}, {}, [Finding("error", where, str(error))])
    return _OnDisk(files, manifest.quarantined if manifest else {}, durations)


def _splits(dataset: Dataset, annotations: Annotations, durations: Mapping[str, float]) -> list[Split]:
    ignored = DETECTION_PROTOCOLS[dataset.protocol].ignored_label
    annotated = {video.name: video.duration_seconds for video in annotations.videos if video.duration_seconds}
    called = {video.name: known_name(video.name, durations) for video in annotations.videos}
    scanned = {video: durations[name] for video, name in called.items() if name is not None}
    return [
        Split(
            role=role,
            subset=subset,
            where=f"{annotations.path}, {role}",
            videos=tuple(_without(video, ignored) for video in annotations.subset(subset)),
            scanned=scanned,
            lengths={**annotated, **scanned},
        )
        for role, subset in dataset.card.splits.items()
        if any(video.subset == subset for video in annotations.videos)
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


def _empty(dataset: Dataset, splits: Sequence[Split]) -> Iterator[Finding]:
    for role in ("training", "validation"):
        split = next((split for split in splits if split.role == role), None)
        if split is None:
            yield Finding("error", str(dataset.folder / CARD), f"There is no split for {role}: add it to [splits].")
        elif not split.actions:
            told = f"None of the {len(split.videos):,} videos has an action: annotate some."
            yield Finding("error", split.where, told)


def _units(splits: Sequence[Split], where: str) -> list[Finding]:
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


def _labels(splits: Sequence[Split], where: str) -> Iterator[Finding]:
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
        told = f"{counted(len(unseen), 'class')} in validation alone, so that nothing can learn them"
        yield Finding("error", where, f"{told}: {examples(unseen)}; add some to training, or correct the split.")
    single = sorted(label for label, count in training.items() if count < 2)
    if single:
        told = f"{counted(len(single), 'class')} with a single action for training"
        yield Finding("warning", where, f"{told}: {examples(single)}; annotate more, or leave the class out.")


def _files(dataset: Dataset, annotations: Annotations, splits: Sequence[Split], there: _OnDisk) -> Iterator[Finding]:
    where = str(dataset.videos)
    for split in splits if there.files else ():
        files = {video.name: known_name(video.name, there.files) for video in split.videos}
        missing = [video for video, name in files.items() if name is None]
        quarantined = sorted(there.quarantined.keys() & {*files.values()})
        severity: Severity = "error" if len(missing) + len(quarantined) == len(files) else "warning"
        of = f"of {counted(len(files), 'video')} for {split.role}"
        if missing:
            told = f"{len(missing):,} {of} without a file: {examples(missing)}"
            yield Finding(severity, where, f"{told}; add them, or see whether names are the same.")
        if quarantined:
            why = there.quarantined[quarantined[0]].rstrip(".")
            yield Finding(severity, where, f"{len(quarantined):,} {of} quarantined (first: {quarantined[0]}: {why}).")
    annotated = {video.name for video in annotations.videos}
    unknown = sorted(path.name for name, path in there.files.items() if known_name(name, annotated) is None)
    if unknown:
        told = f"{counted(len(unknown), 'file')} without annotation"
        yield Finding("note", where, f"{told}: {examples(unknown)}; a video without actions wants an entry, too.")


def _is_typo(one: str, other: str) -> bool:
    """Whether one letter too many, too few, another or two in the wrong order make ``one`` of ``other``."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    swapped = len(one) == 2 and one == other[::-1]
    return (swapped or max(len(one), len(other)) == 1) and not (one + other).isdigit()
