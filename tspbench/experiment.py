"""A recipe: run its stages in order, skip what is finished, check without running."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tspbench.datasets import CARD, DATASETS, Dataset, find_videos, generate, open_dataset
from tspbench.encoders import AnyEncoder, load_encoder, new_encoder
from tspbench.progress import progress
from tspbench.recipe import KINETICS, RANDOM, PretrainStage, Recipe
from tspbench.reference_rows import REFERENCES
from tspbench.report import ResultTable, write_table
from tspbench.stages.caption_models import PARTS
from tspbench.stages.captioner_settings import GENERATOR, GROUND_TRUTH, CaptionerSettings
from tspbench.stages.captioning_inputs import Captioning
from tspbench.stages.evaluate import Task, evaluate
from tspbench.stages.extract import Extraction, TrainedEncoder, class_scores, extract
from tspbench.stages.localization import Localization
from tspbench.stages.pretrain import ENCODER_FILE, global_features, prepare_lesson, pretrain
from tspbench.stages.random_features import FEATURES_FILE, random_features
from tspbench.stages.score import CAPTIONING
from tspbench.stages.stage import run_stage
from tspbench.storage.class_scores import write_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file, hash_videos
from tspbench.storage.recipes import write_toml
from tspbench.storage.records import claim
from tspbench.storage.runs import COMPARISON, slug

CLASS_SCORES_FILE: Final = "class_scores.json"


@dataclass(frozen=True)
class Experiment:
    """A recipe at work in a folder."""

    recipe: Recipe
    out: Path
    device: str

    def run(self) -> ResultTable:
        """Run what is not finished and write the table.

        Raises:
            UserError: a mistake in data or recipe; what is finished by then is kept.
        """
        write_toml(self.out / "recipe.toml", self.recipe.model_dump(mode="json", exclude_none=True))
        for key in self.recipe.data:
            self.dataset(key)
        for name in self.recipe.pretrain:
            self.checkpoint(name)
        scores_from = self.recipe.class_scores_from
        class_scores = None if scores_from is None else self._class_scores(scores_from)
        tasks: list[Task] = [
            Localization(
                task=task,
                dataset=self.dataset(self.recipe.target),
                localizer=localizer,
                class_scores=class_scores,
                references=self.recipe.references,
                seed=self.recipe.seed,
                device=self.device,
                out=self.out,
            )
            for task, localizer in self.recipe.tasks.localizers.items()
        ]
        if self.recipe.tasks.captioning is not None:
            target, seed = self.dataset(self.recipe.target), self.recipe.seed
            tasks.append(Captioning(target, self.recipe.tasks.captioning, None, seed, self.device, self.out))
        rows = {row.name: [self.features(row.features)] for row in self.recipe.rows}
        evaluate(tasks, rows, self.recipe.title, self.recipe.notes)
        return write_table(self.out)

    def dataset(self, key: str) -> Dataset:
        """Open a data set of the recipe; generated ones are written below the run's folder."""
        source = self.recipe.data[key]
        if source not in DATASETS:
            return open_dataset(source)
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
        encoder, weights = self._encoder(stage.init)
        gvf_file = self._gvf_file(stage) if stage.needs_gvf() else None
        inputs = {
            "annotations": hash_file(dataset.annotations),
            "videos": hash_videos(find_videos(dataset.videos)),
            "initial encoder": weights,
            **({} if gvf_file is None else {"global features": hash_file(gvf_file)}),
        }
        settings = {**stage.model_dump(mode="json"), "encoder": self.recipe.encoder, "seed": self.recipe.seed}

        def work(key: str) -> Mapping[str, object]:
            gvf = None if gvf_file is None else global_features([gvf_file], stage.gvf)
            lesson = prepare_lesson(dataset, encoder.preprocessing.clip_seconds, stage, gvf)
            with progress(f"pretrain {name}") as advance:
                return pretrain(
                    self.recipe.encoder,
                    encoder,
                    lesson,
                    stage,
                    seed=self.recipe.seed,
                    device=self.device,
                    folder=folder,
                    key=key,
                    advance=advance,
                )

        run_stage("pretrain", folder, settings, inputs, [ENCODER_FILE], work)
        return folder / ENCODER_FILE

    def features(self, source: str) -> Path:
        """Return the target set's features of an encoder, or random ones, made when absent."""
        return self._random_features() if source == RANDOM else self._extracted(source, self.recipe.target)

    def _gvf_file(self, stage: PretrainStage) -> Path:
        if stage.gvf_features is not None:
            return Path(stage.gvf_features)
        return self._extracted(stage.init, stage.data)

    def _encoder(self, source: str) -> tuple[AnyEncoder, str]:
        """Return an encoder and what identifies its weights."""
        if source == RANDOM:
            return new_encoder(self.recipe.encoder, self.recipe.seed), f"random, seed {self.recipe.seed}"
        if source == KINETICS:
            encoder, weights = load_encoder(self.recipe.encoder, None)
            return encoder, str(weights.card["source"])
        path = self.checkpoint(source) if source in self.recipe.pretrain else Path(source)
        return load_encoder(self.recipe.encoder, path)[0], hash_file(path)

    def _extracted(self, source: str, data: str) -> Path:
        dataset = self.dataset(data)
        name = _features_name(self.recipe, source)
        folder = self.out / "features" / (name if data == self.recipe.target else f"{name}-on-{data}")
        encoder, weights = self._encoder(source)
        videos = find_videos(dataset.videos)
        settings = {**self.recipe.extract.model_dump(), "encoder": self.recipe.encoder, "device": self.device}

        def work(_key: str) -> Mapping[str, object]:
            how = Extraction(self.recipe.extract.stride_frames, self.recipe.extract.batch_size, self.device)
            trained = TrainedEncoder(encoder, self.recipe.encoder, weights)
            with progress(f"extract {folder.name}") as advance:
                extract(trained, videos, folder / FEATURES_FILE, how, advance)
            return {"videos": len(videos)}

        inputs = {"videos": hash_videos(videos), "encoder": weights}
        run_stage("extract", folder, settings, inputs, [FEATURES_FILE], work)
        return folder / FEATURES_FILE

    def _random_features(self) -> Path:
        template = self.features(next(row.features for row in self.recipe.rows if row.features != RANDOM))
        return random_features([template], self.out / "features" / RANDOM, self.recipe.seed)

    def _class_scores(self, source: str) -> Path:
        """Write every video's mean clip probabilities of one encoder's action head: the same labels for every row."""
        folder = self.out / "class_scores"
        features, checkpoint = self.features(source), self.checkpoint(source)

        def work(_key: str) -> Mapping[str, object]:
            scores = class_scores(FeatureFiles([features]), checkpoint)
            write_class_scores(folder / CLASS_SCORES_FILE, scores)
            return {"videos": len(scores.scores), "source": f"mean clip probabilities of {source}"}

        inputs = {"features": hash_file(features), "head": hash_file(checkpoint)}
        run_stage("class scores", folder, {}, inputs, [CLASS_SCORES_FILE], work)
        return folder / CLASS_SCORES_FILE


