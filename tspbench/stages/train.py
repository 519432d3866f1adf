"""Features → trained localizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from baselines import LOCALIZERS, REFINERS
from baselines.contract import FeatureBatch
from tspbench import ranks
from tspbench.config import Settings, choose, validated
from tspbench.device import workers_for
from tspbench.errors import UserError
from tspbench.feature_batches import FeatureBatches
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.fit import Job, fit, seed_random_layers
from tspbench.fit_settings import FitSettings
from tspbench.own_code import allow, is_own
from tspbench.progress import Advance
from tspbench.proposal_batches import RefineSettings
from tspbench.stages.own_localizer import own_config, own_localizer
from tspbench.storage.checkpoints import Weights, write_weights

LOCALIZER_FILE: Final = "localizer.safetensors"


class LocalizerSettings(Settings):
    """Which localizer is trained on every feature set, and how.

    Args:
        name: key of `baselines.LOCALIZERS`, or of `baselines.REFINERS`: of one that refines the proposals of others; or
            the name of a user's own localizer (path/to/file.py:Name, package.module:Name).
        config: its own settings, but for ``feature_dim``, which the features tell.
        time: how the features of a video become the steps of the localizer.
        top_labels: classes that a video's proposals get, the most likely ones.
        predict_training: whether proposals of the training videos are written, too: refiners learn from such.
        refine: what a refiner sees of the proposals.
        fit: training.
    """

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    time: TimeSettings = TimeSettings()
    top_labels: int = Field(2, ge=1)
    predict_training: bool = False
    refine: RefineSettings = RefineSettings()
    fit: FitSettings

    @property
    def refines(self) -> bool:
        """Whether it refines the proposals of others."""
        return self.name in REFINERS


def localizer_class(name: str) -> Any:
    """Return the localizer or refiner that a name stands for; a user's own only if `named_localizer` has let it in.

    Raises:
        UserError: an unknown name, or an own localizer that nobody has named or that does not fit.
    """
    if is_own(name):
        return own_localizer(name).kind
    if name.endswith(".py"):
        raise UserError(f"{name!r} names a file, not the localizer in it: give {name}:ClassName.")
    kinds: dict[str, Any] = {**LOCALIZERS, **REFINERS}
    return kinds[choose("localizer", name, kinds)]


def named_localizer(name: str) -> Any:
    """Return the localizer that the user names, on the command line, in a call or in a recipe that is run.

    One of their own is run because of that, see `tspbench.own_code.allow`.

    Raises:
        UserError: as `localizer_class` says.
    """
    if is_own(name):
        allow(name)
    return localizer_class(name)


def localizer_facts(name: str) -> dict[str, object]:
    """Return what decides a localizer's results beside its settings: the source of a user's own."""
    return {"source": own_localizer(name).source} if is_own(name) else {}


def localizer_config(settings: LocalizerSettings, feature_dim: int, classes: int = 1) -> Any:
    """Return the localizer's own settings, complete.

    Args:
        settings: of the localizer.
        feature_dim: of the features.
        classes: of the data set: what a refiner tells apart where its settings do not say.

    Raises:
        UserError: an unknown localizer, or a setting that does not fit it.
    """
    kind = localizer_class(settings.name)
    _check_fit(settings)
    config = {**settings.config, "feature_dim": feature_dim}
    if settings.refines:
        if settings.time.mode != "padded":
            raise UserError(
                f'time.mode: expected "padded", found "{settings.time.mode}": {settings.name} sees whole videos as '
                "they are."
            )
        config = {"classes": classes, **config}
    elif settings.refine != RefineSettings():
        raise UserError(f"refine: {settings.name} refines no proposals of others: leave these settings out.")
    elif settings.time.mode == "padded" and not kind.takes_padding:
        raise UserError(f'time.mode: "padded" needs a localizer that takes padding, {settings.name} does not.')
    if is_own(settings.name):
        return own_config(settings.name, config)
    return validated(kind.Config, config, f"localizer {settings.name}")


def _check_fit(settings: LocalizerSettings) -> None:
    rates = sorted(settings.fit.learning_rates)
    if rates != (["biases", "localizer"] if settings.refines else ["localizer"]):
        biases, give = (" and one for biases", "both") if settings.refines else ("", "that one")
        raise UserError(
            f"fit.learning_rates: expected one rate for localizer{biases}, found {', '.join(rates) or 'none'}: give "
            f"{give}."
        )
    if settings.refines and settings.fit.micro_batch is not None:
        raise UserError(
            f"fit.micro_batch: {settings.name} sees a batch as one graph, which cannot be divided: leave it out, or "
            "choose a smaller fit.batch_size."
        )
    if settings.fit.select == "best":
        raise UserError('fit.select: "best" needs a validation, which localizers are not given: choose "last".')


def own_classes(settings: LocalizerSettings, feature_dim: int, classes: int) -> int:
    """Return how many of a data set's ``classes`` the localizer tells apart by itself; 0: it proposes, no more."""
    return int(getattr(localizer_config(settings, feature_dim, classes), "classes", 0))


