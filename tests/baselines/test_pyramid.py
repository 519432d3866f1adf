import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.pyramid import DropPath, TransformerPyramid, attention, halve, sinusoids


def plain_attention(query, key, value, valid, window):
    """Attend everywhere, with minus infinity outside of the window and at padding."""
    place = torch.arange(query.shape[2])
    allowed = valid[:, None, None, :].expand(-1, 1, len(place), -1)
    if window > 0:
        allowed = allowed & ((place[:, None] - place).abs() <= window // 2)
    scores = query @ key.mT / math.sqrt(query.shape[3])
    return scores.masked_fill(~allowed, -math.inf).softmax(dim=3).nan_to_num(0) @ value


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 110),
    window=st.sampled_from([-1, 3, 5, 7, 19, 81]),
    length=st.integers(0, 110),
    seed=st.integers(0, 9),
)
def test_attention_in_blocks_equals_full_attention_with_a_band_mask(steps, window, length, seed):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(steps) < torch.tensor([[steps], [length]])
    inputs = torch.randn(3, 2, 2, steps, 4, generator=generator, dtype=torch.float64)
    results, gradients = [], []
    for attend in (attention, plain_attention):
        leaf = inputs.clone().requires_grad_()
        result = attend(*leaf, valid, window) * valid[:, None, :, None]
        (gradient,) = torch.autograd.grad(result.sin().sum(), leaf)
        results.append(result)
        gradients.append(gradient)
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [3, -1])
def test_attention_of_padding_alone_is_finite(window):
    rows = torch.randn(3, 1, 2, 8, 4)
    assert attention(*rows, torch.zeros(1, 8, dtype=torch.bool), window).isfinite().all()


def test_halve_takes_the_highest_of_three():
    rows = torch.tensor([4.0, 1, 2, 3, -5, -6, -7, -4]).view(1, 8, 1)
    # The first has no row before it: (4, 1), (1, 2, 3), (3, -5, -6), (-6, -7, -4).
    assert halve(rows).flatten().tolist() == [4, 3, 3, -4]
    rows = torch.randn(2, 10, 3)
    assert torch.equal(halve(rows), F.max_pool1d(rows.mT, 3, stride=2, padding=1).mT)


