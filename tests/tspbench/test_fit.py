import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tspbench.helpers import one_sentence, silent
from tspbench.fit import STATE, FitSettings, Job, fit, learning_rate_factor
from tspbench.storage.checkpoints import read_state

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


def published(**changes):
    """Return the schedule of TSP's recipe: 2 epochs of warm-up from 1e-5, times 0.01 at epochs 4 and 6 of 8."""
    settings = FitSettings(
        epochs=8,
        batch_size=1,
        optimizer="sgd",
        learning_rates={},
        warmup_epochs=2,
        warmup_factor=1e-5,
        milestones=(4, 6),
        gamma=0.01,
    )
    return settings.model_copy(update=changes)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-5),
        (1, 1e-5 * 19 / 20 + 1 / 20),
        (10, 1e-5 / 2 + 1 / 2),
        (19, 1e-5 / 20 + 19 / 20),
        (20, 1.0),
        (39, 1.0),
        (40, 0.01),
        (59, 0.01),
        (60, 1e-4),
        (79, 1e-4),
    ],
)
def test_the_published_schedule_by_hand(step, factor):
    assert learning_rate_factor(step, 10, published()) == pytest.approx(factor, rel=1e-12)


def test_without_warm_up_and_milestones_the_rate_stays():
    settings = published(warmup_epochs=0, milestones=())
    assert {learning_rate_factor(step, 10, settings) for step in range(80)} == {1.0}


def test_a_milestone_inside_the_warm_up_acts_at_once():
    assert learning_rate_factor(10, 10, published(milestones=(1,))) == pytest.approx(0.01 * (1e-5 / 2 + 1 / 2))


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
    return x, x.sum(1, keepdim=True)


