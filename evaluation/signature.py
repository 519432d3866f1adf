"""One line that identifies a score.

Two scores can be compared only if their signatures are equal: same metric, rules, ground truth and version.
"""

import hashlib
import json
from collections.abc import Sequence

from evaluation.captions import Captions, all_videos
from evaluation.protocols import DetectionProtocol, Protocol, SegmentProtocol
from evaluation.segments import GroundTruth

Truth = GroundTruth | Sequence[Captions]


def score_signature(metric: str, protocol: Protocol, ground_truth: Truth, version: str) -> str:
    """Return the signature of a score by ``metric`` on ``ground_truth``, computed by tspbench ``version``.

    The fields are: metric, the rules of the protocol, number of videos, number of annotated segments, the hash of
    the ground truth (both without what the protocol excludes), version.

    Args:
        metric: its name in ``METRICS``.
        protocol: its rules.
        ground_truth: annotated segments, or the reference files of captions.
        version: of the code.
    """
    if isinstance(ground_truth, GroundTruth):
        scoped = protocol.scoped(ground_truth) if isinstance(protocol, SegmentProtocol) else ground_truth
        videos, segments, digest = len(scoped.videos), len(scoped), ground_truth_hash(scoped)
        if isinstance(protocol, DetectionProtocol) and protocol.matching == "segment":
            # Where detections on ignored segments are forgiven, these decide the score, too.
            digest += "+" + ground_truth_hash(protocol.ignored(ground_truth))
    else:
        videos, segments = len(all_videos(ground_truth)), sum(len(file) for file in ground_truth)
        digest = references_hash(ground_truth)
    counts = (f"videos:{videos}", f"segments:{segments}", f"truth:{digest}")
    return "|".join((metric, *protocol.rules(), *counts, f"tspbench:{version}"))


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
    return _digest([sorted(ground_truth.videos), segments])


def references_hash(references: Sequence[Captions]) -> str:
    """Return eight hexadecimal digits of the SHA-256 of reference files, whatever the order of files and rows."""
    files = [
        sorted(
            (file.videos[video], start + 0.0, end + 0.0, sentence)
            for video, start, end, sentence in zip(
                file.video.tolist(), file.start.tolist(), file.end.tolist(), file.sentences, strict=True
            )
        )
        for file in references
    ]
    return _digest([all_videos(references), sorted(files)])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