def _features_name(recipe: Recipe, source: str) -> str:
    """Return the folder of an encoder's features; `RANDOM` alone is that of random features, not of an encoder."""
    if source in (*recipe.pretrain, KINETICS):
        return source
    return "random-encoder" if source == RANDOM else f"{slug(Path(source).stem)}-{hash_file(Path(source))[:8]}"


def planned_stages(recipe: Recipe) -> list[tuple[str, str]]:
    """Return what a recipe does: (stage, folder below the run's), in order."""
    planned = [("generate", f"data/{key}") for key, source in recipe.data.items() if source in DATASETS]
    extracted: list[str] = []

    def plan_features(source: str) -> None:
        if source not in extracted:
            extracted.append(source)
            planned.append(("extract", f"features/{_features_name(recipe, source)}"))

    for name, stage in recipe.pretrain.items():
        if stage.needs_gvf() and stage.gvf_features is None and stage.data == recipe.target:
            plan_features(stage.init)
        planned.append(("pretrain", f"pretrain/{name}"))
    if recipe.class_scores_from:
        plan_features(recipe.class_scores_from)
        planned.append(("class scores", "class_scores"))
    for row in recipe.rows:
        if row.features != RANDOM:
            plan_features(row.features)
    if any(row.features == RANDOM for row in recipe.rows):
        planned.append(("random features", f"features/{RANDOM}"))
    return planned + _planned_evaluation(recipe)


def _planned_evaluation(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the stages of the table: (stage, folder below the run's), in order."""
    rows = [slug(row.name) for row in recipe.rows]
    planned = [("check features", f"checked/{row}") for row in rows if recipe.tasks.localizers]
    for task in recipe.tasks.localizers:
        planned += [(verb, f"{task}/{row}/{verb}") for row in rows for verb in ("train", "predict", "score")]
        for reference in recipe.references:
            planned += [(verb, f"{task}/{slug(REFERENCES[reference])}/{verb}") for verb in ("predict", "score")]
        if len(rows) > 1:
            planned.append(("compare", f"{task}/{COMPARISON}"))
    return planned if recipe.tasks.captioning is None else planned + _planned_captioning(recipe.tasks.captioning, rows)


def _planned_captioning(settings: CaptionerSettings, rows: list[str]) -> list[tuple[str, str]]:
    planned = [("words", f"{CAPTIONING}/words"), *(("check features", f"{CAPTIONING}/checked/{row}") for row in rows)]
    for part in PARTS:
        for row in rows:
            folder = f"{CAPTIONING}/{row}"
            if part == GROUND_TRUTH:
                planned.append(("train", f"{folder}/train"))
            elif settings.proposals.source == GENERATOR:
                planned.append(("train generator", f"{folder}/generator"))
            planned += [(verb, f"{folder}/{part}/{verb}") for verb in ("predict", "score")]
        if len(rows) > 1:
            planned.append(("compare", f"{CAPTIONING}/{COMPARISON}-{part}"))
    return planned
