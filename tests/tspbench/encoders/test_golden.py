"""Whole videos through r3d_18, against the features of the TSP reference extractor (shared/golden/README.md)."""

import argparse
import os

import numpy as np
import pytest
import torch
import torchvision

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import silent
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
        batch = next(iter(clip_batches(decoded, encoder.preprocessing, 16, 2, CPU, {})))
    features = encoder(batch.clips).numpy()
    assert relative_error(features, reference[:2]) < 1e-5
    assert relative_error(features, reference[1:3]) > 1e-3  # so that the line above says something


@torch.inference_mode()
def test_the_original_shows_the_same(encoder):
    """At 24.83 frames a second it has other frames, and was encoded another way: near, but not the same."""
    reference = np.load(shared("golden/r3d_18_seed0_long_jump_stride16.npy"))
    video = shared("data/videos/long_jump_original.mp4")
    with decoding({"v": video}, encoder.preprocessing, 1) as decoded:
        batch = next(iter(clip_batches(decoded, encoder.preprocessing, 16, 2, CPU, {})))
    features = encoder(batch.clips).numpy()
    # Random weights say little of a clip: what tells clips apart is what is left without their mean.
    mean = reference.mean(axis=0)
    distances = np.linalg.norm(features[:, None] - reference[None], axis=2)
    assert distances.argmin(axis=1).tolist() == [0, 1]
    assert distances.min(axis=1).max() < 0.1 * np.linalg.norm(reference - mean, axis=1).mean()


@pytest.mark.skipif("TSPBENCH_SLOW" not in os.environ, reason="half a minute: set TSPBENCH_SLOW=1 to run it")
def test_a_whole_video_as_a_user_extracts_it(encoder, tmp_path):
    reference = np.load(shared("golden/r3d_18_seed0_long_jump_stride16.npy"))
    videos = {"v": shared("data/videos/long_jump_30fps.mp4")}
    extract(TrainedEncoder(encoder, "r3d_18", "seed 0"), videos, tmp_path / "f.h5", Extraction(16), silent)
    rows = FeatureFiles([tmp_path / "f.h5"]).rows("v")
    assert rows.shape == reference.shape == (32, 512)
    assert relative_error(rows, reference) < 1e-5


def test_the_grid_of_the_original_gives_as_many_clips():
    info = scan_video(shared("data/videos/long_jump_original.mp4"))
    grid = padded_grid(info, KINETICS_112)
    assert info.frames == 871
    assert len(grid) // 16 == 32
    used = grid[: 32 * 16]
    assert np.abs(info.timestamps[used] - np.arange(32 * 16) / 15).max() <= 0.5 / 24.8
