"""The ActivityNet recipe at the size of the released features: names, counts and lengths are real, content is random.

    python tests/benchmarks/rehearsal.py FOLDER [--training 48] [--validation 24] [--epochs 1]

writes about 10 GiB into FOLDER: features of all 14,950 videos for each of the three rows, annotations of the 4,926
videos (from the ground truth that TSP released) and of the 4,728 (the convention of BMN and G-TAD), class scores. Then
it runs `tspbench run activitynet-tal` on a trial of them by both conventions. Needs the released CSVs and annotations
in ../shared.
"""

import argparse
import csv
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

SHARED = Path(__file__).parents[3] / "shared" / "data" / "activitynet"
MODELS = ("r2plus1d_34-tac_on_kinetics", "r2plus1d_34-tac_on_activitynet", "r2plus1d_34-tsp_on_activitynet")
ROW_SECONDS = 16 / 15
TSPBENCH = [sys.executable, "-c", "from tspbench.cli import main; main()"]


def metadata(split: str) -> dict[str, float]:
    """Return v_NAME → seconds, of the videos that TSP's features are of."""
    with gzip.open(SHARED / f"{split}_metadata.csv.gz", "rt") as file:
        return {Path(row["filename"]).stem: float(row["video-duration"]) for row in csv.DictReader(file)}


def write_features(folder: Path) -> None:
    for number, model in enumerate(MODELS):
        rng = np.random.default_rng(number)
        for split in ("train", "valid"):
            path = folder / f"{model}-{split}_features.h5"
            if path.is_file():
                continue
            with h5py.File(path.with_suffix(".part"), "w") as file:
                for video, seconds in metadata(split).items():
                    rows = max(1, int(seconds / ROW_SECONDS))  # the last clip is dropped where it is not whole
                    file[video] = rng.standard_normal((rows, 512), dtype=np.float32)
            path.with_suffix(".part").rename(path)


def write_class_scores(annotations: Path, out: Path) -> None:
    """Write scores in which the true class of a video mostly wins."""
    database = json.loads(annotations.read_text())["database"]
    labels = sorted({entry["label"] for video in database.values() for entry in video["annotations"]})
    rng = np.random.default_rng(7)
    results = {}
    for name, video in database.items():
        scores = rng.uniform(0, 0.5, len(labels))
        for entry in video["annotations"]:
            scores[labels.index(entry["label"])] = rng.uniform(0.4, 1)
        results[name] = scores.tolist()
    out.write_text(json.dumps({"results": results, "class": labels}))


def tspbench(*arguments: object, root: Path) -> None:
    command = [*TSPBENCH, *map(str, arguments)]
    print("$ tspbench", *arguments, flush=True)
    start = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "TSPBENCH_DATA": str(root)})
    print(f"  {time.monotonic() - start:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", type=int, default=48)
    parser.add_argument("--validation", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    root = options.folder / "data"
    home = root / "activitynet"
    if not (home / "dataset.toml").is_file():
        shutil.rmtree(home / "segments", ignore_errors=True)
        (home / "segments").mkdir(parents=True)
        for split in ("train", "valid"):
            with gzip.open(SHARED / f"{split}_tsp_groundtruth.csv.gz") as source:
                (home / "segments" / f"{split}.csv").write_bytes(source.read())
        tables = [f"training={home}/segments/train.csv", f"validation={home}/segments/valid.csv"]
        tspbench("data", "import", *tables, "--name", "activitynet", "--out", home, root=root)
    start = time.monotonic()
    (home / "features").mkdir(parents=True, exist_ok=True)
    write_features(home / "features")
    write_class_scores(home / "annotations.json", home / "cuhk_val_simp_share.json")
    size = sum(path.stat().st_size for path in (home / "features").iterdir()) / 2**30
    print(f"features: {size:.2f} GiB in {time.monotonic() - start:.1f} s", flush=True)
    trial = [f"trial.training={options.training}", f"trial.validation={options.validation}"]
    trial.append(f"tasks.tal.fit.epochs={options.epochs}")
    changes = [part for change in trial for part in ("--set", change)]
    for name, annotations in (("4926", []), ("4728", ["--set", f"data.annotations={SHARED}/annotations_19228.json"])):
        out = options.folder / f"run-{name}"
        tspbench("check", "activitynet-tal", *annotations, "--out", out, root=root)
        tspbench("run", "activitynet-tal", *annotations, *changes, "--out", out, root=root)
        print((out / "table.md").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory of a command: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
