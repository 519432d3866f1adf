"""Training steps of BMN and G-TAD against their plain formulation, each in a process of its own.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.localizers``. It prints a Markdown table
and fails when the two ways give different losses, or when the project's own is not so much lighter as it should be. One
step is forward, loss, backward and Adam, at T = 100 with 512 channels: two videos on the CPU, and where there is a GPU
also 16 in bfloat16. The plain way is that of the references, `tests.baselines.plain`: every bin of every cell of the
whole map in memory. For G-TAD, whose reference samples by a CUDA kernel, that is done by a sparse matrix.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.bmn import BINS, BMN, BMNConfig, sampling_windows
from baselines.gtad import GTAD, GTADConfig
from baselines.gtad import sampling_windows as gtad_windows
from baselines.proposal_maps import segment_map
from baselines.sampling import align_bins, matching_points
from tests.baselines.plain import plain_bmn, plain_gtad

STEPS, CHANNELS = 100, 512
VIDEOS = {"cpu": 2, "cuda": 16}
MEASURED = {"plain": 3, "own": 10}  # steps after the first, of which the quickest counts
LEAST_RATIO = 5.0  # in time
LARGEST_SHARE = 1 / 3  # in memory
LARGEST_DIFFERENCE = {"cpu": 1e-5, "cuda": 2e-2}  # of the first loss, relative; bfloat16 has 8 bits
MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One run: seconds and CPU seconds a step, MiB at its peak and before there was a model, the first loss."""

    seconds: float
    cpu: float
    peak: float
    before: float
    loss: float


def bmn_mask(model: BMN) -> torch.Tensor:
    """The reference's sampling mask, ``(T, bins, H, W)``."""
    segments, valid = segment_map(STEPS, STEPS, columns=model.variant.columns)
    windows = sampling_windows(segments.flatten(0, 1), model.variant)
    windows[~valid.flatten()] = torch.nan
    matrix = matching_points(windows, steps=STEPS, bins=BINS, points=model.variant.points)
    return matrix.to_dense().view(*valid.shape, STEPS, BINS).permute(2, 3, 0, 1).contiguous()


def gtad_matrices(model: GTAD) -> list[torch.Tensor]:
    """The sampling of every cell of the map, ``(D * T * bins, T)`` each."""
    segments, valid = segment_map(STEPS, STEPS, columns="starts")
    windows = gtad_windows(segments.flatten(0, 1)) * valid.flatten()[:, None]
    matrices = []
    for bins in (model.config.inner_bins, model.config.context_bins):
        entries = align_bins(windows, steps=STEPS, bins=bins)
        row, column = entries.indices()
        places = torch.stack([row * bins + column % bins, column // bins])
        size = (len(windows) * bins, STEPS)
        matrices.append(torch.sparse_coo_tensor(places, entries.values(), size, check_invariants=True).coalesce())
    return matrices


def report(name: str, way: str, device: str) -> None:
    """Print what `measure` reads."""
    before = _resident("VmRSS")
    torch.manual_seed(0)
    model = {"bmn": BMN(BMNConfig(feature_dim=CHANNELS)), "gtad": GTAD(GTADConfig(feature_dim=CHANNELS))}[name]
    matrices = []
    if way == "plain":
        matrices = [bmn_mask(model)] if name == "bmn" else gtad_matrices(model)
    model, matrices = model.to(device), [matrix.to(device) for matrix in matrices]
    features = torch.randn(VIDEOS[device], CHANNELS, STEPS, device=device)
    mask = torch.ones(VIDEOS[device], STEPS, dtype=torch.bool, device=device)
    segments = [torch.tensor([[10.0, 30.0 + video], [50.0, 52.5]]) for video in range(VIDEOS[device])]
    targets = model.targets(segments, []).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)  # else its temporaries add to the peak
    losses, seconds, cpu = [], [], []
    for _ in range(1 + MEASURED[way]):
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            if way == "own":
                output = model(features, mask)
            else:
                output = {"bmn": plain_bmn, "gtad": plain_gtad}[name](model, features, *matrices)
            total = model.loss(output, targets, torch.Generator().manual_seed(0))["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    peak = torch.cuda.max_memory_allocated() / MIB if device == "cuda" else _resident("VmHWM")
    before = 0.0 if device == "cuda" else before
    least = {"seconds": min(seconds[1:]), "cpu": min(cpu[1:])}
    print(json.dumps({**least, "peak": peak, "before": before, "loss": losses[0]}))


def _resident(field: str) -> float:
    """MiB of this process alone; the largest size of getrusage would count what started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def measure(name: str, way: str, device: str) -> Measured:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.localizers", name, way, device]
    # As `tspbench.cli.main` does: threads that wait by spinning slow each other down on a busy machine.
    run = subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, stdout=subprocess.PIPE, check=True)
    return Measured(**json.loads(run.stdout.splitlines()[-1]))


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    print("| localizer | on | way | s a step | ratio | CPU s | ratio | memory | share | without imports | share |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    good = True
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for name in ("bmn", "gtad"):
            plain, own = measure(name, "plain", device), measure(name, "own", device)
            ratio, share = plain.seconds / own.seconds, own.peak / plain.peak
            for way, run in (("plain", plain), ("own", own)):
                ratios = [plain.seconds / run.seconds, plain.cpu / run.cpu]
                added, of = run.peak - run.before, plain.peak - plain.before
                cells = [name, f"{device} x {VIDEOS[device]}", way, f"{run.seconds:.2f}", f"{ratios[0]:.1f}"]
                cells += [f"{run.cpu:.2f}", f"{ratios[1]:.1f}", f"{run.peak:,.0f} MiB", f"{run.peak / plain.peak:.3f}"]
                cells += [f"{added:,.0f} MiB", f"{added / of:.3f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
            difference = abs(plain.loss / own.loss - 1)
            good &= ratio >= LEAST_RATIO and share <= LARGEST_SHARE and difference <= LARGEST_DIFFERENCE[device]
    print(f"\n{'As' if good else 'Not as'} it should be: {LEAST_RATIO:.0f} times, a third, the same loss.")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(*sys.argv[1:])
        sys.exit(0)
    sys.exit(main())
