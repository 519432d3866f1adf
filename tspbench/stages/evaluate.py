"""Feature sets → trained, predicted and scored rows of one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.batches import FeatureVideos
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.stages.predict import predict
from tspbench.stages.score import score, score_intervals
from tspbench.stages.stage import run_stage
from tspbench.stages.train import (
    LOCALIZER_FILE,
    LocalizerSettings,
    localizer_config,
    new_localizer,
    train_localizer,
)
from tspbench.storage.annotations import VideoAnnotations, read_annotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.class_scores import ClassScores, read_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file
from tspbench.storage.predictions import read_predictions, write_predictions
from tspbench.storage.runs import Row, Run, write_run
from tspbench.storage.statistics import write_statistics

PREDICTIONS_FILE: Final = "predictions.json.gz"
STATISTICS_FILE: Final = "statistics.npz"
AGNOSTIC_LABEL: Final = "action"  # every class, where no class scores are given


@dataclass(frozen=True)
class Evaluation:
    """One table: the same localizer, seed and video-level class scores on several feature sets.

    Args:
        dataset: with the splits "training" and "validation".
        localizer: what is trained on each feature set.
        class_scores: file of video-level class scores, the same for every row; None: class-agnostic scores.
        seed: of the localizer.
        device: torch device.
        out: folder of the run.
    """

    dataset: Dataset
    localizer: LocalizerSettings
    class_scores: Path | None
    seed: int
    device: str
    out: Path

    def inputs(self) -> dict[str, str]:
        """Return the hashes of what every row shares."""
        shared = {"annotations": hash_file(self.dataset.annotations)}
        return shared if self.class_scores is None else {**shared, "class_scores": hash_file(self.class_scores)}


def evaluate_tal(what: Evaluation, rows: Mapping[str, Sequence[Path]], title: str, notes: Sequence[str]) -> None:
    """Train, predict and score each feature set, and keep everything below ``what.out``.

    Rows that are finished are skipped. The run's manifest is written first, so that a table can be made at any time.

    Args:
        what: everything that the rows share.
        rows: name of the row → its H5 files.
        title: heading of the table.
        notes: sentences below the table.

    Raises:
        UserError: a mistake in settings or files; those that can be seen from the outside are found before any work.
    """
    _check(what, rows)
    told = "none: class-agnostic scores" if what.class_scores is None else f"top {what.localizer.top_labels} classes"
    facts = {
        "dataset": what.dataset.name,
        "protocol": what.dataset.protocol,
        "localizer": what.localizer.name,
        "video-level labels": told,
        "selection": f"{what.localizer.fit.select} epoch",
        "seed": str(what.seed),
    }
    run = Run("tal", title, [Row(name, f"rows/{slug(name)}") for name in rows], facts, list(notes))
    write_run(what.out, run)
    for row, paths in zip(run.rows, rows.values(), strict=True):
        _evaluate_row(what, row.name, FeatureFiles(paths), what.out / row.folder)


def slug(name: str) -> str:
    """Return a row's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"


def _check(what: Evaluation, rows: Mapping[str, Sequence[Path]]) -> None:
    """Find mistakes now that would otherwise wait for the rows before theirs to be trained."""
    folders: dict[str, str] = {}
    for name in rows:
        other = folders.setdefault(slug(name), name)
        if other != name:
            raise UserError(f"The rows {other!r} and {name!r} would share the folder {slug(name)!r}: rename one.")
    for paths in rows.values():
        localizer_config(what.localizer, FeatureFiles(paths).feature_dim)
    if what.class_scores is not None:
        read_class_scores(what.class_scores)


