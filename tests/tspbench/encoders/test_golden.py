"""Whole videos through r3d_18, against the features of the TSP reference extractor (shared/golden/README.md)."""

import argparse
import os

import numpy as np
import pytest
import torch
import torchvision

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import silent
from tspbench.clips import clip_count
from tspbench.encoders import load_encoder
from tspbench.encoders.contract import KINETICS_112
from tspbench.stages.extract import Extraction, TrainedEncoder, extract
from tspbench.storage.features import FeatureFiles
from tspbench.storage.video import scan_video
from tspbench.streaming import clip_batches, decoding, padded_grid

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Load the seed-0 weights from a file in the format of the released checkpoints."""
    torch.manual_seed(0)
    state = torchvision.models.video.r3d_18(weights=None).state_dict()
    model = {f"features.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    model |= {"fc1.weight": torch.zeros(200, 512), "fc1.bias": torch.zeros(200)}
    path = tmp_path_factory.mktemp("weights") / "r3d_18-tsp_on_activitynet.pth"
    torch.save({"model": model, "args": argparse.Namespace(backbone="r3d_18")}, path)
    return load_encoder(None, path)[0]


def relative_error(features, reference):
    return np.abs(features - reference).max() / np.abs(reference).max()


@torch.inference_mode()
def test_the_first_clips_are_those_of_the_reference(encoder):
    reference = np.load(shared("golden/r3d_18_seed0_long_jump_stride16.npy"))
    video = shared("data/videos/long_jump_30fps.mp4")
    with decoding({"v": video}, encoder.preprocessing, 1) as decoded:
        batch = next(iter(clip_batches(decoded, encoder.preprocessing, 16, 3, CPU, {})))
    features = encoder(batch.clips).numpy()
    assert relative_error(features, reference[:3]) < 1e-5
    assert relative_error(features, reference[1:4]) > 1e-3  # so that the line above says something


@pytest.mark.skipif("TSPBENCH_SLOW" not in os.environ, reason="half a minute a video: set TSPBENCH_SLOW=1 to run it")
@pytest.mark.parametrize("name", ["long_jump_30fps", "long_jump_original"])
def test_whole_videos(encoder, tmp_path, name):
    reference = np.load(shared("golden/r3d_18_seed0_long_jump_stride16.npy"))
    videos = {name: shared(f"data/videos/{name}.mp4")}
    extract(TrainedEncoder(encoder, "r3d_18", "seed 0"), videos, tmp_path / "f.h5", Extraction(16), silent)
    rows = FeatureFiles([tmp_path / "f.h5"]).rows(name)
    assert rows.shape == reference.shape == (32, 512)
    # The original shows the same at 24.83 frames a second: other frames and another encoding, near the same features.
    assert relative_error(rows, reference) < {"long_jump_30fps": 1e-5, "long_jump_original": 0.2}[name]


def test_the_grid_of_the_original_gives_as_many_clips():
    info = scan_video(shared("data/videos/long_jump_original.mp4"))
    grid = padded_grid(info, KINETICS_112)
    assert info.frames == 871
    assert clip_count(len(grid), 16, 16) == 32
    used = grid[: 32 * 16]
    assert np.abs(info.timestamps[used] - np.arange(32 * 16) / 15).max() <= 0.5 / 24.8
