"""What a recipe leaves out is as published; what it says stays as it is."""

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.recipe import read_recipe
from tspbench.recipe_defaults import completed
from tspbench.stages.pretrain import PUBLISHED_FIT
from tspbench.stages.pretrain_lofi import PUBLISHED_LOFI_FIT
from tspbench.stages.published import BMT, published

FIT = {"epochs": 3, "batch_size": 2, "optimizer": "adam", "learning_rates": {"localizer": 0.5}}


def test_a_training_that_is_left_out_is_the_published_one():
    recipe = read_recipe("activitynet-tal", [])
    assert recipe.pretrain["tsp"].fit == PUBLISHED_FIT
    assert recipe.tasks.tal == published("gtad", "activitynet")
    assert read_recipe("activitynet-captioning", []).tasks.captioning == BMT


def test_the_protocol_of_the_target_decides_which():
    recipe = read_recipe("transfer", ["data.target=thumos14"])
    assert recipe.tasks.tal == published("gtad", "thumos14")


def test_another_localizer_has_its_own_published_training():
    assert read_recipe("activitynet-tal", ["tasks.tal.name=actionformer"]).tasks.tal == published(
        "actionformer", "activitynet"
    )


def test_lofi_has_a_published_training_of_its_own():
    recipe = read_recipe("activitynet-lofi", ["pretrain.temporal.fit.batch_size=4"])
    assert recipe.pretrain["spatial"].fit == PUBLISHED_LOFI_FIT
    assert recipe.pretrain["temporal"].fit == PUBLISHED_LOFI_FIT.model_copy(update={"batch_size": 4})
    assert recipe.pretrain["classified"].fit == PUBLISHED_FIT


def test_the_published_training_of_lofi():
    """LoFi, section 4.1 as FACTS 2.1 has it: the rate of all weights is halved every 5 epochs."""
    fit = PUBLISHED_LOFI_FIT
    assert (fit.optimizer, fit.momentum, fit.weight_decay, fit.batch_size) == ("sgd", 0.0, 1e-4, 16)
    assert fit.learning_rates == {"stem": 0.1, "backbone": 0.1, "heads": 0.1}
    assert (fit.milestones, fit.gamma) == (tuple(range(5, fit.epochs, 5)), 0.5)


def test_single_values_change_the_published_ones():
    recipe = read_recipe("activitynet-tal", ["pretrain.tsp.fit.epochs=2", "tasks.tal.fit.epochs=1"])
    assert recipe.pretrain["tsp"].fit == PUBLISHED_FIT.model_copy(update={"epochs": 2})
    assert recipe.tasks.tal.fit == published("gtad", "activitynet").fit.model_copy(update={"epochs": 1})
    heads = read_recipe("ablation-gvf", []).pretrain["none"].fit
    assert heads.learning_rates == {"stem": 0.0, "backbone": 2e-4, "heads": 8e-3}


def test_a_training_that_names_its_optimizer_says_everything_itself():
    content = {"tasks": {"tal": {"name": "gtad", "fit": FIT}}, "pretrain": {"a": {"fit": FIT}}}
    assert completed(content) == content


@pytest.mark.parametrize("content", [{}, {"tasks": 3, "pretrain": [1]}, {"tasks": {"tal": 1}}, {"pretrain": {"a": 2}}])
def test_what_is_no_recipe_is_left_to_those_who_say_so(content):
    assert completed(content) == content


def test_an_unknown_localizer_is_named():
    with one_sentence("tasks.tal.fit", "missing"):
        read_recipe("activitynet-tal", ["tasks.tal.name=gtat"])
