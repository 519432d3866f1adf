"""Every shipped recipe is sound."""

import pytest

import tspbench.checking
from tests.test_cli import run
from tspbench.recipe import SHIPPED, read_recipe

RECIPES = sorted(path.stem for path in SHIPPED.glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_check_passes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tspbench.checking, "costs", lambda *_: [])  # tests/tspbench/test_checking.py measures
    monkeypatch.chdir(tmp_path)
    result = run("check", name, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "score" in result.stdout or "are missing" in result.stdout
    assert not (tmp_path / "out").exists(), "a check does nothing"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_title_and_rows(name):
    recipe = read_recipe(name, [])
    assert recipe.title
    assert recipe.rows
