"""What kill -9 and a full disk leave behind: a small recipe, stopped at random moments and started again.

Run by hand: ``python -m tests.benchmarks.killing FOLDER [--kills 24] [--seed 0] [--only WORD]``. One run goes through
without a stop. Others are killed, half of the moments drawn from the time of a stage, the others inside a write: with
half of the file written, with all of it but not yet renamed, and right behind the renaming. Every second kill takes the
main process alone, so that its workers have to end by themselves. What each kill leaves is read file by file, then the
run is started again and has to end with the features, weights, predictions, statistics and table of the first one.
Last, the same on a small disk that runs full. It prints Markdown tables and fails when anything is not as it should be.
"""

import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.left_behind import hidden, unequal, unreadable
from tests.stopping import Point, ended, kill, orphans, refused, start, went_on

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
