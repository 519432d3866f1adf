"""Rows that no network is trained for: the whole video, a uniform grid, and the upper mark of a localizer's grid."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.overlap import temporal_iou
from tspbench.timeline import Timeline

Floats = NDArray[np.float64]

LEVELS: Final = 6  # 1 + 2 + 4 + ... + 32 = 63 segments: as many whole levels as 100 proposals hold
CELLS_AT_ONCE: Final = 1 << 22  # pairs whose overlap is computed together: 32 MB


def whole_video(duration: float) -> tuple[Floats, Floats]:
    """Return the video as one segment (1, 2) in seconds, and its score (1,)."""
    return np.array([[0.0, duration]]), np.ones(1)


def uniform_grid(duration: float) -> tuple[Floats, Floats]:
    """Return the video in 1, 2, 4, ... equal parts, the longest first.

    Returns:
        Segments (63, 2) in seconds and scores (63,), the share of the video that a segment is.
    """
    bounds = [np.linspace(0.0, duration, 2**level + 1) for level in range(LEVELS)]
    segments = np.concatenate([np.stack([edges[:-1], edges[1:]], axis=1) for edges in bounds])
    return segments, np.concatenate([np.full(2**level, 0.5**level) for level in range(LEVELS)])


# What a video's segments are proposed from: (duration in seconds) → (segments, scores).
UNTRAINED: Final[dict[str, Callable[[float], tuple[Floats, Floats]]]] = {
    "whole-video": whole_video,
    "uniform-grid": uniform_grid,
}
UPPER_MARK: Final = "upper-mark"
RANDOM_FEATURES: Final = "random-features"
REFERENCES: Final = {
    "whole-video": "Whole video",
    "uniform-grid": "Uniform grid",
    RANDOM_FEATURES: "Random features",
    UPPER_MARK: "Upper mark of the grid",
}
"""Reference row → how a table calls it."""
FREE_REFERENCES: Final = tuple(name for name in REFERENCES if name != RANDOM_FEATURES)
"""Reference rows that no network is trained for."""


def closest_on_grid(
    truth: Floats, grid: Floats | None, timelines: list[Timeline], duration: float
) -> tuple[Floats, Floats]:
    """Return for each true segment the one that a localizer can propose with the highest temporal IoU, and that IoU.

    Args:
        truth: (N, 2) true segments in seconds.
        grid: (M, 2) what the localizer can propose, in steps; None: any segment.
        timelines: of the views that the localizer has of the video.
        duration: of the video in seconds; what a proposal has beyond it is cut off, as in prediction.

    Returns:
        Segments (N, 2) in seconds, and their temporal IoU (N,): as scores, they put what counts at a threshold before
        what does not.
    """
    if grid is None or not len(truth):
        return truth, np.ones(len(truth))
    best, best_iou = np.zeros_like(truth), np.full(len(truth), -1.0)
    together = max(1, CELLS_AT_ONCE // len(grid))
    for timeline in timelines:
        candidates = np.clip(timeline.to_seconds(grid), 0.0, duration)
        candidates = candidates[candidates[:, 1] > candidates[:, 0]]
        if not len(candidates):
            continue
        for first in range(0, len(truth), together):
            rows = slice(first, first + together)
            overlap = temporal_iou(truth[rows], candidates)
            chosen = overlap.argmax(axis=1)
            iou = overlap[np.arange(len(chosen)), chosen]
            better = iou > best_iou[rows]
            best[rows][better], best_iou[rows][better] = candidates[chosen[better]], iou[better]
    return best, best_iou
