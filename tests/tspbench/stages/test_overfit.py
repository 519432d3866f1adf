"""Each localizer learns eight videos by heart: what it cannot learn here is a bug between features and score."""

import json

import numpy as np
import pytest

from baselines import LOCALIZERS
from tspbench.datasets import Dataset, DatasetCard
from tspbench.fit_settings import FitSettings
from tspbench.stages.evaluate import evaluate
from tspbench.stages.localization import Localization
from tspbench.stages.train import LocalizerSettings
from tspbench.storage.class_scores import ClassScores, write_class_scores
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features
from tspbench.storage.records import read_record

STEPS, SECONDS, CHANNELS, CLASSES = 32, 64.0, 16, ("jump", "run", "swim")
ADAM = {"optimizer": "adam", "weight_decay": 1e-4, "batch_size": 8}
SETTINGS = {
    "gtad": LocalizerSettings(
        name="gtad",
        config={"steps": STEPS, "max_duration": STEPS, "hidden_1d": 64, "hidden_2d": 32, "hidden_3d": 64},
        top_labels=1,
        fit=FitSettings(epochs=200, learning_rates={"localizer": 0.004}, milestones=(150,), **ADAM),
    ),
    "bmn": LocalizerSettings(
        name="bmn",
        config={"steps": STEPS, "max_duration": STEPS, "hidden_1d": 64, "hidden_2d": 32, "hidden_3d": 64},
        top_labels=1,
        fit=FitSettings(epochs=200, learning_rates={"localizer": 0.002}, milestones=(150,), **ADAM),
    ),
    "actionformer": LocalizerSettings(
        name="actionformer",
        config={"steps": STEPS, "hidden": 64, "windows": [7, 7, 7, -1], "initial_normalizer": 20.0},
        top_labels=1,
        fit=FitSettings(
            epochs=250,
            batch_size=8,
            optimizer="adamw",
            learning_rates={"localizer": 0.002},
            weight_decay=0.01,
            decay="weights",
            warmup_epochs=10,
            schedule="cosine",
            clip_norm=1.0,
        ),
    ),
}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Write 8 videos of 64 s with two segments each, features in which they show, and their true classes."""
    folder = tmp_path_factory.mktemp("eight")
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((3, CHANNELS)).astype(np.float32)
    centres = (np.arange(64) + 0.5) * SECONDS / 64
    database, features, scores = {}, {}, {}
    for k in range(8):
        # Long enough, and close enough to whole steps of 2 s, that some cell of the map has an IoU above 0.9: less is
        # no positive to BMN and G-TAD.
        first, gap, second = rng.integers(8, 13), rng.integers(2, 5), rng.integers(6, 10)
        bounds = 1 + np.cumsum([rng.integers(0, 3), first, gap, second]) + rng.uniform(-0.1, 0.1, size=4)
        segments = 2 * bounds.reshape(-1, 2)
        label = CLASSES[k % 3]
        shown = np.zeros((64, 3), dtype=np.float32)
        for start, end in segments:
            shown[:, 0] += (centres >= start) & (centres < end)
            shown[:, 1] += np.exp(-((centres - start) ** 2))
            shown[:, 2] += np.exp(-((centres - end) ** 2))
        rows = shown @ directions + 0.1 * rng.standard_normal((64, CHANNELS)).astype(np.float32)
        annotations = [{"segment": segment, "label": label} for segment in segments.tolist()]
        database[f"v{k}"] = {"duration": SECONDS, "subset": "all", "annotations": annotations}
        features[f"v{k}"] = VideoFeatures(rows, SECONDS, "none")
        scores[f"v{k}"] = np.array([float(label == name) for name in CLASSES])
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    write_features(folder / "f.h5", features, RowMeaning("", "", 10, 10, 10.0, CHANNELS, "fp32"))
    write_class_scores(folder / "scores.json", ClassScores(CLASSES, scores))
    splits = {"training": "all", "validation": "all"}
    return Dataset(folder, DatasetCard(name="eight", annotations="annotations.json", splits=splits))


@pytest.mark.parametrize("name", sorted(LOCALIZERS))
def test_eight_videos_are_learned_by_heart(eight, tmp_path, name):
    what = Localization(
        task="tal",
        dataset=eight,
        localizer=SETTINGS[name],
        class_scores=eight.folder / "scores.json",
        references=("upper-mark",),
        seed=0,
        device="cpu",
        out=tmp_path,
    )
    evaluate([what], {"a": [eight.folder / "f.h5"]}, "", [])
    found, mark = (
        read_record(tmp_path / "tal" / row / "score").figures["metrics"] for row in ("a", "upper-mark-of-the-grid")
    )
    assert found["mAP@0.50"] >= 0.95
    assert found["average_mAP"] >= 0.9 * mark["average_mAP"]
