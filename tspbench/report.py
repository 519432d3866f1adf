"""Run records → tables: Markdown for a paper, the same for the terminal."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tspbench import ranks
from tspbench.errors import UserError
from tspbench.report_published import HEADING, NOTE, UNFINISHED, PublishedTable, published_table, stated_rows
from tspbench.storage.atomic import write_text
from tspbench.storage.records import Record, read_record
from tspbench.storage.runs import Row, Run, TaskTable, read_run

TABLE_FILE: Final = "table.md"
INTERVAL: Final = "95 % interval"
INTERVAL_NOTE: Final = (
    f"{INTERVAL}: of the average (mAP), the AUC or METEOR, over 1,000 resamples of the scored videos; how much other "
    "seeds change is not in it."
)
DIFFERENCE_NOTE: Final = (
    "Differences are in points, on the same resamples of the videos for both rows; p: how often a difference of this "
    "size comes about by chance in the choice of videos. With one seed a row, chance in training is not in it."
)
COLUMNS: Final = {
    "tal": {"mAP@0.50": "mAP@0.50", "mAP@0.75": "@0.75", "mAP@0.95": "@0.95", "average_mAP": "average"},
    "proposals": {"AR@1": "AR@1", "AR@10": "@10", "AR@100": "@100", "AUC": "AUC"},
    "captioning": {"BLEU@3": "BLEU@3", "BLEU@4": "@4", "METEOR": "METEOR"},
}
# The metric that intervals and differences are of.
MAIN: Final = {"tal": "average_mAP", "proposals": "AUC", "captioning": "METEOR"}
MAIN_HEADING: Final = {"tal": "average mAP", "proposals": "AUC", "captioning": "METEOR"}
# What the columns of a task's table are of, where it has several.
PART_HEADING: Final = {"": "", "ground-truth": "true segments", "proposals": "proposals"}
SAMPLE_NOTE: Final = "What the rows say of the same true segments:"
LABELS: Final = "|labels:"  # the field of a signature in which reference rows may differ


@dataclass(frozen=True)
class TaskResult:
    """The columns of one task as text.

    Attributes:
        table: of the run.
        header: headings of the columns.
        cells: name of the row → its cells, as many as headings.
        signature: of every row; None while none is finished.
        differences: (row b, row a) → difference b - a, its interval and its p-value.
        missing: a sentence for each row that lacks predictions for some videos.
        sample: sentences of captioning rows: (segment, true sentence) → name of the row → what it says.
        published: what is published of the rows; None if nothing is.
    """

    table: TaskTable
    header: list[str]
    cells: dict[str, list[str]]
    signature: str | None
    differences: dict[tuple[str, str], list[str]]
    missing: list[str]
    sample: dict[tuple[str, str], dict[str, str]]
    published: PublishedTable | None

    @property
    def heading(self) -> str:
        """What intervals and differences are of."""
        part = PART_HEADING[self.table.part]
        return MAIN_HEADING[self.table.task] + (f" on {part}" if part else "")


@dataclass(frozen=True)
class ResultTable:
    """A run's table: what stands around it, and its columns by task."""

    run: Run
    tasks: list[TaskResult]

    @property
    def rows(self) -> list[str]:
        """The names of all rows, in their order."""
        return list(dict.fromkeys(row.name for task in self.tasks for row in task.table.rows))

    @property
    def header(self) -> list[str]:
        """The headings of all columns."""
        return ["features", *(head for task in self.tasks for head in task.header)]

    @property
    def cells(self) -> list[list[str]]:
        """The rows of the whole table; a row that a task does not have shows "—" there."""
        return [[name, *(cell for task in self.tasks for cell in _cells(task, name))] for name in self.rows]


def result_table(folder: Path) -> ResultTable:
    """Collect the table of the run in ``folder`` from its records; a row without a finished score shows "—".

    Raises:
        UserError: not a run, or rows whose scores do not mean the same (other protocol, other ground truth).
    """
    run = read_run(folder)
    return ResultTable(run, [_task_result(folder, table) for table in run.tables])


def write_table(folder: Path) -> ResultTable:
    """Write ``table.md`` into the run's folder and return the table; of several processes, the first does."""

    def write() -> ResultTable:
        table = result_table(folder)
        write_text(folder / TABLE_FILE, markdown(table))
        return table

    return ranks.by_first(write)


