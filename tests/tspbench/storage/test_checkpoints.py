import argparse
import pickle

import pytest
import torch
from torch import nn

from tests.tspbench.helpers import one_sentence
from tspbench.encoders import ENCODERS, load_encoder, new_encoder
from tspbench.errors import UserError
from tspbench.storage.checkpoints import Weights, read_weights, write_weights


@pytest.fixture(scope="module")
def tiny():
    return new_encoder("tiny", seed=3).state_dict()


HEADS = {
    "action": {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)},
    "region": {"weight": torch.ones(2, 3), "bias": torch.ones(2)},
}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def released(state, **arguments):
    """Return a checkpoint as TSP's training script saves it."""
    model = {f"features.{key}": value for key, value in state.items()}
    model |= {f"fc1.{part}": value for part, value in HEADS["action"].items()}
    model |= {f"fc2.{part}": value for part, value in HEADS["region"].items()}
    return {"model": model, "optimizer": {"state": {}}, "epoch": 5, "args": argparse.Namespace(lr=1e-4, **arguments)}


def test_our_weights_come_back_with_their_card(tmp_path, tiny):
    card = {"method": "tsp", "labels": ["Hürde", "b"], "seed": 1}
    write_weights(tmp_path / "w.safetensors", Weights("tiny", dict(tiny), HEADS, card))
    back = read_weights(tmp_path / "w.safetensors")
    assert back.encoder == "tiny"
    assert back.card == {**card, "encoder": "tiny"}
    assert equal(back.features, tiny)
    assert {name: set(parts) for name, parts in back.heads.items()} == {name: {"weight", "bias"} for name in HEADS}
    assert all(equal(back.heads[name], HEADS[name]) for name in HEADS)


