"""Seconds ↔ feature steps: the only converter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """A video of ``duration`` seconds seen as ``steps`` steps of equal length; step k covers [k, k + 1) steps."""

    duration: float
    steps: int

    def to_steps(self, segments_seconds: Floats) -> Floats:
        """Return (N, 2) segments in steps, clipped to the video, for (N, 2) segments in seconds."""
        return np.clip(segments_seconds / self.duration, 0.0, 1.0) * self.steps

    def to_seconds(self, segments_steps: Floats) -> Floats:
        """Return (N, 2) segments in seconds for (N, 2) segments in steps."""
        return segments_steps / self.steps * self.duration

    def resample(self, rows: NDArray[np.float32], centres_seconds: Floats) -> NDArray[np.float32]:
        """Interpolate rows linearly along time at the middle of each step; beyond the first and last row, hold them.

        For rows spread evenly over the video this is ``torch.nn.functional.interpolate(mode="linear")``, which TSP's
        authors used (their answer in issue 8 of the TSP repository).

        Args:
            rows: (T, D) features.
            centres_seconds: (T,) instants that the rows stand for, ascending.

        Returns:
            (steps, D) float32.
        """
        wanted = (np.arange(self.steps) + 0.5) * (self.duration / self.steps)
        places = np.interp(wanted, centres_seconds, np.arange(len(rows)))
        low = np.minimum(places.astype(np.int64), max(0, len(rows) - 2))
        high = np.minimum(low + 1, len(rows) - 1)
        share = (places - low).astype(np.float32)[:, None]
        resampled: NDArray[np.float32] = (1 - share) * rows[low] + share * rows[high]
        return resampled
