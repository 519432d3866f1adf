"""What clip features tell before a localizer is trained: linear probes, and the similarity of neighbouring clips.

Decided here:

- A clip is foreground if its middle lies in an action, whose ends are [start, end); of several actions that hold it,
  the shortest gives the class.
- A probe is a multinomial logistic regression on features that are standardized by the mean and standard deviation of
  what it is fitted on. It minimizes the mean cross-entropy plus `L2` / 2 times the sum of the squared weights (not of
  the biases), by L-BFGS.
- The score of a clip is its logit of foreground less that of background. The AUC counts ties as one half.
- Similarity is the cosine of two features, from both of which a mean is taken first. A cosine with what then is all
  zero is undefined: nan in a matrix, left out of the pairs of neighbours. TSP's paper shows the similarity of features
  over time; that it takes the cosine, and of which features, could not be confirmed. Features behind a ReLU are never
  negative, and without centring all of them look alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

L2: Final = 1e-3
NO_ACTION: Final = -1
BLOCK: Final = 1 << 14  # clips that are worked on at once
GRADIENT: Final = 1e-5  # of the largest entry, at which a probe is fitted
STEPS: Final = 2000
ROUNDING: Final = 1e-7  # of float32: what is left of a feature when its like is taken from it


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of C classes on (D,) features.

    Attributes:
        mean: of the features that it was fitted on, (D,).
        scale: their standard deviation, 1 where that is 0, (D,).
        weights: of standardized features, (D, C).
        bias: (C,).
        converged: whether no entry of the gradient was above `GRADIENT` at the end, but for rounding.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    converged: bool

    def logits(self, features: Rows) -> Floats:
        """Return (N, C) float64 for (N, D) features."""
        logits: Floats = (features - self.mean) / self.scale @ self.weights + self.bias
        return logits


def clip_actions(centres_seconds: Floats, segments_seconds: Floats, classes: Integers) -> Integers:
    """Return the class of the action that holds the middle of each clip, `NO_ACTION` outside.

    Args:
        centres_seconds: (T,) middles of the clips.
        segments_seconds: (N, 2) start and end of the actions of a video.
        classes: (N,) class indices.
    """
    found = np.full(len(centres_seconds), NO_ACTION, dtype=np.int64)
    # The longest first, so that the shortest has the last word.
    for place in np.argsort(segments_seconds[:, 0] - segments_seconds[:, 1], kind="stable").tolist():
        start, end = segments_seconds[place]
        found[(centres_seconds >= start) & (centres_seconds < end)] = classes[place]
    return found


def fit_probe(features: Rows, labels: Integers, classes: int) -> Probe:
    """Fit a probe; needs room for one more copy of the features.

    Args:
        features: (N, D) float32, N of at least 1.
        labels: (N,) class indices below ``classes``.
        classes: C.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - takes a second, which other users of this module need not wait for

    mean, scale = moments(features)
    standardized = ((features - mean.astype(np.float32)) / scale.astype(np.float32)).astype(np.float32, copy=False)
    dim = features.shape[1]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[: dim * classes].reshape(dim, classes), flat[dim * classes :]
        loss, slope_weights, slope_bias = 0.0, np.zeros_like(weights), np.zeros_like(bias)
        for part in _parts(len(labels)):
            block, its_labels = standardized[part], labels[part]
            logits = (block @ weights.astype(np.float32)).astype(np.float64) + bias
            logits -= logits.max(axis=1, keepdims=True)
            odds = np.exp(logits)
            sums = odds.sum(axis=1, keepdims=True)
            true = np.arange(len(block)), its_labels
            loss += float((np.log(sums[:, 0]) - logits[true]).sum())
            errors = odds / sums
            errors[true] -= 1
            slope_weights += block.T @ errors.astype(np.float32)
            slope_bias += errors.sum(axis=0)
        count = len(labels)
        slope = np.concatenate([(slope_weights / count + L2 * weights).ravel(), slope_bias / count])
        return loss / count + L2 / 2 * float(np.square(weights).sum()), slope

    found: Any = minimize(
        objective,
        np.zeros((dim + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": GRADIENT, "ftol": 0.0, "maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 30},
    )
    flat = found.x
    # Rounding of float32 may end the search a little before the gradient is as small as wanted.
    converged = bool(np.abs(found.jac).max() <= 10 * GRADIENT)
    return Probe(mean, scale, flat[: dim * classes].reshape(dim, classes), flat[dim * classes :], converged)


def moments(features: Rows) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation (1 where it is 0) of (N, D) features, float64 (D,) each."""
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    squares = np.zeros_like(mean)
    for part in _parts(len(features)):
        squares += np.square(features[part] - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(features))
    return mean, np.where(deviation > 0, deviation, 1.0)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scored clips, sorted once, so that their AUC on resampled videos takes a pass over them.

    Attributes:
        positive_video: index of the video of each of P foreground clips.
        negative_video: index of the video of each of N background clips, by ascending score.
        below: how many background clips score below each foreground clip, (P,).
        up_to: how many score below it or the same, (P,).
    """

    positive_video: Integers
    negative_video: Integers
    below: Integers
    up_to: Integers

    @classmethod
    def of(cls, scores: Floats, positive: Booleans, video: Integers) -> "Ranking":
        """Sort n clips by their (n,) scores; ``video`` is the index of the video of each."""
        order = np.argsort(scores, kind="stable")
        scores, positive, video = scores[order], positive[order], video[order]
        above, ground = scores[positive], scores[~positive]
        return cls(
            video[positive],
            video[~positive],
            np.searchsorted(ground, above, side="left"),
            np.searchsorted(ground, above, side="right"),
        )

    def auc(self, video_weights: NDArray[Any]) -> float:
        """Return the probability that a foreground clip scores above a background clip, both drawn from all videos.

        Args:
            video_weights: how often each video counts, (V,).

        Returns:
            A fraction; nan where the weighted videos lack foreground or background.
        """
        weights = video_weights.astype(np.float64)
        positive = weights[self.positive_video]
        negative = np.concatenate([[0.0], np.cumsum(weights[self.negative_video])])
        pairs = float(positive.sum() * negative[-1])
        won = float(positive @ (negative[self.below] + negative[self.up_to])) / 2
        return won / pairs if pairs else float("nan")


def auc(scores: Floats, positive: Booleans, weights: Floats | None = None) -> float:
    """Return the area under the ROC curve of clips; ties count one half.

    Args:
        scores: (n,) float64, higher for foreground.
        positive: (n,) whether a clip is foreground.
        weights: (n,) how often each clip counts; None: once.
    """
    places = np.arange(len(scores))
    return Ranking.of(scores, positive, places).auc(np.ones(len(scores)) if weights is None else weights)


@dataclass(frozen=True, eq=False)
class NeighbourSimilarity:
    """Similarity of the clips t and t + 1 of a video, by where both lie; float64, in the order of time.

    Attributes:
        inside: both in an action, (n,); two actions that touch are not told apart.
        background: both outside, (n,).
        across: one in an action, the other outside, (n,).
    """

    inside: Floats
    background: Floats
    across: Floats


def neighbour_similarity(
    features: NDArray[np.floating[Any]], inside: Booleans, mean: Floats | None = None
) -> NeighbourSimilarity:
    """Compare each clip of a video with the next.

    Args:
        features: (T, D) of one video.
        inside: (T,) whether the middle of each clip lies in an action, see `clip_actions`.
        mean: (D,) taken from every feature first, such as that of the training clips (`moments`); None: nothing is.

    Returns:
        T - 1 pairs in all, less those whose cosine is undefined.
    """
    directions = _directions(features, mean)
    similarity = np.clip(np.einsum("td,td->t", directions[:-1], directions[1:]), -1.0, 1.0)
    defined, first, second = ~np.isnan(similarity), inside[:-1], inside[1:]
    return NeighbourSimilarity(
        similarity[defined & first & second],
        similarity[defined & ~first & ~second],
        similarity[defined & (first != second)],
    )


def similarity_matrix(features: NDArray[np.floating[Any]], mean: Floats | None = None) -> Floats:
    """Return the (T, T) cosines between all clips of a video, in [-1, 1]; nan where undefined.

    Args:
        features: (T, D) of one video.
        mean: as for `neighbour_similarity`.
    """
    directions = _directions(features, mean)
    return np.clip(directions @ directions.T, -1.0, 1.0)


def _directions(features: NDArray[np.floating[Any]], mean: Floats | None) -> Floats:
    """Return features of length 1, float64 (T, D); nan for those of which rounding alone is left."""
    given = features.astype(np.float64)
    centred = given if mean is None else given - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    least = ROUNDING * np.linalg.norm(given, axis=1, keepdims=True)
    directions: Floats = np.divide(centred, lengths, out=np.full_like(centred, np.nan), where=lengths > least)
    return directions


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, count, BLOCK))
