"""Which device to compute on, and how many processes prepare its batches."""

import os

from tspbench import ranks
from tspbench.config import choose
from tspbench.errors import UserError


def choose_device(name: str) -> str:
    """Return ``name``, or for "auto" the GPU where there is one.

    Raises:
        UserError: a device that is not there.
    """
    import torch  # noqa: PLC0415 - commands that need no device must not load torch

    choose("device", name, ("auto", "cpu", "cuda"))
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: torch finds no GPU here; use cpu or auto, or let `tspbench doctor` look.")
    return "cuda" if there and name != "cpu" else "cpu"


def workers_for(device: str, wanted: int | None, *, at_least: int = 0) -> int:
    """Return ``wanted``; for None up to 8 processes for a GPU, and ``at_least`` so many for the CPU.

    The processes of one run on one machine share its cores, one for each worker.

    Args:
        device: on which batches are used.
        wanted: from the settings.
        at_least: 1 for those who decode videos: a decoder that hangs can only be stopped in another process, so that
            without one there is no deadline.
    """
    if wanted is not None:
        return wanted
    share = (os.cpu_count() or 1) // ranks.here()
    return at_least if device == "cpu" else max(at_least, min(8, share))
