"""Features + proposals of others → trained refiner."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.refiner_contract import ProposalBatch
from tspbench.fit import Job, seed_random_layers
from tspbench.progress import Advance
from tspbench.proposal_batches import ProposalBatches
from tspbench.stages.train import LocalizerSettings, fit_and_write


def train_refiner(
    batches: ProposalBatches,
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
        batches: of the training subset.
        model: from `new_localizer`.
        settings: training and the refiner's own settings.
        seed: of the network's random layers and of what is drawn from the proposals.
        device: torch device.
        folder: for the weights and the training state.
        key: fingerprint of the run.
        advance: told how many steps are done.

    Returns:
        Figures for the record.
    """

    def loss(forward: nn.Module, batch: tuple[ProposalBatch, int], epoch: int, step: int) -> Mapping[str, Tensor]:
        proposed, _ = batch
        generator = torch.Generator().manual_seed(seed_random_layers(seed, epoch, step))
        graphs = model.graphs(proposed, generator).to(device)
        losses: Mapping[str, Tensor] = model.loss(forward(graphs), graphs)
        return losses

    named = list(model.named_parameters())
    # Apart, because P-GCN's release trains them at a rate of their own (pgcn_models.py, get_optim_policies).
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    job = Job(
        model=model,
        groups={"localizer": [each for name, each in named if not name.endswith("bias")], "biases": biases},
        batches=batches.epoch,
        steps=batches.steps(),
        loss=loss,
        validate=None,
        better="total_loss",
        fingerprint=key,
        unit="videos",
        names=batches.names,
    )
    figures = fit_and_write(job, settings, seed, device, folder, advance)
    return {**figures, "training_videos": len(batches)}
