import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tspbench.encoders import new_encoder
from tspbench.pretraining import METHODS
from tspbench.pretraining.contract import (
    BACKGROUND,
    ClipLabels,
    HeadOptions,
    accuracies,
    added_up,
    constant_heads,
    count_answers,
    new_head,
)
from tspbench.pretraining.tac import Tac
from tspbench.pretraining.tsp import Tsp

CLASSES = 4
CLIP_METHODS = [name for name, kind in METHODS.items() if kind.all_heads]  # LoFi learns from whole videos


def options(**changes):
    values = {"feature_dim": 128, "classes": CLASSES, "heads": ("action", "region"), "gvf_dim": 0, "weights": {}}
    return HeadOptions(**{**values, **changes})


def labels(action, gvf=None):
    action = torch.tensor(action)
    return ClipLabels(action, (action == BACKGROUND).long(), gvf)


def build(name, gvf_dim=0):
    torch.manual_seed(0)
    kind = METHODS[name]
    return kind(new_encoder("tiny", 0), options(heads=kind.all_heads, gvf_dim=gvf_dim))


def clips(count, seed=0):
    return torch.randn(count, 3, 8, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gvf_dim", [0, 5])
@pytest.mark.parametrize("name", CLIP_METHODS)
def test_every_method_teaches_every_parameter(name, gvf_dim):
    method = build(name, gvf_dim).train()
    told = labels([0, 3, BACKGROUND, 1], torch.randn(4, gvf_dim) if gvf_dim else None)
    logits = method(clips(4), told)
    losses = method.loss(logits, told)
    assert set(logits) == set(method.all_heads) == set(method.heads)
    assert set(losses) == {*method.all_heads, "total"}
    assert all(torch.isfinite(loss) and loss.shape == () for loss in losses.values())
    losses["total"].backward()
    for parameter, value in method.named_parameters():
        assert value.grad is not None, parameter
        assert torch.isfinite(value.grad).all(), parameter
        assert value.grad.abs().max() > 0, parameter
    assert {key.split(".")[0] for key in method.state_dict()} == {"encoder", "heads"}


@pytest.mark.parametrize("name", CLIP_METHODS)
def test_background_carries_no_action_loss(name):
    method = build(name)
    logits = {head: torch.randn(4, CLASSES if head == "action" else 2) for head in method.all_heads}
    some = method.loss(logits, labels([2, BACKGROUND, 0, BACKGROUND]))["action"]
    assert some.item() == pytest.approx(F.cross_entropy(logits["action"][[0, 2]], torch.tensor([2, 0])).item())
    changed = {**logits, "action": logits["action"] * torch.tensor([[1.0], [50.0], [1.0], [-3.0]])}
    assert torch.equal(some, method.loss(changed, labels([2, BACKGROUND, 0, BACKGROUND]))["action"])


@pytest.mark.parametrize("name", CLIP_METHODS)
def test_heads_start_as_published(name):
    for head in build(name).heads.values():
        assert torch.equal(head.bias, torch.zeros_like(head.bias))
    wide = new_head(512, 400)
    assert wide.weight.mean().item() == pytest.approx(0, abs=1e-4)
    assert wide.weight.std().item() == pytest.approx(0.01, rel=0.02)


class Passing(nn.Module):
    """An encoder whose feature is the first two values of a clip."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clips):
        return self.scale * clips.flatten(1)[:, :2]


def by_hand(kind, **changes):
    """Build a method on two-dimensional features with known heads."""
    method = kind(Passing(), options(feature_dim=2, classes=2, heads=kind.all_heads, **changes))
    with torch.no_grad():
        method.heads["action"].weight.copy_(torch.eye(2))
        if "region" in method.heads:
            method.heads["region"].weight.zero_()
            method.heads["region"].weight[0, 0] = 1.0
    return method


INPUT = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]).view(2, 2, 1, 1, 1)


def test_tac_by_hand():
    method, told = by_hand(Tac), labels([0, 1])
    losses = method.loss(method(INPUT, told), told)
    # Logits (ln 3, 0) and (0, 0): probabilities 3/4 of class 0 and 1/2 of class 1.
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert {name: loss.item() for name, loss in losses.items()} == {
        "action": pytest.approx(expected),
        "total": pytest.approx(expected),
    }


def test_tsp_by_hand():
    method, told = by_hand(Tsp), labels([0, BACKGROUND])
    losses = method.loss(method(INPUT, told), told)
    # Action: 3/4 of class 0, for the one clip that has a class. Region logits (ln 3, 0) and (0, 0): 3/4 of "inside"
    # for the first clip, 1/2 of "outside" for the second.
    action, region = math.log(4 / 3), (math.log(4 / 3) + math.log(2)) / 2
    assert losses["action"].item() == pytest.approx(action)
    assert losses["region"].item() == pytest.approx(region)
    assert losses["total"].item() == pytest.approx(action + region)


def test_losses_are_weighted():
    method, told = by_hand(Tsp, weights={"region": 0.25}), labels([0, BACKGROUND])
    losses = method.loss(method(INPUT, told), told)
    assert losses["total"].item() == pytest.approx(losses["action"].item() + 0.25 * losses["region"].item())


@pytest.mark.parametrize("name", CLIP_METHODS)
def test_a_batch_of_background_alone_has_the_action_loss_0(name):
    method, told = build(name), labels([BACKGROUND] * 3)
    losses = method.loss(method(clips(3), told), told)
    assert losses["action"].item() == 0
    assert losses["total"].item() == pytest.approx(losses["region"].item() if "region" in losses else 0)
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_the_global_feature_reaches_the_region_head_alone():
    method = build("tsp", gvf_dim=5).eval()
    assert method.heads["region"].in_features == 128 + 5
    assert method.heads["action"].in_features == 128
    first, second = (method(clips(2), labels([0, 1], torch.full((2, 5), value))) for value in (0.0, 1.0))
    assert torch.equal(first["action"], second["action"])
    weight = method.heads["region"].weight[:, 128:]  # [f, GVF], in this order
    assert torch.allclose(second["region"] - first["region"], weight.sum(1).expand(2, 2), atol=1e-6)


def test_without_a_global_feature_the_region_head_sees_the_clip_alone():
    method = build("tsp")
    assert method.heads["region"].in_features == 128
    assert method(clips(2), labels([0, 1]))["region"].shape == (2, 2)


@pytest.mark.parametrize("head", ["action", "region"])
def test_single_heads(head):
    method = Tsp(new_encoder("tiny", 0), options(heads=(head,)))
    told = labels([0, BACKGROUND, 2])
    losses = method.loss(method(clips(3), told), told)
    assert set(losses) == {head, "total"}
    assert torch.equal(losses["total"], losses[head])


def test_right_answers_are_counted_by_head():
    logits = {
        "action": torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [5.0, 0.0]]),
        "region": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
    }
    counts = count_answers(logits, labels([0, 0, BACKGROUND, BACKGROUND]))
    assert counts == {"action": {(0, 0): 1, (0, 1): 1}, "region": {(0, 0): 2, (1, 1): 2}}


def test_accuracies_add_up_clips_and_then_average_heads():
    batches = [
        {"action": Counter({(0, 0): 1, (0, 1): 1}), "region": Counter({(0, 0): 1, (1, 1): 3})},
        {"action": Counter(), "region": Counter({(1, 0): 1})},
        {"action": Counter({(2, 2): 3})},
    ]
    assert accuracies(added_up(batches)) == {
        "action_accuracy": pytest.approx(4 / 5),
        "region_accuracy": pytest.approx(4 / 5),
        "mean_accuracy": pytest.approx(4 / 5),
    }
    uneven = {"action": Counter({(0, 0): 1, (1, 0): 3}), "region": Counter({(0, 0): 3, (1, 0): 1})}
    assert accuracies(uneven)["mean_accuracy"] == pytest.approx(1 / 2)
    unasked = {"action": Counter(), "region": Counter({(0, 0): 1, (1, 0): 1})}
    assert accuracies(unasked) == {"region_accuracy": 0.5, "mean_accuracy": 0.5}
    assert accuracies(added_up([])) == {}
    assert batches[0]["action"].total() == 2  # what was added up is as it was


def test_a_head_is_constant_that_says_the_same_of_clips_that_differ():
    counts = {
        "same": Counter({(0, 2): 3, (1, 2): 1}),
        "right": Counter({(2, 2): 4}),
        "differs": Counter({(0, 2): 3, (1, 2): 1, (1, 0): 1}),
        "unasked": Counter(),
    }
    assert constant_heads(counts) == {"same": 2}


def test_labels_move_together():
    moved = labels([0, 1], torch.ones(2, 3)).to(torch.device("meta"))
    assert {moved.action.device.type, moved.region.device.type, moved.gvf.device.type} == {"meta"}
    assert labels([0]).to(torch.device("cpu")).gvf is None


def test_training_lowers_the_loss_of_what_can_be_told_apart():
    """Bright clips are class 1, dark ones class 0, grey ones background: a few steps are enough."""
    method = build("tsp").train()
    told = labels([0, 1, BACKGROUND] * 2)
    levels = np.tile([-1.0, 1.0, 0.0], 2)
    x = clips(6) * 0.1 + torch.tensor(levels, dtype=torch.float32).view(6, 1, 1, 1, 1)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    totals = []
    for _ in range(12):
        losses = method.loss(method(x, told), told)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        totals.append(losses["total"].item())
    assert totals[-1] < totals[0] / 3
