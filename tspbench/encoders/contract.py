"""What an encoder states about itself, so that extraction never guesses its preprocessing."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
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
        x = frames.permute(0, 3, 1, 2).float() / 255
        if x.shape[-2:] != (height, width):
            x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        x = x[..., top : top + self.crop, left : left + self.crop]
        if flip:
            x = x.flip(-1)
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((x - mean) / std).transpose(0, 1).contiguous()


class Encoder(Protocol):
    """Maps clips (B, 3, F, H, W) float32 to features (B, feature_dim).

    An encoder is an `torch.nn.Module` built without arguments, with random weights; ``stem_prefix`` names the
    parameters that TSP trains with learning rate 0; ``torchvision_weights`` names the class of published weights, if
    torchvision has some.
    """

    preprocessing: ClassVar[Preprocessing]
    feature_dim: ClassVar[int]
    stem_prefix: ClassVar[str]
    torchvision_weights: ClassVar[str | None]

    def __call__(self, clips: Tensor) -> Tensor:
        """Return one feature vector a clip."""


# TSP, train/train.py and opts.py: 16 frames at 15 fps, 128 x 171, crop 112, Kinetics statistics.
KINETICS_112 = Preprocessing(
    clip_frames=16,
    frame_rate=15.0,
    resize=(128, 171),
    crop=112,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
