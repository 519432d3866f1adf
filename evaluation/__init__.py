"""Scores: numpy, seconds; no torch, no printing.

A metric is two pure functions. ``statistics`` compares predictions with the ground truth and keeps what it found per
video; ``score`` turns that into numbers. A bootstrap over videos calls the second as often as it likes and the first
once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluation import captioning, detection, proposals
from evaluation.captioning import CaptionResult, CaptionStatistics
from evaluation.captions import Captions
from evaluation.detection import DetectionResult, DetectionStatistics
from evaluation.overlap import temporal_iou
from evaluation.proposals import ProposalResult, ProposalStatistics
from evaluation.protocols import (
    CAPTIONING_PROTOCOLS,
    DETECTION_PROTOCOLS,
    PROPOSAL_PROTOCOLS,
    PROTOCOLS,
    CaptioningProtocol,
    DetectionProtocol,
    ProposalProtocol,
    Protocol,
)
from evaluation.segments import CLASS_AGNOSTIC, GroundTruth, Predictions
from evaluation.signature import ground_truth_hash, references_hash, score_signature
from evaluation.video_sets import VIDEO_SETS, VideoSet


@dataclass(frozen=True)
class Metric:
    """One row of ``METRICS``; the types are those of its module.

    Attributes:
        name: what the signature of a score calls it.
        statistics: (ground truth, predictions, protocol) → per-video arrays, which have ``videos``.
        score: (statistics, video_weights=None) → result, which has ``metrics()``: name → fraction.
    """

    name: str
    statistics: Callable[[Any, Any, Any], Any]
    score: Callable[..., Any]


METRICS: dict[str, Metric] = {
    "tal": Metric("mAP", detection.statistics, detection.score),
    "proposals": Metric("AR@AN", proposals.statistics, proposals.score),
    "captioning": Metric("captions", captioning.statistics, captioning.score),
}

__all__ = [
    "CAPTIONING_PROTOCOLS",
    "CLASS_AGNOSTIC",
    "DETECTION_PROTOCOLS",
    "METRICS",
    "PROPOSAL_PROTOCOLS",
    "PROTOCOLS",
    "VIDEO_SETS",
    "CaptionResult",
    "CaptionStatistics",
    "CaptioningProtocol",
    "Captions",
    "DetectionProtocol",
    "DetectionResult",
    "DetectionStatistics",
    "GroundTruth",
    "Metric",
    "Predictions",
    "ProposalProtocol",
    "ProposalResult",
    "ProposalStatistics",
    "Protocol",
    "VideoSet",
    "ground_truth_hash",
    "references_hash",
    "score_signature",
    "temporal_iou",
]
