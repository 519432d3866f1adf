"""Prediction file → error profile: tables and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from evaluation import score_signature
from evaluation.diagnosis import BucketScores, Diagnosis, diagnose
from evaluation.error_kinds import KINDS
from evaluation.protocols import DetectionProtocol
from tspbench import __version__
from tspbench.plots import diagnosis_figure, heading_of, image_bytes, percent, text_of
from tspbench.stages.score import Target, UnknownVideos, read_segments, read_target
from tspbench.storage.atomic import write_bytes, write_json, write_text
from tspbench.storage.hashes import hash_data

TABLES_FILE: Final = "diagnosis.md"
NUMBERS_FILE: Final = "diagnosis.json"
FIGURE_FILE: Final = "diagnosis.png"


class DiagnosisReport(NamedTuple):
    """A diagnosis with all that explains it.

    Attributes:
        predictions: name of the file that was diagnosed.
        diagnosis: see ``evaluation.diagnosis``.
        counts: those of ``diagnosis``, with the unknown videos that were dropped before.
        notes: sentences on what was diagnosed, missing and left out.
        signature: two diagnoses can be compared only if theirs are equal.
    """

    predictions: str
    diagnosis: Diagnosis
    counts: dict[str, int]
    notes: list[str]
    signature: str


def diagnose_files(
    predictions: Path,
    ground_truth: Sequence[Path],
    subset: str = "validation",
    protocol: str | None = None,
    *,
    out: Path,
    labels: Path | None = None,
    unknown: UnknownVideos = "refuse",
) -> DiagnosisReport:
    """Diagnose a prediction file, and write tables, numbers and a figure into the folder ``out``.

    Args:
        predictions: ActivityNet submission or THUMOS14 text.
        ground_truth: files that ``tspbench.stages.score.read_target`` reads.
        subset: the subset of ``ground_truth`` to diagnose on, such as "validation".
        protocol: key of ``evaluation.PROTOCOLS["tal"]``; None: its first.
        out: receives diagnosis.md, diagnosis.json and diagnosis.png.
        labels: list of the classes (JSON list or .txt); every label of ``ground_truth`` if None.
        unknown: what to do about predictions for videos that the ground truth lacks.

    Raises:
        UserError: a name is unknown, a file does not fit or ``out`` cannot be written.
    """
    target = read_target("tal", ground_truth, subset, protocol, labels)
    found, dropped = read_segments(target, predictions, unknown)
    assert isinstance(target.protocol, DetectionProtocol)  # noqa: S101 - every protocol of the task "tal" is one
    diagnosis = diagnose(target.truth, target.durations, found, target.protocol)
    counts = {**diagnosis.counts, **dropped}
    report = DiagnosisReport(
        predictions=predictions.name,
        diagnosis=diagnosis,
        counts=counts,
        notes=notes(counts, "dropped" if dropped else "counted as wrong"),
        signature=_signature(target, diagnosis, counts, dropped=bool(dropped)),
    )
    write_text(out / TABLES_FILE, markdown(report))
    write_json(out / NUMBERS_FILE, numbers(report))
    figure = diagnosis_figure(diagnosis, f"DETAD: {predictions.name}", report.signature)
    write_bytes(out / FIGURE_FILE, image_bytes(figure))
    return report


def _signature(target: Target, diagnosis: Diagnosis, counts: Mapping[str, int], *, dropped: bool) -> str:
    durations = dict(zip(target.truth.videos, target.durations.tolist(), strict=True))
    fields = [
        score_signature("DETAD", diagnosis.protocol, target.truth, __version__),
        f"diagnosed:{counts['diagnosed']}",
        f"durations:{hash_data(durations)[:8]}",
    ]
    if counts["unknown_videos"]:
        fields.append("unknown-videos:" + ("dropped" if dropped else "counted"))
    return "|".join(fields)


def notes(counts: Mapping[str, int], unknown: str) -> list[str]:
    """Return sentences on what was diagnosed, missing and left out; ``unknown`` videos were dropped or counted."""
    lines = [
        f"Diagnosed: {counts['predictions']:,} predictions against {counts['diagnosed']:,} segments of "
        f"{counts['videos']:,} videos."
    ]
    templates = {
        "zero_length_ground_truth": "Left out: {:,} segments end where they start.",
        "coverage_above_one": "Left out: {:,} segments are longer than their video.",
        "missing_videos": "Missing: {:,} videos have no prediction and count as missed.",
        "labels_without_predictions": "Labels: {:,} have no prediction and count 0.",
        "labels_without_ground_truth": "Labels: {:,} have no segment and are left out of the means.",
        "predictions_of_labels_without_ground_truth": "Left out: {:,} predictions are of labels without a segment.",
    }
    lines += [template.format(counts[name]) for name, template in templates.items() if counts[name]]
    if counts["unknown_videos"]:
        lines.append(
            f"Unknown: {counts['unknown_videos']:,} videos are not in the ground truth; their "
            f"{counts['predictions_of_unknown_videos']:,} predictions were {unknown}."
        )
    if counts["without_coverage"] == counts["diagnosed"]:
        lines.append("Coverage is left out: the ground truth states no duration of a video.")
    elif counts["without_coverage"]:
        lines.append(
            f"Coverage: {counts['without_coverage']:,} segments have none, for want of their video's duration."
        )
    return lines


def numbers(report: DiagnosisReport) -> dict[str, object]:
    """Return every number of a diagnosis as plain data, as fractions; an undefined one becomes null in JSON."""
    diagnosis = report.diagnosis
    false_positives = diagnosis.false_positives
    return {
        "task": "tal",
        "protocol": diagnosis.protocol.name,
        "signature": report.signature,
        "counts": report.counts,
        "thresholds": diagnosis.protocol.thresholds,
        "instances_per_class": diagnosis.instances_per_class,
        "average_mAP_N": diagnosis.average_map,
        "false_positives": {
            "slices": [
                {"predictions": count, **dict(zip(KINDS, shares, strict=True))}
                for count, shares in zip(
                    false_positives.predictions.tolist(), false_positives.shares.tolist(), strict=True
                )
            ],
            "average_mAP_N": false_positives.average_map,
            "impact": false_positives.impact,
        },
        "false_negatives": diagnosis.false_negatives,
        "characteristics": {scores.characteristic.name: _bucket_numbers(scores) for scores in diagnosis.buckets},
    }


def _bucket_numbers(scores: BucketScores) -> dict[str, object]:
    columns = {
        "name": scores.characteristic.buckets,
        "above": scores.characteristic.bounds[:-1],
        "up_to": scores.characteristic.bounds[1:],
        "segments": scores.segments.tolist(),
        "share": scores.shares.tolist(),
        "average_mAP_N": scores.average_map.tolist(),
        "false_negatives": scores.false_negatives.tolist(),
    }
    buckets = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"buckets": buckets, "lowest": scores.lowest, "highest": scores.highest}


def markdown(report: DiagnosisReport) -> str:
    """Render a diagnosis as Markdown tables in percent."""
    diagnosis = report.diagnosis
    thresholds = ", ".join(f"{threshold:.2f}" for threshold in diagnosis.protocol.thresholds)
    lines = [f"# Diagnosis of `{report.predictions}`", "", *report.notes, ""]
    lines += [
        f"At tIoU {thresholds} average-mAP_N is {percent(diagnosis.average_map, 2)} %, with N = "
        f"{diagnosis.instances_per_class:.2f} segments a class, and {percent(diagnosis.false_negatives)} % of the "
        "segments are not found.",
        "",
        f"![Diagnosis]({FIGURE_FILE})",
        "",
        *_false_positives(diagnosis),
        "",
        "## Sensitivity and false negatives",
    ]
    for scores in diagnosis.buckets:
        lines += ["", *_buckets(scores, diagnosis)]
    lines += ["", f"Signature: `{report.signature}`"]
    return "\n".join(lines) + "\n"


def _false_positives(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of the profile and of the impacts."""
    found = diagnosis.false_positives
    rows = [[text_of(kind), *map(percent, shares)] for kind, shares in zip(KINDS, found.shares.T.tolist(), strict=True)]
    rows.append(["Predictions", *(f"{count:,}" for count in found.predictions.tolist())])
    impact = [[text_of(kind), percent(gain, 2)] for kind, gain in found.impact.items()]
    return [
        "## False positives",
        "",
        "The best predictions of each class, in slices of its G segments; share of each slice in percent.",
        "",
        *_table(["", *(f"{k}G" for k in range(1, len(found.predictions) + 1))], rows),
        "",
        f"These predictions have an average-mAP_N of {percent(found.average_map, 2)} %; what it gains, in percentage "
        "points, when one kind of error is removed:",
        "",
        *_table(["removed", "gain"], impact),
    ]


def _buckets(scores: BucketScores, diagnosis: Diagnosis) -> list[str]:
    """Return the lines of one characteristic."""
    rows = [
        [name, span, f"{segments:,}", percent(share), percent(average_map, 2), percent(missed)]
        for name, span, segments, share, average_map, missed in zip(
            scores.characteristic.buckets,
            scores.characteristic.ranges(),
            scores.segments.tolist(),
            scores.shares.tolist(),
            scores.average_map.tolist(),
            scores.false_negatives.tolist(),
            strict=True,
        )
    ]
    everything = [percent(diagnosis.average_map, 2), percent(diagnosis.false_negatives)]
    rows.append(["all", "", f"{diagnosis.counts['diagnosed']:,}", "", *everything])
    spread = "—" if np.isnan(scores.lowest) else f"{scores.lowest:.2f} to {scores.highest:.2f}"
    heads = ["bucket", "range", "segments", "share %", "average-mAP_N %", "not found %"]
    return [
        f"### {heading_of(scores, diagnosis)}",
        "",
        *_table(heads, rows),
        "",
        f"Lowest and highest bucket relative to all segments: {spread}.",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, numbers to the right."""
    rule = "|" + "|".join(["---", *["---:"] * (len(heads) - 1)]) + "|"
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
