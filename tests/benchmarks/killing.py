"""What kill -9 and a full disk leave behind: a small recipe, stopped at random moments and started again.

Run by hand: ``python -m tests.benchmarks.killing FOLDER [--kills 24] [--seed 0] [--only WORD]``. One run goes through
without a stop. Others are killed, half of the moments drawn from the time of a stage, the others inside a write: with
half of the file written, with all of it but not yet renamed, and right behind the renaming. Every second kill takes the
main process alone, so that its workers have to end by themselves. What each kill leaves is read file by file, then the
run is started again and has to end with the features, weights, predictions, statistics and table of the first one.
Last, the same on a small disk that runs full. It prints Markdown tables and fails when anything is not as it should be.
"""

import argparse
import csv
import errno
import gzip
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import numpy as np
from safetensors import safe_open

from tspbench.storage.records import outputs_are_whole, read_record
from tspbench.storage.training_states import read_state

RECIPE = """
name = "survival"
title = "What a kill leaves"
encoder = "tiny"
target = "target"
class_scores_from = "tac"
references = ["uniform-grid"]
data = { trimmed = "synthetic-trimmed", target = "synthetic" }
generate = { training_videos = 12, validation_videos = 6, trimmed_clips = 12 }
extract = { stride_frames = 12, batch_size = 8 }

[pretrain.trimmed]
method = "tac"
data = "trimmed"
init = "random"
clips_per_segment = 3
[pretrain.trimmed.fit]
epochs = 3
batch_size = 6
optimizer = "adam"
learning_rates = { stem = 0.003, backbone = 0.003, heads = 0.003 }
select = "best"
checkpoint_minutes = 0.0

[pretrain.tac]
method = "tac"
data = "target"
init = "trimmed"
clips_per_segment = 1
[pretrain.tac.fit]
epochs = 3
batch_size = 6
optimizer = "adam"
learning_rates = { stem = 0.001, backbone = 0.003, heads = 0.003 }
average = 0.9
select = "best"

[pretrain.tsp]
method = "tsp"
data = "target"
init = "trimmed"
gvf = "max"
clips_per_segment = 1
shortest_gap_clips = 1.0
[pretrain.tsp.fit]
epochs = 2
batch_size = 8
optimizer = "sgd"
learning_rates = { stem = 0.001, backbone = 0.003, heads = 0.003 }
checkpoint_minutes = 0.01
keep_checkpoints = 3

[pretrain.lofi]
method = "lofi"
data = "target"
init = "trimmed"
[pretrain.lofi.end_to_end]
config = { hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }
fidelities = [{ snippets = 16, pixels = 24 }, { snippets = 8, pixels = 34 }]
[pretrain.lofi.fit]
epochs = 2
batch_size = 3
optimizer = "adam"
learning_rates = { stem = 0.001, backbone = 0.001, heads = 0.002 }
batch_norm = "frozen"
checkpoint_minutes = 0.0

[tasks.tal]
name = "gtad"
config = { steps = 16, max_duration = 16, hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }
[tasks.tal.fit]
epochs = 12
batch_size = 4
optimizer = "adam"
learning_rates = { localizer = 0.002 }
checkpoint_minutes = 0.0

[[rows]]
name = "TAC"
features = "tac"

[[rows]]
name = "TSP"
features = "tsp"

[[rows]]
name = "LoFi"
features = "lofi"
"""
# Starting workers takes longer than all that they do here: they are there for the kills of the main process alone.
NO_WORKERS = [f"pretrain.{name}.fit.workers=0" for name in ("trimmed", "tac", "tsp", "lofi")]
TSPBENCH = [sys.executable, "-c", "from tspbench.cli import main; main()"]
SECONDS = 300  # far above what a run takes: it is there so that a hang becomes a failure
SECONDS_TO_END = 30  # in which workers notice that the process that started them is gone
FULL_BYTES = 1 << 16
NO_ROOM = ("full", "limit")
INSIDE = ("half", "whole", "renamed")
# How often which places are aimed at.
SHARES = {
    r"data/.*": 1,
    r"pretrain/.*": 4,
    r"features/.*": 3,
    r"class_scores|checked/.*|.*/comparison|table.md": 1,
    r".*/train": 3,
    r".*/predict": 1,
    r".*/score": 1,
}

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


