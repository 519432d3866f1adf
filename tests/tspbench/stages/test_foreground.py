import math

import numpy as np
import pytest
import torch

from tests.tspbench.helpers import one_sentence
from tspbench.stages.foreground import Foreground, foreground_of
from tspbench.stages.known_encoders import KnownEncoder, KnownEncoders
from tspbench.storage.checkpoints import Weights
from tspbench.storage.hashes import hash_file
from tspbench.storage.records import Record, write_record

ROWS = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
INITIAL = np.array([[3.0], [1.0]], np.float32)


def logistic(x):
    return 1 / (1 + math.exp(-x))


def head(columns):
    weight = torch.zeros(2, columns)
    weight[0, 0] = 1.0
    return {"region": {"weight": weight, "bias": torch.zeros(2)}}


def test_without_gvf_the_head_sees_the_clip_alone():
    weight = np.array([[1, 0], [0, 1]], np.float32)
    found = Foreground(weight, np.array([0, 1], np.float32), None, "").probabilities(ROWS, None)
    # Logits (1, 1) and (0, 3): foreground is the first.
    np.testing.assert_allclose(found, [0.5, logistic(-3)])


@pytest.mark.parametrize(("pooling", "pooled"), [("max", 3.0), ("avg", 2.0)])
def test_the_gvf_is_pooled_over_the_initial_encoders_clips(pooling, pooled):
    weight = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    initial = KnownEncoder("tiny", "w", None)
    found = Foreground(weight, np.zeros(2, np.float32), initial, pooling).probabilities(ROWS, INITIAL)
    np.testing.assert_allclose(found, [logistic(1 + pooled), logistic(pooled - 2)])


def test_the_initial_encoder_is_the_one_that_the_pretraining_began_with(tmp_path):
    path = tmp_path / "pretrain/tsp/encoder.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    encoder = KnownEncoder("tiny", hash_file(path), path)
    weights = Weights("tiny", {}, head(8), {})
    encoders = KnownEncoders(tmp_path)
    with one_sentence(path, "no record"):
        foreground_of(encoder, weights, 4, encoders)
    inputs, outputs = {"initial encoder": "random, seed 3"}, {path.name: encoder.weights}
    write_record(path.parent, Record("pretrain", "finished", "", {"gvf": "avg"}, inputs, outputs, {}, 0.0, {}))
    found = foreground_of(encoder, weights, 4, encoders)
    assert found.pooling == "avg"
    assert found.initial == KnownEncoder("tiny", "random, seed 3", None)
    inputs["initial encoder"] = "0" * 64
    write_record(path.parent, Record("pretrain", "finished", "", {"gvf": "avg"}, inputs, outputs, {}, 0.0, {}))
    with one_sentence("--checkpoint", f"the pretraining of {path} started from"):
        foreground_of(encoder, weights, 4, encoders)
    # A record of other weights says nothing of these.
    path.write_bytes(b"others")
    with one_sentence(path, "no record"):
        foreground_of(KnownEncoder("tiny", hash_file(path), path), weights, 4, encoders)


def test_heads_that_see_clips_alone_or_no_region():
    encoder = KnownEncoder("tiny", "w", None)
    assert foreground_of(encoder, Weights("tiny", {}, head(4), {}), 4, None).initial is None
    assert foreground_of(encoder, Weights("tiny", {}, {}, {}), 4, None) is None
