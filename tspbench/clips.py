"""Which frames a clip covers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Containers that keep whole milliseconds seem to end up to so much later: no reason for one more frame.
ROUNDING_SECONDS: Final = 0.001

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """Which clip is read: small, because it is sent to whichever process reads.

    Args:
        video: name.
        start_seconds: where it starts.
        seed: of the cut and the mirroring; None: the central cut.
    """

    video: str
    start_seconds: float
    seed: int | None


def frame_grid(timestamps: NDArray[np.float64], duration: float, frame_rate: float) -> Indices:
    """Choose the frame shown nearest to each instant 0, 1/frame_rate, 2/frame_rate, … before ``duration``.

    For a file of constant rate this is the grid of every k-th frame (30 fps to 15: frames 0, 2, 4, …); for a
    variable rate the clip still lasts as long as the encoder was trained for.

    Args:
        timestamps: (N,) seconds at which each frame is shown, ascending.
        duration: seconds from the first frame to the end of the last.
        frame_rate: frames a second that the encoder expects.

    Returns:
        (n,) int64, ascending indices into ``timestamps``, possibly with repeats.
    """
    count = max(1, int(np.ceil((duration - ROUNDING_SECONDS) * frame_rate - 1e-6)))
    instants = np.arange(count) / frame_rate
    after = np.clip(np.searchsorted(timestamps, instants), 1, max(1, len(timestamps) - 1))
    if len(timestamps) == 1:
        return np.zeros(count, dtype=np.int64)
    nearer_before = instants - timestamps[after - 1] <= timestamps[after] - instants
    return (after - nearer_before).astype(np.int64)


def clip_centres(count: int, clip_frames: int, stride_frames: int, frame_rate: float) -> NDArray[np.float64]:
    """Return the (count,) instants in seconds at the middle of each clip [k * stride, k * stride + clip_frames)."""
    return np.arange(count, dtype=np.float64) * (stride_frames / frame_rate) + clip_frames / 2 / frame_rate


def segment_clip_starts(
    start: float, end: float, clips: int, clip_seconds: float, rng: np.random.Generator | None
) -> NDArray[np.float64]:
    """Choose where ``clips`` clips of one segment start, in seconds (TSP: 5 a segment and epoch).

    Args:
        start: first second of the segment.
        end: last second of the segment; at least ``clip_seconds`` later.
        clips: how many.
        clip_seconds: length of a clip.
        rng: uniform at random inside the segment (training), or evenly spaced from end to end when None (validation).
    """
    last = max(start, end - clip_seconds)
    if rng is None:
        return np.linspace(start, last, clips, dtype=np.float64)
    return rng.uniform(start, last, clips)


def clip_frames_at(start: float, clip_frames: int, frame_rate: float, grid_length: int) -> Indices:
    """Return the (clip_frames,) places on a video's frame grid of the clip that starts at ``start`` seconds.

    Places past the end repeat the last frame.
    """
    first = min(round(start * frame_rate), max(0, grid_length - clip_frames))
    return np.minimum(np.arange(first, first + clip_frames), grid_length - 1)