def test_the_same_weights_are_the_same_bytes(tmp_path, tiny):
    for name in "ab":
        write_weights(tmp_path / name, Weights("tiny", dict(tiny), HEADS, {"z": 1, "a": 2}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_views_of_larger_tensors_are_written_as_what_they_show(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    views = {"columns": whole[:, 1:3], "turned": whole.T, "again": whole}
    write_weights(tmp_path / "w.safetensors", Weights(None, dict(views), {}, {}))
    assert equal(read_weights(tmp_path / "w.safetensors").features, views)


def test_a_released_tsp_checkpoint(tmp_path, tiny):
    torch.save(released(tiny, backbone="tiny"), tmp_path / "tsp.pth")
    weights = read_weights(tmp_path / "tsp.pth")
    assert weights.encoder == "tiny"
    assert equal(weights.features, tiny)
    assert weights.heads.keys() == {"action", "region"}
    assert all(equal(weights.heads[name], HEADS[name]) for name in HEADS)


def test_a_released_tac_checkpoint_has_one_head(tmp_path, tiny):
    content = released(tiny, backbone="tiny")
    content["model"] = {k.replace("fc1.", "fc."): v for k, v in content["model"].items() if not k.startswith("fc2.")}
    torch.save(content, tmp_path / "tac.pth")
    weights = read_weights(tmp_path / "tac.pth")
    assert weights.heads.keys() == {"action"}
    assert equal(weights.heads["action"], HEADS["action"])
    assert equal(weights.features, tiny)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", ["", "model", "state_dict"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_plain_state_dicts(tmp_path, tiny, prefix, nested, suffix):
    state = {prefix + key: value for key, value in tiny.items()}
    torch.save({nested: state} if nested else state, tmp_path / f"w{suffix}")
    weights = read_weights(tmp_path / f"w{suffix}")
    assert weights.encoder is None
    assert equal(weights.features, tiny)


def test_released_weights_of_several_gpus(tmp_path, tiny):
    content = released(tiny)
    content["model"] = {f"module.{key}": value for key, value in content["model"].items()}
    torch.save(content, tmp_path / "tsp.pth")
    assert equal(read_weights(tmp_path / "tsp.pth").features, tiny)


class Evil:
    """A class whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_of_any_other_class_is_refused_and_executes_nothing(tmp_path, tiny, writer):
    trap = tmp_path / "executed"
    writer({"model": dict(tiny), "args": Evil(str(trap))}, tmp_path / "evil.pth")
    with one_sentence(tmp_path / "evil.pth", "not a readable weight file"):
        read_weights(tmp_path / "evil.pth")
    assert not trap.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with one_sentence(tmp_path / "module.pth", "UnpicklingError", "give a state dict"):
        read_weights(tmp_path / "module.pth")
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / "module.pth")
    assert "weights_only" not in str(caught.value), "torch's advice is to execute what is in the file"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"PK\x03\x04 cut off", b"\x80\x02}q"])
def test_what_is_no_weight_file_is_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with one_sentence(path, "not a readable"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_off_is_one_sentence(tmp_path, tiny, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(dict(tiny), path)
    else:
        write_weights(path, Weights("tiny", dict(tiny), {}, {}))
    path.write_bytes(path.read_bytes()[:-5000])
    with one_sentence(path, "not a readable"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 1}, {"model": {"weight": "text"}}, torch.ones(2)])
def test_no_state_dict_is_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with one_sentence(tmp_path / "w.pth", "holds no state dict"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / "w.pth", "does not exist"):
        read_weights(tmp_path / "w.pth")


# Into an encoder.


def test_an_encoder_is_loaded_by_what_its_file_says(tmp_path, tiny):
    write_weights(tmp_path / "w.safetensors", Weights("tiny", dict(tiny), HEADS, {}))
    torch.save(released(tiny, backbone="tiny"), tmp_path / "w.pth")
    torch.save({**tiny, "fc.weight": torch.ones(4, 128), "fc.bias": torch.ones(4)}, tmp_path / "plain.pth")
    for name, file in ((None, "w.safetensors"), (None, "w.pth"), ("tiny", "w.pth"), ("tiny", "plain.pth")):
        encoder, _ = load_encoder(name, tmp_path / file)
        assert equal(dict(encoder.state_dict()), tiny)
        assert not encoder.training


def test_counters_of_batches_may_be_missing(tmp_path, tiny):
    """Caffe2's weights, and all that were trained with an old torch, have none."""
    torch.save({k: v for k, v in tiny.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    encoder, _ = load_encoder("tiny", tmp_path / "old.pth")
    assert torch.equal(encoder.state_dict()["stem.0.weight"], tiny["stem.0.weight"])


def test_a_file_that_names_no_encoder_is_one_sentence(tmp_path, tiny):
    torch.save(dict(tiny), tmp_path / "w.pth")
    with one_sentence(tmp_path / "w.pth", "--encoder"):
        load_encoder(None, tmp_path / "w.pth")


def test_the_wrong_encoder_is_one_sentence(tmp_path, tiny):
    write_weights(tmp_path / "w.safetensors", Weights("tiny", dict(tiny), {}, {}))
    with one_sentence(tmp_path / "w.safetensors", "of tiny", "of r3d_18"):
        load_encoder("r3d_18", tmp_path / "w.safetensors")
    torch.save(dict(tiny), tmp_path / "plain.pth")
    with one_sentence(tmp_path / "plain.pth", "r3d_18", "lacks"):
        load_encoder("r3d_18", tmp_path / "plain.pth")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("stem.0.weight"), "lacks 'stem.0.weight' (1 such tensors)"),
        (lambda state: state.update({"extra.weight": torch.ones(1)}), "has the unknown 'extra.weight'"),
        (lambda state: state.update({"stem.0.weight": torch.ones(2)}), "has another shape of 'stem.0.weight'"),
    ],
)
def test_tensors_that_do_not_fit_are_one_sentence(tmp_path, tiny, change, expected):
    state = dict(tiny)
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with one_sentence(tmp_path / "w.pth", expected):
        load_encoder("tiny", tmp_path / "w.pth")


def test_no_published_weights_is_one_sentence():
    with one_sentence("r2plus1d_34", "--checkpoint", "--init", "--set released.NAME=FILE"):
        load_encoder("r2plus1d_34", None)
    with one_sentence("--encoder"):
        load_encoder(None, None)
    with one_sentence("'r3d18'", "'r3d_18'", *ENCODERS):
        load_encoder("r3d18", None)
