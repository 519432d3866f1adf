"""One epoch of BMT on real training captions with random features: seconds, and memory by the number of videos.

Run by hand, on a machine that does nothing else: ``python -m tests.benchmarks.caption_training``. The captions are the
800 training videos of `shared/data/captions`; every video has as many random 512-d rows as TSP's clips of 16 frames at
15 a second make of its length, in an H5 file. Each number of videos is trained on in a process of its own, captioner
and proposal generator at the settings of BMT's release; the longest video is in each, because the largest batch decides
the peak. The last column is the captioner's epoch for all captions that the release trains on, by their number. It
prints a Markdown table, and fails when memory grows with the number of videos.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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

COUNTS = (200, 800)
DIM = 512
# The training set of which the videos are a part (FACTS 5.2): videos and captions of the release's train.csv.
ALL_CAPTIONS = 34_171
MOST_GROWTH_MIB = 150.0


def epoch(videos: int, folder: Path) -> dict[str, float]:
    """Train one epoch of captioner and generator on the longest video and others, and say what that took."""
    content = json.loads((SHARED / "data/captions/train_800.json").read_text())
    longest = max(content, key=lambda name: content[name]["duration"])
    names = [longest, *[name for name in content if name != longest][: videos - 1]]
    chosen = {name: content[name] for name in names}
    (folder / "captions.json").write_text(json.dumps(chosen))
    rng = np.random.default_rng(0)
    rows = {name: max(1, round(entry["duration"] * 15 / 16)) for name, entry in chosen.items()}
    write_features(
        folder / "random.h5",
        {
            name: VideoFeatures(rng.standard_normal((rows[name], DIM), dtype=np.float32), entry["duration"], "none")
            for name, entry in chosen.items()
        },
        RowMeaning("random", "", 16, 16, 15.0, DIM, "fp32"),
    )
    captions = {"training": ["captions.json"], "validation": ["captions.json"]}
    dataset = Dataset(folder, DatasetCard(name="real", captions=captions))
    files = FeatureFiles([folder / "random.h5"])
    once = {"epochs": 1, "select": "last", "patience": None}
    settings: CaptionerSettings = BMT.model_copy(
        update={
            "fit": BMT.fit.model_copy(update=once),
            "generator": BMT.generator.model_copy(update={"fit": BMT.generator.fit.model_copy(update=once)}),
        }
    )
    what = Captioning(dataset, settings, None, 0, choose_device("auto"), folder / "run")
    models = CaptionModels(CaptionBenchmark(what, {"random": files}), "random", files, folder / "row")
    before = peak()
    start = time.monotonic()
    trained = models.train()
    captioner, captioner_peak = time.monotonic() - start, peak()
    start = time.monotonic()
    models.train_generator(trained)
    figures = read_record(folder / "row" / "train").figures
    return {
        "videos": videos,
        "captions": figures["training_captions"],
        "captioner": captioner,
        "generator": time.monotonic() - start,
        "before": before,
        "captioner_peak": captioner_peak,
        "peak": peak(),
        "gpu": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
    }


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each number of videos in a process of its own."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(epoch(int(sys.argv[1]), Path(folder))))
        return
    where = f"GPU ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "CPU"
    print(f"{where}, {torch.get_num_threads()} threads\n")
    print(
        "| videos | captions | captioner, s | generator, s | MiB before | captioner, peak MiB | both, peak MiB |",
        end="",
    )
    print(" GPU MiB | captioner, all captions |\n|" + "---:|" * 9)
    peaks = []
    for count in COUNTS:
        command = [sys.executable, "-m", "tests.benchmarks.caption_training", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        peaks.append(found["peak"])
        whole = found["captioner"] * ALL_CAPTIONS / found["captions"]
        print(
            f"| {found['videos']} | {found['captions']:,} | {found['captioner']:.0f} | {found['generator']:.0f} "
            f"| {found['before']:.0f} | {found['captioner_peak']:.0f} | {found['peak']:.0f} | {found['gpu']:.0f} "
            f"| {whole / 60:.0f} min |",
            flush=True,
        )
    growth = max(peaks) - min(peaks)
    if growth > MOST_GROWTH_MIB:
        sys.exit(f"memory grows by {growth:.0f} MiB with the number of videos")


if __name__ == "__main__":
    main()
