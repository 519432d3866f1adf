import itertools
import math
import re
from dataclasses import asdict, astuple, dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, ProposalProtocol, detection, proposals
from evaluation.proposals import ProposalStatistics
from evaluation.significance import Difference, Interval, confidence_interval, paired_bootstrap
from tests.evaluation.helpers import predicted, truth

quick = settings(max_examples=40, deadline=None)
NAMES = tuple("abcdefgh")


@dataclass(frozen=True)
class PerVideo:
    """Statistics of metrics that are ratios of sums over the videos, both (V, M)."""

    videos: tuple[str, ...]
    above: np.ndarray
    below: np.ndarray


@dataclass(frozen=True)
class Named:
    values: np.ndarray

    def metrics(self):
        return {str(name): value for name, value in enumerate(self.values.tolist())}


def means(*columns, videos=NAMES):
    """Return statistics of one metric a column, the mean of its values over the videos."""
    above = np.array(columns, dtype=np.float64).T
    return PerVideo(videos[: len(above)], above, np.ones_like(above))


def ratio(statistics, weights=None):
    weights = np.ones(len(statistics.videos)) if weights is None else weights
    with np.errstate(invalid="ignore"):
        return Named((weights @ statistics.above) / (weights @ statistics.below))


class Every:
    """Draws every possible resample of a few videos in turn, and every t of a few."""

    def __init__(self, t=()):
        self._draws, self._t = None, t

    def integers(self, videos, size):
        self._draws = self._draws or itertools.cycle(itertools.product(range(videos), repeat=videos))
        return np.array(next(self._draws))

    def standard_t(self, degrees, size):
        return np.resize(np.array(self._t), size)


def interval_of(statistics, level=0.95, repetitions=40, score=ratio, t=()):
    return confidence_interval(score, statistics, Every(t), repetitions, level)["0"]


def difference_of(a, b, level=0.95, repetitions=40, t=()):
    return paired_bootstrap(ratio, a, b, Every(t), repetitions, level)["0"]


def assert_same(found, expected):
    """Compare values of which some are nan."""
    np.testing.assert_equal(asdict(found), asdict(expected))


def test_two_videos_by_hand():
    # Of the 4 draws of two videos, one gives 0, two give 1/2 and one gives 1: of 40, ten, twenty and ten.
    statistics = means([0, 1])
    assert interval_of(statistics) == Interval(0.5, 0, 1, 0)
    # (40 + 1) · 0.3 = 12.3: the ends are the 12th from below and from above, both among the twenty.
    assert interval_of(statistics, level=0.4) == Interval(0.5, 0.5, 0.5, 0)
    # (40 + 1) · 0.25 = 10.25: the 10th from below is still 0.
    assert interval_of(statistics, level=0.5) == Interval(0.5, 0, 1, 0)


def test_the_difference_of_two_videos_by_hand():
    # The differences are 1 and 0: resampled, 0 in 10 of 40 draws, 1/2 in 20 and 1 in 10. All but the 20 deviate from
    # 1/2 by 1/2.
    assert difference_of(means([0, 0]), means([1, 0])) == Difference(0, 0.5, 0.5, 0, 1, 21 / 41, 0)
    # What is the same everywhere is no chance: nothing deviates. But two videos agree by chance every second time.
    assert difference_of(means([0, 1]), means([1, 2])) == Difference(0.5, 1.5, 1, 1, 1, 1 / 2, 0)


@pytest.mark.parametrize("videos", [2, 3, 5, 6, 8])
def test_p_is_not_below_that_of_a_test_of_signs(videos):
    # 1 of 41 where nothing deviates, and 2 / 2 ** V where all signs agree.
    found = difference_of(means([0] * videos), means([1] * videos), repetitions=40)
    assert found.p == max(1 / 41, 2 / 2**videos)


def test_one_video_has_no_interval():
    assert_same(interval_of(means([3])), Interval(3, math.nan, math.nan, 0))
    assert_same(difference_of(means([0]), means([3])), Difference(0, 3, 3, math.nan, math.nan, 1, 0))
    assert difference_of(means([3]), means([3])).p == 1


