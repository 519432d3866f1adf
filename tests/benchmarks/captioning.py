"""Sentences of BMT written for many segments at once, one at a time, and without keeping keys.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.captioning``. It prints a Markdown table
and fails when two ways write other sentences, or when the batch is not so much faster as it should be. Each way runs in
a process of its own, on the CPU and also on a GPU where there is one.

The networks have their default sizes, with features of 512 channels, sound of 128 and the 10,172 words of the paper's
vocabulary. The segments are about as long as those of ActivityNet Captions are on average, one batch of like lengths,
as `predict` reads them. Weights that nobody trained write sentences without an end: each is ended after 5 to 21 words,
a number that follows from the segment's features; the captions of ActivityNet have 13 words on average.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from baselines.bmt import BMT, BMTConfig
from baselines.caption_contract import END, Stream, Streams
from baselines.decoding import decode

WORDS = 10_172
CHANNELS, SOUND_CHANNELS = 512, 128
SEGMENTS = 64  # as many as the release describes at once
ROWS = (30, 38)  # of 1.07 s; a segment of ActivityNet Captions has 32.5 on average
SOUND_ROW_STEPS = 0.9  # 0.96 s
SENTENCE = (5, 21)
BEAM = 5
MODELS = {"visual": 0, "with sound": SOUND_CHANNELS}
# Search and way: how many times, of which the quickest counts.
WAYS = {
    ("greedy", "one at a time"): 1,
    ("greedy", "batch, no keys kept"): 1,
    ("greedy", "batch"): 3,
    ("beam", "one at a time"): 1,
    ("beam", "batch"): 2,
}
LEAST_RATIO = 5.0  # of greedy search in a batch to one at a time
MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One run: seconds and CPU seconds, MiB that it added at its peak, torch's threads, the sentences."""

    seconds: float
    cpu: float
    added: float
    threads: int
    sentences: list[list[int]]


@dataclass(frozen=True)
class WithoutKeys:
    """Writes each word from a full pass, as the release does: the streams are encoded again for every word."""

    captioner: BMT

    def begin(self, streams: Streams) -> "Written":
        return Written(
            streams, torch.zeros(len(streams[0].features), 0, dtype=torch.int64, device=streams[0].mask.device)
        )

    def step(self, words: Tensor, state: "Written") -> tuple[Tensor, "Written"]:
        words = torch.cat([state.words, words[:, None]], dim=1)
        return self.captioner(state.streams, words)[:, -1], Written(state.streams, words)


@dataclass(frozen=True)
class Written:
    """The state of `WithoutKeys`."""

    streams: Streams
    words: Tensor

    def select(self, rows: Tensor) -> Self:
        streams = (Stream(each.features[rows], each.mask[rows], each.row_steps[rows]) for each in self.streams)
        return type(self)(tuple(streams), self.words[rows])


@dataclass(frozen=True)
class Ended:
    """Ends the sentences of a captioner after as many words as the first feature of the segment says."""

    captioner: Any

    def begin(self, streams: Streams) -> "Ending":
        shortest, longest = SENTENCE
        drawn = (streams[0].features[:, 0, 0].abs() * 1000).long()
        return Ending(self.captioner.begin(streams), shortest + drawn % (longest - shortest + 1))

    def step(self, words: Tensor, state: "Ending") -> tuple[Tensor, "Ending"]:
        log_probabilities, inner = self.captioner.step(words, state.inner)
        log_probabilities[:, END] = torch.where(state.left == 0, 0.0, -torch.inf)
        return log_probabilities, Ending(inner, state.left - 1)


@dataclass(frozen=True)
class Ending:
    """The state of `Ended`."""

    inner: Any
    left: Tensor

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.inner.select(rows), self.left[rows])