def markdown(table: ResultTable) -> str:
    """Render a table as Markdown, with its heading, what the rows share, signatures, differences and notes."""
    lines = [f"# {table.run.title}", "", *_markdown_table(table.header, table.cells), "", "In percent."]
    for task in table.tasks:
        shared = ", ".join(f"{key}: {value}" for key, value in task.table.facts.items())
        lines += ["", f"{task.heading[:1].upper()}{task.heading[1:]}: {shared}."]
        if task.signature:
            lines += ["", f"Signature: `{task.signature}`"]
        lines += [line for sentence in task.missing for line in ("", " ".join(sentence.split()))]
    lines += ["", INTERVAL_NOTE]
    if header := _difference_header(table.tasks):
        lines += ["", *_markdown_table(header, _difference_cells(table.tasks)), "", DIFFERENCE_NOTE]
    for task in table.tasks:
        if task.sample:
            lines += ["", SAMPLE_NOTE, "", *_markdown_table(*_sample_table(task), numbers="---")]
    for note in table.run.notes:
        lines += ["", note]
    lines += _published_lines(table.tasks)
    return "\n".join(lines) + "\n"


def terminal(table: ResultTable) -> Group:
    """Render a table and its notes for the terminal, the columns of each task as a table of their own."""
    parts: list[Any] = []
    for task in table.tasks:
        names = [row.name for row in task.table.rows]
        by = task.table.facts.get("localizer", task.table.facts.get("captioner", ""))
        heading = f"{table.run.title}: {task.heading}, {by}"
        parts.append(_drawn(heading, ["features", *task.header], [[name, *_cells(task, name)] for name in names]))
        parts += task.missing
        if header := _difference_header([task]):
            parts.append(_drawn("", header, _difference_cells([task])))
    parts += [INTERVAL_NOTE, *table.run.notes]
    for task in table.tasks:
        if task.published:
            title = f"{HEADING}: {task.heading}"
            parts += [_drawn(title, task.published.header, task.published.cells), *task.published.sentences, NOTE]
    return Group(*(escape(part) if isinstance(part, str) else part for part in parts))


def _published_lines(tasks: Sequence[TaskResult]) -> list[str]:
    """Return the section of published numbers as Markdown; nothing where none are known."""
    told = [(task, task.published) for task in tasks if task.published]
    lines = ["", f"## {HEADING}"] if told else []
    for task, published in told:
        lines += ["", f"{task.heading[:1].upper()}{task.heading[1:]}:"] if len(tasks) > 1 else []
        lines += ["", *_markdown_table(published.header, published.cells)]
        lines += [line for sentence in published.sentences for line in ("", sentence)]
    return [*lines, "", NOTE] if told else []


def _task_result(folder: Path, table: TaskTable) -> TaskResult:
    records = {row.name: _current(read_record(folder / row.folder / "score"), row) for row in table.rows}
    finished = {name: record for name, record in records.items() if record}
    metrics = _metrics(next(iter(finished.values()))) if finished else {}
    columns = _columns(table.task, metrics)
    stated = [metric for _, row in stated_rows(table) for metric in row.metrics]
    main, part = MAIN[table.task], PART_HEADING[table.part]
    header = [*columns.values(), INTERVAL]
    comparison = read_record(folder / table.comparison)
    return TaskResult(
        table,
        [f"{part}: {header[0]}", *header[1:]] if part else header,
        {
            name: [*(_percent(record, key) for key in columns), _interval(record, main)]
            for name, record in records.items()
        },
        _signature(folder, table, finished),
        _differences(comparison, main, finished),
        [sentence for name, record in finished.items() if (sentence := _missing(name, record))],
        _sample(folder, table, finished),
        published_table(table, finished, columns if finished else _columns(table.task, stated)),
    )


def _sample(folder: Path, table: TaskTable, finished: Mapping[str, Record]) -> dict[tuple[str, str], dict[str, str]]:
    """Collect what the rows say of the same segments, as their predictions keep it."""
    said: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.rows:
        record = read_record(folder / row.folder / "predict") if row.name in finished else None
        sample: Any = record.figures.get("sample", []) if record else []
        for entry in sample:
            start, end = entry["segment"]
            place = f"{entry['video']}, {start:.1f} to {end:.1f} s"
            said.setdefault((place, entry["true"]), {})[row.name] = entry["predicted"]
    return said


def _sample_table(task: TaskResult) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table of sentences: a segment a line."""
    names = [row.name for row in task.table.rows]
    said = task.sample.items()
    lines = [[place, true, *(by.get(name, UNFINISHED) for name in names)] for (place, true), by in said]
    return ["segment", "true", *names], lines


def _current(record: Record | None, row: Row) -> Record | None:
    """Return the record of a row's score unless it is of an earlier run with other settings or features."""
    return record if record and record.settings["row"] == row.key else None


