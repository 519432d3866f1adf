"""A run's manifest: its table's rows, and where their records lie."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json

MANIFEST: Final = "run.json"
FORMAT: Final = "tspbench run 1"


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, and the folder of its stages, relative to the run's."""

    name: str
    folder: str


@dataclass(frozen=True)
class Run:
    """A table to be.

    Args:
        task: key of `evaluation.METRICS`.
        title: its heading.
        rows: in the order of the table.
        facts: what all rows share, such as the protocol and the localizer.
        notes: sentences below the table.
    """

    task: str
    title: str
    rows: Sequence[Row]
    facts: Mapping[str, str]
    notes: Sequence[str]


def write_run(folder: Path, run: Run) -> None:
    """Write the manifest of the run in ``folder`` atomically."""
    write_json(folder / MANIFEST, {"format": FORMAT, **asdict(run)})


def read_run(folder: Path) -> Run:
    """Read the manifest of the run in ``folder``.

    Raises:
        UserError: the folder is not a run.
    """
    path = folder / MANIFEST
    try:
        content = orjson.loads(path.read_bytes())
        rows = [Row(**row) for row in content["rows"]]
        return Run(content["task"], content["title"], rows, content["facts"], content["notes"])
    except OSError as error:
        raise UserError(
            f"{folder} is not a run (it has no {MANIFEST}): give the --out of run, demo or evaluate."
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's manifest ({error}): run the experiment again.") from error
