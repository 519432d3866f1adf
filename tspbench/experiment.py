"""A recipe: run its stages in order, skip what is finished, check without running."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tspbench import ranks
from tspbench.datasets import CARD, DATASETS, Dataset, find_videos, generate, open_dataset
from tspbench.datasets.inventory import inventory
from tspbench.encoders import AnyEncoder, encoder_facts, load_encoder, new_encoder
from tspbench.errors import UserError
from tspbench.fit_settings import NOT_IN_RESULT
from tspbench.plan import features_folder
from tspbench.progress import progress
from tspbench.recipe import LOFI, RANDOM, PretrainStage, Recipe
from tspbench.report import ResultTable, write_table
from tspbench.sources import TOLD, Sources
from tspbench.stages.captioning_inputs import Captioning
from tspbench.stages.evaluate import Task, evaluate
from tspbench.stages.extract import Extraction, TrainedEncoder, class_scores, extract
from tspbench.stages.lessons import prepare_lesson
from tspbench.stages.localization import Localization
from tspbench.stages.pretrain import ENCODER_FILE, OF_CLIPS, global_features, pretrain
from tspbench.stages.pretrain_lofi import prepare_videos, pretrain_lofi
from tspbench.stages.random_features import FEATURES_FILE, random_features
from tspbench.stages.stage import features_hash, run_stage
from tspbench.storage.catalog import find
from tspbench.storage.class_scores import write_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_data, hash_file, hash_videos
from tspbench.storage.published_numbers import published_of
from tspbench.storage.recipes import write_toml
from tspbench.storage.records import claim

CLASS_SCORES_FILE: Final = "class_scores.json"


@dataclass(frozen=True)
class Experiment:
    """A recipe at work in a folder."""

    recipe: Recipe
    out: Path
    device: str

    @cached_property
    def sources(self) -> Sources:
        """Where features and weights come from."""
        return Sources(self.recipe)

    def run(self) -> ResultTable:
        """Run what is not finished and write the table.

        Raises:
            UserError: something is missing, or a mistake in data or recipe; what is finished by then is kept.
        """
        self._check_sources()
        resolved = self.recipe.model_dump(mode="json", exclude_none=True)
        ranks.by_first(lambda: write_toml(self.out / "recipe.toml", resolved))
        for key, source in self.recipe.sets.items():
            if source in DATASETS or key == self.recipe.target:
                self.dataset(key)
        for name in self.sources.pretrainings():
            self.checkpoint(name)
        scores_from = self.recipe.class_scores_from
        class_scores = None if scores_from is None else self._class_scores(scores_from)
        if self.recipe.class_scores is not None:
            class_scores = find(self.recipe.class_scores)
        tasks: list[Task] = [
            Localization(
                task=task,
                dataset=self.dataset(self.recipe.target),
                localizer=localizer,
                class_scores=class_scores if task == "tal" else None,
                references=self.recipe.references,
                seed=self.recipe.seed,
                device=self.device,
                out=self.out,
                proposals=tuple(map(find, self.recipe.proposals)) if localizer.refines else (),
            )
            for task, localizer in self.recipe.tasks.localizers.items()
        ]
        if self.recipe.tasks.captioning is not None:
            target, seed = self.dataset(self.recipe.target), self.recipe.seed
            sound = None if self.recipe.sound is None else find(self.recipe.sound)
            tasks.append(Captioning(target, self.recipe.tasks.captioning, sound, seed, self.device, self.out))
        rows = {row.name: list(self.features(row.features)) for row in self.recipe.rows}
        published = {
            row.name: published_of(row.published, self.sources.encoder(row.features)) for row in self.recipe.rows
        }
        notes = [*self.recipe.notes, *self._told_sources(), *self._told_videos(rows)]
        evaluate(tasks, rows, self.recipe.title, notes, published)
        return write_table(self.out)

    def _check_sources(self) -> None:
        """Refuse to begin what cannot be finished."""
        if problems := self.sources.problems():
            more = f" ({len(problems) - 1} more: `tspbench check` lists them.)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}")

    def _told_sources(self) -> list[str]:
        """Say where each row's features come from, where that is not the same for all or not a pretraining here."""
        hows = {row.name: self.sources.features(row.features).how for row in self.recipe.rows}
        if set(hows.values()) <= {"pretraining", "random"}:
            return []
        return [f"{name}: {TOLD[how]}." for name, how in hows.items()]

    def _told_videos(self, rows: Mapping[str, Sequence[Path]]) -> list[str]:
        """Say which videos of the target set the rows have features of, in a trial too; nothing of a generated set."""
        target = self.recipe.target
        whole = replace(self.dataset(target), trial={})
        if self.recipe.data[target] in DATASETS or whole.card.annotations is None:
            return []
        told: dict[str, list[str]] = {}
        for name, paths in rows.items():
            for split in inventory(whole, FeatureFiles(paths).videos, "features"):
                told.setdefault(split.told(), []).append(name)
        return [
            f"{'All rows' if len(names) == len(rows) else ', '.join(names)}, {line}" for line, names in told.items()
        ]

    def dataset(self, key: str) -> Dataset:
        """Open a data set of the recipe; generated ones are written below the run's folder."""
        source = self.recipe.data[key]
        if source not in DATASETS:
            return self.sources.dataset(key)
        folder = self.out / "data" / key
        settings = {"dataset": source, **self.recipe.generate.model_dump(), "seed": self.recipe.seed}

        def write(fingerprint: str) -> Mapping[str, object]:
            claim(folder, fingerprint)
            with progress(f"generate {key} videos") as advance:
                generate(source, folder, self.recipe.generate, self.recipe.seed, advance)
            return {"videos": len(find_videos(folder / "videos"))}

        run_stage("generate", folder, settings, {}, [CARD, "annotations.json"], write)
        return open_dataset(str(folder))

    def checkpoint(self, name: str) -> Path:
        """Return the weights of a pretraining of the recipe, trained when absent."""
        stage = self.recipe.pretrain[name]
        folder = self.out / "pretrain" / name
        dataset = self.dataset(stage.data)
        kind = self.sources.encoder(name)
        gvf_files = self._gvf_files(stage) if stage.needs_gvf() else ()
        inputs = {
            **_ground_truth_hashes(dataset),
            "videos": hash_videos(dataset.split_videos()),
            "initial encoder": self._weights(stage.init, kind),
            **({"global features": hash_data([hash_file(path) for path in gvf_files])} if gvf_files else {}),
        }
        # What is an input counts by its content, and who prepares the batches does not count at all.
        unseen: dict[str, Any] = {"data": True, "init": True, "gvf_features": True, "fit": NOT_IN_RESULT}
        unseen |= dict.fromkeys(("bad_videos", *(OF_CLIPS if stage.method == LOFI else ("end_to_end",))), True)
        own = stage.model_dump(mode="json", exclude=unseen)
        splits, protocol = dict(dataset.card.splits), dataset.protocol
        encoder_settings = {"encoder": kind, **encoder_facts(kind)}
        settings = {**own, **encoder_settings, "seed": self.recipe.seed, "splits": splits, "protocol": protocol}

        def work(key: str) -> Mapping[str, object]:
            encoder = self._encoder(stage.init, kind)
            gvf = global_features(gvf_files, stage.gvf) if gvf_files else None
            where: dict[str, Any] = {"seed": self.recipe.seed, "device": self.device, "folder": folder, "key": key}
            with progress(f"pretrain {name}") as advance:
                if stage.method == LOFI:
                    return pretrain_lofi(kind, encoder, prepare_videos(dataset), stage, **where, advance=advance)
                lesson = prepare_lesson(dataset, encoder.preprocessing.clip_seconds, stage, gvf)
                return pretrain(kind, encoder, lesson, stage, **where, advance=advance)

        run_stage("pretrain", folder, settings, inputs, [ENCODER_FILE], work, shared=True)
        return folder / ENCODER_FILE

    def features(self, name: str) -> Sequence[Path]:
        """Return the files of the target set's features of an encoder, or of random ones, made when absent."""
        source = self.sources.features(name)
        if source.how == "random":
            return [self._random_features()]
        return source.files or [self._extracted(name, self.recipe.target)]

    def _gvf_files(self, stage: PretrainStage) -> Sequence[Path]:
        if stage.gvf_features is not None:
            return [find(stage.gvf_features)]
        shared = self.sources.shares_videos(stage.data)
        if shared and stage.init != RANDOM:
            return self.features(stage.init)
        return [self._extracted(stage.init, self.recipe.target if shared else stage.data)]

    def _weights(self, name: str, kind: str) -> str:
        """Return what identifies the weights of an encoder of a kind; those that are trained here are made first."""
        source = self.sources.weights(name)
        if source.how == "own":
            return str(load_encoder(name, None)[1].card["source"])
        if source.how in ("random", "torchvision"):
            return f"random, seed {self.recipe.seed}" if source.how == "random" else f"torchvision's of {kind}"
        return hash_file(self._weight_file(name))

    def _encoder(self, name: str, kind: str) -> AnyEncoder:
        """Return an encoder of a kind with its weights."""
        source = self.sources.weights(name)
        if source.how == "random":
            return new_encoder(kind, self.recipe.seed)
        if source.how in ("torchvision", "own"):
            return load_encoder(kind, None)[0]
        return load_encoder(kind, self._weight_file(name))[0]

    def _weight_file(self, name: str) -> Path:
        """Return the file of an encoder's weights, trained when absent.

        Raises:
            UserError: nobody trains it here, and the file is not there.
        """
        source = self.sources.weights(name)
        if source.how == "weights" and not source.files:
            raise UserError(f"{name}: something is missing: {'; or '.join(source.ways)}.")
        return source.files[0] if source.files else self.checkpoint(name)

    def _extracted(self, source: str, data: str) -> Path:
        dataset = self.dataset(data)
        folder = self.out / features_folder(self.recipe, source, data)
        kind = self.sources.encoder(source)
        weights, videos = self._weights(source, kind), dataset.split_videos()
        facts = encoder_facts(kind)
        settings = {**self.recipe.extract.model_dump(), "encoder": kind, **facts, "device": self.device}

        def work(_key: str) -> Mapping[str, object]:
            how = Extraction(self.recipe.extract.stride_frames, self.recipe.extract.batch_size, self.device)
            trained = TrainedEncoder(self._encoder(source, kind), kind, weights, facts)
            with progress(f"extract {folder.name}") as advance:
                extract(trained, videos, folder / FEATURES_FILE, how, advance)
            return {"videos": len(videos)}

        inputs = {"videos": hash_videos(videos), "encoder": weights}
        run_stage("extract", folder, settings, inputs, [FEATURES_FILE], work, shared=True)
        return folder / FEATURES_FILE

    def _random_features(self) -> Path:
        template = self.features(next(row.features for row in self.recipe.rows if row.features != RANDOM))
        return random_features(template, self.out / "features" / RANDOM, self.recipe.seed)

    def _class_scores(self, source: str) -> Path:
        """Write every video's mean clip probabilities of one encoder's action head: the same labels for every row."""
        folder = self.out / "class_scores"
        features, checkpoint = self.features(source), self._weight_file(source)

        def work(_key: str) -> Mapping[str, object]:
            scores = class_scores(FeatureFiles(features), checkpoint)
            write_class_scores(folder / CLASS_SCORES_FILE, scores)
            return {"videos": len(scores.scores), "source": f"mean clip probabilities of {source}"}

        inputs = {"features": features_hash(FeatureFiles(features)), "head": hash_file(checkpoint)}
        run_stage("class scores", folder, {}, inputs, [CLASS_SCORES_FILE], work)
        return folder / CLASS_SCORES_FILE


def _ground_truth_hashes(dataset: Dataset) -> dict[str, str]:
    """Return the hashes of what says where the actions of a data set's videos are."""
    files = {f"{role} segments": path for role in dataset.card.splits if (path := dataset.segments(role)) is not None}
    hashes = {name: hash_file(path) for name, path in files.items()}
    return hashes if dataset.card.annotations is None else {"annotations": dataset.annotations_hash(), **hashes}