def test_three_videos_by_hand():
    # The mean of the values 0, 0, 3 is k when the last video is drawn k times: in 8, 12, 6 and 1 of 27 draws.
    found = difference_of(means([0, 0, 0]), means([0, 0, 3]), repetitions=27, level=0.9)
    # (27 + 1) · 0.05 = 1.4: the ends are the lowest and the highest, 0 and 3; all but 12 deviate from 1 by 1 or more.
    assert found == Difference(0, 1, 1, 0, 3, 16 / 28, 0)


def test_differences_that_are_equal_up_to_rounding_count():
    # In thirds and tenths |d* - d| and |d| differ in the last bit: p must be that of the values in whole numbers.
    whole = [0, 1, 1, 2, 0]
    for scale in (0.1, 1 / 3, 0.7):
        a, b = means([0] * 5), means([scale * value for value in whole])
        expected = paired_bootstrap(ratio, means([0] * 5), means(whole), np.random.default_rng(0), 99)["0"].p
        assert paired_bootstrap(ratio, a, b, np.random.default_rng(0), 99)["0"].p == expected


def different_videos(statistics, weights=None):
    """Score the number of different videos: 2 of the 4 draws of two videos hold one, 2 hold both."""
    return Named(np.array([float(len(statistics.videos) if weights is None else np.count_nonzero(weights))]))


def test_the_interval_is_moved_to_the_estimate_but_not_beyond_what_was_seen():
    # The mean of the resamples is 3/2, so that they move by 1/2: 1 to 3/2, and 2 to 5/2, which no resample reaches.
    assert interval_of(means([0, 0]), score=different_videos) == Interval(2, 1.5, 2, 0)


def test_resamples_without_a_value_are_left_out_and_counted():
    # The metric is that of video "a" alone: nan in the 20 of 80 draws that lack it.
    statistics = PerVideo(("a", "b"), np.array([[0.5], [0.0]]), np.array([[1.0], [0.0]]))
    assert interval_of(statistics, repetitions=80) == Interval(0.5, 0.5, 0.5, 20)
    assert difference_of(statistics, statistics, repetitions=80) == Difference(0.5, 0.5, 0, 0, 0, 1, 20)


def test_too_few_resamples_with_a_value_have_no_interval():
    # 30 of 40 have a value, and (30 + 1) · 0.025 < 1.
    statistics = PerVideo(("a", "b"), np.array([[0.5], [0.0]]), np.array([[1.0], [0.0]]))
    nan = math.nan
    assert_same(interval_of(statistics), Interval(0.5, nan, nan, 10))
    assert_same(difference_of(statistics, statistics), Difference(0.5, 0.5, 0, nan, nan, nan, 10))


def test_a_metric_without_a_value_has_neither_interval_nor_p():
    statistics = PerVideo(("a", "b"), np.zeros((2, 1)), np.zeros((2, 1)))
    nan = math.nan
    assert_same(interval_of(statistics), Interval(nan, nan, nan, 40))
    assert_same(difference_of(means([0, 1]), statistics), Difference(0.5, nan, nan, nan, nan, nan, 40))


def test_seeds_by_hand():
    # Two seeds that differ by 2 on every video: variance 2, of which no part comes from single videos, and the error
    # of their mean is sqrt(2 / 2) = 1. So the mean 2 moves by t.
    seeds = [means([1, 1]), means([3, 3])]
    assert interval_of(seeds, t=(-1, 1)) == Interval(2, 1, 3, 0)
    # Two seeds that agree make the variance 1 on average, and the error of the difference sqrt(1 / 2 + 1 / 2) = 1.
    agreeing = [means([0, 0]), means([0, 0])]
    assert difference_of(agreeing, seeds, t=(-1, 1)) == Difference(0, 2, 2, 1, 3, 1 / 2, 0)
    assert difference_of(agreeing, seeds, t=(-2, 2)) == Difference(0, 2, 2, 0, 4, 1, 0)


