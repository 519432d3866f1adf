"""A small annotated data set with features in which actions stand out, for the stages behind extraction."""

import json
from pathlib import Path

import numpy as np

from tspbench.datasets import Dataset, DatasetCard
from tspbench.fit_settings import FitSettings
from tspbench.stages.train import LocalizerSettings
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features

CLASSES = ("jump", "run")
SETTINGS = LocalizerSettings(
    name="gtad",
    config={"steps": 8, "max_duration": 8, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16},
    fit=FitSettings(epochs=2, batch_size=3, optimizer="adam", learning_rates={"localizer": 0.005}),
)
MEANING = RowMeaning("tiny", "w", clip_frames=6, stride_frames=6, frame_rate=12.0, feature_dim=4, precision="fp32")


def write_set(folder: Path, training: int = 5, validation: int = 3) -> Dataset:
    """Write annotations of 8-second videos, video k with one action of class k mod 2."""
    database = {}
    for k in range(training + validation):
        start = 1.0 + k % 4
        database[f"v{k}"] = {
            "duration": 8.0,
            "subset": "train" if k < training else "val",
            "annotations": [{"segment": [start, start + 2.5], "label": CLASSES[k % 2]}],
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    splits = {"training": "train", "validation": "val"}
    return Dataset(folder, DatasetCard(name="small", annotations="annotations.json", splits=splits))


def write_rows(path: Path, dataset: Dataset, seed: int = 0, without: tuple[str, ...] = ()) -> Path:
    """Write 16 rows a video, row 0 of which is the action's presence, the others noise."""
    rng = np.random.default_rng(seed)
    features = {}
    for name, entry in json.loads(dataset.annotations.read_text())["database"].items():
        rows = 0.1 * rng.standard_normal((16, 4)).astype(np.float32)
        centres = (np.arange(16) + 0.5) / 2
        for annotation in entry["annotations"]:
            start, end = annotation["segment"]
            rows[:, 0] += (centres >= start) & (centres < end)
        if name not in without:
            features[name] = VideoFeatures(rows, 8.0, "none")
    write_features(path, features, MEANING)
    return path