def segments(sound: int) -> list[Streams]:
    """Features of each segment, unpadded."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for rows in torch.randint(ROWS[0], ROWS[1] + 1, (SEGMENTS,), generator=generator).tolist():
        sizes = [(CHANNELS, rows, 1.0)] + ([(sound, round(rows / SOUND_ROW_STEPS), SOUND_ROW_STEPS)] if sound else [])
        streams = (
            Stream(
                torch.randn(1, channels, length, generator=generator),
                torch.ones(1, length, dtype=torch.bool),
                torch.full((1,), row_steps),
            )
            for channels, length, row_steps in sizes
        )
        found.append(tuple(streams))
    return found


def padded(each: list[Streams]) -> Streams:
    """All segments as one batch."""
    batch = []
    for streams in zip(*each, strict=True):
        rows = max(stream.mask.shape[1] for stream in streams)
        missing = [rows - stream.mask.shape[1] for stream in streams]
        pairs = list(zip(streams, missing, strict=True))
        batch.append(
            Stream(
                torch.cat([torch.nn.functional.pad(stream.features, (0, more)) for stream, more in pairs]),
                torch.cat([torch.nn.functional.pad(stream.mask, (0, more)) for stream, more in pairs]),
                torch.cat([stream.row_steps for stream in streams]),
            )
        )
    return tuple(batch)


def report(model: str, search: str, way: str, device: str) -> None:
    """Print what `measure` reads."""
    torch.manual_seed(0)
    config = BMTConfig(feature_dim=CHANNELS, audio_dim=MODELS[model], words=WORDS)
    bmt = BMT(config).eval().to(device)
    captioner = Ended(WithoutKeys(bmt) if "no keys" in way else bmt)
    each = segments(MODELS[model])
    batches = each if way == "one at a time" else [padded(each)]
    batches = [tuple(stream.to(device) for stream in streams) for streams in batches]
    beam = BEAM if search == "beam" else 1
    decode(captioner, each_to(each[0], device), beam=beam)  # the first time is slower
    before = _memory(device, "VmRSS")
    seconds, cpu, sentences = [], [], []
    for _ in range(WAYS[search, way]):
        start, cpu_start = time.perf_counter(), time.process_time()
        sentences = [words for streams in batches for words in decode(captioner, streams, beam=beam)]
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    added = _memory(device, "VmHWM") - before
    print(json.dumps(vars(Measured(min(seconds), min(cpu), added, torch.get_num_threads(), sentences))))


def each_to(streams: Streams, device: str) -> Streams:
    return tuple(stream.to(device) for stream in streams)


def _memory(device: str, field: str) -> float:
    """MiB: on the CPU of this process alone, now or at its peak."""
    if device == "cuda":
        used = torch.cuda.max_memory_allocated if field == "VmHWM" else torch.cuda.memory_allocated
        return used() / MIB
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def measure(*what: str) -> Measured:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.captioning", *what]
    # As `tspbench.cli.main` does: threads that wait by spinning slow each other down on a busy machine.
    run = subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, stdout=subprocess.PIPE, check=True)
    return Measured(**json.loads(run.stdout.splitlines()[-1]))


def measured(device: str) -> Iterator[bool]:
    """Print the rows of a device; yield whether each is as it should be."""
    for model in MODELS:
        alone: dict[str, Measured] = {}
        for search, way in WAYS:
            run = measure(model, search, way, device)
            one = alone.setdefault(search, run)
            ratio = one.seconds / run.seconds
            cells = [model, f"{device}, {run.threads} threads", search, way, f"{SEGMENTS / run.seconds:.1f}"]
            cells += [f"{ratio:.1f}", f"{run.cpu:.1f}", f"{one.cpu / run.cpu:.1f}", f"{run.added:,.0f} MiB"]
            print("| " + " | ".join(cells) + " |", flush=True)
            yield run.sentences == one.sentences
            yield ratio >= LEAST_RATIO or (search, way) != ("greedy", "batch")


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    print("| streams | on | search | way | captions/s | ratio | CPU s | ratio | memory on top |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    good = all([fine for device in devices for fine in measured(device)])
    print(f"\n{'As' if good else 'Not as'} it should be: {LEAST_RATIO:.0f} times in greedy search, the same sentences.")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(*sys.argv[1:])
        sys.exit(0)
    sys.exit(main())
