"""False positives by kind, sensitivity by length / coverage / count, false negatives (DETAD).

A restatement of the three analyses of DETAD (Alwassel et al., Diagnosing Error in Temporal Action Detectors, ECCV
2018). All of them rest on the normalised precision up to a prediction of a class, R·N / (R·N + FP): R is the recall
and FP the number of false positives up to there, N the mean number of segments a class. Average-mAP_N is the mean, over
classes and tIoU thresholds, of the area under its envelope. Thresholds and buckets are those of
``evaluation.characteristics``, whatever those of the protocol, and detections are matched as in
``evaluation.matching.match``, whatever its matching; its videos, ignored label and ties are kept.

- False positives: of a class with G segments the 10·G best predictions count, each of a kind of
  ``evaluation.error_kinds``. The impact of a kind is what average-mAP_N gains when, at each threshold, the predictions
  of that kind are removed.
- Sensitivity: in a bucket, of all predictions those count that are matched to a segment of the bucket, or to none, at
  every threshold. The recall is that of the segments of the bucket, N stays, and the mean is over the classes in it.
- False negatives: a segment is found if it is matched at a normalised precision above 0.05.

Decided here:

- segments of length 0 and of coverage above 1 are left out before anything else, and counted;
- a class without a (remaining) segment has no part in N and the means; its predictions are left out, and counted;
- a class without predictions has average precision 0;
- segments of videos of unknown duration have no coverage, are in none of its buckets, and are counted; without any
  known duration there is no coverage among the results;
- a slice without predictions has shares nan, and a bucket without segments scores nan, which its lowest and highest
  leave out; without any segment every score is nan;
- lowest and highest are nan if the average-mAP_N of all segments is 0.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from evaluation.characteristics import NO_BUCKET, Characteristic, DiagnosisRules, measure, rules_of
from evaluation.error_kinds import DOUBLE_DETECTION, KINDS, JudgedDetections, judge
from evaluation.protocols import DetectionProtocol
from evaluation.segments import Booleans, Floats, GroundTruth, Integers, Predictions

SLICES: Final = 10
LOWEST_PRECISION: Final = 0.05


@dataclass(frozen=True, eq=False)
class FalsePositives:
    """The best predictions in slices: slice s holds, of a class with G segments, those from rank s·G to (s + 1)·G.

    Attributes:
        predictions: how many each slice holds, int64 (10,).
        counts: of each of ``KINDS`` in each slice at each of K thresholds, int64 (10, 6, K).
        average_map: average-mAP_N of the predictions of all slices.
        impact: kind of false positive → gain of ``average_map`` without it.
    """

    predictions: Integers
    counts: Integers
    average_map: float
    impact: dict[str, float]

    @property
    def shares(self) -> Floats:
        """The mean share of each kind in each slice over the thresholds, nan in an empty slice, float64 (10, 6)."""
        total = self.predictions[:, None] * self.counts.shape[2]
        shares: Floats = np.full(self.counts.shape[:2], np.nan)
        np.divide(self.counts.sum(axis=2), total, out=shares, where=total > 0)
        return shares


@dataclass(frozen=True, eq=False)
class BucketScores:
    """How well the segments of each of B buckets are found.

    Attributes:
        characteristic: what the buckets are cut by.
        segments: how many each bucket holds, int64 (B,).
        average_map: average-mAP_N of each bucket, float64 (B,).
        false_negatives: share of each bucket that is not found, float64 (B,).
        lowest: the lowest ``average_map`` over that of all segments.
        highest: the highest ``average_map`` over that of all segments.
    """

    characteristic: Characteristic
    segments: Integers
    average_map: Floats
    false_negatives: Floats
    lowest: float
    highest: float

    @property
    def shares(self) -> Floats:
        """The share that each bucket has of the segments of all buckets, nan without any, float64 (B,)."""
        total = self.segments.sum()
        return self.segments / total if total else np.full(len(self.segments), np.nan)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What DETAD says of detections, as fractions.

    Attributes:
        protocol: the given one, with the thresholds, matching and interpolation of DETAD.
        rules: those of the protocol's benchmark.
        instances_per_class: N, nan without any segment.
        average_map: average-mAP_N of all predictions.
        false_positives: by kind.
        false_negatives: share of the segments that is not found.
        buckets: sensitivity and false negatives by characteristic; without coverage where no duration is known.
        counts: ``videos`` in scope, those ``missing_videos`` among them that have no prediction, ``unknown_videos``
            that the ground truth lacks; ``ground_truth`` segments in scope, of which ``diagnosed`` remain without
            ``zero_length_ground_truth`` and ``coverage_above_one``, and ``without_coverage`` among those; ``labels``,
            those ``labels_without_ground_truth`` and ``labels_without_predictions`` among them; ``predictions`` in
            scope, those ``predictions_of_unknown_videos`` and ``predictions_of_labels_without_ground_truth`` among
            them, and ``best_predictions`` in the slices.
    """

    protocol: DetectionProtocol
    rules: DiagnosisRules
    instances_per_class: float
    average_map: float
    false_positives: FalsePositives
    false_negatives: float
    buckets: tuple[BucketScores, ...]
    counts: dict[str, int]


