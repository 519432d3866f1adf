"""Foreground and background segments of untrimmed videos, as the TSP ground truth cuts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspbench.pretraining.contract import BACKGROUND


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
    """Cut one video into its actions and the background between them.

    Background is what the union of the actions leaves free between 0 and ``duration``, where that lasts long enough:
    one clip on THUMOS14, five clips on ActivityNet (found by cutting the released ground truth of TSP again).

    Args:
        video: its name.
        duration: its length in seconds.
        actions: (N, 2) start and end in seconds.
        classes: N class indices.
        shortest: actions shorter than this many seconds (one clip) are dropped (TSP, untrimmed_video_dataset.py).
        shortest_gap: gaps shorter than this many seconds are dropped.
    """
    inside = np.clip(actions, 0.0, duration)
    found = [
        LabelledSegment(video, float(start), float(end), int(label))
        for (start, end), label in zip(inside, classes, strict=True)
        if _lasts(end - start, shortest)
    ]
    position = 0.0
    for start, end in [*inside[np.argsort(inside[:, 0], kind="stable")], (duration, duration)]:
        if _lasts(start - position, shortest_gap):
            found.append(LabelledSegment(video, position, float(start), BACKGROUND))
        position = max(position, float(end))
    return found


def balanced_epoch(
    segments: Sequence[LabelledSegment], clips_per_segment: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose the segments of one training epoch: as many clips of background as of foreground, in random order.

    Every action gives ``clips_per_segment`` clips; background segments share the same number evenly. Without
    background segments (trimmed videos, TAC) there is only foreground.

    Returns:
        (n,) int64 indices into ``segments``.
    """
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
