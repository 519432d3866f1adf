import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import sampling
from baselines.sampling import SampledLayers, align_bins, matching_points


def plain_value(track, position):
    """One channel at one position, as the reference's kernel interpolates."""
    last = len(track) - 1
    if position < -1 or position > last + 1:
        return 0.0
    position = max(position, 0.0)
    low = int(position)
    if low >= last:
        return track[last]
    return track[low] * (low + 1 - position) + track[low + 1] * (position - low)


def plain_bins(track, start, end, bins):
    """All bins of one window of one channel."""
    length = max(end - start, 1.0)
    size, count = length / bins, math.ceil(length / bins)
    return [
        sum(plain_value(track, start + b * size + (i + 0.5) * size / count) for i in range(count)) / count
        for b in range(bins)
    ]


def plain_matrix(windows, steps, bins):
    """The bins of every unit impulse: ``(N, bins, T)``."""
    impulses = torch.eye(steps, dtype=torch.float64).tolist()
    return torch.tensor(
        [[plain_bins(impulse, start, end, bins) for impulse in impulses] for start, end in windows.tolist()],
        dtype=torch.float64,
    ).transpose(1, 2)


def plain_layers(sources, matrices, weight, bias, narrow_weight, narrow_bias):
    """Materialise all bins of all sources, then two linear layers with ReLU, the first on channels x bins."""
    bins = torch.cat(
        [torch.einsum("nkt,btc->bnck", matrix, source) for matrix, source in zip(matrices, sources, strict=True)], dim=3
    )
    weight = weight.permute(1, 2, 0).flatten(1)  # (hidden, C * bins)
    hidden = torch.relu(bins.flatten(2) @ weight.T + bias)
    return torch.relu(hidden @ narrow_weight.T + narrow_bias)


