"""The processes of one run: which one this is, and how they share work and put it together."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tspbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# ruff: noqa: PLC0415 - commands that run in one process must not load torch for this

# Whoever waits is not in a hurry: that another process stalls or is gone is found out by `tspbench.watch`.
PATIENCE: Final = timedelta(days=30)
MEETING: Final = timedelta(minutes=15)  # to load libraries in all processes, on machines that are busy starting
VISIBLE_SECONDS: Final = 60.0  # a network file system shows a new file to other machines after a few seconds
MAX_BYTES: Final = 4 * 2**20  # the store takes values of up to 8 MiB

# What MPI's launchers call what others call RANK and so on: Open MPI, MPICH and Intel MPI, MVAPICH (accelerate,
# utils/environment.py, get_cpu_distributed_information).
_MPI_NAMES: Final = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK"),
    "LOCAL_WORLD_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"),
}

_alone = False
_rounds = 0  # exchanges that were begun
_waiting = False  # whether one of them is not over
_notes: list[str] = []  # what this process has left in the store in the last one


class FirstFailedError(UserError):
    """What the first process could not do for all; that one tells it."""


def from_launcher(environment: dict[str, str] | None = None) -> None:
    """Take on what MPI's launchers say in their own names, so that everybody finds it in the usual ones.

    Raises:
        UserError: `accelerate launch --cpu` was asked for several processes and has started one.
    """
    names: Any = os.environ if environment is None else environment
    if "RANK" not in names and any(int(names.get(name, "1")) > 1 for name in _MPI_NAMES["WORLD_SIZE"]):
        for usual, others in _MPI_NAMES.items():
            found = [names[name] for name in others if name in names]
            if found:
                names[usual] = found[0]
        names.setdefault("MASTER_ADDR", "127.0.0.1")
        names.setdefault("MASTER_PORT", "29500")
    if "RANK" not in names and "MASTER_ADDR" in names and names.get("ACCELERATE_USE_CPU", "").lower() == "true":
        raise UserError(
            "accelerate was asked for several processes and has started one: with --cpu it leaves that to MPI; start "
            "them by `torchrun --nproc-per-node 2 -m tspbench …`, by `accelerate launch --multi_gpu --num_processes 2 "
            "-m tspbench …` (which does it on CPUs, too), or by `accelerate launch --cpu --num_processes 2 "
            "--mpirun_hostfile FILE …`."
        )


def number() -> int:
    """Return which of the processes this is, from 0; 0 within `alone`."""
    return 0 if _alone else int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes work together here; 1 within `alone`."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def here() -> int:
    """Return how many of the processes share this machine's cores; 1 within `alone`."""
    return 1 if _alone else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def several() -> bool:
    """Whether a launcher has started several processes, within `alone`, too."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes records and talks to people."""
    return int(os.environ.get("RANK", "0")) == 0


def is_alone() -> bool:
    """Whether this process works as if there were no others, see `alone`."""
    return _alone


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work as if there were no others, as the first does while the others wait for it."""
    global _alone  # noqa: PLW0603 - what a process is to the others is a fact about the process
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@cache
def store() -> Any:
    """Return the store in which the processes leave each other notes; it is there before the device is known."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    found, _, _ = next(rendezvous("env://", timeout=MEETING))
    found.set_timeout(PATIENCE)
    return found


def join(device: str) -> None:
    """Let the processes that a launcher has started exchange tensors; nothing where there are no others.

    Args:
        device: "cpu" or "cuda": tensors on a GPU are exchanged by NCCL, everything else by gloo.
    """
    if count() == 1:
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    if not dist.is_initialized():
        if device == "cuda":
            import torch

            if here() > torch.cuda.device_count():
                raise UserError(
                    f"{here()} processes were started on this machine, and torch finds {torch.cuda.device_count()} "
                    "GPU(s) for each of them: start as many processes as there are GPUs that all of them see."
                )
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=PrefixStore("tensors", store()),
            rank=number(),
            world_size=count(),
            timeout=PATIENCE,
        )


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
    """Return what each process has, in their order; plain data. Each waits for all."""
    if count() == 1:
        return [item]
    global _rounds, _waiting  # noqa: PLW0603 - as `_alone`
    _rounds += 1
    _waiting = True
    try:
        old, _notes[:] = [*_notes], _left(f"exchange/{_rounds}/{number()}", pickle.dumps(item))
        found = [pickle.loads(_taken(f"exchange/{_rounds}/{each}")) for each in range(count())]  # noqa: S301 - our own
        for key in old:  # whoever is in this round has read all of the one before
            store().delete_key(key)
    finally:
        _waiting = False
    return found


def of_first(item: T) -> T:
    """Return what the first process has; plain data. Each waits for all."""
    return everybodys(item if number() == 0 else item if count() == 1 else None)[0]  # type: ignore[return-value]


def by_first(work: Callable[[], T]) -> T:
    """Let the first process work, alone, while the others wait; what it returns, plain data, is returned in all.

    Raises:
        Exception: whatever ``work`` raises, in the first process.
        FirstFailedError: in the others.
    """
    if count() == 1:
        return work()
    failed: Exception | None = None
    told: tuple[bool, Any] = (True, None)
    if is_first():
        try:
            with alone():
                told = True, work()
        except Exception as error:  # it is raised again below
            failed, told = error, (False, str(error))
    good, result = of_first(told)
    if failed is not None:
        raise failed
    if not good:
        raise FirstFailedError(str(result))
    return result  # type: ignore[no-any-return]


def wait_for_files(sizes: Mapping[Path, int | None]) -> None:
    """Wait a moment for files that another process has written: a network file system may show them late.

    Args:
        sizes: file → its bytes, None where any will do because it was not there before.

    Raises:
        UserError: one is still not there.
    """
    end = time.monotonic() + VISIBLE_SECONDS
    for path, size in sizes.items():
        while not path.is_file() or size not in (None, path.stat().st_size):
            if time.monotonic() > end:
                raise UserError(
                    f"{path} was written by another process and is not there for this one after {VISIBLE_SECONDS:.0f} "
                    "s: all machines must see the run's folder under the same path (--out)."
                )
            os.scandir(path.parent if path.parent.is_dir() else ".").close()  # makes NFS look again
            time.sleep(0.1)


def exchanges() -> tuple[int, bool]:
    """Return how many exchanges this process has begun, of notes and of tensors, and whether it waits for notes.

    Whoever has begun more than another one waits for that one.
    """
    begun, waiting = _rounds, _waiting
    import torch.distributed as dist

    if dist.is_initialized():
        import torch

        group: Any = dist.group.WORLD
        for kind in group._device_types:
            with suppress(RuntimeError):  # a backend that does not count
                begun += group._get_backend(torch.device(kind.type))._get_sequence_number_for_group()
    return begun, waiting


def _left(key: str, content: bytes) -> list[str]:
    """Leave a note, a large one in pieces, and return where; the first piece says how many follow."""
    pieces = [content[first : first + MAX_BYTES] for first in range(0, len(content), MAX_BYTES)]
    more = [f"{key}/{k}" for k in range(len(pieces) - 1)]
    for place, piece in zip(more, pieces[1:], strict=True):
        store().set(place, piece)
    store().set(key, len(more).to_bytes(4, "big") + pieces[0])
    return [key, *more]


def _taken(key: str) -> bytes:
    """Wait for a note and return it, asking again and again: a wait in the store would let no signal through."""
    pause = 0.001
    while not store().check([key]):
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)
    first: bytes = store().get(key)
    more = int.from_bytes(first[:4], "big")
    return b"".join([first[4:], *(store().get(f"{key}/{k}") for k in range(more))])
