"""The commands below `tspbench study`; each body is one call."""

from pathlib import Path
from typing import Annotated

import typer

from tspbench.cli_options import DatasetName, Seed

# ruff: noqa: PLC0415 - `--help` of any command must not load torch: each command imports what it needs

app = typer.Typer(invoke_without_command=True, help="Study features without training a localizer.")


@app.callback()
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def features(
    sets: Annotated[
        list[str], typer.Argument(metavar="NAME=F.h5[,G.h5]...", help="Feature sets: a name and its H5 files each.")
    ],
    dataset: DatasetName,
    out: Annotated[Path, typer.Option("--out", help="Folder for tables, numbers and pictures.")],
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file as well.")] = None,
) -> None:
    """Probe foreground and classes linearly, and compare neighbouring clips in actions and across their boundaries.

    Example: tspbench study features tac=TAC.h5 tsp=TSP.h5 --dataset D --out runs/study
    """
    from tspbench.study_verbs import study_feature_sets

    study_feature_sets(sets, dataset, out, seed=seed, json_out=json)
