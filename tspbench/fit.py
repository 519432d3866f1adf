"""The only training loop: steps, schedule, validation, checkpoint, resume."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import Field
from torch import Tensor, nn

from tspbench.config import Settings
from tspbench.errors import UserError
from tspbench.progress import Advance
from tspbench.storage.checkpoints import read_state, write_state

STATE: Final = "training.pt"


class FitSettings(Settings):
    """How a model is trained; learning rates are by parameter group.

    Args:
        epochs: passes over the data.
        batch_size: samples in a step, over all devices.
        optimizer: "sgd" (momentum 0.9, no Nesterov) or "adam".
        learning_rates: group of parameters → learning rate; 0 freezes a group but for its batch statistics.
        weight_decay: of every parameter.
        warmup_epochs: the rate rises linearly over so many epochs, iteration by iteration.
        warmup_factor: where the rise starts, as a share of the rate.
        milestones: epochs at which the rate is multiplied by ``gamma``.
        gamma: see there.
        select: the weights that are kept: of the epoch with the best validation, or the last.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 on a GPU.
        workers: processes that prepare batches; 0: this one; none: up to 8 for a GPU, this one for the CPU.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["sgd", "adam"]
    learning_rates: dict[str, float]
    weight_decay: float = Field(0.0, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_factor: float = Field(1e-5, gt=0, le=1)
    milestones: tuple[int, ...] = Field((), strict=False)
    gamma: float = Field(0.1, gt=0)
    select: Literal["best", "last"] = "last"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | None = Field(None, ge=0)


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        model: takes a batch's content in `loss`.
        groups: parameter group → its parameters; every trainable parameter is in exactly one.
        batches: epoch → the epoch's batches; the same every time it is called with the same epoch.
        steps: number of batches in an epoch.
        loss: (model, batch, epoch, step) → losses by name, with "total".
        validate: model → figures by name; `better` among them; called after each epoch in evaluation mode.
        better: name of the figure by which the best epoch is chosen; higher is better.
        fingerprint: of data and settings; a state with another one is not resumed.
    """

    model: nn.Module
    groups: Mapping[str, Iterable[nn.Parameter]]
    batches: Callable[[int], Iterable[Any]]
    steps: int
    loss: Callable[[nn.Module, Any, int, int], Mapping[str, Tensor]]
    validate: Callable[[nn.Module], Mapping[str, float]] | None
    better: str
    fingerprint: str


@dataclass
class History:
    """One entry an epoch: mean losses, validation figures; and which epoch's weights were kept."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    kept_epoch: int = -1


def fit(job: Job, settings: FitSettings, device: str, folder: Path, advance: Advance) -> History:
    """Train ``job.model`` in place; it ends with the selected epoch's weights, in evaluation mode, on ``device``.

    After each epoch the whole state goes to ``folder``; a run that finds one there goes on behind it and ends with
    the result of an uninterrupted run, because all randomness follows from (seed, epoch, index).

    Raises:
        UserError: a loss that is not finite (the last good state stays in ``folder``), or the best epoch is asked for
            where nothing tells epochs apart.
    """
    if settings.select == "best" and job.validate is None:
        raise UserError('fit.select: "best" needs a validation, which this training has not: choose "last".')
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device != "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)  # or stages of one recipe must agree on the precision
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if bf16 else "no")
    optimizer = _optimizer(job, settings)
    model, optimizer = accelerator.prepare(job.model, optimizer)
    best: dict[str, Tensor] = {}
    history = _resume(job, optimizer, folder, best)
    for epoch in range(len(history.epochs), settings.epochs):
        losses = _train_epoch(accelerator, model, optimizer, job, settings, epoch, advance)
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
            best = {key: value.detach().cpu().clone() for key, value in job.model.state_dict().items()}
        write_state(folder / STATE, _state(job, optimizer, history, best))
    if best:
        job.model.load_state_dict(best)
    job.model.eval()
    return history


def learning_rate_factor(step: int, steps: int, settings: FitSettings) -> float:
    """Return what the rates are multiplied by at ``step`` (from 0, counted over all epochs; ``steps`` an epoch).

    Linear warm-up and milestones, both by iteration (TSP, train/train.py).
    """
    warmup = settings.warmup_epochs * steps
    rise = 1.0
    if step < warmup:
        rise = settings.warmup_factor * (1 - step / warmup) + step / warmup
    return rise * settings.gamma ** bisect_right([m * steps for m in settings.milestones], step)


def _optimizer(job: Job, settings: FitSettings) -> torch.optim.Optimizer:
    missing = set(job.groups) ^ set(settings.learning_rates)
    if missing:
        raise UserError(
            f"learning_rates: expected one rate for each of {', '.join(sorted(job.groups))}, found "
            f"{', '.join(sorted(settings.learning_rates))}."
        )
    groups = [
        {"params": list(parameters), "lr": settings.learning_rates[name], "rate": settings.learning_rates[name]}
        for name, parameters in job.groups.items()
    ]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)


def _train_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: Job,
    settings: FitSettings,
    epoch: int,
    advance: Advance,
) -> dict[str, float]:
    model.train()
    sums: dict[str, float] = {}
    for step, batch in enumerate(job.batches(epoch)):
        factor = learning_rate_factor(epoch * job.steps + step, job.steps, settings)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        with accelerator.autocast():
            losses = job.loss(model, batch, epoch, step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        optimizer.step()
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


def _state(
    job: Job, optimizer: torch.optim.Optimizer, history: History, best: Mapping[str, Tensor]
) -> dict[str, object]:
    return {
        "fingerprint": job.fingerprint,
        "model": job.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": history.epochs,
        "kept_epoch": history.kept_epoch,
        "best": dict(best),
    }


def _resume(job: Job, optimizer: torch.optim.Optimizer, folder: Path, best: dict[str, Tensor]) -> History:
    path = folder / STATE
    if not path.exists():
        return History()
    state: dict[str, Any] = read_state(path)
    if state["fingerprint"] != job.fingerprint:
        return History()
    job.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    best.update(state["best"])
    return History(state["epochs"], state["kept_epoch"])
