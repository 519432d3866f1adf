"""Losses of two processes, and of two machines, against those of one, for every method that trains with several.

Run by hand: ``python -m tests.benchmarks.two_processes``. It trains TAC, TSP, LoFi and G-TAD on a few generated videos
with the same global batches and frozen batch statistics, by one process, by two of one launcher, and by two launchers
in network namespaces of their own that a virtual link joins (where the machine does not allow those: two launchers on
loopback), and prints the largest difference of a loss over the first `STEPS` steps, and of a feature. It fails when a
loss differs by more than `LARGEST`, or counts of validation by anything.
"""

import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
STEPS = 20
LARGEST = 1e-4
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
TRAININGS = ("pretrain/tac", "pretrain/tsp", "pretrain/lofi", "proposals/tac/train")
FIT = 'optimizer = "sgd"\nbatch_norm = "frozen"\n'
RECIPE = f"""
name = "losses"
title = "Losses"
encoder = "tiny"
target = "target"
[data]
target = "synthetic"
[generate]
training_videos = 7
validation_videos = 3
[pretrain.tac]
method = "tac"
data = "target"
init = "random"
clips_per_segment = 1
[pretrain.tac.fit]
epochs = 10
batch_size = 8
learning_rates = {{ stem = 0.003, backbone = 0.003, heads = 0.003 }}
{FIT}
[pretrain.tsp]
method = "tsp"
data = "target"
init = "random"
clips_per_segment = 1
shortest_gap_clips = 1.0
[pretrain.tsp.fit]
epochs = 10
batch_size = 8
learning_rates = {{ stem = 0.003, backbone = 0.003, heads = 0.003 }}
{FIT}
[pretrain.lofi]
method = "lofi"
data = "target"
init = "random"
[pretrain.lofi.end_to_end]
config = {{ hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }}
fidelities = [{{ snippets = 16, pixels = 24 }}, {{ snippets = 8, pixels = 32 }}]
[pretrain.lofi.fit]
epochs = 10
batch_size = 3
learning_rates = {{ stem = 0.001, backbone = 0.001, heads = 0.002 }}
{FIT}
[extract]
stride_frames = 12
[tasks.proposals]
name = "gtad"
config = {{ steps = 16, max_duration = 16, hidden_1d = 32, hidden_2d = 16, hidden_3d = 32 }}
[tasks.proposals.fit]
epochs = 10
batch_size = 3
optimizer = "sgd"
learning_rates = {{ localizer = 0.002 }}
[[rows]]
name = "TAC"
features = "tac"
[[rows]]
name = "TSP"
features = "tsp"
[[rows]]
name = "LoFi"
features = "lofi"
"""


def run(commands: Sequence[Sequence[object]], **environment: str) -> None:
    """Run commands at the same time; each must end well."""
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT), **environment}
    started = [subprocess.Popen([str(part) for part in command], env=os.environ | own) for command in commands]
    assert [process.wait() for process in started] == [0] * len(started)


def two_machines(command: Sequence[object]) -> str:
    """Run a command by two launchers of one process each; return what joined them."""
    network = _Network()
    try:
        joined = network.up()
        where = network.address if joined else "127.0.0.1"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launchers = [
            [
                *(("ip", "netns", "exec", name) if joined else ()),
                *(TORCHRUN, "--nnodes", 2, "--node-rank", number, "--nproc-per-node", 1),
                *("--master-addr", where, "--master-port", port, *command),
            ]
            for number, name in enumerate(network.names)
        ]
        run(launchers, GLOO_SOCKET_IFNAME=network.link if joined else "lo")
    finally:
        network.down()
    return "two network namespaces and a virtual link" if joined else "two launchers on loopback"


class _Network:
    names = (f"tspbench-{os.getpid()}-0", f"tspbench-{os.getpid()}-1")
    address, link = "10.77.0.1", "veth"

    def up(self) -> bool:
        """Join two network namespaces; False where this machine does not allow it."""
        ends = (f"v{os.getpid()}a", f"v{os.getpid()}b")
        lines = [f"netns add {name}" for name in self.names]
        lines += [f"link add {ends[0]} type veth peer name {ends[1]}"]
        for number, (name, end) in enumerate(zip(self.names, ends, strict=True), start=1):
            lines += [f"link set {end} netns {name}", f"-n {name} link set {end} name {self.link}"]
            lines += [f"-n {name} addr add 10.77.0.{number}/24 dev {self.link}"]
            lines += [f"-n {name} link set {self.link} up", f"-n {name} link set lo up"]
        for line in lines:
            done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"no network namespaces: ip {line}: {done.stderr.strip()}", flush=True)
                return False
        return True

    def down(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def losses(folder: Path) -> dict[str, np.ndarray]:
    """Return the losses of the first steps of a training by name."""
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))[:STEPS]
    assert len(rows) == STEPS, f"{folder}: {len(rows)} steps"
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if "loss" in name}


def compared(one: Path, other: Path) -> list[tuple[str, float]]:
    """Return the largest difference of each training's losses; counts have to be the same."""
    found = []
    for training in TRAININGS:
        a, b = losses(one / training), losses(other / training)
        assert a.keys() == b.keys()
        found.append((training, max(float(np.abs(a[name] - b[name]).max()) for name in a)))
    for kind in ("tac", "tsp", "lofi"):
        with (
            h5py.File(one / f"features/{kind}/features.h5") as a,
            h5py.File(other / f"features/{kind}/features.h5") as b,
        ):
            assert list(a) == list(b)
            found.append((f"features/{kind}", max(float(np.abs(a[name][:] - b[name][:]).max()) for name in a)))
        counts = [
            json.loads((run / f"proposals/{kind}/score/record.json").read_text())["figures"]["counts"]
            for run in (one, other)
        ]
        assert counts[0]["videos"] == counts[1]["videos"], counts
    return found


def main() -> None:
    """Run the same recipe in three ways and print how far they are from each other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "losses.toml").write_text(RECIPE)
        command = ("-m", "tspbench", "run", folder / "losses.toml", "--device", "cpu", "--out")
        run([(sys.executable, *command, folder / "one")])
        run([(TORCHRUN, "--nproc-per-node", 2, *command, folder / "two")])
        how = two_machines((*command, folder / "machines"))
        print(f"\n| largest difference over {STEPS} steps | two processes | {how} |\n|---|---|---|")
        worst = 0.0
        columns = [compared(folder / "one", folder / other) for other in ("two", "machines")]
        for (what, a), (_, b) in zip(*columns, strict=True):
            print(f"| {what} | {a:.1e} | {b:.1e} |")
            worst = max(worst, *((a, b) if not what.startswith("features") else (0.0,)))
    assert worst <= LARGEST, worst


if __name__ == "__main__":
    main()
