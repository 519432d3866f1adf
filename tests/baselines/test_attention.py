import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines.attention import (
    CrossAttention,
    FeedForward,
    KeyValues,
    MultiHeadAttention,
    Positions,
    SelfAttention,
    module_list,
    sinusoids,
)


def linear(layer, weight, bias):
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)


def test_attention_worked_by_hand():
    # One channel inside. The query ln 3 scores 0 and ln 3 with the keys 0 and 1: weights 1/4 and 3/4 of the values 8
    # and 4, hence 5, and 2 * 5 + 1 = 11 in the first of the two channels of the query.
    attention = MultiHeadAttention(query_dim=2, key_dim=1, d_model=1, heads=1, dropout=0)
    linear(attention.query, [[1.0, 0.0]], [0.0])
    linear(attention.key, [[1.0]], [0.0])
    linear(attention.value, [[-4.0]], [8.0])
    linear(attention.output, [[2.0], [0.0]], [1.0, 7.0])
    found = attention(torch.tensor([[[math.log(3), 100.0]]]), attention.keys(torch.tensor([[[0.0], [1.0]]])))
    torch.testing.assert_close(found, torch.tensor([[[11.0, 7.0]]]))


def test_scores_are_divided_by_the_root_of_a_head_s_channels():
    # Four channels in one head: the query (2 ln 3, 0, 0, 0) scores 2 ln 3 / sqrt(4) = ln 3 with the second key.
    attention = MultiHeadAttention(4, 4, d_model=4, heads=1, dropout=0)
    for layer in (attention.query, attention.key, attention.value, attention.output):
        linear(layer, torch.eye(4).tolist(), [0.0] * 4)
    query = torch.tensor([[[2 * math.log(3), 0, 0, 0]]])
    found = attention(query, attention.keys(torch.eye(4)[None, [1, 0]]))
    torch.testing.assert_close(found, torch.tensor([[[0.75, 0.25, 0, 0]]]))


def plain_attention(attention, query, others, allowed):
    """One query, one head at a time: ``(C,)``, ``(S, C)`` and ``(S,)`` bool, of which one at least is True."""
    found = []
    others = others[allowed]
    mapped = (attention.query(query), attention.key(others), attention.value(others))
    for q, k, v in zip(*(each.chunk(attention.heads, dim=-1) for each in mapped), strict=True):
        weights = torch.tensor([torch.dot(q, row) / math.sqrt(len(q)) for row in k]).exp()
        found.append(weights / weights.sum() @ v)
    return attention.output(torch.cat(found))


@settings(deadline=None, max_examples=40)
@given(
    heads=st.sampled_from([1, 2, 4]), length=st.integers(1, 4), others=st.integers(1, 5), seed=st.integers(0, 2**32 - 1)
)
@torch.no_grad()
def test_attention_equals_the_plain_formulation(heads, length, others, seed):
    torch.manual_seed(seed)
    attention = MultiHeadAttention(query_dim=5, key_dim=3, d_model=8, heads=heads, dropout=0).double()
    rows, seen = torch.randn(2, length, 5).double(), torch.randn(2, others, 3).double()
    allowed = torch.rand(2, length, others) < 0.7
    allowed[:, :, 0] = True
    found = attention(rows, attention.keys(seen), allowed[:, None])
    for b in range(2):
        for query in range(length):
            expected = plain_attention(attention, rows[b, query], seen[b], allowed[b, query])
            torch.testing.assert_close(found[b, query], expected)


def test_a_query_that_may_look_at_nothing_finds_zeros_and_has_a_finite_gradient():
    attention = MultiHeadAttention(3, 3, d_model=4, heads=2, dropout=0)
    rows = torch.randn(2, 4, 3, requires_grad=True)
    allowed = torch.tensor([[True, True, False, True], [False] * 4])[:, None, None]
    found = attention(rows, attention.keys(rows), allowed)
    torch.testing.assert_close(found[1], attention.output.bias.expand(4, 3))
    found.square().sum().backward()
    assert rows.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


