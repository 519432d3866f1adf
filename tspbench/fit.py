"""The only training loop: steps, schedule, validation, checkpoint, resume, in one process or several."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tspbench import ranks, watch
from tspbench.chunks import in_chunks
from tspbench.errors import UserError
from tspbench.fit_settings import FitSettings, learning_rate_factor
from tspbench.meter import Meter, StepFigures
from tspbench.progress import Advance
from tspbench.storage.training_log import TrainingLog
from tspbench.storage.training_states import STATES, TrainingStates, read_state
from tspbench.training_state import History, TrainingState

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
        beside: what else a state remembers; after each epoch, that of all processes is put together.
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
    beside: "Remembered | None" = None


class Remembered(Protocol):
    """Something that a training learns about its data, such as which videos cannot be read."""

    def data(self) -> Any:
        """Return all of it as numbers, strings, lists and dicts."""

    def merge(self, data: Any) -> None:
        """Add what another process, or this training before it was interrupted, has returned by `data`."""


def fit(job: Job, settings: FitSettings, device: str, folder: Path, advance: Advance) -> History:
    """Train ``job.model`` in place; it ends with the selected epoch's weights, in evaluation mode, on ``device``.

    Every process calls it, or one of them within `ranks.alone`. The whole state goes to ``folder/training`` every so
    often; a run that finds one there goes on behind it and ends with the result of an uninterrupted run, because all
    randomness follows from (seed, epoch, step). Figures of each step and epoch go to ``folder``, see `TrainingLog`.

    Raises:
        UserError: losses, gradients or weights that are not finite (the last good state stays), a disk that is full, a
            folder that not every process can see, or settings that the job or the device cannot follow.
    """
    _check(job, settings, device)
    training = _Training(job, settings, device, folder, advance)
    return training.run()


def seed_random_layers(seed: int, epoch: int, step: int) -> int:
    """Let dropout and the like, which draw from torch's global generator, follow from (seed, epoch, step).

    Returns:
        The number that the generator was seeded with, for other draws of the step.
    """
    drawn = int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])
    torch.manual_seed(drawn)
    return drawn


class _Chunked(nn.Module):
    """A model whose samples pass through it a few at a time."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self._size = model, size

    def forward(self, *inputs: Any) -> Any:
        return in_chunks(self.model, inputs, self._size)


