import io
import sys

import pytest

from tspbench import progress as module
from tspbench.progress import progress, say


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""  # stdout is for results
    return captured.err.splitlines()


def test_plain_lines_come_at_the_first_step_then_rarely_then_at_the_end(capsys, clock):
    with progress("train") as advance:
        for step in range(1, 41):
            clock.now += 1.0
            advance(step, 40, f"loss {step}")
    assert lines(capsys) == [
        "train: 1/40  1 s  loss 1",
        "train: 16/40  16 s  ETA 26 s  loss 16",  # 15 steps in 16 s, 24 to go
        "train: 31/40  31 s  ETA 9 s  loss 31",
        "train: 40/40  40 s  loss 40",
    ]


def test_work_that_was_done_before_does_not_count_for_the_eta(capsys, clock):
    with progress("extract") as advance:
        advance(90, 110)
        clock.now += 20.0
        advance(100, 110)
    assert lines(capsys) == ["extract: 90/110  0 s", "extract: 100/110  20 s  ETA 20 s"]


def test_finished_work_says_so_at_once(capsys, clock):
    with progress("extract") as advance:
        advance(3, 3)
    assert lines(capsys) == ["extract: 3/3  0 s"]


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("train [1]") as advance:
        advance(1, 4)
        advance(4, 4, "loss 0.5")
    assert "4/4" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()


def test_lines_are_printed_as_they_are(capsys):
    say("a [bold]file[/bold].mp4: 3 of 4 [x] " + "long " * 60)
    assert lines(capsys) == ["a [bold]file[/bold].mp4: 3 of 4 [x] " + "long " * 60]


def test_of_several_processes_the_first_talks_and_others_say_what_is_their_own(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    say("for all")
    say("v.mp4 is bad", own=True)
    with progress("extract") as advance:
        advance(1, 2)
    assert capsys.readouterr().err == "[rank 1] v.mp4 is bad\n"
    monkeypatch.setenv("RANK", "0")
    say("for all")
    assert capsys.readouterr().err == "for all\n"
