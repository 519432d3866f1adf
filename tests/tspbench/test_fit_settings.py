import math

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.config import Settings, validated
from tspbench.fit_settings import NOT_IN_RESULT, FitSettings, learning_rate_factor


def published(**changes):
    """Return the schedule of TSP's recipe: 2 epochs of warm-up from 1e-5, times 0.01 at epochs 4 and 6 of 8."""
    settings = FitSettings(
        epochs=8,
        batch_size=1,
        optimizer="sgd",
        learning_rates={},
        warmup_epochs=2,
        warmup_factor=1e-5,
        milestones=(4, 6),
        gamma=0.01,
    )
    return settings.model_copy(update=changes)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-5),
        (1, 1e-5 * 19 / 20 + 1 / 20),
        (10, 1e-5 / 2 + 1 / 2),
        (19, 1e-5 / 20 + 19 / 20),
        (20, 1.0),
        (39, 1.0),
        (40, 0.01),
        (59, 0.01),
        (60, 1e-4),
        (79, 1e-4),
    ],
)
def test_the_published_schedule_by_hand(step, factor):
    assert learning_rate_factor(step, 10, published()) == pytest.approx(factor, rel=1e-12)


def test_without_warm_up_and_milestones_the_rate_stays():
    settings = published(warmup_epochs=0, milestones=())
    assert {learning_rate_factor(step, 10, settings) for step in range(80)} == {1.0}


def test_a_milestone_inside_the_warm_up_acts_at_once():
    assert learning_rate_factor(10, 10, published(milestones=(1,))) == pytest.approx(0.01 * (1e-5 / 2 + 1 / 2))


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-5),
        (25, 1e-5 / 2 + 1 / 2),
        (49, 1e-5 / 50 + 49 / 50),
        (50, 1.0),
        (75, (1 + math.sqrt(1 / 2)) / 2),
        (100, 1 / 2),
        (125, (1 - math.sqrt(1 / 2)) / 2),
        (149, math.sin(math.pi / 200) ** 2),
    ],
)
def test_the_schedule_of_actionformer_by_hand(step, factor):
    settings = published(schedule="cosine", epochs=15, warmup_epochs=5, milestones=())
    assert learning_rate_factor(step, 10, settings) == pytest.approx(factor, rel=1e-12)


def test_a_cosine_without_warm_up_begins_at_once():
    settings = published(schedule="cosine", epochs=2, warmup_epochs=0, milestones=())
    factors = [learning_rate_factor(step, 3, settings) for step in range(6)]
    # Half of 1 + the cosine of 0°, 30°, 60°, 90°, 120° and 150°.
    half = math.sqrt(3) / 2
    assert factors == pytest.approx([1, (1 + half) / 2, 3 / 4, 1 / 2, 1 / 4, (1 - half) / 2], rel=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "cosine", "milestones": [3]}, ("fit.milestones", '"cosine" has no milestones', "[3]")),
        ({"schedule": "cosine", "warmup_epochs": 4}, ("fit.warmup_epochs", "shorter than the training", "found 4")),
        ({"patience": 2}, ("fit.patience", 'choose "best"', "found 2")),
        ({"average": 1.0}, ("fit.average", "less than 1")),
        ({"average": 0.0}, ("fit.average", "greater than 0")),
        ({"clip_norm": 0.0}, ("fit.clip_norm", "greater than 0")),
        ({"optimizer": "adamax"}, ("fit.optimizer", "adamw")),
        ({"decay": "none"}, ("fit.decay", "weights")),
        ({"optimizer": "adam", "momentum": 0.5}, ("fit.momentum", '"sgd"', "found 0.5")),
        ({"momentum": 1.0}, ("fit.momentum", "less than 1")),
        ({"micro_batch": 0}, ("fit.micro_batch", "greater than or equal to 1")),
        ({"batch_norm": "none"}, ("fit.batch_norm", "'each-device', 'synchronized' or 'frozen'")),
        ({"checkpoint_minutes": -1.0}, ("fit.checkpoint_minutes", "greater than or equal to 0")),
        ({"keep_checkpoints": 0}, ("fit.keep_checkpoints", "greater than or equal to 1")),
    ],
)
def test_settings_without_sense_are_one_sentence(values, words):
    class Whole(Settings):
        fit: FitSettings

    whole = {"epochs": 4, "batch_size": 1, "optimizer": "sgd", "learning_rates": {}}
    validated(Whole, {"fit": whole}, "recipe")
    with one_sentence(*words):
        validated(Whole, {"fit": {**whole, **values}}, "recipe")


def test_milestones_and_a_long_warm_up_go_with_steps():
    assert FitSettings(epochs=4, batch_size=1, optimizer="sgd", learning_rates={}, warmup_epochs=4, milestones=(3,))


def test_settings_that_were_written_down_can_be_read_again():
    settings = FitSettings(epochs=4, batch_size=1, optimizer="adam", learning_rates={})
    assert FitSettings.model_validate(settings.model_dump()) == settings


def test_what_does_not_decide_the_result_are_settings():
    assert FitSettings.model_fields.keys() > NOT_IN_RESULT
