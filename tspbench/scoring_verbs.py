"""The commands that score, compare and diagnose prediction files, and what they print; none needs torch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tspbench import api
from tspbench.errors import UserError
from tspbench.progress import say
from tspbench.stages.compare import Comparison, verdict
from tspbench.stages.diagnose import FIGURE_FILE, TABLES_FILE, markdown
from tspbench.stages.score import ScoreReport, UnknownVideos

MOST_COLUMNS: Final = 6
USUAL: Final = ("AP@0.50", "AP@0.75", "AP@0.95", "average_AP")
HEADLINES: Final = {"tal": "average_mAP", "proposals": "AUC", "captioning": "METEOR"}


def score_predictions(
    task: str,
    predictions: Path,
    ground_truth: Sequence[Path],
    subset: str,
    protocol: str | None,
    *,
    labels: Path | None,
    unknown: UnknownVideos,
    per_class: bool,
    intervals: bool,
    json_out: Path | None,
) -> None:
    """Score a prediction file; print what was scored, then the metrics in percent."""
    report = api.score(
        task,
        predictions,
        ground_truth,
        subset=subset,
        protocol=protocol,
        labels=labels,
        unknown_videos=unknown,
        per_class=per_class,
        intervals=intervals,
        json=json_out,
    )
    for line in summary(task, report.counts, unknown):
        say(line)
    console = Console()
    console.print(_scores(report))
    if report.per_class:
        console.print(_classes(report.per_class))
    say(f"Signature: {report.signature}")
    _raise_failed(report.failed)


def compare_predictions(
    task: str,
    a: str,
    b: str,
    ground_truth: Sequence[Path],
    subset: str,
    protocol: str | None,
    *,
    unknown: UnknownVideos,
    json_out: Path | None,
) -> None:
    """Compare two systems, each one file or several with commas between them, and print the differences in points."""
    found = api.compare(
        task,
        _paths(a),
        _paths(b),
        ground_truth,
        subset=subset,
        protocol=protocol,
        unknown_videos=unknown,
        json=json_out,
    )
    say(f"A: {', '.join(found.a)}")
    say(f"B: {', '.join(found.b)}")
    Console().print(_differences(found))
    if (headline := HEADLINES[task]) in found.metrics:
        say(verdict(found, headline))
    say(f"Signature: {found.signature}")
    _raise_failed(found.failed)


def diagnose_predictions(
    predictions: Path,
    ground_truth: Sequence[Path],
    subset: str,
    protocol: str | None,
    out: Path,
    *,
    unknown: UnknownVideos,
) -> None:
    """Diagnose a prediction file; print the tables, and say where they and the figure are."""
    report = api.diagnose(predictions, ground_truth, out, subset=subset, protocol=protocol, unknown_videos=unknown)
    print(markdown(report), end="")
    say(f"Tables: {out / TABLES_FILE}; figure: {out / FIGURE_FILE}")


def _paths(text: str) -> list[Path]:
    """Return the files of a text such as seed0.json,seed1.json."""
    paths = [Path(part) for part in text.split(",") if part]
    if not paths:
        raise UserError(f"{text!r}: expected a prediction file, or several with commas between them, found none.")
    return paths


def _raise_failed(failed: Mapping[str, str]) -> None:
    """Say last, and by the exit code, which metrics could not be computed."""
    if failed:
        raise UserError(f"Without {', '.join(failed)}: {next(iter(failed.values()))}")


def summary(task: str, counts: Mapping[str, int], unknown: UnknownVideos) -> list[str]:
    """Return sentences on what was scored, missing and unknown."""
    things = "reference sentences" if task == "captioning" else "segments"
    lines = [
        f"Scored: {counts['predictions']:,} predictions against {counts['ground_truth']:,} {things} of "
        f"{counts['videos']:,} videos."
    ]
    if counts["missing_videos"]:
        lines.append(f"Missing: {counts['missing_videos']:,} videos have no prediction and count as missed.")
    if counts["unknown_videos"]:
        done = "dropped" if unknown == "drop" or task == "captioning" else "counted as wrong"
        lines.append(
            f"Unknown: {counts['unknown_videos']:,} videos are not in the ground truth; their "
            f"{counts['predictions_of_unknown_videos']:,} predictions were {done}."
        )
    if counts.get("predictions_beyond_limit"):
        lines.append(
            f"Left out: {counts['predictions_beyond_limit']:,} predictions are beyond the protocol's number a video."
        )
    if counts.get("zero_length_ground_truth"):
        lines.append(f"Zero length: {counts['zero_length_ground_truth']:,} segments end where they start.")
    if counts.get("labels_without_predictions"):
        lines.append(f"Labels: {counts['labels_without_predictions']:,} have no prediction and count 0.")
    if counts.get("labels_without_ground_truth"):
        lines.append(f"Labels: {counts['labels_without_ground_truth']:,} have no segment and are left out of the mean.")
    return lines


def _scores(report: ScoreReport) -> Table:
    table = Table()
    table.add_column("metric")
    # METEOR and its like are fractions, too, but CIDEr goes up to 10.
    table.add_column("× 100" if report.task == "captioning" else "percent", justify="right")
    if report.intervals:
        table.add_column("95 % interval", justify="right")
    for name, value in report.metrics.items():
        interval = [_interval(*report.intervals[name])] if report.intervals else []
        table.add_row(name, f"{100 * value:.2f}", *interval)
    for name in report.failed:
        table.add_row(name, "failed")
    return table


def _differences(found: Comparison) -> Table:
    table = Table()
    for head in ("metric", "A", "B", "B - A", f"{100 * found.level:g} % interval", "p"):
        table.add_column(head, justify="right" if table.columns else "left")
    for name, metric in found.metrics.items():
        points = [f"{100 * value:.2f}" for value in (metric.a, metric.b, metric.difference)]
        p = "—" if math.isnan(metric.p) else f"{metric.p:.3f}"
        table.add_row(name, *points, _interval(metric.low, metric.high), p)
    for name in found.failed:
        table.add_row(name, "failed")
    return table


def _classes(per_class: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Show every threshold where there is room, else the usual three; the JSON has all."""
    names = list(next(iter(per_class.values())))
    shown = names if len(names) <= MOST_COLUMNS else [name for name in names if name in USUAL]
    table = Table()
    table.add_column("class")
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for label, values in sorted(per_class.items()):
        table.add_row(_plain(label), *(_percent(values[name]) for name in shown))
    return table


def _interval(low: float, high: float) -> str:
    return "—" if math.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"


def _plain(name: str) -> Text:
    """Return a name from a file as nothing but text: no markup, no control characters."""
    return Text("".join(character if character.isprintable() else " " for character in name))


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.2f}"
