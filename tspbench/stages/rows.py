"""One row of a table: a feature set is trained on, predicted and scored; a reference is predicted and scored."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from evaluation import PROTOCOLS
from evaluation.protocols import SegmentProtocol
from evaluation.segments import GroundTruth, Predictions
from tspbench import __version__
from tspbench.device import workers_for
from tspbench.feature_views import MEMORY_BYTES, FeatureViews
from tspbench.progress import progress, say
from tspbench.reference_rows import UNTRAINED, closest_on_grid
from tspbench.stages.predict import joined, predict
from tspbench.stages.score import score, score_intervals
from tspbench.stages.stage import file_hashes, run_stage
from tspbench.stages.train import (
    LOCALIZER_FILE,
    LocalizerSettings,
    localizer_config,
    new_localizer,
    train_localizer,
)
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.predictions import read_predictions, write_predictions
from tspbench.storage.records import Record
from tspbench.storage.runs import Row
from tspbench.storage.statistics import write_statistics
from tspbench.video_labels import Detections, Labelling

PREDICTIONS_FILE: Final = "predictions.json.gz"
STATISTICS_FILE: Final = "statistics.npz"
TRUE_LABELS: Final = "labels:true"


@dataclass(frozen=True)
class Benchmark:
    """What the rows of a table have in common.

    Args:
        task: "tal" or "proposals".
        protocol: key of `PROTOCOLS[task]`.
        truth: annotated segments of the validation subset, labelled as they are scored.
        videos: role ("training", "validation") → annotations without what the protocol ignores, labelled likewise.
        subsets: role → name of the subset in the annotation file.
        ignored: label of the segments that the protocol ignores, if any.
        labelling: where the labels of detections come from.
        localizer: what is trained on each feature set.
        seed: of the localizer.
        device: torch device.
        inputs: hashes: "annotations", and "class_scores" where there are such.
    """

    task: str
    protocol: str
    truth: GroundTruth
    videos: Mapping[str, Sequence[VideoAnnotations]]
    subsets: Mapping[str, str]
    ignored: str | None
    labelling: Labelling
    localizer: LocalizerSettings
    seed: int
    device: str
    inputs: Mapping[str, str]

    def train_settings(self, files: FeatureFiles) -> dict[str, object]:
        """Return all settings that decide what is learned, those of the localizer as resolved."""
        config = localizer_config(self.localizer, files.feature_dim)
        settings = self.localizer.model_dump(
            mode="json", exclude={"config": True, "top_labels": True, "fit": {"workers"}}
        )
        return {
            **settings,
            "config": config.model_dump(mode="json"),
            "seed": self.seed,
            "subset": self.subsets["training"],
            "ignored": self.ignored,
            "labels": self.labelling.labels if self.labelling.by_localizer else [],
        }

    def predict_settings(self) -> dict[str, object]:
        """Return the settings that decide which videos are predicted on and how the segments are labelled."""
        return {
            "subset": self.subsets["validation"],
            "ignored": self.ignored,
            "labels": self.labelling.signature,
        }

    def row_key(self, files: FeatureFiles, reference: str) -> str:
        """Return a hash of all that decides the score of a row."""
        settings = [self.train_settings(files), self.predict_settings(), self.task, self.protocol, reference]
        return hash_data([settings, dict(self.inputs), file_hashes(files), __version__])

    def views(self, files: FeatureFiles, role: str, steps: int) -> FeatureViews:
        """Return the videos of a subset that have features, as the localizer sees them."""
        there = [video for video in self.videos[role] if video.name in files.videos]
        training = role == "training"
        return FeatureViews(
            files,
            there,
            self.labelling.labels,
            steps,
            self.localizer.time,
            training=training,
            # Each is predicted on once: nothing is gained by keeping it.
            memory_bytes=MEMORY_BYTES if training else 0,
        )


def feature_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Train on a feature set, predict and score; stages that are finished are skipped."""
    hashes = file_hashes(files)
    seen = {"annotations": what.inputs["annotations"], **hashes}
    missing = {
        role: [video.name for video in videos if video.name not in files.videos] for role, videos in what.videos.items()
    }
    for role, names in missing.items():
        if names:
            total = len(what.videos[role])
            say(f"{files.paths[0]}: no features of {len(names)} of {total} {role} videos (first: {names[0]}).")

    def train(key: str) -> Mapping[str, object]:
        model = new_localizer(what.localizer, files.feature_dim, what.seed)
        views = what.views(files, "training", model.config.steps)
        with progress(f"train {what.localizer.name} · {row.name}") as advance:
            figures = train_localizer(
                views,
                model,
                what.localizer,
                seed=what.seed,
                device=what.device,
                folder=folder / "train",
                key=key,
                advance=advance,
            )
        return {**figures, "missing_training_videos": len(missing["training"])}

    trained = run_stage("train", folder / "train", what.train_settings(files), seen, [LOCALIZER_FILE], train)

    def find() -> Predictions:
        model = new_localizer(what.localizer, files.feature_dim, what.seed)
        model.load_state_dict(read_weights(folder / "train" / LOCALIZER_FILE).features)
        views = what.views(files, "validation", model.config.steps)
        fit = what.localizer.fit
        with progress(f"predict · {row.name}") as advance:
            return predict(
                views,
                model.to(what.device).eval(),
                what.labelling,
                what.device,
                fit.batch_size,
                workers_for(what.device, fit.workers),
                advance,
            )

    weights = {**what.inputs, **hashes, "localizer": trained.outputs[LOCALIZER_FILE]}
    time = what.localizer.time.model_dump(mode="json")
    predicted = _predict(what, folder, {"time": time}, weights, find)
    _score(what, row, folder, predicted, what.labelling.signature)


