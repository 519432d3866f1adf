"""Prediction file + ground truth → score with its counts and signature; needs no torch."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from evaluation import METRICS, PROTOCOLS, captioning, score_signature
from evaluation.captions import Captions, all_videos
from evaluation.detection import DetectionResult
from evaluation.meteor import Meteor, TextScorer
from evaluation.protocols import CaptioningProtocol, DetectionProtocol, Protocol, SegmentProtocol
from evaluation.segments import GroundTruth, Predictions
from evaluation.significance import confidence_interval
from tspbench import __version__
from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.storage.annotations import read_labels
from tspbench.storage.atomic import write_json
from tspbench.storage.captions import read_captions, read_references
from tspbench.storage.formats import read_any_predictions, read_ground_truth
from tspbench.storage.predictions import check_videos

CAPTIONING: Final = "captioning"
UnknownVideos = Literal["refuse", "drop", "count"]


class Scored(NamedTuple):
    """A score with all that explains it; the types of result and statistics are those of the task's metric."""

    result: Any
    statistics: Any
    counts: dict[str, int]
    signature: str


@dataclass(frozen=True)
class Target:
    """What predictions are scored against.

    Attributes:
        task: key of ``evaluation.METRICS``.
        protocol: one of ``evaluation.PROTOCOLS[task]``.
        truth: annotated segments; for captioning, the reference files.
        durations: seconds of each video of ``truth``, nan where the annotations do not say, float64 (V,); empty for
            captioning.
    """

    task: str
    protocol: Protocol
    truth: Any
    durations: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ScoreReport:
    """What ``tspbench score --json`` writes.

    Attributes:
        task: key of ``evaluation.METRICS``.
        protocol: key of ``evaluation.PROTOCOLS[task]``.
        metrics: fractions by name, such as "mAP@0.50" and "average_mAP".
        counts: what was scored and what was not, see ``score``.
        signature: two reports can be compared only if theirs are equal.
        intervals: 95 % interval of each metric over resampled videos, where asked for.
        per_class: average precision by class and threshold, where asked for; null without ground truth.
        failed: metric → why it could not be computed.
    """

    task: str
    protocol: str
    metrics: dict[str, float]
    counts: dict[str, int]
    signature: str
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, float | None]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def score_files(
    task: str,
    predictions: Path,
    ground_truth: Sequence[Path],
    subset: str = "validation",
    protocol: str | None = None,
    *,
    labels: Path | None = None,
    unknown: UnknownVideos = "refuse",
    per_class: bool = False,
    intervals: bool = False,
    json_out: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ScoreReport:
    """Score a prediction file against ground-truth files.

    Args:
        task: key of ``evaluation.METRICS``.
        predictions: a file that ``read_scored`` reads.
        ground_truth: files that ``read_target`` reads.
        subset: the subset of ``ground_truth`` to score on, such as "validation"; captions have none.
        protocol: key of ``evaluation.PROTOCOLS[task]``; None: its first.
        labels: list of the classes (JSON list or .txt); every label of ``ground_truth`` if None.
        unknown: what to do about predictions for videos that the ground truth lacks.
        per_class: also report the average precision of every class.
        intervals: also report 95 % intervals over 1,000 resamples of the videos.
        json_out: where to write the report, if anywhere.
        report: called with (steps done, steps in all) while METEOR works and while videos are resampled.

    Raises:
        UserError: a name is unknown or a file does not fit; one sentence that says what to do.
    """
    inputs = [predictions, *ground_truth]
    if json_out is not None and json_out.exists() and json_out.resolve() in {path.resolve() for path in inputs}:
        raise UserError(f"{json_out}: expected a new file for --json, found one that is read; choose another.")
    if per_class and task != "tal":
        raise UserError(f"--per-class: expected task tal, found {task}, whose scores are not per class; leave it out.")
    target = read_target(task, ground_truth, subset, protocol, labels)
    scored = read_scored(target, predictions, unknown, report)
    written = ScoreReport(
        task,
        target.protocol.name,
        {name: value for name, value in scored.result.metrics().items() if name not in problems(scored)},
        scored.counts,
        scored.signature,
        score_intervals(task, scored, report) if intervals else {},
        _per_class(scored.result, getattr(target.protocol, "ignored_label", None)) if per_class else {},
        problems(scored),
    )
    if json_out is not None:
        write_json(json_out, asdict(written))
    return written


def read_target(
    task: str, ground_truth: Sequence[Path], subset: str, protocol: str | None = None, labels: Path | None = None
) -> Target:
    """Read what is to be scored against; several annotation files are joined, several caption files are references.

    Raises:
        UserError: a name is unknown, a file does not fit, or the protocol is of another set of videos.
    """
    choose("task", task, METRICS)
    if twice := [path for number, path in enumerate(ground_truth) if path in ground_truth[:number]]:
        raise UserError(f"{twice[0]}: expected each ground truth once, found it twice; remove one.")
    protocols = PROTOCOLS[task]
    rules = protocols[choose(f"protocol of {task}", protocol or next(iter(protocols)), protocols)]
    if task == CAPTIONING:
        references = tuple(read_references(path) for path in ground_truth)
        if not any(map(len, references)):
            raise UserError(f"{ground_truth[0]}: expected sentences, found none; give references that hold some.")
        return Target(task, rules, references, np.empty(0))
    classes = None if labels is None else read_labels(labels)
    annotations = read_ground_truth(ground_truth)
    truth = annotations.ground_truth(subset, classes)
    check_truth(ground_truth[0], truth, rules)
    seconds = [video.duration_seconds for video in annotations.subset(subset)]
    return Target(task, rules, truth, np.array([np.nan if value is None else value for value in seconds]))


def check_truth(path: Path, truth: GroundTruth, protocol: Protocol) -> None:
    """Raise a UserError that names ``path`` if the protocol is of other videos, or nothing counts by it."""
    scoped = protocol.scoped(truth) if isinstance(protocol, SegmentProtocol) else truth
    if problem := protocol.video_set.problem(scoped):
        raise UserError(f"{path}: {problem}; give that ground truth or choose another protocol.")
    if not len(scoped):
        raise UserError(
            f"{path}: expected segments that count by the protocol {protocol.name}, found none; choose another "
            "protocol or ground truth."
        )


def read_scored(
    target: Target,
    predictions: Path,
    unknown: UnknownVideos = "refuse",
    report: Callable[[int, int], None] | None = None,
) -> Scored:
    """Read and score a prediction file.

    Args:
        target: what to score against.
        predictions: ActivityNet submission or THUMOS14 text; a densevid submission for captioning.
        unknown: what to do about videos that the ground truth lacks: "refuse" the file, "drop" their predictions, or
            "count" them as wrong.
        report: called with (pairs of sentences done, pairs in all) while METEOR works.

    Raises:
        UserError: the file does not fit; one sentence that says where and what to do.
    """
    if target.task == CAPTIONING:
        captions = read_captions(predictions)
        check_videos(predictions, captions.videos, all_videos(target.truth), keep_unknown=unknown != "refuse")
        return score(target.task, target.truth, captions, target.protocol, report)
    found, dropped = read_segments(target, predictions, unknown)
    scored = score(target.task, target.truth, found, target.protocol)
    counts = {**scored.counts, **dropped}
    if not counts["unknown_videos"]:
        return scored
    done = "dropped" if dropped else "counted"
    return scored._replace(counts=counts, signature=f"{scored.signature}|unknown-videos:{done}")


def read_segments(target: Target, path: Path, unknown: UnknownVideos) -> tuple[Predictions, dict[str, int]]:
    """Read predicted segments; drop those for unknown videos if ``unknown`` says so, and count what was dropped."""
    labelled = target.task == "tal"
    found = read_any_predictions(path, target.truth, keep_unknown=unknown != "refuse", labelled=labelled)
    strangers = found.video >= len(target.truth.videos)
    if unknown != "drop" or not strangers.any():
        return found, {}
    dropped = {
        "unknown_videos": len(np.unique(found.video[strangers])),
        "predictions_of_unknown_videos": int(np.count_nonzero(strangers)),
    }
    return found.where(~strangers), dropped


def score(
    task: str,
    truth: Any,
    predictions: Any,
    protocol: Protocol,
    report: Callable[[int, int], None] | None = None,
    scorer: TextScorer | None = None,
) -> Scored:
    """Score predictions that are in memory; of captions also those of the segments of each reference file.

    The counts are: ``videos`` of the ground truth, ``missing_videos`` of them that have no prediction (they count as
    missed), ``ground_truth`` segments or sentences, ``predictions``, ``unknown_videos`` that the ground truth lacks
    and ``predictions_of_unknown_videos``. For segments also the ``zero_length_ground_truth``; for detection also the
    ``labels`` and those ``labels_without_ground_truth`` (left out of the mean) or ``labels_without_predictions``
    (which count 0) among them; for captioning the ``predictions_beyond_limit`` of a video, which do not count.

    Raises:
        ValueError: the predictions do not fit the task or ``truth``.
    """
    metric = METRICS[task]
    if isinstance(protocol, CaptioningProtocol):
        with nullcontext(scorer) if scorer is not None else Meteor(report=report) as meteor:
            statistics = captioning.statistics(truth, predictions, protocol, meteor)
    else:
        statistics = metric.statistics(truth, predictions, protocol)
    result = metric.score(statistics)
    if isinstance(protocol, SegmentProtocol):
        counts = _segment_counts(protocol.scoped(truth), protocol.scoped_predictions(predictions))
        if isinstance(protocol, DetectionProtocol):
            counts |= _label_counts(protocol.scoped(truth), predictions, result)
    else:
        assert isinstance(protocol, CaptioningProtocol)  # noqa: S101 - there are no others
        counts = _caption_counts(truth, predictions, protocol)
    return Scored(result, statistics, counts, score_signature(metric.name, protocol, truth, __version__))


def score_intervals(
    task: str, scored: Scored, report: Callable[[int, int], None] | None = None
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric over 1,000 resamples of the videos, from a fixed seed."""
    generator = np.random.default_rng(0)
    found = confidence_interval(METRICS[task].score, scored.statistics, generator, report=report)
    return {name: (interval.low, interval.high) for name, interval in found.items() if name not in problems(scored)}


def problems(scored: Scored) -> dict[str, str]:
    """Return metric → why it could not be computed, empty if all could."""
    found: dict[str, str] = getattr(scored.statistics, "problems", {})
    return found


def _per_class(result: DetectionResult, ignored: str | None) -> dict[str, dict[str, float | None]]:
    names = [f"AP@{threshold:.2f}" for threshold in result.thresholds]
    table: dict[str, dict[str, float | None]] = {}
    for label, row in zip(result.labels, result.average_precision.tolist(), strict=True):
        if label == ignored:
            continue
        values = {**dict(zip(names, row, strict=True)), "average_AP": sum(row) / len(row)}
        table[label] = {name: None if np.isnan(value) else value for name, value in values.items()}
    return table


def _segment_counts(truth: GroundTruth, predictions: Predictions) -> dict[str, int]:
    video = predictions.aligned_to(truth).video
    unknown = video >= len(truth.videos)
    predicted = len(np.unique(video[~unknown]))
    return {
        "videos": len(truth.videos),
        "missing_videos": len(truth.videos) - predicted,
        "unknown_videos": len(np.unique(video[unknown])),
        "ground_truth": len(truth),
        "zero_length_ground_truth": int(np.count_nonzero(truth.start == truth.end)),
        "predictions": len(predictions),
        "predictions_of_unknown_videos": int(np.count_nonzero(unknown)),
    }


def _label_counts(truth: GroundTruth, predictions: Predictions, result: DetectionResult) -> dict[str, int]:
    named = {predictions.labels[index] for index in np.unique(predictions.label) if index >= 0}
    held = {truth.labels[index] for index in np.unique(truth.label)}
    return {
        "labels": len(truth.labels),
        "labels_without_ground_truth": len(result.undefined_labels),
        "labels_without_predictions": len(held - named),
    }


def _caption_counts(
    references: Sequence[Captions], captions: Captions | Sequence[Captions], protocol: CaptioningProtocol
) -> dict[str, int]:
    videos = set(all_videos(references))
    files = [captions] if isinstance(captions, Captions) else captions
    named = [file.videos[index] for file in files for index in file.video]
    described = set(named)
    lengths = [len(rows) for file in files for rows in file.rows().values()]
    return {
        "videos": len(videos),
        "missing_videos": len(videos - described),
        "unknown_videos": len(described - videos),
        "ground_truth": sum(len(file) for file in references),
        "predictions": len(named),
        "predictions_of_unknown_videos": sum(name not in videos for name in named),
        "predictions_beyond_limit": sum(max(0, length - protocol.max_captions) for length in lengths),
    }
