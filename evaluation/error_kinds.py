"""Each detection as a true positive or one of five kinds of false positive (DETAD).

A detection that is matched is a true positive. Another is judged by the segment of its video, of any class and already
matched or not, with which it has the highest tIoU m:

    ===================  ================  =============
    m                    of its own class  another class
    ===================  ================  =============
    threshold or more    double detection  wrong label
    0.1 or more          localization      confusion
    less, or none        background        background
    ===================  ================  =============

Decided here:

- of segments of equal tIoU, one of the detection's own class gives its m. (DETAD's code takes the one that its file
  has first, which matters on THUMOS14, where CliffDiving and Diving share most of their segments.)
- a detection of a video that the ground truth lacks is a background error;
- which detection chooses first, and which segment it takes, is decided as in ``evaluation.matching``.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.compiled import compiled
from evaluation.matching import ranked
from evaluation.protocols import DetectionProtocol
from evaluation.segments import Booleans, Floats, GroundTruth, Integers, Predictions

KINDS: Final = ("true_positive", "double_detection", "wrong_label", "localization", "confusion", "background")
TRUE_POSITIVE, DOUBLE_DETECTION, WRONG_LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(len(KINDS))
LOWEST_TIOU: Final = 0.1


@dataclass(frozen=True, eq=False)
class JudgedDetections:
    """N detections, sorted by class and then by who matches first, at K thresholds.

    Attributes:
        label: index of the class, int64 (N,).
        rank: place within the class, from 0, int64 (N,).
        match: index of the segment that row i takes at threshold k, -1 if none, int64 (N, K).
        kind: index into ``KINDS``, int64 (N, K).
    """

    label: Integers
    rank: Integers
    match: Integers
    kind: Integers


def judge(truth: GroundTruth, predictions: Predictions, protocol: DetectionProtocol) -> JudgedDetections:
    """Match detections to segments at the thresholds of ``protocol``, and judge them.

    Args:
        truth: segments, none of length 0.
        predictions: N labelled predictions, aligned to ``truth``.
        protocol: its thresholds and ties.
    """
    thresholds = np.array(protocol.thresholds)
    order = ranked(predictions, predictions.label, protocol.ties)
    label = predictions.label[order]
    match, tiou, own = _match(truth, predictions, order, thresholds)
    kind = np.where(
        tiou[:, None] >= thresholds,
        np.where(own, DOUBLE_DETECTION, WRONG_LABEL)[:, None],
        np.where(tiou < LOWEST_TIOU, BACKGROUND, np.where(own, LOCALIZATION, CONFUSION))[:, None],
    )
    kind[match >= 0] = TRUE_POSITIVE
    return JudgedDetections(label, np.arange(len(label)) - np.searchsorted(label, label), match, kind)


def _match(
    truth: GroundTruth, predictions: Predictions, order: Integers, thresholds: Floats
) -> tuple[Integers, Floats, Booleans]:
    """Match predictions to segments, independently at each of K thresholds, and compare each with its whole video.

    Returns:
        Which segment prediction ``order[i]`` takes at threshold k, -1 if none, int64 (N, K); its highest temporal IoU
        with any segment of its video, 0 without one, float64 (N,); whether such a segment is of its class, bool (N,).
    """
    true_order = np.lexsort((truth.end, truth.start, truth.video))
    true_video = truth.video[true_order]
    video = predictions.video[order]
    match, tiou, own = compiled(_match_loop)(
        np.column_stack((predictions.start, predictions.end))[order],
        predictions.label[order],
        np.searchsorted(true_video, video, side="left"),
        np.searchsorted(true_video, video, side="right"),
        np.column_stack((truth.start, truth.end))[true_order],
        truth.label[true_order],
        thresholds,
    )
    # The last entry is where the index -1 of no match lands.
    return np.append(true_order, -1)[match], tiou, own


def _match_loop(
    segments: Floats,
    label: Integers,
    first: Integers,
    last: Integers,
    true_segments: Floats,
    true_label: Integers,
    thresholds: Floats,
) -> tuple[Integers, Floats, Booleans]:
    """Let each prediction i in turn take, per threshold, the best free segment of its class in its video.

    The segments of its video are ``first[i]`` … ``last[i] - 1``, none of length 0; the temporal IoU is that of
    ``evaluation.overlap``, to the last bit.
    """
    match = np.full((len(segments), len(thresholds)), -1)
    highest = np.zeros(len(segments))
    own = np.zeros(len(segments), dtype=np.bool_)
    free = np.ones((len(true_segments), len(thresholds)), dtype=np.bool_)
    best_iou = np.empty(len(thresholds), dtype=np.float64)
    for i in range(len(segments)):
        start, end = segments[i, 0], segments[i, 1]
        best_iou[:] = 0.0
        for j in range(first[i], last[i]):
            true_start, true_end = true_segments[j, 0], true_segments[j, 1]
            intersection = max(min(end, true_end) - max(start, true_start), 0.0)
            iou = intersection / ((end - start) + (true_end - true_start) - intersection)
            same = label[i] == true_label[j]
            if iou > highest[i] or (iou == highest[i] and same):
                highest[i], own[i] = iou, same
            for k in range(len(thresholds)):
                if same and free[j, k] and iou >= thresholds[k] and iou > best_iou[k]:
                    match[i, k], best_iou[k] = j, iou
        for k in range(len(thresholds)):
            if match[i, k] >= 0:
                free[match[i, k], k] = False
    return match, highest, own
