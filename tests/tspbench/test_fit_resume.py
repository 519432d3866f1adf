import math
import os
from dataclasses import replace

import pytest
import torch

import tspbench.storage.training_states
from tests.tspbench.fit_jobs import (
    EVERYTHING,
    SETTINGS,
    STEPS,
    batch_of,
    job,
    killed_in,
    log_of,
    newest_state,
    noisy,
    run,
    same,
    scores,
    states,
)
from tests.tspbench.helpers import full_disk, one_sentence
from tspbench.fit import STATES
from tspbench.fit_settings import NOT_IN_RESULT
from tspbench.storage.training_log import TrainingLog

SAVE = torch.save


def often(settings, **changes):
    """Return settings by which every step is followed by a state."""
    return settings.model_copy(update={"checkpoint_minutes": 0.0, **changes})


class Killer:
    """Ends a training at one of the moments that it sees."""

    def __init__(self, moment=0):
        self.moment, self.seen = moment, 0

    def __call__(self, *_, **__):
        self.seen += 1
        if self.seen == self.moment:
            raise KeyboardInterrupt


def watched(killer, monkeypatch, **options):
    """Return a training that shows each moment to the killer: before batches, losses, validations, in writing."""
    what = noisy(**options)

    def batches(epoch, first):
        for step in range(first, STEPS):
            killer()
            yield batch_of(epoch, step)

    def loss(*given):
        killer()
        return what.loss(*given)

    def validate(model):
        killer()
        return what.validate(model)

    def save(state, path):
        killer()
        path.write_bytes(b"half a state")
        killer()
        SAVE(state, path)
        killer()

    monkeypatch.setattr(tspbench.storage.training_states.torch, "save", save)
    return replace(what, batches=batches, loss=loss, validate=validate)


def everything_of(folder, weights, history):
    state = newest_state(folder)
    tensors = [weights, state["model"], state["average"], state["best"]]
    tensors += [
        {f"{key} {name}": value for name, value in each.items()} for key, each in state["optimizer"]["state"].items()
    ]
    return tensors, (history, log_of(folder), (folder / "epochs.csv").read_text(), states(folder))


def assert_equal(one, other):
    assert one[1] == other[1]
    for first, second in zip(one[0], other[0], strict=True):
        assert first.keys() == second.keys()
        assert first
        assert same(first, second)


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path, monkeypatch, minutes):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here
    settings = EVERYTHING.model_copy(update={"epochs": 2, "checkpoint_minutes": minutes})
    calm = Killer()
    whole = everything_of(tmp_path / "whole", *run(watched(calm, monkeypatch), settings, tmp_path / "whole", calm))
    assert calm.seen == (44 if minutes == 0 else 26)  # a step: 3 moments, a validation: 1, a state: 3
    for moment in range(1, calm.seen + 1):
        folder = tmp_path / str(moment)
        killer = Killer(moment)
        with monkeypatch.context() as patch:
            patch.setattr(TrainingLog, "close", lambda _: None)  # a process that is killed closes nothing
            with pytest.raises(KeyboardInterrupt):
                run(watched(killer, monkeypatch), settings, folder, killer)
        # Behind a state, initial weights no longer matter.
        seed = 1 if states(folder) else 0
        assert_equal(whole, everything_of(folder, *run(watched(Killer(), monkeypatch, seed=seed), settings, folder)))


