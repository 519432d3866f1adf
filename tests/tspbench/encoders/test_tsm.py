"""The shift by hand, the network against torchvision's, weights by the names of their releases."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from numpy.testing import assert_allclose
from torch import nn

from tests.tspbench.helpers import one_sentence
from tspbench.encoders import ENCODERS, load_encoder, new_encoder
from tspbench.encoders.contract import channels_last
from tspbench.encoders.tsm import shifted

NAMES = ("tsm_18", "tsm_34", "tsm_50")
TWINS = {"tsm_18": "resnet18", "tsm_34": "resnet34", "tsm_50": "resnet50"}


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    """A TSM whose batch norms are none of the identity, as after training."""
    module = new_encoder(request.param, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return module


def twin(encoder):
    """Return torchvision's ResNet without classifier, with the weights of ``encoder``."""
    name = next(name for name in NAMES if type(encoder) is ENCODERS[name])
    plain = getattr(torchvision.models, TWINS[name])(weights=None)
    plain.fc = nn.Identity()
    plain.load_state_dict(encoder.state_dict())
    return plain.eval()


def clips(count, frames, side=32, seed=0):
    return torch.randn(count, 3, frames, side, side, generator=torch.Generator().manual_seed(seed))


# The shift.


def test_the_shift_by_hand():
    """Channel c of frame f is 10 f + c; of 16, channels 0 and 1 are the next frame's, 2 and 3 the one's before."""
    frames = 10.0 * torch.arange(3)[:, None] + torch.arange(16)
    found = shifted(frames[:, :, None, None], frames=3)[:, :, 0, 0]
    assert found[:, :5].tolist() == [
        [10, 11, 0, 0, 4],
        [20, 21, 2, 3, 14],
        [0, 0, 12, 13, 24],
    ]
    assert torch.equal(found[:, 4:], frames[:, 4:])


def test_the_clips_of_a_batch_are_apart():
    one, two = clips(2, 4).expand(2, 3, 4, 32, 32).repeat(1, 4, 1, 1, 1)
    both = shifted(torch.cat([one, two], dim=1).transpose(0, 1).contiguous(), frames=4)
    each = [shifted(clip.transpose(0, 1).contiguous(), frames=4) for clip in (one, two)]
    assert torch.equal(both, torch.cat(each))


@pytest.mark.parametrize("frames", [1, 2, 8])
def test_what_is_shifted_out_is_gone(frames):
    """Of F frames, 1/8 of the channels lose the first and 1/8 the last one: (F - 1) / F of their ones are left."""
    found = shifted(torch.ones(2 * frames, 8, 1, 1), frames).view(2, frames, 8)
    assert found.sum(dim=1).tolist() == [[frames - 1, frames - 1, *[frames] * 6]] * 2