class _Training:
    """A job while it is done: from the newest state that is there, or from the start."""

    def __init__(self, job: Job, settings: FitSettings, device: str, folder: Path, advance: Advance) -> None:
        self._job, self._settings, self._advance = job, settings, advance
        if settings.batch_norm == "synchronized" and ranks.count() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(job.model)  # type: ignore[no-untyped-call]
        self._accelerator = _accelerator(settings, device)
        optimizer = _optimizer(job, settings)
        model = job.model if settings.micro_batch is None else _Chunked(job.model, settings.micro_batch)
        # Who works alone must not wait for the gradients of others.
        self._model = self._accelerator.prepare_model(model, evaluation_mode=ranks.count() == 1)
        self._optimizer = self._accelerator.prepare_optimizer(optimizer)
        self._state = TrainingState(job.model, self._optimizer, averaged=settings.average is not None)
        self._states = TrainingStates(folder / STATES, job.fingerprint, settings.keep_checkpoints)
        self._resume()
        self._log = None
        if ranks.is_first():
            board = job.steps if settings.tensorboard else None
            self._log = TrainingLog(folder, self._state.history.epochs, self._state.step, board)
        self._meter = Meter(job.unit, job.names, self._log, at_once=device == "cpu")
        self._saved = time.monotonic()

    def run(self) -> History:
        """Do what is left."""
        try:
            return self._all_epochs()
        finally:
            if self._log is not None:
                self._log.close()

    def _all_epochs(self) -> History:
        history = self._state.history
        while not self._is_over():
            self._train_epoch()
            figures = self._validated()
            if self._job.beside is not None and ranks.count() > 1:
                for remembered in ranks.everybodys(self._job.beside.data()):
                    self._job.beside.merge(remembered)
            with self._state.averaged():
                best = self._settings.select == "best"
                if history.add({**self._state.sums, **figures}, self._job.better if best else None) and best:
                    self._state.keep_best()
            self._state.step, self._state.sums = 0, {}
            self._save()
            if self._log is not None:
                self._log.add_epoch(history.epochs[-1])
        self._state.finish()
        return history

    def _is_over(self) -> bool:
        """Whether all epochs are done, or as many without a better one as patience allows."""
        done, patience = len(self._state.history.epochs), self._settings.patience
        return done >= self._settings.epochs or (
            patience is not None and done - 1 - self._state.history.kept_epoch >= patience
        )

    def _train_epoch(self) -> None:
        epoch, first, steps = len(self._state.history.epochs), self._state.step, self._job.steps
        self._model.train()
        if self._settings.batch_norm == "frozen":
            for layer in self._model.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        self._meter.start()
        batches = self._job.batches(epoch, first) if first < steps else ()
        for step, batch in enumerate(batches, first):
            watch.working_on(f"training, epoch {epoch}, step {step}", computing=True)
            self._meter.add(self._step(batch, epoch, step))
            self._state.step = step + 1
            if self._meter.is_due():
                self._meter.read(self._state.sums, steps)
                if time.monotonic() - self._saved >= 60 * self._settings.checkpoint_minutes:
                    self._save()
                    self._meter.start()
            self._advance(epoch * steps + step + 1, self._settings.epochs * steps, self._meter.note)
        self._meter.read(self._state.sums, steps)
        if not self._state.is_finite():
            raise UserError(
                f"The weights are not finite behind epoch {epoch}: lower the learning rate (fit.learning_rates); the "
                "last state before that is kept."
            )
        self._agree_on_statistics()

    def _agree_on_statistics(self) -> None:
        """Take the first process's running statistics: each has its own of the last step."""
        if ranks.count() > 1:
            kept = self._job.model.state_dict()  # without what is no result of training, such as sampling tables
            for name, buffer in self._job.model.named_buffers():
                if name in kept:
                    torch.distributed.broadcast(buffer, 0)

    def _step(self, batch: tuple[Any, ...], epoch: int, step: int) -> StepFigures:
        factor = learning_rate_factor(epoch * self._job.steps + step, self._job.steps, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        with self._accelerator.autocast():
            losses = self._job.loss(self._model, batch, epoch, step)
        self._optimizer.zero_grad(set_to_none=True)
        # Each process has the loss of the whole batch, but the gradient of its part: their sum, not the mean, is right.
        self._accelerator.backward(losses["total"] * ranks.count())
        parameters = list(self._job.model.parameters())
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if self._settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self._settings.clip_norm, norm)
        self._optimizer.step()
        if self._settings.average is not None:
            self._state.follow(self._settings.average)
        rate = float(self._optimizer.param_groups[0]["lr"])
        return StepFigures(epoch, step, rate, losses, norm, batch[-1])

    def _validated(self) -> Mapping[str, float]:
        """Return the figures of the validation, which the processes do together; what the first finds counts."""
        if self._job.validate is None:
            return {}
        self._job.model.eval()
        with self._state.averaged(), torch.inference_mode(), self._accelerator.autocast():
            return ranks.of_first(self._job.validate(self._job.model))

    def _save(self) -> None:
        """Write the state, unless its weights are of no use; what the log says is on the disk before."""
        if self._log is not None and self._state.is_finite():
            with ranks.alone():  # the others wait, however slow the disk is
                self._log.write()
                beside = None if self._job.beside is None else self._job.beside.data()
                state = {**self._state.data(), "beside": beside}
                self._states.write(len(self._state.history.epochs), self._state.step, state)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Go on from the newest state that is whole: the first process looks for it, and all read the same."""
        with ranks.alone():  # the others wait, however slow the disk is
            found = self._states.newest() if ranks.is_first() else None
        path = ranks.of_first(None if found is None else found[0])
        if path is None:
            return
        with ranks.alone():
            ranks.wait_for_files({path: None})
            state = read_state(path) if found is None else found[1]
            self._state.take_up(state)
            if self._job.beside is not None:
                self._job.beside.merge(state["beside"])


def _check(job: Job, settings: FitSettings, device: str) -> None:
    if settings.select == "best" and job.validate is None:
        raise UserError('fit.select: "best" needs a validation, which this training has not: choose "last".')
    if settings.batch_norm == "synchronized" and device == "cpu" and ranks.count() > 1:
        raise UserError(
            'fit.batch_norm: "synchronized" needs GPUs, and several processes share the CPU here: choose "frozen" or '
            '"each-device", or start one process.'
        )
    for way in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise UserError(
                f"accelerate was told to use {way}, which training here cannot: start the processes without it "
                "(accelerate config, or an option of accelerate launch)."
            )
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise UserError(
            "fit.tensorboard: TensorBoard is not installed: install it with `uv pip install 'tspbench[tensorboard]'`, "
            "or leave the setting out (log.csv is written in any case)."
        )


def _accelerator(settings: FitSettings, device: str) -> Accelerator:
    if ranks.several() and not torch.distributed.is_initialized():
        # accelerate would wait for the others here, who may wait for this process alone.
        raise RuntimeError("the processes have not met: ranks.join comes before any training")
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device != "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)  # or stages of one recipe must agree on the precision
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        # Said here, because an environment variable of the launcher would change the gradients: see `micro_batch`.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # A step of training reads no running statistics: the first's are sent at the end of an epoch.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
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
        for each in members:  # of a group that stays as it is nobody needs gradients
            each.requires_grad_(each.requires_grad and rate > 0)
        for decays, weight_decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [each for each in members if (settings.decay == "all" or id(each) in decayed) is decays]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "rate": rate, "weight_decay": weight_decay})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, fused=True)