def test_dropout_leaves_out_channels_of_what_was_found():
    torch.manual_seed(0)
    attention = MultiHeadAttention(64, 1, d_model=64, heads=1, dropout=0.5)
    linear(attention.value, [[0.0]] * 64, [1.0] * 64)
    linear(attention.output, torch.eye(64).tolist(), [0.0] * 64)
    found = attention(torch.randn(1, 1, 64), attention.keys(torch.randn(1, 1, 1)))
    assert set(found.flatten().tolist()) == {0.0, 2.0}  # of weights, the only key's would be left out as a whole
    assert torch.equal(
        attention.eval()(torch.randn(1, 1, 64), attention.keys(torch.randn(1, 1, 1))), torch.ones(1, 1, 64)
    )


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_extending_in_pieces_equals_extending_at_once(cut):
    torch.manual_seed(0)
    attention = SelfAttention(6, d_model=8, heads=2, dropout=0.1).eval()
    rows = torch.randn(3, 5, 6)
    nothing = attention.keys(rows[:, :0])
    whole, keys = attention.extend(rows, nothing)
    begun, past = attention.extend(rows[:, :cut], nothing)
    order = torch.tensor([2, 0, 2])
    ended, past = attention.extend(rows[order, cut:], past.select(order))
    torch.testing.assert_close(begun, whole[:, :cut])
    torch.testing.assert_close(ended, whole[order, cut:])
    torch.testing.assert_close(past.keys, keys.keys[order])
    torch.testing.assert_close(past.values, keys.values[order])


def test_extending_is_causal_and_looking_at_oneself_is_masked():
    torch.manual_seed(0)
    attention = SelfAttention(6, d_model=8, heads=2, dropout=0)
    rows = torch.randn(2, 5, 6)
    changed = rows.clone()
    changed[:, 3] = -rows[:, 3]
    one, other = (attention.extend(each, attention.keys(each[:, :0]))[0] for each in (rows, changed))
    assert torch.equal(one[:, :3], other[:, :3])
    assert ((one - other).abs().amax(dim=(0, 2))[3:] > 1e-4).all()

    mask = torch.tensor([[True, True, True, False, True]] * 2)
    one, other = (attention(each, mask) for each in (rows, changed))
    assert torch.equal(one[mask], other[mask])
    # The last of the causal rows sees all: it is that of attention without a mask.
    full = attention(rows, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(attention.extend(rows, attention.keys(rows[:, :0]))[0][:, -1], full[:, -1])


def test_only_the_rows_that_look_are_normalized():
    torch.manual_seed(0)
    attention = CrossAttention(4, 3, d_model=8, heads=2, dropout=0)
    rows, others, mask = torch.randn(2, 5, 4), torch.randn(2, 6, 3), torch.ones(2, 6, dtype=torch.bool)
    found = attention(rows, attention.keys(others), mask) - rows
    scaled = attention(3 * rows + 1, attention.keys(others), mask) - (3 * rows + 1)
    torch.testing.assert_close(found, scaled, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, attention(rows, attention.keys(3 * others), mask) - rows, rtol=1e-4, atol=1e-4)


def test_feed_forward_worked_by_hand():
    # (1, 3) is normalized to (-1, 1); the hidden channels are relu(-1 + 1 + 4) = 4 and relu(-2) = 0; 10 * 4 is added.
    layer = FeedForward(2, hidden=2, dropout=0)
    linear(layer.perceptron[0], [[1.0, 1.0], [2.0, 0.0]], [4.0, 0.0])
    linear(layer.perceptron[3], [[10.0, 10.0], [0.0, 10.0]], [0.0, 0.0])
    torch.testing.assert_close(layer(torch.tensor([[[1.0, 3.0]]])), torch.tensor([[[41.0, 3.0]]]), rtol=0, atol=1e-3)


def test_sinusoids_worked_by_hand():
    # Channels 0 to 3 of 4 turn by 1, 1/10, 1/100 and 1/1000 a step.
    expected = [[math.sin(p), math.cos(p / 10), math.sin(p / 100), math.cos(p / 1000)] for p in (0, 1, 2, 3)]
    torch.testing.assert_close(sinusoids(0, 4, 4), torch.tensor(expected))
    torch.testing.assert_close(sinusoids(2, 2, 4), torch.tensor(expected[2:]))
    assert sinusoids(0, 2, 5).shape == (2, 5)
    placed = Positions(dropout=0.5).eval()(torch.ones(3, 2, 4), first=2)
    torch.testing.assert_close(placed, (1 + torch.tensor(expected[2:])).expand(3, 2, 4))


def test_keys_are_appended_and_selected():
    keys = KeyValues(torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4))
    longer = keys.append(KeyValues(torch.zeros(2, 1, 1, 4), torch.ones(2, 1, 1, 4)))
    assert torch.equal(longer.keys[:, :, :3], keys.keys)
    assert torch.equal(longer.values[:, :, 3], torch.ones(2, 1, 4))
    chosen = longer.select(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.keys, longer.keys[[1, 1, 0]])
    assert torch.equal(chosen.values, longer.values[[1, 1, 0]])


def test_a_module_list_is_one():
    assert isinstance(module_list([nn.ReLU()]), nn.ModuleList)
