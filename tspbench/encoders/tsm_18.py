"""TSM-ResNet-18: the encoder that LoFi was published with."""

from collections.abc import Mapping
from typing import ClassVar

from torchvision.models.resnet import BasicBlock

from tspbench.encoders.tsm import Tsm


class Tsm18(Tsm):
    """torchvision's resnet18 with a temporal shift in every block."""

    feature_dim: ClassVar[int] = 512
    torchvision_weights: ClassVar[Mapping[str, str]] = {"imagenet": "ResNet18_Weights.IMAGENET1K_V1"}

    def __init__(self) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2))
