"""What an encoder states about itself, so that extraction never guesses its preprocessing."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tspbench.preprocessing import KINETICS_112, Preprocessing

__all__ = ["KINETICS_112", "Encoder", "Preprocessing", "channels_last"]

M = TypeVar("M", bound=nn.Module)


class Encoder(Protocol):
    """Maps clips (B, 3, F, H, W) float32 to features (B, feature_dim).

    An encoder is a `torch.nn.Module` built without arguments, with random weights; ``stem_prefix`` is what the names
    of the parameters that TSP trains with learning rate 0 start with, as `str.startswith` takes it;
    ``torchvision_weights`` says what published weights of torchvision were trained on ("kinetics", "imagenet") and
    what torchvision calls them. Of a user's own encoder these two may be left out, and its weights are those that it
    has when it is built.
    """

    preprocessing: ClassVar[Preprocessing]
    feature_dim: ClassVar[int]
    stem_prefix: ClassVar[str | tuple[str, ...]]
    torchvision_weights: ClassVar[Mapping[str, str]]

    def __call__(self, clips: Tensor) -> Tensor:
        """Return one feature vector a clip."""


def channels_last(module: M) -> M:
    """Lay out the weights of convolutions with their channels last, two- or three-dimensional, and return ``module``.

    Convolutions are faster so, and what `torch.nn.Module.to` does for one number of dimensions alone.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return module
