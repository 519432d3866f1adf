"""A training step of LoFi in chunks against the plain one, at the three fidelities, each in a process of its own.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.lofi``. It prints a Markdown table and
fails when chunks take more than `LARGEST_SHARE` of the plain step's memory or `LARGEST_RATIO` times its time, or when
the bytes that ``--memory-budget`` counts are not between the measured peak and `LARGEST_ESTIMATE` times it. A step is
that of `tspbench.fit`: the batch on its way, forward, loss, backward and SGD, with TSM-ResNet-18 and G-TAD on whole
videos: one on the CPU, where there is a GPU also four, in bfloat16. The plain step keeps what it needs of all snippets;
nothing else is different.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from tspbench.device import choose_device
from tspbench.encoders import new_encoder
from tspbench.encoders.contract import channels_last
from tspbench.pretraining.fidelity import S_LOFI, ST_LOFI, T_LOFI, EndToEndSettings, Fidelity
from tspbench.pretraining.lofi import Lofi
from tspbench.pretraining.memory import StepMemory

ENCODER = "tsm_18"
VIDEOS = {"cpu": 1, "cuda": 4}
FIDELITIES = {
    "S-LoFi": (S_LOFI, 16),
    "ST-LoFi": (ST_LOFI, 8),
    "T-LoFi": (T_LOFI, 4),
}  # and snippets of a chunk, a video
MEASURED = 2  # steps after the first, of which the quickest counts
LARGEST_SHARE, LARGEST_RATIO, LARGEST_ESTIMATE = 0.4, 1.6, 1.5
GIB = 2**30


def report(name: str, way: str, device: str) -> None:
    """Do the steps; print seconds of the quickest, bytes at the peak and as they are counted, and the first loss.

    Bytes are those beyond what a process has that has done a very small step before.
    """
    videos = VIDEOS[device]
    fidelity, chunk = FIDELITIES[name][0], FIDELITIES[name][1] * videos
    if way == "plain":
        chunk = fidelity.snippets * videos
    settings = EndToEndSettings(fidelities=(fidelity,), chunk_snippets=chunk)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    steps(EndToEndSettings(fidelities=(Fidelity(snippets=8, pixels=32),)), 1, device, dtype, 1)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    done = steps(settings, videos, device, dtype, 1 + MEASURED)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM") - before
    memory = StepMemory(new_encoder(ENCODER, 0), settings, videos, state_copies=0, frozen_statistics=True, dtype=dtype)
    figures = {"seconds": min(done["seconds"][1:]), "cpu": min(done["cpu"][1:]), "loss": done["loss"][0]}
    print(json.dumps({**figures, "peak": peak, "counted": memory.step_bytes(fidelity, chunk)}))


def steps(
    settings: EndToEndSettings, videos: int, device: str, dtype: torch.dtype, count: int
) -> dict[str, list[float]]:
    """Train a new network for some steps; return seconds, CPU seconds and loss of each."""
    (fidelity,) = settings.fidelities
    torch.manual_seed(0)
    model = Lofi(channels_last(new_encoder(ENCODER, seed=0)), settings).to(device).train()
    model.encoder.eval()  # frozen statistics
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    done = {"seconds": [], "cpu": [], "loss": []}
    for _ in range(count):
        frames = _frames(model, fidelity, videos, device)
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            localizer = model.localizer(fidelity.snippets)
            segments = [torch.tensor([[0.1, 0.4], [0.6, 0.7]], device=device) * fidelity.snippets] * videos
            total = localizer.loss(model(frames), localizer.targets(segments, []), torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        total["total"].backward()
        optimizer.step()
        done["loss"].append(total["total"].item())
        done["seconds"].append(time.perf_counter() - start)
        done["cpu"].append(time.process_time() - cpu_start)
    return done


def _frames(model: Lofi, fidelity: Fidelity, videos: int, device: str) -> torch.Tensor:
    shape = (videos, fidelity.snippets, model.encoder.preprocessing.clip_frames, fidelity.pixels, fidelity.pixels, 3)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(name: str, way: str, device: str) -> dict[str, float]:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.lofi", name, way, device]
    run = subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    print(f"{ENCODER}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| on | fidelity | way | s a step | ratio | CPU s | ratio | peak | share | counted | of the peak |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    good = True
    for device in dict.fromkeys(("cpu", choose_device("auto"))):
        for name, (fidelity, chunk) in FIDELITIES.items():
            size = f"{name}, {VIDEOS[device]} x {fidelity.snippets} x {fidelity.pixels}²"
            plain, chunked = measure(name, "plain", device), measure(name, "chunked", device)
            for way, run in (("plain", plain), (f"chunks of {chunk * VIDEOS[device]}", chunked)):
                ratio, share = run["seconds"] / plain["seconds"], run["peak"] / plain["peak"]
                estimate = run["counted"] / run["peak"]
                good &= 1 <= estimate <= LARGEST_ESTIMATE
                cells = [device, size, way, f"{run['seconds']:.2f}", f"{ratio:.2f}", f"{run['cpu']:.2f}"]
                cells += [f"{run['cpu'] / plain['cpu']:.2f}", f"{run['peak'] / GIB:.2f} GiB"]
                cells += [f"{share:.2f}", f"{run['counted'] / GIB:.2f} GiB", f"{estimate:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
            good &= chunked["peak"] <= LARGEST_SHARE * plain["peak"]
            good &= chunked["seconds"] <= LARGEST_RATIO * plain["seconds"]
            good &= abs(chunked["loss"] / plain["loss"] - 1) <= (1e-5 if device == "cpu" else 2e-2)
    limits = (
        f"{LARGEST_SHARE:.0%} of the memory, {LARGEST_RATIO} times the time, counted up to {LARGEST_ESTIMATE} times"
    )
    print(f"\n{'As' if good else 'Not as'} it should be: {limits}, the same loss.")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(*sys.argv[1:])
        sys.exit(0)
    sys.exit(main())
