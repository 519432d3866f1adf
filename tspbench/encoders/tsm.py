"""Temporal shift: a residual network of single frames whose blocks look at their neighbours (Lin et al., ICCV 2019)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from tspbench.encoders.contract import Preprocessing

SHIFTED: Final = 8  # one channel in so many comes from the frame after, one in so many from the frame before
HEAD: Final = "new_fc."

# LoFi: 64 consecutive frames of 30 a second, every 8th of them. Size and cut: TSM, main.py and ops/models.py.
IMAGENET_224: Final = Preprocessing(
    clip_frames=8,
    frame_rate=30 / 8,
    resize=(256, 340),
    crop=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


class Tsm(ResNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's two-dimensional ResNet without its classifier, shifted in every block; names are torchvision's.

    Frames pass through as pictures do, but the residual branch of each block begins with `shifted` (the placement
    "blockres" of ops/temporal_shift.py, with ``n_round`` 1, as up to 50 layers). A clip's feature is the mean over
    space and frames. Clips may have any number of frames and any size.
    """

    preprocessing: ClassVar[Preprocessing] = IMAGENET_224
    stem_prefix: ClassVar[str | tuple[str, ...]] = ("conv1.", "bn1.")

    def __init__(self, block: type[nn.Module], layers: tuple[int, int, int, int]) -> None:
        super().__init__(block, list(layers))
        self.fc = nn.Identity()

    def forward(self, clips: Tensor) -> Tensor:
        """Return (B, feature_dim) for clips (B, 3, F, H, W)."""
        count, _, frames, _, _ = clips.shape
        # With its channels last, a batch of clips is a batch of pictures with their channels last: nothing is copied.
        x = clips.contiguous(memory_format=torch.channels_last_3d).transpose(1, 2).flatten(0, 1)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = _passed(block, x, frames)
        return torch.as_tensor(x).view(count, frames, *x.shape[1:]).mean(dim=(1, 3, 4))


def shifted(pictures: Tensor, frames: int) -> Tensor:
    """Show each frame an eighth of the next one's channels and an eighth of the one before's.

    Args:
        pictures: (B * F, C, H, W), the frames of a clip one after another.
        frames: F.

    Returns:
        (B * F, C, H, W): channels [0, C // 8) of frame f are those of frame f + 1, [C // 8, 2 * (C // 8)) those of
        frame f - 1, the others its own; beyond both ends of a clip there are zeros.
    """
    fold = pictures.shape[1] // SHIFTED
    clips = pictures.view(-1, frames, *pictures.shape[1:]).transpose(1, 2)  # (B, C, F, H, W)
    moving = F.pad(clips[:, : 2 * fold], (0, 0, 0, 0, 1, 1))
    parts = [moving[:, :fold, 2:], moving[:, fold:, :-2], clips[:, 2 * fold :]]
    return torch.cat(parts, dim=1).transpose(1, 2).flatten(0, 1)


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of TSM's release by torchvision's names, without the classifier; others as they are.

    There the network is called ``base_model``, a convolution behind a shift ``net``, the classifier ``new_fc``
    (ops/models.py and ops/temporal_shift.py).
    """
    return {
        key.removeprefix("base_model.").replace(".conv1.net.", ".conv1."): value
        for key, value in state.items()
        if not key.startswith(HEAD)
    }


def _passed(block: Any, x: Tensor, frames: int) -> Tensor:
    """Return what a block of torchvision makes of pictures whose residual branch begins with a shift."""
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, "conv3"):
        layers.append((block.conv3, block.bn3))
    y = shifted(x, frames)
    for number, (convolution, norm) in enumerate(layers, start=1):
        y = norm(convolution(y))
        if number < len(layers):
            y = block.relu(y)
    kept = x if block.downsample is None else block.downsample(x)
    return torch.as_tensor(block.relu(y + kept))
