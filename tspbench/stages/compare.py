"""Prediction files A and B → paired difference with interval and p-value."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from evaluation import METRICS
from evaluation.significance import Difference, check_repetitions, paired_bootstrap
from tspbench.config import choose
from tspbench.errors import UserError
from tspbench.stages.score import Target, UnknownVideos, read_scored, read_target
from tspbench.storage.atomic import write_json
from tspbench.storage.statistics import read_statistics

STATISTICS_SUFFIX: Final = ".npz"
UNKNOWN_VIDEOS: Final = "|unknown-videos:"


@dataclass(frozen=True)
class Comparison:
    """What ``tspbench compare --json`` writes.

    Each metric is compared by itself: of many that do not differ, one in twenty has a p-value below 0.05.

    Attributes:
        task: key of ``evaluation.METRICS``.
        a: files of the first system, one a seed.
        b: files of the second system, one a seed.
        metrics: metric → both scores, their difference b - a, its interval and p-value, as fractions.
        failed: metric → why it could not be computed for one of the files.
        videos: number of videos that were resampled.
        repetitions: number of resamples.
        level: of the intervals.
        seed: of the resamples.
        signature: that all files have in common.
    """

    task: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    metrics: dict[str, Difference]
    failed: dict[str, str]
    videos: int
    repetitions: int
    level: float
    seed: int
    signature: str


class _Scored(NamedTuple):
    """One file, compared with the ground truth."""

    path: Path
    statistics: Any
    signature: str


def compare(
    task: str,
    a: Sequence[Path],
    b: Sequence[Path],
    ground_truth: Sequence[Path] = (),
    subset: str = "validation",
    protocol: str | None = None,
    *,
    labels: Path | None = None,
    unknown: UnknownVideos = "refuse",
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    json_out: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two systems on the same videos.

    Args:
        task: key of ``evaluation.METRICS``.
        a: files of the first system, one a seed: predictions that ``read_scored`` reads, or statistics.npz files of
            ``tspbench evaluate``.
        b: those of the second system, in any number.
        ground_truth: files that ``read_target`` reads; statistics need none.
        subset: the subset of ``ground_truth`` to score on, such as "validation"; captions have none.
        protocol: key of ``evaluation.PROTOCOLS[task]``; None: its first. Statistics bring their own.
        labels: list of the classes (JSON list or .txt); every label of ``ground_truth`` if None.
        unknown: what to do about predictions for videos that the ground truth lacks.
        repetitions: number of resamples of the videos.
        level: of the intervals, within (0, 1).
        seed: of the resamples.
        json_out: where to write the comparison, if anywhere.
        report: called with (steps done, steps in all) while METEOR works and while videos are resampled.

    Raises:
        UserError: a name is unknown, a file does not fit, or the files were not scored alike; one sentence that says
            what to do.
    """
    choose("task", task, METRICS)
    for paths in (a, b):
        if twice := [path for number, path in enumerate(paths) if path in paths[:number]]:
            raise UserError(f"{twice[0]}: expected each seed of a system once, found this file twice; remove one.")
    try:
        check_repetitions(repetitions, level)
    except ValueError as error:
        raise UserError(str(error)) from error
    target = _target(task, [*a, *b], ground_truth, subset, protocol, labels)
    first, second = ([_read(task, target, path, unknown, report) for path in paths] for paths in (a, b))
    every = [*first, *second]
    signature = _common_signature(every)
    failed: dict[str, str] = {}
    for scored in every:
        failed |= getattr(scored.statistics, "problems", {})
    found = paired_bootstrap(
        METRICS[task].score,
        [scored.statistics for scored in first],
        [scored.statistics for scored in second],
        np.random.default_rng(seed),
        repetitions,
        level,
        report,
    )
    comparison = Comparison(
        task=task,
        a=tuple(map(str, a)),
        b=tuple(map(str, b)),
        metrics={name: difference for name, difference in found.items() if name not in failed},
        failed=failed,
        videos=len(every[0].statistics.videos),
        repetitions=repetitions,
        level=level,
        seed=seed,
        signature=signature,
    )
    if json_out is not None:
        write_json(json_out, asdict(comparison))
    return comparison


