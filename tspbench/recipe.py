"""What a recipe says: data sets, pretrainings, extraction, localizers, rows."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from tspbench.config import Settings, choose, validated
from tspbench.datasets import DATASETS
from tspbench.datasets.synthetic import SyntheticSettings
from tspbench.encoders import ENCODERS
from tspbench.errors import UserError
from tspbench.pretraining import METHODS
from tspbench.reference_rows import FREE_REFERENCES
from tspbench.stages.evaluate import TASKS, check_rows
from tspbench.stages.pretrain import PretrainSettings
from tspbench.stages.train import LocalizerSettings, localizer_config
from tspbench.storage.recipes import read_toml

RANDOM: Final = "random"
KINETICS: Final = "kinetics"
SHIPPED: Final = Path(__file__).parent / "recipes"


class PretrainStage(PretrainSettings):
    """A pretraining of a recipe.

    Args:
        data: key of the recipe's ``data``.
        init: the encoder it starts from: "random", "kinetics" (torchvision's weights), another pretraining, or a
            weight file.
        gvf_features: H5 file of the initial encoder's features or of global features; extracted when not given.
    """

    data: str
    init: str
    gvf_features: str | None = None


class ExtractSettings(Settings):
    """How every feature set of a recipe is extracted."""

    stride_frames: int = Field(default=16, ge=1)
    batch_size: int = Field(default=32, ge=1)


class RowSettings(Settings):
    """A row of the table: its name, and a pretraining, "random" features, "kinetics" or a weight file."""

    name: str
    features: str


class Recipe(Settings):
    """A whole experiment.

    Args:
        name: of the recipe.
        title: heading of its table.
        notes: sentences below the table.
        seed: everything random follows from it.
        encoder: key of `ENCODERS`.
        target: key of ``data``: the set that localizers are trained and scored on.
        data: key → folder of a data set, or one of the sets that the project makes.
        generate: size of generated sets.
        pretrain: name → stage, in the order in which they run.
        extract: features of the target set.
        class_scores_from: pretraining whose action head gives every video its class scores; none: class-agnostic.
        tasks: task → the localizer that is trained for it, the same for every row; the columns of the table.
        references: rows that no network is trained for, see `tspbench.reference_rows`.
        rows: of the table.
    """

    name: str
    title: str
    notes: tuple[str, ...] = Field(default=(), strict=False)
    seed: int = Field(default=0, ge=0)
    encoder: str
    target: str = "target"
    data: dict[str, str]
    generate: SyntheticSettings = SyntheticSettings()
    pretrain: dict[str, PretrainStage]
    extract: ExtractSettings = ExtractSettings()
    class_scores_from: str | None = None
    tasks: dict[str, LocalizerSettings] = Field(default_factory=dict)
    references: tuple[str, ...] = Field(default=(), strict=False)
    rows: tuple[RowSettings, ...] = Field(default=(), strict=False)


def read_recipe(name_or_path: str, changes: Sequence[str]) -> Recipe:
    """Read a shipped recipe by name or a TOML file by path, with changes ``stage.key=value``.

    Raises:
        UserError: no such recipe, a key or value that does not fit, or a name in it that refers to nothing.
    """
    path = Path(name_or_path)
    if not path.is_file():
        shipped = {file.stem: file for file in SHIPPED.glob("*.toml")}
        path = shipped[choose("recipe, nor a file", name_or_path, shipped)]
    content = read_toml(path)
    recipe = validated(Recipe, applied(content, changes), str(path))
    check_names(recipe, str(path))
    return recipe


def applied(content: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return ``content`` with dotted keys set; a value is null, or read as TOML, or a plain string where it is none.

    Raises:
        UserError: a change that is not key=value, or that goes through a value.
    """
    result = copy.deepcopy(dict(content))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {change}: expected key=value, such as seed=1 or pretrain.tsp.fit.epochs=4.")
        here = result
        *path, last = key.strip().split(".")
        for part in path:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise UserError(f"--set {change}: {part!r} is a value, not a table of settings.")
        here[last] = _value(text.strip())
    return result


def _value(text: str) -> object:
    if text == "null":  # TOML has no word for it
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_names(recipe: Recipe, where: str) -> None:
    """Refuse references to nothing, and settings that do not fit the localizer, before any work is done.

    Raises:
        UserError: names the reference, what it could be, and ``where``.
    """
    choose(f"encoder in {where}", recipe.encoder, ENCODERS)
    choose(f"data key ('target') in {where}", recipe.target, recipe.data)
    for key, data in recipe.data.items():
        if not Path(data).is_dir():
            choose(f"data set, nor a folder ('data.{key}' in {where})", data, DATASETS)
    earlier: list[str] = []
    for name, stage in recipe.pretrain.items():
        choose(f"method ('pretrain.{name}.method' in {where})", stage.method, METHODS)
        choose(f"data key ('pretrain.{name}.data' in {where})", stage.data, recipe.data)
        _check_encoder(stage.init, [RANDOM, KINETICS, *earlier], f"'pretrain.{name}.init' in {where}")
        earlier.append(name)
    if recipe.class_scores_from is not None:
        choose(f"pretraining ('class_scores_from' in {where})", recipe.class_scores_from, earlier)
    for reference in recipe.references:
        choose(f"reference row in {where}; random features are a row of their own", reference, FREE_REFERENCES)
    check_rows([row.name for row in recipe.rows], recipe.references, where)
    for row in recipe.rows:
        _check_encoder(row.features, [RANDOM, KINETICS, *earlier], f"features of row {row.name!r} in {where}")
    if recipe.rows and all(row.features == RANDOM for row in recipe.rows):
        raise UserError(
            f"{where}: every row has random features, which take their shape from others: add an encoder's."
        )
    if recipe.rows and not recipe.tasks:
        raise UserError(f"{where}: there are rows but no task to fill them: add [tasks.tal].")
    for task, localizer in recipe.tasks.items():
        choose(f"task in {where}", task, TASKS)
        localizer_config(localizer, ENCODERS[recipe.encoder].feature_dim)


def _check_encoder(name: str, known: Sequence[str], where: str) -> None:
    if not Path(name).is_file():
        choose(f"encoder, nor a weight file ({where})", name, known)
