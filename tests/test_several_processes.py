"""Commands started by a launcher: two processes do what one does, and none is left waiting for another."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.tspbench.helpers import numbered_video, silent
from tspbench.encoders import new_encoder
from tspbench.stages.extract import Extraction, TrainedEncoder, extract
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.hashes import hash_file

ROOT = Path(__file__).parents[1]
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2")
TSPBENCH = ("-m", "tspbench")
RECIPE = """
name = "tiny"
title = "Tiny"
encoder = "tiny"
target = "target"
[data]
target = "synthetic"
[generate]
training_videos = 5
validation_videos = 3
[pretrain.tac]
method = "tac"
data = "target"
init = "random"
clips_per_segment = 1
[pretrain.tac.fit]
epochs = 2
batch_size = 8
optimizer = "sgd"
batch_norm = "frozen"
learning_rates = { stem = 0.003, backbone = 0.003, heads = 0.003 }
select = "best"
[extract]
stride_frames = 12
[tasks.proposals]
name = "gtad"
config = { steps = 16, max_duration = 16, hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }
[tasks.proposals.fit]
epochs = 2
batch_size = 3
optimizer = "sgd"
learning_rates = { localizer = 0.002 }
[[rows]]
name = "TAC"
features = "tac"
[[rows]]
name = "Random"
features = "random"
"""
# `tspbench` with a reader that goes wrong in one of the processes, once the other has begun.
FAULTY = """
import os, signal, sys, time
from tspbench import watch
from tspbench.cli import main
from tspbench.errors import UserError
from tspbench.stages import extract as stage

right = stage._extract_group

def wrong(name, module, group, *rest):
    if os.environ["RANK"] == which:
        watch.working_on(f"reading {next(iter(group.values()))}")
        if fault == "stall":
            time.sleep(1000)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the reader is broken: mend it.")
    return right(name, module, group, *rest)

