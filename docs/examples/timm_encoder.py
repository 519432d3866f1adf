"""An image model of timm as an encoder: each frame of a clip by itself, their features averaged.

Example: tspbench extract --encoder docs/examples/timm_encoder.py:TimmEncoder --videos clips/ --out F.h5
"""

import os

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from tspbench.preprocessing import Preprocessing

NAME, PRETRAINED = os.environ.get("TIMM_MODEL", "resnet18"), os.environ.get("TIMM_PRETRAINED", "1") == "1"
KNOWN = timm.create_model(NAME, num_classes=0)  # says what it wants to see; its weights are random
DATA = resolve_model_data_config(KNOWN)


class TimmEncoder(nn.Module):
    preprocessing = Preprocessing(16, frame_rate=15, size=DATA["input_size"][1], mean=DATA["mean"], std=DATA["std"])
    feature_dim = KNOWN.num_features

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model(NAME, pretrained=PRETRAINED, num_classes=0)

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)  # (B, 3, F, H, W) → (B * F, 3, H, W)
        return self.model(frames).unflatten(0, (len(clips), -1)).mean(dim=1)
