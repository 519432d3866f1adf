"""The commands as functions: from names and paths to stages, and what they print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tspbench import ranks, watch
from tspbench.config import validated
from tspbench.errors import UserError
from tspbench.progress import progress, say

# ruff: noqa: PLC0415 - `score`, `report` and `list` must not wait for torch, which the others load
DEMO: Final = "demo"
# Task → the localizer or captioner of TSP's paper.
_LOCALIZERS: Final = {"tal": "gtad", "proposals": "bmn", "captioning": "bmt"}


def run_recipe(recipe: str, out: Path, changes: Sequence[str], device: str) -> None:
    """Run a recipe in ``out`` and print its table."""
    from tspbench.experiment import Experiment
    from tspbench.recipe import read_recipe
    from tspbench.report import TABLE_FILE, terminal

    table = Experiment(read_recipe(recipe, changes), out, _device(device)).run()
    Console().print(terminal(table))
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
    from tspbench.config import choose
    from tspbench.datasets import BENCHMARKS
    from tspbench.datasets.benchmark import shortest_gap_clips
    from tspbench.encoders import named_encoder
    from tspbench.experiment import Experiment
    from tspbench.own_code import is_own
    from tspbench.pretraining import METHODS
    from tspbench.recipe import LOFI, RANDOM, PretrainStage, Recipe, applied, check_names, read_recipe
    from tspbench.stages.pretrain import PUBLISHED_FIT, PretrainSettings
    from tspbench.stages.pretrain_lofi import PUBLISHED_LOFI_FIT

    choose("method", method, METHODS)
    kind = named_encoder(encoder)
    if memory_gib is not None and method != LOFI:
        raise UserError(
            f"--memory-budget: {method} learns from clips, for which it means nothing: give --set fit.micro_batch=N."
        )
    # Published recipes are for published encoders; the tiny one has the demo's.
    fit = PUBLISHED_LOFI_FIT if method == LOFI else PUBLISHED_FIT
    published = (
        read_recipe(DEMO, []).pretrain[method] if encoder == "tiny" else PretrainSettings(method=method, fit=fit)
    )
    gap = {"shortest_gap_clips": shortest_gap_clips(_open(dataset, seed).protocol)} if encoder != "tiny" else {}
    base = {**published.model_dump(mode="json"), **gap}
    initial = init or (encoder if is_own(encoder) else next(iter(kind.torchvision_weights), RANDOM))
    if initial == RANDOM and init is None and encoder != "tiny":
        raise UserError(
            f"torchvision publishes no weights of {encoder} to start from: give --init random, a file, or a name of "
            "`tspbench list files` such as r2plus1d_34-tac_on_kinetics."
        )
    content = applied({**base, "data": "target", "init": initial}, changes)
    if memory_gib is not None:
        content["end_to_end"] = {**content["end_to_end"], "memory_gib": memory_gib}
    stage = validated(PretrainStage, content, "the settings of pretrain")
    # A benchmark is opened by its name: its folder needs no card.
    target = dataset if dataset in BENCHMARKS else str(_open(dataset, seed).folder)
    recipe = Recipe(
        name="pretrain", title="", encoder=encoder, seed=seed, data={"target": target}, pretrain={method: stage}
    )
    check_names(recipe, "the command")
    say(f"Encoder: {Experiment(recipe, out, _device(device)).checkpoint(method)}")


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
    """Extract the features of a data set's videos, of a folder's, or of single ones."""
    from tspbench.encoders import encoder_facts, load_encoder, named_encoder
    from tspbench.stages.extract import (
        Extraction,
        TrainedEncoder,
        action_labels,
        check_readable,
        class_scores,
        extract,
    )
    from tspbench.storage.class_scores import write_class_scores
    from tspbench.storage.features import FeatureFiles
    from tspbench.storage.hashes import hash_file

    if encoder is not None:
        named_encoder(encoder)
    checkpoint = _found(checkpoint)
    files = _videos(dataset, videos)
    if not skip_unreadable:
        check_readable(next(iter(files.values())))
    module, weights = load_encoder(encoder, checkpoint)
    if class_scores_out is not None:
        action_labels(weights, checkpoint)
    source = str(weights.card["source"]) if checkpoint is None else hash_file(checkpoint)
    how = Extraction(
        stride_frames=stride_frames or module.preprocessing.clip_frames,
        device=_device(device),
        precision=precision,
        skip_unreadable=skip_unreadable,
    )
    with progress("extract") as advance, watch.stage(f"extract into {out}", shared=True):
        name = encoder or str(weights.encoder)
        trained = TrainedEncoder(module, name, source, encoder_facts(name))
        skipped = extract(trained, files, out, how, advance)
    if class_scores_out is not None and checkpoint is not None:
        where, weights_file = class_scores_out, checkpoint
        ranks.by_first(lambda: write_class_scores(where, class_scores(FeatureFiles([out]), weights_file)))
    for reason in skipped.values():
        say(f"Left out: {reason}")
    say(f"Features of {len(files) - len(skipped)} of {len(files)} videos: {out}")


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
    """Make one table of several feature sets."""
    from tspbench.report import TABLE_FILE, terminal, write_table
    from tspbench.stages.captioning_inputs import Captioning
    from tspbench.stages.evaluate import Task, evaluate
    from tspbench.stages.localization import Localization

    rows = _rows(features)
    captions = task == "captioning"
    for option, given, wanted in (
        ("--class-scores", class_scores is not None, task == "tal"),
        ("--proposals", bool(proposals), task == "tal"),
        ("--reference", bool(references), not captions),
        ("--sound", sound is not None, captions),
    ):
        if given and not wanted:
            raise UserError(f"{option}: the task {task} has no use for it: leave it out.")
    opened = _open(dataset, seed)
    name = localizer or _LOCALIZERS[task]
    where = _device(device)
    if captions:
        settings = _captioner(name, changes)
        what: Task = Captioning(opened, settings, sound, seed, where, out)
    else:
        what = Localization(
            task,
            opened,
            _localizer(name, opened.protocol, task == "proposals" or class_scores is not None, changes),
            _found(class_scores),
            list(dict.fromkeys(references)),
            seed,
            where,
            out,
            tuple(map(_found, proposals)),
        )
    evaluate([what], rows, f"{'Describing' if captions else 'Finding'} actions on {opened.name}", [])
    Console().print(terminal(write_table(out)))
    say(f"Table: {out / TABLE_FILE}; records and predictions are in {out / task}.")


def _localizer(name: str, protocol: str, labelled_elsewhere: bool, changes: Sequence[str]) -> Any:
    """Return the published settings of a localizer with changes."""
    from tspbench.recipe import applied
    from tspbench.stages.published import published
    from tspbench.stages.train import LocalizerSettings, named_localizer

    named_localizer(name)
    base = published(name, protocol).model_dump(mode="json")
    if "classes" in base["config"] and labelled_elsewhere:
        base["config"]["classes"] = 0  # nobody asks for them, or the scores tell them
    return validated(LocalizerSettings, applied(base, changes), "the settings of evaluate")


def _captioner(name: str, changes: Sequence[str]) -> Any:
    """Return the published settings of a captioner with changes."""
    from tspbench.config import choose
    from tspbench.recipe import applied
    from tspbench.stages.captioner_settings import CaptionerSettings
    from tspbench.stages.published import CAPTIONERS

    base = CAPTIONERS[choose("captioner", name, CAPTIONERS)].model_dump(mode="json")
    return validated(CaptionerSettings, applied(base, changes), "the settings of evaluate")


def report_run(folder: Path) -> None:
    """Write and print a run's table from its records."""
    from tspbench.report import TABLE_FILE, terminal, write_table

    Console().print(terminal(write_table(folder)))
    say(f"Table: {folder / TABLE_FILE}")


def _device(name: str) -> str:
    """Return the device that is meant; of several processes, all meet here before any of them works with it."""
    from tspbench.device import choose_device

    device = choose_device(name)
    ranks.join(device)
    return device


def _open(dataset: str, seed: int) -> Any:
    from tspbench.datasets import open_dataset

    with progress(f"generate {dataset} videos") as advance:
        return open_dataset(dataset, seed, advance)


def _found(name_or_path: Any) -> Any:
    """Return the file that an option names: a path, or what the catalog calls so."""
    from tspbench.storage.catalog import located

    return None if name_or_path is None else located(name_or_path)


def _videos(dataset: str | None, videos: Sequence[Path]) -> dict[str, Path]:
    """Return the videos to extract by name: H5 key → file."""
    from tspbench.datasets import scanned, usable_videos

    if (dataset is None) == (not videos):
        raise UserError("Expected either --dataset or --videos: name what to extract features of, by one of them.")
    found: dict[str, Path] = {}
    for path in [_open(dataset, 0).videos] if dataset is not None else videos:
        manifest = scanned(path)
        for reason in manifest.quarantined.values() if manifest else ():
            say(f"Quarantined: {reason}")
        for name, file in (usable_videos(path) if dataset is not None or path.is_dir() else {path.stem: path}).items():
            if found.setdefault(name, file) != file:
                raise UserError(f"{found[name]} and {file} would share the key {name!r}: rename one.")
    return found


def _rows(features: Sequence[str]) -> dict[str, list[Path]]:
    """Return name → files of texts such as tsp=train.h5,valid.h5."""
    rows: dict[str, list[Path]] = {}
    for text in features:
        name, equals, paths = text.partition("=")
        if not equals or not name or not all(paths.split(",")):
            raise UserError(f"--features {text}: expected NAME=FILE.h5, such as tsp=features/tsp.h5.")
        if name in rows:
            raise UserError(f"--features {text}: there is another row {name!r}: give each row a name of its own.")
        rows[name] = [_found(Path(path)) for path in paths.split(",")]
    return rows
