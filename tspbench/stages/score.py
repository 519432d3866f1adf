"""Score predictions against a ground truth; needs no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import DETECTION_PROTOCOLS, METRICS, score_signature
from evaluation.detection import OUTSIDE, DetectionResult, DetectionStatistics
from evaluation.protocols import DetectionProtocol
from evaluation.segments import GroundTruth, Predictions
from tspbench import __version__
from tspbench.config import choose
from tspbench.storage.annotations import read_annotations, read_labels
from tspbench.storage.atomic import write_json
from tspbench.storage.predictions import read_predictions


@dataclass(frozen=True)
class ScoreReport:
    """What ``tspbench score --json`` writes.

    Attributes:
        task: key of ``evaluation.METRICS``.
        protocol: key of ``evaluation.DETECTION_PROTOCOLS``.
        metrics: fractions by name, such as "mAP@0.50" and "average_mAP".
        counts: what was scored and what was not, see ``score_tal``.
        signature: two reports can be compared only if theirs are equal.
    """

    task: str
    protocol: str
    metrics: dict[str, float]
    counts: dict[str, int]
    signature: str


class TalScore(NamedTuple):
    """A temporal action localization score with all that explains it."""

    result: DetectionResult
    statistics: DetectionStatistics
    counts: dict[str, int]
    signature: str


def score_files(
    task: str,
    predictions: Path,
    ground_truth: Path,
    subset: str,
    protocol: str,
    *,
    json_out: Path | None = None,
    labels: Path | None = None,
) -> ScoreReport:
    """Score a submission file against an annotation file.

    Args:
        task: key of ``evaluation.METRICS``.
        predictions: ActivityNet submission, .json or .json.gz.
        ground_truth: ActivityNet annotations, .json or .json.gz.
        subset: the subset of ``ground_truth`` to score on, such as "validation".
        protocol: key of ``evaluation.DETECTION_PROTOCOLS``.
        json_out: where to write the report, if anywhere.
        labels: list of the classes (JSON list or .txt); every label of ``ground_truth`` if None.

    Raises:
        UserError: a name is unknown or a file does not fit; one sentence that says what to do.
    """
    choose("task", task, METRICS)
    choose("protocol", protocol, DETECTION_PROTOCOLS)
    classes = None if labels is None else read_labels(labels)
    truth = read_annotations(ground_truth).ground_truth(subset, classes)
    scored = score_tal(truth, read_predictions(predictions, truth), DETECTION_PROTOCOLS[protocol])
    report = ScoreReport(task, protocol, scored.result.metrics(), scored.counts, scored.signature)
    if json_out is not None:
        write_json(json_out, asdict(report))
    return report


def score_tal(ground_truth: GroundTruth, predictions: Predictions, protocol: DetectionProtocol) -> TalScore:
    """Score labelled predictions that are in memory.

    The counts are: ``videos`` of the subset, ``missing_videos`` of them that have no prediction (each of their
    segments counts as missed), ``ground_truth`` segments and ``zero_length_ground_truth`` among them, ``labels`` and
    those ``labels_without_ground_truth`` (left out of the mean) or ``labels_without_predictions`` (which count 0) among
    them, ``predictions``, and ``predictions_outside_subset`` among them (false positives, of ``videos_outside_subset``
    videos).

    Raises:
        ValueError: a prediction has no label, or one that ``ground_truth`` does not know.
    """
    metric = METRICS["tal"]
    statistics = metric.statistics(ground_truth, predictions, protocol)
    result = metric.score(statistics)
    signature = score_signature(metric.name, protocol, ground_truth, __version__)
    return TalScore(result, statistics, _counts(ground_truth, predictions, statistics, result), signature)


def _counts(
    ground_truth: GroundTruth, predictions: Predictions, statistics: DetectionStatistics, result: DetectionResult
) -> dict[str, int]:
    outside = statistics.video == OUTSIDE
    predicted_videos = len(np.unique(statistics.video[~outside]))
    predicted_labels = np.unique(statistics.label)
    held_labels = np.unique(ground_truth.label)
    return {
        "videos": len(ground_truth.videos),
        "missing_videos": len(ground_truth.videos) - predicted_videos,
        "videos_outside_subset": len(np.unique(predictions.video)) - predicted_videos,
        "ground_truth": len(ground_truth),
        "zero_length_ground_truth": int(np.count_nonzero(ground_truth.start == ground_truth.end)),
        "labels": len(ground_truth.labels),
        "labels_without_ground_truth": len(result.undefined_labels),
        "labels_without_predictions": len(np.setdiff1d(held_labels, predicted_labels)),
        "predictions": len(predictions),
        "predictions_outside_subset": int(np.count_nonzero(outside)),
    }