def new_localizer(settings: LocalizerSettings, feature_dim: int, seed: int, classes: int = 1) -> Any:
    """Build a localizer, or a refiner of a data set of ``classes``, with random weights that follow from ``seed``.

    Raises:
        UserError: an unknown localizer, or a setting that does not fit it.
    """
    config = localizer_config(settings, feature_dim, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return localizer_class(settings.name)(config)


def train_localizer(
    views: FeatureViews,
    model: Any,
    settings: LocalizerSettings,
    *,
    seed: int,
    device: str,
    folder: Path,
    key: str,
    advance: Advance,
) -> dict[str, object]:
    """Train ``model`` in place and write `LOCALIZER_FILE` into ``folder``; an interrupted run goes on where it was.

    Args:
        views: of the training subset.
        model: from `new_localizer`.
        settings: training and the localizer's own settings.
        seed: of the order of videos, of the network's random layers and of what the loss draws.
        device: torch device.
        folder: for the weights and the training state.
        key: fingerprint of the run.
        advance: told how many steps are done.

    Returns:
        Figures for the record.
    """
    workers = workers_for(device, settings.fit.workers)
    batches = FeatureBatches(views, settings.fit.batch_size, torch.device(device), workers, seed)

    def loss(forward: nn.Module, batch: tuple[FeatureBatch, int], epoch: int, step: int) -> Mapping[str, Tensor]:
        own, samples = batch
        generator = torch.Generator().manual_seed(seed_random_layers(seed, epoch, step))
        output = ranks.gathered(forward(own.features, own.mask), samples)
        targets = ranks.gathered(model.targets(own.segments, own.labels), samples)
        losses: Mapping[str, Tensor] = model.loss(output, targets, generator)
        return losses

    job = Job(
        model=model,
        groups={"localizer": list(model.parameters())},
        batches=batches.epoch,
        steps=batches.steps(),
        loss=loss,
        validate=None,
        better="total_loss",
        fingerprint=key,
        unit="views",
        names=batches.names,
    )
    figures = fit_and_write(job, settings, seed, device, folder, advance)
    return {**figures, "training_videos": len(views.names)}


def fit_and_write(
    job: Job, settings: LocalizerSettings, seed: int, device: str, folder: Path, advance: Advance
) -> dict[str, object]:
    """Do the job, write `LOCALIZER_FILE` into ``folder`` and return figures for the record."""
    with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.device(device)]):
        history = fit(job, settings.fit, device, folder, advance)
    card: dict[str, object] = {
        "localizer": settings.name,
        "config": settings.config,
        "seed": seed,
        "fingerprint": job.fingerprint,
    }
    if ranks.is_first():
        write_weights(folder / LOCALIZER_FILE, Weights(None, dict(job.model.state_dict()), {}, card))
    return {"epochs": history.epochs, "kept_epoch": history.kept_epoch}
