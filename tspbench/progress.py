"""Progress of long work: a bar with an ETA on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tspbench import ranks

SECONDS_BETWEEN_LINES: Final = 15.0


class Advance(Protocol):
    """Tells a progress display how far the work is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that ``done`` of ``total`` are finished; ``note`` is a short figure such as a loss."""


def say(line: str, *, own: bool = False) -> None:
    """Print one line for people, on stderr: stdout is for results.

    Args:
        line: what is said; of several processes, which all get here, the first says it.
        own: it is about what this process does, and others do not get here.
    """
    if not (own or ranks.is_first()):
        return
    if own and ranks.several():
        line = f"[rank {os.environ['RANK']}] {line}"
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Show how far the work of the block is; of several processes, in the first."""
    if not ranks.is_first():
        yield _nothing
    elif sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        yield _Lines(title)


def _nothing(done: int, total: int, note: str = "") -> None:
    """Show nothing: another process does."""


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


class _Lines:
    """Prints a line at the first step, every `SECONDS_BETWEEN_LINES`, and at the end."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._start = time.monotonic()
        self._last = float("-inf")
        self._first_done: int | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first_done is None:
            self._first_done = done
        if done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        elapsed, fresh = now - self._start, done - self._first_done
        ahead = f"ETA {elapsed / fresh * (total - done):.0f} s" if fresh and done < total else ""
        say("  ".join(part for part in (f"{self._title}: {done}/{total}", f"{elapsed:.0f} s", ahead, note) if part))
