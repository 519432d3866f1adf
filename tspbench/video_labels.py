"""Class-agnostic proposals × video-level class scores → labelled detections."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tspbench.storage.class_scores import ClassScores

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ANY_ACTION: Final = "action"  # the one label where classes are not told apart


class Detections(NamedTuple):
    """Labelled segments of one video: (N, 2) segments, (N,) scores, (N,) indices of labels."""

    segments: Floats
    scores: Floats
    labels: Integers


@dataclass(frozen=True)
class Labelling:
    """Where the labels of detections come from; the choice decides the score, and stands in its signature.

    Args:
        labels: class names in the order of their indices; `ANY_ACTION` alone where classes are not told apart.
        class_scores: of each video, whose proposals get its most likely classes; None: the localizer tells classes
            apart itself, or nobody does.
        top: how many classes a video gets.
        signature: the choice as a field of a signature.
        told: the choice for people.
    """

    labels: tuple[str, ...]
    class_scores: ClassScores | None
    top: int
    signature: str
    told: str

    @property
    def agnostic(self) -> bool:
        """Whether classes are not told apart."""
        return self.labels == (ANY_ACTION,)

    @property
    def by_localizer(self) -> bool:
        """Whether the localizer tells classes apart by itself."""
        return self.class_scores is None and not self.agnostic

    def label(self, video: str, segments: Floats, scores: Floats, classes: Integers) -> Detections:
        """Give labels to the proposals of ``video``.

        Args:
            video: its name.
            segments: (N, 2) in seconds.
            scores: (N,).
            classes: (N,), negative where the localizer does not tell classes apart.

        Raises:
            UserError: the class scores lack the video or a class.
        """
        if self.class_scores is not None:
            return label_proposals(segments, scores, self.class_scores.of(video, self.labels), self.top)
        return Detections(segments, scores, np.zeros_like(classes) if self.agnostic else classes)


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
