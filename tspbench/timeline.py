"""Seconds ↔ feature steps: the only converter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """A stretch of a video seen as steps of equal length.

    Step k covers [start + k * step, start + (k + 1) * step) seconds. The start may lie before the video's: a row that
    stands for the middle of a short clip stands for half a stride on either side.

    Attributes:
        start_seconds: where step 0 begins.
        step_seconds: length of a step, above 0.
        steps: how many there are, at least 1.

    Raises:
        ValueError: a number that is not finite, or not above 0 where it has to be.
    """

    start_seconds: float
    step_seconds: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_seconds) and 0 < self.step_seconds < math.inf and self.steps >= 1):
            raise ValueError(f"expected a finite start, and a step and a number of steps above 0, got {self}")

    @classmethod
    def whole(cls, duration_seconds: float, steps: int) -> Timeline:
        """Return a whole video of ``duration_seconds`` as ``steps`` steps."""
        return cls(0.0, duration_seconds / steps, steps)

    def window(self, offset: int, steps: int) -> Timeline:
        """Return the ``steps`` steps from step ``offset`` on, which may reach past the end."""
        return Timeline(self.start_seconds + offset * self.step_seconds, self.step_seconds, steps)

    def to_steps(self, segments_seconds: Floats) -> Floats:
        """Return (N, 2) segments in steps, clipped to [0, steps], for (N, 2) segments in seconds."""
        shares = (segments_seconds - self.start_seconds) / (self.step_seconds * self.steps)
        return np.clip(shares, 0.0, 1.0) * self.steps

    def to_seconds(self, segments_steps: Floats) -> Floats:
        """Return (N, 2) segments in seconds for (N, 2) segments in steps."""
        return segments_steps / self.steps * (self.step_seconds * self.steps) + self.start_seconds

    def places(self, centres_seconds: Floats) -> Floats:
        """Say between which rows the middle of each step lies.

        Args:
            centres_seconds: (T,) instants that the rows stand for, ascending.

        Returns:
            (steps,) places for `interpolated`: 2.25 is a quarter of the way from row 2 to row 3; a step before the
            first row or after the last is at that row. For rows spread evenly over the video, interpolating there is
            ``torch.nn.functional.interpolate(mode="linear")``, which TSP's authors used (their answer in issue 8 of
            the TSP repository).
        """
        middles = (np.arange(self.steps) + 0.5) * self.step_seconds + self.start_seconds
        places: Floats = np.interp(middles, centres_seconds, np.arange(len(centres_seconds)))
        return places


def interpolated(rows: NDArray[np.float32], places: Floats) -> NDArray[np.float32]:
    """Return the (N, D) float32 values at (N,) ``places`` in [0, T - 1] of (T, D) ``rows``, linearly between rows."""
    low = np.minimum(places.astype(np.int64), max(0, len(rows) - 2))
    high = np.minimum(low + 1, len(rows) - 1)
    share = (places - low).astype(np.float32)[:, None]
    between: NDArray[np.float32] = (1 - share) * rows[low] + share * rows[high]
    return between
