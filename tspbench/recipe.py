"""What a recipe says: data sets, pretrainings, extraction, localizers, rows."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from tspbench.config import Settings, choose, merged, validated
from tspbench.datasets import BENCHMARKS, DATASETS
from tspbench.datasets.synthetic import SyntheticSettings
from tspbench.encoders import ENCODERS, named_encoder
from tspbench.errors import UserError
from tspbench.own_code import is_own
from tspbench.pretraining import METHODS
from tspbench.recipe_defaults import completed
from tspbench.reference_rows import FREE_REFERENCES
from tspbench.stages.captioner_settings import GENERATOR, CaptionerSettings, check_captioner
from tspbench.stages.evaluate import check_rows
from tspbench.stages.pretrain import PretrainSettings
from tspbench.stages.pretrain_lofi import check_lofi
from tspbench.stages.train import LocalizerSettings, localizer_config, named_localizer
from tspbench.storage.catalog import is_known
from tspbench.storage.published_numbers import published
from tspbench.storage.recipes import read_toml

RANDOM: Final = "random"
LOFI: Final = "lofi"
KINETICS: Final = "kinetics"
IMAGENET: Final = "imagenet"
# Words for weights of the recipe's encoder by what they were trained on: torchvision's, or of a file in ``released``.
TRAINED_ON: Final = (KINETICS, IMAGENET)
SHIPPED: Final = Path(__file__).parent / "recipes"
# Keys of a recipe's ``data`` that are no data sets, but entries of the target's card: where its files lie.
ELSEWHERE: Final = ("videos", "annotations")
Changes = Sequence[str] | Mapping[str, Any]
"""What `applied` takes."""


class PretrainStage(PretrainSettings):
    """A pretraining of a recipe.

    Args:
        data: key of the recipe's ``data``.
        init: the encoder it starts from: "random", "kinetics", "imagenet", another pretraining, a weight file, or the
            name of a user's own encoder: the weights that it comes with.
        encoder: key of `ENCODERS`, or the name of a user's own; none: the recipe's.
        gvf_features: H5 file of the initial encoder's features or of global features; extracted when not given.
    """

    data: str
    init: str
    encoder: str | None = None
    gvf_features: str | None = None


class ExtractSettings(Settings):
    """How every feature set of a recipe is extracted."""

    stride_frames: int = Field(default=16, ge=1)
    batch_size: int = Field(default=32, ge=1)


class RowSettings(Settings):
    """A row of the table.

    Args:
        name: how the table calls it.
        features: of which encoder: a pretraining, a key of ``released`` or ``features``, "random", "kinetics",
            "imagenet", a weight file or its name in `tspbench.storage.catalog`, or a user's own encoder with the
            weights that it comes with (path/to/file.py:Name, package.module:Name).
        published: task → key of a row of ``published.toml``, whose numbers stand beside the measured ones.
    """

    name: str
    features: str
    published: dict[str, str] = Field(default_factory=dict)


class TaskSettings(Settings):
    """The tasks of a table: localizers for "tal" and "proposals", a captioner for "captioning"."""

    tal: LocalizerSettings | None = None
    proposals: LocalizerSettings | None = None
    captioning: CaptionerSettings | None = None

    @property
    def localizers(self) -> dict[str, LocalizerSettings]:
        """Task → its localizer, for the tasks that have one."""
        both = {"tal": self.tal, "proposals": self.proposals}
        return {task: settings for task, settings in both.items() if settings is not None}


class Recipe(Settings):
    """A whole experiment.

    Args:
        name: of the recipe.
        title: heading of its table.
        notes: sentences below the table.
        seed: everything random follows from it.
        encoder: key of `ENCODERS`, or the name of a user's own.
        target: key of ``data``: the set that localizers are trained and scored on.
        data: key → folder or name of a data set. Two keys are none, see `ELSEWHERE`: "videos" and "annotations" say
            where those of the target lie, if not in its folder.
        trial: role ("training", "validation") → only so many videos of the target set, for a rehearsal.
        generate: size of generated sets.
        pretrain: name → stage, in the order in which they run; those that no row needs are not run.
        released: an encoder of this recipe → what its authors' released weights and features are called.
        features: an encoder of this recipe → H5 files with commas between them, which are taken as they are.
        extract: features of the target set.
        class_scores: file of video-level class scores, the same for every row.
        sound: audio features for captioning, an H5 file or a folder of .npy files.
        class_scores_from: pretraining whose action head gives every video its class scores; neither: class-agnostic.
        proposals: files of proposals, for a localizer that refines those of another.
        tasks: what is trained for each task, the same for every row; the columns of the table.
        references: rows that no network is trained for, see `tspbench.reference_rows`.
        with_lofi: false: rows, and class scores, of encoders that were pretrained with LoFi are left out.
        rows: of the table.
    """

    name: str
    title: str
    notes: tuple[str, ...] = Field(default=(), strict=False)
    seed: int = Field(default=0, ge=0)
    encoder: str
    target: str = "target"
    data: dict[str, str]
    trial: dict[Literal["training", "validation"], Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    generate: SyntheticSettings = SyntheticSettings()
    pretrain: dict[str, PretrainStage]
    released: dict[str, str] = Field(default_factory=dict)
    features: dict[str, str] = Field(default_factory=dict)
    extract: ExtractSettings = ExtractSettings()
    class_scores: str | None = None
    sound: str | None = None
    class_scores_from: str | None = None
    proposals: tuple[str, ...] = Field(default=(), strict=False)
    tasks: TaskSettings = TaskSettings()
    references: tuple[str, ...] = Field(default=(), strict=False)
    with_lofi: bool = True
    rows: tuple[RowSettings, ...] = Field(default=(), strict=False)

    @property
    def sets(self) -> dict[str, str]:
        """Key → folder or name of every data set."""
        return {key: source for key, source in self.data.items() if key not in ELSEWHERE}

    @property
    def elsewhere(self) -> dict[str, str]:
        """Entries of the target's card that are not as its folder has them."""
        return {key: path for key, path in self.data.items() if key in ELSEWHERE}


