import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose, assert_array_equal

from tspbench.encoders import ENCODERS, new_encoder
from tspbench.encoders.contract import KINETICS_112, Preprocessing
from tspbench.encoders.r2plus1d_34 import R2Plus1D34


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    return new_encoder(request.param, seed=0).eval()


def small_clips(encoder, count, seed=0):
    """Return clips as the encoder wants them, but of fewer pixels: it averages over space in the end."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, encoder.preprocessing.clip_frames, 16, 16, generator=generator)


@torch.inference_mode()
def test_a_feature_for_each_clip(encoder):
    features = encoder(small_clips(encoder, 2))
    assert features.shape == (2, encoder.feature_dim)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


@torch.inference_mode()
def test_a_feature_does_not_depend_on_the_company_of_its_clip(encoder):
    clips = small_clips(encoder, 2)
    together = encoder(clips)
    alone = torch.cat([encoder(clip[None]) for clip in clips])
    assert_allclose(together, alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_the_stem_is_a_part_of_the_parameters(encoder):
    stem = [name for name, _ in encoder.named_parameters() if name.startswith(encoder.stem_prefix)]
    assert 0 < len(stem) < len(list(encoder.parameters()))
    assert not any(name.startswith("fc.") for name, _ in encoder.named_parameters())


def test_it_states_what_it_wants(encoder):
    spec = encoder.preprocessing
    assert spec.crop <= min(spec.resize)
    assert spec.clip_seconds == pytest.approx(spec.clip_frames / spec.frame_rate)
    assert all(std > 0 for std in spec.std)


@pytest.mark.parametrize("name", ["tiny", "r3d_18"])
def test_weights_follow_from_the_seed_alone(name):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = (new_encoder(name, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    key = next(key for key in first if key.startswith("stem.") and key.endswith("weight"))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first[key], other[key])


def test_r2plus1d_34_has_the_published_shape():
    model = R2Plus1D34()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(63.5e6, abs=0.35e6)  # 63.8 M with 400 classes
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.9)}
    # Middle widths: 128² · 27 / (9 · 128 + 3 · 128) = 288, and 144 for 64 planes.
    assert model.layer2[0].conv2[0][0].out_channels == 288
    assert model.layer1[0].conv1[0][0].out_channels == 144
    assert [len(getattr(model, f"layer{k}")) for k in (1, 2, 3, 4)] == [3, 4, 6, 3]


# Preprocessing.


def frames(n=3, height=36, width=50, seed=0):
    return torch.randint(
        0, 256, (n, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_frames_are_scaled_resized_cut_and_normalised():
    ours = KINETICS_112.apply(frames())
    x = F.interpolate(frames().permute(0, 3, 1, 2) / 255, size=(128, 171), mode="bilinear", align_corners=False)
    x = x[:, :, 8:120, 30:142]  # (171 - 112) / 2 = 29.5, which rounds to the even 30
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    assert ours.shape == (3, 3, 112, 112)
    # With one thread torch rounds where a place lies otherwise than with several; one grey level is 0.017.
    assert_allclose(ours, ((x - mean) / std).transpose(0, 1), atol=2e-5)


def test_frames_of_the_right_size_are_not_resized():
    spec = Preprocessing(4, 12.0, (4, 6), 2, (0.5, 0.0, 0.0), (0.5, 1.0, 2.0))
    pixels = torch.arange(4 * 6 * 3, dtype=torch.uint8).view(1, 4, 6, 3)
    expected = pixels[0, 1:3, 2:4].permute(2, 0, 1).float() / 255
    expected = (expected - torch.tensor([0.5, 0, 0]).view(3, 1, 1)) / torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    assert_allclose(spec.apply(pixels)[:, 0], expected, atol=1e-7)


def test_each_frame_is_prepared_as_if_alone():
    together = KINETICS_112.apply(frames())
    for k in range(3):
        assert torch.equal(together[:, k], KINETICS_112.apply(frames()[k : k + 1])[:, 0])


def test_augmentation_is_one_cut_for_the_clip_and_follows_from_its_generator():
    spec = Preprocessing(2, 12.0, (5, 7), 4, (0.0,) * 3, (1.0,) * 3)
    place = torch.arange(35, dtype=torch.uint8).view(1, 5, 7, 1).expand(2, 5, 7, 3)
    seen = set()
    for seed in range(200):
        clip, again = (spec.apply(place, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(clip, again)
        assert torch.equal(clip[:, 0], clip[:, 1])
        shown = (clip[0, 0] * 255).round().int().numpy()
        rows, columns = shown // 7, shown % 7
        mirrored = bool(columns[0, 0] > columns[0, 1])
        expected = columns[0].min() + np.arange(4)
        assert_array_equal(columns, np.tile(expected[::-1] if mirrored else expected, (4, 1)))
        assert_array_equal(rows, np.tile(rows[0, 0] + np.arange(4)[:, None], (1, 4)))
        seen.add((int(rows[0, 0]), int(columns.min()), mirrored))
    assert seen == {(top, left, flip) for top in range(2) for left in range(4) for flip in (False, True)}
