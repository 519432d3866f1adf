"""What a recipe leaves out: how the published methods, localizers and captioners are trained."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tspbench.config import merged
from tspbench.datasets import BENCHMARKS, CARD
from tspbench.own_code import is_own
from tspbench.stages.pretrain import PUBLISHED_FIT
from tspbench.stages.pretrain_lofi import PUBLISHED_LOFI_FIT
from tspbench.stages.published import CAPTIONERS, PUBLISHED, published
from tspbench.stages.train import named_localizer
from tspbench.storage.recipes import read_toml


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's content with the published settings where it leaves out how something is trained.

    A table of a pretraining or a task whose ``fit`` names no optimizer changes the published settings of its method,
    localizer or captioner; one that names an optimizer says everything itself.
    """
    result = copy.deepcopy(dict(content))
    for brought in ("released", "features"):  # null takes an entry out
        if isinstance(result.get(brought), dict):
            result[brought] = {name: value for name, value in result[brought].items() if value is not None}
    for stage in _tables(result.get("pretrain")):
        if not _says_all(stage):
            fit = PUBLISHED_LOFI_FIT if stage.get("method") == "lofi" else PUBLISHED_FIT
            stage["fit"] = merged(fit.model_dump(mode="json"), stage.get("fit", {}))
    tasks = result.get("tasks")
    if not isinstance(tasks, dict):
        return result
    for task, settings in tasks.items():
        if not isinstance(settings, dict) or _says_all(settings):
            continue
        if task == "captioning" and settings.get("name", "bmt") in CAPTIONERS:
            base = CAPTIONERS[settings.get("name", "bmt")]
            tasks[task] = merged(base.model_dump(mode="json"), settings)
        elif settings.get("name") in PUBLISHED or is_own(str(settings.get("name"))):
            named_localizer(settings["name"])
            tasks[task] = merged(published(settings["name"], _protocol(result)).model_dump(mode="json"), settings)
    return result


def _tables(content: object) -> list[dict[str, Any]]:
    """Return the tables in a table; nothing where somebody has written something else."""
    return [value for value in content.values() if isinstance(value, dict)] if isinstance(content, dict) else []


def _says_all(settings: Mapping[str, Any]) -> bool:
    fit = settings.get("fit", {})
    return not isinstance(fit, dict) or "optimizer" in fit


def _protocol(content: Mapping[str, Any]) -> str:
    """Return the protocol of the target: the benchmark's, or what the card in its folder says."""
    data = content.get("data")
    target = data.get(content.get("target", "target")) if isinstance(data, dict) else None
    if target in BENCHMARKS:
        return BENCHMARKS[target].protocol
    card = Path(str(target)) / CARD
    return str(read_toml(card).get("protocol", "activitynet")) if card.is_file() else "activitynet"