def job(seed=0, fingerprint="a", validate=None, batches=None):
    torch.manual_seed(seed)
    model = Net()
    return Job(
        model=model,
        groups={"stem": model.stem.parameters(), "rest": model.rest.parameters()},
        batches=batches or (lambda epoch: (batch_of(epoch, step) for step in range(STEPS))),
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

    def batches(number):
        for step in range(STEPS):
            if (number, step) == (epoch, 1):
                raise KeyboardInterrupt
            yield batch_of(number, step)

    return batches


def scores(*values):
    """Return a validation that tells these scores, one an epoch."""
    remaining = iter(values)
    return lambda model: {"score": next(remaining)}


def test_training_learns_what_it_is_taught(tmp_path):
    weights, history = run(job(), SETTINGS, tmp_path)
    losses = [entry["total_loss"] for entry in history.epochs]
    assert losses[-1] < losses[0] / 2
    assert history.kept_epoch == 3
    assert not same(weights, job().model.state_dict())


def test_one_step_of_sgd_by_hand(tmp_path):
    settings = FitSettings(epochs=1, batch_size=1, optimizer="sgd", learning_rates={"all": 0.5}, weight_decay=0.2)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    what = Job(
        model=model,
        groups={"all": model.parameters()},
        batches=lambda epoch: [1.0, 1.0],
        steps=2,
        loss=lambda model, batch, epoch, step: {"total": model(torch.ones(1, 1)).sum() * batch},
        validate=None,
        better="",
        fingerprint="",
    )
    history = fit(what, settings, "cpu", tmp_path, silent)
    # Gradient 1 + 0.2 w. Step 1: 1.4, w = 2 - 0.7 = 1.3. Step 2: momentum 0.9 · 1.4 + 1.26 = 2.52, w = 1.3 - 1.26.
    assert model.weight.item() == pytest.approx(0.04, abs=1e-6)
    assert history.epochs == [{"total_loss": pytest.approx((2.0 + 1.3) / 2)}]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("epoch", range(4))
def test_a_run_killed_in_any_epoch_ends_as_if_it_had_not_been(tmp_path, optimizer, epoch):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole, told = run(job(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(epoch)), settings, tmp_path / "killed")
    seen = []

    def batches(number):
        seen.append(number)
        return (batch_of(number, step) for step in range(STEPS))

    # Before the first epoch's end nothing is kept; after it, initial weights no longer matter.
    resumed, history = run(job(seed=min(epoch, 1), batches=batches), settings, tmp_path / "killed")
    assert seen == list(range(epoch, 4))
    assert same(whole, resumed)
    assert history == told


def test_a_killed_run_remembers_its_best_epoch(tmp_path):
    settings = SETTINGS.model_copy(update={"select": "best"})
    whole, told = run(job(validate=scores(0.1, 0.9, 0.3, 0.2)), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(validate=scores(0.1, 0.9), batches=killed_in(2)), settings, tmp_path / "killed")
    resumed, history = run(job(seed=1, validate=scores(0.3, 0.2)), settings, tmp_path / "killed")
    assert same(whole, resumed)
    assert history == told
    assert history.kept_epoch == 1


def test_a_finished_run_is_taken_as_it_is(tmp_path):
    whole, told = run(job(), SETTINGS, tmp_path)

    def batches(_):
        raise AssertionError("nothing is left to train")

    again, history = run(job(seed=1, batches=batches), SETTINGS, tmp_path)
    assert same(whole, again)
    assert history == told


def test_a_state_of_another_run_is_not_taken_up(tmp_path):
    run(job(seed=5, fingerprint="other"), SETTINGS, tmp_path)
    fresh, _ = run(job(), SETTINGS, tmp_path)
    expected, _ = run(job(), SETTINGS, tmp_path / "elsewhere")
    assert same(fresh, expected)
    assert read_state(tmp_path / STATE)["fingerprint"] == "a"


@pytest.mark.parametrize(
    ("values", "best"), [((0.1, 0.9, 0.3, 0.9), 1), ((0.4, 0.3, 0.2, 0.1), 0), ((0.1, 0.2, 0.3, 0.4), 3)]
)
def test_the_best_epoch_is_the_first_of_the_highest(tmp_path, values, best):
    settings = SETTINGS.model_copy(update={"select": "best"})
    weights, history = run(job(validate=scores(*values)), settings, tmp_path / "best")
    assert history.kept_epoch == best
    assert [entry["score"] for entry in history.epochs] == list(values)
    # Rates follow from the step alone: the weights of epoch n are those that a run of n + 1 epochs ends with.
    shorter, _ = run(job(), settings.model_copy(update={"select": "last", "epochs": best + 1}), tmp_path / "last")
    assert same(weights, shorter)


def test_the_last_epoch_is_kept_whatever_the_validation_says(tmp_path):
    weights, history = run(job(validate=scores(0.9, 0.1, 0.1, 0.1)), SETTINGS, tmp_path / "a")
    expected, _ = run(job(), SETTINGS, tmp_path / "b")
    assert history.kept_epoch == 3
    assert same(weights, expected)


def test_the_best_of_nothing_is_one_sentence(tmp_path):
    with one_sentence("fit.select", "validation"):
        run(job(), SETTINGS.model_copy(update={"select": "best"}), tmp_path)


def test_validation_is_in_evaluation_mode_and_without_gradients(tmp_path):
    seen = []

    def validate(model):
        seen.append((model.training, torch.is_grad_enabled()))
        return {"score": 0.0}

    what = job(validate=validate)
    run(what, SETTINGS, tmp_path)
    assert set(seen) == {(False, False)}
    assert not what.model.training


def test_a_rate_of_0_freezes_a_group_but_for_its_batch_statistics(tmp_path):
    settings = SETTINGS.model_copy(update={"learning_rates": {"stem": 0.0, "rest": 0.1}})
    before = {key: value.clone() for key, value in job().model.state_dict().items()}
    after, _ = run(job(), settings, tmp_path)
    assert torch.equal(before["stem.0.weight"], after["stem.0.weight"])
    assert torch.equal(before["stem.1.weight"], after["stem.1.weight"])
    assert not torch.equal(before["stem.1.running_mean"], after["stem.1.running_mean"])
    assert not torch.equal(before["rest.weight"], after["rest.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_sentence_and_keeps_the_last_state(tmp_path, value):
    def loss(model, batch, epoch, step):
        factor = value if (epoch, step) == (2, 1) else 1.0
        return {"total": model(batch[0]).square().mean() * factor}

    with one_sentence(str(value), "epoch 2, step 1", "learning_rates"):
        run(replace(job(), loss=loss), SETTINGS, tmp_path)
    state = read_state(tmp_path / STATE)
    assert len(state["epochs"]) == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_a_group_without_a_rate_is_one_sentence(tmp_path):
    with one_sentence("learning_rates", "rest, stem", "backbone, rest"):
        run(job(), SETTINGS.model_copy(update={"learning_rates": {"backbone": 1.0, "rest": 1.0}}), tmp_path)


def test_progress_counts_every_step(tmp_path):
    told = []
    run(job(), SETTINGS, tmp_path, lambda done, total, note="": told.append((done, total)))
    assert told == [(step, 12) for step in range(1, 13)]


def test_stages_of_one_process_may_compute_in_different_precisions(tmp_path):
    kinds = []

    def seen(layer, inputs, output):
        kinds.append(output.dtype)

    for k, precision in enumerate(("bf16", "fp32", "bf16", "auto")):
        what = job()
        what.model.rest.register_forward_hook(seen)
        run(what, SETTINGS.model_copy(update={"precision": precision, "epochs": 1}), tmp_path / str(k))
    bf16, fp32 = [torch.bfloat16] * STEPS, [torch.float32] * STEPS
    assert kinds == bf16 + fp32 + bf16 + fp32
