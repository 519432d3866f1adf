"""The clips of pretraining: the data path against the plain one, and the time of a training step.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.pretraining VIDEO…``. It prints Markdown
tables and fails when the paths give different clips or the data path is not so much faster as it should be. The plain
path is what one writes first: for every clip, open the file, decode its 16 frames, interpolate, normalise, cut; decord
and torch take as many threads as they like. Both paths see the same clips in the same random order, first those of the
given videos, which should fit into memory as they are decoded, then of generated ones that take twice as much as may be
kept. Beside the clips a second is the time that all cores spend on a clip, which other programs disturb less.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import decord
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tspbench.clip_batches import BadVideos, ClipBatches, ClipDraws, clips_ahead
from tspbench.clip_reading import CACHE_BYTES, clip_reader
from tspbench.clips import Clip, clip_frames_at
from tspbench.encoders import new_encoder
from tspbench.errors import UserError
from tspbench.preprocessing import KINETICS_112 as SPEC
from tspbench.pretraining.contract import BACKGROUND, ClipLabels, HeadOptions
from tspbench.pretraining.segments import LabelledSegment
from tspbench.pretraining.tac import Tac
from tspbench.storage.video import VideoError, scan_video, write_video
from tspbench.streaming import padded_grid
from tspbench.workers import Pool

LEAST_RATIO = 2.0  # clips a second, over two epochs, with as many workers as cores
LARGEST_DIFFERENCE = 1e-5  # one grey level is 0.017
WORKERS = tuple(dict.fromkeys((1, os.cpu_count() or 1)))
EPOCHS = 2
CLIPS_PER_SEGMENT, SEGMENT_SECONDS = 5, 5.0
BATCH = 32
SMALL_CACHE_BYTES = CACHE_BYTES // 2
GENERATED_SECONDS, SIZE = 20, (256, 340)  # height and width as in copies of ActivityNet for training
STEPS, STEP_BATCH = 20, 32
MIB = 2**20


def generated(folder: Path) -> dict[str, Path]:
    """Write videos of a moving texture that take twice `SMALL_CACHE_BYTES` decoded, with a key frame each second."""
    height, width = SIZE
    rate, video_bytes = 30, GENERATED_SECONDS * SPEC.frame_rate * height * width * 3
    videos = {}
    for k in range(int(2 * SMALL_CACHE_BYTES / video_bytes) + 1):
        rng = np.random.default_rng(k)
        field = rng.integers(0, 256, (height // 16 + 8, width // 16 + 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        places = [
            (int(50 + 40 * np.sin(t / 20 + k)), int(50 + 40 * np.cos(t / 17))) for t in range(rate * GENERATED_SECONDS)
        ]
        videos[f"g{k}"] = folder / f"g{k}.mp4"
        write_video(videos[f"g{k}"], (field[y : y + height, x : x + width] for y, x in places), rate)
    return videos


def segments_of(videos: Mapping[str, Path]) -> list[LabelledSegment]:
    """Cut each video into stretches of 5 seconds, in turn an action and background."""
    found = []
    for name, path in videos.items():
        try:
            duration = scan_video(path).duration
        except VideoError:
            continue
        ends = [*np.arange(SEGMENT_SECONDS, duration - SPEC.clip_seconds, SEGMENT_SECONDS).tolist(), duration]
        starts = [0.0, *ends[:-1]]
        found += [
            LabelledSegment(name, start, end, 0 if k % 2 == 0 else BACKGROUND)
            for k, (start, end) in enumerate(zip(starts, ends, strict=True))
            if end - start >= SPEC.clip_seconds
        ]
    return found


class Plain:
    """Opens the file for every clip; which frames are wanted was found before."""

    def __init__(self, videos: Mapping[str, Path]) -> None:
        self._videos = videos
        self._grids = {name: padded_grid(scan_video(path), SPEC) for name, path in videos.items()}

    def read(self, clip: Clip) -> Tensor:
        grid = self._grids[clip.video]
        indices = grid[clip_frames_at(clip.start_seconds, SPEC.clip_frames, SPEC.frame_rate, len(grid))]
        frames = torch.from_numpy(decord.VideoReader(str(self._videos[clip.video])).get_batch(indices).asnumpy())
        x = F.interpolate(frames.permute(0, 3, 1, 2).float() / 255, SPEC.resize, mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
        top, left, flip = _cut(clip)
        x = ((x - mean) / std)[..., top : top + SPEC.crop, left : left + SPEC.crop].transpose(0, 1)
        return (x.flip(-1) if flip else x).contiguous()


def data_path(batches: ClipBatches, epoch: int) -> Iterator[Tensor]:
    for clips, _, _ in batches.epoch(epoch):
        yield from clips


def compare(title: str, videos: Mapping[str, Path], warm: Path, cache_bytes: int) -> bool:
    """Print a row for each number of workers; return whether clips are the same and come as fast as they should."""
    segments = segments_of(videos)
    videos = {name: videos[name] for name in {segment.video for segment in segments}}
    draws = ClipDraws(segments, SPEC.clip_seconds, CLIPS_PER_SEGMENT, "every-segment", 0)
    plain = Plain(videos)
    start, cores_start = time.perf_counter(), _cores_seconds()
    for place, segment in draws.training(0):
        plain.read(draws.drawn(0, place, segment))
    count = len(draws.training(0))
    slow, slow_cores = count / (time.perf_counter() - start), (_cores_seconds() - cores_start) / count
    good = True
    for workers in WORKERS:
        warming = {f"warm{k}": warm for k in range(workers)}
        make = partial(clip_reader, {**videos, **warming}, SPEC, cache_bytes // workers)
        with Pool(make, workers, 300.0) as pool:
            answers = list(pool.answers([(name, Clip(name, 0.0, 0)) for name in warming], workers))
            assert not any(isinstance(answer, UserError) for answer in answers)  # all processes have started
            ahead = clips_ahead(SPEC, BATCH, workers)
            batches = ClipBatches(draws, None, pool, ahead, BATCH, torch.device("cpu"), BadVideos(0))
            rates, before, cores_start = [], _peak(), _cores_seconds()
            for epoch in range(EPOCHS):
                start = time.perf_counter()
                assert sum(1 for _ in data_path(batches, epoch)) == count
                rates.append(count / (time.perf_counter() - start))
            cores = (_cores_seconds() - cores_start) / (EPOCHS * count)
            memory = (_peak() - before) / MIB
            difference = _difference(draws, plain, batches) if workers == WORKERS[-1] else 0.0
        ratio = EPOCHS / sum(1 / rate for rate in rates) / slow
        good = good and difference <= LARGEST_DIFFERENCE and (workers < WORKERS[-1] or ratio >= LEAST_RATIO)
        cells = [title, f"{workers}", f"{count}", f"{slow:.1f}", *(f"{rate:.1f}" for rate in rates), f"{ratio:.1f}"]
        cells += [f"{1000 * slow_cores:.0f} ms", f"{1000 * cores:.0f} ms", f"{slow_cores / cores:.1f}"]
        told = f"{difference:.1e}" if workers == WORKERS[-1] else ""
        print("| " + " | ".join([*cells, f"{memory:.0f} MiB", told]) + " |", flush=True)
    return good


def step_times() -> bool:
    """Print the time of a training step of R(2+1)D-18 with and without mixed precision; bf16 must not be slower."""
    if not torch.cuda.is_available():
        print("\nNO GPU HERE: the time of a step with and without mixed precision was NOT measured.")
        return True
    encoder = new_encoder("r2plus1d_18", 0)
    model: nn.Module = Tac(encoder, HeadOptions(encoder.feature_dim, 200, ("action",), 0, {})).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    clips = torch.randn(STEP_BATCH, 3, SPEC.clip_frames, SPEC.crop, SPEC.crop, device="cuda")
    labels = ClipLabels(torch.arange(STEP_BATCH), torch.zeros(STEP_BATCH, dtype=torch.long), None).to(clips.device)
    print(f"\nA step of R(2+1)D-18, {STEP_BATCH} clips, on {torch.cuda.get_device_name()}:\n")
    print("| precision | step | memory |\n|---|---:|---:|")
    seconds = {}
    for precision in ("fp32", "bf16"):
        torch.cuda.reset_peak_memory_stats()
        for step in range(STEPS + 5):
            if step == 5:  # kernels are chosen in the first ones
                torch.cuda.synchronize()
                start = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(clips, labels)
            optimizer.zero_grad(set_to_none=True)
            model.loss(logits, labels)["total"].backward()  # type: ignore[operator]
            optimizer.step()
        torch.cuda.synchronize()
        seconds[precision] = (time.perf_counter() - start) / STEPS
        memory = torch.cuda.max_memory_allocated() / MIB
        print(f"| {precision} | {1000 * seconds[precision]:.1f} ms | {memory:.0f} MiB |")
    return seconds["bf16"] <= seconds["fp32"]


def main(videos: Sequence[Path]) -> int:
    """Print the tables; return 0 when all is as it should be."""
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{load}, torch {torch.__version__}, decord {decord.__version__}\n")
    epochs = " | ".join(f"epoch {epoch}" for epoch in range(EPOCHS))
    print(
        f"| videos | workers | clips | plain, clips/s | {epochs} | ratio | plain, cores | cores | ratio | memory | "
        "largest difference |"
    )
    print("|---|" + "---:|" * (9 + EPOCHS))
    with tempfile.TemporaryDirectory() as name:
        made = generated(Path(name))
        warm = made["g0"]
        good = not videos or compare("given", {path.stem: path for path in videos}, warm, CACHE_BYTES)
        good = compare("generated", made, warm, SMALL_CACHE_BYTES) and good
    good = step_times() and good
    print("\nAs it should be." if good else f"\nNot as it should be: {LEAST_RATIO}, difference {LARGEST_DIFFERENCE}.")
    return 0 if good else 1


def _cut(clip: Clip) -> tuple[int, int, bool]:
    """Return where a clip is cut out and whether it is mirrored, drawn as the data path does."""
    generator = torch.Generator().manual_seed(clip.seed or 0)
    height, width = SPEC.resize
    top = int(torch.randint(height - SPEC.crop + 1, (), generator=generator))
    left = int(torch.randint(width - SPEC.crop + 1, (), generator=generator))
    return top, left, bool(torch.rand((), generator=generator) < 0.5)


def _difference(draws: ClipDraws, plain: Plain, batches: ClipBatches) -> float:
    """Return the largest difference of any value of any clip of an epoch between the two paths."""
    clips = (draws.drawn(0, place, segment) for place, segment in draws.training(0))
    return max(
        float((fast - plain.read(clip)).abs().max()) for fast, clip in zip(data_path(batches, 0), clips, strict=True)
    )


def _cores_seconds() -> float:
    """Return the seconds that cores have spent on this process and its workers."""
    total = sum(os.times()[:2])
    for child in active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _peak() -> int:
    """Return the most bytes that this process and its workers have held together, each at its worst."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in active_children())]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return total


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
