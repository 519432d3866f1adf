"""P-GCN on one video with many proposals: seconds, and the gain over one graph after the other.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.refining``. It prints a Markdown table
and fails when the scores differ.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from baselines.pgcn import PGCN, PGCNConfig
from tests.baselines.test_pgcn import one_video, plain_forward, random_proposals

CASES = ((512, 300), (512, 2000), (1024, 2000))  # channels, proposals
PLAIN = 100  # graphs that the plain formulation does; it takes as long for each
STEPS = 900
MOST_DIFFERENCE = 1e-5


def seconds(work: Callable[[], object]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(channels: int, proposals: int) -> float:
    """Print a line of the table and return the largest difference of a score."""
    model = PGCN(PGCNConfig(feature_dim=channels, classes=20)).eval()
    batch = one_video(random_proposals(proposals, STEPS), steps=STEPS, channels=channels)
    looked_up = seconds(lambda: model.graphs(batch, None))
    graphs = model.graphs(batch, None)
    some = replace(graphs, members=graphs.members[:PLAIN])
    ours = seconds(lambda: model(graphs))
    plain = seconds(lambda: plain_forward(model, some)) * proposals / PLAIN
    print(f"| {channels} | {proposals:,} | {looked_up:.2f} | {ours:.2f} | {plain:.1f} | {plain / ours:.0f} |")
    found, expected = model(graphs), plain_forward(model, some)
    pairs = [(getattr(found, name)[:PLAIN], getattr(expected, name)) for name in ("activity", "completeness")]
    return max(float((one - other).abs().max()) for one, other in pairs)


def main() -> None:
    torch.manual_seed(0)
    print("| channels | proposals | graphs, s | network, s | plain network, s | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    worst = max(measure(channels, proposals) for channels, proposals in CASES)
    print(f"\nThe plain formulation did {PLAIN} graphs, scaled up; largest difference of a score: {worst:.1e}.")
    if worst > MOST_DIFFERENCE:
        sys.exit("the scores differ")


if __name__ == "__main__":
    main()