def _evaluate_row(what: Evaluation, name: str, files: FeatureFiles, folder: Path) -> None:
    """Run the stages train, predict and score of one row."""
    annotations = read_annotations(what.dataset.annotations)
    agnostic = what.class_scores is None
    videos = {
        role: [_agnostic(video) if agnostic else video for video in annotations.subset(what.dataset.subset(role))]
        for role in ("training", "validation")
    }
    labels = (AGNOSTIC_LABEL,) if agnostic else annotations.labels
    settings = {**what.localizer.model_dump(mode="json"), "seed": what.seed}
    inputs = {**what.inputs(), **{f"features {k}": hash_file(path) for k, path in enumerate(files.paths)}}

    def train(key: str) -> Mapping[str, object]:
        model = new_localizer(what.localizer, files.feature_dim, what.seed)
        there = _with_features(videos["training"], files, "training")
        prepared = FeatureVideos(files, there, labels, model.config.steps)
        with progress(f"train {what.localizer.name} · {name}") as advance:
            return train_localizer(
                prepared,
                model,
                what.localizer,
                seed=what.seed,
                device=what.device,
                folder=folder / "train",
                key=key,
                advance=advance,
            )

    trained = run_stage("train", folder / "train", settings, inputs, [LOCALIZER_FILE], train)

    def find(_key: str) -> Mapping[str, object]:
        model = new_localizer(what.localizer, files.feature_dim, what.seed)
        model.load_state_dict(read_weights(folder / "train" / LOCALIZER_FILE).features)
        there = _with_features(videos["validation"], files, "validation")
        prepared = FeatureVideos(files, there, labels, model.config.steps)
        scores: ClassScores | None = None if what.class_scores is None else read_class_scores(what.class_scores)
        with progress(f"predict · {name}") as advance:
            predictions = predict(
                prepared,
                model.to(what.device).eval(),
                labels,
                scores,
                what.localizer.top_labels,
                what.device,
                what.localizer.fit.batch_size,
                advance,
            )
        write_predictions(folder / "predict" / PREDICTIONS_FILE, predictions)
        return {"videos": len(prepared), "predictions": len(predictions)}

    weights = {**inputs, "localizer": trained.outputs[LOCALIZER_FILE]}
    predicted = run_stage("predict", folder / "predict", settings, weights, [PREDICTIONS_FILE], find)

    def rate(_key: str) -> Mapping[str, object]:
        protocol = DETECTION_PROTOCOLS[what.dataset.protocol]
        truth = annotations.ground_truth(what.dataset.subset("validation"))
        if agnostic:
            truth = replace(truth, labels=labels, label=np.zeros_like(truth.label))
        found = read_predictions(folder / "predict" / PREDICTIONS_FILE, truth)
        scored = score("tal", truth, found, protocol)
        write_statistics(folder / "score" / STATISTICS_FILE, scored.statistics, scored.signature)
        with progress(f"resample · {name}") as advance:
            intervals = score_intervals("tal", scored, advance)
        return {
            "metrics": scored.result.metrics(),
            "intervals": intervals,
            "counts": scored.counts,
            "signature": scored.signature,
        }

    files_in = {"annotations": inputs["annotations"], "predictions": predicted.outputs[PREDICTIONS_FILE]}
    protocol_settings = {"protocol": what.dataset.protocol, "class_agnostic": agnostic}
    run_stage("score", folder / "score", protocol_settings, files_in, [STATISTICS_FILE], rate)


def _agnostic(video: VideoAnnotations) -> VideoAnnotations:
    return replace(video, labels=(AGNOSTIC_LABEL,) * len(video.labels))


def _with_features(videos: Sequence[VideoAnnotations], files: FeatureFiles, role: str) -> list[VideoAnnotations]:
    """Return the videos that have features; the others are counted aloud (in the score they count as missed)."""
    there = [video for video in videos if video.name in files.videos]
    if not there:
        raise UserError(
            f"{files.paths[0]} has features of none of the {len(videos)} {role} videos (its first entry is "
            f"{min(files.videos)!r}, the first video {videos[0].name!r}): give the features of this data set."
        )
    if len(there) < len(videos):
        gone = next(video.name for video in videos if video.name not in files.videos)
        missing = len(videos) - len(there)
        say(f"{files.paths[0]}: no features of {missing} of {len(videos)} {role} videos (first: {gone}).")
    return there
