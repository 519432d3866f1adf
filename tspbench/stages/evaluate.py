"""Feature sets → one table: each set trained, predicted and scored alike, and the rows compared."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evaluation import METRICS
from evaluation.significance import every_difference
from tspbench import ranks
from tspbench.config import choose
from tspbench.datasets import Dataset
from tspbench.errors import UserError
from tspbench.progress import progress
from tspbench.reference_rows import RANDOM_FEATURES, REFERENCES
from tspbench.stages.captioning import PreparedCaptioning
from tspbench.stages.captioning_inputs import Captioning
from tspbench.stages.localization import Localization, PreparedLocalization
from tspbench.stages.random_features import random_features
from tspbench.stages.rows import STATISTICS_FILE
from tspbench.stages.stage import run_stage
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file
from tspbench.storage.runs import COMPARISON, TRIAL, Row, Run, TaskTable, earlier_tables, portable, slug, write_run
from tspbench.storage.statistics import read_statistics

Task = Localization | Captioning


class Prepared(Protocol):
    """A task whose inputs are read and fit."""

    def check(self, name: str, files: FeatureFiles) -> None:
        """Read the feature set of the row ``name`` once, before anything is trained."""

    def tables(self, files: Mapping[str, FeatureFiles]) -> list[TaskTable]:
        """Return the tables that the task fills, their rows in order."""

    def fill(self, table: TaskTable, row: Row, files: FeatureFiles) -> None:
        """Run the stages of a row of a table; those that are finished are skipped."""

    def close(self) -> None:
        """Stop the processes that the task has started."""


def evaluate(
    tasks: Sequence[Task],
    rows: Mapping[str, Sequence[Path]],
    title: str,
    notes: Sequence[str],
    published: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Train, predict, score and compare each feature set in each task, and keep everything below ``out``.

    Stages that are finished are skipped. The run's manifest is written before anything is trained, so that a table can
    be made at any time; what it says of other tasks on the same data set stays.

    Args:
        tasks: in the order of the table's columns; all of one folder, data set and seed, with the same references
            where they have such.
        rows: name of the row → its H5 files.
        title: heading of the table.
        notes: sentences below the table.
        published: name of the row → task → key of its published numbers.

    Raises:
        UserError: a mistake in settings or files; those that can be seen from the outside are found before any work.
    """
    first = tasks[0]
    check_rows(list(rows), first.references, "the table")
    files = {name: FeatureFiles(paths) for name, paths in rows.items()}
    with ExitStack() as stack:
        prepared: list[Prepared] = []
        for task in tasks:
            prepared.append(_prepared(task, files, tasks))
            stack.callback(prepared[-1].close)
        for each in prepared:
            for name, its_files in files.items():
                each.check(name, its_files)
        if RANDOM_FEATURES in first.references:
            random = random_features(next(iter(rows.values())), first.out / "features" / "random", first.seed)
            files = {REFERENCES[RANDOM_FEATURES]: FeatureFiles([random]), **files}
        tables = [
            [_told(table, task, published or {}, files) for table in each.tables(files)]
            for task, each in zip(tasks, prepared, strict=True)
        ]
        told = [table for some in tables for table in some]
        every = [*_other_tables(first.out, told), *told]
        described = first.dataset.for_run(first.out)
        ranks.by_first(lambda: write_run(first.out, Run(title, every, list(notes), described)))
        for each, some in zip(prepared, tables, strict=True):
            for table in some:
                for row in table.rows:
                    each.fill(table, row, files.get(row.name, next(iter(files.values()))))
                _compare(table, first.out)


def _told(
    table: TaskTable, task: Task, published: Mapping[str, Mapping[str, str]], files: Mapping[str, FeatureFiles]
) -> TaskTable:
    """Return a table that names the feature files and published numbers of its rows, and says so if it is a trial."""
    rows = [
        replace(
            row,
            published=published.get(row.name, {}).get(table.task, ""),
            files=tuple(portable(task.out, path) for path in files[row.name].paths) if row.name in files else (),
        )
        for row in table.rows
    ]
    trial = _trial(task.dataset)
    return replace(table, rows=rows, facts={**table.facts, **({TRIAL: f"a trial: {trial}"} if trial else {})})


def _trial(dataset: Dataset) -> str:
    """Say how many videos of each role a trial takes; "" if it takes all."""
    if not dataset.trial:
        return ""
    few, every = dataset.read(), replace(dataset, trial={}).read()
    counts = {
        role: (len(few.subset(dataset.subset(role))), len(every.subset(dataset.subset(role)))) for role in dataset.trial
    }
    told = [f"{taken:,} of {there:,} for {role}" for role, (taken, there) in counts.items() if taken < there]
    return ", ".join(told)


def _prepared(task: Task, files: Mapping[str, FeatureFiles], tasks: Sequence[Task]) -> Prepared:
    if isinstance(task, Localization):
        return PreparedLocalization(task, files)
    return PreparedCaptioning(task, files, {other.localizer.name for other in tasks if isinstance(other, Localization)})


def _other_tables(out: Path, tables: Sequence[TaskTable]) -> list[TaskTable]:
    """Return what an earlier run in the same folder says of other tasks on the same data set and features."""
    told = {table.task for table in tables}
    features = _features(tables)
    return [
        table
        for table in earlier_tables(out)
        if table.task not in told
        and table.facts["dataset"] == tables[0].facts["dataset"]
        and all(features.get(name, digest) == digest for name, digest in _features([table]).items())
    ]


def _features(tables: Sequence[TaskTable]) -> dict[str, str]:
    """Return row → hash of its features."""
    return {row.name: row.features for table in tables for row in table.rows if not row.reference}


def check_rows(names: Sequence[str], references: Sequence[str], where: str) -> None:
    """Refuse unknown references, and rows that would share a folder.

    Raises:
        UserError: names both rows, and ``where`` they stand.
    """
    for reference in references:
        choose(f"reference row in {where}", reference, REFERENCES)
    folders: dict[str, str] = {COMPARISON: "the comparison"}
    for name in [*(REFERENCES[reference] for reference in references), *names]:
        if other := folders.get(slug(name)):
            raise UserError(
                f"{where}: the rows {other!r} and {name!r} would share the folder {slug(name)!r}: rename one."
            )
        folders[slug(name)] = name


def _compare(table: TaskTable, out: Path) -> None:
    """Compare the trained rows with each other, on the same resamples of the videos."""
    rows = [row for row in table.rows if not row.reference]
    if len(rows) < 2:
        return
    paths = [out / row.folder / "score" / STATISTICS_FILE for row in rows]

    def work(_key: str) -> Mapping[str, object]:
        statistics: list[Any] = [read_statistics(path).statistics for path in paths]
        with progress(f"compare rows · {table.task}") as advance:
            found = every_difference(METRICS[table.task].score, statistics, np.random.default_rng(0), report=advance)
        pairs = [
            {"a": rows[a].name, "b": rows[b].name, "metrics": {key: asdict(value) for key, value in metrics.items()}}
            for (a, b), metrics in found.items()
        ]
        return {"differences": pairs}

    inputs = {row.name: hash_file(path) for row, path in zip(rows, paths, strict=True)}
    run_stage("compare", out / table.comparison, {"task": table.task}, inputs, [], work)