def test_one_seed_scatters_like_those_of_the_other_system():
    # The variance 6 is that of the seeds 0 and sqrt(12), and the error of the difference is sqrt(6 / 2 + 6 / 1) = 3.
    found = difference_of(means([0, 0]), [means([0, 0]), means([math.sqrt(12)] * 2)], t=(-1, 1))
    mean = math.sqrt(3)
    assert astuple(found) == pytest.approx((0, mean, mean, mean - 3, mean + 3, 1, 0))


def test_what_seeds_do_on_single_videos_is_not_counted_twice():
    # The seeds differ by 2 on either video, but not in their means: nothing but the draws of videos moves the score.
    seeds = [means([1, 3]), means([3, 1])]
    assert interval_of(seeds, t=(-1, 1)) == Interval(2, 2, 2, 0)


def test_one_seed_says_nothing_about_others():
    alone = [means([0, 1])]
    assert interval_of(alone, t=(-9, 9)) == interval_of(alone[0], t=(-9, 9)) == Interval(0.5, 0, 1, 0)


def detections(seed, videos=NAMES, quality=0.5):
    """Return detection statistics: a segment a video, found or not; the order of ``videos`` is not that of chance."""
    generator = np.random.default_rng(seed)
    rows = [(name, ("run", "jump")[number % 2], 0, 8) for number, name in enumerate(sorted(videos))]
    hits = [8 if generator.random() < quality else 1 for _ in rows]
    scores = generator.random(len(rows))
    found = [(*row[:3], hit, score) for row, hit, score in zip(rows, hits, scores, strict=True)]
    ground_truth = truth(sorted(rows, key=lambda row: videos.index(row[0])), videos=videos, labels=("run", "jump"))
    return detection.statistics(ground_truth, predicted(found), DETECTION_PROTOCOLS["thumos14"])


def of_detections(seed=0, **names):
    return confidence_interval(detection.score, detections(seed, **names), np.random.default_rng(0), 60)


def compared(a, b):
    return paired_bootstrap(detection.score, a, b, np.random.default_rng(0), 60)


def test_a_system_does_not_differ_from_itself():
    found = compared(detections(0), detections(0))
    value = detection.score(detections(0)).average_map
    assert found["average_mAP"] == Difference(value, value, 0, 0, 0, 1, 0)


def test_seeds_do_not_differ_from_themselves():
    seeds = [detections(seed) for seed in range(3)]
    found = compared(seeds, seeds)["average_mAP"]
    assert (found.difference, found.p) == (0, 1)
    assert found.low <= 0 <= found.high


def test_the_order_of_videos_changes_nothing_to_the_last_bit():
    shuffled = ("d", "a", "h", "c", "g", "b", "f", "e")
    assert of_detections() == of_detections(videos=shuffled)
    assert compared(detections(0), detections(1)) == compared(detections(0, shuffled), detections(1))


def test_the_order_of_seeds_changes_nothing_to_the_last_bit():
    seeds = [detections(seed) for seed in range(4)]
    mixed = [seeds[place] for place in (2, 0, 3, 1)]
    assert compared(seeds, detections(9)) == compared(mixed, detections(9))


def test_chance_comes_from_the_generator_alone():
    assert of_detections() == of_detections()
    other = confidence_interval(detection.score, detections(0), np.random.default_rng(1), 60)
    assert other["average_mAP"].high != of_detections()["average_mAP"].high


def test_every_resample_is_reported():
    calls = []
    confidence_interval(ratio, means([0, 1]), Every(), 39, report=lambda *call: calls.append(call))
    assert calls == [(done, 39) for done in range(1, 40)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": []}, "A system needs the statistics of at least one seed, received none."),
        (
            {"b": means([0, 1], videos=("a", "c"))},
            "All statistics must be of the same videos, received 2 and 2; only one of them has 'b'.",
        ),
        (
            {"b": [means([0, 1]), means([0, 1, 2])]},
            "All statistics must be of the same videos, received 2 and 3; only one of them has 'c'.",
        ),
        (
            {"b": means([0, 1], [0, 1])},
            "All statistics must have the same metrics, received ['0'] and ['0', '1'].",
        ),
        ({"repetitions": 38}, "repetitions must be at least 39 for a level of 0.95, received 38."),
        ({"repetitions": 50, "level": 0.99}, "repetitions must be at least 199 for a level of 0.99, received 50."),
        ({"level": 1.0}, "level must lie within (0, 1), received 1.0."),
        ({"level": 95}, "level must lie within (0, 1), received 95."),
    ],
)
def test_what_does_not_fit(change, message):
    arguments = {"b": means([0, 1]), "repetitions": 39, "level": 0.95, **change}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        paired_bootstrap(ratio, means([0, 1]), generator=np.random.default_rng(0), **arguments)


