"""A small captioned data set, and features that say what happens."""

import json
from pathlib import Path

import numpy as np

from tspbench.datasets import Dataset, DatasetCard
from tspbench.fit_settings import FitSettings
from tspbench.stages.captioner_settings import CaptionerSettings, DecodingSettings, GeneratorSettings, ProposalSettings
from tspbench.stages.captioning_inputs import Captioning
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features

SECONDS = 8.0
ROWS = 16
SENTENCES = ("A man jumps high.", "A woman runs away.", "The dog is sleeping.")
MEANING = RowMeaning("tiny", "w", clip_frames=6, stride_frames=6, frame_rate=12.0, feature_dim=8, precision="fp32")
FIT = FitSettings(epochs=2, batch_size=4, optimizer="adam", learning_rates={"captioner": 0.005})
SETTINGS = CaptionerSettings(
    config={"word_dim": 8, "d_model": 8, "heads": 2, "layers": 1, "label_smoothing": 0.1},
    fit=FIT,
    generator=GeneratorSettings(
        config={"kernels": [[1, 3], [1, 3]], "hidden": 8},
        anchors=(3, 2),
        fit=FIT.model_copy(update={"learning_rates": {"generator": 0.01}}),
    ),
    proposals=ProposalSettings(count=4),
    decoding=DecodingSettings(max_words=6),
)


def entry(k: int, shift: float = 0.0) -> dict[str, object]:
    """Return the captions of video k: sentence k of three, then the next one."""
    first = 0.5 * (k % 4) + shift
    return {
        "duration": SECONDS,
        "timestamps": [[first, first + 2.5], [first + 3.5, first + 5.0]],
        "sentences": [SENTENCES[k % 3], SENTENCES[(k + 1) % 3]],
    }


def write_captions(folder: Path, training: int = 6, validation: int = 3) -> Dataset:
    """Write a set of 8-second videos with two captions each; the two reference files see them at other times."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"v_{k}" for k in range(training + validation)]
    files = {
        "train.json": {name: entry(k) for k, name in enumerate(names[:training])},
        "val_1.json": {name: entry(k) for k, name in enumerate(names) if k >= training},
        "val_2.json": {name: entry(k, 0.25) for k, name in enumerate(names) if k >= training},
    }
    database = {
        name: {
            "duration": SECONDS,
            "subset": "training" if k < training else "validation",
            "annotations": [{"segment": segment, "label": "any"} for segment in entry(k)["timestamps"]],
        }
        for k, name in enumerate(names)
    }
    files["annotations.json"] = {"database": database}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    captions = {"training": ["train.json"], "validation": ["val_1.json", "val_2.json"]}
    return Dataset(folder, DatasetCard(name="small", annotations="annotations.json", captions=captions))


def write_rows(path: Path, videos: int = 9, seed: int = 0, without: tuple[str, ...] = (), prefix: str = "v_") -> Path:
    """Write 16 rows a video; a row shows which sentence is true there, and noise."""
    rng = np.random.default_rng(seed)
    features = {}
    for k in range(videos):
        rows = 0.1 * rng.standard_normal((ROWS, 8)).astype(np.float32)
        for (start, end), sentence in zip(entry(k)["timestamps"], entry(k)["sentences"], strict=True):
            rows[int(start * 2) : int(end * 2), SENTENCES.index(sentence)] += 1
        if f"{prefix}{k}" not in without:
            features[f"{prefix}{k}"] = VideoFeatures(rows, SECONDS, "none")
    write_features(path, features, MEANING)
    return path


def captioning(tmp_path: Path, dataset: Dataset, settings: CaptionerSettings = SETTINGS, **changes) -> Captioning:
    """Return the task, on the CPU; its run is in a folder of its own."""
    usual = {"sound": None, "seed": 0, "device": "cpu", "out": tmp_path / "run"}
    return Captioning(**{"dataset": dataset, "captioner": settings, **usual, **changes})
