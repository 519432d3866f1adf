import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tspbench.helpers import one_sentence, silent
from tspbench.config import Settings, validated
from tspbench.fit import STATE, Job, fit
from tspbench.fit_settings import FitSettings, learning_rate_factor
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


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-5),
        (25, 1e-5 / 2 + 1 / 2),
        (49, 1e-5 / 50 + 49 / 50),
        (50, 1.0),
        (75, (1 + math.sqrt(1 / 2)) / 2),
        (100, 1 / 2),
        (125, (1 - math.sqrt(1 / 2)) / 2),
        (149, math.sin(math.pi / 200) ** 2),
    ],
)
def test_the_schedule_of_actionformer_by_hand(step, factor):
    settings = published(schedule="cosine", epochs=15, warmup_epochs=5, milestones=())
    assert learning_rate_factor(step, 10, settings) == pytest.approx(factor, rel=1e-12)


def test_a_cosine_without_warm_up_begins_at_once():
    settings = published(schedule="cosine", epochs=2, warmup_epochs=0, milestones=())
    factors = [learning_rate_factor(step, 3, settings) for step in range(6)]
    # Half of 1 + the cosine of 0°, 30°, 60°, 90°, 120° and 150°.
    half = math.sqrt(3) / 2
    assert factors == pytest.approx([1, (1 + half) / 2, 3 / 4, 1 / 2, 1 / 4, (1 - half) / 2], rel=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "cosine", "milestones": [3]}, ("fit.milestones", '"cosine" has no milestones', "[3]")),
        ({"schedule": "cosine", "warmup_epochs": 4}, ("fit.warmup_epochs", "shorter than the training", "found 4")),
        ({"patience": 2}, ("fit.patience", 'choose "best"', "found 2")),
        ({"average": 1.0}, ("fit.average", "less than 1")),
        ({"average": 0.0}, ("fit.average", "greater than 0")),
        ({"clip_norm": 0.0}, ("fit.clip_norm", "greater than 0")),
        ({"optimizer": "adamax"}, ("fit.optimizer", "adamw")),
        ({"decay": "none"}, ("fit.decay", "weights")),
    ],
)
def test_settings_without_sense_are_one_sentence(values, words):
    class Whole(Settings):
        fit: FitSettings

    whole = {"epochs": 4, "batch_size": 1, "optimizer": "sgd", "learning_rates": {}}
    validated(Whole, {"fit": whole}, "recipe")
    with one_sentence(*words):
        validated(Whole, {"fit": {**whole, **values}}, "recipe")


def test_milestones_and_a_long_warm_up_go_with_steps():
    assert FitSettings(epochs=4, batch_size=1, optimizer="sgd", learning_rates={}, warmup_epochs=4, milestones=(3,))


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
    assert read_state(tmp_path / STATE)["model"]["weight"].item() == pytest.approx(0.55)


def test_the_average_is_of_weights_and_leaves_the_training_as_it_is(tmp_path):
    plain, told = run(job(), SETTINGS, tmp_path / "plain")
    averaged, told_too = run(job(), SETTINGS.model_copy(update={"average": 0.5}), tmp_path / "averaged")
    assert told == told_too
    assert same(plain, read_state(tmp_path / "averaged" / STATE)["model"])
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


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("epoch", range(4))
def test_a_run_killed_in_any_epoch_ends_as_if_it_had_not_been(tmp_path, optimizer, epoch):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole, told = run(job(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(epoch)), settings, tmp_path / "killed")
    seen = []

    def batches(number, first):
        seen.append(number)
        return (batch_of(number, step) for step in range(first, STEPS))

    # Before the first epoch's end nothing is kept; after it, initial weights no longer matter.
    resumed, history = run(job(seed=min(epoch, 1), batches=batches), settings, tmp_path / "killed")
    assert seen == list(range(epoch, 4))
    assert same(whole, resumed)
    assert history == told


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("epoch", range(4))
def test_a_killed_run_ends_as_if_it_had_not_been_with_everything_switched_on(tmp_path, epoch, select, precision):
    settings = FitSettings(
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
        select=select,
        precision=precision,
    )

    def noisy(**options):
        what = job(validate=lambda model: {"score": -(model(batch_of(99, 0)[0]) - 1).square().mean().item()}, **options)
        what.model.stem.append(nn.Dropout(0.5))

        def loss(model, batch, epoch, step):
            torch.manual_seed(1000 * epoch + step)
            return {"total": (model(batch[0]) - batch[1]).square().mean()}

        return replace(what, loss=loss)

    whole, told = run(noisy(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(noisy(batches=killed_in(epoch)), settings, tmp_path / "killed")
    resumed, history = run(noisy(seed=min(epoch, 1)), settings, tmp_path / "killed")
    assert same(whole, resumed)
    assert history == told
    assert all(value.dtype == torch.float32 for name, value in whole.items() if "num_batches" not in name)
    first, second = (read_state(tmp_path / name / STATE) for name in ("whole", "killed"))
    assert same(first["model"], second["model"])
    assert same(first["average"], second["average"])
    assert not same(first["average"], first["model"])


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

    def batches(*_):
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
