from dataclasses import replace
from math import exp, log

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F

from baselines.pgcn import (
    PGCN,
    PGCNConfig,
    PGCNScores,
    completeness_loss,
    move,
    offsets_between,
)
from baselines.proposal_graph import (
    BACKGROUND,
    FOREGROUND,
    INCOMPLETE,
    GraphTargets,
    ProposalGraphs,
    iou_matrix,
    pool_stages,
)
from baselines.refiner_contract import ProposalBatch

SMALL = {"feature_dim": 6, "classes": 3, "hidden": 8}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**settings):
    torch.manual_seed(0)
    model = PGCN(PGCNConfig(**{**SMALL, **settings}))
    for layer in (model.activity, model.completeness, model.regression):
        torch.nn.init.normal_(layer.weight, std=0.1)  # far enough from 0 to see differences
    return model


def one_video(proposals, segments=(), labels=(), steps=40, channels=6, seed=0):
    return ProposalBatch(
        features=[torch.randn(channels, steps, generator=seeded(seed))],
        proposals=[torch.tensor(proposals, dtype=torch.float32).view(-1, 2)],
        scores=[torch.ones(len(proposals))],
        segments=[torch.tensor(segments, dtype=torch.float32).view(-1, 2)],
        labels=[torch.tensor(labels, dtype=torch.int64)],
    )


def random_proposals(count, steps, seed=0):
    start = torch.rand(count, generator=seeded(seed)) * (steps - 2)
    length = torch.rand(count, generator=seeded(seed + 1)) * steps / 4 + 1
    return torch.stack([start, start + length], dim=1).tolist()


@pytest.mark.parametrize(("channels", "expected"), [(1024, 4_611_153), (512, 2_306_129)])
def test_number_of_parameters(channels, expected):
    """Of the release, with 20 classes: I3D has 1,024 channels, 3,072 with the contexts, and TSP has 512."""
    model = PGCN(PGCNConfig(feature_dim=channels, classes=20))
    own, stages = channels, 3 * channels
    graphs = sum(width * 512 + 512 + 512 * width + width for width in (own, stages))
    scores = (2 * own + 1) * 21 + (2 * stages + 1) * 20 + (2 * stages + 1) * 40
    assert sum(parameter.numel() for parameter in model.parameters()) == graphs + scores == expected


def test_initial_scores_are_small():
    model = PGCN(PGCNConfig(feature_dim=64, classes=20))
    for layer in (model.activity, model.completeness, model.regression):
        assert layer.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert not layer.bias.any()


def test_more_children_than_neighbours_are_refused():
    with pytest.raises(pydantic.ValidationError, match="children 4 is more than the 2 overlapping and 1 distant"):
        PGCNConfig(**SMALL, overlapping=2, distant=1)


def plain_forward(model, graphs):
    """Score as the release does: one graph after the other, all its 21 nodes with all weights."""
    children = graphs.members.shape[1] - 1
    count = 1 + children + children**2
    mask = torch.zeros(count, count)
    for node in range(children + 1):
        mask[node, 1 + node * children : 1 + (node + 1) * children] = 1 / children
        mask[node, node] = 1
    parts = []
    for members in graphs.members:
        nodes = torch.cat([members[0, :1], members[:, 1:].flatten()])
        inputs, outputs = [graphs.features[nodes, 1], graphs.features[nodes].flatten(1)], []
        for x, layers in zip(inputs, (model.activity_graph, model.completeness_graph), strict=True):
            cosine = F.cosine_similarity(x[:, None], x, dim=2)
            adjacency = F.relu(mask * cosine)
            hidden = F.relu(adjacency @ (x @ layers.first.weight.T) + layers.first.bias)
            hidden = F.dropout(hidden, layers.dropout, model.training)
            outputs.append(torch.cat([adjacency @ (hidden @ layers.second.weight.T) + layers.second.bias, x], dim=1)[0])
        action, stages = outputs
        action = model.dropout(action)
        parts.append((model.activity(action), model.completeness(stages), model.regression(stages).view(-1, 2)))
    return PGCNScores(*(torch.stack(part) for part in zip(*parts, strict=True)))


