"""One epoch of BMT on real training captions with random features: seconds, and memory by the number of videos.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.caption_training``. The captions are the
800 training videos of `shared/data/captions`; every video has as many random 512-d rows as TSP's clips of 16 frames at
15 a second make of its length, in one H5 file. Captioner and proposal generator are trained, each epoch in a process of
its own: on all videos at the settings of BMT's release for the time, and on 200, 400 and 800 of them with a network so
small that the memory of the data shows, and with one word for all, because more captions have more words. The longest
video is always there: the largest batch decides the peak.
It prints two Markdown tables, and fails when memory grows with the number of videos.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.evaluation.helpers import SHARED
from tspbench.datasets import Dataset, DatasetCard
from tspbench.device import choose_device
from tspbench.stages.caption_models import CaptionModels
from tspbench.stages.captioner_settings import CaptionerSettings
from tspbench.stages.captioning_inputs import CaptionBenchmark, Captioning
from tspbench.stages.published import BMT
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features
from tspbench.storage.records import read_record

COUNTS = (200, 400, 800)
DIM = 512
ALL_CAPTIONS = 34_171  # that the release trains on (FACTS 5.2, train.csv)
MOST_GROWTH_MIB = 100.0  # from 200 to 800 videos; their features are 135 MiB more
ONCE = {"epochs": 1, "select": "last", "patience": None}
RELEASE: CaptionerSettings = BMT.model_copy(
    update={
        "fit": BMT.fit.model_copy(update=ONCE),
        "generator": BMT.generator.model_copy(update={"fit": BMT.generator.fit.model_copy(update=ONCE)}),
    }
)
SMALL = RELEASE.model_copy(
    update={
        "config": {"word_dim": 8, "d_model": 8, "heads": 2, "layers": 1, "feed_forward": 1},
        "generator": RELEASE.generator.model_copy(
            update={"config": {"kernels": [[1]], "hidden": 4}, "anchors": (2,)},
        ),
    }
)
SETTINGS = {"release": RELEASE, "small": SMALL}


def content() -> dict[str, Any]:
    """Return the captions, the longest video first."""
    captions = json.loads((SHARED / "data/captions/train_800.json").read_text())
    return dict(sorted(captions.items(), key=lambda item: -item[1]["duration"])[:1]) | captions


def prepare(folder: Path) -> None:
    """Write random features of all videos."""
    rng = np.random.default_rng(0)
    features = {}
    for name, entry in content().items():
        rows = rng.standard_normal((max(1, round(entry["duration"] * 15 / 16)), DIM), dtype=np.float32)
        features[name] = VideoFeatures(rows, entry["duration"], "none")
    write_features(folder / "random.h5", features, RowMeaning("random", "", 16, 16, 15.0, DIM, "fp32"))


def epoch(folder: Path, videos: int, settings: CaptionerSettings) -> dict[str, float]:
    """Train one epoch of captioner and generator on the longest video and others, and say what that took."""
    here = folder / f"{videos}-{settings.config.get('d_model', 'release')}"
    here.mkdir()
    chosen: dict[str, Any] = dict(list(content().items())[:videos])
    if settings is SMALL:
        for entry in chosen.values():
            entry["sentences"] = [" ".join("word" for _ in sentence.split()) for sentence in entry["sentences"]]
    (here / "captions.json").write_text(json.dumps(chosen))
    captions = {"training": ["captions.json"], "validation": ["captions.json"]}
    dataset = Dataset(here, DatasetCard(name="real", captions=captions))
    files = FeatureFiles([folder / "random.h5"])
    what = Captioning(dataset, settings, None, 0, choose_device("auto"), here / "run")
    models = CaptionModels(CaptionBenchmark(what, {"random": files}), "random", files, here / "row")
    before, start = peak(), time.monotonic()
    trained = models.train()
    captioner, start = time.monotonic() - start, time.monotonic()
    models.train_generator(trained)
    return {
        "captions": read_record(here / "row" / "train").figures["training_captions"],
        "captioner": captioner,
        "generator": time.monotonic() - start,
        "before": before,
        "peak": peak(),
        "gpu": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
    }


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(*arguments: object) -> dict[str, float]:
    """Run this file in a process of its own, and return what it says in its last line."""
    command = [sys.executable, "-m", "tests.benchmarks.caption_training", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    if len(sys.argv) > 1:
        folder, videos, size = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        if videos:
            print(json.dumps(epoch(folder, videos, SETTINGS[size])))
        else:
            prepare(folder)
            print("{}")
        return
    where = f"GPU ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "CPU"
    print(f"{where}, {torch.get_num_threads()} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        measured(folder, 0, "features")
        print("| network | videos | captions | captioner, s | generator, s | MiB before | MiB at most | GPU MiB |")
        print("|---|" + "---:|" * 7)
        peaks = []
        for size, count in [*(("small", count) for count in COUNTS), ("release", COUNTS[-1])]:
            found = measured(folder, count, size)
            peaks += [found["peak"]] if size == "small" else []
            cells = [f"{found[key]:.0f}" for key in ("captioner", "generator", "before", "peak", "gpu")]
            print(f"| {size} | {count} | {found['captions']:,} | {' | '.join(cells)} |", flush=True)
    whole = found["captioner"] * ALL_CAPTIONS / found["captions"]
    print(f"\nThe captioner's epoch on all {ALL_CAPTIONS:,} captions would take {whole / 60:.0f} min.")
    growth = peaks[-1] - peaks[0]
    if growth > MOST_GROWTH_MIB:
        sys.exit(f"memory grows by {growth:.0f} MiB with the number of videos")


if __name__ == "__main__":
    main()
