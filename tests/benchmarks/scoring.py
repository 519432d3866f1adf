"""Scoring of large prediction files: seconds and memory of the whole command, and the gain over plain loops.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.scoring``. It draws prediction files for
the 4,728 validation videos of ActivityNet, prints two Markdown tables, and fails when a target is missed or the plain
formulation gives another score. The command is called twice: the first call compiles, the second is measured. Both may
keep compiled Python, in a folder of their own, as they would in an ordinary installation.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from evaluation import METRICS, PROTOCOLS, GroundTruth, Predictions
from tests.evaluation import oracle
from tests.evaluation.helpers import SHARED, PredictionRow, TruthRow
from tspbench.storage.annotations import read_annotations
from tspbench.storage.predictions import read_predictions

ANNOTATIONS = SHARED / "data" / "activitynet" / "annotations_19228.json"
PER_VIDEO = (100, 200, 400)
MOST_SECONDS = {"tal": 5.0, "proposals": 3.0}  # of the command, reading included, at the first size
MOST_GIB = 1.5
PLAIN_VIDEOS = 100  # the plain formulation gets the first so many videos by name
MAIN_METRIC = {"tal": "average_mAP", "proposals": "AUC"}
COMMAND = "import sys; from tspbench.cli import main; sys.exit(main())"


def draw(per_video: int, folder: Path) -> Path:
    """Write a prediction file with at most ``per_video`` predictions for each video."""
    path = folder / f"predictions_{per_video}.json"
    script = [SHARED / "tools" / "make_predictions.py", ANNOTATIONS, "validation", path, "--per-video", str(per_video)]
    subprocess.run([sys.executable, *map(str, script)], check=True, stdout=subprocess.DEVNULL)
    return path


def command(task: str, predictions: Path, folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory (GiB) of ``tspbench score``."""
    arguments = ["score", "--task", task, "--predictions", str(predictions), "--ground-truth", str(ANNOTATIONS)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    said = folder / "said.txt"
    with said.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], env=environment, stdout=output, stderr=output
        )
        # The resources of this child alone; those that `resource` has are the most of all children so far.
        _, status, resources = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"tspbench {' '.join(arguments)}: {said.read_text()}")
    return seconds, resources.ru_maxrss / 2**20


def rows_of(segments: GroundTruth | Predictions) -> Iterator[tuple[str, str, float, float]]:
    """Yield rows for the plain formulation, without scores."""
    columns = (array.tolist() for array in (segments.video, segments.label, segments.start, segments.end))
    for video, label, start, end in zip(*columns, strict=True):
        yield segments.videos[video], segments.labels[label], start, end


def plain_score(task: str, truth: list[TruthRow], found: list[PredictionRow]) -> float:
    """Return the main metric of ``task`` by the plain formulation."""
    protocol = PROTOCOLS[task]["activitynet"]
    if task == "tal":
        return float(oracle.mean_average_precision(truth, found, protocol.thresholds, {}).mean())
    average = oracle.recall_curve(truth, found, protocol.thresholds, 100).mean(axis=0)
    return float((average[1:] + average[:-1]).sum() / 200)


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Return the value of ``work`` and the seconds that it takes."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def compare(task: str, ground_truth: GroundTruth, predictions: Predictions) -> bool:
    """Print one row of the second table; return whether both formulations give the same score."""
    protocol, metric = PROTOCOLS[task]["activitynet"], METRICS[task]

    def fast(truth: GroundTruth, found: Predictions) -> float:
        return metric.score(metric.statistics(truth, found, protocol)).metrics()[MAIN_METRIC[task]]

    few = ground_truth.of_videos(sorted(ground_truth.videos)[:PLAIN_VIDEOS])
    some = predictions.where(np.isin(np.array(predictions.videos)[predictions.video], few.videos))
    ours = fast(few, some)  # and compiles
    truth = list(rows_of(few))
    found = [(*row, score) for row, score in zip(rows_of(some), some.score.tolist(), strict=True)]
    theirs, slow = timed(lambda: plain_score(task, truth, found))
    _, quick = timed(lambda: fast(ground_truth, predictions))
    per_slow, per_quick = slow / len(some) * 1e6, quick / len(predictions) * 1e6
    cells = [task, f"{len(some):,}", f"{per_slow:.1f} µs", f"{len(predictions):,}", f"{per_quick:.2f} µs"]
    print("| " + " | ".join([*cells, f"{per_slow / per_quick:.0f}", f"{abs(ours - theirs):.1e}"]) + " |")
    return abs(ours - theirs) <= 1e-9


def main() -> int:
    """Print the tables; return 0 when all is as it should be."""
    good = True
    ground_truth = read_annotations(ANNOTATIONS).ground_truth("validation")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}\n")
    print("| task | predictions | command | peak memory |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [draw(per_video, folder) for per_video in PER_VIDEO]
        smallest = read_predictions(files[0], ground_truth)
        for task, most in MOST_SECONDS.items():
            command(task, files[0], folder)
            for path in files:
                seconds, memory = command(task, path, folder)
                count = path.read_bytes().count(b'"segment"')
                print(f"| {task} | {count:,} | {seconds:.2f} s | {memory:.2f} GiB |")
                good = good and (path != files[0] or (seconds <= most and memory <= MOST_GIB))
    print("\n| task | plain on | plain, each | ours on | ours, each | ratio | largest difference |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    good = all([good, *[compare(task, ground_truth, smallest) for task in MOST_SECONDS]])
    print("\nAs it should be." if good else f"\nNot as it should be: {MOST_SECONDS} s, {MOST_GIB} GiB, equal scores.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
