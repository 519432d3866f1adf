"""R(2+1)D-34: the encoder of the TSP paper, shaped for the IG65M weights."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from tspbench.encoders.contract import KINETICS_112, Preprocessing


class R2Plus1D34(VideoResNet):  # type: ignore[misc] # torchvision has no types
    """Layers 3-4-6-3, with the two peculiarities of the published weights.

    The second convolution of the first block in layers 2, 3 and 4 takes its middle width from its own input, not
    from the block's; batch norms use eps 1e-3 and momentum 0.9 (TSP models/backbone.py).
    """

    preprocessing: ClassVar[Preprocessing] = KINETICS_112
    feature_dim: ClassVar[int] = 512
    stem_prefix: ClassVar[str | tuple[str, ...]] = "stem."
    torchvision_weights: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem)
        for layer, planes in ((self.layer2, 128), (self.layer3, 256), (self.layer4, 512)):
            layer[0].conv2[0] = Conv2Plus1D(planes, planes, _midplanes(planes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps, module.momentum = 1e-3, 0.9
        self.fc = nn.Identity()


def _midplanes(planes: int) -> int:
    """Return the middle width that gives a (2+1)D convolution the parameters of a full 3-D one (planes to planes)."""
    return (planes * planes * 3 * 3 * 3) // (planes * 3 * 3 + 3 * planes)
