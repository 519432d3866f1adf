"""Suppression of overlapping segments: milliseconds a video on one core, and the gain over a plain loop.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.suppression``. It prints a Markdown table
and fails when a target is missed or another formulation gives another result.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines import nms
from baselines.nms import gaussian_soft_nms
from tests.baselines.test_nms import NOTHING, plain_soft_nms

MOST_MILLISECONDS = 5.0  # for the pairs of 100 steps
LEAST_RATIO = 100.0  # to the plain loop, in every case
MOST_DIFFERENCE = 1e-12  # of scores, as a share
REPEATS = 20  # the quickest counts
STEPS = 100
TRUE_SEGMENTS = ((10, 30), (42, 47), (55, 95))

Picks = list[tuple[int, float]]


@dataclass(frozen=True)
class Case:
    """Candidates of one video and a rule.

    Args:
        name: for the table.
        segments: ``(N, 2)``.
        scores: ``(N,)``.
        sigma: see `gaussian_soft_nms`.
        keep: see there.
        spare: low, high and extent, see there.
    """

    name: str
    segments: Tensor
    scores: Tensor
    sigma: float
    keep: int
    spare: tuple[float, float, float] = NOTHING


def cases() -> Iterator[Case]:
    """Yield what the localizers here have to suppress."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.combinations(torch.arange(STEPS + 1)).double()
    noise = torch.rand(len(pairs), generator=generator, dtype=torch.float64)
    # A trained network's map: a hill of scores at each true segment, a low and rough plain elsewhere.
    hills = [torch.exp(-(pairs - torch.tensor(true)).square().sum(dim=1) / 32) for true in TRUE_SEGMENTS]
    peaky = 0.9 * torch.stack(hills).amax(dim=0) + 0.02 * noise
    yield Case("all pairs of 100 steps, random scores", pairs, noise, 0.8, 100)
    yield Case("all pairs of 100 steps, three peaks", pairs, peaky, 0.8, 100)
    yield Case("the same, all scores equal", pairs, torch.full_like(noise, 0.25), 0.8, 100)
    yield Case("random scores, BMN's rule", pairs, noise, 0.4, 100, (0.5, 0.9, STEPS))
    yield Case("three peaks, BMN's rule", pairs, peaky, 0.4, 100, (0.5, 0.9, STEPS))
    starts = torch.randint(5000, (16_000,), generator=generator)
    lengths = torch.randint(1, 64, (16_000,), generator=generator)
    scores = torch.rand(16_000, generator=generator, dtype=torch.float64) ** 3
    yield Case("THUMOS14, windows put together", torch.stack([starts, starts + lengths], 1).double(), scores, 0.46, 200)


def plain(case: Case) -> Picks:
    """Suppress with the plain loop."""
    return plain_soft_nms(case.segments.tolist(), case.scores.tolist(), case.sigma, case.keep, case.spare)


def batched(case: Case) -> Picks:
    """Suppress with `gaussian_soft_nms`."""
    low, high, extent = case.spare
    picks, scores = gaussian_soft_nms(
        case.segments[None],
        case.scores[None],
        sigma=case.sigma,
        keep=case.keep,
        spare_low=low,
        spare_high=high,
        extent=extent,
    )
    return list(zip(picks[0].tolist(), scores[0].tolist(), strict=True))


def by_rounds(case: Case) -> Picks:
    """Suppress with the formulation for a GPU."""
    lazily, nms.pick_lazily = nms.pick_lazily, nms.pick_by_rounds
    try:
        return batched(case)
    finally:
        nms.pick_lazily = lazily


def timed(work: Callable[[Case], Picks], case: Case, repeats: int) -> tuple[Picks, float]:
    """Return the result of ``work`` and the milliseconds of its quickest run."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work(case)
        times.append(time.perf_counter() - start)
    return result, min(times) * 1e3


def difference(ours: Picks, theirs: Picks) -> float:
    """Return by what share of its value a score differs at most; inf where the picks differ."""
    if [pick for pick, _ in ours] != [pick for pick, _ in theirs]:
        return float("inf")
    return max(abs(a - b) / b for (_, a), (_, b) in zip(ours, theirs, strict=True))


def main() -> int:
    """Print the table; return 0 when all is as it should be."""
    torch.set_num_threads(1)
    print(f"one core of {os.cpu_count()}, Python {sys.version.split()[0]}, torch {torch.__version__}\n")
    print("| candidates | number | picks | plain loop | rounds in torch | ours | plain / ours | rounds / ours", end="")
    print(" | difference to plain | to rounds |\n|---|" + "---:|" * 9)
    good = True
    for case in cases():
        batched(case)  # compiles
        expected, slow = timed(plain, case, 1)
        rounds, middle = timed(by_rounds, case, REPEATS)
        ours, quick = timed(batched, case, REPEATS)
        apart = difference(ours, expected), difference(ours, rounds)
        times = [f"{each:.2f} ms" for each in (slow, middle, quick)]
        ratios = [f"{slow / quick:.0f}", f"{middle / quick:.1f}"]
        row = [case.name, f"{len(case.scores):,}", str(case.keep), *times, *ratios, *(f"{each:.1e}" for each in apart)]
        print("| " + " | ".join(row) + " |")
        quick_enough = slow / quick >= LEAST_RATIO and (quick <= MOST_MILLISECONDS or len(case.scores) > 5_050)
        good = good and quick_enough and max(apart) <= MOST_DIFFERENCE
    target = f"at most {MOST_MILLISECONDS} ms for 5,050, {LEAST_RATIO:.0f} times as fast as plain, the same picks"
    print("\nAs it should be." if good else f"\nNot as it should be: {target}.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
