"""A check says what is there, what is missing with the way to get it, and what the rest will cost."""

import json
import math
import re

import h5py
import numpy as np
import pytest

import tspbench.estimate
from tests.test_cli import run
from tspbench.encoders import new_encoder
from tspbench.estimate import SetSize, costs, epoch_clips, set_size
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity
from tspbench.pretraining.memory import training_memory
from tspbench.probe import StepCost, encoder_cost, frame_seconds, localizer_cost, lofi_bytes
from tspbench.recipe import SHIPPED, read_recipe
from tspbench.sources import Sources
from tspbench.stages.published import published
from tspbench.storage.catalog import DATA_VARIABLE

REAL = sorted({path.stem for path in SHIPPED.glob("*.toml")} - {"demo", "smoke"})


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Make an empty data root, and a machine on which every step takes a second."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tspbench.estimate, "encoder_cost", lambda *_: StepCost(1.0, 3.0, 2.0**21, 2.0**20, 4 * 2.0**30))
    monkeypatch.setattr(tspbench.estimate, "localizer_cost", lambda *_: StepCost(1.0, 2.0, 2.0**20, 2.0**20, 2.0**20))
    monkeypatch.setattr(tspbench.estimate, "frame_seconds", lambda *_: 0.0)
    monkeypatch.setattr(tspbench.estimate, "lofi_bytes", lambda *_: 3 * 2**30)
    return tmp_path / "data"


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_without_any_data_says_what_is_missing_and_how_to_get_it(name, data):
    result = run("check", name)
    assert result.exit_code == 0, result.stderr
    recipe = read_recipe(name, [])
    for row in recipe.rows:
        assert f"- {row.name}: any of these would do" in result.stdout
    assert "tspbench fetch" in result.stdout
    assert re.search(r"\d+ things are missing", result.stdout)
    assert "memory, GiB" in result.stdout
    assert not data.exists(), "a check does nothing"


def test_the_size_of_a_benchmark_is_known_before_it_is_there():
    recipe = read_recipe("activitynet-tal", [])
    size = set_size(recipe, Sources(recipe), "target")
    assert epoch_clips(recipe, "tsp", size) == {"training": 155_935, "validation": 76_525}
    # TAC is shown background clips, too, that carry no loss; it is validated on actions alone.
    assert epoch_clips(recipe, "tac", size) == {"training": 155_935, "validation": 5 * 7_558}


def test_balanced_epochs_have_as_many_clips_of_background():
    recipe = read_recipe("demo", [])
    size = SetSize({}, {}, {"training": 10, "validation": 4}, {"training": 30, "validation": 6})
    assert epoch_clips(recipe, "tsp", size) == {"training": 4 * 20, "validation": 4 * 10}
    assert epoch_clips(recipe, "tac", size) == {"training": 4 * 10, "validation": 4 * 4}


def test_costs_are_counts_times_what_was_measured():
    recipe = read_recipe("activitynet-tal", [])
    found = {cost.what: cost for cost in costs(recipe, Sources(recipe), "cpu")}
    tsp = found["pretrain tsp"]
    assert tsp.hours == pytest.approx(8 * (155_935 * 3 + 76_525) / 3600)
    assert tsp.memory_bytes == 4 * 2**30 + 64 * 2**20
    clips = round((1_175_132 + 581_972) * 15 / 16)
    assert found["extract tsp"].hours == pytest.approx(clips / 3600)
    assert found["extract tsp"].disk_bytes == clips * 512 * 4
    assert found["extract tsp"].memory_bytes == 2**30 + 32 * 2**21
    tal = found["tal: gtad, 3 rows"]
    assert tal.hours == pytest.approx(3 * (10 * 10_024 * 2 + 4_926) / 3600)


def test_a_step_of_lofi_costs_a_clip_for_each_snippet_and_one_more_forward_pass():
    recipe = read_recipe("activitynet-lofi", ["pretrain.spatial.end_to_end.chunk_snippets=null"])
    found = {cost.what: cost for cost in costs(recipe, Sources(recipe), "cpu")}
    # 100 snippets of 112 pixels are 25 clips of 224; in chunks a clip takes 3 + 1 seconds, else 3.
    assert found["pretrain spatial"].hours == pytest.approx(15 * 10_024 * 25 * 3 / 3600)
    assert found["pretrain temporal"].hours == pytest.approx(15 * 10_024 * 25 * 4 / 3600)
    per_video = (25 + 50 * (158 / 224) ** 2 + 25) / 3  # epochs take turns
    assert found["pretrain long-cycle"].hours == pytest.approx(15 * 10_024 * per_video * 4 / 3600)
    assert found["pretrain short-cycle"].hours == found["pretrain long-cycle"].hours
    assert found["pretrain temporal"].memory_bytes == 3 * 2**30
    assert "10,024 videos of 100 / 50 / 25 snippets, 15 epochs" in found["pretrain long-cycle"].amount


