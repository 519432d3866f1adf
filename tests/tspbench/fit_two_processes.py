"""Trainings that one process and several do alike; torchrun starts this as a script: FOLDER."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tests.tspbench.fit_jobs import SETTINGS
from tests.tspbench.helpers import silent
from tspbench import ranks
from tspbench.errors import UserError
from tspbench.fit import Job, fit

SAMPLES, BATCH = 17, 7  # batches of 7, 7 and 3: none divides by 2
STEPS = 3
PLAIN = SETTINGS.model_copy(update={"batch_size": BATCH, "learning_rates": {"all": 0.05}, "epochs": 3})
EVERYTHING = PLAIN.model_copy(
    update={"micro_batch": 2, "average": 0.8, "clip_norm": 0.5, "select": "best", "checkpoint_minutes": 0.0}
)
CASES = {
    "plain": PLAIN,
    "everything": EVERYTHING,
    "adamw": PLAIN.model_copy(update={"optimizer": "adamw"}),
    "frozen": PLAIN.model_copy(update={"batch_norm": "frozen"}),
    "each-device": PLAIN,
}


class Turned(nn.Module):
    """A network whose output is (B, 2, 3), but lies in memory as (B, 3, 2)."""

    def __init__(self, batch_norm):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6) if batch_norm else nn.Tanh(), nn.Linear(6, 6))

    def forward(self, x):
        return self.body(x).reshape(-1, 3, 2).transpose(1, 2)


def new_job(name, seed=0, stop_at=None, notes=None):
    torch.manual_seed(seed)
    model = Turned(batch_norm=name in ("frozen", "each-device"))
    data = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)) + 1

    def drawn(epoch):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist()
        return [order[first : first + BATCH] for first in range(0, SAMPLES, BATCH)]

    def batches(epoch, first):
        for step, whole in enumerate(drawn(epoch)[first:], first):
            if (epoch, step) == stop_at:
                raise KeyboardInterrupt
            yield data[ranks.share(whole)], len(whole)

    def loss(model, batch, epoch, step):
        x, samples = batch
        error = (ranks.gathered(model(x), samples) - ranks.gathered(x, samples)[:, None, :3]).square().mean((1, 2))
        high = error > error.median()  # what a loss does that balances over the batch
        part = (error * high).sum() / high.sum().clamp(min=1)
        return {"total": error.mean() + part, "part": part}

    def validate(model):
        own = list(range(SAMPLES))[ranks.number() :: ranks.count()]
        sums = ranks.everybodys((model(data[own]) - data[own, None, :3]).square().sum().item())
        return {"score": -sum(sums), "process": float(ranks.number())}  # of which the first one's counts

    groups = {"all": model.parameters()}
    return Job(model, groups, batches, STEPS, loss, validate, "score", "a", unit="rows", names=lambda *_: ["r"])


def outcome(job, settings, folder):
    history = fit(job, settings, "cpu", folder, silent)
    return {"weights": dict(job.model.state_dict()), "epochs": history.epochs, "kept": history.kept_epoch}


def killed(folder, seed=0):
    try:
        outcome(new_job("everything", seed, stop_at=(1, 2)), EVERYTHING, folder)
    except KeyboardInterrupt:
        return
    raise AssertionError("nobody has killed it")


def main(folder):
    ranks.join("cpu")
    found = {name: outcome(new_job(name), settings, folder / name) for name, settings in CASES.items()}
    killed(folder / "killed")
    found["resumed"] = outcome(new_job("everything", seed=1), EVERYTHING, folder / "killed")
    found["taken over"] = outcome(new_job("everything", seed=1), EVERYTHING, folder / "one killed")
    killed(folder / "left")
    alone = ranks.by_first(lambda: outcome(new_job("plain"), PLAIN, folder / "alone")["epochs"])
    found["alone"] = {"epochs": alone, "weights": {}, "kept": 2}
    job = new_job("plain")
    nan = replace(
        job, loss=lambda *given: {"total": job.loss(*given)["total"] * (1 if given[-2:] != (1, 1) else torch.nan)}
    )
    said = []
    for what, settings in ((nan, PLAIN), (new_job("frozen"), PLAIN.model_copy(update={"batch_norm": "synchronized"}))):
        try:
            outcome(what, settings, folder / "nan")
        except UserError as error:
            said.append(str(error))
    torch.save({**found, "said": said}, folder / f"{os.environ['RANK']}.pt")
    ranks.everybodys(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
