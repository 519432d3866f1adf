import shutil

import pytest
import torch

from tests.tspbench.helpers import one_sentence
from tspbench.encoders import new_encoder
from tspbench.stages.known_encoders import KnownEncoders
from tspbench.storage.checkpoints import Weights, write_weights
from tspbench.storage.hashes import hash_file
from tspbench.storage.records import Record, write_record


@pytest.fixture
def run(tmp_path):
    for name, seed in (("tac", 1), ("tsp", 2)):
        weights = Weights("tiny", new_encoder("tiny", seed).state_dict(), {}, {"seed": seed})
        write_weights(tmp_path / "run/pretrain" / name / "encoder.safetensors", weights)
    return tmp_path / "run"


def test_weights_of_a_run_are_found_by_their_hash(run):
    path = run / "pretrain/tsp/encoder.safetensors"
    found = KnownEncoders(run).find("tiny", hash_file(path))
    assert found.path == path
    module, weights = found.built()
    assert weights.card["seed"] == 2
    assert not module.training
    for name, value in new_encoder("tiny", 2).state_dict().items():
        assert torch.equal(module.state_dict()[name], value)


def test_weights_in_a_file_that_the_user_names(run, tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.move(run / "pretrain/tsp/encoder.safetensors", path)
    digest = hash_file(path)
    with one_sentence(digest[:12], "tiny", "--checkpoint"):
        KnownEncoders(run).find("tiny", digest)
    assert KnownEncoders(run, [path]).find("tiny", digest).path == path


def test_random_weights_follow_from_their_seed(run):
    module, weights = KnownEncoders(run).find("tiny", "random, seed 7").built()
    for name, value in new_encoder("tiny", 7).state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    assert weights.heads == {}


def test_published_weights_need_no_file(run):
    for weights in ("torchvision's of r3d_18", "https://download.pytorch.org/models/r3d_18-b3b3357e.pth"):
        assert KnownEncoders(run).find("r3d_18", weights).path is None
    with one_sentence("r3d_18", "--checkpoint"):
        KnownEncoders(run).find("r3d_18", "torchvision's of r2plus1d_18")


def test_an_encoder_that_is_not_ours_is_not_imported(run, tmp_path):
    mark = tmp_path / "was here"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with one_sentence("own.py:Own", "not because a file says so", "add --encoder"):
        KnownEncoders(run).find(f"{tmp_path}/own.py:Own", "0" * 64)
    assert not mark.exists()


def test_weights_of_the_run_that_changed_since_are_not_asked_for_as_others(run):
    path = run / "pretrain/tsp/encoder.safetensors"
    digest = hash_file(path)
    write_record(path.parent, Record("pretrain", "finished", "", {}, {}, {path.name: digest}, {}, 0.0, {}))
    path.write_bytes(path.read_bytes()[:1000])
    with one_sentence(path, "another file", digest[:12], "run the experiment again"):
        KnownEncoders(run).find("tiny", digest)
    path.rename(path.with_name("copy"))
    # No code is run to find that out of an encoder of one's own.
    for kind in ("tiny", "own.py:Own"):
        with one_sentence(path, "no file", digest[:12], "--checkpoint"):
            KnownEncoders(run, own=["own.py:Own"]).promised(kind, digest)
    with one_sentence("found 1 other", "that somebody began with"):
        KnownEncoders(run).find("tiny", "0" * 64, "somebody began with")
