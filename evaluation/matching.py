"""Greedy one-to-one matching, compiled, with the tie rule.

Two ways, each at every threshold on its own:

- ``match`` is that of the official ActivityNet detection evaluator (``eval_detection.py``): predictions come in the
  order of their scores, and each takes the segment of its video and class with the highest temporal IoU among those
  that are still free and reach the threshold;
- ``match_by_segment`` is that of THUMOS Challenge 2014 (``TH14eventdetpr.m``): each segment in turn takes the still
  free prediction of its video and class with the highest temporal IoU, if that is above the threshold.

The official evaluators leave ties to the order of the file, some to an unstable sort. Here they are decided:

- predictions of equal score come in the order of video name, start, end, label name;
- of segments with equal IoU the one that starts earliest is taken, then the one that ends earliest, and in this order
  segments take predictions;
- of predictions with equal IoU the first is taken.

So the order of rows, videos and labels in the arguments changes nothing. The temporal IoU is that of
``evaluation.overlap``, to the last bit.
"""

import numpy as np

from evaluation.compiled import compiled
from evaluation.file_order import file_order
from evaluation.protocols import Ties
from evaluation.segments import Booleans, Floats, GroundTruth, Integers, Predictions


def ranked(predictions: Predictions, group: Integers, ties: Ties) -> Integers:
    """Return the indices that sort predictions by group, and within a group by who comes first, int64 (N,).

    Args:
        predictions: N predictions.
        group: label or video of each prediction, int64 (N,).
        ties: the order of equal scores in a group: "fixed" as in ``total_order``, "file" as in ``file_order``.
    """
    if ties == "file":
        return file_order(predictions.score, group)
    order = total_order(predictions)
    return order[np.argsort(group[order], kind="stable")]


def total_order(predictions: Predictions) -> Integers:
    """Return the indices that bring predictions into their fixed total order, int64 (N,).

    The highest score comes first; equal scores come in the order of video name, start, end and label name.
    """
    order = np.argsort(-predictions.score, kind="stable")
    score = predictions.score[order]
    equal = score[1:] == score[:-1]
    # Few are equal, as a rule: sorting those alone by all that breaks ties takes a quarter of the time.
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    video = _name_ranks(predictions.videos)[predictions.video[rows]]
    # The last rank is where the label -1 of class-agnostic proposals lands.
    label = np.append(_name_ranks(predictions.labels), -1)[predictions.label[rows]]
    order[tied] = rows[np.lexsort((label, predictions.end[rows], predictions.start[rows], video, -score[tied]))]
    return order


def match(ground_truth: GroundTruth, predictions: Predictions, order: Integers, thresholds: Floats) -> Booleans:
    """Let each prediction in turn take the best free segment of its video and class that reaches the threshold.

    Args:
        ground_truth: the annotated segments.
        predictions: N labelled predictions, aligned to ``ground_truth``; those of other videos match nothing.
        order: which prediction chooses first, second, …, int64 (N,).
        thresholds: lowest temporal IoU of a match, above 0, float64 (K,).

    Returns:
        Whether prediction ``order[i]`` has a match at threshold k, bool (N, K).
    """
    true_group, group = _groups(ground_truth, predictions)
    true_order = np.lexsort((ground_truth.end, ground_truth.start, true_group))
    true_group, group = true_group[true_order], group[order]
    matched: Booleans = compiled(_match_loop, _iou)(
        _times(predictions)[order],
        np.searchsorted(true_group, group, side="left"),
        np.searchsorted(true_group, group, side="right"),
        _times(ground_truth)[true_order],
        thresholds,
    )
    return matched


