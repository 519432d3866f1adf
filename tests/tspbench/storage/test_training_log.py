import sys
from types import ModuleType

import pytest

from tests.tspbench.helpers import full_disk, one_sentence
from tspbench.storage import training_log
from tspbench.storage.training_log import EPOCHS_FILE, LOG_FILE, TrainingLog


def row(epoch, step, loss=0.5):
    return {"epoch": epoch, "step": step, "total_loss": loss}


def lines(folder, name=LOG_FILE):
    return (folder / name).read_text().splitlines()


def steps_of(folder):
    return [line.split(",")[:2] for line in lines(folder)[1:]]


def filled(folder):
    """Write two epochs of two steps."""
    log = TrainingLog(folder, [], 0)
    for epoch in (0, 1):
        for step in (0, 1):
            log.add(row(epoch, step))
        log.add_epoch({"total_loss": 0.5, "mAP": epoch / 3})
    log.close()


def test_steps_and_epochs_come_as_rows(tmp_path):
    filled(tmp_path)
    assert lines(tmp_path) == ["epoch,step,total_loss", "0,0,0.5", "0,1,0.5", "1,0,0.5", "1,1,0.5"]
    assert lines(tmp_path, EPOCHS_FILE) == ["epoch,total_loss,mAP", "0,0.5,0.0", f"1,0.5,{1 / 3}"]


@pytest.mark.parametrize(("epoch", "step", "left"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3), (2, 0, 4)])
def test_rows_behind_a_state_are_cut_off(tmp_path, epoch, step, left):
    filled(tmp_path)
    before = lines(tmp_path)
    epochs = [{"total_loss": 0.5, "mAP": number / 3} for number in range(epoch)]
    log = TrainingLog(tmp_path, epochs, step)
    assert lines(tmp_path) == (before[: left + 1] if left else [])
    log.add(row(epoch, step, 9.0))
    log.close()
    assert lines(tmp_path) == [*before[: left + 1], f"{epoch},{step},9.0"]
    assert (tmp_path / EPOCHS_FILE).read_text().count("\n") == (epoch + 1 if epoch else 0)


@pytest.mark.parametrize("end", ["1,1", "1,1,0.", "1", "\0\0\0\0", "1,1,0.5,", "x,y,z\n", "\n", '"', "\xff\n"])
def test_a_last_line_that_is_half_written_does_no_harm(tmp_path, end):
    filled(tmp_path)
    whole = (tmp_path / LOG_FILE).read_bytes().removesuffix(b"1,1,0.5\n")
    (tmp_path / LOG_FILE).write_bytes(whole + end.encode("latin-1"))
    log = TrainingLog(tmp_path, [{}], 1)
    log.add(row(1, 1, 7.0))
    log.close()
    assert steps_of(tmp_path) == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"epoch,st"])
def test_a_log_without_a_head_begins_again(tmp_path, content):
    (tmp_path / LOG_FILE).write_bytes(content)
    log = TrainingLog(tmp_path, [{}], 1)
    log.add(row(1, 1))
    log.close()
    assert lines(tmp_path) == ["epoch,step,total_loss", "1,1,0.5"]


def test_a_kill_loses_a_few_seconds(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now[0])
    log = TrainingLog(tmp_path, [], 0)
    for step in range(5):
        now[0] += 0.9
        log.add(row(0, step))
    assert steps_of(tmp_path) == [["0", "0"], ["0", "1"], ["0", "2"]]


def test_a_full_disk_is_one_sentence_and_closing_says_no_more(tmp_path):
    log = TrainingLog(tmp_path, [], 0)
    for step in range(2000):
        log.add(row(0, step))
    with full_disk(4096):
        with one_sentence(tmp_path / LOG_FILE, "cannot be written", "make room"):
            log.write()
        log.close()
    assert TrainingLog(tmp_path, [], 0)
    assert lines(tmp_path) == []


def test_tensorboard_has_the_same_figures(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step, flush_secs):
            assert flush_secs <= 10
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = TrainingLog(tmp_path, [{}], 1, tensorboard=2)
    log.add(row(1, 1))
    log.add_epoch({"mAP": 0.25})
    log.close()
    assert told == [(str(tmp_path / "tensorboard"), 3), ("total_loss", 0.5, 3), ("epoch/mAP", 0.25, 4), "closed"]
