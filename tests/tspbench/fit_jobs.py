"""Small trainings that the tests of fit share."""

import csv
from dataclasses import replace

import torch
from torch import nn

from tests.tspbench.helpers import silent
from tspbench.fit import STATES, Job, fit
from tspbench.fit_settings import FitSettings
from tspbench.storage.training_states import read_state

STEPS = 3
SETTINGS = FitSettings(
    epochs=4,
    batch_size=8,
    optimizer="sgd",
    learning_rates={"stem": 0.05, "rest": 0.1},
    weight_decay=0.01,
    warmup_epochs=1,
    milestones=(3,),
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.rest = nn.Linear(6, 1)

    def forward(self, x):
        return self.rest(self.stem(x))


def batch_of(epoch, step):
    generator = torch.Generator().manual_seed(100 * epoch + step)
    x = torch.randn(8, 4, generator=generator)
    return x, x.sum(1, keepdim=True), len(x)


def job(seed=0, fingerprint="a", validate=None, batches=None):
    torch.manual_seed(seed)
    model = Net()
    return Job(
        model=model,
        groups={"stem": model.stem.parameters(), "rest": model.rest.parameters()},
        batches=batches or (lambda epoch, first: (batch_of(epoch, step) for step in range(first, STEPS))),
        steps=STEPS,
        loss=lambda model, batch, epoch, step: {"total": ((model(batch[0]) - batch[1]) ** 2).mean()},
        validate=validate,
        better="score",
        fingerprint=fingerprint,
    )


def run(what, settings, folder, advance=silent):
    history = fit(what, settings, "cpu", folder, advance)
    return {key: value.clone() for key, value in what.model.state_dict().items()}, history


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def killed_in(epoch):
    """Return batches that break off in the middle of an epoch, as a kill does."""

    def batches(number, first):
        for step in range(first, STEPS):
            if (number, step) == (epoch, 1):
                raise KeyboardInterrupt
            yield batch_of(number, step)

    return batches


def scores(*values):
    """Return a validation that tells these scores, one an epoch."""
    remaining = iter(values)
    return lambda model: {"score": next(remaining)}


EVERYTHING = FitSettings(
    epochs=4,
    batch_size=8,
    optimizer="adamw",
    learning_rates={"stem": 0.02, "rest": 0.05},
    weight_decay=0.05,
    decay="weights",
    schedule="cosine",
    warmup_epochs=1,
    clip_norm=0.5,
    average=0.8,
    select="best",
)


def noisy(**options):
    """Return a job with a validation, and with a layer whose randomness follows from epoch and step."""
    what = job(validate=lambda model: {"score": -(model(batch_of(99, 0)[0]) - 1).square().mean().item()}, **options)
    what.model.stem.append(nn.Dropout(0.5))

    def loss(model, batch, epoch, step):
        torch.manual_seed(1000 * epoch + step)
        error = (model(batch[0]) - batch[1]).square()
        return {"total": error.mean(), "worst": error.max()}

    return replace(what, loss=loss)


def states(folder):
    """Return the names of the states of a training, the newest last."""
    return sorted(path.name for path in (folder / STATES).glob("*"))


def newest_state(folder):
    return read_state(folder / STATES / states(folder)[-1])


def log_of(folder):
    """Return the rows of a log without what no two runs share: how long steps took."""
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row.pop("seconds")) > 0 for row in rows)
    return rows
