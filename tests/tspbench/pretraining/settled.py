"""Encoders with random weights whose running statistics are those of noise, as if they had been trained before."""

import torch

from tspbench.encoders import AnyEncoder, new_encoder
from tspbench.pretraining.lofi import SnippetEncoder


def normalizations(encoder: torch.nn.Module) -> list[torch.nn.Module]:
    return [layer for layer in encoder.modules() if hasattr(layer, "running_mean")]


def settled_encoder(name: str, pixels: int = 16) -> AnyEncoder:
    """Return one on which frozen statistics are of use: with those of a new network its features would fade away."""
    encoder = new_encoder(name, 0)
    shape = (8, encoder.preprocessing.clip_frames, pixels, pixels, 3)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for layer in normalizations(encoder):
        layer.momentum = 1.0
    with torch.no_grad():
        SnippetEncoder(encoder).train()(noise)
    for layer in normalizations(encoder):
        layer.momentum = 0.1
        layer.num_batches_tracked.zero_()
    return encoder
