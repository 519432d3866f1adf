"""DETAD on the page: kinds of error, and how well segments are found by their length, coverage and number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.diagnosis import BucketScores, Diagnosis, diagnose
from evaluation.error_kinds import KINDS, judge
from evaluation.protocols import DetectionProtocol
from evaluation.segments import GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.page.charts import Axis, Figure, Series, line_chart, rows_of, stacked_chart
from tspbench.page.contents import PageRun, RowStyle, ScoredRow, Truth, left_out_of, protocol_of
from tspbench.page.tables import Table
from tspbench.plots import KIND_COLOURS, heading_of, percent, text_of
from tspbench.storage.formats import read_any_predictions
from tspbench.storage.runs import Row, TaskTable

SLICES: Final = [f"{k}G" for k in range(1, 11)]
THIRDS: Final = ("short", "middle", "long")
HALF: Final = DetectionProtocol(name="found", thresholds=(0.5,), source="tIoU of the segments that count as found")


@dataclass(frozen=True)
class RowDetections:
    """What a row has found, and what there is to be found.

    Args:
        table: the row's.
        row: of the run.
        truth: with the classes that the score was of, without what its protocol leaves out.
        found: aligned to ``truth``, likewise.
    """

    table: TaskTable
    row: Row
    truth: GroundTruth
    found: Predictions


def row_detections(run: PageRun, rows: Sequence[ScoredRow], truth: Truth) -> tuple[list[RowDetections], list[str]]:
    """Read the predictions of rows of one task; of proposals the class is not looked at.

    Returns:
        What could be read, and a sentence for each row whose predictions could not.
    """
    everything, remarks = [], []
    for each in rows:
        target = _labelled(truth, getattr(each.statistics, "labels", ("action",)))
        labelled, protocol = each.table.task == "tal", protocol_of(each.table)
        try:
            found = read_any_predictions(run.predictions(each.row), target, keep_unknown=True, labelled=labelled)
        except UserError as error:
            remarks.append(left_out_of("the errors and time lines", each.row.name, error))
            continue
        if protocol is not None:
            target, found = protocol.scoped(target), protocol.scoped_predictions(found)
        everything.append(RowDetections(each.table, each.row, target, found))
    return everything, remarks


def error_figures(rows: Sequence[RowDetections], truth: Truth, styles: Mapping[str, RowStyle]) -> list[Figure]:
    """Diagnose the detections of each row; nothing where DETAD has no rules for the protocol."""
    found = {each.row.name: diagnosis for each in rows if (diagnosis := _diagnosis(each, truth))}
    if not found:
        return []
    return [_profile(found, styles), _impact(found), *_by_length(rows, styles), *_sensitivity(found, styles)]


def left_out(rows: Sequence[RowDetections], truth: Truth) -> list[str]:
    """Say which characteristics are not drawn because all segments fall into one of their buckets."""
    diagnosis = next((found for each in rows if (found := _diagnosis(each, truth))), None)
    return [
        f"{text_of(scores.characteristic.name)} is not drawn: all {int(scores.segments.sum())} segments fall into the "
        f"bucket {_only(scores)} of DETAD."
        for scores in (diagnosis.buckets if diagnosis else ())
        if np.count_nonzero(scores.segments) < 2
    ]


def _labelled(truth: Truth, labels: Sequence[str]) -> GroundTruth:
    """Return the scored segments with the classes of a score; one that tells none apart gives all the same."""
    whole = truth.annotations.ground_truth(truth.subset)
    if len(labels) != 1 or whole.labels == tuple(labels):
        return whole
    return GroundTruth(whole.videos, tuple(labels), whole.video, whole.start, whole.end, np.zeros_like(whole.label))


def _diagnosis(each: RowDetections, truth: Truth) -> Diagnosis | None:
    seconds = {video.name: video.duration_seconds for video in truth.annotations.subset(truth.subset)}
    durations = np.array([seconds[name] if seconds[name] is not None else np.nan for name in each.truth.videos])
    try:
        return diagnose(each.truth, durations.astype(np.float64), each.found, protocol_of(each.table))
    except (ValueError, AttributeError):  # no rules for the protocol
        return None


def _profile(found: Mapping[str, Diagnosis], styles: Mapping[str, RowStyle]) -> Figure:
    kinds = [(text_of(kind).lower(), KIND_COLOURS[kind]) for kind in KINDS]
    drawings = [
        stacked_chart(f"Errors of {name}", diagnosis.false_positives.shares.tolist(), SLICES, kinds)
        for name, diagnosis in found.items()
    ]
    cells = [
        [name, *(percent(share) for share in diagnosis.false_positives.shares[0].tolist())]
        for name, diagnosis in found.items()
    ]
    return Figure(
        "What the best predictions are",
        "Each class's predictions by score, in slices of its G segments: the share (%) of each slice that is right, or "
        "wrong in one of five ways.",
        drawings,
        Table("Shares of the first slice (1G), in percent", ["features", *(name for name, _ in kinds)], cells),
        [(name, styles[name]) for name in found],
        many=True,
    )


def _impact(found: Mapping[str, Diagnosis]) -> Figure:
    kinds = list(next(iter(found.values())).false_positives.impact)
    cells = [
        [name, *(percent(diagnosis.false_positives.impact[kind], 2) for kind in kinds)]
        for name, diagnosis in found.items()
    ]
    table = Table(
        "What average-mAP_N would gain without each kind of error, in points",
        ["features", *(text_of(kind).lower() for kind in kinds)],
        cells,
    )
    return Figure("What each kind of error costs", "", [], table)


def found_by_length(truth: GroundTruth, found: Predictions) -> list[tuple[float, int, float]]:
    """Say how many short, middle and long segments the best predictions find.

    The segments are cut into thirds by the quantiles of their own lengths, those of length 0 left out; of each class
    with G segments the G best predictions count, at tIoU 0.5.

    Returns:
        For each third the greatest length in seconds, the number of segments, and the share that is found; nothing
        where all lengths fall into one third.
    """
    truth = truth.where(truth.end > truth.start)
    lengths = truth.end - truth.start
    if not len(lengths):
        return []
    judged = judge(truth, found, HALF)
    positives = np.bincount(truth.label, minlength=len(truth.labels))
    match = judged.match[judged.rank < positives[judged.label], 0]
    hit = np.isin(np.arange(len(truth)), match)
    third = np.searchsorted(np.quantile(lengths, (1 / 3, 2 / 3)), lengths, side="left")
    parts = [third == k for k in range(3)]
    if not all(part.any() for part in parts):
        return []
    return [(float(lengths[part].max()), int(part.sum()), float(hit[part].mean())) for part in parts]


def _by_length(rows: Sequence[RowDetections], styles: Mapping[str, RowStyle]) -> list[Figure]:
    shares = {each.row.name: parts for each in rows if (parts := found_by_length(each.truth, each.found))}
    if not shares:
        return []
    first = next(iter(shares.values()))
    names = [f"{name}, to {longest:.3g} s" for name, (longest, _, _) in zip(THIRDS, first, strict=True)]
    series = [
        Series(name, styles[name], [(float(k), 100 * share) for k, (_, _, share) in enumerate(parts)])
        for name, parts in shares.items()
    ]
    title = "Short, middle and long segments"
    cells = [[each.name, *(_text(value) for _, value in each.points)] for each in series]
    counts = ", ".join(str(count) for _, count, _ in first)
    return [
        Figure(
            title,
            f"Share that is found at tIoU 0.5 by each class's G best predictions, in thirds by length ({counts} "
            "segments): cut by this data set's own lengths, where DETAD's buckets are the same for all.",
            [line_chart(title, series, Axis("length", 0, 1, names), Axis("found (%)", 0, 100), dots=True)],
            Table(f"{title}: found, in percent", ["features", *names], cells),
            rows_of(series),
        )
    ]


def _sensitivity(found: Mapping[str, Diagnosis], styles: Mapping[str, RowStyle]) -> list[Figure]:
    first = next(iter(found.values()))
    figures = []
    for place, scores in enumerate(first.buckets):
        held = np.flatnonzero(scores.segments)
        if len(held) < 2:
            continue
        names = [f"{scores.characteristic.buckets[b]}" for b in held]
        series = [
            Series(
                name,
                styles[name],
                [(float(k), 100 * float(diagnosis.buckets[place].average_map[b])) for k, b in enumerate(held)],
            )
            for name, diagnosis in found.items()
        ]
        title = f"Sensitivity by {scores.characteristic.name}"
        x, y = Axis(heading_of(scores, first).lower(), 0, 1, names), Axis("average-mAP_N (%)", 0, 100)
        spans = scores.characteristic.ranges()
        said = ", ".join(f"{scores.characteristic.buckets[b]} {spans[b]} ({scores.segments[b]})" for b in held)
        cells = [[each.name, *(_text(value) for _, value in each.points)] for each in series]
        figures.append(
            Figure(
                title,
                f"Average-mAP_N of the segments in each bucket, with their number: {said}.",
                [line_chart(title, series, x, y, dots=True)],
                Table(f"{title}: average-mAP_N in percent", ["features", *names], cells),
                rows_of(series),
            )
        )
    return figures


def _only(scores: BucketScores) -> str:
    held = int(np.argmax(scores.segments))
    unit = {"length": " s", "coverage": " of the video"}.get(scores.characteristic.name, "")
    return f"{scores.characteristic.buckets[held]}, {scores.characteristic.ranges()[held]}{unit}"


def _text(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:.2f}"
