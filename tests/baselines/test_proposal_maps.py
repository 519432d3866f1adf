from math import log

import pytest
import torch

from baselines.bmn import BMN, BMNConfig
from baselines.contract import Proposals
from baselines.gtad import GTAD, GTADConfig
from baselines.proposal_maps import (
    balanced_log_loss,
    balanced_squared_loss,
    best_of,
    best_of_grid,
    boundary_targets,
    iou_targets,
    likely_boundaries,
    segment_map,
)


def test_both_layouts_of_the_map():
    segments, valid = segment_map(3, 2, columns="ends")
    assert segments[1].tolist() == [[1, 1], [1, 2], [1, 3]]
    assert valid.tolist() == [[True, True, False], [False, True, True], [False, False, True]]
    segments, valid = segment_map(3, 2, columns="starts")
    assert segments[1].tolist() == [[0, 2], [1, 3], [2, 4]]
    assert valid.tolist() == [[True, True, True], [True, True, False]]


def test_iou_targets_of_a_true_segment_without_length_and_of_none():
    segments = torch.tensor([[0, 1], [1, 4]])
    assert iou_targets(torch.tensor([2.0]), torch.tensor([2.0]), segments).tolist() == [0, 0]
    assert iou_targets(torch.zeros(0), torch.zeros(0), segments).tolist() == [0, 0]


def test_boundary_targets_worked_by_hand():
    # Steps are [-0.5, 0.5], [0.5, 1.5], [1.5, 2.5]; near is [0.75, 1.25] and [1.75, 2.75].
    times, half = torch.tensor([1.0, 2.25]), torch.tensor([0.25, 0.5])
    assert boundary_targets(times, half, 3, region=(-0.5, 0.5)).tolist() == [0, 0.5, 0.75]
    assert boundary_targets(times[:0], 1.5, 3, region=(-0.5, 0.5)).tolist() == [0, 0, 0]


def test_balanced_log_loss_worked_by_hand():
    probability = torch.tensor([[0.5, 0.25], [0.9, 0.2]])
    positive = torch.tensor([[True, True], [False, False]])
    expected = -0.5 * ((log(0.5) + log(0.25)) / 2 + (log(0.1) + log(0.8)) / 2)
    assert balanced_log_loss(probability, positive).item() == pytest.approx(expected, abs=1e-5)
    expected = -0.5 * ((log(0.5) + log(0.25)) / 5 + (log(0.1) + log(0.8)) / 5)
    assert balanced_log_loss(probability, positive, extra=3).item() == pytest.approx(expected, abs=1e-5)
    expected = -0.5 * (log(0.5) + log(0.75) + log(0.1) + log(0.8)) / 4
    assert balanced_log_loss(probability, positive & False).item() == pytest.approx(expected, abs=1e-5)


def test_regression_takes_all_of_a_group_that_is_smaller_than_the_high_one():
    iou = torch.tensor([0.8, 0.9, 1.0, 0.5, 0.25, 0.0])
    error = torch.tensor([0.0, 0.0, 0.0, 0.3, 0.1, 0.7])
    groups = [iou > 0.7, [iou == 0.5, iou == 0.25]]
    loss = balanced_squared_loss(iou + error, iou, *groups, torch.Generator())
    assert loss.item() == pytest.approx(0.5 * (0.3**2 + 0.1**2) / 5, rel=1e-5)


def test_regression_draws_as_many_of_each_group_on_average_and_from_the_generator():
    iou = torch.tensor([1.0] * 4 + [0.5] * 12)
    middle = iou == 0.5  # 4 of 12 expected

    def loss(seed):
        return balanced_squared_loss(
            iou - middle.float(), iou, ~middle, [middle], torch.Generator().manual_seed(seed)
        ).item()

    # Half the share of middle ones among the chosen: 0.5 * m / (4 + m) with m around 4.
    losses = [loss(seed) for seed in range(200)]
    drawn = [8 * loss / (1 - 2 * loss) for loss in losses]
    assert sum(drawn) / len(drawn) == pytest.approx(4, abs=0.4)
    assert len(set(losses)) > 3
    assert losses[3] == loss(3)


def test_likely_boundaries_worked_by_hand():
    #                              first   peak  flat  flat  high  high  last
    probability = torch.tensor([[0.9, 0.1, 0.2, 0.1, 0.1, 0.46, 0.5, 0.9]])
    assert likely_boundaries(probability, edge=0)[0].nonzero()[:, 0].tolist() == [0, 2, 5, 6]
    assert likely_boundaries(probability, edge=-1)[0].nonzero()[:, 0].tolist() == [2, 5, 6, 7]


def in_order_of_scores(segments, scores):
    """A suppression that suppresses nothing."""
    picked = scores.double().sort(dim=1, descending=True, stable=True)
    return torch.where(picked.values > 0, picked.indices, -1), picked.values


def test_segments_without_a_score_are_left_out():
    segments = torch.tensor([[0, 1], [1, 2], [0, 2]])
    scores = torch.tensor([[0.0, 0.5, 0.75], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]])
    first, second, third = best_of_grid(segments, scores, in_order_of_scores)
    assert first.segments.tolist() == [[0, 2], [1, 2]]
    assert first.scores.tolist() == [0.75, 0.5]
    assert first.labels.tolist() == [-1, -1]
    assert second.segments.tolist() == [[0, 1]]
    assert len(third) == 0


def test_candidates_of_different_numbers_are_padded():
    def candidates(*rows):
        values = torch.tensor(rows).reshape(-1, 3)
        return Proposals(values[:, :2], values[:, 2], torch.full((len(rows),), -1))

    videos = [candidates([0, 1, 0.5], [3, 4, 0.75]), candidates(), candidates([2, 3, 0.25])]
    first, second, third = best_of(videos, in_order_of_scores)
    assert first.segments.tolist() == [[3, 4], [0, 1]]
    assert len(second) == 0
    assert third.segments.tolist() == [[2, 3]]
    assert third.scores.tolist() == [0.25]
    assert best_of([], in_order_of_scores) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda: BMN(BMNConfig(feature_dim=16, steps=40, max_duration=40, hidden_1d=32)),
        lambda: GTAD(GTADConfig(feature_dim=16, steps=40, max_duration=30, hidden_1d=32, map_kernel=3)),
    ],
    ids=["bmn", "gtad"],
)
def test_a_gpu_gives_what_the_cpu_gives(build, low):
    torch.manual_seed(0)
    model = build()
    features, mask = torch.randn(5, 16, 40), torch.ones(5, 40, dtype=torch.bool)
    targets = model.targets([torch.tensor([[3.0, 17.0], [20.0, 36.0]])] * 5, [])
    results = []
    for device in ("cpu", "cuda"):
        model.zero_grad()
        model.to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=low and device == "cuda"):
            output = model(features.to(device), mask.to(device))
        loss = model.loss(output, targets.to(device), torch.Generator().manual_seed(0))["total"]
        loss.backward()
        gradients = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
        results.append((output.iou.detach().cpu(), gradients))
        assert len(model.decode(output)[0]) > 0
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() < (0.1 if low else 2e-3) * one.norm()
