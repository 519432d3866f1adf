from math import ceil, floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.proposal_graph import (
    GraphConvolutions,
    adjacencies,
    distance_matrix,
    draw_members,
    iou_matrix,
    neighbours,
    pool_stages,
    range_maxima,
    shared_length,
)

A, B, C, D = range(4)
FOUR = torch.tensor([[0.0, 10.0], [0.0, 9.0], [1.0, 10.0], [20.0, 30.0]])
RELEASE = {"overlapping": 8, "distant": 2, "iou_above": 0.7}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_lengths_ious_and_distances_of_four_proposals():
    assert shared_length(FOUR[A], FOUR).tolist() == [10, 9, 9, 0]
    expected = [[1, 9 / 10, 9 / 10, 0], [9 / 10, 1, 8 / 10, 0], [9 / 10, 8 / 10, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(iou_matrix(FOUR, FOUR), torch.tensor(expected))
    # Centres 5, 4.5, 5.5 and 25; the hulls of A and B are [0, 10] and [0, 30] with D, that of C is [1, 30].
    expected = [[0, 0.5 / 10, 0.5 / 10, 20 / 30], [20 / 30, 20.5 / 30, 19.5 / 29, 0]]
    torch.testing.assert_close(distance_matrix(FOUR[[A, D]], FOUR), torch.tensor(expected))


def test_neighbours_of_four_proposals():
    found = neighbours(FOUR, torch.arange(4), **RELEASE)
    assert found.tolist() == [
        [B, C, B, C, B, C, B, C, D, D],  # B and C overlap A as much: the first comes first
        [A, C, A, C, A, C, A, C, D, D],
        [A, B, A, B, A, B, A, B, D, D],
        [D, D, D, D, D, D, D, D, A, C],  # nobody overlaps D; the distances are 0.667, 0.683, 0.672
    ]
    # B and C have an IoU of exactly 0.8, which is not above 0.8.
    some = neighbours(FOUR, torch.tensor([C, B]), overlapping=3, distant=1, iou_above=0.8)
    assert some.tolist() == [[A, A, A, D], [A, A, A, D]]


def test_touching_segments_are_apart():
    segments = torch.tensor([[0.0, 2.0], [2.0, 4.0], [0.5, 3.0]])
    found = neighbours(segments, torch.tensor([0]), overlapping=1, distant=2, iou_above=0.9)
    assert found.tolist() == [[0, 1, 1]]


def test_equal_segments_are_each_other_s_neighbours():
    segments = torch.tensor([[0.0, 2.0]] * 3)
    found = neighbours(segments, torch.arange(3), overlapping=2, distant=1, iou_above=0.7)
    assert found.tolist() == [[1, 2, 0], [0, 2, 1], [0, 1, 2]]


def plain_neighbours(segments, node, overlapping, distant, iou_above):
    """One node after the other, in Python numbers."""

    def iou(one, other):
        shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
        return shared / (one[1] - one[0] + other[1] - other[0] - shared)

    def distance(one, other):
        return abs(sum(one) / 2 - sum(other) / 2) / (max(one[1], other[1]) - min(one[0], other[0]))

    own, others = segments[node], [number for number in range(len(segments)) if number != node]
    close = sorted(others, key=lambda each: -iou(own, segments[each]))
    close = [each for each in close if iou(own, segments[each]) > iou_above] or [node]
    apart = sorted(others, key=lambda each: distance(own, segments[each]))
    apart = [each for each in apart if iou(own, segments[each]) == 0] or [node]
    return (close * overlapping)[:overlapping] + (apart * distant)[:distant]


some_segments = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    segments=some_segments,
    overlapping=st.integers(1, 8),
    distant=st.integers(0, 3),
    iou_above=st.sampled_from([0, 0.25, 0.7]),
)
def test_neighbours_equal_the_plain_search(segments, overlapping, distant, iou_above):
    nodes = torch.arange(len(segments)).flip(0)
    found = neighbours(
        torch.tensor(segments), nodes, overlapping=overlapping, distant=distant, iou_above=iou_above
    ).tolist()
    assert found == [plain_neighbours(segments, node, overlapping, distant, iou_above) for node in nodes.tolist()]


def test_many_nodes_are_looked_up_in_parts():
    generator = seeded()
    start = torch.randint(0, 50, (300,), generator=generator)
    segments = torch.stack([start, start + torch.randint(1, 9, (300,), generator=generator)], dim=1)
    found = neighbours(segments, torch.arange(300), **RELEASE).tolist()
    assert found == [plain_neighbours(segments.tolist(), node, 8, 2, 0.7) for node in range(300)]


def test_members_of_four_proposals():
    # Of one overlapping and one distant neighbour both are drawn, in any order.
    members = draw_members(FOUR, torch.tensor([D, B]), 2, seeded(), overlapping=1, distant=1, iou_above=0.7)
    pairs = {A: {B, D}, B: {A, D}, C: {A, D}, D: {D, A}}
    assert members.shape == (2, 3, 3)
    assert members[:, 0, 0].tolist() == [D, B]
    for graph in members.tolist():
        assert graph[0][1:] == [graph[1][0], graph[2][0]]
        for node, *children in graph:
            assert set(children) == pairs[node]


def test_members_are_drawn_anew_evenly_and_by_the_generator_alone():
    roots = torch.full((20_000,), A)
    draw = lambda seed: draw_members(FOUR, roots, 4, seeded(seed), **RELEASE)  # noqa: E731
    members = draw(0)
    assert torch.equal(members, draw(0))
    assert not torch.equal(members, draw(1))
    # Of A's ten places four hold B, four C and two D; four places are drawn of them, so D comes twice at most.
    counts = torch.stack([(members[:, 0, 1:] == node).sum(dim=1) for node in (B, C, D)], dim=1)
    torch.testing.assert_close(counts.double().mean(dim=0), torch.tensor([1.6, 1.6, 0.8]).double(), rtol=0, atol=0.03)
    assert counts.amax(dim=0).tolist() == [4, 4, 2]
    # The same child has other children in another graph, and even in the same.
    assert not torch.equal(members[0, 1:, 1:], members[1, 1:, 1:])


def test_no_roots_have_no_members():
    assert draw_members(FOUR, torch.arange(0), 4, seeded(), **RELEASE).shape == (0, 5, 5)
    assert draw_members(torch.zeros(0, 2), torch.arange(0), 4, seeded(), **RELEASE).shape == (0, 5, 5)


def test_maxima_over_ranges_by_hand():
    features = torch.tensor([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]])
    maxima = range_maxima(features, torch.tensor([0, 1, 0, 3, 1]), torch.tensor([0, 3, 4, 5, 2]))
    assert maxima.tolist() == [[3, 0], [4, -1], [5, 0], [9, -3], [4, -1]]


