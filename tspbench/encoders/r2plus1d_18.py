"""R(2+1)D-18: space and time convolved in turn, as in torchvision."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from tspbench.encoders.contract import KINETICS_112, Preprocessing


class R2Plus1D18(VideoResNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's r2plus1d_18 without its classifier; parameter names are torchvision's."""

    preprocessing: ClassVar[Preprocessing] = KINETICS_112
    feature_dim: ClassVar[int] = 512
    stem_prefix: ClassVar[str | tuple[str, ...]] = "stem."
    torchvision_weights: ClassVar[Mapping[str, str]] = {"kinetics": "R2Plus1D_18_Weights.KINETICS400_V1"}

    def __init__(self) -> None:
        super().__init__(BasicBlock, [Conv2Plus1D] * 4, [2, 2, 2, 2], R2Plus1dStem)
        self.fc = nn.Identity()
