"""How a model is trained: optimizer, rates and their schedule, which weights are kept."""

import math
from bisect import bisect_right
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from tspbench.config import Settings

MOMENTUM: Final = 0.9

NOT_IN_RESULT: Final = {"workers", "checkpoint_minutes", "keep_checkpoints", "tensorboard"}
"""Settings that change nothing in what a training ends with, and so do not count in fingerprints."""


class FitSettings(Settings):
    """How a model is trained; learning rates are by parameter group.

    Args:
        epochs: passes over the data.
        batch_size: samples in a step, over all devices.
        optimizer: "sgd" (no Nesterov), "adam" or "adamw".
        learning_rates: group of parameters → learning rate; 0 freezes a group but for its batch statistics.
        momentum: of "sgd".
        weight_decay: of the parameters that ``decay`` tells.
        decay: "all" parameters, or the "weights" of linear and convolution layers alone: no biases, norms, scales or
            embeddings (ActionFormer, libs/utils/train_utils.py, make_optimizer).
        schedule: "steps" or "cosine", which falls from the rate towards 0 along half a cosine.
        warmup_epochs: before that, the rate rises linearly over so many epochs, iteration by iteration.
        warmup_factor: where the rise starts, as a share of the rate.
        milestones: of "steps": epochs at which the rate is multiplied by ``gamma``.
        gamma: see there.
        clip_norm: gradients are scaled down to this norm of all of them together; none: never.
        average: decay of a moving average of the weights, which is validated and kept in their place; none: no average.
        select: the weights that are kept: of the epoch with the best validation, or the last.
        patience: of "best": epochs in a row without a better one after which training ends; none: all ``epochs``.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 on a GPU.
        micro_batch: so many samples of one device pass through the network at a time, for which a step takes one more
            forward pass; the batch, its loss and the rates stay as they are, but layers that normalize by the batch see
            so much of it; none: all of them.
        batch_norm: the statistics by which a batch is normalized: of what passes through "each-device" at a time,
            "synchronized" over all devices (GPUs), or "frozen": the running ones of the initial weights, which stay.
        workers: processes that prepare batches; none: up to 8 for a GPU, for the CPU one where videos are read and else
            this one; 0: this one, which nobody ends when a decoder hangs.
        checkpoint_minutes: between two states within an epoch; there is one behind each epoch in any case.
        keep_checkpoints: so many states are kept, the newest.
        tensorboard: whether the log is written for TensorBoard, too (needs the extra ``tspbench[tensorboard]``).
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rates: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    momentum: float = Field(MOMENTUM, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    decay: Literal["all", "weights"] = "all"
    schedule: Literal["steps", "cosine"] = "steps"
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_factor: float = Field(1e-5, gt=0, le=1)
    milestones: tuple[int, ...] = Field((), strict=False)
    gamma: float = Field(0.1, gt=0)
    clip_norm: float | None = Field(None, gt=0)
    average: float | None = Field(None, gt=0, lt=1)
    select: Literal["best", "last"] = "last"
    patience: int | None = Field(None, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    micro_batch: int | None = Field(None, ge=1)
    batch_norm: Literal["each-device", "synchronized", "frozen"] = "each-device"
    workers: int | None = Field(None, ge=0)
    checkpoint_minutes: float = Field(10.0, ge=0)
    keep_checkpoints: int = Field(2, ge=1)
    tensorboard: bool = False

    @field_validator("momentum")
    @classmethod
    def _only_with_sgd(cls, momentum: float, others: ValidationInfo) -> float:
        if momentum != MOMENTUM and others.data.get("optimizer") != "sgd":
            raise ValueError('only "sgd" has a momentum of its own choice: leave it out')
        return momentum

    @field_validator("milestones")
    @classmethod
    def _only_with_steps(cls, milestones: tuple[int, ...], others: ValidationInfo) -> tuple[int, ...]:
        if milestones and others.data.get("schedule") == "cosine":
            raise ValueError('the schedule "cosine" has no milestones: leave them out or choose "steps"')
        return milestones

    @field_validator("patience")
    @classmethod
    def _only_with_best(cls, patience: int | None, others: ValidationInfo) -> int | None:
        if patience is not None and others.data.get("select") == "last":
            raise ValueError('with select "last" nothing tells when to stop: leave it out or choose "best"')
        return patience

    @field_validator("warmup_epochs")
    @classmethod
    def _leaves_time_to_fall(cls, warmup_epochs: float, others: ValidationInfo) -> float:
        if others.data.get("schedule") == "cosine" and warmup_epochs >= others.data.get("epochs", math.inf):
            raise ValueError('with the schedule "cosine" the warm-up must be shorter than the training (epochs)')
        return warmup_epochs


def learning_rate_factor(step: int, steps: int, settings: FitSettings) -> float:
    """Return what the rates are multiplied by at ``step`` (from 0, counted over all epochs; ``steps`` an epoch).

    Linear warm-up and milestones, both by iteration (TSP, train/train.py). The cosine begins at the first step after
    the warm-up and would be 0 at the step after the last (ActionFormer, libs/utils/lr_schedulers.py, where it ends at
    1e-8 instead of 0 and the warm-up begins at 0 and is over one step earlier).
    """
    warmup = settings.warmup_epochs * steps
    factor = 1.0
    if step < warmup:
        factor = settings.warmup_factor * (1 - step / warmup) + step / warmup
    elif settings.schedule == "cosine":
        factor = (1 + math.cos(math.pi * (step - warmup) / (settings.epochs * steps - warmup))) / 2
    return factor * settings.gamma ** bisect_right([m * steps for m in settings.milestones], step)
