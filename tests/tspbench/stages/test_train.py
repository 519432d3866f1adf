import numpy as np
import pytest
import torch

from tests.tspbench.helpers import one_sentence, silent
from tests.tspbench.stages.feature_sets import CLASSES, SETTINGS, write_rows, write_set
from tspbench.batches import FeatureVideos
from tspbench.stages.train import LOCALIZER_FILE, PUBLISHED_FIT, new_localizer, train_localizer
from tspbench.storage.annotations import read_annotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import FeatureFiles


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    dataset = write_set(folder)
    files = FeatureFiles([write_rows(folder / "f.h5", dataset)])
    return FeatureVideos(files, read_annotations(dataset.annotations).subset("train"), CLASSES, 8)


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


def test_training_is_repeatable_and_goes_on_after_a_kill(videos, tmp_path):
    told = train(videos, tmp_path / "whole")

    def stop(done, total, note=""):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(videos, tmp_path / "broken", advance=stop)
    assert train(videos, tmp_path / "broken") == told
    first, second = ((tmp_path / name / LOCALIZER_FILE).read_bytes() for name in ("whole", "broken"))
    assert first == second


def test_the_seed_decides(videos, tmp_path):
    assert train(videos, tmp_path / "a", seed=1) != train(videos, tmp_path / "b", seed=2)


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


def test_the_published_recipe_is_that_of_the_paper():
    """FACTS 3.3."""
    assert (PUBLISHED_FIT.epochs, PUBLISHED_FIT.batch_size, PUBLISHED_FIT.optimizer) == (10, 16, "adam")
    assert PUBLISHED_FIT.learning_rates == {"localizer": 0.004}
    assert (PUBLISHED_FIT.milestones, PUBLISHED_FIT.gamma, PUBLISHED_FIT.weight_decay) == ((5,), 0.1, 1e-4)
