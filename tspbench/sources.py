"""Where the features of a row come from: files given, released features, released weights, or a pretraining."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from tspbench.datasets import BENCHMARKS, DATASETS, Dataset, benchmark_folder, open_dataset
from tspbench.encoders import ENCODERS, encoder_class
from tspbench.errors import UserError
from tspbench.own_code import is_own
from tspbench.recipe import KINETICS, RANDOM, TRAINED_ON, Recipe
from tspbench.storage.catalog import CATALOG, Entry, find, is_known

How = Literal["random", "given", "released features", "weights", "torchvision", "own", "pretraining"]
TOLD: Final[dict[How, str]] = {
    "random": "random features",
    "given": "features given",
    "released features": "released features",
    "weights": "features extracted with weights from a file",
    "torchvision": "features extracted with torchvision's weights",
    "own": "features extracted with the weights that the encoder comes with",
    "pretraining": "features extracted after pretraining here",
}


@dataclass(frozen=True)
class Source:
    """How features or weights are come by.

    Attributes:
        how: see `TOLD`.
        files: the feature files or the weight file; none where they have to be made.
        ways: what would do, each with how to get it, where something is missing; empty: everything is there.
    """

    how: How
    files: tuple[Path, ...] = ()
    ways: tuple[str, ...] = ()


class Sources:
    """What the names of encoders in a recipe stand for, on this machine at this moment.

    Of several ways to the features of an encoder the shortest is taken: files that the recipe names, released features
    on disk, released weights on disk, and last the pretraining that the recipe describes.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.features = cache(self._features)
        self.weights = cache(self._weights)
        self.dataset_problem = cache(self._dataset_problem)
        self.videos_problem = cache(self._videos_problem)

    def encoder(self, name: str) -> str:
        """Return the name of the encoder that ``name`` has the weights of."""
        if is_own(name):
            return name
        if name in self._recipe.pretrain:
            return self._recipe.pretrain[name].encoder or self._recipe.encoder
        released = self._recipe.released.get(name, name).partition("-")[0]
        return released if released in ENCODERS else self._recipe.encoder

    def dataset(self, key: str) -> Dataset:
        """Open a data set of the recipe that the user has brought.

        Raises:
            UserError: it is not there, or its card does not fit.
        """
        recipe = self._recipe
        opened = open_dataset(recipe.data[key], elsewhere=self._elsewhere(key))
        same = recipe.data[key] == recipe.data[recipe.target]
        return Dataset(opened.folder, opened.card, dict(recipe.trial.items()) if same else {})

    def _elsewhere(self, key: str) -> dict[str, str]:
        """Return which files of a data set lie elsewhere: as those of the target, as far as they are the same."""
        recipe = self._recipe
        source, target = recipe.data[key], recipe.data[recipe.target]
        if source == target:
            return recipe.elsewhere
        usual = {
            os.path.normpath(benchmark_folder(name) / BENCHMARKS[name].videos) if name in BENCHMARKS else name
            for name in (source, target)
        }
        return {name: path for name, path in recipe.elsewhere.items() if name == "videos" and len(usual) == 1}

    def needs(self) -> list[tuple[str, str]]:
        """Return every file beside features and weights that the recipe names: what it is, and its path or name."""
        recipe = self._recipe
        gvf = [(f"global features of {name}", recipe.pretrain[name].gvf_features) for name in self.pretrainings()]
        named = [
            ("class scores", recipe.class_scores),
            ("sound", recipe.sound),
            *(("proposals", name) for name in recipe.proposals),
            *gvf,
        ]
        return [(what, name) for what, name in named if name is not None]

    def problems(self) -> list[str]:
        """Return a sentence for each thing without which the recipe cannot be finished."""
        recipe = self._recipe
        found = [problem] if (problem := self.dataset_problem(recipe.target)) else []
        for row in recipe.rows:
            if ways := self.features(row.features).ways:
                found.append(f"{row.name}: something is missing: {'; or '.join(ways)}.")
        if recipe.class_scores_from and (ways := self.weights(recipe.class_scores_from).ways):
            found.append(f"class scores of {recipe.class_scores_from}: something is missing: {'; or '.join(ways)}.")
        for what, name in self.needs():
            try:
                find(name)
            except UserError as error:
                found.append(f"{what}: {error}")
        if not recipe.proposals and any(settings.refines for settings in recipe.tasks.localizers.values()):
            found.append(
                "The localizer refines the proposals of others: name their files (--set 'proposals=[\"FILE\"]')."
            )
        return found

    def shares_videos(self, key: str) -> bool:
        """Tell whether a data set has the videos of the target, so that features of one are those of the other."""
        target = self._recipe.target
        if key == target or self._recipe.data[key] in DATASETS or self._recipe.data[target] in DATASETS:
            return key == target
        if self.dataset_problem(key) or self.dataset_problem(target):
            return False
        return self.dataset(key).videos.resolve() == self.dataset(target).videos.resolve()

    def pretrainings(self) -> list[str]:
        """Return the pretrainings that some row, or the class scores, cannot do without, in the recipe's order."""
        recipe = self._recipe
        needed: set[str] = set()

        def need(name: str) -> None:
            if name in recipe.pretrain and name not in needed and self.weights(name).how == "pretraining":
                needed.add(name)
                need(recipe.pretrain[name].init)

        wanted = [row.features for row in recipe.rows if self.features(row.features).how == "pretraining"]
        for name in [*wanted, *([recipe.class_scores_from] if recipe.class_scores_from else [])]:
            need(name)
        return [name for name in recipe.pretrain if name in needed]

    def _features(self, name: str) -> Source:
        """Say where the target set's features of an encoder come from."""
        recipe = self._recipe
        if name == RANDOM:
            return Source("random")
        if name in recipe.features:
            files = tuple(_file(part.strip()) for part in recipe.features[name].split(","))
            lacking = [f"the file {path}, which features.{name} names" for path in files if not path.is_file()]
            return Source("given", files, (" and ".join(lacking),) if lacking else ())
        released = self._released_features(name)
        if released and all(path.is_file() for path in released):
            return Source("released features", released)
        weights, videos = self._weights(name), self.videos_problem(recipe.target)
        if not weights.ways and videos is None:
            return Source(weights.how)
        made = [" and ".join([way, *([videos] if videos and videos not in way else [])]) for way in weights.ways]
        return Source(weights.how, (), (_brought(name, released), *(made or [str(videos)])))

    def _weights(self, name: str) -> Source:
        """Say where the weights of an encoder come from."""
        if name == RANDOM:
            return Source("random")
        if is_own(name):
            return Source("own")
        entry = self._entry(name)
        own = Path(self._recipe.released.get(name, name))
        there = [path for path in ([entry.path] if entry else []) + [own] if path.is_file()]
        if there:
            return Source("weights", (there[0],))
        fetched = (f"its weights (run `tspbench fetch {entry.name}`, or --set released.{name}=FILE)",) if entry else ()
        if name in self._recipe.pretrain:
            stage = self._recipe.pretrain[name]
            videos = self.videos_problem(stage.data)
            lacking = [*self._weights(stage.init).ways[:1], *([videos] if videos else [])]
            initial = [text.replace("its weights", f"the weights of {stage.init}") for text in lacking]
            ways = (*fetched, f"pretraining it here, for which you need {' and '.join(initial)}") if lacking else ()
            return Source("pretraining", (), ways)
        kind, word = self.encoder(name), KINETICS if entry and entry.name.endswith("-tac_on_kinetics") else name
        if word in encoder_class(kind).torchvision_weights:
            return Source("torchvision")
        return Source("weights", (), fetched or (_unpublished(name, kind),))

    def _entry(self, name: str) -> Entry | None:
        known = self._recipe.released.get(name, name)
        return CATALOG[known] if is_known(known) else None

    def _released_features(self, name: str) -> tuple[Path, ...]:
        """Return where features of the target set are looked for that somebody released, or put there."""
        target = self._recipe.data[self._recipe.target]
        if name not in self._recipe.released or target not in BENCHMARKS:
            return ()
        folder = benchmark_folder(target)
        model = self._recipe.released[name]
        files = BENCHMARKS[target].feature_files
        return tuple(Path(os.path.normpath(folder / file.format(model=model))) for file in files)

    def _dataset_problem(self, key: str) -> str | None:
        """Say why a data set cannot be opened; None: it can, or it is generated."""
        if self._recipe.data[key] in DATASETS:
            return None
        try:
            self.dataset(key)
        except UserError as error:
            return str(error)
        return None

    def _videos_problem(self, key: str) -> str | None:
        """Say which videos would have to be there; None: there are such."""
        source = self._recipe.data[key]
        if source in DATASETS:
            return None
        folder = benchmark_folder(source) / BENCHMARKS[source].videos if source in BENCHMARKS else Path(source)
        if self.dataset_problem(key) is None:
            dataset = self.dataset(key)
            folder = dataset.videos
            try:
                dataset.split_videos()
            except UserError as error:
                return f"the videos of {source} ({str(error).rstrip('.')}; or --set data.videos=FOLDER)"
            return None
        return f"the annotated videos of {source} ({os.path.normpath(folder)}, or --set data.videos=FOLDER)"


