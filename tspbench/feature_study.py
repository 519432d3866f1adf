"""What clip features tell before a localizer is trained: linear probes, and the similarity of neighbouring clips.

Decided here:

- A clip is foreground if its middle lies in an action, whose ends are [start, end); of several actions that hold it,
  the shortest gives the class.
- The score of a clip is the logit of foreground less that of background, see `tspbench.linear_probe`. The AUC counts
  ties as one half.
- Similarity is the cosine of two features, from both of which a mean is taken first. A cosine with what then is all
  zero is undefined: nan in a matrix, left out of the pairs of neighbours. TSP's paper shows the similarity of features
  over time; that it takes the cosine, and of which features, could not be confirmed. Features behind a ReLU are never
  negative, and without centring all of them look alike.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

NO_ACTION: Final = -1
ROUNDING: Final = 1e-7  # of float32: what is left of a feature when its like is taken from it


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

    def counted(self) -> dict[str, int]:
        """Return metric → in how many videos something is counted for it; of two kinds of clips, of the rarer.

        As many videos as that, not V, tell how far a metric would be another one on other videos.
        """
        inside, background, across = np.count_nonzero(self.similarity[:, :, 1], axis=0).tolist()
        kinds = self.foreground.positive_video, self.foreground.negative_video
        return {
            "foreground_AUC": min(len(np.unique(kind)) for kind in kinds),
            **({} if self.classes is None else {"class_accuracy": np.count_nonzero(self.classes[:, 1])}),
            "similarity_inside": inside,
            "similarity_background": background,
            "similarity_across": across,
            "contrast": min(inside, across),
        }


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