def test_sinusoids_worked_by_hand():
    # Rates 1 and 10000^(2/4) = 100 for the two pairs of channels; the root of 4 channels is 2.
    expected = [[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(sinusoids(3, 4), torch.tensor(expected) / 2)


def test_drop_path_leaves_out_whole_videos_and_only_in_training():
    path = DropPath(3, probability=0.5)
    path.scale.data = torch.tensor([1.0, 2.0, 3.0])
    branch = torch.ones(400, 5, 3)
    torch.manual_seed(0)
    dropped = path(branch)
    kept = dropped[:, 0, 0] > 0
    assert 150 < kept.sum() < 250
    assert torch.equal(dropped, kept[:, None, None] * branch * torch.tensor([2.0, 4.0, 6.0]))
    assert torch.equal(path.eval()(branch), branch * path.scale)


# The plain formulation: one video, padded as far as the release pads it, channels before time, every zero in place.

SETTINGS = {"channels": 3, "width": 8, "heads": 2, "windows": (3, 5, -1), "steps": 24, "drop_path": 0.1}
MULTIPLE = 8  # of 1 * 2, 2 * 4 and 4 * 1, strides and windows less one: what longer videos are padded to
LENGTHS = [24, 23, 21, 20, 17, 3, 1, 25, 31, 32, 40]


def plain_norm(norm, rows):
    centred = rows - rows.mean(dim=1, keepdim=True)
    normal = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return normal * norm.weight[:, None] + norm.bias[:, None]


def plain_conv(conv, rows, mask):
    rows = F.conv1d(rows, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups)
    return rows * mask


def plain_linear(linear, rows):
    return linear.weight @ rows + linear.bias[:, None]


def plain_block(block, rows, mask):
    normal = plain_norm(block.attention_norm, rows)
    if block.stride == 2:
        mask, rows = mask[:, :, ::2], F.max_pool1d(rows, 3, 2, 1)
    part = block.attention
    query, key, value = (
        plain_linear(linear, plain_norm(norm, plain_conv(conv, normal, mask)))
        for conv, norm, linear in (
            (part.query_conv, part.query_norm, part.query),
            (part.key_conv, part.key_norm, part.key),
            (part.value_conv, part.value_norm, part.value),
        )
    )
    query, key, value = (each.view(1, part.heads, -1, each.shape[2]).mT for each in (query, key, value))
    attended = plain_attention(query, key, value, mask[:, 0], part.window).mT.reshape(rows.shape)
    rows = rows * mask + block.attention_path.scale[:, None] * plain_linear(part.proj, attended) * mask
    hidden = F.gelu(plain_linear(block.mlp[0], plain_norm(block.mlp_norm, rows)))
    return rows + block.mlp_path.scale[:, None] * plain_linear(block.mlp[2], hidden) * mask, mask


def plain_pyramid(pyramid, features):
    """Compute the levels of one video, ``(C, L)``, and the masks."""
    length, steps = features.shape[1], pyramid.steps
    padded = steps if length <= steps else math.ceil(length / MULTIPLE) * MULTIPLE
    rows = F.pad(features, (0, padded - length))[None]
    mask = (torch.arange(padded) < length)[None, None]
    for conv, norm in zip(pyramid.embedding, pyramid.embedding_norms, strict=True):
        rows = F.relu(plain_norm(norm, plain_conv(conv, rows, mask)))
    if pyramid.positions is not None:
        rows = rows + F.interpolate(pyramid.positions.T[None], padded, mode="linear", align_corners=False) * mask
    for block in pyramid.stem:
        rows, mask = plain_block(block, rows, mask)
    levels = [(rows, mask)]
    for block in pyramid.branch:
        levels.append(plain_block(block, *levels[-1]))
    return [(plain_norm(norm, rows), mask) for norm, (rows, mask) in zip(pyramid.norms, levels, strict=True)]


def lively(module):
    """Give every parameter a value that shows: as initialised, biases and residual branches are almost nothing."""
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * (0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    return module.double().eval()


@pytest.mark.parametrize("position_encoding", [True, False])
def test_a_batch_of_all_lengths_equals_the_plain_formulation_of_each_video(position_encoding):
    torch.manual_seed(0)
    pyramid = lively(TransformerPyramid(**SETTINGS, position_encoding=position_encoding))
    videos = [torch.randn(3, length, dtype=torch.float64) for length in LENGTHS]
    for batch, steps in ((videos, 40), (videos, 47), (videos[2:7], 21), (videos[:7], 24), (videos[5:7], 3)):
        mask = torch.arange(steps) < torch.tensor([[video.shape[1]] for video in batch])
        features = torch.full((len(batch), 3, steps), math.nan, dtype=torch.float64)  # padding may hold anything
        for video, row in zip(batch, features, strict=True):
            row[:, : video.shape[1]] = video
        computed, levels = pyramid(features, mask)
        for number, video in enumerate(batch):
            for level, (plain, plain_mask) in enumerate(plain_pyramid(pyramid, video)):
                count = int(plain_mask.sum())
                assert levels[level].valid[number].sum() == count
                torch.testing.assert_close(
                    computed[level][number, :count], plain[0, :, :count].T, rtol=0, atol=1e-10, msg=f"{number} {level}"
                )


def test_short_videos_are_not_computed_at_full_length():
    pyramid = TransformerPyramid(**{**SETTINGS, "steps": 400}, position_encoding=True).eval()
    computed, _ = pyramid(torch.zeros(1, 3, 9), torch.ones(1, 9, dtype=torch.bool))
    assert [len(rows[0]) for rows in computed] == [16, 8, 4]  # 12 to the last stride, and one stride more
