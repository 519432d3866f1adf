"""Tiny (2+1)D encoder for the generated benchmark."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tspbench.encoders.contract import Preprocessing


class Tiny(nn.Module):
    """Four stages of a spatial then a temporal convolution, widths 16-32-64-128, averaged over space and time."""

    preprocessing: ClassVar[Preprocessing] = Preprocessing(
        clip_frames=8, frame_rate=12.0, resize=(56, 56), crop=48, mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25)
    )
    feature_dim: ClassVar[int] = 128
    stem_prefix: ClassVar[str | tuple[str, ...]] = "stem."
    torchvision_weights: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.stem = _stage(3, 16, frame_stride=1)
        self.stages = nn.Sequential(_stage(16, 32, 1), _stage(32, 64, 2), _stage(64, 128, 2))

    def forward(self, clips: Tensor) -> Tensor:
        """Return (B, 128) for clips (B, 3, F, H, W)."""
        x = self.stages(self.stem(clips.contiguous(memory_format=torch.channels_last_3d)))
        return torch.as_tensor(x).mean(dim=(2, 3, 4))


def _stage(channels_in: int, channels_out: int, frame_stride: int) -> nn.Sequential:
    """Halve the resolution with a 1x3x3 convolution, then mix neighbouring frames with a 3x1x1 convolution."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels_out, channels_out, (3, 1, 1), stride=(frame_stride, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )
