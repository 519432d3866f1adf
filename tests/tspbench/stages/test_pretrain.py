import json

import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import one_sentence, silent, small_dataset, with_card
from tspbench.encoders import load_encoder, new_encoder
from tspbench.fit import FitSettings
from tspbench.pretraining.contract import BACKGROUND
from tspbench.stages.pretrain import (
    ENCODER_FILE,
    PUBLISHED_FIT,
    PretrainSettings,
    global_features,
    prepare_lesson,
    pretrain,
)
from tspbench.storage.checkpoints import read_weights

CLIP_SECONDS = 8 / 12
FIT = FitSettings(
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    learning_rates={"stem": 0.0, "backbone": 0.02, "heads": 0.02},
    select="best",
)
TSP = PretrainSettings(method="tsp", gvf="none", clips_per_segment=1, shortest_gap_clips=1.0, fit=FIT)
TAC = TSP.model_copy(update={"method": "tac"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.fixture
def gvf():
    rng = np.random.default_rng(0)
    return {f"v{k}": rng.standard_normal(6).astype(np.float32) for k in range(5)}


def lesson_of(dataset, settings, gvf=None):
    return prepare_lesson(dataset, CLIP_SECONDS, settings, gvf)


def run(folder, lesson, settings, seed=0, key="key", advance=silent):
    encoder = new_encoder("tiny", 0)
    return pretrain("tiny", encoder, lesson, settings, seed=seed, device="cpu", folder=folder, key=key, advance=advance)


def test_a_lesson_by_hand(dataset):
    lesson = lesson_of(dataset, TSP)
    assert lesson.labels == ("even", "odd")
    found = [(s.video, s.start, s.end, s.action) for s in lesson.training]
    assert found[:3] == [("v0", 1.0, 2.5, 0), ("v0", 0.0, 1.0, BACKGROUND), ("v0", 2.5, 4.0, BACKGROUND)]
    assert [s.action for s in lesson.training if not s.region] == [0, 1, 0]
    assert {s.video for s in lesson.validation} == {"v3", "v4"}
    assert sorted(lesson.videos) == [f"v{k}" for k in range(5)]
    # Gaps of 1 s and 1.5 s are shorter than 3 clips of 0.67 s.
    assert not any(s.region for s in lesson_of(dataset, TSP.model_copy(update={"shortest_gap_clips": 3.0})).training)


def test_tac_sees_actions_alone(dataset):
    assert [s.action for s in lesson_of(dataset, TAC).training] == [0, 1, 0]


def test_an_encoder_is_trained_and_says_what_it_was_taught(dataset, tmp_path):
    lesson = lesson_of(dataset, TSP)
    figures = run(tmp_path, lesson, TSP)
    assert figures["training_segments"] == {"foreground": 3, "background": 6}
    assert figures["validation_segments"] == {"foreground": 2, "background": 4}
    assert len(figures["epochs"]) == 2
    expected = {"action_loss", "region_loss", "total_loss", "action_accuracy", "region_accuracy", "mean_accuracy"}
    assert set(figures["epochs"][0]) == expected
    best = max(range(2), key=lambda k: figures["epochs"][k]["mean_accuracy"])
    assert figures["kept_epoch"] == best
    encoder, weights = load_encoder(None, tmp_path / ENCODER_FILE)
    assert weights.card == {
        "method": "tsp",
        "labels": ["even", "odd"],
        "seed": 0,
        "fingerprint": "key",
        "encoder": "tiny",
    }
    assert {head: tuple(parts["weight"].shape) for head, parts in weights.heads.items()} == {
        "action": (2, 128),
        "region": (2, 128),
    }
    fresh = new_encoder("tiny", 0).state_dict()
    trained = encoder.state_dict()
    assert torch.equal(fresh["stem.0.weight"], trained["stem.0.weight"])  # rate 0
    assert not torch.equal(fresh["stem.1.running_mean"], trained["stem.1.running_mean"])
    assert not torch.equal(fresh["stages.0.0.weight"], trained["stages.0.0.weight"])


@pytest.mark.parametrize("method", ["tac", "tsp"])
def test_a_run_that_breaks_off_ends_as_if_it_had_not(dataset, tmp_path, method):
    settings = {"tac": TAC, "tsp": TSP}[method]
    lesson = lesson_of(dataset, settings)
    told = run(tmp_path / "whole", lesson, settings)

    def stop(done, total, note=""):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", lesson, settings, advance=stop)
    assert not (tmp_path / "broken" / ENCODER_FILE).exists()
    assert run(tmp_path / "broken", lesson, settings) == told
    first, second = ((tmp_path / name / ENCODER_FILE).read_bytes() for name in ("whole", "broken"))
    assert first == second


def test_the_seed_decides(dataset, tmp_path):
    lesson = lesson_of(dataset, TAC)
    for name, seed in (("a", 1), ("b", 2)):
        run(tmp_path / name, lesson, TAC, seed=seed)
    weights = [read_weights(tmp_path / name / ENCODER_FILE) for name in "ab"]
    assert not torch.equal(weights[0].heads["action"]["weight"], weights[1].heads["action"]["weight"])


def test_global_features_widen_the_region_head(dataset, tmp_path, gvf):
    settings = TSP.model_copy(update={"gvf": "max"})
    run(tmp_path, lesson_of(dataset, settings, gvf), settings)
    heads = read_weights(tmp_path / ENCODER_FILE).heads
    assert heads["action"]["weight"].shape == (2, 128)
    assert heads["region"]["weight"].shape == (2, 128 + 6)


def test_tac_and_tsp_without_gvf_ask_for_none():
    assert not TAC.model_copy(update={"gvf": "max"}).needs_gvf()
    assert not TSP.needs_gvf()
    assert TSP.model_copy(update={"gvf": "avg"}).needs_gvf()


def test_single_heads_are_trained_alone(dataset, tmp_path):
    settings = TSP.model_copy(update={"heads": ("region",)})
    figures = run(tmp_path, lesson_of(dataset, settings), settings)
    assert set(figures["epochs"][0]) == {"region_loss", "total_loss", "region_accuracy", "mean_accuracy"}
    assert read_weights(tmp_path / ENCODER_FILE).heads.keys() == {"region"}


def test_missing_global_features_are_one_sentence(dataset, gvf):
    del gvf["v1"], gvf["v4"]
    with one_sentence("2 of 5 videos", "'v1'"):
        lesson_of(dataset, TSP.model_copy(update={"gvf": "max"}), gvf)


def test_missing_videos_are_counted_aloud_and_left_out(dataset, tmp_path, capsys):
    (tmp_path / "v").mkdir()
    for name in ("v0", "v3"):
        (tmp_path / "v" / f"{name}.mp4").symlink_to(dataset.videos / f"{name}.mp4")
    lesson = lesson_of(with_card(dataset, videos=str(tmp_path / "v")), TSP)
    assert sorted(lesson.videos) == ["v0", "v3"]
    told = capsys.readouterr().err
    assert "2 of 3 training videos are not there (first: v1)" in told
    assert "1 of 2 validation videos are not there (first: v4)" in told
    (tmp_path / "v" / "v3.mp4").unlink()
    with one_sentence(dataset.annotations, "'val'", "found none"):
        lesson_of(with_card(dataset, videos=str(tmp_path / "v")), TSP)


def test_a_duration_that_is_not_annotated_is_the_videos_own(dataset, tmp_path):
    content = json.loads(dataset.annotations.read_text())
    for entry in content["database"].values():
        del entry["duration"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert lesson_of(with_card(dataset, annotations=str(tmp_path / "a.json")), TSP).training == (
        lesson_of(dataset, TSP).training
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"method": "tps"}, ["'tps'", "did you mean 'tsp'?"]),
        ({"heads": ("regions",)}, ["'regions'", "did you mean 'region'?", "head of tsp"]),
        ({"method": "tac", "heads": ("region",)}, ["'region'", "head of tac"]),
        ({"loss_weights": {"regio": 2.0}}, ["'regio'", "did you mean 'region'?"]),
        ({"heads": ("action",), "loss_weights": {"region": 2.0}}, ["'region'", "known are action"]),
    ],
)
def test_what_does_not_fit_the_method_is_one_sentence(dataset, tmp_path, change, parts):
    settings = TSP.model_copy(update=change)
    with one_sentence(*parts):
        run(tmp_path, lesson_of(dataset, TSP), settings)


