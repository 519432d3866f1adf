"""Runs of a recipe that are stopped where a test says: killed at a moment or inside a write, or on a full disk."""

import errno
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 300  # far above what a run takes: it is there so that a hang becomes a failure
SECONDS_TO_END = 30  # in which workers notice that the process that started them is gone
FULL_BYTES = 1 << 16
NO_ROOM = ("full", "limit")

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tspbench.experiment", "tspbench.verbs"])


@dataclass(frozen=True)
class Point:
    """Where a run is stopped.

    Args:
        place: a file, or the folder of a stage, below the run's.
        way: "time": some seconds after the stage has begun; "half": in mid-write; "whole": before the renaming;
            "renamed": behind it; "full": the disk has no room from here on; "limit": files cannot grow from here on,
            which is the same without a disk of one's own.
        write: which of the files written below ``place``, from 0; of "full" how many are written before.
        share: of "time": of the stage's time; of "half": of the file; else of `FULL_BYTES`, which are left.
    """

    place: str
    way: str
    write: int = 0
    share: float = 0.5


@dataclass(frozen=True)
class Started:
    """A run at work: its process, which leads a session of its own, and where it tells what it does."""

    process: multiprocessing.process.BaseProcess
    log: Path
    marks: Path

    def told(self, event: str) -> list[tuple[float, str]]:
        """Return when and of which place an event was told."""
        lines = [line.split(" ", 2) for line in self.marks.read_text().splitlines()] if self.marks.exists() else []
        return [(float(when), place) for when, what, place in lines if what == event]

    def at_work(self) -> str:
        """Return the stage that has begun and not ended."""
        begun, ended = (Counter(place for _, place in self.told(event)) for event in ("begin", "end"))
        return " ".join(place for place in begun if begun[place] > ended[place]) or "between stages"


def start(out: Path, recipe: Path, *changes: str, point: Point | None = None, log: Path | None = None) -> Started:
    """Start a run in ``out``, in a process that is forked from one which has loaded the libraries."""
    log = log or out.with_suffix(".log")
    marks = log.with_suffix(".marks")
    log.unlink(missing_ok=True), marks.unlink(missing_ok=True)
    arguments = ["run", str(recipe), "--out", str(out), "--device", "cpu"]
    arguments += [item for change in changes for item in ("--set", change)]
    process = PROCESSES.Process(target=_child, args=(arguments, out, log, marks, point))
    process.start()
    return Started(process, log, marks)


def ended(run: Started) -> int:
    """Return the exit code of a run when it has ended."""
    run.process.join(SECONDS)
    if run.process.exitcode is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        raise TimeoutError(f"{run.at_work()} hangs: {run.log.read_text()[-2000:]}")
    return run.process.exitcode


def _child(arguments: Sequence[str], out: Path, log: Path, marks: Path, point: Point | None) -> None:
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from tspbench import progress
    from tspbench.cli import app
    from tspbench.stages import stage

    progress.SECONDS_BETWEEN_LINES = 0.0
    told = marks.open("a", buffering=1)

    def tell(event: str, place: Path) -> None:
        told.write(f"{time.time()} {event} {place.relative_to(out)}\n")

    rename = os.replace

    def move(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(target).is_relative_to(out):
            tell("write", Path(target))

    os.replace = move
    if point is not None and point.way != "time":
        _stop_at(point, out, tell)
    run_stage = stage.run_stage

    def announced(name: str, folder: Path, *rest: object, **options: object) -> object:
        *others, work = rest

        def begin(key: str) -> Mapping[str, object]:
            tell("begin", folder)
            if point is not None and point.way in NO_ROOM and not point.write and folder == out / point.place:
                _fill(out, point)
            return work(key)

        record = run_stage(name, folder, *others, begin, **options)
        tell("end", folder)
        return record

    for module in list(sys.modules.values()):
        if getattr(module, "run_stage", None) is run_stage:
            module.run_stage = announced
    app(list(arguments))


def _stop_at(point: Point, out: Path, tell: Callable[[str, Path], None]) -> None:
    """Let this process tell that it is inside a write, and wait there to be killed; or fill the disk behind it."""
    sync, rename, count = os.fsync, os.replace, iter(range(10**6))
    place, chosen = out / point.place, set()

    def wait(path: Path) -> None:
        tell("paused", path)
        time.sleep(SECONDS)
        os._exit(3)

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        meant = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.suffix == ".part" and meant.is_relative_to(place) and next(count) == point.write:
            chosen.add(path)
            if point.way == "half":
                os.truncate(path, int(point.share * path.stat().st_size))
                wait(meant)
        sync(handle)
        if path in chosen and point.way == "whole":
            wait(meant)

    def move(source: Path, target: Path) -> None:
        rename(source, target)
        if point.way == "renamed" and source in chosen:
            wait(target)
        if point.way in NO_ROOM and Path(target).is_relative_to(place) and next(count) + 1 == point.write:
            _fill(out, point)

    os.fsync, os.replace = (sync if point.way in NO_ROOM else fsync), move


def _fill(out: Path, point: Point) -> None:
    """Take all the room that is left on the disk that ``out`` is on, but for as much as the point says."""
    if point.way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(point.share * FULL_BYTES), resource.RLIM_INFINITY))
        return
    with (out.parent / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        file.truncate(max(0, file.tell() - int(point.share * FULL_BYTES)))


def kill(run: Started, point: Point, seconds: Mapping[str, float], alone: bool) -> bool:
    """Kill a run at a point, or only its main process; return whether it was there before it ended."""
    event = "begin" if point.way == "time" else "paused"
    while not (told := [when for when, place in run.told(event) if place == point.place or event == "paused"]):
        if run.process.exitcode is not None:
            return False
        time.sleep(0.005)
    if event == "begin":
        time.sleep(max(0.0, told[-1] + point.share * seconds[point.place] - time.time()))
    if run.process.exitcode is None:
        (os.kill if alone else os.killpg)(run.process.pid, signal.SIGKILL)
    run.process.join(SECONDS)
    return run.process.exitcode == -signal.SIGKILL


def orphans(session: int) -> list[int]:
    """Return the processes of a session that are left after some seconds."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := _members(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _members(session: int) -> list[int]:
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(its_session) == session and state != "Z":
            members.append(int(path.parent.name))
    return members


def steps(log: Path) -> list[tuple[str, int, int]]:
    """Return what a run has told of its progress: (title, done, all)."""
    found = re.findall(r"^(.*): (\d+)/(\d+)", log.read_text(), re.MULTILINE)
    return [(title, int(done), int(every)) for title, done, every in found]


def went_on(before: Path, after: Path) -> str:
    """Say how far the work was that was killed, and how far when it was taken up again."""
    told = steps(before)
    if not told or told[-1][1] == told[-1][2]:
        return ""
    title, done, every = told[-1]
    again = next((step for other, step, _ in steps(after) if other == title), None)
    return f"{title}: {done}, then from {again} of {every}"


def refused(run: Started, reason: str) -> list[str]:
    """Return what is wrong with how a run has ended on a full disk; ``reason``: the system's words for it."""
    code, text = ended(run), run.log.read_text()
    told = [line for line in text.splitlines() if line.startswith("Error: ")]
    wrong = [f"ended with {code}"] if code != 2 else []
    wrong += ["a traceback"] if "Traceback" in text else []
    wrong += [f"{len(told)} sentences"] if len(told) != 1 else []
    return wrong + [f"it says {line!r}" for line in told if reason not in line or "room" not in line]