def test_a_run_that_is_killed_again_and_again_gets_there(tmp_path, monkeypatch):
    settings = often(EVERYTHING)
    whole = everything_of(tmp_path / "whole", *run(noisy(), settings, tmp_path / "whole"))
    kills, ended = 0, None
    while ended is None:
        killer = Killer(8)
        try:
            ended = run(watched(killer, monkeypatch), settings, tmp_path / "killed", killer)
        except KeyboardInterrupt:
            kills += 1
    assert 10 < kills < 20
    assert_equal(whole, everything_of(tmp_path / "killed", *ended))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_nothing_that_is_done_is_done_again(tmp_path, optimizer, minutes):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "checkpoint_minutes": minutes})
    whole, told = run(job(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(2)), settings, tmp_path / "killed")
    asked = []

    def batches(epoch, first):
        asked.append((epoch, first))
        return (batch_of(epoch, step) for step in range(first, STEPS))

    resumed, history = run(job(seed=1, batches=batches), settings, tmp_path / "killed")
    assert asked == [(2, 1 if minutes == 0 else 0), (3, 0)]
    assert same(whole, resumed)
    assert history == told


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("select", ["last", "best"])
def test_a_killed_run_in_any_precision(tmp_path, select, precision):
    settings = often(EVERYTHING, select=select, precision=precision)
    whole, told = run(noisy(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(noisy(batches=killed_in(2)), settings, tmp_path / "killed")
    resumed, history = run(noisy(seed=1), settings, tmp_path / "killed")
    assert same(whole, resumed)
    assert history == told
    assert all(value.dtype == torch.float32 for name, value in whole.items() if "num_batches" not in name)
    state = newest_state(tmp_path / "whole")
    assert not same(state["average"], state["model"])


def test_a_killed_run_remembers_its_best_epoch(tmp_path):
    settings = SETTINGS.model_copy(update={"select": "best"})
    whole, told = run(job(validate=scores(0.1, 0.9, 0.3, 0.2)), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(validate=scores(0.1, 0.9), batches=killed_in(2)), settings, tmp_path / "killed")
    resumed, history = run(job(seed=1, validate=scores(0.3, 0.2)), settings, tmp_path / "killed")
    assert same(whole, resumed)
    assert history == told
    assert history.kept_epoch == 1


def test_patience_is_not_given_again(tmp_path):
    settings = SETTINGS.model_copy(update={"select": "best", "patience": 2})
    with pytest.raises(KeyboardInterrupt):
        run(job(validate=scores(0.9, 0.1), batches=killed_in(2)), settings, tmp_path)
    _, history = run(job(validate=scores(0.2)), settings, tmp_path)
    assert [entry["score"] for entry in history.epochs] == [0.9, 0.1, 0.2]


def test_a_finished_run_is_taken_as_it_is(tmp_path):
    whole, told = run(job(), SETTINGS, tmp_path)

    def batches(*_):
        raise AssertionError("nothing is left to train")

    again, history = run(job(seed=1, batches=batches), SETTINGS, tmp_path)
    assert same(whole, again)
    assert history == told


def test_a_state_of_another_run_is_not_taken_up_and_goes_with_the_first_one_of_this(tmp_path):
    run(job(seed=5, fingerprint="other"), SETTINGS, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(0)), SETTINGS, tmp_path)
    assert states(tmp_path) == ["state-0003-000000.pt", "state-0004-000000.pt"]  # nothing to put in their place
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(1)), SETTINGS, tmp_path)
    assert states(tmp_path) == ["state-0001-000000.pt"]
    assert [row["epoch"] for row in log_of(tmp_path)] == [*["0"] * STEPS, "1"]
    fresh, _ = run(job(), SETTINGS, tmp_path)
    expected, _ = run(job(), SETTINGS, tmp_path / "elsewhere")
    assert same(fresh, expected)


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_states_are_kept(tmp_path, keep):
    seen = []
    settings = often(SETTINGS, keep_checkpoints=keep)
    run(job(), settings, tmp_path, lambda done, total, note="": seen.append(states(tmp_path)))
    assert [len(names) for names in seen] == [min(step, keep) for step in range(1, keep)] + [keep] * (13 - keep)
    assert seen[4][-2:] == ["state-0001-000001.pt", "state-0001-000002.pt"][-keep:]
    assert states(tmp_path)[-1] == "state-0004-000000.pt"


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[500:]
    elif how == "empty":
        content.clear()
    else:  # one bit of a weight: nothing but a checksum can tell
        content[content.index(newest_weight(path))] ^= 1
    path.write_bytes(content)


def newest_weight(path):
    state = tspbench.storage.training_states.read_state(path)
    return state["model"]["rest.weight"].numpy().tobytes()


