"""Scores: numpy, seconds; no torch, no printing.

A metric is two pure functions. ``statistics`` compares predictions with the ground truth and keeps what it found per
video; ``score`` turns that into numbers. A bootstrap over videos calls the second as often as it likes and the first
once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from evaluation import detection
from evaluation.detection import DetectionResult, DetectionStatistics
from evaluation.overlap import temporal_iou
from evaluation.protocols import PROTOCOLS, Protocol
from evaluation.segments import CLASS_AGNOSTIC, GroundTruth, Predictions
from evaluation.signature import ground_truth_hash, score_signature


@dataclass(frozen=True)
class Metric:
    """One row of ``METRICS``.

    Attributes:
        name: what the signature of a score calls it.
        statistics: (ground truth, predictions, protocol) → per-video arrays.
        score: (statistics) → result.
    """

    name: str
    statistics: Callable[[GroundTruth, Predictions, Protocol], DetectionStatistics]
    score: Callable[[DetectionStatistics], DetectionResult]


METRICS: dict[str, Metric] = {
    "tal": Metric("mAP", detection.statistics, detection.score),
}

__all__ = [
    "CLASS_AGNOSTIC",
    "METRICS",
    "PROTOCOLS",
    "DetectionResult",
    "DetectionStatistics",
    "GroundTruth",
    "Metric",
    "Predictions",
    "Protocol",
    "ground_truth_hash",
    "score_signature",
    "temporal_iou",
]
