"""Detection mAP at tIoU thresholds (temporal action localization).

The average precision of a class at a threshold is that of the official ActivityNet evaluator: the area under the
precision-recall curve whose precision at each recall is the highest at that recall or beyond. The mAP is the mean over
the classes that the ground truth holds, the average mAP the mean over the thresholds.

Decided here:

- a prediction of a video that the subset lacks is a false positive;
- a class that the ground truth holds and no prediction names has average precision 0;
- a class without ground truth has average precision nan, is left out of the mean, and is listed; its predictions
  change nothing. (The official evaluator stops at a prediction of such a class.)
- a ground truth without any segment has mAP nan.

``statistics`` matches once; ``score`` can then be called for any number of resamples of the videos.
"""

import math
from dataclasses import dataclass

import numpy as np

from evaluation.file_order import file_order
from evaluation.matching import match, total_order
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
    ground_truth = protocol.scoped(ground_truth)
    predictions = protocol.scoped_predictions(predictions).aligned_to(ground_truth)
    if np.any(predictions.label < 0):
        row = np.flatnonzero(predictions.label < 0)[0]
        raise ValueError(f"Detections need a label, received the class-agnostic label -1 in row {row}.")
    order = _order(predictions, protocol)
    video = predictions.video[order]
    return DetectionStatistics(
        protocol=protocol,
        videos=ground_truth.videos,
        labels=ground_truth.labels,
        prediction=order,
        video=np.where(video < len(ground_truth.videos), video, OUTSIDE),
        label=predictions.label[order],
        true_positive=match(ground_truth, predictions, order, np.array(protocol.thresholds)),
        ground_truth_video=ground_truth.video,
        ground_truth_label=ground_truth.label,
    )


def _order(predictions: Predictions, protocol: DetectionProtocol) -> Integers:
    """Return the indices that sort predictions by label, and within a label by who matches first."""
    if protocol.ties == "file":
        return file_order(predictions)
    order = total_order(predictions)
    return order[np.argsort(predictions.label[order], kind="stable")]


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
    weights = _weights(len(statistics.videos), video_weights)
    row_weight = weights[statistics.video]
    count = len(statistics.labels)
    positives = np.bincount(
        statistics.ground_truth_label, weights=weights[statistics.ground_truth_video], minlength=count
    )
    # Precision has its local maxima at true positives, so that the other rows matter only by their number.
    hit_rows = np.flatnonzero(statistics.true_positive.any(axis=1))
    seen = np.concatenate(([0.0], np.cumsum(row_weight)))
    class_rows = np.searchsorted(statistics.label, np.arange(count + 1))
    class_hits = np.searchsorted(hit_rows, class_rows)
    defined = np.flatnonzero(positives > 0)
    average_precision = np.full((count, len(statistics.protocol.thresholds)), np.nan)
    for c in defined:
        rows = hit_rows[class_hits[c] : class_hits[c + 1]]
        hits = statistics.true_positive[rows] * row_weight[rows, None]
        average_precision[c] = _average_precision(hits, seen[rows + 1] - seen[class_rows[c]], positives[c])
    return _result(statistics, average_precision, defined)


def _weights(videos: int, video_weights: Integers | None) -> Floats:
    """Return the weight of each video and, last, that of predictions outside the subset, float64 (videos + 1,)."""
    if video_weights is None:
        return np.ones(videos + 1)
    if video_weights.shape != (videos,) or not np.issubdtype(video_weights.dtype, np.integer):
        raise ValueError(
            f"video_weights must be integers of shape ({videos},), "
            f"received {video_weights.dtype} of shape {video_weights.shape}."
        )
    if np.any(video_weights < 0):
        raise ValueError(f"video_weights must not be negative, received {video_weights.min()}.")
    return np.append(video_weights, 1).astype(np.float64)


def _average_precision(hits: Floats, seen: Floats, positives: float) -> Floats:
    """Return the area under the precision envelope of one class at each threshold, float64 (K,).

    Args:
        hits: weight of the row where it is a true positive, else 0, float64 (R, K).
        seen: weight of all predictions of the class up to and including each row, float64 (R,).
        positives: weight of the annotated segments of the class, above 0.
    """
    # Where nothing but videos of weight 0 was seen, precision is 0 / 0; such rows have no weight in the sum either.
    precision = np.cumsum(hits, axis=0) / np.maximum(seen, 1.0)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area: Floats = (hits * envelope).sum(axis=0) / positives
    return area


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