VALUES = st.lists(st.integers(-8, 8), min_size=8, max_size=8)


@quick
@given(VALUES, VALUES)
def test_swapping_the_systems_negates_the_difference_and_keeps_p(first, second):
    a, b = means(first), means(second)
    there = paired_bootstrap(ratio, a, b, np.random.default_rng(0), 60)["0"]
    back = paired_bootstrap(ratio, b, a, np.random.default_rng(0), 60)["0"]
    assert back == Difference(there.b, there.a, -there.difference, -there.high, -there.low, there.p, 0)


@quick
@given(VALUES, VALUES, st.integers(-20, 20))
def test_the_scale_of_a_metric_changes_nothing(first, second, power):
    def found(scale):
        columns = [[value * scale for value in values] for values in (first, second)]
        return paired_bootstrap(ratio, means(columns[0]), means(columns[1]), np.random.default_rng(0), 60)["0"]

    one, other = found(1.0), found(2.0**power)
    assert other.p == one.p
    assert [other.difference, other.low, other.high] == [
        value * 2.0**power for value in (one.difference, one.low, one.high)
    ]


@quick
@given(VALUES)
def test_an_interval_is_within_the_values_and_within_wider_ones(values):
    found = [
        confidence_interval(ratio, means(values), np.random.default_rng(0), 60, level)["0"]
        for level in (0.5, 0.8, 0.95)
    ]
    lows, highs = [interval.low for interval in found], [interval.high for interval in found]
    assert min(values) <= lows[2] <= lows[1] <= lows[0] <= highs[0] <= highs[1] <= highs[2] <= max(values)
    assert {interval.estimate for interval in found} == {sum(values) / 8}


REPETITIONS = 1000


def names(videos):
    return tuple(f"v{number:03d}" for number in range(videos))


def covered(intervals, value):
    """Return the share of intervals that hold a value."""
    assert len(intervals) == REPETITIONS
    return np.mean([interval.low <= value <= interval.high for interval in intervals.values()])


def many(generator, draw, videos=60):
    """Return a thousand experiments as the metrics of one system: independent values on each of the videos."""
    above = draw(generator, (videos, REPETITIONS))
    return PerVideo(names(videos), above, np.ones_like(above))


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        (lambda generator, shape: generator.random(shape), 0.5),
        (lambda generator, shape: generator.normal(2, 3, shape), 2.0),
        (lambda generator, shape: (generator.random(shape) < 0.7).astype(float), 0.7),
    ],
)
def test_the_interval_of_a_mean_holds_the_true_mean_as_often_as_it_says(draw, value):
    statistics = many(np.random.default_rng(1), draw)
    found = confidence_interval(ratio, statistics, np.random.default_rng(2), 399)
    assert 0.93 <= covered(found, value) <= 0.97


def test_with_few_videos_the_interval_is_a_little_too_sure():
    statistics = many(np.random.default_rng(1), lambda generator, shape: generator.normal(2, 3, shape), videos=20)
    found = confidence_interval(ratio, statistics, np.random.default_rng(2), 399)
    assert 0.9 <= covered(found, 2) < 0.95


def recalls(statistics, weights=None):
    """Return the recall at each threshold of all proposals, by the metric itself."""
    return Named(proposals.score(statistics, weights).recall[:, -1])


