"""Confidence intervals and paired bootstrap over videos and seeds.

A score would be another one on other videos, and after another training run. Both are imitated here from the statistics
of a metric, without matching again:

- videos: as many as there are, drawn with replacement, again and again (Efron, 1979). Both systems of a comparison are
  scored on the same draws, so that what is hard for both cancels.
- seeds: runs of a system that differ in nothing but chance, scored on the same videos. Its score is their mean. Seeds
  are too few to draw from: three of three show too little of what other runs would do. So each resample of the videos
  is moved by the standard error of the mean between seeds, times Student's t. That error leaves out what seeds do on
  single videos, which the resamples of the videos hold already, and is taken to be the same for both systems: see
  ``_seed_error``.

With one seed a system nothing is known about other runs, and the interval is about videos alone. With few videos all
of this is a little too sure: an interval said to hold in 95 % of cases holds the mean of 20 values in 90 to 93 %.

Decided here:

- The interval is that of the percentiles, moved until the mean of the resamples lies on the estimate, but not out of
  the range that the resamples and the estimate span. A mAP is higher on resamples than on new videos, because they hold
  fewer different videos; the percentiles alone lie too high.
- The p-value of a difference d is (1 + #{|d* - d| >= |d|}) / (1 + R) over R resampled differences d*: two-sided, never
  0, and 1 if d is 0. Differences that are equal up to rounding count as equal. It is at least 2 ** (1 - V) with V
  videos, what a test of signs allows: fewer than six can never show a difference at the level of 0.05.
- One video is every resample of itself: there is no interval then.
- A resample in which a metric is nan (nothing annotated, say) is left out for that metric, and counted. Interval and
  p-value are nan where the estimate is, and where too few resamples remain for the level.
- Neither the order of videos nor that of seeds changes anything to the last bit, as long as the metric keeps to it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from evaluation.segments import Floats, Integers

Score = Callable[[Any, Integers | None], Any]
Report = Callable[[int, int], None]

ROUNDING: Final = 1e-9  # differences closer than this, relative to their size, count as equal


@dataclass(frozen=True)
class Interval:
    """A metric with its uncertainty.

    Attributes:
        estimate: the metric, the mean over the seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        undefined: number of resamples that were left out because the metric was nan in them.
    """

    estimate: float
    low: float
    high: float
    undefined: int


@dataclass(frozen=True)
class Difference:
    """A metric of two systems.

    Attributes:
        a: the metric of the first system, the mean over its seeds.
        b: the metric of the second system, the mean over its seeds.
        difference: b - a.
        low: lower end of the interval of the difference.
        high: upper end of the interval of the difference.
        p: how often a difference of at least this size, up or down, would come about by chance.
        undefined: number of resamples that were left out because the difference was nan in them.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    undefined: int


@dataclass(frozen=True)
class _System:
    """The scores of one system with S seeds.

    Attributes:
        estimates: of each seed on all videos, by metric, float64 (S,).
        resampled: of each seed on each resample of the videos, by metric, float64 (R, S).
        seeds: S.
        videos: how many there are.
    """

    estimates: dict[str, Floats]
    resampled: dict[str, Floats]
    seeds: int
    videos: int

    def estimate(self, name: str) -> float:
        """Return the mean of a metric over the seeds."""
        return math.fsum(self.estimates[name]) / self.seeds

    def means(self, name: str) -> Floats:
        """Return the mean of a metric over the seeds on each resample, float64 (R,)."""
        # Sorted, so that the order of the seeds changes no sum.
        means: Floats = np.sort(self.resampled[name], axis=1).mean(axis=1)
        return means


def confidence_interval(
    score: Score,
    statistics: Any,
    generator: np.random.Generator,
    repetitions: int = 1000,
    level: float = 0.95,
    report: Report | None = None,
) -> dict[str, Interval]:
    """Return the interval that holds each metric of a system with a probability of about ``level``.

    Args:
        score: (statistics, video_weights) → result, as ``Metric.score``.
        statistics: of a system, or a sequence of those of several seeds, of the same videos.
        generator: where chance comes from.
        repetitions: number R of resamples; each takes one call of ``score`` a seed.
        level: probability, within (0, 1).
        report: called with (resamples done, resamples in all).

    Returns:
        Metric → its interval.

    Raises:
        ValueError: the seeds are of other videos or metrics, or ``repetitions`` are too few for ``level``.
    """
    check_repetitions(repetitions, level)
    systems = (system,) = _resample(score, [_seeds(statistics)], generator, repetitions, report)
    chance = _chance(systems, generator, repetitions)
    found = {
        name: _interval(system.estimate(name), system.means(name) + _seed_error(systems, name) * chance, level)
        for name in system.estimates
    }
    return found if system.videos > 1 else {name: _without_ends(interval) for name, interval in found.items()}


