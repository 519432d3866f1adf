import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tspbench.fit_jobs import SETTINGS, STEPS, job, newest_state, run, same, scores
from tests.tspbench.helpers import one_sentence, silent
from tspbench import ranks
from tspbench.fit import Job, fit
from tspbench.fit_settings import FitSettings


def test_training_learns_what_it_is_taught(tmp_path):
    weights, history = run(job(), SETTINGS, tmp_path)
    losses = [entry["total_loss"] for entry in history.epochs]
    assert losses[-1] < losses[0] / 2
    assert history.kept_epoch == 3
    assert not same(weights, job().model.state_dict())


def one_weight(validate=None):
    """Return a job with one weight, 2 at the start, whose gradient is 1 in both steps."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    return Job(
        model=model,
        groups={"all": model.parameters()},
        batches=lambda epoch, first: [(1.0, 1), (1.0, 1)],
        steps=2,
        loss=lambda model, batch, epoch, step: {"total": model(torch.ones(1, 1)).sum() * batch[0]},
        validate=validate,
        better="score",
        fingerprint="",
    )


def one_epoch(optimizer="sgd", rate=0.5, **options):
    return FitSettings(epochs=1, batch_size=1, optimizer=optimizer, learning_rates={"all": rate}, **options)


def test_two_steps_of_sgd_by_hand(tmp_path):
    what = one_weight()
    history = fit(what, one_epoch(weight_decay=0.2), "cpu", tmp_path, silent)
    # Gradient 1 + 0.2 w. Step 1: 1.4, w = 2 - 0.7 = 1.3. Step 2: momentum 0.9 · 1.4 + 1.26 = 2.52, w = 1.3 - 1.26.
    assert what.model.weight.item() == pytest.approx(0.04, abs=1e-6)
    assert history.epochs == [{"total_loss": pytest.approx((2.0 + 1.3) / 2)}]


def test_the_momentum_by_hand(tmp_path):
    what = one_weight()
    fit(what, one_epoch(momentum=0.5), "cpu", tmp_path, silent)
    # Gradient 1. Step 1: w = 2 - 0.5. Step 2: 0.5 · 1 + 1, w = 1.5 - 0.75.
    assert what.model.weight.item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("optimizer", "weight"),
    [
        # Gradients of the same size: each step is the rate, 0.1.
        ("adam", 2 - 0.1 - 0.1),  # the decay is in the gradient
        ("adamw", (2 * 0.95 - 0.1) * 0.95 - 0.1),  # the decay is beside it: 0.1 · 0.5 of the weight
    ],
)
def test_two_steps_of_adam_by_hand(tmp_path, optimizer, weight):
    what = one_weight()
    fit(what, one_epoch(optimizer, rate=0.1, weight_decay=0.5), "cpu", tmp_path, silent)
    assert what.model.weight.item() == pytest.approx(weight, rel=1e-3)


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_average_by_hand(tmp_path, select):
    seen = []

    def validate(model):
        seen.append(model.weight.item())
        return {"score": 1.0}

    what = one_weight(validate)
    fit(what, one_epoch(average=0.9, select=select), "cpu", tmp_path, silent)
    # Weights 2, 1.5, 1.5 - 0.5 · (0.9 + 1) = 0.55. Average 2, 0.9 · 2 + 0.1 · 1.5 = 1.95, 0.9 · 1.95 + 0.1 · 0.55.
    assert seen == [pytest.approx(1.81)]
    assert what.model.weight.item() == seen[0]
    assert newest_state(tmp_path)["model"]["weight"].item() == pytest.approx(0.55)


def test_the_average_is_of_weights_and_leaves_the_training_as_it_is(tmp_path):
    plain, told = run(job(), SETTINGS, tmp_path / "plain")
    averaged, told_too = run(job(), SETTINGS.model_copy(update={"average": 0.5}), tmp_path / "averaged")
    assert told == told_too
    assert same(plain, newest_state(tmp_path / "averaged")["model"])
    for name in plain:
        is_buffer = name.startswith("stem.1.") and not name.endswith(("weight", "bias"))
        assert torch.equal(plain[name], averaged[name]) == is_buffer, name


def test_a_validation_that_fails_leaves_the_weights_of_the_training(tmp_path):
    def validate(model):
        raise RuntimeError

    what = one_weight(validate)
    with pytest.raises(RuntimeError):
        fit(what, one_epoch(average=0.9), "cpu", tmp_path, silent)
    assert what.model.weight.item() == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("clip_norm", "steps"), [(1.0, (0.6, 0.8)), (2.5, (1.5, 2.0)), (5.5, (3.0, 4.0)), (None, (3.0, 4.0))]
)
def test_clipping_by_hand(tmp_path, clip_norm, steps):
    model = nn.ParameterDict({"a": torch.zeros(1), "b": torch.zeros(1)})
    what = Job(
        model=model,
        groups={"a": [model["a"]], "b": [model["b"]]},
        batches=lambda epoch, first: [(1,)],
        steps=1,
        loss=lambda model, batch, epoch, step: {"total": (3 * model["a"] + 4 * model["b"]).sum()},
        validate=None,
        better="",
        fingerprint="",
    )
    settings = one_epoch(clip_norm=clip_norm).model_copy(update={"learning_rates": {"a": 1.0, "b": 1.0}})
    fit(what, settings, "cpu", tmp_path, silent)
    # A gradient of (3, 4) over two groups has a norm of 5.
    assert (-model["a"].item(), -model["b"].item()) == pytest.approx(steps, rel=1e-5)


class Kinds(nn.Module):
    """One layer of each kind, all of whose numbers are 1."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.convolution = nn.Conv1d(2, 2, 3)
        self.clips = nn.Conv3d(2, 2, 1, bias=False)
        self.norm = nn.LayerNorm(2)
        self.batch_norm = nn.BatchNorm1d(2)
        self.embedding = nn.Embedding(3, 2)
        self.scale = nn.Parameter(torch.ones(1))
        for parameter in self.parameters():
            nn.init.ones_(parameter)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_only_weights_of_layers_decay(tmp_path, optimizer):
    changed = {}
    for decay in ("all", "weights"):
        model = Kinds()
        what = replace(
            one_weight(),
            model=model,
            groups={"all": model.parameters()},
            # Without a gradient only the decay moves a parameter.
            loss=lambda model, batch, epoch, step: {"total": sum(each.sum() for each in model.parameters()) * 0},
        )
        fit(what, one_epoch(optimizer, weight_decay=0.1, decay=decay), "cpu", tmp_path / decay, silent)
        changed[decay] = {name for name, each in model.named_parameters() if not (each == 1).all()}
        assert all((each < 1).all() for name, each in model.named_parameters() if name in changed[decay])
    assert changed["all"] == {name for name, _ in Kinds().named_parameters()}
    assert changed["weights"] == {"linear.weight", "convolution.weight", "clips.weight"}


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


