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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
ALONE, FULL_PASS, BATCH = "one at a time", "batch, no keys kept", "batch"
# How many times each way of each search is run, of which the quickest counts.
WAYS = {("greedy", ALONE): 1, ("greedy", FULL_PASS): 1, ("greedy", BATCH): 3, ("beam", ALONE): 1, ("beam", BATCH): 3}
LEAST_RATIOS = {ALONE: 5.0, FULL_PASS: 2.0}  # of greedy search in a batch, in captions a second
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
    """Writes each word by a full pass, as the release does: the streams, too, are encoded again for every word."""

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
    return tuple(
        Stream(
            pad_sequence([stream.features[0].T for stream in streams], batch_first=True).mT.contiguous(),
            pad_sequence([stream.mask[0] for stream in streams], batch_first=True),
            torch.cat([stream.row_steps for stream in streams]),
        )
        for streams in zip(*each, strict=True)
    )


def report(model: str, search: str, way: str, device: str) -> None:
    """Print what `measure` reads."""
    torch.manual_seed(0)
    config = BMTConfig(feature_dim=CHANNELS, audio_dim=MODELS[model], words=WORDS)
    bmt = BMT(config).eval().to(device)
    captioner = Ended(WithoutKeys(bmt) if way == FULL_PASS else bmt)
    each = [tuple(stream.to(device) for stream in streams) for streams in segments(MODELS[model])]
    batches = each if way == ALONE else [padded(each)]
    beam = BEAM if search == "beam" else 1
    decode(captioner, each[0], beam=beam)  # the first time is slower
    before = _memory(device, "VmRSS")
    seconds, cpu, sentences = [], [], []
    for _ in range(WAYS[search, way]):
        start, cpu_start = time.perf_counter(), time.process_time()
        sentences = [words for streams in batches for words in decode(captioner, streams, beam=beam)]
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    added = _memory(device, "VmHWM") - before
    print(json.dumps(vars(Measured(min(seconds), min(cpu), added, torch.get_num_threads(), sentences))))


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


def measured(model: str, device: str) -> list[str]:
    """Print the rows of a network; return what is not as it should be."""
    runs: dict[tuple[str, str], Measured] = {}
    for search, way in WAYS:
        run = runs[search, way] = measure(model, search, way, device)
        alone = runs[search, ALONE]
        cells = [model, f"{device}, {run.threads} threads", search, way, f"{SEGMENTS / run.seconds:.1f}"]
        cells += [f"{alone.seconds / run.seconds:.1f}", f"{run.cpu:.1f}", f"{alone.cpu / run.cpu:.1f}"]
        print("| " + " | ".join([*cells, f"{run.added:,.0f} MiB"]) + " |", flush=True)
    wrong = [
        f"{model} on {device}: {search}, {way}: other sentences than {ALONE}"
        for (search, way), run in runs.items()
        if run.sentences != runs[search, ALONE].sentences
    ]
    for way, least in LEAST_RATIOS.items():
        ratio = runs["greedy", way].seconds / runs["greedy", BATCH].seconds
        if ratio < least:
            wrong.append(f"{model} on {device}: {ratio:.1f} times the captions a second of {way}, expected {least:.0f}")
    return wrong


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    print("| streams | on | search | way | captions/s | ratio | CPU s | ratio | memory on top |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    wrong = [each for device in devices for model in MODELS for each in measured(model, device)]
    print("\n" + "\n".join(wrong or ["As it should be."]))
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(*sys.argv[1:])
        sys.exit(0)
    sys.exit(main())
