"""Class-agnostic proposals × video-level class scores → labelled detections."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Floats = NDArray[np.float64]


class Detections(NamedTuple):
    """Labelled segments of one video: (N, 2) segments, (N,) scores, (N,) indices of labels."""

    segments: Floats
    scores: Floats
    labels: NDArray[np.int64]


def mean_clip_probabilities(
    rows: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> Floats:
    """Return the (classes,) mean over a video's clips of an action head's class probabilities.

    Args:
        rows: (T, D) clip features.
        weight: (classes, D) of the head.
        bias: (classes,) of the head.
    """
    logits = rows.astype(np.float64) @ weight.T.astype(np.float64) + bias
    return np.asarray(softmax(logits, axis=1).mean(axis=0), dtype=np.float64)


def label_proposals(segments: Floats, scores: Floats, class_scores: Floats, top: int) -> Detections:
    """Give every proposal the ``top`` classes of its video, each time with the product of both scores.

    Args:
        segments: (N, 2).
        scores: (N,) of the proposals.
        class_scores: (classes,) of the video.
        top: how many classes a video gets: 2 in G-TAD's gtad_postprocess.py and most others.
    """
    order = np.argsort(-class_scores, kind="stable")[:top]
    return Detections(
        np.repeat(segments, len(order), axis=0),
        (scores[:, None] * class_scores[order][None, :]).ravel(),
        np.tile(order, len(segments)).astype(np.int64),
    )
