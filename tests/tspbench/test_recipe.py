import copy

import pytest

from tests.tspbench.helpers import one_sentence
from tspbench.recipe import SHIPPED, Recipe, applied, read_recipe
from tspbench.storage.recipes import read_toml, write_toml

FIT = {
    "epochs": 1,
    "batch_size": 2,
    "optimizer": "adam",
    "learning_rates": {"stem": 0.0, "backbone": 0.1, "heads": 0.1},
}
CONTENT = {
    "name": "mine",
    "title": "Mine",
    "encoder": "tiny",
    "data": {"trimmed": "synthetic-trimmed", "target": "synthetic"},
    "pretrain": {
        "first": {"method": "tac", "data": "trimmed", "init": "random", "fit": FIT},
        "second": {"method": "tsp", "data": "target", "init": "first", "fit": FIT},
    },
    "class_scores_from": "second",
    "tasks": {"tal": {"name": "gtad", "fit": {**FIT, "learning_rates": {"localizer": 0.1}}}},
    "references": ["whole-video"],
    "rows": [{"name": "floor", "features": "random"}, {"name": "TSP", "features": "second"}],
}


def read(folder, content, *changes):
    write_toml(folder / "mine.toml", content)
    return read_recipe(str(folder / "mine.toml"), changes)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_every_shipped_recipe_reads_by_name_and_comes_back(name, tmp_path):
    recipe = read_recipe(name, [])
    assert recipe.name == name
    write_toml(tmp_path / "resolved.toml", recipe.model_dump(mode="json", exclude_none=True))
    assert read_recipe(str(tmp_path / "resolved.toml"), []) == recipe


def test_a_recipe_of_ones_own(tmp_path):
    recipe = read(tmp_path, CONTENT)
    assert isinstance(recipe, Recipe)
    assert recipe.pretrain["second"].fit.learning_rates == {"stem": 0.0, "backbone": 0.1, "heads": 0.1}
    assert recipe.seed == 0
    assert [row.features for row in recipe.rows] == ["random", "second"]


def test_settings_are_changed_by_their_path(tmp_path):
    recipe = read(
        tmp_path,
        CONTENT,
        "seed=7",
        "title=A plain title",
        " tasks.tal.config.steps = 128 ",
        "pretrain.second.fit.learning_rates.stem=1e-3",
        'pretrain.second.heads=["region"]',
        "pretrain.first.fit.milestones=[1, 2]",
        'class_scores_from="first"',
    )
    assert (recipe.seed, recipe.title, recipe.tasks.tal.config) == (7, "A plain title", {"steps": 128})
    assert recipe.pretrain["second"].fit.learning_rates == {"stem": 1e-3, "backbone": 0.1, "heads": 0.1}
    assert recipe.pretrain["second"].heads == ("region",)
    assert recipe.pretrain["first"].fit.milestones == (1, 2)
    assert recipe.class_scores_from == "first"


def test_changes_leave_what_they_change_alone():
    before = copy.deepcopy(CONTENT)
    changed = applied(CONTENT, ["pretrain.first.fit.epochs=9", "new.table.key=a=b"])
    assert before == CONTENT
    assert changed["pretrain"]["first"]["fit"]["epochs"] == 9
    assert changed["new"] == {"table": {"key": "a=b"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.0", 3.0),
        ("true", True),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("{ a = 1 }", {"a": 1}),
        ("word", "word"),
        ("two words", "two words"),
        ("data/set", "data/set"),
        ("", ""),
        ("None", "None"),
        ("null", None),
    ],
)
def test_values_are_toml_or_else_words(text, value):
    assert applied({}, [f"key={text}"]) == {"key": value}


@pytest.mark.parametrize("change", ["seed", "=3", "", " =3"])
def test_a_change_without_key_or_value_is_one_sentence(change):
    with one_sentence(f"--set {change}", "expected key=value"):
        applied(CONTENT, [change])


