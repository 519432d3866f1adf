import json

import numpy as np
import pytest
import torch

from tests.tspbench.helpers import cut, one_sentence, silent, small_dataset, with_card
from tests.tspbench.pretraining.settled import settled_encoder
from tspbench.encoders import load_encoder, new_encoder
from tspbench.fit_settings import FitSettings
from tspbench.pretraining.fidelity import EndToEndSettings, Fidelity
from tspbench.stages.pretrain import ENCODER_FILE, PretrainSettings
from tspbench.stages.pretrain_lofi import (
    PUBLISHED_LOFI_FIT,
    check_lofi,
    prepare_videos,
    pretrain_lofi,
    within_memory,
)
from tspbench.storage.atomic import write_json
from tspbench.storage.checkpoints import read_weights

SMALL = {"hidden_1d": 32, "hidden_2d": 8, "hidden_3d": 16, "inner_bins": 4, "context_bins": 2}
CYCLE = (Fidelity(snippets=8, pixels=16), Fidelity(snippets=4, pixels=24))
FIT = FitSettings(
    epochs=2,
    batch_size=2,
    optimizer="sgd",
    momentum=0.0,
    learning_rates={"stem": 0.01, "backbone": 0.01, "heads": 0.01},
    batch_norm="frozen",
    workers=0,
)
LOFI = PretrainSettings(
    method="lofi", end_to_end=EndToEndSettings(config=SMALL, fidelities=CYCLE, chunk_snippets=8), fit=FIT
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("small"), training=5)


def changed(settings=LOFI, fit=None, **end_to_end):
    return settings.model_copy(
        update={
            "fit": settings.fit.model_copy(update=fit or {}),
            "end_to_end": settings.end_to_end.model_copy(update=end_to_end),
        }
    )


def run(folder, videos, settings=LOFI, seed=0, advance=silent):
    return pretrain_lofi(
        "tiny",
        settled_encoder("tiny"),
        videos,
        settings,
        seed=seed,
        device="cpu",
        folder=folder,
        key="key",
        advance=advance,
    )


def test_videos_by_hand(dataset):
    videos = prepare_videos(dataset)
    assert [(video.name, video.duration_seconds) for video in videos.videos] == [(f"v{k}", 4.0) for k in range(5)]
    assert [video.segments_seconds.tolist() for video in videos.videos] == [[[1.0, 2.5]]] * 5
    assert sorted(videos.files) == [f"v{k}" for k in range(5)]


def test_an_encoder_is_trained_and_says_how(dataset, tmp_path):
    figures = run(tmp_path, prepare_videos(dataset))
    assert (figures["training_videos"], figures["training_actions"]) == (5, 5)
    assert figures["fidelities"] == [{"snippets": 8, "pixels": 16}, {"snippets": 4, "pixels": 24}]
    assert figures["chunk_snippets"] == 8
    assert figures["kept_epoch"] == 1
    assert [set(epoch) for epoch in figures["epochs"]] == [
        {"total_loss", "boundary_loss", "regression_loss", "classification_loss"}
    ] * 2
    encoder, weights = load_encoder(None, tmp_path / ENCODER_FILE)
    assert weights.card == {
        "method": "lofi",
        "localizer": "gtad",
        "fidelities": [{"snippets": 8, "pixels": 16}, {"snippets": 4, "pixels": 24}],
        "seed": 0,
        "fingerprint": "key",
        "encoder": "tiny",
    }
    assert weights.heads == {}
    fresh, trained = settled_encoder("tiny").state_dict(), encoder.state_dict()
    for name, value in fresh.items():
        statistics = "running" in name or "num_batches" in name
        assert torch.equal(value, trained[name]) == statistics, name


def test_fidelities_that_are_not_given_are_the_published_ones_in_proportion(dataset, tmp_path):
    figures = run(tmp_path, prepare_videos(dataset), changed(fidelities=(), fit={"epochs": 1}))
    told = [(each["snippets"], each["pixels"]) for each in figures["fidelities"]]
    assert told == [(100, 24), (50, 34), (25, 48)]  # of 48 pixels a half, 1 / sqrt(2), all


