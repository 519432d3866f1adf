"""Run records → tables: Markdown for a paper, the same for the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.table import Table

from tspbench.errors import UserError
from tspbench.storage.atomic import write_text
from tspbench.storage.records import Record, read_record
from tspbench.storage.runs import Run, read_run

TABLE_FILE: Final = "table.md"
UNFINISHED: Final = "—"
INTERVAL: Final = "95 % interval"
INTERVAL_NOTE: Final = (
    f"{INTERVAL}: of the average, over 1,000 resamples of the scored videos; how much other seeds change is not in it."
)
COLUMNS: Final = {"mAP@0.50": "mAP@0.50", "mAP@0.75": "@0.75", "mAP@0.95": "@0.95", "average_mAP": "average"}


@dataclass(frozen=True)
class ResultTable:
    """The cells of a table as text, and what stands around them."""

    run: Run
    header: list[str]
    cells: list[list[str]]
    signature: str | None


def result_table(folder: Path) -> ResultTable:
    """Collect the table of the run in ``folder`` from its records; a row without a finished score shows "—".

    Raises:
        UserError: not a run, or rows whose scores do not mean the same (other protocol, other ground truth).
    """
    run = read_run(folder)
    records = {row.name: read_record(folder / row.folder / "score") for row in run.rows}
    signatures = {str(record.figures["signature"]): name for name, record in records.items() if record}
    if len(signatures) > 1:
        (first, row), (second, other) = list(signatures.items())[:2]
        raise UserError(
            f"{folder}: the rows {row!r} ({first}) and {other!r} ({second}) cannot stand in one table: score them by "
            "one protocol on one ground truth."
        )
    columns = _columns(next((record for record in records.values() if record), None))
    cells = [[name, *(_cell(record, key) for key in columns), _interval(record)] for name, record in records.items()]
    header = ["features", *columns.values(), INTERVAL]
    return ResultTable(run, header, cells, next(iter(signatures), None))


def write_table(folder: Path) -> ResultTable:
    """Write ``table.md`` into the run's folder and return the table."""
    table = result_table(folder)
    write_text(folder / TABLE_FILE, markdown(table))
    return table


def markdown(table: ResultTable) -> str:
    """Render a table as Markdown, with its heading, what the rows share, its signature and its notes."""
    lines = [f"# {table.run.title}", ""]
    lines += ["| " + " | ".join(_escaped(cell) for cell in cells) + " |" for cells in [table.header]]
    lines += ["|" + "|".join(["---", *["---:"] * (len(table.header) - 1)]) + "|"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in cells) + " |" for cells in table.cells]
    shared = ", ".join(f"{key}: {value}" for key, value in table.run.facts.items())
    lines += ["", f"In percent. {shared[:1].upper()}{shared[1:]}."]
    if table.signature:
        lines += ["", f"Signature: `{table.signature}`"]
    for note in (INTERVAL_NOTE, *table.run.notes):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def terminal(table: ResultTable) -> Group:
    """Render a table and its notes for the terminal."""
    drawn = Table(title=table.run.title)
    for k, head in enumerate(table.header):
        drawn.add_column(head, justify="right" if k else "left", no_wrap=bool(k))
    for cells in table.cells:
        drawn.add_row(*cells)
    return Group(drawn, INTERVAL_NOTE, *table.run.notes)


def _columns(record: Record | None) -> Mapping[str, str]:
    """Return metric → heading; a protocol without tIoU 0.95 (THUMOS14) shows all its thresholds."""
    metrics = _metrics(record) if record else {}
    if not metrics or set(COLUMNS) <= set(metrics):
        return COLUMNS
    thresholds = {key: key for key in metrics if key != "average_mAP"}
    return {**thresholds, "average_mAP": "average"}


def _cell(record: Record | None, metric: str) -> str:
    value = _metrics(record).get(metric) if record else None
    return UNFINISHED if value is None else f"{100 * value:.2f}"


def _interval(record: Record | None) -> str:
    intervals = record.figures.get("intervals") if record else None
    if not isinstance(intervals, dict) or not intervals:
        return UNFINISHED
    low, high = intervals["average_mAP"]
    return UNFINISHED if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"


def _metrics(record: Record) -> Mapping[str, float]:
    metrics = record.figures["metrics"]
    assert isinstance(metrics, dict)  # noqa: S101 - the score stage writes nothing else
    return metrics


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
