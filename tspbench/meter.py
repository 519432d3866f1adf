"""Reads losses and gradient norms of a training off the device, checks them, and tells them to people and a log."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tspbench import ranks
from tspbench.errors import UserError
from tspbench.storage.training_log import TrainingLog

STEPS_BETWEEN_READINGS: Final = 20
SECONDS_BETWEEN_READINGS: Final = 1.0
SHOWN_NAMES: Final = 8


@dataclass(frozen=True)
class StepFigures:
    """What a step says of itself.

    Attributes:
        epoch: from 0.
        step: of the epoch, from 0.
        learning_rate: of the first group.
        losses: by name, with "total"; scalars on the device.
        gradient_norm: of all gradients together, before clipping; a scalar on the device.
        samples: of the whole batch.
    """

    epoch: int
    step: int
    learning_rate: float
    losses: Mapping[str, Tensor]
    gradient_norm: Tensor
    samples: int


class Meter:
    """Gathers the figures of steps on the device and reads them together, because each reading lets it wait.

    It reads every step on the CPU; on a GPU the first one, and then every `STEPS_BETWEEN_READINGS`, or after
    `SECONDS_BETWEEN_READINGS` where one process is alone: several must find the same at the same step.

    Args:
        unit: what a sample is called.
        names: (epoch, step) → names of the samples of a step, for messages.
        log: where rows go; None: nowhere.
        at_once: whether every step is read.
    """

    def __init__(
        self,
        unit: str,
        names: Callable[[int, int], Sequence[str]] | None,
        log: TrainingLog | None,
        *,
        at_once: bool,
    ) -> None:
        self.note = ""
        self._unit, self._names, self._log, self._at_once = unit, names, log, at_once
        self._waiting: list[tuple[StepFigures, Tensor]] = []
        self._speeds: deque[tuple[int, float]] = deque(maxlen=STEPS_BETWEEN_READINGS)
        self._started = time.monotonic()

    def start(self) -> None:
        """Begin to measure the time of steps: after anything that is none."""
        self._started = time.monotonic()

    def add(self, figures: StepFigures) -> None:
        """Note a step, whose figures stay on the device."""
        values = [*figures.losses.values(), figures.gradient_norm]
        device = figures.losses["total"].device
        self._waiting.append((figures, torch.stack([value.detach().to(device, torch.float64) for value in values])))

    def is_due(self) -> bool:
        """Whether the time for a reading has come."""
        return (
            self._at_once
            or not self._speeds
            or len(self._waiting) >= STEPS_BETWEEN_READINGS
            or (ranks.count() == 1 and time.monotonic() - self._started >= SECONDS_BETWEEN_READINGS)
        )

    def read(self, sums: dict[str, float], steps: int) -> None:
        """Read what was noted, add it to an epoch's mean losses and tell it to the log.

        Args:
            sums: mean losses of the epoch so far, by name with "_loss"; changed in place.
            steps: of the epoch.

        Raises:
            UserError: a loss or a gradient that is not finite.
        """
        if not self._waiting:
            return
        values = torch.stack([each for _, each in self._waiting]).tolist()
        seconds = (time.monotonic() - self._started) / len(self._waiting)
        read, self._waiting = self._waiting, []
        for (figures, _), (*losses, norm) in zip(read, values, strict=True):
            by_name = {f"{name}_loss": value for name, value in zip(figures.losses, losses, strict=True)}
            for name, value in by_name.items():
                sums[name] = sums.get(name, 0.0) + value / steps
            self._speeds.append((figures.samples, seconds))
            if self._log is not None:
                row = {"epoch": figures.epoch, "step": figures.step, "learning_rate": figures.learning_rate}
                rest = {"gradient_norm": norm, "samples": figures.samples, "seconds": round(seconds, 6)}
                self._log.add({**row, **by_name, **rest})
            self._check(figures, by_name["total_loss"], norm)
        samples, spent = (sum(each) for each in zip(*self._speeds, strict=True))
        self.note = f"loss {by_name['total_loss']:.3f}, {samples / max(spent, 1e-9):.1f} {self._unit}/s"
        self.start()

    def _check(self, figures: StepFigures, total: float, norm: float) -> None:
        if math.isfinite(total) and math.isfinite(norm):
            return
        what = f"loss became {total}" if not math.isfinite(total) else f"norm of the gradients became {norm}"
        shown = ""
        if self._names is not None:
            names = list(self._names(figures.epoch, figures.step))
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            shown = f" with {', '.join(names[:SHOWN_NAMES])}{more}"
        raise UserError(
            f"The {what} in epoch {figures.epoch}, step {figures.step} (counted from 0){shown}, at a learning rate of "
            f"{figures.learning_rate:.3g}: lower it (fit.learning_rates) or look at these samples; the last state "
            "before that is kept."
        )
