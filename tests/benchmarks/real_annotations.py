"""Localizers on the real annotations of THUMOS14 and ActivityNet, with features made up from them.

The videos themselves are not at hand: features are noise, plus a weak signal of what the annotations say. So the scores
say that the chain from features to mAP works, and what it costs; they say nothing about any encoder. By hand:

    python -m tests.benchmarks.real_annotations thumos14 --out DIR [--training 60 --validation 60 --epochs 3]
    python -m tests.benchmarks.real_annotations activitynet --out DIR [--training 256 --validation 500]
"""

import argparse
import csv
import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tspbench.storage.features import RowMeaning, VideoFeatures, write_features

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CARD = 'name = "{name}"\nannotations = "annotations.json"\nvideos = "videos"\nprotocol = "{protocol}"\n'
SPLITS = '[splits]\ntraining = "training"\nvalidation = "{validation}"\n'
CLIP_FRAMES = 16


def thumos14_annotations():
    """The 200 validation videos to train on, and the 213 test videos with their Ambiguous segments."""
    labels = json.loads((DATA / "thumos14" / "action_labels.json").read_text())
    database = {}
    with gzip.open(DATA / "thumos14" / "valid_tsp_groundtruth.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            entry = database.setdefault(row["video-name"], {"subset": "training", "annotations": []})
            entry["duration"] = float(row["video-duration"])
            if row["temporal-region-label"] == "Action":
                segment = [float(row["t-start"]), float(row["t-end"])]
                entry["annotations"].append({"segment": segment, "label": row["action-label"]})
    with (DATA / "thumos14" / "test_groundtruth_with_ambiguous.csv").open() as file:
        for row in csv.DictReader(file):
            entry = database.setdefault(row["video-name"], {"subset": "test", "annotations": []})
            entry["duration"] = float(row["video-duration"])
            number = int(row["label-idx"])
            segment = [float(row["t-init"]), float(row["t-end"])]
            entry["annotations"].append({"segment": segment, "label": "Ambiguous" if number < 0 else labels[number]})
    return database


def activitynet_annotations():
    """Training and validation videos of the 19,228 that G-TAD and BMN use."""
    database = json.loads((DATA / "activitynet" / "annotations_19228.json").read_text())["database"]
    return {name: entry for name, entry in database.items() if entry["subset"] != "testing"}


def chosen(database, counts, seed):
    """Keep so many videos of each subset, drawn at random."""
    rng = np.random.default_rng(seed)
    kept = {}
    for subset, count in counts.items():
        names = sorted(name for name, entry in database.items() if entry["subset"] == subset)
        kept |= {name: database[name] for name in sorted(rng.permutation(names)[:count].tolist())}
    return kept


def write_noisy_features(path, database, stride_frames, frame_rate, dim, signal, seed):
    """Write (T, dim) normal rows, plus ``signal`` along three directions: inside, near a start, near an end."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, dim)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stride, clip = stride_frames / frame_rate, CLIP_FRAMES / frame_rate

    def videos():
        for name, entry in database.items():
            count = max(1, int((entry["duration"] - clip) / stride) + 1)
            centres = np.arange(count) * stride + clip / 2
            what = np.zeros((count, 3), dtype=np.float32)
            for annotation in entry["annotations"]:
                if annotation["label"] != "Ambiguous":
                    start, end = annotation["segment"]
                    what[:, 0] = np.maximum(what[:, 0], (centres >= start) & (centres < end))
                    near = max(stride, 0.1 * (end - start))
                    what[:, 1] = np.maximum(what[:, 1], np.exp(-(((centres - start) / near) ** 2)))
                    what[:, 2] = np.maximum(what[:, 2], np.exp(-(((centres - end) / near) ** 2)))
            rows = rng.standard_normal((count, dim), dtype=np.float32) + signal * what @ directions
            yield name, VideoFeatures(rows, entry["duration"], "none")

    meaning = RowMeaning("made up", f"seed {seed}", CLIP_FRAMES, stride_frames, frame_rate, dim, "fp32")
    write_features(path, dict(videos()), meaning)


def write_set(folder, name, protocol, database, validation):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    card = CARD.format(name=name, protocol=protocol) + SPLITS.format(validation=validation)
    (folder / "dataset.toml").write_text(card)


def evaluate(folder, changes, *arguments):
    """Run the command with all reference rows; print how long it took and the most memory that it had."""
    command = [Path(sys.executable).with_name("tspbench"), "evaluate", "--task", "tal", "--dataset", folder / "set"]
    command += ["--features", f"made-up={folder / 'features.h5'}", "--out", folder / "run", *arguments]
    command += [item for name in ("whole-video", "uniform-grid", "upper-mark") for item in ("--reference", name)]
    command += [item for change in changes for item in ("--set", change)]
    start = time.monotonic()
    subprocess.run([str(item) for item in command], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{time.monotonic() - start:.0f} s, peak {peak:.2f} GiB\n")
    print((folder / "run" / "table.md").read_text())


def thumos14(folder, arguments):
    counts = {"training": arguments.training or 200, "test": arguments.validation or 213}
    database = chosen(thumos14_annotations(), counts, arguments.seed)
    write_set(folder / "set", "thumos14-made-up", "thumos14", database, "test")
    write_noisy_features(folder / "features.h5", database, 5, 30.0, arguments.dim, arguments.signal, arguments.seed)
    evaluate(folder, arguments.set, "--class-scores", DATA / "thumos14" / "untrimmednet_test_scores.npy")


def activitynet(folder, arguments):
    counts = {"training": arguments.training or 256, "validation": arguments.validation or 500}
    database = chosen(activitynet_annotations(), counts, arguments.seed)
    write_set(folder / "set", "activitynet-made-up", "activitynet", database, "validation")
    write_noisy_features(folder / "features.h5", database, 16, 15.0, arguments.dim, arguments.signal, arguments.seed)
    evaluate(folder, arguments.set)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["thumos14", "activitynet"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--training", type=int, help="videos to train on; default: 200 (THUMOS14), 256")
    parser.add_argument("--validation", type=int, help="videos to score; default: 213 (THUMOS14), 500")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--signal", type=float, default=3.0, help="length of the signal; each number has noise of 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="as of `tspbench evaluate`")
    arguments = parser.parse_args()
    {"thumos14": thumos14, "activitynet": activitynet}[arguments.benchmark](arguments.out, arguments)


if __name__ == "__main__":
    main()