def diagnose(
    ground_truth: GroundTruth, durations: Floats, predictions: Predictions, protocol: DetectionProtocol
) -> Diagnosis:
    """Diagnose detections.

    Args:
        ground_truth: the annotated segments, in V videos.
        durations: seconds of each video of ``ground_truth``, nan where unknown, float64 (V,).
        predictions: labelled.
        protocol: of a benchmark that ``evaluation.characteristics.DIAGNOSIS_RULES`` names.

    Raises:
        ValueError: there are no rules for ``protocol``, ``durations`` do not fit, a prediction has no label or one
            that ``ground_truth`` does not know.
    """
    rules = rules_of(protocol)
    protocol = replace(protocol, thresholds=rules.thresholds, matching="detection", interpolation="all-point")
    scoped = protocol.scoped(ground_truth)
    values = measure(scoped, _durations_of(scoped.videos, ground_truth, durations), rules)
    kept = (values["length"] > 0.0) & ~(values["coverage"] > 1.0)
    truth = scoped.where(kept)
    found = protocol.scoped_predictions(predictions).aligned_to(truth)
    if np.any(found.label < 0):
        row = np.flatnonzero(found.label < 0)[0]
        raise ValueError(f"Detections need a label, received the class-agnostic label -1 in row {row}.")
    positives = np.bincount(truth.label, minlength=len(truth.labels))
    detections = _Detections(judge(truth, found.where(positives[found.label] > 0), protocol), positives)
    average_map = detections.average_map(detections.everything, positives)
    missed = _missed(detections, len(truth))
    false_positives = _false_positives(detections)
    return Diagnosis(
        protocol=protocol,
        rules=rules,
        instances_per_class=detections.mean,
        average_map=average_map,
        false_positives=false_positives,
        false_negatives=_share(missed),
        buckets=tuple(
            _by_bucket(detections, truth.label, characteristic, values[characteristic.name][kept], missed, average_map)
            for characteristic in rules.characteristics
            if characteristic.name != "coverage" or np.any(~np.isnan(values["coverage"][kept]))
        ),
        counts={
            **_count_segments(scoped, kept, values["coverage"], protocol),
            **_count_predictions(truth, found),
            "best_predictions": int(false_positives.predictions.sum()),
        },
    )


def _durations_of(videos: tuple[str, ...], ground_truth: GroundTruth, durations: Floats) -> Floats:
    """Check the durations of the videos of ``ground_truth``, and return those of ``videos``."""
    if durations.shape != (len(ground_truth.videos),):
        raise ValueError(f"durations must be of shape ({len(ground_truth.videos)},), received {durations.shape}.")
    if np.any((durations < 0.0) | np.isinf(durations)):
        raise ValueError("durations must be finite seconds of 0 or more, or nan where unknown.")
    place = {name: index for index, name in enumerate(ground_truth.videos)}
    return durations[[place[name] for name in videos]]


@dataclass(frozen=True, eq=False)
class _Detections:
    """Judged detections, and what they are measured against.

    Attributes:
        judged: R detections of the classes that have segments, at K thresholds.
        positives: how many segments each class has, int64 (C,).
    """

    judged: JudgedDetections
    positives: Integers

    @property
    def mean(self) -> float:
        """N of the normalised precision."""
        classes = np.count_nonzero(self.positives)
        return int(self.positives.sum()) / classes if classes else math.nan

    @property
    def everything(self) -> Booleans:
        """All rows, bool (R,)."""
        return np.ones(len(self.judged.label), dtype=np.bool_)

    def hits(self, kept: Booleans, positives: Integers, k: int) -> tuple[Integers, Floats]:
        """Return the matched rows among ``kept``, bool (R,), at threshold k, and the normalised precision at each."""
        hit = kept & (self.judged.match[:, k] >= 0)
        rows = np.flatnonzero(hit)
        first = rows - self.judged.rank[rows]  # of the class
        seen_before = np.concatenate(([0], np.cumsum(kept)))
        hits_before = np.concatenate(([0], np.cumsum(hit)))
        hits = hits_before[rows + 1] - hits_before[first]
        false = seen_before[rows + 1] - seen_before[first] - hits
        weighted = hits / positives[self.judged.label[rows]] * self.mean
        return rows, weighted / (weighted + false)

    def average_map(self, kept: Booleans, positives: Integers) -> float:
        """Return average-mAP_N of the rows ``kept``, bool (R,) or (R, K), where ``positives``, int64 (C,), count."""
        classes = np.flatnonzero(positives)
        areas = []
        for k in range(self.judged.match.shape[1]):
            rows, precision = self.hits(kept if kept.ndim == 1 else kept[:, k], positives, k)
            bounds = np.searchsorted(self.judged.label[rows], np.arange(len(positives) + 1))
            for c in classes:
                # Recall rises by one segment at each hit, to which the best precision from there on belongs.
                envelope = np.maximum.accumulate(precision[bounds[c] : bounds[c + 1]][::-1])
                areas.append(envelope.sum() / positives[c])
        # fsum rounds once, whatever the order of the classes.
        return math.fsum(areas) / len(areas) if areas else math.nan


