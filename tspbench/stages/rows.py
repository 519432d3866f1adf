"""One row of a table: a feature set is trained on, predicted and scored; a reference is predicted and scored."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation import PROTOCOLS
from evaluation.protocols import SegmentProtocol
from evaluation.segments import GroundTruth, Predictions
from tspbench import __version__
from tspbench.device import workers_for
from tspbench.feature_views import MEMORY_BYTES, FeatureViews
from tspbench.fit_settings import NOT_IN_RESULT
from tspbench.progress import Advance, progress, say
from tspbench.proposal_batches import ProposalBatches, Proposed
from tspbench.reference_rows import UNTRAINED, closest_on_grid
from tspbench.stages.predict import joined, predict
from tspbench.stages.refine import refine
from tspbench.stages.score import score, score_intervals
from tspbench.stages.stage import file_hashes, run_stage
from tspbench.stages.train import (
    LOCALIZER_FILE,
    LocalizerSettings,
    localizer_config,
    localizer_facts,
    new_localizer,
    train_localizer,
)
from tspbench.stages.train_refiner import train_refiner
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data
from tspbench.storage.predictions import read_predictions, write_predictions
from tspbench.storage.records import Record
from tspbench.storage.runs import Row
from tspbench.storage.statistics import write_statistics
from tspbench.video_labels import ANY_ACTION, Detections, Labelling

Floats = NDArray[np.float64]

PREDICTIONS_FILE: Final = "predictions.json.gz"
STATISTICS_FILE: Final = "statistics.npz"
PREDICT_TRAINING: Final = "predict-training"
TRUE_LABELS: Final = "labels:true"
UNLABELLED: Final = Labelling((ANY_ACTION,), None, 1, "labels:none", "none: class-agnostic scores")
NOTHING: Final = Detections(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=np.int64))


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
        proposals: of others, which the localizer refines; none where it makes its own.
        seed: of the localizer.
        device: torch device.
        inputs: hashes: "annotations", "class_scores" where there are such, and each file of ``proposals``.
    """

    task: str
    protocol: str
    truth: GroundTruth
    videos: Mapping[str, Sequence[VideoAnnotations]]
    subsets: Mapping[str, str]
    ignored: str | None
    labelling: Labelling
    localizer: LocalizerSettings
    proposals: Proposed | None
    seed: int
    device: str
    inputs: Mapping[str, str]

    def config(self, files: FeatureFiles) -> dict[str, object]:
        """Return the localizer's own settings as resolved."""
        resolved = localizer_config(self.localizer, files.feature_dim, len(self.labelling.labels))
        return dict(resolved.model_dump(mode="json"))

    def model(self, files: FeatureFiles) -> Any:
        """Return a new localizer."""
        return new_localizer(self.localizer, files.feature_dim, self.seed, len(self.labelling.labels))

    def train_settings(self, files: FeatureFiles) -> dict[str, object]:
        """Return all settings that decide what is learned, those of the localizer as resolved."""
        unseen: dict[str, Any] = {"config": True, "top_labels": True, "predict_training": True, "fit": NOT_IN_RESULT}
        settings = self.localizer.model_dump(mode="json", exclude=unseen)
        if self.proposals is None:
            del settings["refine"]
        return {
            **settings,
            **localizer_facts(self.localizer.name),
            "config": self.config(files),
            "seed": self.seed,
            "subset": self.subsets["training"],
            "ignored": self.ignored,
            "labels": self.labelling.labels if self.labelling.by_localizer else [],
        }

    def predict_settings(self, role: str) -> dict[str, object]:
        """Return the settings that decide which videos are predicted on and how the segments are labelled."""
        return {
            "subset": self.subsets[role],
            "ignored": self.ignored,
            "labels": self.labelling_of(role).signature,
        }

    def labelling_of(self, role: str) -> Labelling:
        """Return how the segments are labelled: those of training videos not at all, which is enough for refiners."""
        return self.labelling if role == "validation" else UNLABELLED

    def row_key(self, files: FeatureFiles, reference: str) -> str:
        """Return a hash of all that decides the score of a row."""
        predicted = self.predict_settings("validation")
        settings = [self.train_settings(files), predicted, self.task, self.protocol, reference]
        return hash_data([settings, dict(self.inputs), file_hashes(files), __version__])

    def shown_settings(self) -> dict[str, object]:
        """Return the settings that decide what the localizer sees of a video, and what it makes of it."""
        time = self.localizer.time.model_dump(mode="json")
        shown: dict[str, object] = {"time": time, **localizer_facts(self.localizer.name)}
        if self.proposals is not None:
            shown["refine"] = self.localizer.refine.model_dump(mode="json")
        return shown

    def views(self, files: FeatureFiles, role: str, steps: int, *, training: bool) -> FeatureViews:
        """Return the videos of a subset that have features, as the localizer sees them; a refiner sees them whole.

        A refiner learns from no video in which nothing happens (P-GCN's release, pgcn_dataset.py, exclude_empty).
        """
        there = [video for video in self.videos[role] if video.name in files]
        if self.proposals is not None and training:
            there = [video for video in there if len(video.segments)]
        return FeatureViews(
            files,
            there,
            self.labelling.labels,
            steps,
            self.localizer.time,
            training=training and self.proposals is None,
            # In prediction each is seen once: nothing is gained by keeping it.
            memory_bytes=MEMORY_BYTES if training else 0,
        )

    def proposal_batches(self, files: FeatureFiles, role: str, *, training: bool) -> ProposalBatches:
        """Return the same videos with the proposals that are refined, one at a time in prediction."""
        assert self.proposals is not None  # noqa: S101 - a refiner has some
        fit = self.localizer.fit
        return ProposalBatches(
            self.views(files, role, 1, training=training),
            self.proposals,
            self.localizer.refine,
            batch_size=fit.batch_size if training else 1,
            workers=workers_for(self.device, fit.workers),
            seed=self.seed,
        )


