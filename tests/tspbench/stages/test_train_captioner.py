"""Captioners and proposal generators go on behind a kill, and in micro-batches, as they would have."""

import numpy as np
import pytest

from tests.tspbench.fit_jobs import log_of
from tests.tspbench.helpers import silent
from tests.tspbench.stages.captioned_sets import SECONDS, SENTENCES, SETTINGS, entry, write_rows
from tspbench.segment_batches import Segment, SegmentStreams
from tspbench.stages.train_captioner import CAPTIONER_FILE, CaptionLesson, new_captioner, train_captioner
from tspbench.stages.train_generator import (
    GENERATOR_FILE,
    ProposalLesson,
    lesson_anchors,
    new_generator,
    train_generator,
)
from tspbench.storage.features import FeatureFiles
from tspbench.vocabulary import build_vocabulary

VIDEOS = 9
SAID = [sentence.lower().rstrip(".") for sentence in SENTENCES]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return FeatureFiles([write_rows(tmp_path_factory.mktemp("set") / "a.h5", VIDEOS)])


def settings_with(**changes):
    """Return the settings of the captioner, and those of the generator, with the same changes of training."""
    generator, dropout = SETTINGS.generator, {"dropout": changes.pop("dropout", 0.1)}
    fit = generator.fit.model_copy(update=changes)
    return SETTINGS.model_copy(
        update={
            "config": {**SETTINGS.config, **dropout},
            "fit": SETTINGS.fit.model_copy(update=changes),
            "generator": generator.model_copy(update={"fit": fit, "config": {**generator.config, **dropout}}),
        }
    )


def train(kind, files, folder, settings, advance=silent, seed=0):
    vocabulary = build_vocabulary(SAID, 1)
    captioner = new_captioner(settings, [8], vocabulary, seed)
    options = {"seed": 0, "device": "cpu", "folder": folder, "key": "key", "advance": advance}
    if kind == "captioner":
        shown = [Segment(f"v_{k}", SECONDS, *times) for k in range(VIDEOS) for times in entry(k)["timestamps"]]
        sentences = [vocabulary.encode(SAID[(k + j) % 3]) for k in range(VIDEOS) for j in (0, 1)]
        lesson = CaptionLesson(SegmentStreams([files], shown), sentences, None)
        return train_captioner(lesson, captioner, settings, **options), (folder / CAPTIONER_FILE).read_bytes()
    videos = SegmentStreams([files], [Segment.whole(f"v_{k}", SECONDS) for k in range(VIDEOS)])
    lesson = ProposalLesson(videos, [np.array(entry(k)["timestamps"]) for k in range(VIDEOS)], None)
    model = new_generator(settings, lesson_anchors(lesson, settings, 0), [8], seed)
    told = train_generator(lesson, captioner.eval(), model, settings, **options)
    return told, (folder / GENERATOR_FILE).read_bytes()


@pytest.mark.parametrize("kind", ["captioner", "generator"])
def test_a_killed_training_ends_as_if_it_had_not_been(files, tmp_path, kind):
    settings = settings_with(checkpoint_minutes=0.0)
    whole = train(kind, files, tmp_path / "whole", settings)
    steps = len(log_of(tmp_path / "whole"))
    assert steps == (10 if kind == "captioner" else 6)
    for kill in (1, steps // 2, steps):

        def stop(done, total, note="", kill=kill):
            if done == kill:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(kind, files, tmp_path / str(kill), settings, stop)
        assert train(kind, files, tmp_path / str(kill), settings) == whole
        assert log_of(tmp_path / str(kill)) == log_of(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["captioner", "generator"])
def test_a_micro_batch_changes_nothing_but_rounding(files, tmp_path, kind):
    """Without dropout, which is drawn for each part."""
    for size in (None, 3):
        train(kind, files, tmp_path / str(size), settings_with(micro_batch=size, dropout=0.0))
    for one, other in zip(log_of(tmp_path / "None"), log_of(tmp_path / "3"), strict=True):
        assert {name: float(value) for name, value in one.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=1e-3
        )