def _file(name_or_path: str) -> Path:
    """Return the file that is meant; one of the catalog that is not there where it is expected."""
    return CATALOG[name_or_path].path if is_known(name_or_path) else Path(name_or_path)


def _unpublished(name: str, kind: str) -> str:
    """Say which weights of an encoder have to be given, and which words for others would do without."""
    given = f"--set released.{name}=FILE"
    if name not in TRAINED_ON:
        return f"weights of {kind} ({given})"
    others = " or ".join(repr(word) for word in encoder_class(kind).torchvision_weights)
    instead = f"; those it publishes are called {others}" if others else ""
    named = " or ".join(entry for entry in CATALOG if entry.startswith(f"{kind}-{name}"))
    file = f"FILE, which may be {named}" if named else "FILE"
    return (
        f"{name} weights of {kind}, which torchvision does not publish (--set released.{name}={file}, or --init FILE "
        f"of `tspbench pretrain`{instead})"
    )


def _brought(name: str, files: Sequence[Path]) -> str:
    """Say which features would do in place of videos and weights, and how to get them."""
    known = {entry.path: entry.name for entry in CATALOG.values()}
    fetch = [f"`tspbench fetch {known[path]}`" for path in files if path in known]
    own = f"--set features.{name}=FILE.h5,FILE.h5"
    return f"its features (run {' and '.join(fetch)}, or {own})" if fetch else f"its features ({own})"
