"""Twenty real captions are learned by heart from random features: the whole chain is able to learn."""

import json

import numpy as np
import pytest

from evaluation import CAPTIONING_PROTOCOLS, captioning
from tests.evaluation.helpers import shared
from tspbench.datasets import Dataset, DatasetCard
from tspbench.fit_settings import FitSettings
from tspbench.stages.caption_models import CaptionModels
from tspbench.stages.caption_rows import CaptionRow
from tspbench.stages.captioner_settings import CaptionerSettings, DecodingSettings, GeneratorSettings
from tspbench.stages.captioning_inputs import CaptionBenchmark, Captioning
from tspbench.storage.captions import read_captions, read_references
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features
from tspbench.storage.records import read_record
from tspbench.storage.runs import Row
from tspbench.vocabulary import tokenized

CAPTIONS = 20
FIT = FitSettings(epochs=40, batch_size=20, optimizer="adam", learning_rates={"captioner": 0.005})
SETTINGS = CaptionerSettings(
    config={"word_dim": 64, "d_model": 64, "label_smoothing": 0.1, "dropout": 0.0},
    fit=FIT,
    generator=GeneratorSettings(fit=FIT.model_copy(update={"learning_rates": {"generator": 0.001}})),
    decoding=DecodingSettings(max_words=60),
)


@pytest.fixture
def twenty(tmp_path):
    """The first captions of the training file, and noise as long as their videos are, a row every 16 / 15 s."""
    content, left = {}, CAPTIONS
    for name, entry in json.loads(shared("data/captions/train_800.json").read_text()).items():
        kept = min(left, len(entry["sentences"]))
        content[name] = {**entry, "timestamps": entry["timestamps"][:kept], "sentences": entry["sentences"][:kept]}
        left -= kept
        if not left:
            break
    (tmp_path / "captions.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    rows = {
        name: VideoFeatures(
            rng.standard_normal((max(1, round(entry["duration"] * 15 / 16)), 32), dtype=np.float32),
            entry["duration"],
            "none",
        )
        for name, entry in content.items()
    }
    write_features(tmp_path / "random.h5", rows, RowMeaning("random", "", 16, 16, 15.0, 32, "fp32"))
    captions = {"training": ["captions.json"], "validation": ["captions.json"]}
    return Dataset(tmp_path, DatasetCard(name="twenty", captions=captions))


def test_twenty_captions_are_learned_by_heart(twenty, tmp_path):
    files = FeatureFiles([tmp_path / "random.h5"])
    what = Captioning(twenty, SETTINGS, None, 0, "cpu", tmp_path / "run")
    benchmark = CaptionBenchmark(what, {"random": files})
    row = CaptionRow(Row("random", "r", "key"), CaptionModels(benchmark, "random", files, tmp_path / "row"))
    row.describe_truth()
    benchmark.meteor.close()
    said = read_captions(tmp_path / "row" / "ground-truth" / "predict" / "captions_1.json")
    truth = read_references(tmp_path / "captions.json")
    assert list(said.sentences) == tokenized(truth.sentences)
    metrics = read_record(tmp_path / "row" / "ground-truth" / "score").figures["metrics"]
    assert metrics["METEOR"] >= 0.8
    # No more can be had: captions that overlap are compared with each other, too.
    itself = captioning.statistics([truth], truth, CAPTIONING_PROTOCOLS["densevid"])
    assert metrics["METEOR"] == pytest.approx(captioning.score(itself).metrics()["METEOR"], abs=1e-12)
