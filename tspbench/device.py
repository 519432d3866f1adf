"""Which device to compute on, and how many processes prepare its batches."""

import os

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


def workers_for(device: str, wanted: int | None) -> int:
    """Return ``wanted``; for None up to 8 processes for a GPU, and 0, this one, for the CPU."""
    if wanted is not None:
        return wanted
    return 0 if device == "cpu" else min(8, os.cpu_count() or 1)
