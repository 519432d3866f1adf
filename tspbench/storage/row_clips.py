"""Which clips the rows of a feature file are, as its attributes tell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from tspbench.clips import clip_centres
from tspbench.errors import UserError
from tspbench.timeline import Timeline

# How many rows more or fewer than the attributes tell are believed; the greater of both.
SPARE_ROWS: Final = 2
SPARE_SHARE: Final = 0.02


@dataclass(frozen=True)
class RowClips:
    """Row k of every video is the clip [k * stride_frames, k * stride_frames + clip_frames).

    Attributes:
        clip_frames: frames in a clip.
        stride_frames: frames between the starts of neighbouring clips.
        frame_rate: frames a second that both are counted in.
    """

    clip_frames: int
    stride_frames: int
    frame_rate: float

    def centres(self, count: int) -> NDArray[np.float64]:
        """Return the (count,) instants in seconds at the middle of each clip."""
        return clip_centres(count, self.clip_frames, self.stride_frames, self.frame_rate)

    def timeline(self, count: int) -> Timeline:
        """Return the time line whose steps are the rows: the middle of a step is the middle of its clip."""
        start = (self.clip_frames - self.stride_frames) / 2 / self.frame_rate
        return Timeline(start, self.stride_frames / self.frame_rate, count)

    def count(self, duration: float) -> int:
        """Return how many rows a video makes, short ones padded to a clip; right to a row, as frames are rounded."""
        return 1 + max(0, int(duration * self.frame_rate - self.clip_frames) // self.stride_frames)

    def explain(self, count: int, duration: float) -> bool:
        """Whether a video of ``duration`` seconds may have ``count`` rows.

        It may have `SPARE_ROWS` or `SPARE_SHARE` more or fewer than `count` says. `tspbench extract` is off by one at
        most; others round frames otherwise, keep or drop the last clip, or believe a header that promises too much.
        """
        expected = self.count(duration)
        return abs(count - expected) <= max(SPARE_ROWS, SPARE_SHARE * expected)


def read_row_clips(where: str, attributes: Mapping[str, object]) -> RowClips | None:
    """Read them off the attributes of a feature file; None if it has none of the three.

    Args:
        where: the file, for the message.
        attributes: plain values.

    Raises:
        UserError: some but not all are there, or one is not a number above 0.
    """
    found = {field.name: attributes.get(field.name) for field in fields(RowClips)}
    if all(value is None for value in found.values()):
        return None
    for name, value in found.items():
        if not is_positive(value) or (name != "frame_rate" and value != int(value)):
            raise UserError(
                f"{where}: expected the attributes clip_frames and stride_frames as whole numbers and frame_rate as a "
                f"number, all above 0, or none of the three, found {name} {value!r}: correct the attributes."
            )
    clip_frames, stride_frames, frame_rate = (cast("float", value) for value in found.values())
    return RowClips(int(clip_frames), int(stride_frames), float(frame_rate))


def is_positive(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
