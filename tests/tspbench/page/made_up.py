"""A small made-up run with everything that a page shows: five videos, four rows, detections, proposals, captions."""

import json
import math
from pathlib import Path

import numpy as np

from evaluation import METRICS, PROTOCOLS, score_signature
from tests.evaluation.helpers import predicted
from tests.tspbench.helpers import small_dataset
from tspbench.datasets import open_dataset
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features
from tspbench.storage.predictions import write_predictions
from tspbench.storage.recipes import write_toml
from tspbench.storage.records import Record, write_record
from tspbench.storage.runs import Row, Run, TaskTable, write_run
from tspbench.storage.statistics import write_statistics

SCRIPT = "<script>alert(1)</script>"
GRID, TAC, TSP, LATE = "Uniform grid", "TAC <b>bold</b>", "TSP | max", "never finished"
FOLDERS = {GRID: "grid", TAC: "tac", TSP: "tsp", LATE: "late"}
DENSE = "Features of an encoder with a long name, pretrained on Kinetics, number"
KEY = "key of this run"
# Row → how late its segments are in seconds; the true ones are from 1 to 2.5 s.
SHIFTS = {GRID: 1.2, TAC: 0.4, TSP: 0.0}
METEOR = "captions|protocol:densevid|truth:1"


def record(folder: Path, stage: str, figures, inputs=None, outputs=None) -> None:
    provenance = {"git_commit": "abc", "python": "3.11", "machine": {"gpu": None}, "packages": {"numpy": "2"}}
    write_record(
        folder / stage,
        Record(stage, "finished", "f", {"row": KEY}, inputs or {}, outputs or {}, figures, 1.0, provenance),
    )


def made_up_run(folder: Path, *, more: int = 0, nan: bool = True, **facts: str) -> Path:
    """Write a run whose rows are ``SHIFTS`` late, and return its folder.

    Args:
        folder: of the run; the data set lies below it.
        more: number of validation videos beyond three, which makes another ground truth.
        nan: whether the main metric and interval of the first row are nan.
        facts: of the tables of detections and proposals, instead of the usual ones.
    """
    dataset = small_dataset(folder / "data", training=2, validation=3 + more)
    truth = dataset.read().ground_truth("val")
    tables = []
    for task in ("tal", "proposals"):
        rows = [_scored_row(folder, task, name, truth, dataset, nan=nan and name == GRID) for name in SHIFTS]
        rows.append(Row(LATE, f"{task}/late", KEY))
        told = {"dataset": "small", "localizer": "gtad", "protocol": "activitynet", "seed": "0", **facts}
        tables.append(TaskTable(task, rows, told, f"{task}/comparison"))
        _compare(folder, task)
    tables.append(_captions(folder))
    for k, name in enumerate(("tac", "tsp")):
        epochs = [{"total_loss": 1.0 / (e + 1), "mean_accuracy": 0.5 + 0.1 * e + 0.05 * k} for e in range(3)]
        record(folder, f"pretrain/{name}", {"epochs": epochs}, outputs={"encoder.safetensors": f"weights of {name}"})
        _features(folder / "features" / name / "features.h5", truth.videos, step=k)
        record(folder, f"features/{name}", {}, inputs={"encoder": f"weights of {name}"})
    write_run(folder, Run("Made-up videos", tables, [f"A note with {SCRIPT}."], dataset.for_run(folder)))
    return folder


def dense_run(folder: Path, *, rows: int = 8, segments: int = 200) -> Path:
    """Write a run like one on THUMOS14: 6 videos of 20 minutes, full of short segments of 20 classes; no videos.

    Args:
        folder: of the run; the data set lies below it.
        rows: of its table, each of which predicts four times as many segments as there are.
        segments: of each video.
    """
    rng = np.random.default_rng(0)
    names, seconds = [f"video_test_{k:07d}" for k in range(6)], 1200.0
    labels = [f"Throw number {k} & <more>" for k in range(20)]
    starts = np.sort(rng.uniform(0, seconds - 10, (6, segments)))
    lengths, classes = rng.gamma(2, 2, (6, segments)) + 0.2, rng.integers(0, 20, (6, segments))
    (folder / "data").mkdir(parents=True)
    database = {
        name: {
            "duration": seconds,
            "subset": "test",
            "annotations": [
                {"segment": [start, start + length], "label": labels[label]}
                for start, length, label in zip(*(each[k].tolist() for each in (starts, lengths, classes)), strict=True)
            ],
        }
        for k, name in enumerate(names)
    }
    (folder / "data" / "annotations.json").write_text(json.dumps({"database": database}))
    card = {"name": "dense", "annotations": "annotations.json", "protocol": "thumos14"}
    write_toml(folder / "data" / "dataset.toml", {**card, "splits": {"training": "train", "validation": "test"}})
    dataset = open_dataset(str(folder / "data"))
    truth, protocol = dataset.read().ground_truth("test"), PROTOCOLS["tal"]["thumos14"]
    found = []
    for k in range(rows):
        place = f"tal/row-{k}"
        late = rng.normal(0, 0.5 * k, (4, len(truth)))
        start = np.clip(truth.start + late, 0, None)
        end = truth.end + late
        score = rng.uniform(0.2, 1, (4, len(truth)))
        entries = [
            (truth.videos[truth.video[i]], truth.labels[truth.label[i]], start[j, i], end[j, i], score[j, i])
            for j in range(4)
            for i in range(len(truth))
            if end[j, i] > start[j, i]
        ]
        predictions = predicted(entries, truth.videos, truth.labels)
        statistics = METRICS["tal"].statistics(truth, predictions, protocol)
        signature = score_signature(METRICS["tal"].name, protocol, truth, "1")
        metrics = METRICS["tal"].score(statistics).metrics()
        write_predictions(folder / place / "predict" / "predictions.json.gz", predictions)
        record(folder, f"{place}/predict", {}, outputs={"predictions.json.gz": "sha"})
        write_statistics(folder / place / "score" / "statistics.npz", statistics, signature)
        figures = {"metrics": metrics, "signature": signature, "counts": {"videos": 6, "missing_videos": 0}}
        inputs = {"annotations": dataset.annotations_hash()}
        record(folder, f"{place}/score", figures, inputs, {"statistics.npz": f"hash of {k}"})
        found.append(Row(f"{DENSE} {k}", place, KEY))
    facts = {"dataset": "dense", "localizer": "gtad", "protocol": "thumos14", "seed": "0"}
    table = TaskTable("tal", found, facts, "tal/comparison")
    write_run(folder, Run("Dense videos", [table], [], dataset.for_run(folder)))
    return folder


