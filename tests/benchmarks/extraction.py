"""The streaming data path against the plain one: from a video file to an encoder's input, without the encoder.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.extraction VIDEO``. It prints a Markdown
table and fails when the paths give different clips or the streaming one is not so much faster as it should be. The
plain path is what one writes first: for every clip, open the file, seek, decode 16 frames, prepare them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import decord
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tspbench.encoders.r3d_18 import R3D18
from tspbench.errors import UserError
from tspbench.streaming import clip_batches, decoding

SPEC = R3D18.preprocessing
LEAST_RATIO = {16: 2.0, 1: 15.0}  # stride in frames → how many times faster
LARGEST_DIFFERENCE = 1e-5  # one grey level is 0.017
MIB = 2**20


def streaming(video: Path, stride: int) -> Iterator[Tensor]:
    """Yield every clip (3, 16, 112, 112) by the project's own path."""
    unreadable: dict[str, UserError] = {}
    with decoding({"video": video}, SPEC, decoders=1) as decoded:
        for batch in clip_batches(decoded, SPEC, stride, 32, torch.device("cpu"), unreadable):
            yield from batch.clips
    if unreadable:
        raise unreadable["video"]


def plain(video: Path, stride: int) -> Iterator[Tensor]:
    """Yield every clip on its own, decoded by decord with as many threads as it likes, prepared as in the papers."""
    reader = decord.VideoReader(str(video))
    step = reader.get_avg_fps() / SPEC.frame_rate
    frames = int(np.ceil(len(reader) / step - 1e-6))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    height, width = SPEC.resize
    top, left = round((height - SPEC.crop) / 2), round((width - SPEC.crop) / 2)
    for first in range(0, frames - SPEC.clip_frames + 1, stride):
        indices = np.round(np.arange(first, first + SPEC.clip_frames) * step).astype(np.int64)
        clip = torch.from_numpy(decord.VideoReader(str(video)).get_batch(indices).asnumpy())
        x = F.interpolate(clip.permute(0, 3, 1, 2).float() / 255, SPEC.resize, mode="bilinear", align_corners=False)
        yield ((x - mean) / std)[..., top : top + SPEC.crop, left : left + SPEC.crop].transpose(0, 1).contiguous()


def measure(clips: Callable[[], Iterator[Tensor]]) -> tuple[int, float, float]:
    """Return how many clips there are, the seconds that they take, and by how much the process grew (MiB)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _memory("VmRSS")
    start = time.perf_counter()
    count = sum(1 for _ in clips())
    return count, time.perf_counter() - start, (_memory("VmHWM") - before) / MIB


def compare(video: Path, stride: int) -> float:
    """Return the largest difference of any value of any clip between the two paths."""
    pairs = zip(streaming(video, stride), plain(video, stride), strict=True)
    return max(float((fast - slow).abs().max()) for fast, slow in pairs)


def main(video: Path) -> int:
    """Print the table; return 0 when all is as it should be."""
    next(plain(video, 16)), list(streaming(video, 10**6))  # libraries and file are in memory from here on
    print(f"{video.name}, {os.cpu_count()} cores, torch {torch.__version__}, decord {decord.__version__}\n")
    print("| stride | clips | plain | streaming | ratio | plain, memory | streaming, memory | largest difference |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    good = True
    for stride, least in LEAST_RATIO.items():
        count, fast, little = measure(partial(streaming, video, stride))
        _, slow, much = measure(partial(plain, video, stride))
        difference, ratio = compare(video, stride), slow / fast
        good = good and difference <= LARGEST_DIFFERENCE and ratio >= least
        cells = [f"{stride}", f"{count}", f"{slow:.2f} s", f"{fast:.2f} s", f"{ratio:.1f}"]
        print("| " + " | ".join([*cells, f"{much:.0f} MiB", f"{little:.0f} MiB", f"{difference:.1e}"]) + " |")
    print("\nAs it should be." if good else f"\nNot as it should be: {LEAST_RATIO}, difference {LARGEST_DIFFERENCE}.")
    return 0 if good else 1


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