# A full disk is met at these places, one after the other.
FULL = [
    Point("data/trimmed", "full", 3),
    Point("pretrain/trimmed", "full", 0, 0),
    Point("pretrain/trimmed", "full", 1),
    Point("pretrain/trimmed", "full", 4, 1),
    Point("features/trimmed", "full", 0),
    Point("features/trimmed", "full", 1, 0),
    Point("features/trimmed", "full", 1),
    Point("pretrain/tsp", "full", 3),
    Point("class_scores", "full", 0, 0),
    Point("features/tsp", "full", 2, 0),
    Point("tal/tac/train", "full", 0),
    Point("tal/tac/train", "full", 9, 0),
    Point("tal/tac/predict", "full", 0, 0.1),
    Point("tal/tac/score", "full", 0, 0),
    Point("tal/comparison", "full", 0, 0),
    Point("tal/comparison", "full", 1, 0),
]


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


def unreadable(out: Path, reference: Path) -> list[str]:
    """Return what is wrong with the files that a stopped run has left under the names of results.

    Each is read to its end; where the finished run has a file of that name, it is the same; and a record's outputs are
    those of the finished run.
    """
    wrong = []
    for path in _files(out):
        name = str(path.relative_to(out))
        try:
            READERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            wrong.append(f"{name} cannot be read: {error!r}")
            continue
        if path.name == "record.json" and not outputs_are_whole(path.parent, read_record(path.parent)):
            wrong.append(f"{name} is there, its outputs are not whole")
        if (
            (reference / name).is_file()
            and path.suffix not in (".csv", ".toml")
            and _content(path) != _content(reference / name)
        ):
            wrong.append(f"{name} differs from that of the finished run")
    return wrong


def unequal(out: Path, reference: Path) -> list[str]:
    """Return how a run that was stopped and started again differs from one that was not."""
    found, expected = ({str(path.relative_to(root)) for path in _files(root)} for root in (out, reference))
    wrong = [f"{name} is missing" for name in sorted(expected - found) if Path(name).suffix != ".pt"]
    wrong += [f"{name} is left over" for name in sorted(found - expected) if Path(name).suffix != ".pt"]
    same = sorted(found & expected)
    wrong += [f"{name} differs" for name in same if _content(out / name) != _content(reference / name)]
    return [*wrong, *unreadable(out, reference)]


def hidden(out: Path) -> list[Path]:
    """Return the temporary files that kills have left."""
    return [path for path in out.rglob(".*") if path.is_file()]


def _files(out: Path) -> Iterator[Path]:
    return (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _content(path: Path) -> object:
    """Return what has to be equal in two runs: no times, no machine, no workers, no training states, which
    have served."""
    if path.name == "record.json":
        content = json.loads(path.read_bytes())
        return {key: value for key, value in content.items() if key not in ("seconds", "provenance")}
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open()))
        return [{key: value for key, value in row.items() if "second" not in key} for row in rows]
    return None if path.suffix == ".pt" or path.name == "recipe.toml" else path.read_bytes()