def test_a_rate_of_0_keeps_the_stem(dataset, tmp_path):
    rates = {"stem": 0.0, "backbone": 0.01, "heads": 0.01}
    run(tmp_path, prepare_videos(dataset), changed(fit={"learning_rates": rates}))
    fresh, trained = settled_encoder("tiny").state_dict(), read_weights(tmp_path / ENCODER_FILE).features
    same = {name for name in fresh if torch.equal(fresh[name], trained[name]) and fresh[name].dim() > 0}
    assert {name for name in same if "running" not in name} == {name for name in fresh if name.startswith("stem.")} - {
        name for name in fresh if "running" in name or "num_batches" in name
    }


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_run_that_breaks_off_ends_as_if_it_had_not(dataset, tmp_path, steps):
    videos = prepare_videos(dataset)
    told = run(tmp_path / "whole", videos)

    def stop(done, total, note=""):
        assert total == 6
        if done >= steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", videos, advance=stop)
    assert not (tmp_path / "broken" / ENCODER_FILE).exists()
    assert run(tmp_path / "broken", videos) == told
    first, second = ((tmp_path / name / ENCODER_FILE).read_bytes() for name in ("whole", "broken"))
    assert first == second


def test_chunks_and_workers_change_nothing_that_matters(dataset, tmp_path):
    videos = prepare_videos(dataset)
    ways = {
        "chunks": LOFI,
        "plain": changed(chunk_snippets=None),
        "workers": changed(fit={"workers": 1}),
    }
    weights = {}
    for name, settings in ways.items():
        run(tmp_path / name, videos, settings)
        weights[name] = read_weights(tmp_path / name / ENCODER_FILE).features
    for key, value in weights["chunks"].items():
        torch.testing.assert_close(weights["plain"][key], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(weights["workers"][key], value)


def test_the_seed_decides(dataset, tmp_path):
    videos = prepare_videos(dataset)
    for seed in range(2):
        run(tmp_path / str(seed), videos, seed=seed)
    first, second = (read_weights(tmp_path / str(seed) / ENCODER_FILE).features for seed in range(2))
    assert not torch.equal(first["stages.0.0.weight"], second["stages.0.0.weight"])


def test_a_few_videos_are_learned_by_heart(dataset, tmp_path):
    def edit(database):
        for k in range(5):
            database[f"v{k}"]["annotations"] = [{"segment": [0.5 * k, 0.5 * k + 1.5], "label": "even"}]

    fit = {
        "epochs": 80,
        "batch_size": 5,
        "optimizer": "adam",
        "momentum": 0.9,
        "learning_rates": {"stem": 5e-3, "backbone": 5e-3, "heads": 5e-3},
    }
    settings = changed(fit=fit, fidelities=(Fidelity(snippets=8, pixels=24),), chunk_snippets=None)
    epochs = run(tmp_path, prepare_videos(edited(dataset, edit)), settings)["epochs"]
    first, last = (np.mean([epoch["total_loss"] for epoch in some]) for some in (epochs[:5], epochs[-5:]))
    assert last < 0.4 * first, [epoch["total_loss"] for epoch in epochs]  # 0.7 where the encoder stays as it is


def test_bmn_by_option(dataset, tmp_path):
    config = {"hidden_1d": 32, "hidden_2d": 8, "hidden_3d": 16}
    run(tmp_path, prepare_videos(dataset), changed(localizer="bmn", config=config, cycle="short", cycle_batches=1))
    assert read_weights(tmp_path / ENCODER_FILE).card["localizer"] == "bmn"


def edited(dataset, edit):
    """Return the data set with annotations of another file, changed by ``edit``."""
    content = json.loads(dataset.annotations.read_text())
    edit(content["database"])
    write_json(dataset.folder / "edited.json", content)
    return with_card(dataset, annotations="edited.json")


def test_videos_without_actions_or_files_are_left_out(dataset, capsys):
    def edit(database):
        database["v0"]["annotations"] = []
        database["v1"]["annotations"][0]["label"] = "Ambiguous"
        database["v2"]["annotations"].append({"segment": [3.0, 4.0], "label": "Ambiguous"})
        database["gone"] = dict(database["v2"])
        database["v3"].pop("duration")

    videos = prepare_videos(with_card(edited(dataset, edit), protocol="thumos14"))
    assert [video.name for video in videos.videos] == ["v2", "v3", "v4"]
    assert videos.videos[0].segments_seconds.tolist() == [[1.0, 2.5]]
    assert videos.videos[1].duration_seconds == pytest.approx(4.0)
    assert "1 of 4 training videos are not there (first: gone)" in capsys.readouterr().err


def test_no_video_with_actions(dataset):
    def edit(database):
        for video in database.values():
            video["annotations"] = []

    with one_sentence("edited.json", "subset 'train'", "found none"):
        prepare_videos(edited(dataset, edit))


def test_a_video_that_breaks_is_replaced(tmp_path, capsys):
    dataset = small_dataset(tmp_path / "set", training=5)
    whole = dataset.videos / "v2.mp4"
    cut(whole, tmp_path / "cut.mp4", 0.5).replace(whole)
    told = run(tmp_path / "run", prepare_videos(dataset))["bad_videos"]
    assert list(told) == ["v2"]
    assert told["v2"]["replaced_clips"] == 2  # one an epoch
    assert "v2.mp4" in capsys.readouterr().err
    assert (tmp_path / "run" / ENCODER_FILE).is_file()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (LOFI.model_copy(update={"heads": ("action",)}), ["heads"]),
        (LOFI.model_copy(update={"loss_weights": {"action": 2.0}}), ["loss_weights"]),
        (changed(fit={"micro_batch": 2}), ["micro_batch", "chunk_snippets"]),
        (changed(fit={"select": "best"}), ["select"]),
        (changed(localizer="actionformer"), ["actionformer"]),
        (changed(fidelities=(Fidelity(snippets=8, pixels=112),)), ["48 pixels", "112"]),
        (changed(config={"feature_dim": 3}), ["feature_dim"]),
    ],
)
def test_settings_that_do_not_fit(settings, parts):
    with one_sentence(*parts):
        check_lofi(settings, "tiny", new_encoder("tiny", 0))


