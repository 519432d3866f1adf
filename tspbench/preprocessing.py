"""From decoded frames to an encoder's input.

Apart from the encoders, because workers that read clips need this and not what it takes to load those.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """From decoded frames to an encoder's input.

    Args:
        clip_frames: frames in a clip.
        frame_rate: frames a second of a clip.
        resize: height and width that a frame is resized to, bilinear, aspect not kept.
        crop: side of the square cut out of the resized frame.
        mean: of red, green and blue in [0, 1], subtracted.
        std: of red, green and blue, divided by.
    """

    clip_frames: int
    frame_rate: float
    resize: tuple[int, int]
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

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
