"""FACTS 3.3, 4.3 and 6.2."""

import pytest

from baselines import LOCALIZERS
from tspbench.stages.published import PUBLISHED, published
from tspbench.stages.train import new_localizer

FIT = {
    # epochs, batch size, optimizer, learning rate, weight decay, milestones
    ("gtad", "activitynet"): (10, 16, "adam", 0.004, 1e-4, (5,)),
    ("gtad", "thumos14"): (10, 8, "adam", 4e-5, 1e-4, (5,)),
    ("bmn", "activitynet"): (9, 16, "adam", 0.001, 1e-4, (6,)),
    ("bmn", "thumos14"): (10, 16, "adam", 0.001, 1e-4, (7,)),
    ("actionformer", "activitynet"): (15, 16, "adamw", 0.001, 0.05, ()),
}
EVERY = [(name, benchmark) for name, by_benchmark in PUBLISHED.items() for benchmark in by_benchmark]


@pytest.mark.parametrize(("name", "benchmark"), EVERY)
def test_training_is_that_of_the_paper_or_its_release(name, benchmark):
    fit = published(name, benchmark).fit
    rate = fit.learning_rates["localizer"]
    found = (fit.epochs, fit.batch_size, fit.optimizer, rate, fit.weight_decay, fit.milestones)
    assert found == FIT[name, benchmark]
    assert fit.select == "last"


@pytest.mark.parametrize(("name", "benchmark"), EVERY)
def test_the_settings_fit_the_localizer(name, benchmark):
    settings = published(name, benchmark)
    model = new_localizer(settings, 512, seed=0)
    assert isinstance(model, LOCALIZERS[name])
    assert (settings.time.mode == "windows") == (benchmark == "thumos14")


def test_every_localizer_has_settings_for_activitynet():
    assert set(PUBLISHED) == set(LOCALIZERS)
    assert all("activitynet" in by_benchmark for by_benchmark in PUBLISHED.values())


@pytest.mark.parametrize(
    ("protocol", "benchmark"),
    [("thumos14-212", "thumos14"), ("activitynet-4728", "activitynet"), ("a set of mine", "activitynet")],
)
def test_the_benchmark_follows_from_the_protocol(protocol, benchmark):
    assert published("gtad", protocol) is PUBLISHED["gtad"][benchmark]
    assert published("actionformer", protocol) is PUBLISHED["actionformer"]["activitynet"]