def test_the_published_recipe_halves_the_rate_every_5_epochs():
    assert PUBLISHED_LOFI_FIT.learning_rates == {"stem": 0.1, "backbone": 0.1, "heads": 0.1}
    assert (PUBLISHED_LOFI_FIT.momentum, PUBLISHED_LOFI_FIT.weight_decay) == (0.0, 1e-4)
    assert (PUBLISHED_LOFI_FIT.milestones, PUBLISHED_LOFI_FIT.gamma) == ((5, 10), 0.5)


def test_without_a_budget_nothing_is_chosen():
    assert within_memory(LOFI, new_encoder("tiny", 0), "cpu") is LOFI.end_to_end


def test_a_budget_chooses_and_tells(capsys):
    encoder = new_encoder("tiny", 0)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    found = {}
    for budget in (8.0, 0.05, 0.02):
        found[budget] = within_memory(changed(memory_gib=budget), encoder, "cpu")
        told = capsys.readouterr().err
        (fidelity,) = found[budget].fidelities
        assert f"Within {budget:g} GiB: {fidelity.snippets} snippets of {fidelity.pixels} x {fidelity.pixels}" in told
        assert found[budget].memory_gib is None
    assert found[8.0].fidelities == (Fidelity(snippets=100, pixels=48),)
    assert found[8.0].chunk_snippets == 200  # two videos at once
    assert found[0.05].chunk_snippets < 200
    coarse, fine = found[0.02].fidelities[0], found[8.0].fidelities[0]
    assert coarse.snippets * coarse.pixels**2 < fine.snippets * fine.pixels**2
    with one_sentence("memory_gib (--memory-budget)", "2 video(s)", "found 0.001"):
        within_memory(changed(memory_gib=0.001), encoder, "cpu")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