def _signature(folder: Path, table: TaskTable, finished: Mapping[str, Record]) -> str | None:
    """Return the one signature of all rows; where the labels of a reference row come from may differ."""
    signatures = {row: str(finished[row.name].figures["signature"]) for row in table.rows if row.name in finished}
    without_labels = {signature.partition(LABELS)[0]: row.name for row, signature in signatures.items()}
    trained = {signature: row.name for row, signature in signatures.items() if not row.reference}
    for found in (without_labels, trained):
        if len(found) > 1:
            (first, row_name), (second, other) = list(found.items())[:2]
            raise UserError(
                f"{folder}: the rows {row_name!r} ({first}) and {other!r} ({second}) cannot stand in one table: score "
                "them by one protocol on one ground truth."
            )
    return next(iter([*trained, *without_labels]), None)


def _columns(task: str, metrics: Collection[str]) -> Mapping[str, str]:
    """Return metric → heading; a protocol without the usual ones (THUMOS14) shows all that it has."""
    # Of captions one metric may have failed; the others keep their columns.
    if task == "captioning" or not metrics or set(COLUMNS[task]) <= set(metrics):
        return COLUMNS[task]
    main = MAIN[task]
    others = sorted((key for key in metrics if key != main), key=lambda key: float(key.partition("@")[2]))
    # The first heading says what the metric is, the others at what: mAP@0.30, @0.40, ...
    headings = {key: key if not k else key[key.index("@") :] for k, key in enumerate(others)}
    return {**headings, main: COLUMNS[task][main]}


def _cells(task: TaskResult, name: str) -> list[str]:
    return task.cells.get(name, [UNFINISHED] * len(task.header))


def _percent(record: Record | None, metric: str) -> str:
    value = _metrics(record).get(metric) if record else None
    return UNFINISHED if value is None else f"{100 * value:.2f}"


def _interval(record: Record | None, main: str) -> str:
    intervals = record.figures.get("intervals") if record else None
    if not isinstance(intervals, dict) or main not in intervals:
        return UNFINISHED
    return _range(*intervals[main])


def _range(low: float | None, high: float | None) -> str:
    return UNFINISHED if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"


def _differences(
    comparison: Record | None, main: str, finished: Mapping[str, Record]
) -> dict[tuple[str, str], list[str]]:
    """Return what the comparison says of scores that stand in the table; of others it was made in an earlier run."""
    pairs: Any = comparison.figures["differences"] if comparison else []
    found = {}
    for pair in pairs:
        if all(_compared(comparison, finished, pair[side]) for side in ("a", "b")):
            values = pair["metrics"][main]
            p = UNFINISHED if values["p"] is None else "< 0.001" if values["p"] < 0.0005 else f"{values['p']:.3f}"
            size = UNFINISHED if values["difference"] is None else f"{100 * values['difference']:+.2f}"
            found[pair["b"], pair["a"]] = [size, _range(values["low"], values["high"]), p]
    return found


def _compared(comparison: Record | None, finished: Mapping[str, Record], name: str) -> bool:
    """Whether the score of a row is the one that was compared."""
    hashes = finished[name].outputs.values() if name in finished else ()
    return comparison is not None and comparison.inputs[name] in hashes


def _difference_header(tasks: Sequence[TaskResult]) -> list[str]:
    """Return the headings of the table of differences; none where there are no differences."""
    told = [task for task in tasks if task.differences]
    heads = [head for task in told for head in (task.heading, INTERVAL, "p")]
    return ["difference", *heads] if heads else []


def _difference_cells(tasks: Sequence[TaskResult]) -> list[list[str]]:
    told = [task for task in tasks if task.differences]
    pairs = dict.fromkeys(pair for task in told for pair in task.differences)
    return [
        [f"{b} − {a}", *(cell for task in told for cell in task.differences.get((b, a), [UNFINISHED] * 3))]
        for b, a in pairs
    ]


def _missing(name: str, record: Record) -> str:
    """Say for how many videos a row has no prediction; "" if it has one for each."""
    counts: Any = record.figures.get("counts", {})
    if not counts.get("missing_videos"):
        return ""
    videos = f"{counts['missing_videos']} of the {counts['videos']} scored videos"
    return f"{name}: no prediction for {videos}; they count as missed."


def _metrics(record: Record) -> Mapping[str, float]:
    metrics = record.figures["metrics"]
    assert isinstance(metrics, dict)  # noqa: S101 - the score stage writes nothing else
    return metrics


def _markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]], numbers: str = "---:") -> list[str]:
    rows = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in [header, *cells]]
    return [rows[0], "|" + "|".join(["---", *[numbers] * (len(header) - 1)]) + "|", *rows[1:]]


def _drawn(title: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    # Numbers may not be broken; what is left of a narrow terminal is the names'.
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, head in enumerate(header):
        drawn.add_column(head, justify="right" if k else "left", no_wrap=bool(k), min_width=0 if k else 14)
    for row in cells:
        drawn.add_row(*map(escape, row))  # a name may look like rich's markup
    return drawn


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