which, fault = sys.argv.pop(1), sys.argv.pop(1)
stage._extract_group = wrong
main()
"""


def launched(*command, rc=0, **environment):
    """Run a command and return what it said on stdout and stderr."""
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run(
        [str(part) for part in command], env=os.environ | own, capture_output=True, text=True, timeout=240, check=False
    )
    assert (ended.returncode == 0) == (rc == 0), ended.stderr
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folders of the same run by one process and by two, and what two said."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(RECIPE)
    command = (*TSPBENCH, "run", folder / "tiny.toml", "--out")
    launched(sys.executable, *command, folder / "one")
    said = launched(*TORCHRUN, *command, folder / "two")
    return folder / "one", folder / "two", said


def record(run, stage):
    return json.loads((run / stage / "record.json").read_text())


def test_a_run_of_two_processes_has_the_stages_and_the_table_of_one(runs):
    one, two, (stdout, stderr) = runs
    stages = sorted(str(path.parent.relative_to(one)) for path in one.rglob("record.json"))
    assert stages == sorted(str(path.parent.relative_to(two)) for path in two.rglob("record.json"))
    assert (two / "recipe.toml").read_text() == (one / "recipe.toml").read_text()
    for stage in ("data/target", "pretrain/tac"):
        assert record(one, stage)["fingerprint"] == record(two, stage)["fingerprint"]
    numbers = [re.findall(r"\d+\.\d+", (run / "table.md").read_text()) for run in (one, two)]
    assert np.allclose(*(np.array(found, dtype=float) for found in numbers), atol=0.5)
    assert stdout.count("Tiny") == 1
    assert stderr.count("Table: ") == 1


def test_losses_and_validation_are_those_of_one_process(runs):
    one, two, _ = runs
    for stage in ("pretrain/tac", "proposals/tac/train", "proposals/random/train"):
        epochs = [record(run, stage)["figures"]["epochs"] for run in (one, two)]
        assert len(epochs[0]) == len(epochs[1]) == 2
        for a, b in zip(*epochs, strict=True):
            shared = [name for name in a if "loss" in name or "accuracy" in name]
            assert shared
            assert np.allclose([a[name] for name in shared], [b[name] for name in shared], atol=1e-4)
    counts = [record(run, "proposals/tac/score")["figures"]["counts"] for run in (one, two)]
    assert counts[0]["videos"] == counts[1]["videos"] == 3


def test_features_are_those_of_one_process(runs):
    one, two, _ = runs
    with h5py.File(one / "features/tac/features.h5") as a, h5py.File(two / "features/tac/features.h5") as b:
        assert list(a) == list(b)
        assert all(np.allclose(a[name], b[name], atol=1e-5) for name in a)  # of encoders that two have trained


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a folder of videos that make three parts, an encoder's file, and the features of one process."""
    folder = tmp_path_factory.mktemp("extract")
    files = {f"v{k:02}": numbered_video(folder / "videos" / f"v{k:02}.mp4", 24 + k % 7) for k in range(36)}
    (folder / "faulty.py").write_text(FAULTY)
    encoder = new_encoder("tiny", 0)
    write_weights(folder / "e.safetensors", Weights("tiny", dict(encoder.state_dict()), {}, {}))
    trained = TrainedEncoder(encoder, "tiny", hash_file(folder / "e.safetensors"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the launched ones: with another number the last bit may be another
    extract(trained, files, folder / "one.h5", Extraction(encoder.preprocessing.clip_frames), silent)
    torch.set_num_threads(threads)
    return folder


def arguments(folder):
    return "extract", "--checkpoint", folder / "e.safetensors", "--videos", folder / "videos", "--out", folder / "f.h5"


def faulty(folder, process, fault, **environment):
    """Run extraction by two processes of which one goes wrong; return its lines, and how many seconds it took."""
    start = time.monotonic()
    command = (*TORCHRUN, folder / "faulty.py", process, fault, *arguments(folder))
    _, stderr = launched(*command, rc=1, **environment)
    return [line for line in stderr.splitlines() if line.startswith("Process ")], time.monotonic() - start


def test_an_error_of_one_process_is_told_once_and_ends_all(videos):
    lines, seconds = faulty(videos, 0, "error")
    assert len(lines) == 1
    assert lines[0].startswith("Process 1 of 2 (rank 0)")
    assert f"reading {videos / 'videos'}" in lines[0]
    assert lines[0].endswith("Error: the reader is broken: mend it.")
    assert seconds < 60


def test_a_killed_process_ends_all_and_others_finish_what_it_left(videos):
    lines, seconds = faulty(videos, 1, "kill")
    assert len(lines) == 1
    assert lines[0].startswith("Process 2 of 2 (rank 1)")
    assert f"is gone: stage extract into {videos / 'f.h5'}, reading {videos / 'videos'}" in lines[0]
    assert seconds < 60
    launched(*TORCHRUN, *TSPBENCH, *arguments(videos))
    assert (videos / "f.h5").read_bytes() == (videos / "one.h5").read_bytes()
    assert not (videos / "f.h5.parts").exists()


def test_a_process_that_does_not_move_ends_all(videos):
    (videos / "f.h5").unlink(missing_ok=True)
    lines, seconds = faulty(videos, 1, "stall", TSPBENCH_STALL_SECONDS="6")
    assert len(lines) == 1
    assert lines[0].startswith("Process 2 of 2 (rank 1)")
    assert f"does not move: stage extract into {videos / 'f.h5'}, reading {videos / 'videos'}" in lines[0]
    assert seconds < 60


def test_accelerate_starts_several_or_says_how(videos, tmp_path):
    launcher = (str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2")
    missing = (
        "extract",
        "--checkpoint",
        tmp_path / "none.pth",
        "--videos",
        videos / "videos",
        "--out",
        tmp_path / "f.h5",
    )
    _, stderr = launched(*launcher, "--multi_gpu", *TSPBENCH, *missing, "--device", "cpu", rc=1)
    assert len(re.findall(r"^Process .*: Error: .*none\.pth", stderr, re.MULTILINE)) == 1
    _, stderr = launched(*launcher, "--cpu", *TSPBENCH, "list", "encoders", rc=1)
    assert "torchrun --nproc-per-node 2" in stderr