def _scored_row(folder, task, name, truth, dataset, *, nan) -> Row:
    shift, place = SHIFTS[name], f"{task}/{FOLDERS[name]}"
    rows = [
        (video, truth.labels[truth.label[k]], truth.start[k] + shift, truth.end[k] + shift, 0.9 - 0.1 * k)
        for k, video in enumerate(truth.videos)
    ]
    rows += [(video, truth.labels[0], 0.0, 0.5, 0.05) for video in truth.videos]
    found = predicted(rows, truth.videos, truth.labels)
    protocol = PROTOCOLS[task]["activitynet"]
    statistics = METRICS[task].statistics(truth, found, protocol)
    signature = score_signature(METRICS[task].name, protocol, truth, "1")
    metrics = METRICS[task].score(statistics).metrics()
    main = "AUC" if task == "proposals" else "average_mAP"
    if nan:
        metrics[main] = math.nan
    interval = (math.nan, math.nan) if nan else (0.9 * metrics[main], min(1.0, 1.05 * metrics[main]))
    counts = {"videos": len(truth.videos), "missing_videos": 1 if name == TAC else 0, "ground_truth": len(truth)}
    figures = {"metrics": metrics, "signature": signature, "intervals": {main: interval}, "counts": counts}
    write_predictions(folder / place / "predict" / "predictions.json.gz", found)
    record(folder, f"{place}/predict", {}, outputs={"predictions.json.gz": "sha"})
    write_statistics(folder / place / "score" / "statistics.npz", statistics, signature)
    inputs = {"annotations": dataset.annotations_hash()}
    record(folder, f"{place}/score", figures, inputs, {"statistics.npz": f"hash of {name} in {task}"})
    trained = name != GRID
    if trained:
        epochs = [{"total_loss": 2.0 / (e + 1) + shift} for e in range(4)]
        record(folder, f"{place}/train", {"epochs": epochs})
    files = (f"features/{FOLDERS[name]}/features.h5",) if trained else ()
    return Row(name, place, KEY, "" if trained else "uniform-grid", files=files)


def _compare(folder, task) -> None:
    main = "AUC" if task == "proposals" else "average_mAP"
    metrics = {main: {"difference": 0.21, "low": 0.1, "high": 0.3, "p": 0.012}}
    inputs = {name: f"hash of {name} in {task}" for name in (TAC, TSP)}
    figures = {"differences": [{"a": TAC, "b": TSP, "metrics": metrics}]}
    write_record(folder / task / "comparison", Record("compare", "finished", "f", {}, inputs, {}, figures, 1.0, {}))


def _captions(folder) -> TaskTable:
    rows = []
    for name in (TAC, TSP):
        place = f"captioning/{FOLDERS[name]}/ground-truth"
        sample = [{"video": "v2", "segment": [1.0, 2.5], "true": "A number.", "predicted": f"{SCRIPT} by {name}"}]
        record(folder, f"{place}/predict", {"sample": sample})
        figures = {"metrics": {"METEOR": 0.125, "BLEU@3": 0.25}, "signature": METEOR, "counts": {"videos": 3}}
        record(folder, f"{place}/score", figures)
        record(folder, f"captioning/{FOLDERS[name]}/train", {"epochs": [{"total_loss": 3.0}, {"total_loss": 2.0}]})
        rows.append(Row(name, place, KEY))
    return TaskTable(
        "captioning", rows, {"captioner": "bmt", "protocol": "densevid"}, "captioning/none", "ground-truth"
    )


def _features(path, videos, *, step) -> None:
    """Write features that are the same all along (step 0), or others inside the actions (step 1)."""
    rng = np.random.default_rng(step)
    found = {}
    for video in videos:
        rows = 0.1 * rng.normal(size=(12, 4)) + 1.0
        rows[3:8] += step * np.array([-3.0, 2.0, 0.0, 1.0])
        found[video] = VideoFeatures(rows.astype(np.float32), 4.0, "test")
    write_features(path, found, RowMeaning("tiny", "sha", 4, 4, 12.0, 4, "fp32"))
