"""Temporal IoU.

Two segments that share nothing have IoU 0. Two segments of length zero have the undefined ratio 0 / 0: it is taken as 1
when they are the same instant and as 0 otherwise, so that perfect predictions of annotations that hold such segments
still score 1. (The official ActivityNet evaluator computes nan there, and nan passes each of its thresholds.)
"""

import numpy as np

from evaluation.segments import Floats


def temporal_iou(first: Floats, second: Floats) -> Floats:
    """Return the intersection over union of every pair of segments.

    Args:
        first: [start, end) in seconds, float64 (N, 2).
        second: [start, end) in seconds, float64 (M, 2).

    Returns:
        Values in [0, 1], float64 (N, M).

    Raises:
        ValueError: an argument is not of shape (·, 2).
    """
    for name, segments in (("first", first), ("second", second)):
        if segments.ndim != 2 or segments.shape[1] != 2:
            raise ValueError(f"{name} must be of shape (·, 2), received {segments.shape}.")
    start_1, end_1 = first[:, 0, None], first[:, 1, None]
    start_2, end_2 = second[None, :, 0], second[None, :, 1]
    intersection = np.maximum(np.minimum(end_1, end_2) - np.maximum(start_1, start_2), 0.0)
    # In this order of operations the union of a segment with itself is exactly its length.
    union = (end_1 - start_1) + (end_2 - start_2) - intersection
    same_instant = (union == 0.0) & (start_1 == start_2)
    iou: Floats = np.where(same_instant, 1.0, intersection / np.where(union > 0.0, union, 1.0))
    return iou
