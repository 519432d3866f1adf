import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tspbench import beats, ranks, watch
from tspbench.beats import GONE_SECONDS, LONG_SECONDS, STALL_SECONDS, Beat, find_trouble, is_there

ROOM = "here"


@pytest.fixture(autouse=True)
def three_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(watch, "_what", "")  # what other tests have worked on


def beat(process, state="works", *, idle=0.0, exchanges=5, busy=False, room="elsewhere", pid=1):
    return Beat(process, f"m{process}", room, pid, 9, f"stage s, file {process}", state, idle, busy, exchanges)


def trouble(*found, silent=None):
    return find_trouble(dict(enumerate(found)), {k: 0.0 for k in range(len(found))} | (silent or {}), ROOM)


def test_all_is_well():
    assert trouble(beat(0), beat(1, idle=STALL_SECONDS - 1), beat(2, "waits", exchanges=6)) is None


def test_who_does_not_move_is_named_with_stage_and_file():
    found = trouble(beat(0, "waits", idle=STALL_SECONDS + 9, exchanges=6), beat(1, idle=STALL_SECONDS + 1), beat(2))
    assert found.process == 1
    assert found.text.startswith("Process 2 of 3 (rank 1) on m1 does not move: stage s, file 1, for 51 s")


def test_time_since_the_last_beat_counts_too():
    assert trouble(beat(0), beat(1, idle=STALL_SECONDS - 5), silent={1: 6.0}).process == 1


def test_who_has_begun_more_exchanges_waits_for_the_others():
    """Process 0 is inside a gradient exchange that process 1, which reads, has not begun."""
    assert trouble(beat(0, idle=STALL_SECONDS + 5, exchanges=6), beat(1, idle=STALL_SECONDS - 5, exchanges=5)) is None
    assert trouble(beat(0, idle=80.0, exchanges=6), beat(1, idle=70.0, exchanges=5)).process == 1


def test_where_nobody_is_ahead_whoever_is_over_time_is_named():
    assert trouble(beat(0, idle=80.0), beat(1, idle=1.0)).process == 0


def test_a_computation_that_keeps_a_core_busy_may_take_longer():
    assert trouble(beat(0, idle=STALL_SECONDS + 60, busy=True)) is None
    assert trouble(beat(0, idle=LONG_SECONDS + 1, busy=True)).process == 0


def test_alone_a_process_may_take_as_long_as_it_likes():
    waits = beat(1, "waits", idle=3600.0, exchanges=6)
    assert trouble(beat(0, "alone", idle=3600.0), waits) is None
    assert trouble(beat(0, "alone"), waits, silent={0: LONG_SECONDS - 1}) is None
    assert trouble(beat(0, "alone"), waits, silent={0: LONG_SECONDS + 1}).process == 0


@pytest.mark.parametrize("state", ["works", "waits"])
def test_who_sends_no_more_beats_is_gone(state):
    assert trouble(beat(0), beat(1, state), silent={1: GONE_SECONDS - 1}) is None
    found = trouble(beat(0), beat(1, state), silent={1: GONE_SECONDS + 1})
    assert found.process == 1
    assert "is gone or hangs" in found.text


def test_a_process_of_this_machine_is_seen_to_be_gone_at_once(monkeypatch):
    monkeypatch.setattr(beats, "is_there", lambda pid: pid == 1)
    assert trouble(beat(0, room=ROOM), beat(1, room=ROOM, pid=2)).text.startswith(
        "Process 2 of 3 (rank 1) on m1 is gone"
    )
    assert trouble(beat(0, room=ROOM), beat(1, pid=2)) is None  # numbers of another machine mean nothing here
    assert trouble(beat(0, room=ROOM), beat(1, "ended", room=ROOM, pid=2)) is None


def test_nobody_waits_for_who_has_ended():
    assert trouble(beat(0, "waits", idle=1.0, exchanges=6), beat(1, "ended")) is None
    assert "has ended while others wait" in trouble(beat(0, "waits", idle=30.0, exchanges=6), beat(1, "ended")).text


def test_a_dead_process_is_not_there_even_before_it_is_cleared_away():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    assert is_there(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while is_there(child.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_there(child.pid)
    child.wait()
    assert not is_there(child.pid)
    assert is_there(os.getpid())


def test_what_a_process_does():
    assert watch.doing() == "no stage"
    with watch.stage("extract in out", shared=True):
        watch.working_on("reading a.mp4")
        with watch.stage("train in out", shared=False):
            assert watch.doing() == "stage train in out"
        assert watch.doing() == "stage extract in out, reading a.mp4"
    assert watch.doing() == "no stage"


class Store:
    """A store of one process."""

    def __init__(self):
        self.notes = {}

    def clone(self):
        return self

    def set_timeout(self, _):
        pass

    def set(self, key, content):
        self.notes[key] = content

    def check(self, keys):
        return all(key in self.notes for key in keys)

    def multi_get(self, keys):
        return [self.notes[key] for key in keys]


@pytest.fixture
def watching(monkeypatch):
    store = Store()
    monkeypatch.setattr(ranks, "store", lambda: store)
    monkeypatch.setenv("RANK", "0")
    return watch.Watch()


def states(watching):
    found = []
    with watch.stage("s", shared=True):
        found.append(watching._beat().state)
        watch.working_on("step 1")
        found.append(watching._beat().state)
        with ranks.alone():
            found.append(watching._beat().state)
    with watch.stage("s", shared=False):
        watch.working_on("step 1")
        found.append(watching._beat().state)
    return found


def test_only_who_works_on_a_shared_stage_must_move(watching):
    assert states(watching) == ["alone", "works", "alone", "alone"]


def test_an_exchange_is_a_sign_of_life(watching, monkeypatch):
    watch.working_on("step 1")
    monkeypatch.setattr(watch, "_moved", time.monotonic() - 100)
    watching._moved = time.monotonic() - 100
    assert watching._beat().idle_seconds > 99
    monkeypatch.setattr(ranks, "exchanges", lambda: (7, False))
    assert watching._beat().idle_seconds < 1


def test_a_computation_is_busy_while_it_keeps_a_core_busy(watching, monkeypatch):
    watch.working_on("step 1", computing=True)
    monkeypatch.setattr(watch, "_moved", time.monotonic() - 100)
    assert not watching._beat().busy
    monkeypatch.setattr(watch, "_cores_at_move", time.process_time() - 50)
    assert watching._beat().busy
    monkeypatch.setattr(watch, "_computing", False)
    assert not watching._beat().busy


def test_what_is_kept_of_a_beat_is_what_was_sent(watching):
    watching.beat()
    watching._read([watching._key(0)])
    assert replace(watching._beats[0], beats=0) == replace(
        watching._beat(), beats=0, idle_seconds=pytest.approx(0, abs=9)
    )