def feature_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Train on a feature set, predict and score; stages that are finished are skipped."""
    hashes = file_hashes(files)
    seen = {key: digest for key, digest in what.inputs.items() if key != "class_scores"}
    missing = {
        role: [video.name for video in videos if video.name not in files] for role, videos in what.videos.items()
    }
    for role, names in missing.items():
        if names:
            total = len(what.videos[role])
            say(f"{files.paths[0]}: no features of {len(names)} of {total} {role} videos (first: {names[0]}).")

    def train(key: str) -> Mapping[str, object]:
        with progress(f"train {what.localizer.name} · {row.name}") as advance:
            figures = _train(what, files, folder / "train", key, advance)
        return {**figures, "missing_training_videos": len(missing["training"])}

    trained = run_stage(
        "train",
        folder / "train",
        what.train_settings(files),
        {**seen, **hashes},
        [LOCALIZER_FILE],
        train,
        shared=what.proposals is None,
    )
    weights = {**what.inputs, **hashes, "localizer": trained.outputs[LOCALIZER_FILE]}
    settings = what.shown_settings()

    def find(role: str) -> Predictions:
        with progress(f"predict · {row.name}") as advance:
            return _find(what, files, folder / "train", role, advance)

    if what.localizer.predict_training:
        _predict(what, folder, settings, weights, lambda: find("training"), PREDICT_TRAINING, "training")
    predicted = _predict(what, folder, settings, weights, lambda: find("validation"))
    _score(what, row, folder, predicted, what.labelling.signature)


def _train(what: Benchmark, files: FeatureFiles, folder: Path, key: str, advance: Advance) -> dict[str, object]:
    model = what.model(files)
    if what.proposals is None:
        views = what.views(files, "training", model.config.steps, training=True)
        return train_localizer(
            views, model, what.localizer, seed=what.seed, device=what.device, folder=folder, key=key, advance=advance
        )
    batches = what.proposal_batches(files, "training", training=True)
    return train_refiner(
        batches, model, what.localizer, seed=what.seed, device=what.device, folder=folder, key=key, advance=advance
    )


def _find(what: Benchmark, files: FeatureFiles, folder: Path, role: str, advance: Advance) -> Predictions:
    """Predict on a subset with the localizer whose weights are in ``folder``."""
    model, labelling = what.model(files), what.labelling_of(role)
    model.load_state_dict(read_weights(folder / LOCALIZER_FILE).features)
    model.to(what.device).eval()
    if what.proposals is not None:
        batches = what.proposal_batches(files, role, training=False)
        return refine(batches, model, labelling, what.device, advance)
    views = what.views(files, role, model.config.steps, training=False)
    fit = what.localizer.fit
    workers = workers_for(what.device, fit.workers)
    return predict(views, model, labelling, what.device, fit.batch_size, workers, advance)


def reference_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Score segments that follow from a video's duration alone.

    Args:
        what: the table.
        row: whose ``reference`` is a key of `UNTRAINED`.
        files: features, which say how long a video is where the annotations do not.
        folder: of the row.
    """

    def find() -> Predictions:
        videos = [video for video in what.videos["validation"] if video.name in files]
        found = []
        for video in videos:
            segments, scores = UNTRAINED[row.reference](files.duration(video.name, video.duration_seconds))
            classes = np.full(len(scores), -1)
            found.append(what.labelling.label(video.name, segments, scores, classes))
        return joined([video.name for video in videos], what.labelling.labels, found)

    predicted = _predict(what, folder, {"reference": row.reference}, {**what.inputs, **file_hashes(files)}, find)
    _score(what, row, folder, predicted, what.labelling.signature)


