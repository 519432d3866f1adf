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

WIDEST: Final = 16  # characters of a cell that are kept in one line


def study_feature_sets(features: Sequence[str], dataset: str, out: Path, *, seed: int, json_out: Path | None) -> None:
    """Study feature sets, named as NAME=FILE.h5[,FILE.h5]; print the tables, and say where everything is."""
    from tspbench.datasets import open_dataset  # noqa: PLC0415 - loads torch, which a mistake need not wait for
    from tspbench.stages.study_features import TABLES_FILE, study_features  # noqa: PLC0415 - as above

    sets = _sets(features)
    opened = open_dataset(dataset, seed)
    with progress("study features") as advance:
        study = study_features(sets, opened, out, seed=seed, json_out=json_out, report=advance)
    console = Console()
    for table in study_tables(study):
        console.print(_drawn(table))
    for note in study.notes:
        say(note)
    say(f"Tables: {out / TABLES_FILE}; pictures: {out / 'probes.png'}, {out / 'similarity.png'}")


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
    for place, head in enumerate(table.heads):
        # Heads are broken rather than numbers where the terminal is narrow.
        widest = max(len(row[place]) for row in table.rows)
        drawn.add_column(head, justify="right" if place else "left", min_width=min(widest, WIDEST))
    for row in table.rows:
        drawn.add_row(*map(escape, row))  # a name may look like rich's markup
    return drawn
