import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench import ranks


@pytest.fixture
def second_of_three(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")


def test_one_process_is_alone_and_first(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.number(), ranks.count(), ranks.here(), ranks.is_first(), ranks.several()) == (0, 1, 1, True, False)
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    assert ranks.everybodys("a") == ["a"]
    assert ranks.by_first(lambda: 7) == 7


@pytest.mark.usefixtures("second_of_three")
def test_a_share_is_as_large_as_the_others_with_the_first_item_as_a_filler():
    assert ranks.share(list(range(6))) == [2, 3]
    assert ranks.share(list(range(4))) == [2, 3]
    assert ranks.share(list(range(2))) == [1]
    assert ranks.share(["only"]) == ["only"]


@pytest.mark.usefixtures("second_of_three")
def test_alone_it_is_as_if_there_were_no_others():
    with ranks.alone():
        assert (ranks.number(), ranks.count(), ranks.is_alone()) == (0, 1, True)
        assert ranks.share([1, 2]) == [1, 2]
        assert ranks.several()
        assert not ranks.is_first()
    assert (ranks.number(), ranks.count()) == (1, 3)


@pytest.mark.parametrize(
    "names",
    [
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"},
    ],
)
def test_names_of_mpi_are_taken_on(names):
    names = {**names, "ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "10.0.0.1"}
    ranks.from_launcher(names)
    assert (names["RANK"], names["WORLD_SIZE"], names["LOCAL_RANK"]) == ("1", "2", "1")
    assert (names["MASTER_ADDR"], names["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_mpi_of_one_process_changes_nothing():
    names = {"PMI_RANK": "0", "PMI_SIZE": "1"}
    ranks.from_launcher(names)
    assert "RANK" not in names


def test_accelerate_that_starts_one_process_of_several_is_refused():
    with one_sentence("torchrun", "--multi_gpu", "--mpirun_hostfile"):
        ranks.from_launcher({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    ranks.from_launcher({"ACCELERATE_USE_CPU": "True"})  # --num_processes 1


def test_files_that_appear_late_are_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "late"
    monkeypatch.setattr(ranks.time, "sleep", lambda _: path.write_text("four"))
    ranks.wait_for_files({path: 4})
    monkeypatch.setattr(ranks.time, "sleep", lambda _: None)
    monkeypatch.setattr(ranks, "VISIBLE_SECONDS", 0.05)
    with one_sentence(path, "--out"):
        ranks.wait_for_files({path: 5})
    ranks.wait_for_files({path: None})


EXCHANGES = """
import torch
from tspbench import ranks

me = ranks.number()
large = bytes([me]) * (ranks.MAX_BYTES + 1)  # in two pieces
assert ranks.everybodys(large) == [bytes([k]) * (ranks.MAX_BYTES + 1) for k in range(2)]
assert ranks.of_first(me + 5) == 5
assert ranks.by_first(lambda: (ranks.count(), ranks.is_alone())) == (1, True)
try:
    ranks.by_first(lambda: 1 // 0)
except ZeroDivisionError:
    assert me == 0
except ranks.FirstFailedError:
    assert me == 1
begun, waiting = ranks.exchanges()
assert (begun, waiting) == (4, False)

ranks.join("cpu")
ranks.join("cpu")
own = torch.tensor([[1.0 + me], [3.0 + me]], requires_grad=True)
whole = ranks.gathered({"x": own}, 3)["x"]
assert whole.flatten().tolist() == [1.0, 3.0, 2.0]
(whole.flatten() * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
assert own.grad.flatten().tolist() == ([1.0, 10.0] if me == 0 else [100.0, 0.0])
assert ranks.exchanges()[0] > begun
assert ranks.everybodys(len(ranks._notes)) == [1, 1]
print("done")
"""


def test_two_processes_exchange_notes_and_tensors(tmp_path):
    (tmp_path / "script.py").write_text(EXCHANGES)
    torchrun = Path(sys.executable).with_name("torchrun")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(ranks.__file__).parents[1])}
    command = [torchrun, "--nproc-per-node", "2", tmp_path / "script.py"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done") == 2
