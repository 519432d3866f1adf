"""One line that identifies a score.

Two scores can be compared only if their signatures are equal: same metric, rules, ground truth and version.
"""

import hashlib
import json

from evaluation.matching import TIE_RULE
from evaluation.protocols import Protocol
from evaluation.segments import GroundTruth


def score_signature(metric: str, protocol: Protocol, ground_truth: GroundTruth, version: str) -> str:
    """Return the signature of a score by ``metric`` on ``ground_truth``, computed by tspbench ``version``.

    The fields are: metric, protocol, thresholds, interpolation, tie rule, number of videos, number of annotated
    segments, the hash of the ground truth, version.
    """
    thresholds = ",".join(f"{threshold:.2f}" for threshold in protocol.thresholds)
    fields = (
        metric,
        f"protocol:{protocol.name}",
        f"tIoU:{protocol.comparison}{thresholds}",
        f"AP:{protocol.interpolation}",
        f"ties:{TIE_RULE if protocol.ties == 'fixed' else protocol.ties}",
        f"videos:{len(ground_truth.videos)}",
        f"segments:{len(ground_truth)}",
        f"truth:{ground_truth_hash(ground_truth)}",
        f"tspbench:{version}",
    )
    return "|".join(fields)


def ground_truth_hash(ground_truth: GroundTruth) -> str:
    """Return eight hexadecimal digits of the SHA-256 of the videos and segments, whatever their order.

    Classes without a segment are left out: they do not change a score.
    """
    # Adding 0.0 makes -0.0, which compares equal to 0.0, also print like it.
    segments = sorted(
        (ground_truth.videos[video], start + 0.0, end + 0.0, ground_truth.labels[label])
        for video, start, end, label in zip(
            ground_truth.video.tolist(),
            ground_truth.start.tolist(),
            ground_truth.end.tolist(),
            ground_truth.label.tolist(),
            strict=True,
        )
    )
    content = json.dumps([sorted(ground_truth.videos), segments])
    return hashlib.sha256(content.encode()).hexdigest()[:8]
