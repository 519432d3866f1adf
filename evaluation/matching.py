"""Greedy one-to-one matching, compiled, with the tie rule.

The algorithm is that of the official ActivityNet detection evaluator (``eval_detection.py``): predictions come in the
order of their scores, and at every threshold each takes the segment of its video and class with the highest temporal
IoU among those that are still free and reach the threshold.

The official evaluator leaves ties to an unstable sort. Here they are decided:

- predictions of equal score come in the order of video name, start, end, label name;
- of segments with equal IoU the one that starts earliest is taken, then the one that ends earliest.

So the order of rows, videos and labels in the arguments changes nothing.
"""

import functools
from collections.abc import Callable

import numpy as np

from evaluation.segments import Booleans, Floats, GroundTruth, Integers, Predictions


def total_order(predictions: Predictions) -> Integers:
    """Return the indices that bring predictions into their fixed total order, int64 (N,).

    The highest score comes first; equal scores come in the order of video name, start, end and label name.
    """
    video = _ranks(predictions.videos)[predictions.video]
    # The last rank is where the label -1 of class-agnostic proposals lands.
    label = np.append(_ranks(predictions.labels), -1)[predictions.label]
    return np.lexsort((label, predictions.end, predictions.start, video, -predictions.score))


def match(ground_truth: GroundTruth, predictions: Predictions, order: Integers, thresholds: Floats) -> Booleans:
    """Match predictions to the segments of their video and class, independently at each threshold.

    Args:
        ground_truth: the annotated segments.
        predictions: N labelled predictions, aligned to ``ground_truth``; those of other videos match nothing.
        order: which prediction chooses first, second, …, int64 (N,).
        thresholds: lowest temporal IoU of a match, above 0, float64 (K,).

    Returns:
        Whether prediction ``order[i]`` has a match at threshold k, bool (N, K).
    """
    classes = len(ground_truth.labels)
    true_group = ground_truth.video * classes + ground_truth.label
    true_order = np.lexsort((ground_truth.end, ground_truth.start, true_group))
    true_group = true_group[true_order]
    group = predictions.video[order] * classes + predictions.label[order]
    return _compiled_loop()(
        np.column_stack((predictions.start, predictions.end))[order],
        np.searchsorted(true_group, group, side="left"),
        np.searchsorted(true_group, group, side="right"),
        np.column_stack((ground_truth.start, ground_truth.end))[true_order],
        thresholds,
    )


def _ranks(names: tuple[str, ...]) -> Integers:
    """Return the place of each name in alphabetical order, int64 (len(names),)."""
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks


@functools.cache
def _compiled_loop() -> Callable[..., Booleans]:
    """Return ``_match_loop`` as machine code, compiled once per installation."""
    # Importing numba takes most of a second, which `tspbench --help` has no reason to wait for.
    import numba  # noqa: PLC0415

    loop: Callable[..., Booleans] = numba.njit(cache=True)(_match_loop)
    return loop


def _match_loop(
    segments: Floats, first: Integers, last: Integers, true_segments: Floats, thresholds: Floats
) -> Booleans:
    """Let each prediction i in turn take, per threshold, the best free segment among ``first[i]`` … ``last[i] - 1``.

    The temporal IoU is that of ``evaluation.overlap``, to the last bit.
    """
    matched = np.zeros((len(segments), len(thresholds)), dtype=np.bool_)
    free = np.ones((len(true_segments), len(thresholds)), dtype=np.bool_)
    best = np.empty(len(thresholds), dtype=np.int64)
    best_iou = np.empty(len(thresholds), dtype=np.float64)
    for i in range(len(segments)):
        start, end = segments[i, 0], segments[i, 1]
        best[:] = -1
        best_iou[:] = 0.0
        for j in range(first[i], last[i]):
            true_start, true_end = true_segments[j, 0], true_segments[j, 1]
            intersection = max(min(end, true_end) - max(start, true_start), 0.0)
            union = (end - start) + (true_end - true_start) - intersection
            iou = intersection / union if union > 0.0 else 1.0 * (start == true_start)
            for k in range(len(thresholds)):
                if free[j, k] and iou >= thresholds[k] and iou > best_iou[k]:
                    best[k], best_iou[k] = j, iou
        for k in range(len(thresholds)):
            if best[k] >= 0:
                matched[i, k] = True
                free[best[k], k] = False
    return matched