@pytest.mark.parametrize("change", ["seed.x=1", "rows.0.name=x", "encoder.name=tiny"])
def test_a_change_through_a_value_is_one_sentence(change):
    with one_sentence(f"--set {change}", "is a value"):
        applied({**CONTENT, "seed": 3}, [change])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("pretrain.second.fit.epoch=4", ["'pretrain.second.fit.epoch'", "did you mean 'epochs'?"]),
        ("seed=1.5", ["'seed'", "found 1.5"]),
        ("seed=-1", ["'seed'", "found -1"]),
        ("pretrain.tps.fit.epochs=4", ["'pretrain.tps.method' is missing"]),
        ("pretrain..x=4", ["'pretrain..x'"]),
        ("encoder=tinny", ["'tinny'", "did you mean 'tiny'?"]),
        ("target=traget", ["'traget'", "did you mean 'target'?", "trimmed"]),
        ("data.target=synthetics", ["'synthetics'", "did you mean 'synthetic'?", "data.target"]),
        ("pretrain.first.method=tsb", ["'tsb'", "pretrain.first.method"]),
        ("pretrain.first.data=target2", ["'target2'", "did you mean 'target'?", "pretrain.first.data"]),
        ("pretrain.first.init=secnd", ["'secnd'", "pretrain.first.init"]),
        ("pretrain.first.init=second", ["'second'", "pretrain.first.init", "known are imagenet, kinetics, random"]),
        ("pretrain.second.init=missing.pth", ["'missing.pth'", "weight file"]),
        ("class_scores_from=third", ["'third'", "class_scores_from"]),
        ('rows=[{name="a", features="third"}]', ["'third'", "row 'a'"]),
        ("tasks.tal.name=gtat", ["'gtat'", "did you mean 'gtad'?"]),
        ("tasks.tal.config.step=4", ["'step'", "did you mean 'steps'?"]),
        ('rows=[{name="a", features="random"}, {name="a", features="first"}]', ["'a'", "share the folder"]),
        (
            'rows=[{name="a b", features="random"}, {name="A-B", features="first"}]',
            ["'a b'", "'A-B'", "share the folder"],
        ),
        ("tasks={}", ["rows but no task", "[tasks.tal]"]),
        ('references=["whole"]', ["'whole'", "did you mean 'whole-video'?"]),
        ('references=["random-features"]', ["'random-features'", "a row of their own"]),
        ('rows=[{name="Whole video", features="first"}]', ["'Whole video'", "share the folder"]),
        ('rows=[{name="Comparison", features="first"}]', ["'Comparison'", "share the folder"]),
        ("tasks.tall.name=gtad", ["'tasks.tall' is not a known key", "did you mean 'tal'?"]),
        ("tasks.tal.time.mode=padded", ["gtad", "padding"]),
        ("tasks.tal.time.window_stride=3", ["window_stride", "rescale"]),
        ("tasks.tal.config.steps=4", ["localizer gtad", ": max_duration 100 is longer"]),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_any_work(tmp_path, change, parts):
    with one_sentence(*parts):
        read(tmp_path, CONTENT, change)


def test_weight_files_and_folders_are_references_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").write_bytes(b"")
    (tmp_path / "videos").mkdir()
    changes = ["pretrain.first.init=mine.pth", "data.trimmed=videos", 'rows=[{name="a", features="mine.pth"}]']
    recipe = read(tmp_path, CONTENT, *changes)
    assert recipe.pretrain["first"].init == "mine.pth"


def test_an_unknown_recipe_names_the_nearest():
    with one_sentence("'dmo'", "did you mean 'demo'?"):
        read_recipe("dmo", [])


def test_mistakes_name_their_file(tmp_path):
    (tmp_path / "r.toml").write_text("name = \n")
    with one_sentence(tmp_path / "r.toml", "line 1"):
        read_recipe(str(tmp_path / "r.toml"), [])
    with one_sentence(tmp_path / "mine.toml", "'encodr'", "'encoder' is missing"):
        read(tmp_path, {**{k: v for k, v in CONTENT.items() if k != "encoder"}, "encodr": "tiny"})


def test_reading_changes_nothing_on_disk(tmp_path):
    write_toml(tmp_path / "mine.toml", CONTENT)
    read_recipe(str(tmp_path / "mine.toml"), ["seed=4"])
    assert read_toml(tmp_path / "mine.toml") == CONTENT


WITH_LOFI = {
    **CONTENT,
    "pretrain": {
        **CONTENT["pretrain"],
        "through": {
            "method": "lofi",
            "data": "target",
            "init": "first",
            "end_to_end": {"fidelities": [{"snippets": 16, "pixels": 32}]},
            "fit": FIT,
        },
        "after": {"method": "tsp", "data": "target", "init": "through", "fit": FIT},
    },
    "class_scores_from": "after",
    "rows": [*CONTENT["rows"], {"name": "LoFi", "features": "through"}, {"name": "Both", "features": "after"}],
}


def test_rows_of_lofi_are_left_out_on_request_and_come_back(tmp_path):
    everything = read(tmp_path, WITH_LOFI)
    assert [row.name for row in everything.rows] == ["floor", "TSP", "LoFi", "Both"]
    assert everything.class_scores_from == "after"
    without = read(tmp_path, {**WITH_LOFI, "with_lofi": False})
    # What starts from an encoder of LoFi goes with it.
    assert [row.name for row in without.rows] == ["floor", "TSP"]
    assert without.class_scores_from is None
    assert without.pretrain == everything.pretrain
    assert read(tmp_path, {**WITH_LOFI, "with_lofi": False}, "with_lofi=true") == everything


def test_leaving_lofi_out_changes_nothing_else(tmp_path):
    assert read(tmp_path, {**CONTENT, "with_lofi": False}) == read(tmp_path, CONTENT).model_copy(
        update={"with_lofi": False}
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("pretrain.through.end_to_end.localizer=actionformer", ["'actionformer'", "known are bmn, gtad"]),
        ("pretrain.through.end_to_end.config.hidden=3", ["'hidden'", "end_to_end.config"]),
        ("pretrain.through.end_to_end.fidelities=[{snippets=16, pixels=64}]", ["48 pixels", "tiny", "found 64"]),
    ],
)
def test_what_does_not_fit_lofi_is_one_sentence_before_any_work(tmp_path, change, parts):
    with one_sentence(*parts):
        read(tmp_path, WITH_LOFI, change)


def test_random_features_alone_have_no_shape():
    with one_sentence("every row has random features"):
        read_recipe("smoke", ['rows=[{name="floor", features="random"}]'])