def test_hand_worked_bins():
    # [1, 3) in two bins of one sample each, at 1.5 and 2.5.
    matrix = align_bins(torch.tensor([[1.0, 3.0]]), steps=4, bins=2).to_dense().view(4, 2).T
    assert matrix.tolist() == [[0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]


def test_outside_counts_as_zero_and_the_edges_are_held():
    # [-2, 2) in one bin of four samples: -1.5 is outside, -0.5 is held at step 0, then 0.5 and 1.5.
    matrix = align_bins(torch.tensor([[-2.0, 2.0]]), steps=3, bins=1).to_dense()
    assert torch.allclose(matrix, torch.tensor([[1.5 / 4, 1 / 4, 0.5 / 4]]))
    # [1, 5) of 3 steps: 1.5 is inside, 2.5 is held at step 2, 3.5 and 4.5 are outside.
    matrix = align_bins(torch.tensor([[1.0, 5.0]]), steps=3, bins=1).to_dense()
    assert torch.allclose(matrix, torch.tensor([[0, 0.5 / 4, 1.5 / 4]]))


def test_a_short_window_counts_as_one_step():
    assert torch.equal(
        align_bins(torch.tensor([[0.0, 0.0]]), steps=3, bins=4).to_dense(),
        align_bins(torch.tensor([[0.0, 1.0]]), steps=3, bins=4).to_dense(),
    )


def test_matching_points_worked_by_hand():
    # [-1.5, 3] in 2 bins of 2 points, at -1.5, 0, 1.5 and 3; then [-0.5, 2.5], at -0.5, 0.5, 1.5 and 2.5, of 3 steps.
    windows = torch.tensor([[-1.5, 3.0], [-0.5, 2.5], [torch.nan, torch.nan], [-1.0, -0.25]])
    matrix = matching_points(windows, steps=3, bins=2, points=2).to_dense().view(4, 3, 2).transpose(1, 2)
    assert matrix[0].tolist() == [[1 / 2, 0, 0], [0, 1 / 4, 1 / 4]]
    assert matrix[1].tolist() == [[1 / 2 + 1 / 4, 1 / 4, 0], [0, 1 / 4, 1 / 4 + 1 / 4]]
    assert not matrix[2].any()
    # -1 is outside, -0.75 to -0.25 are moved to 0.
    assert matrix[3].tolist() == [[1 / 2, 0, 0], [1, 0, 0]]


@settings(deadline=None, max_examples=30)
@given(
    steps=st.integers(2, 12),
    bins=st.integers(1, 5),
    windows=st.lists(st.tuples(st.integers(-20, 40), st.integers(0, 60)), min_size=1, max_size=6),
)
def test_matrix_equals_the_plain_rule(steps, bins, windows):
    window = torch.tensor([[start / 2 + 1 / 64, (start + length) / 2 + 1 / 64] for start, length in windows])
    matrix = align_bins(window, steps=steps, bins=bins).to_dense().view(-1, steps, bins).transpose(1, 2)
    assert torch.allclose(matrix.double(), plain_matrix(window, steps, bins), atol=1e-6)


@pytest.mark.parametrize(
    ("videos", "steps", "channels", "out_channels", "cells", "bins"),
    [(1, 3, 1, 1, 1, (1,)), (3, 7, 5, 4, 9, (3, 2)), (2, 16, 8, 6, 30, (8, 4)), (9, 40, 4, 3, 20, (5, 1, 2))],
)
@pytest.mark.parametrize("together", [None, 7])
def test_layers_equal_the_plain_formulation_with_gradients(
    videos, steps, channels, out_channels, cells, bins, together, monkeypatch
):
    if together:  # rows that are not a multiple of it, in the product and in its transpose
        monkeypatch.setattr(sampling, "ROWS_TOGETHER", together)
        monkeypatch.setattr(sampling, "BUILT_TOGETHER", together)
    generator = torch.Generator().manual_seed(videos)
    torch.manual_seed(videos)
    edges = (torch.rand(cells, 2, generator=generator) * 2 - 0.5) * steps
    windows = edges.sort(dim=1).values
    matrices = [align_bins(windows, steps=steps, bins=count) for count in bins]
    layers = SampledLayers(channels, 7, out_channels, matrices, steps=steps)
    sources = [torch.randn(videos, steps, channels, generator=generator, requires_grad=True) for _ in bins]
    weigh = torch.randn(videos, cells, out_channels, generator=generator)
    (layers(*sources) * weigh).sum().backward()

    parameters = [layers.weight, layers.bias, layers.narrow.weight, layers.narrow.bias]
    plain = [value.detach().double().requires_grad_() for value in (*sources, *parameters)]
    matrices = [plain_matrix(windows, steps, count) for count in bins]
    expected = plain_layers(plain[:-4], matrices, *plain[-4:])
    assert expected.any()
    (expected * weigh).sum().backward()
    torch.testing.assert_close(layers(*sources).double(), expected, rtol=1e-5, atol=1e-5)
    for value, other in zip((*sources, *parameters), plain, strict=True):
        torch.testing.assert_close(value.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


def a_layer_and_sources(seed=0):
    torch.manual_seed(seed)
    windows = torch.tensor([[start - 1.0, end + 1.0] for start in range(6) for end in range(start + 1, 7)])
    layer = SampledLayers(8, 6, 5, [align_bins(windows, steps=6, bins=bins) for bins in (4, 3)], steps=6)
    return layer, [torch.randn(3, 6, 8, requires_grad=True) for _ in range(2)]


def test_sources_may_lie_in_memory_in_any_order():
    layer, sources = a_layer_and_sources()
    turned = [source.detach().mT.contiguous().mT.requires_grad_() for source in sources]
    results = []
    for some in (sources, turned):
        result = layer(*some)
        results.append([result, *torch.autograd.grad(result.square().sum(), [*some, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_low_precision_is_close():
    layer, sources = a_layer_and_sources()
    exact = layer(*sources)
    gradients = torch.autograd.grad(exact.square().sum(), [*sources, *layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(*sources)
    assert result.dtype == torch.bfloat16
    others = torch.autograd.grad(result.float().square().sum(), [*sources, *layer.parameters()])
    for one, other in zip([exact, *gradients], [result.float(), *others], strict=True):
        assert (one - other).abs().max() < 0.03 * one.abs().max()


def test_same_bits_each_time():
    windows = torch.tensor([[start - 1.0, end + 1.0] for start in range(12) for end in range(start + 1, 13)])
    layer = SampledLayers(16, 8, 6, [align_bins(windows, steps=12, bins=8)], steps=12)
    source = torch.randn(5, 12, 16, requires_grad=True)
    runs = []
    for _ in range(2):
        result = layer(source)
        runs.append([result, *torch.autograd.grad(result.square().sum(), [source, *layer.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_matrices_are_not_part_of_the_weights():
    layer = SampledLayers(4, 4, 2, [align_bins(torch.tensor([[0.0, 2.0]]), steps=4, bins=2)], steps=4)
    assert sorted(layer.state_dict()) == ["bias", "narrow.bias", "narrow.weight", "weight"]
