"""Detection mAP at tIoU thresholds (temporal action localization).

By the rules of the official ActivityNet evaluator, the average precision of a class at a threshold is the area under
the precision-recall curve whose precision at each recall is the highest at that recall or beyond. By those of THUMOS
Challenge 2014 (``TH14eventdetpr.m``) it is the mean of that precision over the recalls 0, 0.1, …, 1, segments choose
detections instead of being chosen, and detections on Ambiguous segments are forgiven: unless one is right, it is as if
it were not there. The mAP is the mean over the classes that the ground truth holds, the average mAP the mean over the
thresholds.

Decided here:

- a prediction of a video that the subset lacks is a false positive;
- a class that the ground truth holds and no prediction names has average precision 0;
- a class without ground truth has average precision nan, is left out of the mean, and is listed; its predictions
  change nothing. (The official evaluator stops at a prediction of such a class.)
- a ground truth without any segment has mAP nan;
- a detection is on an ignored segment if the two have a temporal IoU above 0, whatever its class;
- of the THUMOS rules: segments choose in the order of start and end (the MATLAB code: of the file); detections of equal
  score stay in the protocol's order (the MATLAB code lists the right ones first); a recall of j/10 is reached with
  exactly j tenths of the segments, compared as integers (the MATLAB code compares rounded fractions).

``statistics`` matches once; ``score`` can then be called for any number of resamples of the videos.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evaluation.matching import match, match_by_segment, ranked
from evaluation.overlap import temporal_iou
from evaluation.protocols import DetectionProtocol
from evaluation.segments import Booleans, Floats, GroundTruth, Integers, Predictions

# The video index of predictions outside the subset: it points at the last weight, which is always 1.
OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class DetectionStatistics:
    """Everything that a score at the protocol's K thresholds needs, per video.

    Attributes:
        protocol: whose thresholds were used.
        videos: the videos of the ground truth.
        labels: the classes of the ground truth.
        prediction: which prediction row i is, int64 (N,). Rows are sorted by label, then by score, equal scores as
            the protocol says.
        video: index into ``videos``, or -1 for a video that the ground truth lacks, int64 (N,).
        label: index into ``labels``, int64 (N,).
        true_positive: whether row i is matched at threshold k, bool (N, K).
        ground_truth_video: index into ``videos`` of each annotated segment, int64 (M,).
        ground_truth_label: index into ``labels`` of each annotated segment, int64 (M,).
        forgiven: whether row i is neither right nor wrong where it is not matched, because it is on an ignored segment
            and the protocol matches by segment, bool (N,).
    """

    protocol: DetectionProtocol
    videos: tuple[str, ...]
    labels: tuple[str, ...]
    prediction: Integers
    video: Integers
    label: Integers
    true_positive: Booleans
    ground_truth_video: Integers
    ground_truth_label: Integers
    forgiven: Booleans


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Detection scores at K thresholds, as fractions.

    Attributes:
        thresholds: temporal IoU, length K.
        labels: the C classes.
        average_precision: per class and threshold, nan for classes without ground truth, float64 (C, K).
        mean_average_precision: the mean over the classes with ground truth, nan if there is none, float64 (K,).
        average_map: the mean of ``mean_average_precision`` over the thresholds.
        undefined_labels: the classes without ground truth.
    """

    thresholds: tuple[float, ...]
    labels: tuple[str, ...]
    average_precision: Floats
    mean_average_precision: Floats
    average_map: float
    undefined_labels: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Return the scores by name: "mAP@0.50", …, "average_mAP"."""
        pairs = zip(self.thresholds, self.mean_average_precision.tolist(), strict=True)
        return {**{f"mAP@{threshold:.2f}": value for threshold, value in pairs}, "average_mAP": self.average_map}


def statistics(ground_truth: GroundTruth, predictions: Predictions, protocol: DetectionProtocol) -> DetectionStatistics:
    """Match ``predictions`` to ``ground_truth`` at the thresholds of ``protocol``.

    Raises:
        ValueError: a prediction has no label, or one that ``ground_truth`` does not know.
    """
    ignored, ground_truth = protocol.ignored(ground_truth), protocol.scoped(ground_truth)
    predictions = protocol.scoped_predictions(predictions).aligned_to(ground_truth)
    if np.any(predictions.label < 0):
        row = np.flatnonzero(predictions.label < 0)[0]
        raise ValueError(f"Detections need a label, received the class-agnostic label -1 in row {row}.")
    order = ranked(predictions, predictions.label, protocol.ties)
    by_segment = protocol.matching == "segment"
    find = match_by_segment if by_segment else match
    video = predictions.video[order]
    return DetectionStatistics(
        protocol=protocol,
        videos=ground_truth.videos,
        labels=ground_truth.labels,
        prediction=order,
        video=np.where(video < len(ground_truth.videos), video, OUTSIDE),
        label=predictions.label[order],
        true_positive=find(ground_truth, predictions, order, np.array(protocol.thresholds)),
        ground_truth_video=ground_truth.video,
        ground_truth_label=ground_truth.label,
        forgiven=_on(ignored, predictions)[order] if by_segment else np.zeros(len(order), dtype=np.bool_),
    )


def _on(segments: GroundTruth, predictions: Predictions) -> Booleans:
    """Tell which predictions share time with one of ``segments`` of their video, of whatever class, bool (N,)."""
    on = np.zeros(len(predictions), dtype=np.bool_)
    for video in np.unique(segments.video):
        rows, others = predictions.video == video, segments.video == video
        predicted = np.column_stack((predictions.start[rows], predictions.end[rows]))
        annotated = np.column_stack((segments.start[others], segments.end[others]))
        on[rows] = np.any(temporal_iou(predicted, annotated) > 0.0, axis=1)
    return on


def score(statistics: DetectionStatistics, video_weights: Integers | None = None) -> DetectionResult:
    """Compute average precisions, with each video counted as often as its weight says.

    Args:
        statistics: of N predictions for V videos.
        video_weights: how often each video of ``statistics.videos`` counts, integers of 0 or more, (V,); once each
            if None. Weight w equals w videos of the same name, segments and predictions. Predictions outside the
            subset always count once.

    Raises:
        ValueError: ``video_weights`` has another shape, is not of an integer type, or holds a negative number.
    """
    average_precision = np.full((len(statistics.labels), len(statistics.protocol.thresholds)), np.nan)
    defined = []
    for c, hits, found, precision, positives in _by_class(statistics, video_weights):
        eleven = statistics.protocol.interpolation == "11-point"
        area = _eleven_points(found, precision, positives) if eleven else _area(hits, precision, positives)
        average_precision[c] = area
        defined.append(c)
    return _result(statistics, average_precision, np.array(defined, dtype=np.int64))


def precision_recall(statistics: DetectionStatistics) -> tuple[Floats, Floats]:
    """Compute the precision-recall curves whose mean over the classes a plot shows.

    The precision of a class at a recall is the highest at that recall or beyond, as in its average precision, and 0
    where no list of detections reaches the recall. A recall of j/100 is reached as decided above for j/10.

    Returns:
        The recalls 0, 0.01, …, 1, float64 (101,), and at each threshold the mean precision over the classes that the
        ground truth holds, nan if there is none, float64 (K, 101).
    """
    curves = [
        [np.max(precision, axis=0, initial=0.0, where=100 * found >= j * positives) for j in range(101)]
        for _, _, found, precision, positives in _by_class(statistics, None)
    ]
    undefined = np.full((len(statistics.protocol.thresholds), 101), np.nan)
    return np.arange(101) / 100, np.mean(curves, axis=0).T if curves else undefined


def _by_class(
    statistics: DetectionStatistics, video_weights: Integers | None
) -> Iterator[tuple[int, Floats, Floats, Floats, float]]:
    """Yield what the average precision of each class with ground truth rests on.

    Yields:
        The class; the weight of its R rows where they are true positives, else 0, float64 (R, K); their sum up to and
        including each row, float64 (R, K); the precision there, float64 (R, K); the weight of its annotated segments.
        Only rows that are a true positive at some threshold are among the R.
    """
    # The last weight is that of predictions outside the subset.
    weights = np.append(checked_weights(len(statistics.videos), video_weights), 1).astype(np.float64)
    row_weight = weights[statistics.video]
    count = len(statistics.labels)
    positives = np.bincount(
        statistics.ground_truth_label, weights=weights[statistics.ground_truth_video], minlength=count
    )
    # Precision has its local maxima at true positives, so that the other rows matter only by their number.
    hit_rows = np.flatnonzero(statistics.true_positive.any(axis=1))
    forgiving = statistics.protocol.matching == "segment"
    seen = np.concatenate(([0.0], np.cumsum(row_weight * ~statistics.forgiven if forgiving else row_weight)))
    class_rows = np.searchsorted(statistics.label, np.arange(count + 1))
    class_hits = np.searchsorted(hit_rows, class_rows)
    for c in np.flatnonzero(positives > 0).tolist():
        rows = hit_rows[class_hits[c] : class_hits[c + 1]]
        hits = statistics.true_positive[rows] * row_weight[rows, None]
        listed = (seen[rows + 1] - seen[class_rows[c]])[:, None]
        if forgiving:
            # Where it is right, a forgiven detection is in the list all the same.
            listed = listed + np.cumsum(hits * statistics.forgiven[rows, None], axis=0)
        found = np.cumsum(hits, axis=0)
        # Where nothing but videos of weight 0 was seen, precision is 0 / 0; such rows have no weight otherwise either.
        yield c, hits, found, found / np.maximum(listed, 1.0), float(positives[c])


def checked_weights(videos: int, video_weights: Integers | None) -> Integers:
    """Return the weight of each video, int64 (videos,): 1 where there are none.

    Raises:
        ValueError: ``video_weights`` has another shape, is not of an integer type, or holds a negative number.
    """
    if video_weights is None:
        return np.ones(videos, dtype=np.int64)
    if video_weights.shape != (videos,) or not np.issubdtype(video_weights.dtype, np.integer):
        raise ValueError(
            f"video_weights must be integers of shape ({videos},), "
            f"received {video_weights.dtype} of shape {video_weights.shape}."
        )
    if np.any(video_weights < 0):
        raise ValueError(f"video_weights must not be negative, received {video_weights.min()}.")
    return video_weights.astype(np.int64)


def _area(hits: Floats, precision: Floats, positives: float) -> Floats:
    """Return the area under the precision envelope of one class at each threshold, float64 (K,).

    Args:
        hits: weight of the row where it is a true positive, else 0, float64 (R, K).
        precision: up to and including each row, float64 (R, K).
        positives: weight of the annotated segments of the class, above 0.
    """
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area: Floats = (hits * envelope).sum(axis=0) / positives
    return area


def _eleven_points(found: Floats, precision: Floats, positives: float) -> Floats:
    """Return the mean of the precision envelope of one class at the recalls 0, 0.1, …, 1, float64 (K,).

    Args:
        found: weight of the true positives up to and including each row, float64 (R, K).
        precision: up to and including each row, float64 (R, K).
        positives: weight of the annotated segments of the class, above 0.
    """
    highest = [np.max(precision, axis=0, initial=0.0, where=10 * found >= j * positives) for j in range(11)]
    mean: Floats = np.sum(highest, axis=0) / 11
    return mean


def _result(statistics: DetectionStatistics, average_precision: Floats, defined: Integers) -> DetectionResult:
    """Average over the ``defined`` classes and over the thresholds."""
    # fsum rounds once, whatever the order of the classes.
    means = [math.fsum(column) / len(defined) if len(defined) else math.nan for column in average_precision[defined].T]
    held = set(defined.tolist())
    return DetectionResult(
        thresholds=statistics.protocol.thresholds,
        labels=statistics.labels,
        average_precision=average_precision,
        mean_average_precision=np.array(means),
        average_map=math.fsum(means) / len(means),
        undefined_labels=tuple(
            name
            for index, name in enumerate(statistics.labels)
            if index not in held and name != statistics.protocol.ignored_label
        ),
    )
