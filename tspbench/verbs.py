"""The commands as functions: what `tspbench.api` returns, printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tspbench import api
from tspbench.errors import UserError
from tspbench.progress import say
from tspbench.report import TABLE_FILE, terminal, write_table

if TYPE_CHECKING:
    from tspbench.report import ResultTable

# ruff: noqa: PLC0415 - what needs no torch must not wait for it


def run_recipe(recipe: str, out: Path, changes: Sequence[str], device: str) -> None:
    """Run a recipe in ``out`` and print its table."""
    _print(api.run(recipe, out, settings=changes, device=device))
    say(f"Table: {out / TABLE_FILE}; records, features and predictions are in {out}.")


def check_recipe(recipe: str, out: Path, changes: Sequence[str], device: str) -> None:
    """Print what a recipe would do in ``out``, what is missing for it and what it will cost."""
    from tspbench.checking import check
    from tspbench.device import choose_device
    from tspbench.recipe import read_recipe

    check(read_recipe(recipe, changes), out, choose_device(device))


def pretrain_encoder(
    dataset: str,
    method: str,
    encoder: str,
    out: Path,
    *,
    init: str | None,
    memory_gib: float | None,
    changes: Sequence[str],
    seed: int,
    device: str,
) -> None:
    """Pretrain an encoder and print where its checkpoint is."""
    weights = api.pretrain(
        dataset,
        method,
        encoder,
        out,
        init=init,
        memory_budget=memory_gib,
        settings=changes,
        seed=seed,
        device=device,
    )
    say(f"Encoder: {weights}")


def extract_features(
    encoder: str | None,
    checkpoint: Path | None,
    dataset: str | None,
    videos: Sequence[Path],
    out: Path,
    *,
    stride_frames: int | None,
    class_scores_out: Path | None,
    skip_unreadable: bool,
    precision: str,
    device: str,
) -> None:
    """Extract the features of a data set's videos, of a folder's, or of single ones, and say what was left out."""
    found = api.extract(
        out,
        encoder=encoder,
        checkpoint=checkpoint,
        dataset=dataset,
        videos=videos,
        stride_frames=stride_frames,
        class_scores=class_scores_out,
        skip_unreadable=skip_unreadable,
        precision=precision,
        device=device,
    )
    for reason in found.left_out.values():
        say(f"Left out: {reason}")
    say(f"Features of {len(found.videos)} of {len(found.videos) + len(found.left_out)} videos: {out}")


def evaluate_features(
    task: str,
    dataset: str,
    features: Sequence[str],
    out: Path,
    *,
    localizer: str | None,
    class_scores: Path | None,
    proposals: Sequence[Path],
    sound: Path | None,
    references: Sequence[str],
    changes: Sequence[str],
    seed: int,
    device: str,
) -> None:
    """Make and print one table of several feature sets."""
    table = api.evaluate(
        task,
        dataset,
        _rows(features),
        out,
        localizer=localizer,
        class_scores=class_scores,
        proposals=proposals,
        sound=sound,
        references=references,
        settings=changes,
        seed=seed,
        device=device,
    )
    _print(table)
    say(f"Table: {out / TABLE_FILE}; records and predictions are in {out / task}.")


def predict_videos(
    videos: Sequence[Path],
    run: Path,
    *,
    row: str | None,
    checkpoints: Sequence[Path],
    encoders: Sequence[str],
    localizer: str | None,
    out: Path | None,
    device: str,
) -> None:
    """Find actions in videos with what a run has trained, and print the best of each.

    Raises:
        UserError: also where some videos could not be read; the files of all others are written by then.
    """
    from tspbench.video_prediction import told, told_problems

    found = api.predict(
        videos,
        run,
        row=row,
        checkpoint=checkpoints,
        encoder=encoders,
        localizer=localizer,
        out=out,
        device=device,
    )
    for each in found.videos:
        print(told(each))
    if found.videos:
        say(f"Segments, subtitles and pictures of {len(found.videos)} video(s): {found.out}")
    if found.problems:
        raise UserError(told_problems(found))


def _print(table: "ResultTable") -> None:
    Console().print(terminal(table))


def report_runs(folders: Sequence[Path], form: str, out: Path | None) -> None:
    """Write and print the tables of runs from their records, or write one HTML page of them all."""
    if form == "html":
        say(f"Page: {api.page(folders, out)}")
        return
    if out is not None:
        raise UserError(f"--out {out}: a Markdown table lies in its run's folder: leave it out, or add --format html.")
    for folder in folders:
        _print(write_table(folder))
        say(f"Table: {folder / TABLE_FILE}")


def _rows(features: Sequence[str]) -> dict[str, list[str]]:
    """Return name → files of texts such as tsp=train.h5,valid.h5."""
    rows: dict[str, list[str]] = {}
    for text in features:
        name, equals, paths = text.partition("=")
        if not equals or not name or not all(paths.split(",")):
            raise UserError(f"--features {text}: expected NAME=FILE.h5, such as tsp=features/tsp.h5.")
        if name in rows:
            raise UserError(f"--features {text}: there is another row {name!r}: give each row a name of its own.")
        rows[name] = paths.split(",")
    return rows
