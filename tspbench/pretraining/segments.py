"""Foreground and background segments of untrimmed videos, as the TSP ground truth cuts them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspbench.pretraining.contract import BACKGROUND

Sampling = Literal["balanced", "every-segment"]


@dataclass(frozen=True)
class LabelledSegment:
    """A stretch of one video from which clips are drawn.

    Args:
        video: the video's name.
        start: first second.
        end: last second.
        action: index of its class, `BACKGROUND` between actions.
    """

    video: str
    start: float
    end: float
    action: int

    @property
    def region(self) -> int:
        """0 inside an action, 1 outside."""
        return int(self.action == BACKGROUND)


def cut_segments(
    video: str,
    duration: float,
    actions: NDArray[np.float64],
    classes: Sequence[int],
    shortest: float,
    shortest_gap: float,
) -> list[LabelledSegment]:
    """Cut one video into its actions and the background between them, as far as a clip fits into them.

    Args:
        video: its name.
        duration: its length in seconds.
        actions: (N, 2) start and end in seconds.
        classes: N class indices.
        shortest: see `fit_clips`.
        shortest_gap: see `find_gaps`.
    """
    found = [
        LabelledSegment(video, start, end, int(label))
        for (start, end), label in zip(actions.tolist(), classes, strict=True)
    ]
    gaps = find_gaps(actions, duration, shortest_gap).tolist()
    found += [LabelledSegment(video, start, end, BACKGROUND) for start, end in gaps]
    return fit_clips(found, {video: duration}, shortest)


def find_gaps(
    actions: NDArray[np.float64], duration: float, shortest_gap: float, *, as_released: bool = False
) -> NDArray[np.float64]:
    """Return the (M, 2) stretches of a video in which nothing happens, in order, in seconds.

    They are what the union of the actions leaves free between 0 and ``duration``, where that lasts long enough: one
    clip on THUMOS14, five clips on ActivityNet (found by cutting the ground truth that TSP released again). As in the
    released files, actions that are annotated after the end of the video count, and so do gaps between them.

    Args:
        actions: (N, 2) start and end in seconds, in any order.
        duration: length of the video in seconds.
        shortest_gap: gaps shorter than this many seconds are dropped.
        as_released: repeat a slip of the released files, in which a gap begins where the action ends that began last,
            even inside a longer action that began before. It touches 92 of their 15,362 videos, where it calls parts of
            actions background, and gives all of their 28,454 gaps but one (of two actions that begin together).
    """
    position, found = 0.0, []
    for start, end in [*actions[np.argsort(actions[:, 0], kind="stable")].tolist(), (duration, duration)]:
        if _lasts(start - position, shortest_gap):
            found.append((position, start))
        position = end if as_released else max(position, end)
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def fit_clips(
    segments: Iterable[LabelledSegment], durations: Mapping[str, float], shortest: float
) -> list[LabelledSegment]:
    """Cut segments off where their videos begin and end, and drop those that are too short for a clip.

    So TSP's training does with its ground truth (train/untrimmed_video_dataset.py); in that of THUMOS14, 54 segments
    begin after their video ends.

    Args:
        segments: of any videos.
        durations: video → its length in seconds.
        shortest: segments shorter than this many seconds (one clip) are dropped.
    """
    inside = (
        replace(segment, start=max(0.0, segment.start), end=min(segment.end, durations[segment.video]))
        for segment in segments
    )
    return [segment for segment in inside if _lasts(segment.end - segment.start, shortest)]


def epoch_segments(
    segments: Sequence[LabelledSegment], clips_per_segment: int, sampling: Sampling, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose the segments of one training epoch, in random order.

    Args:
        segments: to choose from.
        clips_per_segment: clips of each segment; when balanced, of each action.
        sampling: "every-segment" draws as many clips from each, foreground or background, as TSP's code does;
            "balanced" as many clips of background as of foreground, the background segments sharing them evenly.
            Without background segments (trimmed videos, TAC) both are the same.
        rng: for the order, and for which background segments give one clip more.

    Returns:
        (n,) int64 indices into ``segments``.
    """
    if sampling == "every-segment":
        return rng.permutation(np.repeat(np.arange(len(segments)), clips_per_segment))
    regions = np.array([segment.region for segment in segments], dtype=np.int64)
    foreground, background = np.flatnonzero(regions == 0), np.flatnonzero(regions == 1)
    chosen = np.repeat(foreground, clips_per_segment)
    if len(background):
        chosen = np.concatenate([chosen, np.resize(rng.permutation(background), len(chosen))])
    return rng.permutation(chosen)


def label_counts(segments: Sequence[LabelledSegment]) -> Mapping[str, int]:
    """Return how many segments are foreground and background."""
    background = sum(segment.region for segment in segments)
    return {"foreground": len(segments) - background, "background": background}


def _lasts(seconds: float, shortest: float) -> bool:
    """Whether a stretch lasts ``shortest`` seconds, give or take rounding."""
    return bool(seconds >= shortest - 1e-6)
