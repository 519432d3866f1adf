"""A network applied to a large batch in chunks: the memory of one chunk, the gradients of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def map_tensors(function: Callable[..., Tensor], tree: T, *others: T) -> T:
    """Apply ``function`` to every tensor of a dataclass, dict, list or tuple of tensors; anything else stays.

    Args:
        function: takes a tensor of ``tree`` and those in its place in each of ``others``.
        tree: of tensors.
        others: of the same shape.
    """
    made: Any
    if isinstance(tree, Tensor):
        made = function(tree, *others)
    elif is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in fields(tree)]
        parts = {name: [getattr(each, name) for each in (tree, *others)] for name in names}
        made = type(tree)(**{name: map_tensors(function, *each) for name, each in parts.items()})
    elif isinstance(tree, dict):
        made = {key: map_tensors(function, *(each[key] for each in (tree, *others))) for key in tree}  # type: ignore[index]
    elif isinstance(tree, list | tuple):
        made = type(tree)(map_tensors(function, *each) for each in zip(tree, *others, strict=True))
    else:
        made = tree
    return made  # type: ignore[no-any-return]


def in_chunks(module: nn.Module, inputs: Sequence[Any], size: int | None) -> Any:
    """Apply ``module`` to ``size`` samples at a time; same outputs and gradients as for all at once.

    What a chunk needs for its gradients is computed again in the backward pass instead of being kept, so that memory
    is that of one chunk; a step takes one more forward pass. Layers whose output depends on the company of a sample
    (batch normalization with the batch's statistics) see chunks instead of batches.

    Args:
        module: takes ``inputs`` one by one as arguments.
        inputs: trees of tensors (B, …) of the same B, see `map_tensors`.
        size: samples in a chunk; None: all at once, the plain formulation.
    """
    samples = _samples(inputs)
    if size is None or samples <= size:
        return module(*inputs)
    parts = []
    for first in range(0, samples, size):
        chunk = [map_tensors(lambda whole: whole[first : first + size], each) for each in inputs]  # noqa: B023
        if torch.is_grad_enabled():
            parts.append(checkpoint(module, *chunk, use_reentrant=False, context_fn=lambda: _contexts(module)))
        else:
            parts.append(module(*chunk))
    return map_tensors(lambda *pieces: torch.cat(pieces), *parts)


def _samples(inputs: Sequence[Any]) -> int:
    found: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(len(tensor))
        return tensor

    map_tensors(note, tuple(inputs))
    return found[0]


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_counting(module)


@contextmanager
def _without_counting(module: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are while a chunk is computed for the second time."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked
