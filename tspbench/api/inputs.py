"""From the names and paths of a call to what stages take: data sets, files, videos, settings."""

import sys
from collections.abc import Mapping, Sequence
from multiprocessing import current_process
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tspbench import ranks
from tspbench.config import choose, validated
from tspbench.errors import UserError
from tspbench.progress import progress, say

if TYPE_CHECKING:
    from tspbench.datasets import Dataset
    from tspbench.recipe import Recipe
    from tspbench.stages.captioner_settings import CaptionerSettings
    from tspbench.stages.train import LocalizerSettings

# ruff: noqa: PLC0415 - what needs no torch must not wait for it

Place = str | Path
Places = Place | Sequence[Place]
Settings = Mapping[str, Any] | Sequence[str]
"""Changed settings, as `tspbench.recipe.applied` takes them."""

DEMO: Final = "demo"
WHERE_PRETRAIN: Final = "the settings of pretrain"
WHERE_EVALUATE: Final = "the settings of evaluate"


def check_script() -> None:
    """Refuse to work in a reader of videos that is about to import the script which started it.

    Raises:
        UserError: without this, each reader would begin the script's work again, in the same folders.
    """
    if getattr(current_process(), "_inheriting", False):
        script = getattr(sys.modules.get("__mp_main__"), "__file__", None) or "The script"
        raise UserError(
            f"{script} begins its work while it is imported, and the processes that read videos import it: put that "
            'work below `if __name__ == "__main__":`.'
        )


def paths(places: Places) -> list[Path]:
    """Return one path or several as paths."""
    return [Path(places)] if isinstance(places, str | Path) else [Path(place) for place in places]


def needed(option: str, places: Places) -> list[Path]:
    """Return one path or several as paths.

    Raises:
        UserError: there is none.
    """
    if not (files := paths(places)):
        raise UserError(f"{option}: expected a path or several, found none.")
    return files


def texts(names: str | Sequence[str]) -> list[str]:
    """Return one text or several as texts."""
    return [names] if isinstance(names, str) else list(names)


def changes(settings: Settings) -> Settings:
    """Return changed settings as tables or as several texts; one text is one change."""
    return settings if isinstance(settings, Mapping) else texts(settings)


def at_least(least: int, option: str, value: int) -> int:
    """Return a whole number that has a least value.

    Raises:
        UserError: it is smaller, or no whole number.
    """
    if not isinstance(value, Integral) or value < least:
        raise UserError(f"{option}: expected a whole number of at least {least}, found {value!r}.")
    return int(value)


def found(place: Place | None) -> Path | None:
    """Return the file that somebody names: a path, or what the catalog calls so."""
    from tspbench.storage.catalog import located

    return None if place is None else located(place)


def joined_device(name: str) -> str:
    """Return the device that is meant; of several processes, all meet here before any of them works with it."""
    from tspbench.device import choose_device

    device = choose_device(name)
    ranks.join(device)
    return device


def opened(dataset: Place, seed: int) -> "Dataset":
    """Open a data set by name or folder; one that is generated is written when absent."""
    from tspbench.datasets import open_dataset

    with progress(f"generate {dataset} videos") as advance:
        return open_dataset(str(dataset), seed, advance)


def named_videos(dataset: Place | None, videos: Places) -> dict[str, Path]:
    """Return the videos to extract by name: H5 key → file."""
    from tspbench.datasets import scanned, usable_videos

    if (dataset is None) == (not paths(videos)):
        raise UserError("Expected either --dataset or --videos: name what to extract features of, by one of them.")
    named: dict[str, Path] = {}
    for path in [opened(dataset, 0).videos] if dataset is not None else paths(videos):
        manifest = scanned(path)
        for reason in manifest.quarantined.values() if manifest else ():
            say(f"Quarantined: {reason}")
        for name, file in (usable_videos(path) if dataset is not None or path.is_dir() else {path.stem: path}).items():
            if named.setdefault(name, file) != file:
                raise UserError(f"{named[name]} and {file} would share the key {name!r}: rename one.")
    return named


def feature_rows(features: Mapping[str, Places]) -> dict[str, list[Path]]:
    """Return name of the row → its H5 files.

    Raises:
        UserError: no table of names, a row without a name or a file, or a file that is known and not fetched.
    """
    if not isinstance(features, Mapping):
        raise UserError(
            f"features: expected a table such as {{'TSP': 'tsp.h5'}}, found {features!r}: give each file a name."
        )
    rows: dict[str, list[Path]] = {}
    for name, places in features.items():
        files = [file for place in paths(places) if (file := found(place)) is not None]
        if not name or not files:
            raise UserError(f"features {name!r}: expected a name and one H5 file or several, such as tsp: tsp.h5.")
        rows[name] = files
    if not rows:
        raise UserError("features: expected a row, found none: give NAME and FILE.h5 of a feature set.")
    return rows


def localizer_settings(name: str, protocol: str, labelled_elsewhere: bool, changes: Settings) -> "LocalizerSettings":
    """Return the published settings of a localizer with changes; of classes, too, if nobody else tells them."""
    from tspbench.recipe import applied
    from tspbench.stages.published import published
    from tspbench.stages.train import LocalizerSettings, named_localizer

    named_localizer(name)
    base = published(name, protocol).model_dump(mode="json")
    if "classes" in base["config"] and labelled_elsewhere:
        base["config"]["classes"] = 0  # nobody asks for them, or the scores tell them
    return validated(LocalizerSettings, applied(base, changes), WHERE_EVALUATE)


def captioner_settings(name: str, changes: Settings) -> "CaptionerSettings":
    """Return the published settings of a captioner with changes."""
    from tspbench.recipe import applied
    from tspbench.stages.captioner_settings import CaptionerSettings
    from tspbench.stages.published import CAPTIONERS

    base = CAPTIONERS[choose("captioner", name, CAPTIONERS)].model_dump(mode="json")
    return validated(CaptionerSettings, applied(base, changes), WHERE_EVALUATE)


def pretraining_recipe(
    dataset: Place, method: str, encoder: str, init: str | None, memory_gib: float | None, changes: Settings, seed: int
) -> "Recipe":
    """Return the recipe of one pretraining: the published one of the encoder, with changes.

    Raises:
        UserError: an unknown name, an encoder without weights to start from, or settings that do not fit.
    """
    from tspbench.datasets import BENCHMARKS
    from tspbench.datasets.benchmark import shortest_gap_clips
    from tspbench.encoders import named_encoder
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
    gap = {"shortest_gap_clips": shortest_gap_clips(opened(dataset, seed).protocol)} if encoder != "tiny" else {}
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
    stage = validated(PretrainStage, content, WHERE_PRETRAIN)
    # A benchmark is opened by its name: its folder needs no card.
    target = str(dataset) if str(dataset) in BENCHMARKS else str(opened(dataset, seed).folder)
    recipe = Recipe(
        name="pretrain", title="", encoder=encoder, seed=seed, data={"target": target}, pretrain={method: stage}
    )
    check_names(recipe, "the command")
    return recipe
