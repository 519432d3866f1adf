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
GRADIENT: Final = 1e-5  # its largest entry, at which a probe is fitted
STEPS: Final = 1000
ROUNDING: Final = 1e-7  # of float32: what is left of a feature when its like is taken from it


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of C classes on (D,) features.

    Attributes:
        mean: of the features that it was fitted on, (D,).
        scale: their standard deviation, 1 where that is 0, (D,).
        weights: of standardized features, (D, C).
        bias: (C,).
        converged: whether the search ended because the gradient was small, not because it was too long.
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

    Neighbouring features are so alike that plain L-BFGS takes thousands of steps. So it works on the principal
    components of the features, scaled to where the loss bends alike in every direction; the optimum is the same.

    Args:
        features: (N, D) float32, N of at least 1.
        labels: (N,) class indices below ``classes``.
        classes: C.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - what else is here does not need it, and it takes a while

    mean, scale = moments(features)
    axes, spread = _components(features, mean, scale)
    # A logit bends by p (1 - p) <= 1/4 of the features' spread, and by the penalty.
    stretch = 1 / np.sqrt(spread / 4 + L2)
    turn = axes * stretch
    components = np.empty_like(features)
    for part in _parts(len(labels)):
        components[part] = (features[part] - mean) / scale @ turn
    shape = len(stretch), classes
    penalty = L2 * np.square(stretch)[:, None]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[:-classes].reshape(shape), flat[-classes:]
        loss, slope_weights, slope_bias = 0.0, np.zeros(shape), np.zeros(classes)
        for part in _parts(len(labels)):
            its_loss, errors = _cross_entropy(components[part] @ weights.astype(np.float32) + bias, labels[part])
            loss += its_loss
            slope_weights += components[part].T @ errors.astype(np.float32)
            slope_bias += errors.sum(axis=0)
        slope = np.concatenate([(slope_weights / len(labels) + penalty * weights).ravel(), slope_bias / len(labels)])
        return loss / len(labels) + float((penalty * np.square(weights)).sum()) / 2, slope

    start = np.zeros((shape[0] + 1) * classes)
    options = {"gtol": GRADIENT, "ftol": 0.0, "maxiter": STEPS, "maxfun": 2 * STEPS}
    found: Any = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    # Rounding of float32 may end the search a little before the gradient is as small as wanted.
    converged = bool(np.abs(found.jac).max() <= 10 * GRADIENT)
    return Probe(mean, scale, turn @ found.x[:-classes].reshape(shape), found.x[-classes:], converged)


def _cross_entropy(logits: Floats, labels: Integers) -> tuple[float, Floats]:
    """Return the sum of the cross-entropies of (n, C) logits, and their (n, C) slopes."""
    logits = logits - logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    sums = odds.sum(axis=1, keepdims=True)
    true = np.arange(len(labels)), labels
    slopes = odds / sums
    slopes[true] -= 1
    return float((np.log(sums[:, 0]) - logits[true]).sum()), slopes


def _components(features: Rows, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Return the principal axes of standardized features as columns, (D, D), and the variance along each, (D,)."""
    products = np.zeros((len(mean), len(mean)))
    for part in _parts(len(features)):
        standardized = (features[part] - mean) / scale
        products += standardized.T @ standardized
    spread, axes = np.linalg.eigh(products / len(features))
    return axes, np.maximum(spread, 0.0)


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


@dataclass(frozen=True, eq=False)
class StudyStatistics:
    """What a feature set shows on V videos, kept by video, so that resampling them fits and compares nothing again.

    Attributes:
        videos: their names.
        foreground: the ranking of all clips by the probe of foreground.
        classes: of each video the foreground clips whose class a probe tells, and how many there are, (V, 2); None
            where there is one class.
        similarity: of each video the sum over pairs of neighbours, and how many there are, inside, in the background
            and across, (V, 3, 2).
    """

    videos: tuple[str, ...]
    foreground: Ranking
    classes: Floats | None
    similarity: Floats


@dataclass(frozen=True)
class StudyScore:
    """What `StudyStatistics` say, as fractions; nan where nothing is there to be counted.

    Attributes:
        foreground_auc: of foreground against background.
        class_accuracy: share of the foreground clips whose class is told; None where there is one class.
        inside: mean similarity of neighbouring clips in actions.
        background: mean similarity of those outside.
        across: mean similarity of those on either side of a boundary.
    """

    foreground_auc: float
    class_accuracy: float | None
    inside: float
    background: float
    across: float

    def metrics(self) -> dict[str, float]:
        """Return them by name, with the contrast: how much less alike neighbours are across a boundary than inside."""
        return {
            "foreground_AUC": self.foreground_auc,
            **({} if self.class_accuracy is None else {"class_accuracy": self.class_accuracy}),
            "similarity_inside": self.inside,
            "similarity_background": self.background,
            "similarity_across": self.across,
            "contrast": self.inside - self.across,
        }


def score_study(statistics: StudyStatistics, video_weights: Integers | None) -> StudyScore:
    """Score a feature set over the pooled clips of its videos.

    Args:
        statistics: of V videos.
        video_weights: how often each video counts, (V,); None: once.
    """
    weights = np.ones(len(statistics.videos)) if video_weights is None else video_weights.astype(np.float64)
    sums = np.einsum("v,vkn->kn", weights, statistics.similarity)
    inside, background, across = (_share(total, count) for total, count in sums.tolist())
    told = None if statistics.classes is None else _share(*(weights @ statistics.classes).tolist())
    return StudyScore(statistics.foreground.auc(weights), told, inside, background, across)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


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
