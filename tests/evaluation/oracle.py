"""The official evaluations of detections and proposals, restated as plainly as possible and as slowly as need be."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.evaluation.helpers import PredictionRow, TruthRow


def average_precision(
    truth: Sequence[TruthRow], predictions: Sequence[PredictionRow], threshold: float, weights: Mapping[str, int]
) -> float:
    """Return the average precision of one class at one threshold; a video counts ``weights.get(name, 1)`` times."""
    ranked = sorted(predictions, key=lambda row: (-row[4], row[0], row[2], row[3]))
    locked: set[int] = set()
    hits: list[bool] = []
    for video, _, start, end, _ in ranked:
        options = [
            (-iou(start, end, row[2], row[3]), row[2], row[3], index)
            for index, row in enumerate(truth)
            if row[0] == video and index not in locked and iou(start, end, row[2], row[3]) >= threshold
        ]
        hits.append(bool(options))
        if options:
            locked.add(min(options)[3])
    repeats = [weights.get(row[0], 1) for row in ranked]
    true_positive = np.repeat(np.array(hits, dtype=float), repeats)
    positives = sum(weights.get(row[0], 1) for row in truth)
    recall = np.concatenate([[0.0], np.cumsum(true_positive) / positives, [1.0]])
    precision = np.concatenate([[0.0], np.cumsum(true_positive) / np.arange(1, len(true_positive) + 1), [0.0]])
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return float(np.sum(np.diff(recall) * precision[1:]))


def official_thumos14_average_precision(
    truth: Sequence[TruthRow], ambiguous: Sequence[TruthRow], predictions: Sequence[PredictionRow], threshold: float
) -> float:
    """Return the average precision of one class at one threshold by the rules of THUMOS Challenge 2014."""
    ranked = sorted(predictions, key=lambda row: (-row[4], row[0], row[2], row[3]))
    right: set[int] = set()
    for video, _, start, end in sorted(truth, key=lambda row: (row[2], row[3])):
        options = [
            (-iou(start, end, row[2], row[3]), index)
            for index, row in enumerate(ranked)
            if row[0] == video and index not in right and iou(start, end, row[2], row[3]) > threshold
        ]
        right |= {index for _, index in sorted(options)[:1]}
    forgiven = {
        index
        for index, row in enumerate(ranked)
        if any(other[0] == row[0] and iou(*other[2:4], *row[2:4]) > 0 for other in ambiguous)
    }
    verdicts = [index in right for index in range(len(ranked)) if index in right or index not in forgiven]
    curve = [(sum(verdicts[:count]), sum(verdicts[:count]) / count) for count in range(1, len(verdicts) + 1)]
    highest = [
        max([precision for found, precision in curve if 10 * found >= tenths * len(truth)], default=0.0)
        for tenths in range(11)
    ]
    return sum(highest) / 11


def recall_curve(
    truth: Sequence[TruthRow], proposals: Sequence[PredictionRow], thresholds: Sequence[float], budget: int
) -> NDArray[np.float64]:
    """Return the recall of proposals, of whatever label, at each threshold and each of 100 points up to ``budget``."""
    curve = np.zeros((len(thresholds), 100))
    videos = {row[0] for row in truth}
    kept: dict[str, list[PredictionRow]] = {}
    for video in videos if proposals else ():
        best = sorted((row for row in proposals if row[0] == video), key=lambda row: (-row[4], row[2], row[3]))
        kept[video] = best[: int(len(best) * (budget * float(len(videos)) / len(proposals)))]
    total = sum(len(rows) for rows in kept.values())
    for j in range(100 if total else 0):
        share = (j + 1) / 100.0 * (budget * float(len(videos)) / total)
        for k, threshold in enumerate(thresholds):
            for video, _, start, end in truth:
                used = kept[video][: int(len(kept[video]) * share)]
                curve[k, j] += start < end and any(iou(start, end, row[2], row[3]) >= threshold for row in used)
    return curve / len(truth)


def iou(start: float, end: float, other_start: float, other_end: float) -> float:
    """Return the temporal IoU of two segments; 1 for the same instant twice."""
    intersection = max(min(end, other_end) - max(start, other_start), 0.0)
    union = (end - start) + (other_end - other_start) - intersection
    return intersection / union if union else float(start == other_start)


def mean_average_precision(
    truth: Sequence[TruthRow],
    predictions: Sequence[PredictionRow],
    thresholds: Sequence[float],
    weights: Mapping[str, int],
) -> NDArray[np.float64]:
    """Return the mean over the classes of which a video with weight holds a segment, per threshold."""
    labels = sorted({row[1] for row in truth if weights.get(row[0], 1)})
    table = [
        [
            average_precision(
                [row for row in truth if row[1] == label],
                [row for row in predictions if row[1] == label],
                threshold,
                weights,
            )
            for threshold in thresholds
        ]
        for label in labels
    ]
    return np.array(table).mean(axis=0) if labels else np.full(len(thresholds), np.nan)


def order_of_equals(count: int) -> list[int]:
    """Return what NumPy's argsort, without vector instructions, makes of ``count`` equal numbers.

    It is a quicksort that exchanges equal elements and leaves parts of at most 16 as they are. With vector
    instructions NumPy returns another order, so that the official score of tied predictions depends on the processor.
    """
    order = list(range(count))
    parts = [(0, count - 1)]
    while parts:
        low, high = parts.pop()
        while high - low > 15:
            middle, left, right = low + (high - low) // 2, low, high - 1
            order[middle], order[right] = order[right], order[middle]
            while True:
                left, right = left + 1, right - 1
                if left >= right:
                    break
                order[left], order[right] = order[right], order[left]
            order[left], order[high - 1] = order[high - 1], order[left]
            if left - low < high - left:
                parts.append((left + 1, high))
                high = left - 1
            else:
                parts.append((low, left - 1))
                low = left + 1
    return order
