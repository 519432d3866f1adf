import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import cell_convolution
from baselines.cell_convolution import CellConvolution, cells_around


def test_cells_around_worked_by_hand():
    # x . . .
    # . . . .
    valid = torch.tensor([[True, False, False, False], [False, False, False, False]])
    assert [cells.tolist() for cells in cells_around(valid, 2)] == [[0], [0, 1, 4, 5], [0, 1, 4, 5, 2, 6]]


@pytest.mark.parametrize("gathered", [2**20, 90, 1])
@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    share=st.floats(0.1, 1),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    videos=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_two_layers_equal_the_dense_convolutions(gathered, height, width, share, channels, videos, seed):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(height, width, generator=generator) < share
    valid[0, 0] = True
    last, middle, first = cells_around(valid, 2)
    shape = (height, width)
    layers = [
        CellConvolution(*channels[:2], shape, first, middle).double(),
        CellConvolution(*channels[1:], shape, middle, last).double(),
    ]
    maps = torch.randn(videos, channels[0], height * width, generator=generator, dtype=torch.float64)
    maps.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_convolution, "GATHERED_ON_CPU", gathered)
        hidden = F.pad(maps[:, :, first].mT, (0, 0, 0, 1))
        for layer in layers:
            hidden = layer(hidden)
            assert not hidden[:, -1].any()
        weigh = torch.randn(hidden[:, :-1].shape, generator=generator, dtype=torch.float64)
        inputs = [maps, *layers[0].parameters(), *layers[1].parameters()]
        gradients = torch.autograd.grad((hidden[:, :-1] * weigh).sum(), inputs)

    dense = maps.unflatten(2, shape)
    for layer in layers:
        dense = F.relu(F.conv2d(dense, layer.weight, layer.bias, padding=1))
    expected = dense.flatten(2)[:, :, last].mT
    torch.testing.assert_close(hidden[:, :-1], expected)
    for gradient, other in zip(gradients, torch.autograd.grad((expected * weigh).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, other)


def test_neighbours_are_not_part_of_the_weights():
    cells = torch.arange(4)
    assert sorted(CellConvolution(1, 1, (2, 2), cells, cells).state_dict()) == ["bias", "weight"]