def test_gradients_go_the_other_way():
    pictures = torch.zeros(4, 8, 1, 1, requires_grad=True)
    shifted(pictures, frames=4)[1].sum().backward()
    # Frame 1 shows channel 0 of frame 2, channel 1 of frame 0, and the rest of its own.
    assert pictures.grad[:, :, 0, 0].tolist() == [
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


@torch.inference_mode()
def test_memory_formats_stay_as_they_are():
    pictures = torch.randn(4, 16, 5, 6)
    plain = shifted(pictures, 2)
    last = shifted(pictures.contiguous(memory_format=torch.channels_last), 2)
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


# The network.


@torch.inference_mode()
def test_without_the_shift_it_is_the_mean_of_torchvisions_features(encoder, monkeypatch):
    monkeypatch.setattr("tspbench.encoders.tsm.shifted", lambda pictures, frames: pictures)
    batch = clips(2, 3)
    expected = twin(encoder)(batch.transpose(1, 2).flatten(0, 1)).view(2, 3, -1).mean(dim=1)
    assert_allclose(encoder(batch), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_a_single_frame_sees_zeros_where_its_neighbours_would_be(encoder):
    """Then the first eighths of what a block's first convolution sees are zeros: so are, to it, those weights."""
    plain = twin(encoder)
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        for block in stage:
            block.conv1.weight[:, : 2 * (block.conv1.in_channels // 8)] = 0
    batch = clips(2, 1)
    expected = plain(batch[:, :, 0])
    assert_allclose(encoder(batch), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_equal_frames_differ_from_torchvisions_at_the_ends_alone(encoder, monkeypatch):
    """A shift takes zeros one frame further in each block: with 2 n + 1 frames and n blocks the middle one is as is."""
    blocks = sum(len(stage) for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4))
    frames = 2 * blocks + 1
    picture = clips(1, 1, side=32)
    monkeypatch.setattr(torch.Tensor, "mean", lambda x, dim: x.sum(dim=(3, 4))[0])  # (F, D), not yet averaged
    found = encoder(picture.expand(1, 3, frames, 32, 32))
    expected = twin(encoder)(picture[:, :, 0])[0]
    scale = float(expected.abs().max())
    assert_allclose(found[blocks], expected, rtol=1e-4, atol=1e-5 * scale)
    for end in (0, -1):
        assert float((found[end] - expected).abs().max()) > 0.01 * scale


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "side"), [(1, 32), (3, 56), (8, 33)])
def test_any_number_of_frames_and_any_size(frames, side):
    encoder = new_encoder("tsm_18", seed=0).eval()
    assert encoder(clips(2, frames, side)).shape == (2, 512)


def test_the_order_of_frames_counts():
    encoder = new_encoder("tsm_18", seed=0).eval()
    batch = clips(1, 4)
    with torch.inference_mode():
        there, back = encoder(batch), encoder(batch.flip(2))
    assert float((there - back).abs().max()) > 0.01 * float(there.abs().max())


def test_the_stem_is_the_first_convolution_and_its_norm(encoder):
    stem = [name for name, _ in encoder.named_parameters() if name.startswith(encoder.stem_prefix)]
    assert stem == ["conv1.weight", "bn1.weight", "bn1.bias"]


@torch.inference_mode()
def test_channels_last_gives_the_same_features():
    encoder = new_encoder("tsm_18", seed=0).eval()
    before = encoder(clips(1, 2))
    assert channels_last(encoder).layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert_allclose(encoder(clips(1, 2)), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_channels_last_is_for_three_dimensions_too():
    module = channels_last(new_encoder("tiny", seed=0))
    assert module.stem[0].weight.is_contiguous(memory_format=torch.channels_last_3d)


# Weights.


def released(encoder):
    """Return the weights as TSM releases them: the convolution behind a shift is "net", the classifier "new_fc"."""
    names = {
        key: key.replace(".conv1.weight", ".conv1.net.weight") if key.startswith("layer") else key
        for key in encoder.state_dict()
    }
    state = {f"module.base_model.{names[key]}": value for key, value in encoder.state_dict().items()}
    return state | {"module.new_fc.weight": torch.zeros(400, 512), "module.new_fc.bias": torch.zeros(400)}


def test_torchvisions_weights_of_pictures_load(tmp_path):
    torch.manual_seed(3)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    encoder, _ = load_encoder("tsm_18", tmp_path / "resnet18.pth")
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_released_weights_of_tsm_load_by_their_names(tmp_path):
    original = new_encoder("tsm_18", seed=5)
    assert "module.base_model.layer4.1.conv1.net.weight" in released(original)
    torch.save(released(original), tmp_path / "tsm.pth")
    encoder, _ = load_encoder("tsm_18", tmp_path / "tsm.pth")
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in encoder.state_dict().items())
    with one_sentence("does not hold weights of tsm_34"):
        load_encoder("tsm_34", tmp_path / "tsm.pth")


@pytest.mark.parametrize("name", NAMES)
def test_fetched_weights_of_imagenet_are_taken(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TSPBENCH_DATA", str(tmp_path))
    Path(tmp_path / "weights").mkdir()
    state = getattr(torchvision.models, TWINS[name])(weights=None).state_dict()
    url = torchvision.models.get_weight(ENCODERS[name].torchvision_weights["imagenet"]).url
    torch.save(state, tmp_path / "weights" / url.rpartition("/")[2])
    encoder, weights = load_encoder(name, None)
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])
    assert weights.card == {"source": url}


def test_its_frames_are_every_eighth_of_64():
    """30 frames a second: 8 frames of 30 / 8 a second last 64 / 30 s."""
    spec = ENCODERS["tsm_18"].preprocessing
    assert spec.clip_seconds == pytest.approx(64 / 30)
    assert (spec.crop, spec.resize) == (224, (256, 340))


def test_a_step_reaches_every_parameter():
    encoder = new_encoder("tsm_18", seed=0)
    F.mse_loss(encoder(clips(2, 3)), torch.zeros(2, 512)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