@pytest.mark.parametrize("settings", [{}, {"children": 2, "overlapping": 3, "distant": 1}, {"neighbour_iou": 0.1}])
def test_scores_and_gradients_equal_the_plain_formulation(settings):
    model = small(**settings, dropout=0.0, graph_dropout=0.0)
    graphs = model.graphs(one_video(random_proposals(70, 40)), None)
    gradients = []
    for apply in (model, lambda graphs: plain_forward(model, graphs)):
        output = apply(graphs)
        parts = [output.activity, output.completeness, output.regression]
        model.zero_grad()
        sum((part * part.detach().cos()).sum() for part in parts).backward()
        gradients.append([part.detach() for part in parts] + [each.grad.clone() for each in model.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for ours, plain in zip(gradients[0][:3], gradients[1][:3], strict=True):
        assert (ours - plain).abs().max() < 1e-6


def test_dropout_is_as_in_the_plain_formulation_on_average():
    model = small(children=1, overlapping=1, distant=0, hidden=64)
    graphs = model.graphs(one_video([[0, 8], [0, 9]]), None)
    many = replace(graphs, members=graphs.members[:1].expand(20_000, -1, -1))
    some = replace(graphs, members=many.members[:1500])
    ours, plain = model(many).activity.detach(), plain_forward(model, some).activity.detach()
    deviation = plain.std(dim=0)
    assert ((ours.mean(dim=0) - plain.mean(dim=0)).abs() < 0.1 * deviation).all()
    torch.testing.assert_close(ours.std(dim=0), deviation, rtol=0.1, atol=0)


def test_every_proposal_is_a_root_in_prediction():
    proposals = [[4, 12], [5, 12], [-3, 6], [30, 50], [7, 7], [40, 44], [9, 3]]
    graphs = small().graphs(one_video(proposals), None)
    # Cut at the ends of 40 steps; the last three have no length then.
    assert graphs.segments.tolist() == [[4, 12], [5, 12], [0, 6], [30, 40]]
    assert graphs.members[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert graphs.counts.tolist() == [4]
    assert graphs.steps.tolist() == [40]
    assert graphs.targets is None


def test_neighbours_make_a_difference():
    model = small().eval()
    alone = model(model.graphs(one_video([[4, 12]]), None))
    beside = model(model.graphs(one_video([[4, 12], [5, 12]]), None))
    assert not torch.allclose(alone.activity[0], beside.activity[0])


def kinds_and_truth(proposals, segments, steps=100):
    kinds, truth = small().kinds_of(
        torch.tensor(proposals, dtype=torch.float64).view(-1, 2), torch.tensor(segments).double().view(-1, 2), steps
    )
    return list(zip(kinds.tolist(), truth.tolist(), strict=True))


def test_kinds_worked_by_hand():
    segments = [[10.0, 20.0], [40.0, 80.0]]
    assert kinds_and_truth([[10, 18], [10, 17], [12, 20.5]], segments) == [
        (FOREGROUND, 0),  # IoU 8 / 10
        (-1, 0),  # exactly 7 / 10 is not above 0.7
        (FOREGROUND, 0),  # 8 / 10.5
    ]
    assert kinds_and_truth([[40, 51], [40, 52], [0, 100], [19.75, 39.75], [19.95, 39]], segments) == [
        (INCOMPLETE, 1),  # IoU 11 / 40, all of it inside
        (-1, 1),  # exactly 12 / 40 is not below 0.3
        (-1, 1),  # IoU 40 / 100
        (INCOMPLETE, 0),  # 0.25 of 20 inside is a share of 0.0125
        (BACKGROUND, 0),  # 0.05 of 19.05 is not above 0.01, neither is the IoU of 0.05 / 29
    ]
    assert kinds_and_truth([[82, 84], [82, 84.5], [20, 40]], segments) == [
        (-1, 0),  # exactly 2 of 100 steps are not above 0.02
        (BACKGROUND, 0),
        (BACKGROUND, 0),  # touches both
    ]
    assert kinds_and_truth([[0, 50]], [[0.0, 20.0], [30.0, 50.0]]) == [(-1, 0)]  # the first of equals, IoU 0.4
    assert kinds_and_truth([[82, 84.5], [82, 84]], []) == [(BACKGROUND, 0), (-1, 0)]
    assert kinds_and_truth([], segments) == []


PROPOSALS = [[10.0, 19.0], [10.0, 12.0], [14.0, 15.0], [30.0, 36.0], [10.0, 15.0]]
KINDS = [FOREGROUND, INCOMPLETE, INCOMPLETE, BACKGROUND, -1]


def test_roots_are_drawn_by_kind():
    batch = one_video(PROPOSALS, [[10.0, 20.0], [22.0, 23.0]], [2, 1])
    model, seen = small(neighbour_iou=0.0), set()
    unused = pool_stages(batch.features[0], torch.tensor(PROPOSALS[-1:]), 0.5)
    for seed in range(60):
        graphs = model.graphs(batch, seeded(seed))
        targets = graphs.targets
        assert graphs.counts.tolist() == [8]
        assert targets.kinds.tolist() == [FOREGROUND] + [INCOMPLETE] * 6 + [BACKGROUND]
        assert targets.labels[1:7].tolist() == [2] * 6
        seen |= {(*segment, kind) for segment, kind in zip(graphs.segments.tolist(), targets.kinds.tolist())}  # noqa: B905
        root, label, offset = graphs.segments[0].tolist(), targets.labels[0].item(), targets.offsets[0]
        expected = {
            (10.0, 19.0): (2, [0.5 / 9, log(10 / 9)]),
            (10.0, 20.0): (2, [0, 0]),
            (22.0, 23.0): (1, [0, 0]),
        }[tuple(root)]
        assert label == expected[0]
        torch.testing.assert_close(offset, torch.tensor(expected[1], dtype=torch.float64))
        assert not (graphs.features == unused).flatten(1).all(dim=1).any()
    # The true segments are foreground; the last proposal, of IoU 0.5, is nothing, and nobody's neighbour.
    assert seen == {(*segment, kind) for segment, kind in zip(PROPOSALS[:4], KINDS[:4], strict=True)} | {
        (10.0, 20.0, FOREGROUND),
        (22.0, 23.0, FOREGROUND),
    }


def test_foreground_takes_the_place_of_what_is_missing():
    graphs = small().graphs(one_video([[10, 19]], [[10, 20]], [1]), seeded())
    assert graphs.targets.kinds.tolist() == [FOREGROUND] * 8
    nothing_happens = small().graphs(one_video([[10, 19]]), seeded())
    assert nothing_happens.targets.kinds.tolist() == [BACKGROUND]
    assert small().graphs(one_video([]), seeded()).counts.tolist() == [0]
    without_proposals = small().graphs(one_video([], [[10, 20]], [1]), seeded())
    assert without_proposals.targets.kinds.tolist() == [FOREGROUND] * 8


def test_true_segments_are_cut_and_dropped_with_their_labels():
    graphs = small().graphs(one_video([], [[41, 43], [35, 50]], [0, 2]), seeded())
    assert graphs.segments.tolist() == [[35, 40]] * 8
    assert graphs.targets.labels.tolist() == [2] * 8


def test_graphs_are_the_generator_s_and_prediction_s_are_always_the_same():
    batch = one_video(random_proposals(60, 40), [[10, 20], [25, 30]], [0, 1])
    model = small(neighbour_iou=0.2)
    one, same, other = (model.graphs(batch, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.members, same.members)
    assert torch.equal(one.features, same.features)
    assert not torch.equal(one.segments, other.segments)
    torch.manual_seed(1)
    first = model.graphs(batch, None)
    torch.manual_seed(2)
    assert torch.equal(first.members, model.graphs(batch, None).members)


def test_only_proposals_of_a_graph_are_pooled_and_joined_with_their_video():
    batch = one_video(random_proposals(60, 40), [[10, 20]], [0])
    other = one_video(random_proposals(50, 30), [[3, 9]], [1], steps=30, seed=9)
    both = ProposalBatch(*(getattr(batch, name) + getattr(other, name) for name in ProposalBatch.__dataclass_fields__))
    model = small()
    for generator in (None, seeded()):
        graphs = model.graphs(both, generator)
        assert graphs.members.unique().tolist() == list(range(len(graphs.features)))
        first = graphs.members[: graphs.counts[0]]
        assert first.max() < graphs.members[graphs.counts[0] :].min()
    alone = model.graphs(other, None)
    together = model.graphs(both, None)
    assert torch.equal(together.features[together.members[60:]], alone.features[alone.members])


def test_completeness_loss_worked_by_hand():
    foreground = torch.tensor([0.5, 2.0])  # 0.5 and nothing
    incomplete = torch.tensor([[-2.0, 0.3, -0.5, 0.1, -1.0, -3.0], [-1.5, -1.2, -0.9, -4.0, -2.0, -2.0]])
    # The hardest of six is one, 1.3 and 0.1; 2 foreground and 0.17 * 12 = 2.04, so 2, incomplete ones.
    assert completeness_loss(foreground, incomplete, 0.17).item() == pytest.approx((0.5 + 1.3 + 0.1) / 4)
    # Half of six are three: 1.3, 1.1, 0.5 and 0.1; and 6 of 12.
    assert completeness_loss(foreground, incomplete, 0.5).item() == pytest.approx((0.5 + 2.9 + 0.1) / 8)
    assert completeness_loss(foreground, torch.zeros(0, 6), 0.17).item() == pytest.approx(0.5 / 3)
    assert completeness_loss(torch.zeros(0), torch.zeros(0, 6), 0.17).item() == 0


def hand_made(kinds, labels, offsets, sums=None):
    count = len(kinds)
    sums = torch.zeros(3, 2).double() if sums is None else sums
    targets = GraphTargets(torch.tensor(kinds), torch.tensor(labels), torch.tensor(offsets).double(), sums)
    return ProposalGraphs(
        features=torch.zeros(1, 3, 6),
        members=torch.zeros(count, 5, 5, dtype=torch.int64),
        segments=torch.zeros(count, 2),
        counts=torch.tensor([count]),
        steps=torch.tensor([40]),
        targets=targets,
    )


def test_losses_worked_by_hand():
    kinds = [FOREGROUND, INCOMPLETE, INCOMPLETE, BACKGROUND]
    graphs = hand_made(kinds, [2, 0, 1, 1], [[0.5, -0.25], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    activity = torch.tensor([[0.0, 0.0, 0.0, 1.0], [9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    completeness = torch.tensor([[9.0, 9.0, 0.75], [0.5, 9.0, 9.0], [9.0, -0.5, 9.0], [9.0, 9.0, 9.0]])
    regression = torch.full((4, 3, 2), 9.0)
    regression[0, 2] = torch.tensor([0.75, 1.75])
    model = small(incompletes=2)
    losses = model.loss(PGCNScores(activity, completeness, regression), graphs)
    # Foreground has class 2, the fourth logit; background the first; incomplete ones are not asked.
    expected = -(log(exp(1) / (exp(1) + 3)) + log(exp(2) / (exp(2) + 3))) / 2
    assert losses["activity"].item() == pytest.approx(expected)
    # 1 - 0.75, and the harder of 1 + 0.5 and 1 - 0.5; over 1 + max(int(2 * 0.17), 1).
    assert losses["completeness"].item() == pytest.approx((0.25 + 1.5) / 2)
    # Differences 0.25 and 2: 0.25^2 / 2 and 2 - 1 / 2; their mean twice.
    assert losses["regression"].item() == pytest.approx(0.03125 + 1.5)
    total = sum(weight * losses[name].item() for name, weight in [("activity", 1), ("completeness", 0.5)])
    assert losses["total"].item() == pytest.approx(total + 0.5 * losses["regression"].item())


def test_hardest_are_chosen_in_each_video():
    model = small(incompletes=2)
    one = hand_made([FOREGROUND, INCOMPLETE, INCOMPLETE], [0, 0, 0], [[0.0, 0.0]] * 3)
    targets = GraphTargets(
        one.targets.kinds.repeat(2), one.targets.labels.repeat(2), torch.zeros(6, 2), torch.zeros(3, 2)
    )
    output = PGCNScores(
        activity=torch.zeros(6, 4),
        completeness=torch.tensor([1.0, 3.0, 2.0, 1.0, -5.0, -0.5])[:, None].expand(-1, 3),
        regression=torch.zeros(6, 3, 2),
    )
    losses = model.loss(output, replace(one, targets=targets))
    assert losses["completeness"].item() == pytest.approx((4 + 0.5) / (2 + 1))


def test_offsets_are_normalised_as_over_the_whole_training_set():
    proposals = [[10.0, 19.0], [11.0, 20.0], [9.0, 21.0], [10.0, 15.0], [30.0, 36.0]]
    batches = [one_video(proposals[: 2 + video], [[10.0, 20.0]], [0]) for video in range(3)]
    model = small()
    assert [each.tolist() for each in model.offset_statistics()] == [[0, 0], [1, 1]]
    for seed, batch in enumerate(batches * 2):  # two epochs
        graphs = model.graphs(batch, seeded(seed))
        model.loss(model(graphs), graphs)
    # Of the first three proposals, which are foreground, and not of the true segment; the first video lacks the third.
    first, second, third = ((0.5 / 9, log(10 / 9)), (-0.5 / 9, log(10 / 9)), (0, log(10 / 12)))
    expected = np.array([first, second, first, second, third, first, second, third])
    mean, deviation = model.offset_statistics()
    np.testing.assert_allclose(mean, expected.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(deviation, expected.std(axis=0), rtol=1e-6)
    assert "offset_sums" in model.state_dict()
    model.eval()
    model.loss(model(graphs), graphs)
    assert torch.equal(model.offset_statistics()[0], mean)


def test_normalised_offsets_are_what_is_learnt():
    model = small(incompletes=1)
    sums = torch.tensor([[4.0, 4.0], [2.0, 4.0], [1.0 + 4 * 0.04, 4.0 + 4 * 0.25]]).double()
    mean, deviation = torch.tensor([0.5, 1.0]), torch.tensor([0.2, 0.5])
    graphs = hand_made([FOREGROUND], [1], [[0.9, 0.5]], sums)
    output = PGCNScores(torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor([[2.0, -1.0]]).expand(1, 3, 2))
    assert model.loss(output, graphs)["regression"].item() == pytest.approx(0, abs=1e-10)
    for value, expected in zip(model.offset_statistics(), (mean, deviation), strict=True):
        torch.testing.assert_close(value, expected)


def test_offsets_and_moves_are_inverse():
    segments = torch.tensor([[10.0, 20.0], [3.0, 4.5], [0.0, 40.0]]).double()
    targets = torch.tensor([[12.0, 17.0], [0.5, 9.0], [39.0, 40.0]]).double()
    offsets = offsets_between(segments, targets)
    assert offsets[0].tolist() == pytest.approx([-0.05, log(0.5)])
    torch.testing.assert_close(move(segments, offsets), targets)


def decoded(model, segments, activity, completeness, regression, steps=40):
    """Decode hand-made probabilities, completeness and regression of one video, the same for all classes."""
    count = len(segments)
    graphs = replace(hand_made([FOREGROUND] * count, [0] * count, [[0.0, 0.0]] * count), steps=torch.tensor([steps]))
    graphs = replace(graphs, segments=torch.tensor(segments).double())
    output = PGCNScores(
        activity=torch.tensor(activity).log(),
        completeness=torch.tensor(completeness)[:, None].expand(-1, 3),
        regression=torch.tensor(regression)[:, None].expand(-1, 3, -1),
    )
    (found,) = model.decode(output, graphs)
    return found


def test_detections_worked_by_hand():
    model = small(top_scores=4)
    found = decoded(
        model,
        segments=[[10.0, 20.0], [11.0, 20.0], [2.0, 6.0]],
        activity=[[0.2, 0.5, 0.25, 0.05], [0.1, 0.3, 0.5, 0.1], [0.9, 0.08, 0.01, 0.01]],
        completeness=[0.0, log(1.2), 5 * log(2)],
        regression=[[0.1, 0.0], [0.0, log(0.5)], [0.0, log(3)]],
    )
    # Products: 0.5, 0.25, 0.05 | 0.36, 0.6, 0.12 | 2.56, 0.32, 0.32. The best four are 2.56, 0.6, 0.5 and 0.36: the
    # first two proposals overlap by 0.9, so that 0.5 removes 0.36, of the same class.
    assert found.labels.tolist() == [0, 1, 0]
    assert found.scores.tolist() == pytest.approx([2.56, 0.6, 0.5])
    # [-2, 10] is cut; the centre 15.5 stays and the length is halved; the centre moves by a tenth of 10.
    assert found.segments.flatten().tolist() == pytest.approx([0, 10, 13.25, 17.75, 11, 21])


def test_suppression_compares_proposals_as_they_were():
    same = {"activity": [[0.5, 0.3, 0.1, 0.1], [0.5, 0.2, 0.15, 0.15]], "completeness": [0.0, 0.0]}
    # The two are apart and become equal, or are equal and become apart.
    apart = decoded(small(), [[0.0, 10.0], [10.0, 20.0]], regression=[[0.5, 0.0], [-0.5, 0.0]], **same)
    equal = decoded(small(), [[5.0, 15.0], [5.0, 15.0]], regression=[[0.5, 0.0], [-0.5, 0.0]], **same)
    assert [(apart.labels == label).sum() for label in range(3)] == [2, 2, 2]
    assert [(equal.labels == label).sum() for label in range(3)] == [1, 1, 1]


def test_an_overlap_of_the_threshold_is_spared_and_equals_keep_their_order():
    even = {"activity": [[0.4, 0.2, 0.2, 0.2]] * 2, "completeness": [0.0] * 2, "regression": [[0.0, 0.0]] * 2}
    found = decoded(small(nms_threshold=0.5), [[0.0, 10.0], [5.0, 10.0]], **even)  # IoU 1/2
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.segments[:, 0].tolist() == [0, 0, 0, 5, 5, 5]
    assert decoded(small(nms_threshold=0.49), [[0.0, 10.0], [5.0, 10.0]], **even).segments[:, 0].tolist() == [0, 0, 0]
    assert len(decoded(small(max_proposals=2), [[0.0, 10.0], [5.0, 10.0]], **even)) == 2


def test_many_equal_scores_keep_their_order():
    segments = [[float(start), start + 1.0] for start in range(38, 0, -1)]
    even = [[0.4, 0.2, 0.2, 0.2]] * 38
    found = decoded(small(top_scores=100), segments, even, [0.0] * 38, [[0.0, 0.0]] * 38)
    assert found.labels.tolist() == [0, 1, 2] * 33 + [0]
    assert found.segments[::3, 0].tolist() == list(range(38, 4, -1))


def test_what_moves_out_of_the_video_is_left_out():
    found = decoded(small(), [[30.0, 40.0]], [[0.4, 0.3, 0.2, 0.1]], [0.0], [[3.0, 0.0]])
    assert len(found) == 0


def test_what_is_learnt_is_what_comes_out():
    """Targets, given back as if the network had said them, lead from the proposal to the true segment."""
    batch = one_video([[10, 19], [8, 20], [10, 12], [30, 36]], [[10, 20]], [1])
    model = small()
    graphs = model.graphs(batch, seeded())
    model.loss(model(graphs), graphs)
    mean, deviation = model.offset_statistics()
    normalised = ((graphs.targets.offsets - mean) / deviation)[:, None].expand(-1, 3, -1)
    output = PGCNScores(torch.zeros(8, 4), torch.zeros(8, 3), normalised)
    foreground = graphs.targets.kinds == FOREGROUND
    only = replace(graphs, segments=graphs.segments[foreground], counts=foreground.sum()[None])
    (found,) = model.decode(PGCNScores(*(getattr(output, name)[foreground] for name in vars(output))), only)
    torch.testing.assert_close(found.segments, torch.tensor([[10.0, 20.0]] * 3))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_proposals(count):
    model = small().eval()
    graphs = model.graphs(one_video([[4, 12], [20, 30]][:count]), None)
    (found,) = model.decode(model(graphs), graphs)
    assert len(found) == 3 * count


def test_a_video_without_features_of_any_length_has_finite_scores():
    batch = one_video([[4, 12], [5, 12], [20, 30]])
    zeros = replace(batch, features=[torch.zeros(6, 40)])
    model = small().eval()
    output = model(model.graphs(zeros, None))
    assert output.activity.isfinite().all()
    assert output.regression.isfinite().all()


def test_half_precision_features_change_little():
    batch = one_video(random_proposals(20, 40))
    model = small().eval()
    exact = model(model.graphs(batch, None))
    half = model(model.graphs(replace(batch, features=[batch.features[0].half()]), None))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(model.graphs(batch, None))
    for part in vars(exact):
        torch.testing.assert_close(getattr(half, part), getattr(exact, part), rtol=0, atol=5e-3)
        torch.testing.assert_close(getattr(low, part), getattr(exact, part), rtol=0, atol=5e-2)
        assert getattr(low, part).dtype == torch.float32


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (one_video([[4, 12]], channels=5), r"video 0 .* \(6, T\) .* \(5, 40\)"),
        (one_video([[4, 12]], steps=0), r"at least 1"),
        (one_video([[4, float("nan")]]), "proposals of video 0 .* finite"),
        (one_video([[4, 12]], [[1, float("inf")]], [0]), "segments of video 0 .* finite"),
        (one_video([[4, 12]], [[1, 2]], [3]), r"labels of video 0 .* 0 to 2, got \[3\]"),
        (one_video([[4, 12]], [[1, 2]], [-1]), r"labels of video 0 .* 0 to 2, got \[-1\]"),
    ],
)
def test_wrong_batches_are_named(batch, message):
    with pytest.raises(ValueError, match=message):
        small().graphs(batch, seeded())


def test_it_overfits_six_videos():
    """The best detection of each video has the right class, and lies nearer to the truth than all of its proposals."""
    truths = [[10.0 + video, 22.0 + 2 * video] for video in range(6)]
    errors = [
        (-0.12, -0.08),
        (-0.06, -0.12),
        (0.05, 0.14),
        (0.12, 0.08),
        (-0.1, 0.08),
        (0.08, -0.12),
    ]  # over the length
    proposals = [
        [[start + (end - start) * before, end + (end - start) * after] for before, after in errors]
        + [[start, start + 3], [end - 3, end + 1], [1, 6], [36, 39]]
        for start, end in truths
    ]
    batch = ProposalBatch(
        features=[torch.randn(16, 40, generator=seeded(video)) for video in range(6)],
        proposals=[torch.tensor(each, dtype=torch.float32) for each in proposals],
        scores=[torch.ones(10)] * 6,
        segments=[torch.tensor([truth]) for truth in truths],
        labels=[torch.tensor([video % 3]) for video in range(6)],
    )
    torch.manual_seed(0)
    model = PGCN(
        PGCNConfig(feature_dim=16, classes=3, hidden=32, dropout=0.2, graph_dropout=0.0, foregrounds=6, incompletes=3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    drawn = [model.graphs(batch, seeded(seed)) for seed in range(30)]
    for step in range(240):
        graphs = drawn[step % 30]
        losses = model.loss(model(graphs), graphs)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    model.eval()
    graphs = model.graphs(batch, None)
    for video, found in enumerate(model.decode(model(graphs), graphs)):
        truth = torch.tensor(truths[video])
        assert found.labels[0] == video % 3
        assert iou_matrix(batch.proposals[video], truth[None]).max() < 0.85
        assert iou_matrix(found.segments[:1], truth[None]).item() > 0.9