def match_by_segment(
    ground_truth: GroundTruth, predictions: Predictions, order: Integers, thresholds: Floats
) -> Booleans:
    """Let each segment in turn take the best free prediction of its video and class, if it is above the threshold.

    Args:
        ground_truth: the annotated segments; they choose in the order of start, then end.
        predictions: N labelled predictions, aligned to ``ground_truth``; those of other videos match nothing.
        order: which prediction is taken first where temporal IoUs are equal, int64 (N,).
        thresholds: what the temporal IoU of a match exceeds, 0 or more, float64 (K,).

    Returns:
        Whether prediction ``order[i]`` has a match at threshold k, bool (N, K).
    """
    true_group, group = _groups(ground_truth, predictions)
    true_order = np.lexsort((ground_truth.end, ground_truth.start, true_group))
    true_group, group = true_group[true_order], group[order]
    place = np.argsort(group, kind="stable")
    matched = np.empty((len(order), len(thresholds)), dtype=np.bool_)
    matched[place] = compiled(_match_by_segment_loop, _iou)(
        _times(ground_truth)[true_order],
        np.searchsorted(group[place], true_group, side="left"),
        np.searchsorted(group[place], true_group, side="right"),
        _times(predictions)[order[place]],
        thresholds,
    )
    return matched


def _groups(ground_truth: GroundTruth, predictions: Predictions) -> tuple[Integers, Integers]:
    """Return one number for each pair of video and class, of the segments (M,) and of the predictions (N,)."""
    classes = len(ground_truth.labels)
    return ground_truth.video * classes + ground_truth.label, predictions.video * classes + predictions.label


def _times(segments: GroundTruth | Predictions) -> Floats:
    """Return [start, end) in seconds, float64 (N, 2)."""
    return np.column_stack((segments.start, segments.end))


def _name_ranks(names: tuple[str, ...]) -> Integers:
    """Return the place of each name in alphabetical order, int64 (len(names),)."""
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks


def _iou(segment: Floats, other: Floats) -> float:
    """Return the temporal IoU of two segments, float64 (2,) each."""
    intersection = max(min(segment[1], other[1]) - max(segment[0], other[0]), 0.0)
    union = (segment[1] - segment[0]) + (other[1] - other[0]) - intersection
    iou: float = intersection / union if union > 0.0 else 1.0 * (segment[0] == other[0])
    return iou


def _match_loop(
    segments: Floats, first: Integers, last: Integers, true_segments: Floats, thresholds: Floats
) -> Booleans:
    """Let each prediction i in turn take, per threshold, the best free segment among ``first[i]`` … ``last[i] - 1``."""
    matched = np.zeros((len(segments), len(thresholds)), dtype=np.bool_)
    free = np.ones((len(true_segments), len(thresholds)), dtype=np.bool_)
    best = np.empty(len(thresholds), dtype=np.int64)
    best_iou = np.empty(len(thresholds), dtype=np.float64)
    for i in range(len(segments)):
        best[:] = -1
        best_iou[:] = 0.0
        for j in range(first[i], last[i]):
            iou = _iou(segments[i], true_segments[j])
            for k in range(len(thresholds)):
                if free[j, k] and iou >= thresholds[k] and iou > best_iou[k]:
                    best[k], best_iou[k] = j, iou
        for k in range(len(thresholds)):
            if best[k] >= 0:
                matched[i, k] = True
                free[best[k], k] = False
    return matched


def _match_by_segment_loop(
    true_segments: Floats, first: Integers, last: Integers, segments: Floats, thresholds: Floats
) -> Booleans:
    """Let each segment j in turn take, per threshold, the best free prediction among ``first[j]`` … ``last[j] - 1``."""
    matched = np.zeros((len(segments), len(thresholds)), dtype=np.bool_)
    best = np.empty(len(thresholds), dtype=np.int64)
    best_iou = np.empty(len(thresholds), dtype=np.float64)
    for j in range(len(true_segments)):
        best[:] = -1
        best_iou[:] = thresholds
        for i in range(first[j], last[j]):
            iou = _iou(segments[i], true_segments[j])
            for k in range(len(thresholds)):
                if not matched[i, k] and iou > best_iou[k]:
                    best[k], best_iou[k] = i, iou
        for k in range(len(thresholds)):
            if best[k] >= 0:
                matched[best[k], k] = True
    return matched