def test_global_features_are_pooled_over_the_video(tmp_path):
    rows = np.array([[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v"] = rows
    assert_array_equal(global_features([tmp_path / "f.h5"], "max")["v"], [3, 5])
    assert_array_equal(global_features([tmp_path / "f.h5"], "avg")["v"], [2, 2])


def test_released_vectors_are_taken_as_they_are_from_every_file(tmp_path):
    for name in "ab":
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[f"v_{name}"] = np.array([1.0, 2.0], dtype=np.float32)
    found = global_features([tmp_path / "a.h5", tmp_path / "b.h5"], "max")
    assert found.keys() == {"v_a", "v_b"}
    assert_array_equal(found["v_b"], [1, 2])


def test_the_published_recipe_is_that_of_the_paper():
    """FACTS 1.3, with the rates and the batch of two GPUs."""
    assert (PUBLISHED_FIT.epochs, PUBLISHED_FIT.optimizer, PUBLISHED_FIT.weight_decay) == (8, "sgd", 0.005)
    assert (PUBLISHED_FIT.warmup_epochs, PUBLISHED_FIT.warmup_factor) == (2, 1e-5)
    assert (PUBLISHED_FIT.milestones, PUBLISHED_FIT.gamma, PUBLISHED_FIT.select) == ((4, 6), 0.01, "best")
    assert PUBLISHED_FIT.learning_rates == {"stem": 0.0, "backbone": 2e-4, "heads": 4e-3}
    assert PUBLISHED_FIT.batch_size == 64
