"""One process and two train alike: the same losses, the same weights, the same states."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tspbench import fit_two_processes
from tests.tspbench.fit_jobs import log_of, states
from tests.tspbench.fit_two_processes import CASES, EVERYTHING, STEPS, killed, new_job, outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder):
    """What each of two processes has found."""
    killed(folder / "one killed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launch, fit_two_processes.__file__, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder):
    return {name: outcome(new_job(name), settings, folder / "one" / name) for name, settings in CASES.items()}


def assert_close(first, second, tolerance=1e-6):
    assert first["kept"] == second["kept"]
    for mine, others in zip(first["epochs"], second["epochs"], strict=True):
        assert mine == pytest.approx(others, abs=tolerance, rel=tolerance)
    for name, value in first["weights"].items():
        torch.testing.assert_close(value, second["weights"][name], rtol=0, atol=tolerance)


def test_both_processes_find_the_same(two):
    first, second = two
    assert first.keys() == second.keys()
    assert first["said"] == second["said"]
    for name in first.keys() - {"said"}:
        assert_close(first[name], second[name], tolerance=0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "each-device"])
def test_two_processes_train_as_one_does(one, two, name):
    assert_close(two[0][name], one[name])
    assert one[name]["epochs"][-1]["total_loss"] < one[name]["epochs"][0]["total_loss"]


@pytest.mark.parametrize("name", [name for name in CASES if name != "each-device"])
def test_each_step_is_logged_once_as_one_process_does(folder, one, two, name):
    mine, others = log_of(folder / "one" / name), log_of(folder / name)
    assert len(others) == STEPS * 3
    for row, other in zip(mine, others, strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in other.items()}, rel=1e-5, abs=1e-6
        )
    assert [row["samples"] for row in others[:3]] == ["7", "7", "3"]
    assert len(states(folder / name)) == 2


def test_statistics_of_each_device_are_of_its_part(one, two):
    """What differs from one process, and between these two would, were they not those of the first."""
    apart = (
        two[0]["each-device"]["weights"][key] - one["each-device"]["weights"][key] for key in ["body.1.running_mean"]
    )
    assert max(each.abs().max() for each in apart) > 1e-4


def test_two_killed_processes_go_on_as_if_they_had_not_been(two):
    assert_close(two[0]["resumed"], two[0]["everything"], tolerance=0)


def test_two_processes_go_on_where_one_was_killed_and_the_other_way_round(folder, one, two):
    assert_close(two[0]["taken over"], one["everything"])
    assert states(folder / "left") == ["state-0001-000001.pt", "state-0001-000002.pt"]
    assert_close(outcome(new_job("everything", seed=1), EVERYTHING, folder / "left"), one["everything"])


def test_one_of_two_trains_alone_while_the_other_waits(one, two):
    assert two[1]["alone"]["epochs"] == one["plain"]["epochs"]


def test_both_say_why_they_end(two):
    nan, batch_norm = two[0]["said"]
    assert "nan in epoch 1, step 1" in nan
    assert "synchronized" in batch_norm
