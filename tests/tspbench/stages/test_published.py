"""FACTS 3.3, 4.3, 6.1 and 6.2."""

import pytest

from baselines import LOCALIZERS, REFINERS
from tspbench.proposal_batches import RefineSettings
from tspbench.stages.published import PUBLISHED, published
from tspbench.stages.train import new_localizer

FIT = {
    # epochs, batch size, optimizer, learning rate, weight decay, milestones
    ("gtad", "activitynet"): (10, 16, "adam", 0.004, 1e-4, (5,)),
    ("gtad", "thumos14"): (10, 8, "adam", 4e-5, 1e-4, (5,)),
    ("bmn", "activitynet"): (9, 16, "adam", 0.001, 1e-4, (6,)),
    ("bmn", "thumos14"): (10, 16, "adam", 0.001, 1e-4, (7,)),
    ("actionformer", "activitynet"): (15, 16, "adamw", 0.001, 0.05, ()),
    ("actionformer", "thumos14"): (35, 2, "adamw", 1e-4, 0.05, ()),
    ("pgcn", "activitynet"): (70, 32, "sgd", 0.01, 5e-4, (15, 30, 45)),
    ("pgcn", "thumos14"): (70, 32, "sgd", 0.01, 5e-4, (15, 30, 45)),
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
    model = new_localizer(settings, 512, seed=0, classes=20)
    assert isinstance(model, (LOCALIZERS | REFINERS)[name])
    whole = name in ("actionformer", "pgcn")
    modes = {"activitynet": "padded" if name == "pgcn" else "rescale", "thumos14": "padded" if whole else "windows"}
    assert settings.time.mode == modes[benchmark]


def test_every_localizer_has_settings_for_both():
    assert set(PUBLISHED) == set(LOCALIZERS | REFINERS)
    assert all(set(by_benchmark) == {"activitynet", "thumos14"} for by_benchmark in PUBLISHED.values())


def test_a_refiner_sees_what_that_of_the_release_sees():
    """pgcn_opts.py, data/dataset_cfg.yaml and get_optim_policies of pgcn_models.py: 8,750 steps with 200 videos."""
    settings = published("pgcn", "thumos14")
    assert settings.time.step_seconds == pytest.approx(8 / 30)
    assert settings.refine == RefineSettings(best=None, passes=20)
    assert settings.fit.epochs * 200 * settings.refine.passes / settings.fit.batch_size == 8750
    assert settings.fit.learning_rates["biases"] == 2 * settings.fit.learning_rates["localizer"]
    assert settings.fit.decay == "weights"


@pytest.mark.parametrize(
    ("name", "benchmark", "channels", "expected"),
    [
        ("gtad", "thumos14", 2048, 5_617_540),
        ("bmn", "activitynet", 512, 5_000_068),
        ("actionformer", "activitynet", 512, 6_943_497),
        ("actionformer", "thumos14", 2048, 29_251_612),
    ],
)
def test_the_networks_are_of_the_published_size(name, benchmark, channels, expected):
    model = new_localizer(published(name, benchmark), channels, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("protocol", "benchmark"),
    [("thumos14-212", "thumos14"), ("activitynet-4728", "activitynet"), ("a set of mine", "activitynet")],
)
def test_the_benchmark_follows_from_the_protocol(protocol, benchmark):
    assert published("gtad", protocol) is PUBLISHED["gtad"][benchmark]
