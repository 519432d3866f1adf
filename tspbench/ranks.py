"""The processes of one run: which one this is, and how they share work and put it together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# ruff: noqa: PLC0415 - commands that run in one process must not load torch for this

# Whoever waits is not in a hurry: that another process stalls or is gone is found out by `tspbench.watch`.
PATIENCE = timedelta(days=30)
_alone = False


def number() -> int:
    """Return which of the processes this is, from 0; 0 within `alone`."""
    return 0 if _alone else int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes work together here; 1 within `alone`."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes records and talks to people."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work as if there were no others, as the first does while the others wait for it."""
    global _alone  # noqa: PLW0603 - what a process is to the others is a fact about the process
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def join(device: str) -> None:
    """Meet the other processes that a launcher has started; nothing where there are none.

    Args:
        device: "cpu" or "cuda": tensors on a GPU are exchanged by NCCL, everything else by gloo.
    """
    if count() == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        if device == "cuda":
            import torch

            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def share(items: Sequence[T]) -> list[T]:
    """Return this process's part of what all do together: as many for each, in order, the first item as a filler.

    `gathered` takes the fillers out again.
    """
    each = -(-len(items) // count())
    padded = [*items, *[items[0]] * (each * count() - len(items))]
    return padded[number() * each : (number() + 1) * each]


def gathered(tree: T, samples: int) -> T:
    """Put the parts of all processes together, so that each can compute the loss of the whole batch.

    Gradients flow into this process's own part alone: where the processes' gradients are averaged, the loss is to be
    multiplied by `count`.

    Args:
        tree: tensors (B, …) of as many samples in each process (see `share`), in dataclasses, dicts, lists or tuples.
        samples: of the whole batch, without fillers.
    """
    if count() == 1:
        return tree
    import torch
    import torch.distributed as dist

    from tspbench.chunks import map_tensors

    def whole(own: Tensor) -> Tensor:
        parts = [torch.empty_like(own, requires_grad=False) for _ in range(count())]
        dist.all_gather(parts, own.detach().contiguous())
        parts[number()] = own
        return torch.cat(parts)[:samples]

    return map_tensors(whole, tree)


def everybodys(item: T) -> list[T]:
    """Return what each process has, in their order; plain data."""
    if count() == 1:
        return [item]
    import torch.distributed as dist

    items: list[Any] = [None] * count()
    dist.all_gather_object(items, item)
    return items


def of_first(item: T) -> T:
    """Return what the first process has; plain data. The others wait for it."""
    if count() == 1:
        return item
    import torch.distributed as dist

    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]
