"""What a recipe will do: its stages in order, each with its folder."""

from pathlib import Path

from tspbench.datasets import DATASETS
from tspbench.own_code import is_own
from tspbench.recipe import RANDOM, TRAINED_ON, Recipe
from tspbench.reference_rows import REFERENCES
from tspbench.sources import Sources
from tspbench.stages.caption_models import PARTS
from tspbench.stages.captioner_settings import GENERATOR, GROUND_TRUTH, CaptionerSettings
from tspbench.stages.score import CAPTIONING
from tspbench.storage.catalog import is_known
from tspbench.storage.hashes import hash_data, hash_file
from tspbench.storage.runs import COMPARISON, slug


def features_folder(recipe: Recipe, source: str, data: str) -> str:
    """Return where, below the run's folder, the features of an encoder on a data set are extracted to.

    The folder "random" alone is that of random features, not of an encoder.
    """
    if source in (*recipe.pretrain, *recipe.released, *TRAINED_ON) or is_known(source):
        name = source
    elif is_own(source):
        name = f"{slug(Path(source).name)}-{hash_data(source)[:8]}"
    else:
        name = "random-encoder" if source == RANDOM else f"{slug(Path(source).stem)}-{hash_file(Path(source))[:8]}"
    return f"features/{name if data == recipe.target else f'{name}-on-{data}'}"


def planned_stages(recipe: Recipe, sources: Sources) -> list[tuple[str, str]]:
    """Return what a recipe does: (stage, folder below the run's), in order."""
    planned = [("generate", f"data/{key}") for key, source in recipe.sets.items() if source in DATASETS]
    made: list[str] = []

    def plan_features(source: str, data: str) -> None:
        if data == recipe.target and (source == RANDOM or sources.features(source).files):
            return
        folder = features_folder(recipe, source, data)
        if folder not in made:
            made.append(folder)
            planned.append(("extract", folder))

    for name in sources.pretrainings():
        stage = recipe.pretrain[name]
        if stage.needs_gvf() and stage.gvf_features is None:
            plan_features(stage.init, recipe.target if sources.shares_videos(stage.data) else stage.data)
        planned.append(("pretrain", f"pretrain/{name}"))
    if recipe.class_scores_from:
        plan_features(recipe.class_scores_from, recipe.target)
        planned.append(("class scores", "class_scores"))
    for row in recipe.rows:
        plan_features(row.features, recipe.target)
    if any(row.features == RANDOM for row in recipe.rows):
        planned.append(("random features", f"features/{RANDOM}"))
    return planned + _planned_evaluation(recipe)


def _planned_evaluation(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the stages of the table: (stage, folder below the run's), in order."""
    rows = [slug(row.name) for row in recipe.rows]
    planned = [("check features", f"checked/{row}") for row in rows if recipe.tasks.localizers]
    for task, localizer in recipe.tasks.localizers.items():
        for row in rows:
            planned += [(verb, f"{task}/{row}/{verb}") for verb in ("train", "predict", "score")]
            if localizer.predict_training:
                planned.append(("predict", f"{task}/{row}/predict-training"))
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
