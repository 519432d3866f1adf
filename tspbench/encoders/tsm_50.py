"""TSM-ResNet-50: temporal shift in 50 layers, with bottlenecks."""

from collections.abc import Mapping
from typing import ClassVar

from torchvision.models.resnet import Bottleneck

from tspbench.encoders.tsm import Tsm


class Tsm50(Tsm):
    """torchvision's resnet50 with a temporal shift in every block."""

    feature_dim: ClassVar[int] = 2048
    torchvision_weights: ClassVar[Mapping[str, str]] = {"imagenet": "ResNet50_Weights.IMAGENET1K_V1"}

    def __init__(self) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3))
