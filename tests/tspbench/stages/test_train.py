import numpy as np
import pytest
import torch

from baselines import LOCALIZERS
from tests.tspbench.helpers import one_sentence, silent
from tests.tspbench.stages.feature_sets import CLASSES, SETTINGS, write_rows, write_set
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.fit_settings import FitSettings
from tspbench.stages.train import LOCALIZER_FILE, LocalizerSettings, new_localizer, train_localizer
from tspbench.storage.annotations import read_annotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles

SMALL = {
    "gtad": SETTINGS.config,
    "bmn": {"steps": 8, "max_duration": 8, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16},
    "actionformer": {"steps": 8, "hidden": 16, "heads": 2, "windows": [3, -1], "drop_path": 0.3},
}


def settings_of(name, **changes):
    """Return small settings of each localizer, with all that training offers for the last one."""
    fit = {**SETTINGS.fit.model_dump(), **changes}
    if name == "actionformer":
        rest = {"optimizer": "adamw", "decay": "weights", "schedule": "cosine", "average": 0.9, "clip_norm": 1.0}
        fit |= {**rest, "warmup_epochs": 1.0}
    return LocalizerSettings(name=name, config=SMALL[name], fit=FitSettings(**fit))


def views_of(folder, memory_bytes=1 << 20):
    dataset = write_set(folder)
    files = FeatureFiles([write_rows(folder / "f.h5", dataset)])
    videos = read_annotations(dataset.annotations).subset("train")
    return FeatureViews(files, videos, CLASSES, 8, TimeSettings(), training=True, memory_bytes=memory_bytes)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return views_of(tmp_path_factory.mktemp("set"))


def train(videos, folder, settings=SETTINGS, seed=0, advance=silent):
    model = new_localizer(settings, 4, seed)
    return train_localizer(videos, model, settings, seed=seed, device="cpu", folder=folder, key="key", advance=advance)


def test_a_localizer_is_trained_and_written(videos, tmp_path):
    fit = SETTINGS.fit.model_copy(update={"epochs": 25})
    figures = train(videos, tmp_path, SETTINGS.model_copy(update={"fit": fit}))
    assert figures["training_videos"] == 5
    assert figures["kept_epoch"] == 24
    losses = [entry["total_loss"] for entry in figures["epochs"]]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    weights = read_weights(tmp_path / LOCALIZER_FILE)
    assert weights.card["localizer"] == "gtad"
    assert weights.card["config"] == SETTINGS.config
    model = new_localizer(SETTINGS, 4, seed=9)
    model.load_state_dict(weights.features)
    fresh = new_localizer(SETTINGS, 4, seed=0).state_dict()
    assert any(not torch.equal(fresh[key], weights.features[key]) for key in fresh)


@pytest.mark.parametrize("minutes", [0.0, 10.0])
@pytest.mark.parametrize("name", sorted(LOCALIZERS))
def test_training_is_repeatable_and_goes_on_after_a_kill_in_any_epoch(videos, tmp_path, name, minutes):
    """5 videos in batches of 3 are 2 steps an epoch; with states between them and without."""
    settings = settings_of(name, epochs=4, checkpoint_minutes=minutes)
    told = train(videos, tmp_path / "whole", settings)
    for epoch in range(4):

        def stop(done, total, note="", epoch=epoch):
            if done == 2 * epoch + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(videos, tmp_path / f"broken {epoch}", settings, advance=stop)
        assert train(videos, tmp_path / f"broken {epoch}", settings) == told
        first, second = ((tmp_path / run / LOCALIZER_FILE).read_bytes() for run in ("whole", f"broken {epoch}"))
        assert first == second


@pytest.mark.parametrize("name", sorted(LOCALIZERS))
def test_workers_change_nothing(tmp_path, name):
    """Two processes that read the file view by view, and this one with everything in memory."""
    in_memory, streamed = views_of(tmp_path / "a"), views_of(tmp_path / "b", memory_bytes=0)
    assert in_memory.in_memory
    assert not streamed.in_memory
    first = train(in_memory, tmp_path / "0", settings_of(name, workers=0))
    second = train(streamed, tmp_path / "2", settings_of(name, workers=2))
    assert first == second
    assert (tmp_path / "0" / LOCALIZER_FILE).read_bytes() == (tmp_path / "2" / LOCALIZER_FILE).read_bytes()


@pytest.mark.parametrize("name", sorted(LOCALIZERS))
def test_a_micro_batch_changes_nothing_but_rounding(videos, tmp_path, name):
    """But for ActionFormer's random depth, which is drawn for each part."""
    config = {**SMALL[name], "drop_path": 0.0} if name == "actionformer" else SMALL[name]
    whole, parts = (
        train(videos, tmp_path / str(size), settings_of(name, micro_batch=size).model_copy(update={"config": config}))
        for size in (None, 2)
    )
    for one, other in zip(whole["epochs"], parts["epochs"], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_training_leaves_the_global_generator_alone(videos, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(videos, tmp_path, settings_of("actionformer"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides(videos, tmp_path):
    assert train(videos, tmp_path / "a", seed=1) != train(videos, tmp_path / "b", seed=2)


@pytest.mark.parametrize("seed", [20261121, 2**40])
def test_any_seed_will_do(videos, tmp_path, seed):
    train(videos, tmp_path, settings_of("gtad", epochs=1), seed=seed)


def test_training_that_ends_in_nothing_is_one_sentence(videos, tmp_path):
    with one_sentence("finite", "lower the learning rate"):
        train(videos, tmp_path, settings_of("gtad", epochs=1, batch_size=8, learning_rates={"localizer": 1e38}))
    assert not (tmp_path / LOCALIZER_FILE).exists()


def test_what_does_not_fit_is_one_sentence():
    for change, parts in (
        ({"name": "gtat"}, ["'gtat'", "did you mean 'gtad'?"]),
        ({"config": {"step": 8}}, ["localizer gtad", "'step'", "did you mean 'steps'?"]),
        ({"config": {"steps": "8"}}, ["localizer gtad", "'steps'"]),
    ):
        with one_sentence(*parts):
            new_localizer(SETTINGS.model_copy(update=change), 4, 0)


def test_the_best_epoch_is_not_to_be_had(videos, tmp_path):
    fit = SETTINGS.fit.model_copy(update={"select": "best"})
    with one_sentence("fit.select"):
        train(videos, tmp_path, SETTINGS.model_copy(update={"fit": fit}))
