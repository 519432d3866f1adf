"""Heartbeats of the processes of a run: a stall or the end of one ends all, with a line that says where."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from tspbench import ranks
from tspbench.beats import GONE_SECONDS, KEPT, Beat, Trouble, find_trouble, is_there, who
from tspbench.errors import UserError

T = TypeVar("T")

BEAT_SECONDS: Final = 1.0
BUSY: Final = 0.2  # of a core: what a computation takes at least
DEAF_SECONDS: Final = 45.0  # with Python's lock held
LOOK_SECONDS: Final = 5.0  # between two looks at the others, at most
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SIGNAL_SECONDS: Final = 3.0  # to find out why the launcher ends this process; it kills it after 30
INTERRUPT_SECONDS: Final = 5.0  # for Python to raise KeyboardInterrupt where it was interrupted


# What this process does: a fact about the process, written by the thread that works, read by the one that watches.
_stage = ""
_shared = False
_what = ""
_computing = False
_failed = ""  # what it did as an error ended its stage
_moved = 0.0
_cores_at_move = 0.0
_watch: Watch | None = None


def working_on(what: str, *, computing: bool = False) -> None:
    """Say what this process works on now, and that it moves; cheap enough for every clip and every step.

    Args:
        what: a file that is read, a batch, a step: what a message about a stall should name.
        computing: a training step or a forward pass, which may take long as long as it keeps a core busy.
    """
    global _what, _computing, _moved, _cores_at_move
    begins = not _what
    _what, _computing, _moved, _cores_at_move = what, computing, time.monotonic(), time.process_time()
    if begins and _watch is not None:
        _watch.beat()  # what comes now may end this process


@contextmanager
def stage(name: str, *, shared: bool) -> Iterator[None]:
    """Name the stage of the block.

    Args:
        name: for messages.
        shared: all processes work on it: from its first `working_on` on, each must keep moving.
    """
    global _stage, _shared, _what, _failed  # noqa: PLW0603 - see above
    before = _stage, _shared, _what
    _stage, _shared, _what, _failed = name, shared, "", ""
    try:
        yield
    except BaseException:
        _failed = _failed or doing()
        raise
    finally:
        _stage, _shared, _what = before


def doing() -> str:
    """Return what this process does, for messages."""
    return ", ".join(part for part in (_stage and f"stage {_stage}", _what) if part) or "no stage"


class Watch:
    """The threads that beat, look at the beats of the others, and end this process when one of them is in trouble."""

    def __init__(self) -> None:
        self._number = ranks.number()
        self._machine = socket.gethostname()
        self._room = f"{self._machine} {_processes_seen()}"
        self._beats: dict[int, Beat] = {}
        self._came: dict[int, float] = {}
        # Seconds that this process has looked on: while it was kept from it, as by Python's lock, others are not late.
        self._looked = self._contact = 0.0
        self._exchanges, self._sent = 0, 0
        self._moved = time.monotonic()
        self._over = threading.Event()
        self._store, self._words = (self._client() for _ in range(2))
        self._woken, self._wake = socket.socketpair()

    def start(self) -> None:
        """Begin to beat and to watch; signals end this process, however deep in a library it waits."""
        self._wake.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, lambda *_: None)
        for target in (self._beat_on, self._look_on):
            threading.Thread(target=target, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Say that this process ends well; the first, which may host the store, waits until all have."""
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with suppress(Exception):  # they have all they need of each other
            self._words.set(self._key(self._number), json.dumps(asdict(self._beat("ended"))))
            end = time.monotonic() + GONE_SECONDS
            ended = self._words.add("watch/ended", 1)
            while self._number == 0 and ended < ranks.count() and time.monotonic() < end:
                time.sleep(0.02)
                ended = self._words.add("watch/ended", 0)

    def fail(self, sentence: str, code: int, details: str = "") -> NoReturn:
        """Say why this process ends, and end it; what several have to say is said once on each machine."""
        mine = f"{who(self._number, self._machine)}, {_failed or doing()}: {sentence}"
        first = self._within(lambda: self._first_word(mine), mine)
        told = self._is_told_by_me()
        if first == mine or not first.endswith(sentence):
            _print(mine + details)
        elif told:
            _print(first)
        _exit(code)

    def beat(self) -> None:
        """Tell the others what this process does."""
        with suppress(Exception):  # that the store is gone is found out by who reads it
            self._store.set(self._key(self._number), json.dumps(asdict(self._beat())))

    def end_with_others(self, seconds: float) -> None:
        """End this process as the watching thread would, if that finds a reason to in so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (trouble := self._trouble()) is not None:
                self._end(trouble, 1)
            time.sleep(0.1)

    def _client(self) -> Any:
        client = ranks.store().clone()
        client.set_timeout(timedelta(seconds=GONE_SECONDS))
        return client

    def _key(self, process: int) -> str:
        return f"watch/beat/{process}"

    def _beat(self, state: str | None = None) -> Beat:
        exchanges, waits = ranks.exchanges()
        now = time.monotonic()
        if exchanges != self._exchanges:
            self._exchanges, self._moved = exchanges, now
        idle = now - max(self._moved, _moved)
        works = _shared and bool(_what) and not ranks.is_alone()
        cores = (time.process_time() - _cores_at_move) / max(now - _moved, 1e-3)
        self._sent += 1
        return Beat(
            process=self._number,
            machine=self._machine,
            room=self._room,
            pid=os.getpid(),
            beats=self._sent,
            doing=doing(),
            state=state or ("waits" if waits else "works" if works else "alone"),
            idle_seconds=idle,
            busy=_computing and cores > BUSY,
            exchanges=exchanges,
        )

    def _beat_on(self) -> None:
        """Beat and read the beats of the others; a store that does not answer is found out by who looks."""
        keys = [self._key(process) for process in range(ranks.count())]
        with suppress(Exception):
            while not self._over.is_set():
                self.beat()
                there = keys if len(self._beats) == len(keys) else [key for key in keys if self._store.check([key])]
                self._read(there)
                self._contact = self._looked
                self._over.wait(BEAT_SECONDS)

    def _read(self, keys: list[str]) -> None:
        for content in self._store.multi_get(keys):
            beat = Beat(**json.loads(content))
            if beat.process not in self._beats or self._beats[beat.process].beats != beat.beats:
                self._came[beat.process] = self._looked
            self._beats[beat.process] = beat

    def _look_on(self) -> None:
        asked: int | None = None
        until, before = float("inf"), time.monotonic()
        while not self._over.is_set():
            now = time.monotonic()
            self._looked += min(now - before, LOOK_SECONDS)
            before = now
            self._end_if_deaf()
            if select.select([self._woken], [], [], 0.1 if asked else BEAT_SECONDS)[0]:
                caught = [number for number in self._woken.recv(64) if number in SIGNALS]
                if caught and asked is None:
                    asked = caught[0]
                    until = time.monotonic() + (SIGNAL_SECONDS if asked == signal.SIGTERM else INTERRUPT_SECONDS)
            trouble = self._trouble()
            if trouble is not None and not self._over.is_set() and asked != signal.SIGINT:
                self._end(trouble, 1)
            if time.monotonic() > until:
                self._end(Trouble(f"Ended by a signal: {doing()}; {KEPT}"), 128 + (asked or 0))

    def _end_if_deaf(self) -> None:
        """Let this process end without Python's help if its lock is held while it should be moving.

        Others in the same room do that, too, but there may be none.
        """
        faulthandler.cancel_dump_traceback_later()
        if _shared and _what and not ranks.is_alone():
            faulthandler.dump_traceback_later(DEAF_SECONDS, exit=True)

    def _trouble(self) -> Trouble | None:
        said = self._within(lambda: self._words.check(["watch/word"]) and self._words.get("watch/word").decode(), "")
        if said:
            return Trouble(str(said))
        found = self._found()
        if found is not None:
            if found.process is not None:
                key = self._key(found.process)
                self._within(lambda: self._read([key]), None)  # what it has said last
            if (found := self._found()) is not None:
                return found
        if self._looked - self._contact > GONE_SECONDS:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            first = self._beats[0].doing if 0 in self._beats else "no stage"
            return Trouble(f"The first process or its machine ({place}) does not answer: {first}; {KEPT}")
        if self._looked > ranks.MEETING.total_seconds() and len(self._beats) < ranks.count():
            missing = min(set(range(ranks.count())) - set(self._beats))
            return Trouble(f"Process {missing + 1} of {ranks.count()} has not come: see what its machine says.")
        return None

    def _found(self) -> Trouble | None:
        beats = dict(self._beats)
        return find_trouble(beats, {process: self._silence(process) for process in beats}, self._room)

    def _silence(self, process: int) -> float:
        """Return for how long a process has been silent while the store could be asked."""
        return min(self._looked, self._contact + BEAT_SECONDS) - self._came[process]

    def _end(self, trouble: Trouble, code: int) -> NoReturn:
        said = self._within(lambda: self._first_word(trouble.text), trouble.text)
        if self._is_told_by_me():
            _print(said)
        beat = None if trouble.process is None else self._beats.get(trouble.process)
        if beat is not None and beat.room == self._room and beat.pid != os.getpid():
            with suppress(OSError):  # it hears nothing, else it would have ended itself
                os.kill(beat.pid, signal.SIGKILL)
        _exit(code)

    def _first_word(self, text: str) -> str:
        """Return the first reason that somebody gave: later ones follow from it."""
        return str(self._words.compare_set("watch/word", "", text).decode())

    def _is_told_by_me(self) -> bool:
        """Whether nobody on this machine has told yet; where the store is gone, the lowest of those left does."""
        left = [beat.process for beat in self._beats.values() if beat.room == self._room and is_there(beat.pid)]
        alone = 1 if self._number == min(left, default=self._number) else 2
        return self._within(lambda: self._words.add(f"watch/told/{self._machine}", 1), alone) == 1

    def _within(self, ask: Callable[[], T], otherwise: T) -> T:
        """Ask the store, which may be gone; give up after a few seconds."""
        found: list[T] = []

        def run() -> None:
            with suppress(Exception):
                found.append(ask())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(SIGNAL_SECONDS)
        return found[0] if found else otherwise


def _processes_seen() -> str:
    """Return what those have in common that see each other's processes: containers of one name do not."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return str(os.getpid())


