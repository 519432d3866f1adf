"""From decoded frames to an encoder's input.

Apart from the encoders, because workers that read clips need this and not what it takes to load those.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, init=False)
class Preprocessing:
    """From decoded frames to an encoder's input.

    Args:
        clip_frames: frames in a clip.
        frame_rate: frames a second of a clip.
        resize: height and width that a frame is resized to, bilinear, aspect not kept.
        crop: side of the square cut out of the resized frame.
        mean: of red, green and blue in [0, 1], subtracted.
        std: of red, green and blue, divided by.
        size: in place of ``resize`` and ``crop``: side of the square that a whole frame is resized to.

    Raises:
        ValueError: something is missing, or does not fit; all of it at once.
    """

    clip_frames: int
    frame_rate: float
    resize: tuple[int, int]
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(
        self,
        clip_frames: int,
        frame_rate: float,
        resize: Sequence[int] | None = None,
        crop: int | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        *,
        size: int | None = None,
    ) -> None:
        if (size is None) == (resize is None) or (resize is None) != (crop is None):
            raise ValueError("give size, or else resize and crop")
        height_width = (size, size) if resize is None else tuple(resize)
        values: dict[str, Any] = {
            "clip_frames": clip_frames,
            "frame_rate": frame_rate,
            "resize": height_width,
            "crop": size if crop is None else crop,
            "mean": tuple(mean),
            "std": tuple(std),
        }
        if problems := _problems(**values):
            raise ValueError("; ".join(problems))
        values["frame_rate"] = float(frame_rate)
        values |= {name: tuple(map(float, values[name])) for name in ("mean", "std")}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def clip_seconds(self) -> float:
        """How long a clip lasts."""
        return self.clip_frames / self.frame_rate

    def apply(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return (n, H, W, 3) uint8 frames as (3, n, crop, crop) float32.

        One cut for all frames: the central one (rounded as torchvision does), or with a generator a random one,
        mirrored every other time (the augmentation of TSP, train/train.py).
        """
        height, width = self.resize
        if generator is None:
            top, left, flip = round((height - self.crop) / 2), round((width - self.crop) / 2), False
        else:
            top = int(torch.randint(height - self.crop + 1, (), generator=generator))
            left = int(torch.randint(width - self.crop + 1, (), generator=generator))
            flip = bool(torch.rand((), generator=generator) < 0.5)
        # Three colours are too short a dimension to compute along: rows of pixels are taken as rows of colours.
        mean, std = (torch.tensor(values, device=frames.device).repeat(self.crop) for values in (self.mean, self.std))
        x = ((self._resized(frames, top, left) / 255 - mean) / std).view(len(frames), self.crop, self.crop, 3)
        return (x.flip(2) if flip else x).permute(3, 0, 1, 2).contiguous()

    def _resized(self, frames: Tensor, top: int, left: int) -> Tensor:
        """Return the cut (n, crop, crop * 3) out of the resized frames, as float32.

        Only pixels that the cut needs are read. The result is that of ``torch.nn.functional.interpolate`` (bilinear,
        ``align_corners=False``) on whole frames, to the rounding.
        """
        count, height, width, _ = frames.shape
        if (height, width) == self.resize:
            return frames[:, top : top + self.crop, left : left + self.crop].flatten(2).float()
        pixels = frames.reshape(count, height * width, 3)
        above, below, down = _neighbours(height, self.resize[0], top, self.crop, frames.device)
        before, behind, right = _neighbours(width, self.resize[1], left, self.crop, frames.device)

        def corner(rows: Tensor, columns: Tensor) -> Tensor:
            places = (rows[:, None] * width + columns).flatten()
            return pixels.index_select(1, places).view(count, self.crop, self.crop * 3).float()

        right = right.repeat_interleave(3)
        upper = torch.lerp(corner(above, before), corner(above, behind), right)
        lower = torch.lerp(corner(below, before), corner(below, behind), right)
        return torch.lerp(upper, lower, down[:, None])


def _problems(
    clip_frames: int,
    frame_rate: float,
    resize: tuple[int, ...],
    crop: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> list[str]:
    """Say what does not fit in the arguments of a `Preprocessing`."""
    found = []
    if not _is_number(clip_frames, int) or clip_frames < 1:
        found.append(f"clip_frames: expected a whole number of frames, found {clip_frames!r}")
    if not _is_number(frame_rate, int | float) or not 0 < frame_rate < math.inf:
        found.append(f"frame_rate: expected frames a second, found {frame_rate!r}")
    sides = [side for side in (*resize, crop) if _is_number(side, int) and side >= 1]
    if len(sides) != 3 or crop > min(resize):
        found.append(f"resize and crop: expected a height, a width and a square inside, found {resize!r} and {crop!r}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(_is_number(value, int | float) and math.isfinite(value) for value in values):
            found.append(f"{name}: expected a number for each of red, green and blue, found {values!r}")
        elif name == "std" and min(values) <= 0:
            found.append(f"std: expected positive numbers, found {values!r}")
    return found


def _is_number(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _neighbours(old: int, new: int, first: int, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for places of a side that is resized from ``old`` to ``new`` pixels what they lie between.

    Args:
        old: pixels before.
        new: pixels after.
        first: first place of the cut, in new pixels.
        count: how many places.
        device: for the result.

    Returns:
        (count,) indices of the pixels on both sides, and the share of the second one.
    """
    scale = torch.tensor(old, dtype=torch.float32, device=device) / new
    centres = torch.arange(first, first + count, dtype=torch.float32, device=device) + 0.5
    places = (centres * scale - 0.5).clamp(min=0)
    low = places.long().clamp(max=old - 1)
    return low, (low + 1).clamp(max=old - 1), places - low


# TSP, train/train.py and opts.py: 16 frames at 15 fps, 128 x 171, crop 112, Kinetics statistics.
KINETICS_112 = Preprocessing(
    clip_frames=16,
    frame_rate=15.0,
    resize=(128, 171),
    crop=112,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
