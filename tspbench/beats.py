"""What each process of a run says of itself, and who of them is gone or does not move."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GONE_SECONDS: Final = 20.0  # without a beat, or without the store that the beats go through
STALL_SECONDS: Final = float(os.environ.get("TSPBENCH_STALL_SECONDS", "50"))
# Alone, a process may keep Python's lock to itself for long, as compiled loops do; and a computation may take so long.
LONG_SECONDS: Final = 600.0
KEPT: Final = "what is finished is kept: run the same command again."


@dataclass(frozen=True)
class Beat:
    """What a process says of itself every `BEAT_SECONDS`.

    Args:
        process: its number.
        machine: name of its machine.
        room: of the machine, what tells which processes see each other.
        pid: its number on its machine.
        beats: how many it has sent.
        doing: stage and file.
        state: "works" on a shared stage, "waits" for the others, is "alone" with other work, or has "ended" well.
        idle_seconds: since it has moved.
        busy: a computation keeps a core busy.
        exchanges: that it has begun.
    """

    process: int
    machine: str
    room: str
    pid: int
    beats: int
    doing: str
    state: str
    idle_seconds: float
    busy: bool
    exchanges: int

    @property
    def who(self) -> str:
        """The process, for messages."""
        return who(self.process, self.machine)


def who(process: int, machine: str) -> str:
    """Return how messages call a process."""
    return f"Process {process + 1} of {os.environ.get('WORLD_SIZE', '1')} (rank {process}) on {machine}"


@dataclass(frozen=True)
class Trouble:
    """What is to be said of a process that is gone or does not move, and which one it is, if that is known."""

    text: str
    process: int | None = None


def find_trouble(beats: Mapping[int, Beat], silent: Mapping[int, float], room: str) -> Trouble | None:
    """Look for a process that is gone or does not move; None: all is well.

    Args:
        beats: process → its last beat.
        silent: process → seconds since that came.
        room: of this process: those in it are seen to be there or not.
    """
    there = {process: beat for process, beat in beats.items() if beat.state != "ended"}
    for process, beat in there.items():
        if beat.room == room and not is_there(beat.pid):
            return Trouble(f"{beat.who} is gone: {beat.doing}; {KEPT}", process)
    for process, beat in there.items():
        if silent[process] > (LONG_SECONDS if beat.state == "alone" else GONE_SECONDS):
            seconds = f"{silent[process]:.0f} s"
            text = f"{beat.who} is gone or hangs: {beat.doing}, no sign of life for {seconds}; {KEPT}"
            return Trouble(text, process)
    fewest = min((beat.exchanges for beat in there.values()), default=0)
    for process, beat in there.items():
        idle = beat.idle_seconds + silent[process]
        # Whoever has begun more exchanges than another one waits for that one.
        if beat.state == "works" and beat.exchanges <= fewest and idle > (LONG_SECONDS if beat.busy else STALL_SECONDS):
            return Trouble(f"{beat.who} does not move: {beat.doing}, for {idle:.0f} s; {KEPT}", process)
    if any(beat.state == "waits" and beat.idle_seconds > GONE_SECONDS for beat in there.values()):
        for process, beat in beats.items():
            if beat.state == "ended":
                return Trouble(f"{beat.who} has ended while others wait for it; {KEPT}", process)
    return None


def is_there(pid: int) -> bool:
    """Whether a process of this machine lives: one that has died and was not yet cleared away has no program."""
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True
