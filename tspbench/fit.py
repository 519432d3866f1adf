"""The only training loop: steps, schedule, validation, checkpoint, resume."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from tspbench.errors import UserError
from tspbench.fit_settings import FitSettings, learning_rate_factor
from tspbench.progress import Advance
from tspbench.storage.checkpoints import read_state, write_state

STATE: Final = "training.pt"

DECAYED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights decay whatever `FitSettings.decay` says."""


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        model: takes a batch's content in `loss`.
        groups: parameter group → its parameters; every trainable parameter is in exactly one.
        batches: (epoch, first step) → what this process sees of the epoch's batches from that step on, without reading
            what lies before; the same every time. A batch is a tuple that ends with the number of samples of the whole
            batch, over all processes.
        steps: number of batches in an epoch.
        loss: (model, batch, epoch, step) → losses of the whole batch by name, with "total" (see `ranks.gathered`).
        validate: model → figures by name; `better` among them; called after each epoch in evaluation mode.
        better: name of the figure by which the best epoch is chosen; higher is better.
        fingerprint: of data and settings; a state with another one is not resumed.
        unit: what a sample is called.
        names: (epoch, step) → names of the samples of that step's whole batch, for messages.
    """

    model: nn.Module
    groups: Mapping[str, Iterable[nn.Parameter]]
    batches: Callable[[int, int], Iterable[tuple[Any, ...]]]
    steps: int
    loss: Callable[[nn.Module, Any, int, int], Mapping[str, Tensor]]
    validate: Callable[[nn.Module], Mapping[str, float]] | None
    better: str
    fingerprint: str
    unit: str = "samples"
    names: Callable[[int, int], Sequence[str]] | None = None


@dataclass
class History:
    """One entry an epoch: mean losses, validation figures; and which epoch's weights were kept."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    kept_epoch: int = -1


@dataclass
class _Kept:
    """What a training keeps beside the model and the optimizer: the history, the best weights, the average."""

    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)


def fit(job: Job, settings: FitSettings, device: str, folder: Path, advance: Advance) -> History:
    """Train ``job.model`` in place; it ends with the selected epoch's weights, in evaluation mode, on ``device``.

    After each epoch the whole state goes to ``folder``; a run that finds one there goes on behind it and ends with
    the result of an uninterrupted run, because all randomness follows from (seed, epoch, index).

    Raises:
        UserError: a loss or weights that are not finite (the last good state stays in ``folder``), or the best epoch is
            asked for where nothing tells epochs apart.
    """
    if settings.select == "best" and job.validate is None:
        raise UserError('fit.select: "best" needs a validation, which this training has not: choose "last".')
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device != "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)  # or stages of one recipe must agree on the precision
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if bf16 else "no")
    optimizer = _optimizer(job, settings)
    model, optimizer = accelerator.prepare(job.model, optimizer)
    kept = _Kept(average=_weights(job.model) if settings.average else {})
    _resume(job, optimizer, kept, folder)
    history = kept.history
    while not _ended(history, settings):
        epoch = len(history.epochs)
        losses = _train_epoch(accelerator, model, optimizer, job, settings, epoch, kept.average, advance)
        with _averaged(job.model, kept.average):
            figures: Mapping[str, float] = {}
            if job.validate:
                model.eval()
                with torch.inference_mode(), accelerator.autocast():
                    figures = job.validate(model)
            earlier = [entry.get(job.better, -math.inf) for entry in history.epochs]
            history.epochs.append({**losses, **figures})
            if settings.select == "last":
                history.kept_epoch = epoch
            elif figures.get(job.better, -math.inf) > max(earlier, default=-math.inf):
                history.kept_epoch = epoch
                kept.best = {key: value.detach().cpu().clone() for key, value in job.model.state_dict().items()}
        write_state(folder / STATE, _state(job, optimizer, kept))
    if kept.best:
        job.model.load_state_dict(kept.best)
    else:
        _exchange(job.model, kept.average)
    job.model.eval()
    if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
        raise UserError("Training ended in weights that are not finite: lower the learning rate (fit.learning_rates).")
    return history