def _exit(code: int) -> NoReturn:
    """End now: libraries that wait for a process that is gone would wait on while Python tidies up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _print(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def begin() -> None:
    """Watch the processes that a launcher has started, from now on."""
    global _watch  # noqa: PLW0603 - a process watches once
    _watch = Watch()
    _watch.start()


def finish() -> None:
    """End watching: this process has done its part."""
    assert _watch is not None  # noqa: S101 - see `begin`
    _watch.stop()


def fail(error: BaseException, sentence: str, code: int) -> NoReturn:
    """End this process, one of several, for an error, and thereby the others.

    Args:
        error: what happened here.
        sentence: that says so.
        code: to end with.
    """
    if _watch is None:  # they have not met
        _print(sentence)
        _exit(code)
    if isinstance(error, ranks.FirstFailedError):
        _watch.end_with_others(GONE_SECONDS)
    details = ""
    if not isinstance(error, UserError | KeyboardInterrupt):
        # Whoever exchanged tensors with a process that is gone is told of a broken connection.
        if any(word in f"{type(error).__name__}: {error}".lower() for word in ("gloo", "nccl", "connection", "dist")):
            _watch.end_with_others(1.5 * GONE_SECONDS)
        details = "\n" + "".join(traceback.format_exception(error)).rstrip()
    _watch.fail(sentence, code, details)
