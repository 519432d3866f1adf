from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tspbench.chunks import in_chunks, map_tensors


@dataclass(frozen=True)
class Pair:
    sums: Tensor
    rest: dict[str, list[Tensor]]
    note: str = "kept"


class Net(nn.Module):
    """Two layers with a normalization between, on a tensor and a tree; tells how often it was applied."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.norm, self.last = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        self.double()
        self.calls = []

    def forward(self, x, tree):
        self.calls.append(len(x))
        y = torch.tanh(self.norm(self.first(x + tree["shift"][0])))
        return Pair(y.sum(dim=1), {"last": [self.last(y)]})


def data(samples):
    generator = torch.Generator().manual_seed(samples)
    x, shift = (torch.randn(samples, 3, dtype=torch.float64, generator=generator) for _ in "ab")
    return x.requires_grad_(), {"shift": [shift]}


def step(net, inputs, size):
    """Return the output, and the gradients of a loss that mixes samples, of the input and of every weight."""
    net.zero_grad()
    inputs[0].grad = None
    output = in_chunks(net, inputs, size)
    (output.sums.logsumexp(0) + output.rest["last"][0].square().sum().sqrt()).backward()
    return output, [inputs[0].grad, *(parameter.grad for parameter in net.parameters())]


@given(samples=st.integers(1, 12), size=st.integers(1, 14))
@settings(deadline=None, max_examples=60)
def test_chunks_of_any_size_change_nothing(samples, size):
    net, inputs = Net().eval(), data(samples)
    whole, expected = step(net, inputs, None)
    output, found = step(net, inputs, size)
    assert isinstance(output, Pair)
    assert output.note == "kept"
    torch.testing.assert_close(output.sums, whole.sums)
    torch.testing.assert_close(output.rest, whole.rest)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_the_remainder_is_a_chunk_and_each_is_computed_twice():
    net, inputs = Net().eval(), data(7)
    step(net, inputs, 3)
    assert net.calls[:3] == [3, 3, 1]
    assert sorted(net.calls[3:]) == [1, 3, 3]


def test_without_gradients_each_chunk_is_computed_once():
    net = Net().eval()
    with torch.no_grad():
        in_chunks(net, data(7), 3)
    assert net.calls == [3, 3, 1]


def test_what_fits_into_a_chunk_is_computed_once():
    net = Net().eval()
    step(net, data(3), 3)
    assert net.calls == [3]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_each_chunk_once(momentum):
    net, by_hand = Net().train(), Net().train()
    net.norm.momentum = by_hand.norm.momentum = momentum
    x, tree = data(8)
    step(net, (x, tree), 3)
    with torch.no_grad():
        for first in (0, 3, 6):
            by_hand(x[first : first + 3], {"shift": [tree["shift"][0][first : first + 3]]})
    assert net.norm.num_batches_tracked == 3
    assert net.norm.momentum == momentum
    assert torch.equal(net.norm.running_mean, by_hand.norm.running_mean)
    assert torch.equal(net.norm.running_var, by_hand.norm.running_var)


def test_frozen_statistics_stay():
    net = Net().train()
    net.norm.eval()
    before = {key: value.clone() for key, value in net.norm.state_dict().items()}
    step(net, data(6), 2)
    assert all(torch.equal(value, before[key]) for key, value in net.norm.state_dict().items() if "running" in key)
    assert net.norm.num_batches_tracked == 0


def test_a_failure_in_the_second_pass_leaves_the_layers_as_they_were():
    net, inputs = Net().train(), data(6)
    output = in_chunks(net, inputs, 2)

    def fail(*_):
        raise RuntimeError("second pass")

    net.first.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="second pass"):
        output.sums.sum().backward()
    assert net.norm.momentum == 0.1
    assert net.norm.num_batches_tracked == 3


def test_random_layers_draw_the_same_in_both_passes():
    torch.manual_seed(0)
    layer = nn.Dropout(0.5)
    x = torch.ones(8, 100, requires_grad=True)
    output = in_chunks(layer, (x,), 3)
    output.sum().backward()
    assert torch.equal(x.grad, output.detach())  # 0 where a value was dropped, 2 where not


def test_trees_by_hand():
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    tree = Pair(one, {"a": [two, one]})
    added = map_tensors(torch.add, tree, tree)
    assert added.sums.item() == 2
    assert [each.item() for each in added.rest["a"]] == [4, 2]
    assert added.note == "kept"
    assert map_tensors(torch.neg, (one, "text", None)) == (-one, "text", None)
