"""What the page knows of a run: its table, the records behind it, and how each row is drawn."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evaluation.protocols import PROTOCOLS
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.report import PART_HEADING, ResultTable, result_table
from tspbench.storage.annotations import Annotations
from tspbench.storage.records import Record, read_record
from tspbench.storage.runs import Row, TaskTable
from tspbench.storage.statistics import read_statistics

# Okabe and Ito's, which colour-blind readers can tell apart; grey is for what no network was trained for.
COLOURS: Final = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#B3A100")
REFERENCE: Final = "var(--reference)"
DASHES: Final = ("none", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class RowStyle:
    """How a row is drawn, the same everywhere on the page.

    Args:
        number: among all rows of the page; what its checkbox shows and hides.
        colour: in CSS.
        dash: of its lines, in SVG: rows of one colour differ in it.
    """

    number: int
    colour: str
    dash: str = DASHES[0]


@dataclass(frozen=True)
class PageRun:
    """A run on the page.

    Args:
        folder: of the run.
        name: its folder's, made different where several runs have the same.
        number: among the runs of the page, from 1.
        result: its table.
        scores: for each task of ``result``, name of the row → record of its finished score.
    """

    folder: Path
    name: str
    number: int
    result: ResultTable
    scores: Sequence[Mapping[str, Record]]

    @property
    def tables(self) -> Sequence[TaskTable]:
        """What the manifest says of each task."""
        return self.result.run.tables

    def finished(self, task: str) -> Iterator[tuple[TaskTable, Row, Record]]:
        """Yield the rows of a task whose score is finished."""
        for table, scores in zip(self.tables, self.scores, strict=True):
            if table.task == task:
                yield from ((table, row, scores[row.name]) for row in table.rows if row.name in scores)

    def scored_rows(self, task: str) -> tuple[list["ScoredRow"], list[str]]:
        """Return the finished rows of a task, and a sentence for each whose statistics cannot be read."""
        rows, remarks = [], []
        for table, row, score in self.finished(task):
            try:
                stored = read_statistics(self.folder / row.folder / "score" / next(iter(score.outputs), ""))
            except UserError as error:
                remarks.append(left_out_of(f"all figures of {heading_of(task, '').lower()}", row.name, error))
            else:
                rows.append(ScoredRow(table, row, stored.statistics))
        return rows, remarks

    def predictions(self, row: Row) -> Path:
        """Return where the predictions are that the score of a row is of."""
        record = read_record(self.folder / row.folder / "predict")
        return self.folder / row.folder / "predict" / (next(iter(record.outputs), "") if record else "")


@dataclass(frozen=True)
class ScoredRow:
    """A finished row.

    Args:
        table: the row's.
        row: of the run.
        statistics: what its score was computed from, as the task's metric returns them.
    """

    table: TaskTable
    row: Row
    statistics: Any


@dataclass(frozen=True)
class Truth:
    """The data set that a run was scored on, as it was then.

    Args:
        dataset: on disk.
        annotations: its content.
        subset: what was scored.
    """

    dataset: Dataset
    annotations: Annotations
    subset: str


def page_runs(folders: Sequence[Path]) -> list[PageRun]:
    """Read the runs of a page.

    Raises:
        UserError: a folder is no run, is given twice, or its rows cannot stand in one table.
    """
    given: dict[Path, Path] = {}
    for folder in folders:
        if (real := folder.resolve()) in given:
            raise UserError(f"{folder}: expected another run, found that of {given[real]} again: give it once.")
        given[real] = folder
    names = [folder.resolve().name for folder in folders]
    runs = []
    for number, folder in enumerate(folders, start=1):
        name, before = names[number - 1], names[: number - 1].count(names[number - 1])
        result = result_table(folder)
        scores = [_current(folder, table) for table in result.run.tables]
        runs.append(PageRun(folder, f"{name} ({before + 1})" if before else name, number, result, scores))
    return runs


def row_styles(runs: Iterable[PageRun]) -> dict[str, RowStyle]:
    """Return how each row is drawn: those of the same name are one row, whatever their run and task."""
    rows = {row.name: row for run in runs for table in run.tables for row in table.rows}
    styles, trained, references = {}, 0, 0
    for number, row in enumerate(rows.values()):
        if row.reference:
            references += 1
            styles[row.name] = RowStyle(number, REFERENCE, DASHES[references % len(DASHES)])
        else:
            dash = DASHES[trained // len(COLOURS) % len(DASHES)]
            styles[row.name] = RowStyle(number, COLOURS[trained % len(COLOURS)], dash)
            trained += 1
    return styles


def open_truth(run: PageRun) -> Truth | str:
    """Open the annotations of a run's data set, or say in a sentence why they cannot be shown."""
    scored = [record for task in ("tal", "proposals") for _, _, record in run.finished(task)]
    try:
        dataset = Dataset.of_run(run.folder, run.result.run.dataset)
        if dataset.card.annotations is None:
            return "The data set has captions alone: without the segments of actions its features are not compared."
        subset = dataset.subset("validation")
        if scored and dataset.annotations_hash() != scored[0].inputs.get("annotations"):
            return "The annotations of the data set have changed since the run was scored."
        return Truth(dataset, dataset.read(), subset)
    except (UserError, OSError):
        return "The annotations of the data set are not where the run had them."


def heading_of(task: str, part: str) -> str:
    """Return how the page calls a task's table."""
    names = {"tal": "Finding actions", "proposals": "Proposing segments", "captioning": "Describing segments"}
    return names.get(task, task) + (f": {PART_HEADING.get(part, part)}" if part else "")


def left_out_of(where: str, name: str, error: Exception) -> str:
    """Say that a row is not in some part of the page, because a file of it cannot be read."""
    return f"{name} is left out of {where}: {error}"


def protocol_of(table: TaskTable) -> Any:
    """Return the rules that the rows of a table were scored by; None if this version does not have them."""
    return PROTOCOLS[table.task].get(table.facts.get("protocol", ""))


def _current(folder: Path, table: TaskTable) -> dict[str, Record]:
    """Return the finished scores of a table's rows, without those of earlier settings."""
    records = {row.name: (row, read_record(folder / row.folder / "score")) for row in table.rows}
    return {name: found for name, (row, found) in records.items() if found and found.settings.get("row") == row.key}
