"""The commands that score, compare and diagnose prediction files, and what they print; none needs torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.stages.score import ScoreReport, UnknownVideos, score_files


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
    with progress("resample") as advance:
        report = score_files(
            task,
            predictions,
            ground_truth,
            subset,
            protocol,
            labels=labels,
            unknown=unknown,
            per_class=per_class,
            intervals=intervals,
            json_out=json_out,
            report=advance,
        )
    for line in summary(task, report.counts, unknown):
        say(line)
    console = Console()
    console.print(_scores(report))
    if report.per_class:
        console.print(_classes(report.per_class))
    say(f"Signature: {report.signature}")
    if report.failed:
        raise UserError(" ".join(f"{', '.join(report.failed)}: {next(iter(report.failed.values()))}".split()))


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
    table.add_column("percent", justify="right")
    if report.intervals:
        table.add_column("95 % interval", justify="right")
    for name, value in report.metrics.items():
        low, high = report.intervals.get(name, (0.0, 0.0))
        interval = [f"{100 * low:.2f} to {100 * high:.2f}"] if report.intervals else []
        table.add_row(name, f"{100 * value:.2f}", *interval)
    for name in report.failed:
        table.add_row(name, "failed")
    return table


def _classes(per_class: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table()
    table.add_column("class")
    for name in next(iter(per_class.values())):
        table.add_column(name.removeprefix("AP"), justify="right")
    for label, values in sorted(per_class.items()):
        table.add_row(label, *("—" if value is None else f"{100 * value:.2f}" for value in values.values()))
    return table