def _false_positives(detections: _Detections) -> FalsePositives:
    """Count kinds by slice, and remove each kind in turn."""
    judged, positives = detections.judged, detections.positives
    part = judged.rank // positives[judged.label]
    best = part < SLICES
    shape = (SLICES, len(KINDS), judged.kind.shape[1])
    counts = np.zeros(shape, dtype=np.int64)
    np.add.at(counts, (part[best, None], judged.kind[best], np.arange(shape[2])), 1)
    average_map = detections.average_map(best, positives)
    return FalsePositives(
        predictions=np.bincount(part[best], minlength=SLICES),
        counts=counts,
        average_map=average_map,
        impact={
            KINDS[kind]: detections.average_map(best[:, None] & (judged.kind != kind), positives) - average_map
            for kind in range(DOUBLE_DETECTION, len(KINDS))
        },
    )


def _missed(detections: _Detections, segments: int) -> Booleans:
    """Return whether each of the M segments is not found at each threshold, bool (M, K)."""
    match = detections.judged.match
    missed = np.ones((segments, match.shape[1]), dtype=np.bool_)
    for k in range(match.shape[1]):
        rows, precision = detections.hits(detections.everything, detections.positives, k)
        missed[match[rows[precision > LOWEST_PRECISION], k], k] = False
    return missed


def _by_bucket(
    detections: _Detections,
    true_label: Integers,
    characteristic: Characteristic,
    values: Floats,
    missed: Booleans,
    average_map: float,
) -> BucketScores:
    """Score the segments of each bucket of ``characteristic``, whose ``values`` are float64 (M,)."""
    bucket = characteristic.bucket_of(values)
    match = detections.judged.match
    # The last entry is where the index -1 of no match lands.
    bucket_of_match = np.append(bucket, NO_BUCKET)[match]
    scores = np.full(len(characteristic.buckets), np.nan)
    for b in range(len(scores)):
        positives = np.bincount(true_label[bucket == b], minlength=len(detections.positives))
        kept = ((match < 0) | (bucket_of_match == b)).all(axis=1)
        scores[b] = detections.average_map(kept, positives)
    relative = scores[~np.isnan(scores)] / average_map if average_map > 0.0 else np.array([np.nan])
    return BucketScores(
        characteristic=characteristic,
        segments=np.array([np.count_nonzero(bucket == b) for b in range(len(scores))], dtype=np.int64),
        average_map=scores,
        false_negatives=np.array([_share(missed[bucket == b]) for b in range(len(scores))]),
        lowest=float(relative.min()),
        highest=float(relative.max()),
    )


def _share(marks: Booleans) -> float:
    """Return the share of the marks that are set, nan if there is none."""
    return np.count_nonzero(marks) / marks.size if marks.size else math.nan


def _count_segments(
    scoped: GroundTruth, kept: Booleans, coverage: Floats, protocol: DetectionProtocol
) -> dict[str, int]:
    length = scoped.end - scoped.start
    held = {scoped.labels[index] for index in np.unique(scoped.label[kept])}
    labels = {name for name in scoped.labels if name != protocol.ignored_label}
    return {
        "videos": len(scoped.videos),
        "ground_truth": len(scoped),
        "diagnosed": int(np.count_nonzero(kept)),
        "zero_length_ground_truth": int(np.count_nonzero(length == 0.0)),
        "coverage_above_one": int(np.count_nonzero((length > 0.0) & (coverage > 1.0))),
        "without_coverage": int(np.count_nonzero(np.isnan(coverage[kept]))),
        "labels": len(labels),
        "labels_without_ground_truth": len(labels - held),
    }


def _count_predictions(truth: GroundTruth, predictions: Predictions) -> dict[str, int]:
    unknown = predictions.video >= len(truth.videos)
    positives = np.bincount(truth.label, minlength=len(truth.labels))
    named = np.bincount(predictions.label, minlength=len(truth.labels))
    return {
        "missing_videos": len(truth.videos) - len(np.unique(predictions.video[~unknown])),
        "unknown_videos": len(np.unique(predictions.video[unknown])),
        "predictions": len(predictions),
        "predictions_of_unknown_videos": int(np.count_nonzero(unknown)),
        "predictions_of_labels_without_ground_truth": int(named[positives == 0].sum()),
        "labels_without_predictions": int(np.count_nonzero((positives > 0) & (named == 0))),
    }