def seed_random_layers(seed: int, epoch: int, step: int) -> int:
    """Let dropout and the like, which draw from torch's global generator, follow from (seed, epoch, step).

    Returns:
        The number that the generator was seeded with, for other draws of the step.
    """
    drawn = int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])
    torch.manual_seed(drawn)
    return drawn


def _ended(history: History, settings: FitSettings) -> bool:
    """Whether all epochs are done, or as many without a better one as patience allows."""
    done = len(history.epochs)
    return done >= settings.epochs or (
        settings.patience is not None and done - 1 - history.kept_epoch >= settings.patience
    )


def _optimizer(job: Job, settings: FitSettings) -> torch.optim.Optimizer:
    missing = set(job.groups) ^ set(settings.learning_rates)
    if missing:
        raise UserError(
            f"learning_rates: expected one rate for each of {', '.join(sorted(job.groups))}, found "
            f"{', '.join(sorted(settings.learning_rates))}."
        )
    decayed = {id(layer.weight) for layer in job.model.modules() if isinstance(layer, DECAYED)}
    groups = []
    for name, parameters in job.groups.items():
        members, rate = list(parameters), settings.learning_rates[name]
        for decays, weight_decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [each for each in members if (settings.decay == "all" or id(each) in decayed) is decays]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "rate": rate, "weight_decay": weight_decay})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, fused=True)


def _train_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: Job,
    settings: FitSettings,
    epoch: int,
    average: Mapping[str, Tensor],
    advance: Advance,
) -> dict[str, float]:
    model.train()
    sums: dict[str, float] = {}
    for step, batch in enumerate(job.batches(epoch, 0)):
        factor = learning_rate_factor(epoch * job.steps + step, job.steps, settings)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        with accelerator.autocast():
            losses = job.loss(model, batch, epoch, step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        if settings.clip_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        if settings.average is not None:
            _follow(job.model, average, settings.average)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(values["total"]):
            raise UserError(
                f"The loss became {values['total']} in epoch {epoch}, step {step}: lower the learning rate "
                "(fit.learning_rates); the state before this epoch is kept."
            )
        for name, value in values.items():
            sums[f"{name}_loss"] = sums.get(f"{name}_loss", 0.0) + value / job.steps
        advance(epoch * job.steps + step + 1, settings.epochs * job.steps, f"loss {values['total']:.3f}")
    return sums


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _follow(model: nn.Module, average: Mapping[str, Tensor], decay: float) -> None:
    """Move the average: ``decay * average + (1 - decay) * weights`` (ActionFormer, train_utils.py, ModelEma)."""
    for name, parameter in model.named_parameters():
        average[name].lerp_(parameter, 1 - decay)


def _exchange(model: nn.Module, average: dict[str, Tensor]) -> None:
    """Exchange the model's weights and their average, if there is one; buffers are the model's own in any case."""
    if average:
        for name, parameter in model.named_parameters():
            parameter.data, average[name] = average[name], parameter.data


@contextmanager
def _averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    _exchange(model, average)
    try:
        yield
    finally:
        _exchange(model, average)


def _state(job: Job, optimizer: torch.optim.Optimizer, kept: _Kept) -> dict[str, object]:
    return {
        "fingerprint": job.fingerprint,
        "model": job.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": kept.history.epochs,
        "kept_epoch": kept.history.kept_epoch,
        "best": kept.best,
        "average": kept.average,
    }


def _resume(job: Job, optimizer: torch.optim.Optimizer, kept: _Kept, folder: Path) -> None:
    path = folder / STATE
    if not path.exists():
        return
    state: dict[str, Any] = read_state(path)
    if state["fingerprint"] != job.fingerprint:
        return
    job.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    kept.history = History(state["epochs"], state["kept_epoch"])
    kept.best = state["best"]
    for name, value in kept.average.items():
        value.copy_(state["average"][name])
