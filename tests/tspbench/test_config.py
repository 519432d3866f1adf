import pytest
from pydantic import Field, ValidationError

from tests.tspbench.helpers import one_sentence
from tspbench.config import Settings, choose, validated


class Fit(Settings):
    epochs: int = Field(3, ge=1)
    learning_rate: float = 0.1
    milestones: tuple[int, ...] = Field((), strict=False)


class Whole(Settings):
    name: str
    fit: Fit = Fit()
    stages: dict[str, Fit] = Field(default_factory=dict)
    rows: tuple[Fit, ...] = Field((), strict=False)


def test_settings_come_out_as_they_went_in():
    whole = validated(Whole, {"name": "a", "stages": {"x": {"epochs": 2}}, "rows": [{"milestones": [1, 2]}]}, "f.toml")
    assert whole.fit.epochs == 3
    assert whole.stages["x"].epochs == 2
    assert whole.rows[0].milestones == (1, 2)


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"nmae": "a", "name": "a"}, "'nmae'", "'name'"),
        ({"name": "a", "fit": {"epoch": 3}}, "'fit.epoch'", "'epochs'"),
        ({"name": "a", "stages": {"tsp": {"learning_rates": 3}}}, "'stages.tsp.learning_rates'", "'learning_rate'"),
        ({"name": "a", "rows": [{}, {"milestone": 3}]}, "'rows.1.milestone'", "'milestones'"),
    ],
)
def test_an_unknown_key_names_the_nearest(values, key, nearest):
    with one_sentence("f.toml", key, f"did you mean {nearest}?"):
        validated(Whole, values, "f.toml")


def test_an_unknown_key_near_nothing_suggests_nothing():
    with pytest.raises(Exception, match="'zzz' is not a known key\\.") as caught:
        validated(Whole, {"name": "a", "zzz": 1}, "f.toml")
    assert "did you mean" not in str(caught.value)


def test_all_problems_are_reported_together():
    values = {"fit": {"epochs": 0, "learning_rate": "fast"}, "rows": 3, "nam": "x"}
    with one_sentence("'name' is missing", "'fit.epochs'", "found 0", "'fit.learning_rate'", "found 'fast'", "'rows'"):
        validated(Whole, values, "f.toml")


@pytest.mark.parametrize(
    "values",
    [
        {"name": 3},
        {"name": "a", "fit": {"epochs": "3"}},
        {"name": "a", "fit": {"epochs": 3.0}},
        {"name": "a", "fit": {"epochs": True}},
        {"name": "a", "fit": {"learning_rate": "0.1"}},
        {"name": "a", "fit": 3},
        {"name": "a", "fit": None},
    ],
)
def test_types_are_strict(values):
    with one_sentence("f.toml"):
        validated(Whole, values, "f.toml")


def test_a_whole_number_is_a_rate_too():
    assert validated(Fit, {"learning_rate": 1}, "f.toml").learning_rate == 1.0


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Fit().epochs = 4


def test_choose_names_the_nearest_and_all():
    assert choose("method", "tsp", ["tac", "tsp"]) == "tsp"
    with one_sentence("'tps' is not a known method", "did you mean 'tsp'?", "known are tac, tsp"):
        choose("method", "tps", ["tsp", "tac"])
