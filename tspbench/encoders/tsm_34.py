"""TSM-ResNet-34: temporal shift in 34 layers."""

from collections.abc import Mapping
from typing import ClassVar

from torchvision.models.resnet import BasicBlock

from tspbench.encoders.tsm import Tsm


class Tsm34(Tsm):
    """torchvision's resnet34 with a temporal shift in every block."""

    feature_dim: ClassVar[int] = 512
    torchvision_weights: ClassVar[Mapping[str, str]] = {"imagenet": "ResNet34_Weights.IMAGENET1K_V1"}

    def __init__(self) -> None:
        super().__init__(BasicBlock, (3, 4, 6, 3))
