"""The commands that study features, and what they print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tspbench.errors import UserError
from tspbench.progress import progress, say
from tspbench.stages.study_tables import StudyTable, study_tables
from tspbench.storage.catalog import located

LONGEST_HEAD: Final = 12  # characters


def study_feature_sets(features: Sequence[str], dataset: str, out: Path, *, seed: int, json_out: Path | None) -> None:
    """Study feature sets, named as NAME=FILE.h5[,FILE.h5]; print the tables, and say where everything is."""
    from tspbench.datasets import open_dataset  # noqa: PLC0415 - loads torch, which a mistake need not wait for
    from tspbench.stages.study_features import PICTURES, TABLES_FILE, study_features  # noqa: PLC0415 - as above

    sets = _sets(features)
    opened = open_dataset(dataset, seed)
    with progress("study features") as advance:
        study = study_features(sets, opened, out, seed=seed, json_out=json_out, report=advance)
    console = Console()
    for table in study_tables(study):
        console.print(_drawn(table))
    for note in study.notes:
        say(note)
    pictures = [str(path) for name in PICTURES if (path := out / f"{name}.png").is_file()]
    say(f"Tables: {out / TABLES_FILE}; pictures: {', '.join(pictures)}")


def _sets(features: Sequence[str]) -> dict[str, list[Path]]:
    """Return name → files of texts such as tsp=train.h5,valid.h5."""
    sets: dict[str, list[Path]] = {}
    for text in features:
        name, _, paths = text.partition("=")
        if not name or not all(paths.split(",")):
            raise UserError(f"{text}: expected NAME=FILE.h5, such as tsp=features/tsp.h5.")
        if name in sets:
            raise UserError(f"{text}: there is another feature set {name!r}: give each a name of its own.")
        sets[name] = [located(Path(path)) for path in paths.split(",")]
    return sets


def _drawn(table: StudyTable) -> Table:
    drawn = Table(title=f"{table.heading}. {table.sentence}", title_justify="left", title_style="")
    # Heads and intervals are put on a line of their own: narrow terminals would else break them anywhere.
    for place, head in enumerate(table.heads):
        lines = head.rsplit(" ", 1) if len(head) > LONGEST_HEAD else [head]
        drawn.add_column("\n".join(lines), justify="right" if place else "left")
    for row in table.rows:
        # A name may look like rich's markup.
        drawn.add_row(*(_in_lines(escape(cell)) for cell in row))
    return drawn


def _in_lines(cell: str) -> str:
    """Return a cell with its interval, if it holds one, below its number."""
    number, bracket, interval = cell.partition(" (")
    return f"{number}\n{interval.removesuffix(')')}" if bracket and " to " in interval else cell
