"""R3D-18: 3-D convolutions throughout, as in torchvision."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from tspbench.encoders.contract import KINETICS_112, Preprocessing


class R3D18(VideoResNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's r3d_18 without its classifier; parameter names are torchvision's."""

    preprocessing: ClassVar[Preprocessing] = KINETICS_112
    feature_dim: ClassVar[int] = 512
    stem_prefix: ClassVar[str | tuple[str, ...]] = "stem."
    torchvision_weights: ClassVar[Mapping[str, str]] = {"kinetics": "R3D_18_Weights.KINETICS400_V1"}

    def __init__(self) -> None:
        super().__init__(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], BasicStem)
        self.fc = nn.Identity()