def paired_bootstrap(
    score: Score,
    a: Any,
    b: Any,
    generator: np.random.Generator,
    repetitions: int = 1000,
    level: float = 0.95,
    report: Report | None = None,
) -> dict[str, Difference]:
    """Compare two systems on the same videos.

    Args:
        score: (statistics, video_weights) → result, as ``Metric.score``.
        a: statistics of the first system, or a sequence of those of several seeds.
        b: statistics of the second system, or a sequence of those of several seeds; the seeds of the two systems have
            nothing to do with each other, and may differ in number.
        generator: where chance comes from.
        repetitions: number R of resamples; each takes one call of ``score`` a seed of either system.
        level: probability that the interval of the difference holds it, within (0, 1).
        report: called with (resamples done, resamples in all).

    Returns:
        Metric → what both have, and how sure the difference is.

    Raises:
        ValueError: the statistics are of other videos or metrics, or ``repetitions`` are too few for ``level``.
    """
    return every_difference(score, [a, b], generator, repetitions, level, report)[0, 1]


def every_difference(
    score: Score,
    systems: Sequence[Any],
    generator: np.random.Generator,
    repetitions: int = 1000,
    level: float = 0.95,
    report: Report | None = None,
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Compare each system with each that follows it, all on the same resamples of the same videos.

    Args:
        score: (statistics, video_weights) → result, as ``Metric.score``.
        systems: of each the statistics, or a sequence of those of several seeds.
        generator: where chance comes from.
        repetitions: number R of resamples; each takes one call of ``score`` a seed of every system.
        level: probability that the interval of a difference holds it, within (0, 1).
        report: called with (resamples done, resamples in all).

    Returns:
        Places (a, b) in ``systems``, a < b → metric → what both have, and how sure the difference b - a is.

    Raises:
        ValueError: the statistics are of other videos or metrics, or ``repetitions`` are too few for ``level``.
    """
    check_repetitions(repetitions, level)
    resampled = _resample(score, [_seeds(system) for system in systems], generator, repetitions, report)
    found = {}
    for a, b in itertools.combinations(range(len(systems)), 2):
        pair = first, second = resampled[a], resampled[b]
        chance = _chance(pair, generator, repetitions)
        found[a, b] = {
            name: _difference(
                first.estimate(name),
                second.estimate(name),
                second.means(name) - first.means(name) + _seed_error(pair, name) * chance,
                level,
                first.videos,
            )
            for name in first.estimates
        }
    return found


def _seeds(statistics: Any) -> Sequence[Any]:
    seeds = statistics if isinstance(statistics, Sequence) else [statistics]
    if not seeds:
        raise ValueError("A system needs the statistics of at least one seed, received none.")
    return seeds


def _tail(resamples: int, level: float) -> int:
    """Return which of the sorted resamples, counted from either end and from 1, is the end of the interval."""
    return math.floor((resamples + 1) * (1 - level) / 2 * (1 + ROUNDING))


def check_repetitions(repetitions: int, level: float) -> None:
    """Raise ValueError unless ``repetitions`` resamples are enough for an interval that holds with ``level``."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie within (0, 1), received {level}.")
    if _tail(repetitions, level) < 1:
        least = math.ceil(2 / ((1 - level) * (1 + ROUNDING)) - 1)
        raise ValueError(f"repetitions must be at least {least} for a level of {level}, received {repetitions}.")


def _resample(
    score: Score,
    systems: Sequence[Sequence[Any]],
    generator: np.random.Generator,
    repetitions: int,
    report: Report | None,
) -> list[_System]:
    """Score every seed of every system on all videos, and on the same resamples of them."""
    every = [statistics for seeds in systems for statistics in seeds]
    places = _places(every)
    estimates = [score(statistics, None).metrics() for statistics in every]
    names = list(estimates[0])
    if other := next((list(found) for found in estimates if list(found) != names), None):
        raise ValueError(f"All statistics must have the same metrics, received {names} and {other}.")
    resampled = np.empty((len(names), repetitions, len(every)))
    videos = len(places[0])
    for repetition in range(repetitions):
        weights = np.bincount(generator.integers(videos, size=videos), minlength=videos)
        for seed, (statistics, place) in enumerate(zip(every, places, strict=True)):
            found = score(statistics, weights[place]).metrics()
            resampled[:, repetition, seed] = [found[name] for name in names]
        if report is not None:
            report(repetition + 1, repetitions)
    stops = np.cumsum([len(seeds) for seeds in systems]).tolist()
    return [
        _System(
            {name: np.array([found[name] for found in estimates[stop - len(seeds) : stop]]) for name in names},
            {name: resampled[metric, :, stop - len(seeds) : stop] for metric, name in enumerate(names)},
            len(seeds),
            videos,
        )
        for seeds, stop in zip(systems, stops, strict=True)
    ]