def verdict(comparison: Comparison, metric: str) -> str:
    """Say in two sentences which system is better in a metric, if that is shown, and what was resampled.

    A difference is shown if p is at most 1 - level and the interval does not hold 0.
    """
    return f"{_finding(comparison.metrics[metric], metric, comparison.level)} {_resampled(comparison)}"


def _finding(found: Difference, metric: str, level: float) -> str:
    if math.isnan(found.difference):
        without = " and ".join(name for name, value in (("A", found.a), ("B", found.b)) if math.isnan(value))
        return f"Nothing is shown about {metric}: it has no value for {without}."
    if math.isnan(found.p):
        return f"Nothing is shown about {metric}: it has no value on {found.undefined} resamples of the videos."
    if found.difference == found.low == found.high == 0.0:
        return f"A and B have the same {metric} on every resample of the videos."
    if math.isnan(found.low):
        return f"No difference in {metric} is shown: one video says nothing about others."
    low, high, size = found.low, found.high, found.difference
    p = f"p = {found.p:.3f}" if found.p >= 0.0005 else "p < 0.001"
    shown = found.p <= 1 - level and not low <= 0.0 <= high
    if shown and size < 0.0:
        low, high, size = -high, -low, -size
    numbers = f"({100 * level:g} % interval {_points(low)} to {_points(high)}, {p})"
    if not shown:
        return f"No difference in {metric} is shown: B - A is {_points(size)} points {numbers}."
    better = "B" if found.difference > 0.0 else "A"
    return f"{better} is better in {metric} by {_points(size)} points {numbers}."


def _resampled(comparison: Comparison) -> str:
    seeds = {"A": len(comparison.a), "B": len(comparison.b)}
    videos = f"{comparison.videos:,} videos were resampled"
    several = [name for name, number in seeds.items() if number > 1]
    if not several:
        return f"The {videos}; with one seed each, this says nothing about chance in training."
    if len(several) == 1:
        (one,) = seeds.keys() - {several[0]}
        return (
            f"The {videos}; chance in training is that between the {seeds[several[0]]} seeds of {several[0]}, taken to "
            f"be the same for {one}."
        )
    return f"The {videos}; chance in training is that between the seeds, {seeds['A']} of A and {seeds['B']} of B."


def _points(fraction: float) -> str:
    """Return a fraction in percent, with as many decimals as it takes not to be 0."""
    text = f"{100 * fraction:.2f}"
    return text if float(text) else f"{100 * fraction + 0.0:.1g}"


def _target(
    task: str,
    files: Sequence[Path],
    ground_truth: Sequence[Path],
    subset: str,
    protocol: str | None,
    labels: Path | None,
) -> Target | None:
    """Read what the prediction files among ``files`` are scored against; None if there is none."""
    predictions = [path for path in files if path.suffix != STATISTICS_SUFFIX]
    if not predictions:
        return None
    if not ground_truth:
        raise UserError(
            f"{predictions[0]}: expected a ground truth to score it against, found none; give --ground-truth, or the "
            "statistics.npz of a run."
        )
    return read_target(task, ground_truth, subset, protocol, labels)


def _read(
    task: str, target: Target | None, path: Path, unknown: UnknownVideos, report: Callable[[int, int], None] | None
) -> _Scored:
    """Read the statistics of a file, or score its predictions."""
    if target is not None and path.suffix != STATISTICS_SUFFIX:
        scored = read_scored(target, path, unknown, report)
        return _Scored(path, scored.statistics, scored.signature)
    stored = read_statistics(path)
    if stored.task != task:
        raise UserError(
            f"{path}: expected statistics of the task {task}, found {stored.task}; give --task {stored.task}."
        )
    return _Scored(path, stored.statistics, stored.signature)


def _common_signature(every: Sequence[_Scored]) -> str:
    """Return the signature of all files; that one of them had unknown videos, too, is no difference.

    Raises:
        UserError: two files were scored by other rules or on another ground truth.
    """
    first = every[0]
    for other in every[1:]:
        (mine, _, my_rule), (others, _, other_rule) = (
            scored.signature.partition(UNKNOWN_VIDEOS) for scored in (first, other)
        )
        if mine != others or (my_rule and other_rule and my_rule != other_rule):
            raise UserError(
                f"{first.path} ({first.signature}) and {other.path} ({other.signature}) were not scored alike: score "
                "both by one protocol on one ground truth, with one version of tspbench."
            )
    return max((scored.signature for scored in every), key=len)