def _read_h5(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs, f"{path} says nothing about itself"
        for name in file:
            assert np.isfinite(file[name][:]).all()


def _read_safetensors(path: Path) -> None:
    with safe_open(path, "np") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            file.get_tensor(key)


def _read_npz(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def _read_video(path: Path) -> None:
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == file.streams.video[0].frames


def _read_csv(path: Path) -> None:
    rows = list(csv.DictReader(path.open()))
    assert all(None not in row and None not in row.values() for row in rows), "a line is cut off"


READERS: dict[str, Callable[[Path], object]] = {
    ".h5": _read_h5,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pt": read_state,
    ".mp4": _read_video,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".gz": lambda path: json.loads(gzip.decompress(path.read_bytes())),
    ".csv": _read_csv,
}


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


def drawn(rng: np.random.Generator, kills: int, writes: Mapping[str, int]) -> list[Point]:
    """Draw points, as many as `SHARES` says for each kind of place; ``writes``: place → files written, in order."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    points = []
    for number in range(kills):
        kind = kinds[int((number + 0.5) * len(kinds) / kills)]
        place = str(rng.choice([place for place in writes if re.fullmatch(kind, place)]))
        way = "time" if number % 2 and place != "table.md" else INSIDE[number // 2 % 3]
        points.append(Point(place, way, int(rng.integers(writes[place])), float(rng.uniform(0.02, 0.98))))
    return sorted(points, key=lambda point: (list(writes).index(point.place), point.way != "time"))


def rehearse(reference: Path, out: Path, recipe: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Run once without a stop; return place → files written there, in order, and stage → seconds."""
    run = start(out, recipe, *NO_WORKERS)
    if ended(run) or (wrong := unequal(out, reference)):
        sys.exit(f"Without a kill: {wrong or run.log.read_text()}")
    begun, over = (dict((place, when) for when, place in run.told(event)) for event in ("begin", "end"))
    written = [path for _, path in run.told("write")]
    writes = {place: sum(Path(path).is_relative_to(place) for path in written) for place in begun}
    return {**writes, "table.md": 1}, {place: over[place] - begun[place] for place in begun}


def kills(folder: Path, recipe: Path, reference: Path, options: argparse.Namespace) -> bool:
    """Kill, look, start again, compare; print a line for each kill. Return whether all is as it should be."""
    out, kept = folder / "run", folder / "kept"
    writes, seconds = rehearse(reference, out, recipe)
    shutil.rmtree(out)
    rng = np.random.default_rng(options.seed)
    print("| | aimed at | seconds | hit | killed | left behind | went on | finished equal |")
    print("|---:|---|---:|---|---|---|---|---|")
    good = True
    for number, point in enumerate(drawn(rng, options.kills, writes), start=1):
        alone = number % 2 == 0
        for _ in range(2):
            begun = time.time()
            run = start(out, recipe, *(() if alone else NO_WORKERS), point=point)
            if kill(run, point, seconds, alone):
                break
            shutil.rmtree(out)  # it was over before: from the start, then
        took = time.time() - begun
        left, wrong = orphans(run.process.pid), unreadable(out, reference)
        parts = [path.name for path in hidden(out)]
        hit, log = run.at_work(), run.log.rename(folder / "killed.log")
        shutil.copytree(out, kept)
        again = start(out, recipe, *NO_WORKERS)
        if code := ended(again):
            wrong.append(f"ended with {code}: {again.log.read_text()[-500:]!r}")
        wrong += unequal(out, reference) + [f"{path.name} is left over" for path in hidden(out)]
        wrong += [f"the processes {left} were left"] if left else []
        good = good and not wrong
        aimed = f"{point.place}, {point.way}" + ("" if point.way == "time" else f" {point.write}")
        cells = [
            f"{number}", aimed, f"{took:.1f}", hit, "main process" if alone else "all", f"{len(parts)} hidden",
            went_on(log, again.log), "; ".join(wrong) or "yes",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
        shutil.rmtree(out)
        kept.rename(out)
    return good


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a disk of so much room in ``folder``; needs the rights to."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def refused(run: Started, reason: str) -> list[str]:
    """Return what is wrong with how a run has ended on a full disk; ``reason``: the system's words for it."""
    code, text = ended(run), run.log.read_text()
    told = [line for line in text.splitlines() if line.startswith("Error: ")]
    wrong = [f"ended with {code}"] if code != 2 else []
    wrong += ["a traceback"] if "Traceback" in text else []
    wrong += [f"{len(told)} sentences"] if len(told) != 1 else []
    return wrong + [f"it says {line!r}" for line in told if reason not in line or "room" not in line]


def full_disks(folder: Path, recipe: Path, reference: Path) -> bool:
    """Fill the disk at every place in turn, make room and go on, all in one run; print a line for each."""
    print("\n| the disk is full at | says | left behind | finished equal |")
    print("|---|---|---|---|")
    good = True
    with small_disk(folder / "disk", 64) as disk:
        out, kept, log = disk / "run", folder / "kept", folder / "disk.log"
        for point in FULL:
            run = start(out, recipe, *NO_WORKERS, point=point, log=log)
            wrong = refused(run, os.strerror(errno.ENOSPC))
            wrong += unreadable(out, reference)
            said = [line for line in log.read_text().splitlines() if line.startswith("Error: ")]
            (disk / "ballast").unlink(missing_ok=True)
            parts = hidden(out)
            shutil.copytree(out, kept)
            if ended(again := start(out, recipe, *NO_WORKERS, log=log)):
                wrong.append(f"went on to {again.log.read_text()[-500:]!r}")
            wrong += unequal(out, reference)
            good = good and not wrong
            cells = [f"{point.place}, {point.write} written", " ".join(said), f"{len(parts)} hidden"]
            print("| " + " | ".join([*cells, "; ".join(wrong) or "yes"]) + " |", flush=True)
            shutil.rmtree(out)
            shutil.copytree(kept, out)
            shutil.rmtree(kept)
    return good


def main() -> int:
    """Print the tables; return 0 when all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    recipe, reference = folder / "survival.toml", folder / "reference"
    recipe.write_text(RECIPE)
    subprocess.run(
        [*TSPBENCH, "run", str(recipe), "--out", str(reference), "--device", "cpu"], check=True, capture_output=True
    )
    good = kills(folder, recipe, reference, options) and full_disks(folder, recipe, reference)
    print("\nAs it should be." if good else "\nNot as it should be.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
