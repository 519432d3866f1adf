"""Features → trained localizer."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from baselines import LOCALIZERS
from baselines.contract import FeatureBatch
from tspbench.batches import FeatureVideos
from tspbench.config import Settings, choose, validated
from tspbench.fit import FitSettings, Job, fit
from tspbench.progress import Advance
from tspbench.storage.checkpoints import Weights, write_weights

LOCALIZER_FILE: Final = "localizer.safetensors"

# The published recipe for ActivityNet (G-TAD, branch anet, gtad_lib/opts.py).
PUBLISHED_FIT: Final = FitSettings(
    epochs=10,
    batch_size=16,
    optimizer="adam",
    learning_rates={"localizer": 0.004},
    weight_decay=1e-4,
    milestones=(5,),
    gamma=0.1,
    select="last",
)


class LocalizerSettings(Settings):
    """Which localizer is trained on every feature set, and how.

    Args:
        name: key of `baselines.LOCALIZERS`.
        config: its own settings, but for ``feature_dim``, which the features tell.
        top_labels: classes that a video's proposals get (G-TAD, gtad_postprocess.py: 2).
        fit: training.
    """

    name: str = "gtad"
    config: dict[str, Any] = Field(default_factory=dict)
    top_labels: int = Field(2, ge=1)
    fit: FitSettings = PUBLISHED_FIT


def localizer_config(settings: LocalizerSettings, feature_dim: int) -> Any:
    """Return the localizer's own settings, complete.

    Raises:
        UserError: an unknown localizer, or a setting that does not fit it.
    """
    kind = LOCALIZERS[choose("localizer", settings.name, LOCALIZERS)]
    return validated(kind.Config, {**settings.config, "feature_dim": feature_dim}, f"localizer {settings.name}")


def new_localizer(settings: LocalizerSettings, feature_dim: int, seed: int) -> Any:
    """Build a localizer with random weights that follow from ``seed``.

    Raises:
        UserError: an unknown localizer, or a setting that does not fit it.
    """
    config = localizer_config(settings, feature_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LOCALIZERS[settings.name](config)


def train_localizer(
    videos: FeatureVideos,
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
        videos: the training subset.
        model: from `new_localizer`.
        settings: training and the localizer's own settings.
        seed: of the order of videos and of what the loss draws.
        device: torch device.
        folder: for the weights and the training state.
        key: fingerprint of the run.
        advance: told how many steps are done.

    Returns:
        Figures for the record.
    """
    torch_device = torch.device(device)
    steps = math.ceil(len(videos) / settings.fit.batch_size)

    def loss(forward: nn.Module, batch: FeatureBatch, epoch: int, step: int) -> Mapping[str, Tensor]:
        targets = model.targets(batch.segments, batch.labels)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + step)
        losses: Mapping[str, Tensor] = model.loss(forward(batch.features, batch.mask), targets, generator)
        return losses

    job = Job(
        model=model,
        groups={"localizer": list(model.parameters())},
        batches=lambda epoch: videos.epoch(epoch, settings.fit.batch_size, seed, torch_device),
        steps=steps,
        loss=loss,
        validate=None,
        better="total_loss",
        fingerprint=key,
    )
    history = fit(job, settings.fit, device, folder, advance)
    card: dict[str, object] = {"localizer": settings.name, "config": settings.config, "seed": seed, "fingerprint": key}
    write_weights(folder / LOCALIZER_FILE, Weights(None, dict(model.state_dict()), {}, card))
    return {"epochs": history.epochs, "kept_epoch": history.kept_epoch, "training_videos": len(videos)}
