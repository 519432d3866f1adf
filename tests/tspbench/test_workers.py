"""The readers at the top work in processes of their own, which import this module by its name."""

import ctypes
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tspbench.errors import UserError
from tspbench.workers import LostError, Pool

ROOT = Path(__file__).parents[2]


class Reader:
    """Does what a task says, and notes each in a file."""

    def __init__(self, log):
        self._log, self._seen = log, 0

    def __call__(self, task):
        self._seen += 1
        with self._log.open("a") as log:
            log.write(f"{task} {os.getpid()}\n")
        kind, _, rest = task.partition(" ")
        if kind == "hang":  # as decord does: in C, holding the lock that every thread of Python needs
            ctypes.PyDLL(None).pause()
        if kind == "sleep":
            time.sleep(float(rest))
        if kind == "die":
            os.kill(os.getpid(), signal.Signals[rest])
        if kind == "die-once" and self._log.read_text().count(task) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exit":
            sys.exit(int(rest))
        if kind == "error":
            raise UserError(f"{rest} is bad.")
        if kind == "bug":
            raise IndexError(rest)
        if kind == "array":
            return {"a": np.arange(int(rest), dtype=np.float32).reshape(2, -1), "b": "text"}
        if kind == "seen":
            return os.getpid(), self._seen
        return task


def reader(log):
    return Reader(log)


def pool_of(tmp_path, workers, deadline=20.0, attempts=2):
    return Pool(partial(reader, tmp_path / "log"), workers, deadline, attempts)


