"""Figures that are read together, as on a GPU."""

import math

import pytest
import torch

from tests.tspbench.fit_jobs import log_of
from tests.tspbench.helpers import one_sentence
from tspbench import meter as module
from tspbench.meter import Meter, StepFigures
from tspbench.storage.training_log import TrainingLog


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def figures(step, loss=1.0, norm=2.0, samples=4):
    losses = {"total": torch.tensor(loss, requires_grad=True), "part": torch.tensor(loss / 2, dtype=torch.float64)}
    return StepFigures(3, step, 0.1, losses, torch.tensor(norm), samples)


def readings(meter, clock, steps, seconds):
    """Return after which steps a reading was due."""
    due = []
    for step in range(steps):
        clock[0] += seconds
        meter.add(figures(step))
        if meter.is_due():
            meter.read({}, steps)
            due.append(step)
    return due


def test_a_gpu_is_read_at_first_and_then_every_so_often(clock):
    assert readings(Meter("clips", None, None, at_once=False), clock, 45, 0.001) == [0, 20, 40]


def test_slow_steps_are_read_as_they_come(clock):
    assert readings(Meter("clips", None, None, at_once=False), clock, 6, 0.5) == [0, 2, 4]


def test_several_processes_read_at_the_same_steps_however_long_they_take(clock, monkeypatch):
    monkeypatch.setattr("tspbench.ranks.count", lambda: 2)
    assert readings(Meter("clips", None, None, at_once=False), clock, 25, 60.0) == [0, 20]


def test_on_the_cpu_every_step_is_read(clock):
    assert readings(Meter("clips", None, None, at_once=True), clock, 5, 0.001) == [0, 1, 2, 3, 4]


def test_what_is_read_together_by_hand(clock, tmp_path):
    log = TrainingLog(tmp_path, [{}, {}, {}], 0)
    meter, sums = Meter("clips", None, log, at_once=False), {}
    meter.start()
    for step, loss in enumerate((1.0, 3.0)):
        meter.add(figures(step, loss))
    clock[0] += 4.0
    meter.read(sums, 4)
    meter.read(sums, 4)  # nothing is new
    assert sums == {"total_loss": 1.0, "part_loss": 0.5}
    assert meter.note == "loss 3.000, 2.0 clips/s"  # 8 samples in 4 s
    log.close()
    rest = {"gradient_norm": "2.0", "samples": "4"}
    assert log_of(tmp_path) == [
        {"epoch": "3", "step": "0", "learning_rate": "0.1", "total_loss": "1.0", "part_loss": "0.5", **rest},
        {"epoch": "3", "step": "1", "learning_rate": "0.1", "total_loss": "3.0", "part_loss": "1.5", **rest},
    ]


def test_the_first_of_several_bad_steps_is_named():
    meter = Meter("clips", lambda epoch, step: [f"video {epoch}.{step}"], None, at_once=False)
    for step, (loss, norm) in enumerate([(1.0, 1.0), (1.0, math.inf), (math.nan, math.nan)]):
        meter.add(figures(step, loss, norm))
    with one_sentence("norm of the gradients became inf", "epoch 3, step 1", "with video 3.1, at", "rate of 0.1"):
        meter.read({}, 3)