def test_stages_pooled_by_hand():
    features = torch.tensor([[1.0, 8.0, 3.0, 4.0, 2.0, 6.0, 7.0, 5.0]])  # (1, 8)
    segments = torch.tensor([[2.0, 4.0], [4.5, 5.5], [0.0, 8.0], [7.0, 8.0]])
    expected = [
        [8, 4, 2],  # steps 1 | 2, 3 | 4
        [2, 6, 6],  # [4, 4.5) | [4.5, 5.5) | [5.5, 6): steps 4 | 4, 5 | 5
        [1, 8, 5],  # nothing before: the first step; nothing behind: the last
        [7, 5, 5],  # [6.5, 7) | [7, 8) | nothing: steps 6 | 7 | 7
    ]
    assert pool_stages(features, segments, 0.5).squeeze(2).tolist() == expected


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    steps=st.integers(1, 40),
    pairs=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 400)), max_size=12),
    extension=st.sampled_from([0.5, 0.25, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
)
def test_stages_equal_brute_force(steps, pairs, extension, dtype):
    features = torch.randn(3, steps, generator=seeded(steps)).to(dtype)
    segments = [(start / 8, min(steps, (start + length) / 8)) for start, length in pairs if start / 8 < steps]
    pooled = pool_stages(features, torch.tensor(segments, dtype=torch.float64).view(-1, 2), extension)
    assert pooled.dtype == dtype
    assert pooled.shape == (len(segments), 3, 3)
    for (start, end), stages in zip(segments, pooled, strict=True):
        margin = extension * (end - start)
        ranges = [(max(start - margin, 0), start), (start, end), (end, min(end + margin, steps))]
        for (low, high), stage in zip(ranges, stages, strict=True):
            touched = [step for step in range(floor(low), ceil(high))] or [min(floor(low), steps - 1)]
            assert torch.equal(stage, features[:, touched].amax(dim=1))


FEATURES = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [-4.0, 3.0]])
MEMBERS = torch.tensor([[[A, B, C], [B, C, D], [C, D, B]]])


def test_adjacency_worked_by_hand():
    nothing = torch.zeros(4, 2)
    before = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    own, whole = adjacencies(torch.stack([before, FEATURES, nothing], dim=1), MEMBERS)
    # Cosines: A B 3/5, A C 0, B C 4/5, B D 0, C D 3/5; two children, so half of them.
    expected = [[1, 0.3, 0], [1, 0.4, 0], [1, 0.3, 0.4]]
    torch.testing.assert_close(own, torch.tensor([expected]))
    expected[0][1] = 3 / (5**0.5 * 5) / 2  # A's stages together are (2, 0, 1, 0, 0, 0), of length 5^0.5
    torch.testing.assert_close(whole, torch.tensor([expected]))


def test_opposite_and_empty_features_are_not_similar():
    features = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])[:, None].expand(-1, 3, -1)
    own, whole = adjacencies(features, torch.tensor([[[0, 1], [1, 0]], [[2, 2], [2, 0]]]))
    assert own.tolist() == [[[1, 0], [1, 0]], [[1, 0], [1, 0]]]
    assert torch.equal(own, whole)


def test_graph_convolutions_worked_by_hand():
    layers = GraphConvolutions(2, 1, dropout=0.0)
    with torch.no_grad():
        layers.first.weight.copy_(torch.tensor([[1.0, 1.0]]))
        layers.first.bias.fill_(-4.0)
        layers.second.weight.copy_(torch.tensor([[10.0], [-1.0]]))
        layers.second.bias.copy_(torch.tensor([0.0, 1.0]))
    adjacency = torch.tensor([[[1, 0.3, 0], [1, 0.4, 0], [1, 0.3, 0.4]]])
    # After the weights A, B, C and D have 1, 7, 2 and -1. The rows of the first layer sum to 1 + 0.3 * 7 = 3.1,
    # 7 + 0.4 * 2 = 7.8 and 2 + 0.3 * -1 + 0.4 * 7 = 4.5, so that 0, 3.8 and 0.5 come out of it.
    # Of these the root takes 0.3 * 3.8 = 1.14, and the second layer makes it 11.4 and 1 - 1.14.
    torch.testing.assert_close(layers(FEATURES, MEMBERS, adjacency), torch.tensor([[11.4, -0.14]]))


@pytest.mark.parametrize("layer", ["first", "second"])
def test_initial_weights_are_as_wide_as_the_outputs_say(layer):
    torch.manual_seed(0)
    layer = getattr(GraphConvolutions(900, 400, dropout=0.0), layer)
    bound = layer.out_features**-0.5
    for values in (layer.weight, layer.bias):
        assert 0.95 * bound < values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
