"""A run's manifest: its table's rows, where their records lie, and what they were made from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json

MANIFEST: Final = "run.json"
FORMAT: Final = "tspbench run 4"
COMPARISON: Final = "comparison"
SETTINGS: Final = "settings"  # the fact of a table that says whether its localizer is set up and trained as published
AS_PUBLISHED: Final = "as published"
TRIAL: Final = "videos"  # the fact of a table that is on part of the data
LONGEST_SLUG: Final = 100  # file systems take 255 bytes


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: of the row.
        folder: of its stages, below the run's.
        key: hash of all that decides its score; a score of another key is of an earlier run, and not shown.
        reference: key of `tspbench.reference_rows.REFERENCES`; "": a network is trained for it.
        features: hash of its feature files.
        published: key of a row of published.toml, whose numbers stand beside its own; "": none.
        files: its feature files, as `portable` writes paths.
    """

    name: str
    folder: str
    key: str
    reference: str = ""
    features: str = ""
    published: str = ""
    files: Sequence[str] = ()


@dataclass(frozen=True)
class TaskTable:
    """What a table says about one task.

    Args:
        task: key of `evaluation.METRICS`.
        rows: in the order of the table; those of the same name in other tasks are one row.
        facts: what all rows share, such as the protocol and the localizer.
        comparison: folder of the comparison of the rows, below the run's.
        part: which of the task's tables, where it has several; else "".
    """

    task: str
    rows: Sequence[Row]
    facts: Mapping[str, str]
    comparison: str
    part: str = ""


@dataclass(frozen=True)
class Run:
    """A table to be.

    Args:
        title: its heading.
        tables: one a task, in the order of the columns.
        notes: sentences below the table.
        dataset: what `tspbench.datasets.Dataset.of_run` opens again: the data set that is scored on.
    """

    title: str
    tables: Sequence[TaskTable]
    notes: Sequence[str]
    dataset: Mapping[str, Any] = field(default_factory=dict)


def portable(folder: Path, path: Path) -> str:
    """Return a path as a run's manifest holds it: below the run's ``folder`` relative to that, which may be moved."""
    path, folder = path.absolute(), folder.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def feature_files(folder: Path, row: Row) -> list[Path]:
    """Return the feature files of a row of the run in ``folder``."""
    return [folder / path for path in row.files]


def slug(name: str) -> str:
    """Return a row's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST_SLUG] or "row"


def write_run(folder: Path, run: Run) -> None:
    """Write the manifest of the run in ``folder`` atomically."""
    write_json(folder / MANIFEST, {"format": FORMAT, **asdict(run)})


def earlier_tables(folder: Path) -> Sequence[TaskTable]:
    """Return the tables of an earlier run in ``folder``; none if there is none, or it is of another version."""
    try:
        return read_run(folder).tables
    except UserError:
        return []


def read_run(folder: Path) -> Run:
    """Read the manifest of the run in ``folder``.

    Raises:
        UserError: the folder is not a run.
    """
    path = folder / MANIFEST
    try:
        content = orjson.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise UserError(f"{path} is of another version of tspbench: run the experiment again.")
        tables = [TaskTable(**{**table, "rows": [_row(row) for row in table["rows"]]}) for table in content["tables"]]
        return Run(content["title"], tables, content["notes"], content["dataset"])
    except OSError as error:
        raise UserError(
            f"{folder} is not a run (it has no {MANIFEST}): give the --out of run, demo or evaluate."
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's manifest ({error}): run the experiment again.") from error


def _row(content: Mapping[str, Any]) -> Row:
    return Row(**{**content, "files": tuple(content["files"])})