@pytest.mark.parametrize("how", ["cut", "empty", "bit"])
@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, capsys, how, damaged):
    settings = often(SETTINGS, keep_checkpoints=3)
    whole = run(job(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(job(batches=killed_in(2)), settings, tmp_path / "killed")
    names = states(tmp_path / "killed")
    assert names == ["state-0001-000003.pt", "state-0002-000000.pt", "state-0002-000001.pt"]
    for name in names[-damaged:]:
        damage(tmp_path / "killed" / STATES / name, how)
    capsys.readouterr()
    # With initial weights of its own: whatever comes out as before has come from a state.
    ended = run(job(seed=int(damaged < 3)), settings, tmp_path / "killed")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all((name in said) == (name in names[-damaged - 1 :]) for name in names)
    assert ("goes on from" in said) == (damaged < 3)
    assert ("starts again" in said) == (damaged == 3)
    assert same(whole[0], ended[0])
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    assert len(states(tmp_path / "killed")) == 3


def test_what_is_half_written_is_removed(tmp_path):
    (tmp_path / STATES).mkdir()
    (tmp_path / STATES / ".state-0000-000001.pt.0123456789ab.part").write_bytes(b"half")
    (tmp_path / STATES / "notes.txt").write_text("somebody's own")
    run(job(), SETTINGS, tmp_path)
    assert states(tmp_path) == ["notes.txt", "state-0003-000000.pt", "state-0004-000000.pt"]


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(tmp_path, minutes):
    settings = EVERYTHING.model_copy(update={"checkpoint_minutes": minutes})
    whole = run(noisy(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(noisy(batches=killed_in(2)), settings, tmp_path / "full")
    before = states(tmp_path / "full")
    with one_sentence(tmp_path / "full" / STATES / "state-000", "cannot be written", "make room"), full_disk(4096):
        run(noisy(), settings, tmp_path / "full")
    assert states(tmp_path / "full") == before
    assert_equal(
        everything_of(tmp_path / "whole", *whole),
        everything_of(tmp_path / "full", *run(noisy(seed=1), settings, tmp_path / "full")),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_a_loss_that_is_not_finite_is_one_sentence_and_keeps_the_state_before(tmp_path, value, minutes):
    def loss(model, batch, epoch, step):
        factor = value if (epoch, step) == (2, 1) else 1.0
        return {"total": model(batch[0]).square().mean() * factor}

    def names(epoch, step):
        assert (epoch, step) == (2, 1)
        return [f"v{k}" for k in range(10)]

    settings = often(SETTINGS, checkpoint_minutes=minutes)
    parts = (f"loss became {value}", "epoch 2, step 1", "v0, v1", "v7 and 2 more", "rate of 0.05", "learning_rates")
    with one_sentence(*parts):
        run(replace(job(), loss=loss, names=names), settings, tmp_path)
    assert states(tmp_path)[-1] == ("state-0002-000001.pt" if minutes == 0 else "state-0002-000000.pt")
    assert all(torch.isfinite(tensor).all() for tensor in newest_state(tmp_path)["model"].values())
    assert log_of(tmp_path)[-1]["total_loss"] == str(value)
    _, history = run(job(), settings, tmp_path)
    assert len(history.epochs) == 4
    assert len(log_of(tmp_path)) == 4 * STEPS


def test_a_gradient_that_is_not_finite_is_one_sentence(tmp_path):
    def loss(model, batch, epoch, step):
        error = (model(batch[0]) - batch[1]).square().mean()
        return {"total": (error * 0).sqrt() if (epoch, step) == (0, 2) else error}  # 0, and its slope 0 / 0

    with one_sentence("norm of the gradients became nan", "epoch 0, step 2"):
        run(replace(job(), loss=loss), often(SETTINGS), tmp_path)
    assert states(tmp_path)[-1] == "state-0000-000002.pt"


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_weights_that_are_not_finite_are_one_sentence_and_no_state(tmp_path, minutes):
    settings = SETTINGS.model_copy(
        update={
            "epochs": 1,
            "learning_rates": {"stem": 0.0, "rest": 1e38},
            "warmup_epochs": 0,
            "checkpoint_minutes": minutes,
        }
    )
    what = replace(job(batches=lambda epoch, first: [batch_of(0, 0)][first:]), steps=1)
    with one_sentence("weights are not finite", "learning_rates"):
        run(replace(what, loss=lambda model, batch, *_: {"total": 100 * model(batch[0]).sum()}), settings, tmp_path)
    assert states(tmp_path) == []


def test_settings_that_do_not_decide_the_result_do_not(tmp_path):
    plain = run(noisy(), EVERYTHING, tmp_path / "plain")
    changes = {"workers": 2, "checkpoint_minutes": 0.0, "keep_checkpoints": 1, "tensorboard": False}
    assert set(changes) == NOT_IN_RESULT
    changed = run(noisy(), EVERYTHING.model_copy(update=changes), tmp_path / "changed")
    assert same(plain[0], changed[0])
    assert plain[1] == changed[1]


def test_tensorboard_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("tspbench.fit.find_spec", lambda name: None)
    with one_sentence("fit.tensorboard", "tspbench[tensorboard]"):
        run(job(), SETTINGS.model_copy(update={"tensorboard": True}), tmp_path)
