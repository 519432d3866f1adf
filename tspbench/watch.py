"""Heartbeats of the processes of a run: a stall or the end of one ends all, with a line that says where."""

from __future__ import annotations

import time

_what = ""
_moved = 0.0


def working_on(what: str, *, computing: bool = False) -> None:
    """Say what this process works on now, and that it moves; cheap enough for every clip and every step.

    Args:
        what: a file that is read, a batch, a step: what a message about a stall should name.
        computing: a training step or a forward pass: it may take long as long as it keeps a core busy.
    """
    global _what, _moved  # noqa: PLW0603 - what a process does is a fact about the process
    _what, _moved = what, time.monotonic()
