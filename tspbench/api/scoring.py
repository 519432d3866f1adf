"""Scores, comparisons and diagnoses of prediction files; none needs torch."""

from pathlib import Path
from typing import get_args

from tspbench.api.inputs import Place, Places, needed, paths
from tspbench.config import choose
from tspbench.progress import progress
from tspbench.stages.compare import Comparison
from tspbench.stages.compare import compare as compare_files
from tspbench.stages.diagnose import DiagnosisReport, diagnose_files
from tspbench.stages.score import ScoreReport, UnknownVideos, score_files


def score(
    task: str,
    predictions: Place,
    ground_truth: Places,
    *,
    subset: str = "validation",
    protocol: str | None = None,
    labels: Place | None = None,
    unknown_videos: UnknownVideos = "refuse",
    per_class: bool = False,
    intervals: bool = False,
    json: Place | None = None,
) -> ScoreReport:
    """Score a prediction file; needs no torch.

    Args:
        task: "tal", "proposals" or "captioning".
        predictions: ActivityNet, THUMOS14 or densevid submission.
        ground_truth: annotations, or references of captions.
        subset: of the ground truth; captions have none.
        protocol: a name of `tspbench list protocols`; the task's first if None.
        labels: list of the classes (JSON or text); the annotations' if None.
        unknown_videos: "refuse", "drop" or "count" predictions for videos that the ground truth lacks.
        per_class: also the average precision of each class.
        intervals: also 95 % intervals, by resampling videos.
        json: where to write the result, if anywhere.

    Returns:
        Metrics as fractions, counts and the signature; what could not be computed is in ``failed``, with the reason.

    Raises:
        UserError: a name is unknown, or a file does not fit.

    Example:
        >>> found = api.score("tal", "predictions.json", "my-videos/annotations.json")
        >>> found.metrics["average_mAP"]
        1.0
    """
    _check_unknown_videos(unknown_videos)
    with progress("score") as advance:
        return score_files(
            task,
            Path(predictions),
            needed("--ground-truth", ground_truth),
            subset,
            protocol,
            labels=None if labels is None else Path(labels),
            unknown=unknown_videos,
            per_class=per_class,
            intervals=intervals,
            json_out=None if json is None else Path(json),
            report=advance,
        )


def compare(
    task: str,
    a: Places,
    b: Places,
    ground_truth: Places = (),
    *,
    subset: str = "validation",
    protocol: str | None = None,
    unknown_videos: UnknownVideos = "refuse",
    json: Place | None = None,
) -> Comparison:
    """Say whether B is better than A: paired bootstrap over the videos, and over seeds where there are several.

    Args:
        task: "tal", "proposals" or "captioning".
        a: predictions, or the statistics.npz of a finished run, which needs no ground truth; one file a seed.
        b: those of the other system.
        ground_truth: as of `score`, like the other options.
        subset: of the ground truth.
        protocol: a name of `tspbench list protocols`.
        unknown_videos: what to do about predictions for videos that the ground truth lacks.
        json: where to write the result, if anywhere.

    Returns:
        Each metric's difference b - a as a fraction, with its 95 % interval and p-value.

    Raises:
        UserError: a name is unknown, a file does not fit, or the files were not scored alike.

    Example:
        >>> found = api.compare("tal", "predictions.json", "predictions.json", "my-videos/annotations.json")
        >>> found.metrics["average_mAP"].difference
        0.0
    """
    _check_unknown_videos(unknown_videos)
    with progress("compare") as advance:
        return compare_files(
            task,
            needed("a", a),
            needed("b", b),
            paths(ground_truth),
            subset,
            protocol,
            unknown=unknown_videos,
            json_out=None if json is None else Path(json),
            report=advance,
        )


def diagnose(
    predictions: Place,
    ground_truth: Places,
    out: Place,
    *,
    subset: str = "validation",
    protocol: str | None = None,
    unknown_videos: UnknownVideos = "refuse",
) -> DiagnosisReport:
    """Profile the errors of detections (DETAD): false positives by kind, sensitivity by length, coverage and number.

    Args:
        predictions: ActivityNet or THUMOS14 detections.
        ground_truth: as of `score`, like the other options.
        out: folder for tables, numbers and figure.
        subset: of the ground truth.
        protocol: a name of `tspbench list protocols`.
        unknown_videos: what to do about predictions for videos that the ground truth lacks.

    Raises:
        UserError: a name is unknown, a file does not fit or ``out`` cannot be written.

    Example:
        >>> found = api.diagnose("predictions.json", "my-videos/annotations.json", "runs/diagnosis")
        >>> print(found.diagnosis.false_negatives)
        0.0
    """
    _check_unknown_videos(unknown_videos)
    truth = needed("--ground-truth", ground_truth)
    return diagnose_files(Path(predictions), truth, subset, protocol, out=Path(out), unknown=unknown_videos)


def _check_unknown_videos(what: str) -> None:
    choose("treatment of --unknown-videos", what, get_args(UnknownVideos))
