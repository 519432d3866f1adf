"""What a recipe would do on this machine: what is there, what is missing and how to get it, what it will cost."""

import math
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tspbench.datasets import BENCHMARKS, DATASETS, Dataset
from tspbench.datasets.inventory import dropped, inventory
from tspbench.errors import UserError
from tspbench.estimate import GIB, costs
from tspbench.plan import planned_stages
from tspbench.recipe import Recipe
from tspbench.sources import TOLD, Sources
from tspbench.storage.catalog import find
from tspbench.storage.features import FeatureFiles

PROBED: Final = (
    "From a step measured on this machine just now; captioners, refiners and what a memory budget chooses are not "
    "measured (?)."
)


def check(recipe: Recipe, out: Path, device: str) -> bool:
    """Print what a recipe would do in ``out``; return whether nothing is missing."""
    console, sources = Console(highlight=False), Sources(recipe)
    console.print(f"{recipe.name}: {recipe.title}\n", markup=False)
    missing = 0
    for heading, found in (
        ("Data", _data(recipe, sources)),
        ("Rows", _rows(recipe, sources)),
        ("Files", _files(recipe, sources)),
    ):
        lines = list(found)
        if lines:
            console.print(heading)
        for there, line in lines:
            missing += not there
            mark = "-" if not there else " " if line.startswith(" ") else "+"
            console.print(f"  {mark} {line}", markup=False, soft_wrap=True)
    console.print()
    if not missing:
        console.print(_stages(recipe, sources, out))
        print("A stage with a record is run again only if its settings or inputs have changed.")
    console.print(_costs(recipe, sources, device))
    print(PROBED)
    print(f"{missing} things are missing: the lines with a minus say how to get them." if missing else "Ready to run.")
    return not missing


def _data(recipe: Recipe, sources: Sources) -> Iterator[tuple[bool, str]]:
    for key, source in recipe.sets.items():
        if source in DATASETS:
            yield True, f"{key}: {source}, which is generated"
            continue
        needed = key == recipe.target or any(recipe.pretrain[name].data == key for name in sources.pretrainings())
        if problem := sources.dataset_problem(key):
            yield not needed, f"{key}: {problem}" if needed else f"{key} is not there, and nothing here needs it"
            continue
        dataset = sources.dataset(key)
        yield True, f"{key}: {dataset.name}, in {dataset.folder}"
        with suppress(UserError):  # a row that needs the videos says what is wrong with them
            yield from _splits(dataset, dataset.split_videos(), "videos")
        if source in BENCHMARKS:
            for sentence in BENCHMARKS[source].known:
                yield True, f"  {sentence}"


def _rows(recipe: Recipe, sources: Sources) -> Iterator[tuple[bool, str]]:
    for row in recipe.rows:
        source = sources.features(row.features)
        if source.ways:
            yield False, f"{row.name}: any of these would do"
            for number, way in enumerate(source.ways, start=1):
                yield True, f"  {number}. {way}"
            continue
        yield True, f"{row.name}: {TOLD[source.how]}"
        if source.files and not sources.dataset_problem(recipe.target):
            try:
                yield from _splits(sources.dataset(recipe.target), FeatureFiles(source.files).videos, "features")
            except UserError as error:
                yield False, str(error)


def _splits(dataset: Dataset, there: Collection[str], what: str) -> Iterator[tuple[bool, str]]:
    if dataset.card.annotations is None:
        return
    for split in inventory(dataset, there, what):
        yield True, f"  {split.told()}"
    if others := dropped(dataset, there):
        yield True, f"  {len(others):,} more videos are in no split (first: {others[0]}) and not looked at."


def _files(recipe: Recipe, sources: Sources) -> Iterator[tuple[bool, str]]:
    """Say which of the other files are there; what else is missing is what rows and data have not said."""
    for what, name in sources.needs():
        with suppress(UserError):
            yield True, f"{what}: {find(name)}"
    target, rows = sources.dataset_problem(recipe.target), [f"{row.name}: something" for row in recipe.rows]
    for problem in sources.problems():
        if problem != target and not problem.startswith(tuple(rows)):
            yield False, problem


def _stages(recipe: Recipe, sources: Sources, out: Path) -> Table:
    table = Table(title=f"Stages, in {out}", title_justify="left")
    for head in ("stage", "folder", "state"):
        table.add_column(head)
    for stage, folder in planned_stages(recipe, sources):
        table.add_row(stage, folder, "has a record" if (out / folder / "record.json").is_file() else "to be run")
    return table


def _costs(recipe: Recipe, sources: Sources, device: str) -> Table:
    found = costs(recipe, sources, device)
    table = Table(title=f"About what it takes on this machine ({device})", title_justify="left")
    for head in ("part", "amount", "hours", "disk, GiB", "memory, GiB"):
        table.add_column(head, justify="left" if head in ("part", "amount") else "right")
    for cost in found:
        table.add_row(
            cost.what,
            cost.amount,
            _rounded(cost.hours),
            _rounded(cost.disk_bytes / GIB),
            _rounded(cost.memory_bytes / GIB),
        )
    hours = sum(cost.hours for cost in found if not math.isnan(cost.hours))
    disk = sum(cost.disk_bytes for cost in found)
    memory = max((cost.memory_bytes for cost in found), default=0.0)
    table.add_section()
    table.add_row("all", "", _rounded(hours), _rounded(disk / GIB), _rounded(memory / GIB))
    return table


def _rounded(value: float) -> str:
    """Return two digits: an estimate is no more exact than that; "?" for what was not measured."""
    if math.isnan(value):
        return "?"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