def _places(every: Sequence[Any]) -> list[Integers]:
    """Return the place of each video of each statistics in the alphabetical order of all, int64 (V,) each.

    Raises:
        ValueError: the statistics are not of the same videos.
    """
    names = sorted(every[0].videos)
    rank = {name: place for place, name in enumerate(names)}
    for statistics in every:
        if different := rank.keys() ^ set(statistics.videos):
            raise ValueError(
                f"All statistics must be of the same videos, received {len(names)} and {len(statistics.videos)}; "
                f"only one of them has {min(different)!r}."
            )
    return [np.array([rank[name] for name in statistics.videos], dtype=np.int64) for statistics in every]


def _chance(systems: Sequence[_System], generator: np.random.Generator, repetitions: int) -> Floats:
    """Return Student's t for each resample, float64 (R,); 0 where no system has more than one seed."""
    degrees = sum(system.seeds - 1 for system in systems)
    return generator.standard_t(degrees, size=repetitions) if degrees else np.zeros(repetitions)


def _seed_error(systems: Sequence[_System], name: str) -> float:
    """Return the standard error of a mean over seeds, or of the difference of two, that resampled videos lack.

    Let the score of a seed be the system's, plus an error of the seed (variance s), plus an error of the seed on these
    videos (variance v). The variance between the seeds on all videos estimates s + v. Resampling the videos adds v a
    second time: on resamples, the variance between the seeds is s + 2 v on average. So twice the first less the second
    estimates s; below 0, it is taken for 0. The estimates of both systems are averaged, weighted by their degrees of
    freedom, as in the t-test of two samples: few seeds a system tell too little of it alone.
    """
    degrees, total = 0, 0.0
    for system in systems:
        if system.seeds > 1:
            # Sorted, so that the order of the seeds changes no sum.
            between = np.sort(system.estimates[name]).var(ddof=1)
            on_resamples = np.sort(system.resampled[name], axis=1).var(axis=1, ddof=1)
            defined = ~np.isnan(on_resamples)
            if not defined.any():
                return math.nan
            degrees += system.seeds - 1
            total += (system.seeds - 1) * float(2 * between - on_resamples[defined].mean())
    return math.sqrt(max(total, 0.0) / degrees * sum(1 / system.seeds for system in systems)) if degrees else 0.0


def _interval(estimate: float, resampled: Floats, level: float) -> Interval:
    """Return the interval of an estimate from resamples of it, some of which may be nan, float64 (R,)."""
    defined = np.sort(resampled[~np.isnan(resampled)])
    undefined = len(resampled) - len(defined)
    tail = _tail(len(defined), level)
    if math.isnan(estimate) or tail < 1:
        return Interval(estimate, math.nan, math.nan, undefined)
    shift = estimate - math.fsum(defined) / len(defined)
    low = max(defined[tail - 1] + shift, min(defined[0], estimate))
    high = min(defined[-tail] + shift, max(defined[-1], estimate))
    return Interval(estimate, float(low), float(high), undefined)


def _without_ends(interval: Interval) -> Interval:
    return replace(interval, low=math.nan, high=math.nan)


def _difference(a: float, b: float, resampled: Floats, level: float, videos: int) -> Difference:
    """Return what resamples of b - a, some of which may be nan, float64 (R,), say about it."""
    interval = _interval(b - a, resampled, level)
    p = math.nan
    if not math.isnan(interval.low):
        deviations = np.abs(resampled[~np.isnan(resampled)] - interval.estimate)
        reached = np.count_nonzero(deviations >= abs(interval.estimate) * (1 - ROUNDING))
        p = max((1 + int(reached)) / (1 + len(deviations)), 2.0 ** (1 - videos))
    if videos == 1:
        interval = _without_ends(interval)
    return Difference(a, b, interval.estimate, interval.low, interval.high, p, interval.undefined)