def log_of(tmp_path):
    return [tuple(line.rsplit(" ", 1)) for line in (tmp_path / "log").read_text().splitlines()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def children():
    """Count child processes, the dead ones that nobody has asked for their exit code too."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_the_order_of_the_tasks(tmp_path, workers):
    tasks = [("a", "sleep 0.2"), ("b", "one"), ("c", "error c.mp4"), ("a", "two"), ("b", "array 6")]
    with pool_of(tmp_path, workers) as pool:
        first, second, third, fourth, fifth = pool.answers(tasks, 4)
    assert (first, second, fourth) == ("sleep 0.2", "one", "two")
    assert type(third) is UserError
    assert str(third) == "c.mp4 is bad."
    np.testing.assert_array_equal(fifth["a"], np.float32([[0, 1, 2], [3, 4, 5]]))
    fifth["a"][0] = 7  # it is the caller's own
    assert fifth["b"] == "text"


def test_tasks_of_a_name_go_to_the_same_process_and_names_are_shared_out(tmp_path):
    with pool_of(tmp_path, 2) as pool:
        names = [f"v{k % 4}" for k in range(20)]
        answers = list(pool.answers([(name, "seen") for name in names], 20))
        again = list(pool.answers([("v3", "seen")], 1))
    homes = {name: {pid for other, (pid, _) in zip(names, answers, strict=True) if other == name} for name in names}
    assert all(len(pids) == 1 for pids in homes.values())
    assert sorted(sum(pid in pids for pids in homes.values()) for pid in set.union(*homes.values())) == [2, 2]
    assert again[0] == (next(iter(homes["v3"])), 11)  # with what its reader has kept


def test_no_more_tasks_are_begun_than_asked_for(tmp_path):
    taken = []
    tasks = (taken.append(k) or (f"v{k}", str(k)) for k in range(20))
    with pool_of(tmp_path, 2) as pool:
        answers = pool.answers(tasks, 5)
        assert next(answers) == "0"
        assert taken == [0, 1, 2, 3, 4]
        assert next(answers) == "1"
        assert taken[-1] == 5
    assert len(taken) == 6


def test_what_nobody_waits_for_any_more_is_not_begun(tmp_path):
    with pool_of(tmp_path, 1) as pool:
        answers = pool.answers([("a", f"sleep 0.5{k}") for k in range(9)], 9)
        next(answers)
        answers.close()
        assert list(pool.answers([("a", "another")], 5)) == ["another"]
    assert [task for task, _ in log_of(tmp_path)] == ["sleep 0.50", "sleep 0.51", "another"]


def test_workers_go_on_while_nobody_asks(tmp_path):
    with pool_of(tmp_path, 1) as pool:
        answers = pool.answers([("a", str(k)) for k in range(6)], 4)
        next(answers)
        wait_until(lambda: len(log_of(tmp_path)) == 4)
        time.sleep(0.2)
        assert len(log_of(tmp_path)) == 4


def test_what_hangs_is_ended_and_not_asked_again(tmp_path):
    tasks = [("good", "1"), ("bad", "hang"), ("bad", "2"), ("good", "3"), ("bad", "4")]
    with pool_of(tmp_path, 1, deadline=0.5) as pool:
        start = time.monotonic()
        answers = list(pool.answers(tasks, 5))
        assert time.monotonic() - start < 30
    assert [answers[0], answers[3]] == ["1", "3"]
    assert all(isinstance(answers[k], LostError) and answers[k].how == "" for k in (1, 2, 4))
    assert str(answers[1]) == "bad gave no answer within 0.5 s: its process was ended."
    assert [task for task, _ in log_of(tmp_path)] == ["1", "hang", "3"]
    assert not any(alive(pid) for _, pid in log_of(tmp_path))


def test_the_start_of_a_process_does_not_count(tmp_path):
    with pool_of(tmp_path, 2, deadline=0.05) as pool:  # to start takes longer than that
        assert list(pool.answers([("a", "1"), ("b", "2")], 2)) == ["1", "2"]


@pytest.mark.parametrize(
    ("task", "how"), [("die SIGKILL", "SIGKILL"), ("die SIGSEGV", "SIGSEGV"), ("exit 3", "exit code 3")]
)
def test_what_a_process_dies_of_is_tried_once_more(tmp_path, task, how):
    with pool_of(tmp_path, 1) as pool:
        answers = list(pool.answers([("bad", task), ("good", "1"), ("bad", "2")], 3))
    assert answers[1] == "1"
    assert answers[0] is answers[2]
    assert answers[0].how == how
    assert f"bad took the process along that read it ({how}" in str(answers[0])
    assert ("memory" in str(answers[0])) == (how == "SIGKILL")
    assert [each for each, _ in log_of(tmp_path)] == [task, task, "1"]


def test_a_process_that_the_system_kills_costs_nothing(tmp_path):
    with pool_of(tmp_path, 2) as pool:
        answers = pool.answers([(f"v{k}", "die-once" if k == 3 else f"sleep 0.0{k % 10}") for k in range(20)], 8)
        found = [next(answers) for _ in range(8)]
        os.kill(int(log_of(tmp_path)[-1][1]), signal.SIGKILL)
        found += list(answers)
    assert found == ["die-once" if k == 3 else f"sleep 0.0{k % 10}" for k in range(20)]


def test_an_idle_process_that_was_killed_is_replaced(tmp_path):
    with pool_of(tmp_path, 1) as pool:
        ((pid, _),) = pool.answers([("a", "seen")], 1)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        ((other, seen),) = pool.answers([("a", "seen")], 1)
        assert (other != pid, seen) == (True, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_a_bug(tmp_path, workers):
    with pool_of(tmp_path, workers) as pool, pytest.raises((RuntimeError, IndexError), match="here") as caught:
        list(pool.answers([("a", "bug here")], 1))
    if workers:
        assert "Traceback" in str(caught.value)
        assert "IndexError" in str(caught.value)


class Unknown:
    def __reduce__(self):
        return os._exit, (7,)  # what a process does that tries to read it


def test_processes_that_cannot_start_are_a_bug():
    with Pool(Unknown(), 1, 1.0) as pool, pytest.raises(RuntimeError, match=r"before its first file \(exit code 7\)"):
        list(pool.answers([("a", "1")], 1))


def test_answers_as_they_come(tmp_path):
    tasks = [("a", "sleep 1"), ("b", "1"), ("c", "error c.mp4")]
    with pool_of(tmp_path, 3) as pool:
        list(pool.answers([(name, "warm") for name, _ in tasks], 3))
        found = [(name, str(answer)) for name, answer in pool.as_they_come(tasks, 3)]
    assert found[2] == ("a", "sleep 1")
    assert sorted(found[:2]) == [("b", "1"), ("c", "c.mp4 is bad.")]
    with pool_of(tmp_path, 0) as pool:
        assert [name for name, _ in pool.as_they_come(tasks, 3)] == ["a", "b", "c"]


def test_nothing_is_left(tmp_path):
    multiprocessing.active_children()
    with pool_of(tmp_path, 1) as pool:  # what the standard library starts once and for all
        list(pool.answers([("a", "1")], 1))
    gc.collect()
    before = children(), open_files(), threading.active_count()
    with pool_of(tmp_path, 2, deadline=0.3) as pool:
        answers = pool.answers([("a", "hang"), ("b", "die SIGKILL"), ("a", "1"), ("c", "1"), ("d", "sleep 20")], 5)
        assert len([next(answers) for _ in range(4)]) == 4
        answers.close()
    pool.close()
    gc.collect()
    assert (children(), open_files(), threading.active_count()) == before
    assert not any(alive(pid) for _, pid in log_of(tmp_path))


def test_processes_are_only_started_for_tasks(tmp_path):
    with pool_of(tmp_path, 9) as pool:
        before = len(children())
        list(pool.answers([("a", "1"), ("a", "2")], 2))
        assert len(children()) <= before + 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("task", ["sleep 60", "hang"])
def test_processes_end_with_their_parent(tmp_path, how, task):
    program = (
        "import sys; from pathlib import Path; from tests.tspbench.test_workers import *\n"
        "with pool_of(Path(sys.argv[1]), 2, 1.0 if sys.argv[2] == 'hang' else 99.0) as pool:\n"
        "    list(pool.answers([('a', sys.argv[2]), ('b', sys.argv[2])], 2))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), task]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: (tmp_path / "log").exists() and len(log_of(tmp_path)) == 2)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C in a terminal is for the children, too
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=20)
    assert said.count("Traceback") == (how == signal.SIGINT)  # that of the parent, none of a child
    wait_until(lambda: not any(alive(pid) for _, pid in log_of(tmp_path)))