def upper_mark_row(what: Benchmark, row: Row, files: FeatureFiles, folder: Path) -> None:
    """Score the best that the localizer's grid can express: for each true segment the closest one, with its label.

    The grid of a refiner are the proposals that it is given, before it moves their boundaries.
    """

    def find() -> Predictions:
        views, grid_of = _grids(what, files)
        videos = {video.name: video for video in what.videos["validation"]}
        index = {label: k for k, label in enumerate(what.labelling.labels)}
        found = []
        for number, seen in itertools.groupby(views.views, key=lambda view: view.video):
            video, grid = videos[views.names[number]], grid_of(number)
            timelines = [view.timeline for view in seen]
            if grid is not None and not len(grid):
                found.append(NOTHING)
                continue
            segments, scores = closest_on_grid(video.segments, grid, timelines, views.durations[number])
            classes = np.array([index[label] for label in video.labels], dtype=np.int64)
            found.append(Detections(segments, scores, classes))
        return joined(views.names, what.labelling.labels, found)

    named = {"reference": row.reference, "localizer": what.localizer.name, "config": what.config(files)}
    settings = {**named, **what.shown_settings()}
    predicted = _predict(what, folder, settings, {**what.inputs, **file_hashes(files)}, find)
    _score(what, row, folder, predicted, TRUE_LABELS)


def _grids(what: Benchmark, files: FeatureFiles) -> tuple[FeatureViews, Callable[[int], Floats | None]]:
    """Return the scored videos, and of each what may be proposed of it, in steps; None: any segment."""
    if what.proposals is not None:
        batches = what.proposal_batches(files, "validation", training=False)
        given = {number: segments.double().numpy() for number, (segments, _) in batches.proposals.items()}
        return batches.views, lambda number: given.get(number, np.empty((0, 2)))
    model = what.model(files)
    grid = model.grid()
    steps = None if grid is None else grid.double().numpy()
    return what.views(files, "validation", model.config.steps, training=False), lambda _: steps


def _predict(
    what: Benchmark,
    folder: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    find: Callable[[], Predictions],
    verb: str = "predict",
    role: str = "validation",
) -> Record:
    def work(_key: str) -> Mapping[str, object]:
        predictions = find()
        write_predictions(folder / verb / PREDICTIONS_FILE, predictions)
        return {"videos": len(predictions.videos), "predictions": len(predictions)}

    complete = {**settings, **what.predict_settings(role)}
    return run_stage("predict", folder / verb, complete, inputs, [PREDICTIONS_FILE], work)


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
