"""The tables of the page: the same text as in Markdown, and those of several runs beside each other."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tspbench.page.contents import PageRun
from tspbench.report import INTERVAL, MAIN, TaskResult
from tspbench.report_published import UNFINISHED
from tspbench.storage.records import Record

SEED: Final = "seed"  # the fact in which runs that are averaged may differ


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Args:
        caption: what it shows.
        header: headings of the columns.
        cells: rows of as many texts.
        numbers: whether all but the first column are numbers.
        footer: a last row, such as one of signatures; empty: none.
    """

    caption: str
    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    numbers: bool = True
    footer: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """One task in several runs.

    Args:
        table: rows by runs, the main metric with its interval.
        sentence: what the means are of, or why there are none.
        signatures: run → signature, where they differ; else "" → the one.
    """

    table: Table
    sentence: str
    signatures: Mapping[str, str]


def task_table(task: TaskResult) -> Table:
    """Return the columns of a task, a row a line; in percent."""
    rows = [[row.name, *task.cells[row.name]] for row in task.table.rows]
    return Table(f"{sentence_case(task.heading)}, in percent", ["features", *task.header], rows)


def difference_table(task: TaskResult) -> Table | None:
    """Return the differences of a task's rows; None where there are none."""
    rows = [[f"{b} − {a}", *cells] for (b, a), cells in task.differences.items()]
    caption = f"Differences in {task.heading}, in points"
    return Table(caption, ["difference", task.heading, INTERVAL, "p"], rows) if rows else None


def published_numbers(task: TaskResult) -> Table | None:
    """Return what is published of a task's rows beside what was measured; None where nothing is."""
    if task.published is None:
        return None
    return Table(f"{sentence_case(task.heading)}: measured and published", task.published.header, task.published.cells)


def sample_tables(task: TaskResult) -> list[Table]:
    """Return a table for each segment whose sentences are known: what is true, and what each row says."""
    names = [row.name for row in task.table.rows]
    return [
        Table(
            place,
            ["features", "sentence"],
            [["true", true], *([name, said.get(name, UNFINISHED)] for name in names)],
            numbers=False,
        )
        for (place, true), said in task.sample.items()
    ]


def summaries(runs: Sequence[PageRun]) -> list[Summary]:
    """Put the main metric of each task of several runs beside each other, rows by name."""
    tasks = dict.fromkeys((task.table.task, task.table.part) for run in runs for task in run.result.tasks)
    return [_summary(runs, task, part) for task, part in tasks]


def sentence_case(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _summary(runs: Sequence[PageRun], task: str, part: str) -> Summary:
    main = MAIN[task]
    found = {run.name: _of_run(run, task, part) for run in runs}
    held = {name: pair for name, pair in found.items() if pair is not None}
    signatures = {name: result.signature or UNFINISHED for name, (result, _) in held.items()}
    rows = list(dict.fromkeys(row.name for result, _ in held.values() for row in result.table.rows))
    why = _why_no_mean(len(runs), signatures, {name: result.table.facts for name, (result, _) in held.items()})
    cells = [[name, *(_cell(found[run.name], name, main) for run in runs)] for name in rows]
    if not why:
        every = [scores for _, scores in held.values()]
        cells = [[*row, *_mean(row[0], every, main)] for row in cells]
    heading = sentence_case(next(iter(held.values()))[0].heading)
    one = len(set(signatures.values())) == 1
    table = Table(
        f"{heading} of each run, in percent, with its {INTERVAL}",
        ["features", *(run.name for run in runs), *([] if why else ["mean", "standard deviation"])],
        cells,
        footer=[] if one else ["signature", *(_differing(signatures, run.name) for run in runs)],
    )
    sentence = (
        f"No mean is taken: {why}."
        if why
        else f"Mean and standard deviation are over the {len(runs)} runs: their signatures are equal, and their "
        "settings differ in nothing but the seed; of a row that a run has not finished there are none."
    )
    return Summary(table, sentence, {"": next(iter(signatures.values()))} if one else signatures)


def _why_no_mean(runs: int, signatures: Mapping[str, str], facts: Mapping[str, Mapping[str, str]]) -> str:
    """Say why the numbers of several runs have no mean; "" if they have one.

    Args:
        runs: how many there are.
        signatures: run → signature of a task that it has.
        facts: run → what its rows of that task share.
    """
    if len(signatures) < runs or UNFINISHED in signatures.values():
        return "not all runs have scores of it"
    if len(set(signatures.values())) > 1:
        return "the signatures of the runs differ, so that their numbers do not mean the same"
    differing = []
    for key in dict.fromkeys(key for each in facts.values() for key in each if key != SEED):
        values: dict[str, list[str]] = {}
        for name, each in facts.items():
            values.setdefault(each.get(key, "none"), []).append(name)
        if len(values) > 1:
            told = "; ".join(f"{value} in {', '.join(names)}" for value, names in values.items())
            differing.append(f"{key} ({told})")
    return f"the runs differ in {' and in '.join(differing)}" if differing else ""


def _of_run(run: PageRun, task: str, part: str) -> tuple[TaskResult, Mapping[str, Record]] | None:
    pairs = zip(run.result.tasks, run.scores, strict=True)
    return next((pair for pair in pairs if (pair[0].table.task, pair[0].table.part) == (task, part)), None)


def _cell(found: tuple[TaskResult, Mapping[str, Record]] | None, name: str, main: str) -> str:
    value = _value(found[1].get(name) if found else None, main)
    if found is None or value is None:
        return UNFINISHED
    interval = found[0].cells[name][-1]
    return f"{100 * value:.2f}" + ("" if interval == UNFINISHED else f" ({interval})")


def _mean(name: str, runs: Sequence[Mapping[str, Record]], main: str) -> list[str]:
    values = [_value(scores.get(name), main) for scores in runs]
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return [UNFINISHED, UNFINISHED]
    return [f"{statistics.mean(known):.2f}", f"{statistics.stdev(known):.2f}" if len(known) > 1 else UNFINISHED]


def _value(record: Record | None, metric: str) -> float | None:
    metrics: Any = record.figures["metrics"] if record else {}
    value: float | None = metrics.get(metric)
    return value


def _differing(signatures: Mapping[str, str], name: str) -> str:
    """Return the fields of a run's signature that not all runs have."""
    if name not in signatures:
        return UNFINISHED
    shared = set.intersection(*(set(signature.split("|")) for signature in signatures.values()))
    return "\n".join(field for field in signatures[name].split("|") if field not in shared) or UNFINISHED