def test_the_interval_of_recall_holds_the_true_recall_as_often_as_it_says():
    # One segment and one proposal a video, which finds it with probability 3/5; each threshold is an experiment of its
    # own. Recall is the share of videos where it does, and 3/5 on average.
    videos, value = 60, float(Fraction(3, 5))
    thresholds = tuple(np.linspace(0.001, 1, REPETITIONS).tolist())
    protocol = ProposalProtocol(name="many", thresholds=thresholds, source="these tests", budget=100, shown=(100,))
    statistics = ProposalStatistics(
        protocol=protocol,
        videos=names(videos),
        proposals=np.ones(videos, dtype=np.int64),
        outside=0,
        ground_truth_video=np.arange(videos),
        before=(np.random.default_rng(3).random((videos, REPETITIONS)) >= value).astype(np.int64),
    )
    found = confidence_interval(recalls, statistics, np.random.default_rng(4), 399)
    assert 0.93 <= covered(found, value) <= 0.97


def test_the_interval_of_a_metric_that_resampling_raises_holds_it_as_often_as_it_says():
    # Like mAP, the mean of many squares: of the means over V videos of 25 normal classes (1, 2²), 1 + 4 / V on average.
    # Resampling adds 4 / V again, and that is as much as the scores scatter.
    videos, classes = 60, 25
    values = np.random.default_rng(5).normal(1, 2, (videos, REPETITIONS * classes))

    def squares(statistics, weights=None):
        weights = np.ones(videos) if weights is None else weights
        return Named(((weights @ values / videos) ** 2).reshape(REPETITIONS, classes).mean(axis=1))

    statistics = means([0] * videos, videos=names(videos))
    found = confidence_interval(squares, statistics, np.random.default_rng(6), 199)
    assert 0.93 <= covered(found, 1 + 4 / videos) <= 0.97


def rejected(a, b):
    found = paired_bootstrap(ratio, a, b, np.random.default_rng(7), 199)
    assert len(found) == REPETITIONS
    return np.mean([one.p <= 0.05 for one in found.values()])


def systems(effect, runs=1, of_run=0.0, on_video=1.0, videos=60):
    """Return the seeds of two systems: what both find hard, what each run does to a video, and what it is worth."""
    generator = np.random.default_rng(8)
    shared = generator.normal(0, 3, (videos, REPETITIONS))

    def run(worth):
        chance = generator.normal(0, on_video, (videos, REPETITIONS)) + generator.normal(0, of_run, REPETITIONS)
        return PerVideo(names(videos), shared + worth + chance, np.ones((videos, 1)))

    return [run(0.0) for _ in range(runs)], [run(effect) for _ in range(runs)]


def test_equal_systems_differ_as_seldom_as_p_says():
    assert 0.03 <= rejected(*systems(0.0)) <= 0.07


def test_p_is_uniform_where_systems_are_equal():
    found = paired_bootstrap(ratio, *systems(0.0), np.random.default_rng(9), 399)
    shares = np.histogram([one.p for one in found.values()], bins=5, range=(0, 1))[0] / REPETITIONS
    np.testing.assert_allclose(shares, 0.2, atol=0.05)


def test_an_effect_is_found():
    # The difference of 60 pairs has a standard error of sqrt(2 / 60) = 0.18: an effect of four of them is nearly always
    # found, although what both systems share scatters by 3 / sqrt(60) = 0.39.
    assert rejected(*systems(0.73)) >= 0.95


@pytest.mark.parametrize(
    ("runs", "of_run", "on_video"), [(2, 1.0, 0.1), (3, 1.0, 0.1), (5, 1.0, 0.1), (3, 0.13, 1.0), (3, 0.0, 1.0)]
)
def test_equal_systems_with_several_seeds_differ_about_as_seldom_as_p_says(runs, of_run, on_video):
    assert rejected(*systems(0.0, runs, of_run, on_video)) <= 0.08


@pytest.mark.parametrize(("runs", "power"), [(2, 0.6), (3, 0.8)])
def test_an_effect_is_found_with_several_seeds(runs, power):
    # What runs do to single videos is all that scatters: the difference has a standard error of sqrt(2 / 60 / runs).
    assert rejected(*systems(4 * math.sqrt(2 / 60 / runs), runs)) >= power


def test_without_seeds_chance_in_training_passes_for_an_effect():
    assert rejected(*systems(0.0, 1, 1.0, 0.1)) >= 0.5