@pytest.mark.parametrize(
    ("values", "best"), [((0.1, 0.9, 0.3, 0.4), 1), ((0.4, 0.3, 0.2), 0), ((0.1, 0.2, 0.1, 0.3), 3)]
)
def test_patience_ends_a_training_that_gets_no_better(tmp_path, values, best):
    settings = SETTINGS.model_copy(update={"select": "best", "patience": 2})
    weights, history = run(job(validate=scores(*values)), settings, tmp_path / "patient")
    assert (history.kept_epoch, len(history.epochs)) == (best, len(values))
    # What ended is finished: the state alone says so.
    again, told = run(job(seed=1, validate=scores()), settings, tmp_path / "patient")
    assert same(weights, again)
    assert told == history


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


def test_a_group_without_a_rate_is_one_sentence(tmp_path):
    with one_sentence("learning_rates", "rest, stem", "backbone, rest"):
        run(job(), SETTINGS.model_copy(update={"learning_rates": {"backbone": 1.0, "rest": 1.0}}), tmp_path)


@pytest.mark.parametrize("size", [1, 3, 5, 8, 99])
def test_a_micro_batch_has_the_gradients_of_the_batch(tmp_path, size):
    """8 samples, in 8, 3, 2 and 1 parts; without layers that normalize by the batch."""

    def trained(folder, micro_batch):
        what = job()
        what.model.stem[1] = nn.GroupNorm(2, 6)
        parts = []
        what.model.stem[0].register_forward_hook(lambda layer, inputs, output: parts.append(len(output)))
        groups = {"stem": what.model.stem.parameters(), "rest": what.model.rest.parameters()}
        settings = SETTINGS.model_copy(update={"micro_batch": micro_batch, "epochs": 1})
        return *run(replace(what, groups=groups), settings, tmp_path / folder), parts

    whole, told, _ = trained("whole", None)
    weights, history, parts = trained("parts", size)
    assert history.epochs[0] == pytest.approx(told.epochs[0], rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-7)
    assert max(parts) == min(size, 8)
    assert sum(parts) == (8 if size >= 8 else 16) * STEPS  # once more for the gradients


def test_frozen_batch_norm_normalizes_by_what_it_knows_and_keeps_it(tmp_path):
    what = job()
    norm = what.model.stem[1]
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(4.0)
    seen = []
    norm.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    run(what, SETTINGS.model_copy(update={"batch_norm": "frozen", "epochs": 1, "warmup_epochs": 0}), tmp_path)
    given, normalized = seen[0]
    torch.testing.assert_close(normalized, (given - 0.5) / 2, rtol=1e-4, atol=1e-5)
    assert norm.running_mean.tolist() == [0.5] * 6
    assert norm.running_var.tolist() == [4.0] * 6
    assert norm.num_batches_tracked == 0
    assert not torch.equal(norm.weight, torch.ones(6))  # which is learned all the same


def test_statistics_of_one_device_are_those_of_all(tmp_path):
    plain, _ = run(job(), SETTINGS, tmp_path / "a")
    synchronized, _ = run(job(), SETTINGS.model_copy(update={"batch_norm": "synchronized"}), tmp_path / "b")
    assert same(plain, synchronized)


def test_progress_tells_loss_and_speed_from_the_first_step(tmp_path):
    told = []
    what = replace(job(), unit="clips")
    _, history = run(what, SETTINGS, tmp_path, lambda done, total, note="": told.append((done, total, note)))
    assert [each[:2] for each in told] == [(step, 12) for step in range(1, 13)]
    notes = [re.fullmatch(r"loss (\d+\.\d{3}), (\d+\.\d) clips/s", note) for _, _, note in told]
    losses = [float(note[1]) for note in notes]
    assert [sum(losses[k : k + 3]) / 3 for k in range(0, 12, 3)] == pytest.approx(
        [entry["total_loss"] for entry in history.epochs], abs=1e-3
    )
    assert all(float(note[2]) > 0 for note in notes)


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


def test_several_processes_have_to_meet_before_one_trains_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ranks.alone(), pytest.raises(RuntimeError, match="have not met"):
        fit(job(), SETTINGS, "cpu", tmp_path, silent)