def test_memory_of_lofi_is_what_a_budget_counts():
    stage = read_recipe("activitynet-lofi", []).pretrain["long-cycle"]
    small = {"hidden_1d": 32, "hidden_2d": 8, "hidden_3d": 16}
    turns = (Fidelity(snippets=12, pixels=24), Fidelity(snippets=6, pixels=48))
    settings = EndToEndSettings(localizer="bmn", config=small, fidelities=turns, chunk_snippets=8)
    memory = training_memory(new_encoder("tiny", seed=0), settings, stage.fit, "cpu")
    assert memory.batch_size == 16
    expected = [memory.step_bytes(turn, 8) for turn in turns]
    assert lofi_bytes("tiny", settings, stage.fit, "cpu") == max(expected)
    assert lofi_bytes("tiny", settings.model_copy(update={"fidelities": turns[:1]}), stage.fit, "cpu") == expected[0]
    # Without chunks, all 16 x 12 and 16 x 6 snippets are kept.
    whole = settings.model_copy(update={"chunk_snippets": None})
    kept = max(memory.step_bytes(turn, 16 * turn.snippets) for turn in turns)
    assert lofi_bytes("tiny", whole, stage.fit, "cpu") == kept > max(expected)


def test_what_a_memory_budget_chooses_is_not_known_before():
    recipe = read_recipe("activitynet-lofi", ["pretrain.spatial.end_to_end.memory_gib=12.0"])
    cost = next(cost for cost in costs(recipe, Sources(recipe), "cpu") if cost.what == "pretrain spatial")
    assert math.isnan(cost.hours)
    assert cost.memory_bytes == 12 * 2**30


def test_reading_and_decoding_of_snippets_counts_by_their_frames(monkeypatch):
    monkeypatch.setattr(tspbench.estimate, "frame_seconds", lambda *_: 1.0)
    recipe = read_recipe("activitynet-lofi", [])
    cost = next(cost for cost in costs(recipe, Sources(recipe), "cpu") if cost.what == "pretrain temporal")
    assert cost.hours == pytest.approx(15 * 10_024 * (25 * 4 + 25 * 8) / 3600)


def test_a_gpu_computes_while_others_decode(monkeypatch):
    monkeypatch.setattr(tspbench.estimate, "frame_seconds", lambda *_: 1.0)
    recipe = read_recipe("activitynet-tal", [])
    on = {device: costs(recipe, Sources(recipe), device)[-2].hours for device in ("cpu", "cuda")}
    clips = round((1_175_132 + 581_972) * 15 / 16)
    assert on["cpu"] == pytest.approx(clips * 17 / 3600)
    assert on["cuda"] < on["cpu"]


def test_features_that_are_there_are_counted_against_the_annotations(data):
    home = data / "activitynet"
    (home / "features").mkdir(parents=True)
    entry = {"duration": 9.0, "annotations": [{"segment": [0, 3], "label": "A"}]}
    database = {f"t{k}": {**entry, "subset": "training"} for k in range(3)}
    database |= {f"v{k}": {**entry, "subset": "validation"} for k in range(4)}
    (home / "annotations.json").write_text(json.dumps({"database": database}))
    for model in ("tac_on_kinetics", "tac_on_activitynet", "tsp_on_activitynet"):
        for split, names in (("train", ["v_t0", "v_t1", "v_t2"]), ("valid", ["v_v0", "v_v1", "v_v3"])):
            with h5py.File(home / "features" / f"r2plus1d_34-{model}-{split}_features.h5", "w") as file:
                for name in names:
                    file[name] = np.zeros((8, 512), dtype=np.float32)
    result = run("check", "activitynet-tal", "--set", "class_scores=null")
    assert result.stdout.count("features of 3, 1 missing (v2)") == 3
    assert result.stdout.count("features of 3, none missing") == 3
    assert "Ready to run." in result.stdout
    assert "tal/tsp-on-activitynet/train" in result.stdout


def test_the_probes_measure():
    for cost in (
        encoder_cost("tiny", "tsp", "cpu"),
        localizer_cost(
            published("bmn", "activitynet").model_copy(update={"config": {"steps": 16, "max_duration": 16}}), 8, "cpu"
        ),
    ):
        assert cost.forward_seconds > 0
        assert cost.train_seconds > 0
        assert cost.train_bytes > 1000
        assert cost.forward_bytes > 1000
        assert cost.fixed_bytes > 1000
    assert 0 < frame_seconds("tiny") < 10
