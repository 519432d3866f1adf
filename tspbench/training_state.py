"""What a training is at one moment: from it, a run goes on as if it had never stopped."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class History:
    """One entry an epoch: mean losses, validation figures; and which epoch's weights were kept."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    kept_epoch: int = -1

    def add(self, figures: Mapping[str, float], better: str | None) -> bool:
        """Append an epoch; return whether its weights are kept.

        Args:
            figures: of the epoch.
            better: the figure by which the first of the best epochs is kept; None: the last epoch is kept.
        """
        epoch = len(self.epochs)
        earlier = [] if better is None else [entry.get(better, -math.inf) for entry in self.epochs]
        kept = better is None or figures.get(better, -math.inf) > max(earlier, default=-math.inf)
        self.epochs.append(dict(figures))
        if kept:
            self.kept_epoch = epoch
        return kept


class TrainingState:
    """Model and optimizer, and how far their training is.

    Randomness needs no place here: all of it follows from (seed, epoch, step).

    Args:
        model: on its device.
        optimizer: of its parameters.
        averaged: whether a moving average of the weights is kept.

    Attributes:
        history: of the epochs that are done.
        step: how many steps of the next epoch are done.
        sums: what these add to the epoch's mean losses.
        best: weights of the epoch with the best validation, on the CPU; empty where nothing is selected.
        average: moving average of the parameters by name; empty where none is kept.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, averaged: bool) -> None:
        self.model, self.optimizer = model, optimizer
        self.history = History()
        self.step = 0
        self.sums: dict[str, float] = {}
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        if averaged:
            self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def data(self) -> dict[str, object]:
        """Return everything as tensors, numbers, strings, lists and dicts."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": self.history.epochs,
            "kept_epoch": self.history.kept_epoch,
            "step": self.step,
            "sums": self.sums,
            "best": self.best,
            "average": self.average,
        }

    def take_up(self, data: Mapping[str, Any]) -> None:
        """Go on from what `data` has returned."""
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.history = History(data["epochs"], data["kept_epoch"])
        self.step, self.sums, self.best = data["step"], data["sums"], data["best"]
        for name, value in self.average.items():
            value.copy_(data["average"][name])

    def is_finite(self) -> bool:
        """Whether all parameters are numbers."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all())

    def keep_best(self) -> None:
        """Note the present weights as those of the best epoch."""
        self.best = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average: ``decay * average + (1 - decay) * weights`` (ActionFormer, train_utils.py, ModelEma)."""
        named = dict(self.model.named_parameters())
        torch._foreach_lerp_([self.average[name] for name in named], list(named.values()), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the average, if there is one, in the place of the weights; buffers are the model's own in any case."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def finish(self) -> None:
        """Leave the model with the weights that are kept, in evaluation mode."""
        if self.best:
            self.model.load_state_dict(self.best)
        else:
            self._exchange()
        self.model.eval()

    def _exchange(self) -> None:
        if self.average:
            for name, parameter in self.model.named_parameters():
                parameter.data, self.average[name] = self.average[name], parameter.data