def read_recipe(name_or_path: str, changes: Changes) -> Recipe:
    """Read a shipped recipe by name or a TOML file by path, with changes as `applied` takes them.

    Raises:
        UserError: no such recipe, a key or value that does not fit, or a name in it that refers to nothing.
    """
    path = Path(name_or_path)
    if not path.is_file():
        shipped = {file.stem: file for file in SHIPPED.glob("*.toml")}
        path = shipped[choose("recipe, nor a file", name_or_path, shipped)]
    content = completed(applied(read_toml(path), changes))
    recipe = validated(Recipe, content, str(path))
    check_names(recipe, str(path))
    return recipe if recipe.with_lofi else _without_lofi(recipe)


def _without_lofi(recipe: Recipe) -> Recipe:
    """Leave out what needs an encoder that LoFi has trained, or one that starts from such an encoder."""
    lofi: set[str] = set()
    for name, stage in recipe.pretrain.items():
        if stage.method == LOFI or stage.init in lofi:
            lofi.add(name)
    rows = tuple(row for row in recipe.rows if row.features not in lofi)
    scores_from = None if recipe.class_scores_from in lofi else recipe.class_scores_from
    return recipe.model_copy(update={"rows": rows, "class_scores_from": scores_from})


def applied(content: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Return ``content`` with changed settings.

    Args:
        content: tables of settings.
        changes: tables of those that are another; or texts such as "fit.epochs=4", whose value is null, or read as
            TOML, or a plain string where it is none.

    Raises:
        UserError: a text that is not key=value, or that goes through a value.
    """
    result = copy.deepcopy(dict(content))
    if isinstance(changes, Mapping):
        return merged(result, changes)
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
    named_encoder(recipe.encoder, f" in {where}")
    choose(f"data key ('target') in {where}", recipe.target, recipe.sets)
    for key, data in recipe.sets.items():
        if not Path(data).is_dir():
            choose(f"data set, nor a folder ('data.{key}' in {where})", data, {**DATASETS, **BENCHMARKS})
    brought = [*TRAINED_ON, *recipe.released, *recipe.features]
    earlier: list[str] = []
    for name, stage in recipe.pretrain.items():
        choose(f"method ('pretrain.{name}.method' in {where})", stage.method, METHODS)
        choose(f"data key ('pretrain.{name}.data' in {where})", stage.data, recipe.sets)
        encoder = stage.encoder or recipe.encoder
        kind = named_encoder(encoder, f" ('pretrain.{name}.encoder' in {where})")
        if stage.method == LOFI:
            check_lofi(stage, encoder, kind)
        if is_own(stage.init) and stage.init != encoder:
            raise UserError(
                f"{where}: pretrain.{name}.init: expected weights of {encoder}, found those of {stage.init}: give "
                "encoder and init the same name."
            )
        _check_encoder(stage.init, [RANDOM, *brought, *earlier], f"'pretrain.{name}.init' in {where}")
        earlier.append(name)
    if recipe.class_scores_from is not None:
        choose(f"pretraining ('class_scores_from' in {where})", recipe.class_scores_from, earlier)
    for reference in recipe.references:
        choose(f"reference row in {where}; random features are a row of their own", reference, FREE_REFERENCES)
    check_rows([row.name for row in recipe.rows], recipe.references, where)
    for row in recipe.rows:
        _check_encoder(row.features, [RANDOM, *brought, *earlier], f"features of row {row.name!r} in {where}")
        for task, key in row.published.items():
            choose(f"task (published numbers of row {row.name!r} in {where})", task, ("tal", "proposals", "captioning"))
            published(key)
    _check_brought(recipe, where)
    _check_tasks(recipe, where)


def _check_brought(recipe: Recipe, where: str) -> None:
    """Refuse names of features and weights that nothing uses, and weights of another encoder."""
    inits = {stage.init: stage.encoder or recipe.encoder for stage in recipe.pretrain.values()}
    used = [*TRAINED_ON, *recipe.pretrain, *inits, *(row.features for row in recipe.rows)]
    for table, names in (("features", recipe.features), ("released", recipe.released)):
        for name in names:
            choose(f"encoder of a row ('{table}.{name}' in {where})", name, used)
    for name, released in recipe.released.items():
        kind = released.partition("-")[0]
        if not Path(released).is_file():
            choose(f"name of released weights, nor a file ('released.{name}' in {where})", kind, ENCODERS)
        stage = recipe.pretrain.get(name)
        wanted = (stage.encoder or recipe.encoder) if stage else inits.get(name, kind)
        if kind in ENCODERS and kind != wanted and not Path(released).is_file():
            raise UserError(
                f"{where}: released.{name}: expected weights of {wanted}, found those of {kind} ({released}): give "
                f"--set released.{name}=FILE, or =null to do without."
            )
    if recipe.class_scores is not None and recipe.class_scores_from is not None:
        raise UserError(f"{where}: class_scores and class_scores_from are both given: set one of them to null.")


def _check_tasks(recipe: Recipe, where: str) -> None:
    """Refuse rows that nothing fills, and settings that do not fit the encoder's features."""
    if recipe.rows and all(row.features == RANDOM for row in recipe.rows):
        raise UserError(
            f"{where}: every row has random features, which take their shape from others: add an encoder's."
        )
    tasks = recipe.tasks
    if recipe.rows and not (tasks.localizers or tasks.captioning):
        raise UserError(f"{where}: there are rows but no task to fill them: add [tasks.tal].")
    feature_dim = named_encoder(recipe.encoder).feature_dim
    for localizer in tasks.localizers.values():
        named_localizer(localizer.name)
        localizer_config(localizer, feature_dim)
    if tasks.captioning is not None and recipe.trial:
        raise UserError(f"{where}: trial: captioning is never tried on a part of its videos: leave the trial out.")
    if tasks.captioning is not None:
        check_captioner(tasks.captioning, feature_dim, audio_dim=0)
        _check_proposals(tasks, tasks.captioning.proposals.source, where)


def _check_proposals(tasks: TaskSettings, source: str, where: str) -> None:
    """Refuse to describe the proposals of a localizer that no task trains."""
    trained = [localizer.name for localizer in tasks.localizers.values()]
    if source not in (GENERATOR, *trained):
        raise UserError(
            f"{where}: tasks.captioning.proposals.source: expected {GENERATOR!r} or a localizer that a task of this "
            f"recipe trains ({', '.join(trained) or 'none does'}), found {source!r}: add [tasks.proposals] with "
            f'name = "{source}", or choose another source.'
        )


def _check_encoder(name: str, known: Sequence[str], where: str) -> None:
    if is_own(name):
        named_encoder(name)
    elif not Path(name).is_file() and not is_known(name):
        choose(f"encoder, nor a weight file ({where})", name, known)