def reference_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Score segments that follow from a video's duration alone.

    Args:
        what: the table.
        row: whose ``reference`` is a key of `UNTRAINED`.
        files: features, which say how long a video is where the annotations do not.
        folder: of the row.
    """

    def find() -> Predictions:
        videos = [video for video in what.videos["validation"] if video.name in files.videos]
        found = []
        for video in videos:
            segments, scores = UNTRAINED[row.reference](files.duration(video.name, video.duration_seconds))
            classes = np.full(len(scores), -1)
            found.append(what.labelling.label(video.name, segments, scores, classes))
        return joined([video.name for video in videos], what.labelling.labels, found)

    predicted = _predict(what, folder, {"reference": row.reference}, {**what.inputs, **file_hashes(files)}, find)
    _score(what, row, folder, predicted, what.labelling.signature)


def upper_mark_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Score the best that the localizer's grid can express: for each true segment the closest one, with its label."""

    def find() -> Predictions:
        model = new_localizer(what.localizer, files.feature_dim, what.seed)
        views = what.views(files, "validation", model.config.steps)
        grid = model.grid()
        steps = None if grid is None else grid.double().numpy()
        videos = {video.name: video for video in what.videos["validation"]}
        index = {label: k for k, label in enumerate(what.labelling.labels)}
        found = []
        for number, seen in itertools.groupby(views.views, key=lambda view: view.video):
            video = videos[views.names[number]]
            segments, scores = closest_on_grid(
                video.segments, steps, [view.timeline for view in seen], views.durations[number]
            )
            classes = np.array([index[label] for label in video.labels], dtype=np.int64)
            found.append(Detections(segments, scores, classes))
        return joined(views.names, what.labelling.labels, found)

    config = localizer_config(what.localizer, files.feature_dim).model_dump(mode="json")
    time = what.localizer.time.model_dump(mode="json")
    settings = {"reference": row.reference, "localizer": what.localizer.name, "config": config, "time": time}
    predicted = _predict(what, folder, settings, {**what.inputs, **file_hashes(files)}, find)
    _score(what, row, folder, predicted, TRUE_LABELS)


def _predict(
    what: Benchmark,
    folder: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    find: Callable[[], Predictions],
) -> Record:
    def work(_key: str) -> Mapping[str, object]:
        predictions = find()
        write_predictions(folder / "predict" / PREDICTIONS_FILE, predictions)
        return {"videos": len(predictions.videos), "predictions": len(predictions)}

    complete = {**settings, **what.predict_settings()}
    return run_stage("predict", folder / "predict", complete, inputs, [PREDICTIONS_FILE], work)


def _score(what: Benchmark, row: Row, folder: Path, predicted: Record, labels: str) -> None:
    """Score the predictions of a row; ``labels`` is the field of the signature that says where theirs come from."""
    protocol = PROTOCOLS[what.task][what.protocol]
    assert isinstance(protocol, SegmentProtocol)  # noqa: S101 - captions have another path
    tal = what.task == "tal"

    def work(_key: str) -> Mapping[str, object]:
        found = joined([], what.truth.labels, [])  # every video is missed
        if predicted.figures["predictions"]:
            found = read_predictions(folder / "predict" / PREDICTIONS_FILE, what.truth, labelled=tal)
        scored = score(what.task, what.truth, found, protocol)
        signature = f"{scored.signature}|{labels}" if tal else scored.signature
        write_statistics(folder / "score" / STATISTICS_FILE, scored.statistics, signature)
        with progress(f"resample · {row.name}") as advance:
            intervals = score_intervals(what.task, scored, advance)
        return {
            "metrics": scored.result.metrics(),
            "intervals": intervals,
            "counts": scored.counts,
            "signature": signature,
        }

    inputs = {"annotations": what.inputs["annotations"], "predictions": predicted.outputs[PREDICTIONS_FILE]}
    settings = {
        "task": what.task,
        "protocol": what.protocol,
        "subset": what.subsets["validation"],
        "labels": labels,
        "row": row.key,
    }
    run_stage("score", folder / "score", settings, inputs, [STATISTICS_FILE], work)
