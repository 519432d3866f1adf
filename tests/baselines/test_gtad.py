from math import exp, log
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F

from baselines.gtad import GTAD, GTADConfig, GTADOutput, GTADTargets
from tests.baselines.test_nms import plain_soft_nms
from tests.baselines.test_sampling import plain_matrix

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "gtad_forward_T20_C16.npz"


def all_true(videos, steps):
    return torch.ones(videos, steps, dtype=torch.bool)


def fill_by_formula(model):
    """Give the weights the values of shared/golden/README.md."""
    for number, parameter in enumerate(model.parameters()):
        reference = parameter.data
        if parameter is model.align.weight:
            reference = reference.permute(1, 2, 0)  # the reference has (O, C, bins)
        j = np.arange(parameter.numel(), dtype=np.float64)
        scale = 0.1 if parameter.ndim <= 1 else 1 / np.sqrt(reference[0].numel())
        values = (scale * np.sin(0.37 * j + number)).astype(np.float32)
        reference.copy_(torch.from_numpy(values).view(reference.shape))


def test_forward_equals_the_reference():
    if not GOLDEN.is_file():
        pytest.skip(f"no golden numbers of the reference: {GOLDEN} is absent")
    model = GTAD(GTADConfig(feature_dim=16, steps=20, max_duration=20))
    fill_by_formula(model)
    j = np.arange(16 * 20)
    features = torch.from_numpy(np.cos(0.11 * j + 0.003 * (j % 97)).astype(np.float32)).view(1, 16, 20)
    output = model(features, all_true(1, 20))
    with np.load(GOLDEN) as golden:
        for part in ("iou_map", "start", "end"):
            np.testing.assert_allclose(getattr(output, part).detach().numpy(), golden[part], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("feature_dim", "expected"), [(400, 5_563_268), (512, 5_584_772)])
def test_number_of_parameters_is_the_reference_s(feature_dim, expected):
    model = GTAD(GTADConfig(feature_dim=feature_dim))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


# The plain formulation: the network written down as in the release, with every bin of every cell materialised.


def plain_neighbours(x, count):
    """``(C, T)`` -> ``(C, T, k)``."""
    distances = (x[:, :, None] - x[:, None, :]).square().sum(dim=0)
    return x[:, distances.topk(count, dim=1, largest=False).indices]


def plain_block(block, x):
    def point(layer, value):
        return F.conv2d(value[None], layer.weight.flatten(1)[:, :, None, None], layer.bias)[0]

    t = F.relu(point(block.temporal_in, x[:, :, None])[:, :, 0])
    t = F.relu(F.conv1d(t[None], block.temporal_mid.weight, block.temporal_mid.bias, padding=1, groups=32)[0])
    t = point(block.temporal_out, t[:, :, None])[:, :, 0]
    near = plain_neighbours(x, 3)
    s = F.relu(point(block.semantic_in, torch.cat([near, x[:, :, None].expand_as(near)])))
    mid = block.semantic_mid
    s = F.relu(F.conv2d(s[None], mid.weight[:, :, :, None], mid.bias, groups=32)[0])
    return F.relu(x + t + point(block.semantic_out, s).amax(dim=2))


def plain_forward(model, features):
    steps, longest = model.config.steps, model.config.max_duration
    windows = torch.zeros(longest, steps, 2, dtype=torch.float64)
    for d in range(longest):
        for s in range(steps - d):
            windows[d, s] = torch.tensor([s - 0.5 * (d + 1), s + d + 0.5 * (d + 1)])
    inner, around = (plain_matrix(windows.view(-1, 2), steps, bins) for bins in (32, 4))
    weight, bias = model.align.weight.permute(1, 2, 0).flatten(1), model.align.bias
    maps, starts, ends = [], [], []
    for video in features:
        base = F.relu(F.conv1d(video[None], model.input.weight, model.input.bias, padding=1, groups=4)[0])
        base = plain_block(model.backbone1, base)
        starts.append(torch.sigmoid(model.start_score(plain_block(model.start_block, base).T)[:, 0]))
        ends.append(torch.sigmoid(model.end_score(plain_block(model.end_block, base).T)[:, 0]))
        x = plain_block(model.backbone2, base)
        context = plain_neighbours(x, 3).mean(dim=2)
        bins = torch.cat([torch.einsum("nkt,ct->nck", inner, x), torch.einsum("nkt,ct->nck", around, context)], dim=2)
        cells = F.relu(bins.flatten(1) @ weight.T + bias)
        maps.append(torch.sigmoid(model.head(cells)).T.view(2, longest, steps))
    return GTADOutput(torch.stack(maps), torch.stack(starts), torch.stack(ends))


@pytest.mark.parametrize(("steps", "longest", "channels", "videos"), [(9, 9, 8, 3), (13, 6, 12, 2), (24, 24, 4, 1)])
def test_forward_and_gradients_equal_the_plain_formulation(steps, longest, channels, videos):
    torch.manual_seed(steps)
    model = GTAD(GTADConfig(feature_dim=channels, steps=steps, max_duration=longest, hidden_1d=32, hidden_3d=24))
    for parameter in model.parameters():
        parameter.data *= 1.7  # as initialised, the outputs are almost constant and would hide an error
    features = torch.randn(videos, channels, steps) * 2
    output = model(features, all_true(videos, steps))
    assert output.iou_map.std(dim=(2, 3)).min() > 0.02
    weigh = torch.randn_like(output.iou_map)
    (output.iou_map * weigh).sum().add((output.start - output.end).square().sum()).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]

    model.zero_grad()
    model.double()
    plain = plain_forward(model, features.double())
    (plain.iou_map * weigh).sum().add((plain.start - plain.end).square().sum()).backward()
    for part in ("iou_map", "start", "end"):
        torch.testing.assert_close(getattr(output, part).double(), getattr(plain, part), rtol=0, atol=1e-5)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        size = parameter.grad.abs().max().item()
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=1e-5, atol=1e-5 * size, msg=name)


def test_a_padded_step_is_refused():
    model = GTAD(GTADConfig(feature_dim=4, steps=6, max_duration=6, hidden_1d=8, hidden_3d=8))
    mask = all_true(1, 6)
    mask[0, 5] = False
    with pytest.raises(ValueError, match="no padding"):
        model(torch.zeros(1, 4, 6), mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 48}, "longer than the 48 steps"), ({"feature_dim": 6}, "multiple of 4"), ({"neighbours": 0}, "1")],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        GTADConfig(**{"feature_dim": 8, **settings})


@pytest.fixture
def four_steps():
    return GTAD(GTADConfig(feature_dim=4, steps=4, max_duration=4, hidden_1d=8, hidden_3d=8))


def test_targets_worked_by_hand(four_steps):
    targets = four_steps.targets([torch.tensor([[1.0, 3.0]]), torch.zeros(0, 2)], [torch.tensor([7]), torch.zeros(0)])
    expected = torch.tensor(
        [  # rows: durations 1 to 4; columns: starts 0 to 3
            [0, 1 / 2, 1 / 2, 0],
            [1 / 3, 1, 1 / 3, 0],
            [2 / 3, 2 / 3, 0, 0],
            [1 / 2, 0, 0, 0],
        ]
    )
    torch.testing.assert_close(targets.iou_map[0], expected)
    # The start region is [-0.5, 2.5], the steps are [-0.5, 1.5], [0.5, 2.5], [1.5, 3.5], [2.5, 4.5].
    assert targets.start[0].tolist() == [1, 1, 1 / 2, 0]
    assert targets.end[0].tolist() == [0, 1 / 2, 1, 1]
    assert not targets.iou_map[1].any()
    assert not targets.start[1].any()
    assert not targets.end[1].any()


def test_targets_of_several_segments_take_the_highest_and_clip(four_steps):
    both = four_steps.targets([torch.tensor([[-3.0, 1.0], [2.0, 9.0]])], [torch.tensor([0, 0])])
    first = four_steps.targets([torch.tensor([[0.0, 1.0]])], [torch.tensor([0])])
    second = four_steps.targets([torch.tensor([[2.0, 4.0]])], [torch.tensor([0])])
    for part in ("iou_map", "start", "end"):
        assert torch.equal(getattr(both, part), torch.maximum(getattr(first, part), getattr(second, part)))


@pytest.mark.parametrize("segment", [[3.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_impossible_segments_are_refused(four_steps, segment):
    with pytest.raises(ValueError, match="video 1 of the batch"):
        four_steps.targets([torch.tensor([[0.0, 1.0]]), torch.tensor([segment])], [torch.tensor([0])] * 2)


def test_losses_worked_by_hand(four_steps):
    targets = four_steps.targets([torch.tensor([[1.0, 3.0]])], [torch.tensor([0])])
    iou_map = torch.stack([targets.iou_map[0] + 0.2, torch.full((4, 4), 0.2)])
    iou_map[1, 1, 1] = 0.9  # the one cell of IoU above 0.9
    output = GTADOutput(
        iou_map[None], start=torch.tensor([[0.8, 0.6, 0.3, 0.1]]), end=torch.tensor([[0.2, 0.4, 0.5, 0.7]])
    )
    losses = four_steps.loss(output, targets, torch.Generator())
    # A label of exactly 1/2 is negative: starts are steps 0 and 1, ends are steps 2 and 3.
    start = -0.5 * ((log(0.8) + log(0.6)) / 2 + (log(0.7) + log(0.9)) / 2)
    end = -0.5 * ((log(0.5) + log(0.7)) / 2 + (log(0.8) + log(0.6)) / 2)
    classification = -0.5 * (log(0.9) + log(0.8))
    regression = 0.5 * 0.2**2  # the same error in all cells, whichever are drawn
    assert losses["boundary"].item() == pytest.approx(start + end, abs=1e-5)
    assert losses["classification"].item() == pytest.approx(classification, abs=1e-5)
    assert losses["regression"].item() == pytest.approx(regression, abs=1e-6)
    assert losses["total"].item() == pytest.approx(start + end + 10 * regression + classification, abs=1e-4)


def regression_loss(model, iou, estimate, seed):
    some = torch.full((1, 4), 0.5)
    output = GTADOutput(torch.stack([estimate, torch.full_like(iou, 0.5)])[None], some, some)
    loss = model.loss(output, GTADTargets(iou[None], some, some), torch.Generator().manual_seed(seed))
    return loss["regression"].item()


def test_regression_takes_all_of_a_group_that_is_smaller_than_the_high_one(four_steps):
    iou = torch.zeros(4, 4)
    iou[0] = torch.tensor([0.8, 0.9, 1.0, 0.5])
    iou[1, 0] = 0.25
    error = torch.zeros(4, 4)
    error[0] = torch.tensor([0.0, 0.0, 0.0, 0.3])
    error[1, 0] = 0.1
    error[3, 3] = 0.7  # no segment
    expected = 0.5 * (0.3**2 + 0.1**2) / 5
    assert regression_loss(four_steps, iou, iou + error, 0) == pytest.approx(expected, rel=1e-5)


def test_regression_draws_as_many_of_each_group_on_average_and_from_the_generator(four_steps):
    iou = torch.zeros(4, 4)
    iou[0] = 1.0  # 4 high cells
    iou[1:] = 0.5  # 12 middle cells, 4 expected
    error = (iou == 0.5).float()
    # Half the share of middle cells among the chosen: 0.5 * m / (4 + m) with m around 4.
    losses = [regression_loss(four_steps, iou, iou - error, seed) for seed in range(200)]
    drawn = [8 * loss / (1 - 2 * loss) for loss in losses]
    assert sum(drawn) / len(drawn) == pytest.approx(4, abs=0.4)
    assert len(set(losses)) > 3
    assert losses[3] == regression_loss(four_steps, iou, iou - error, 3)


def test_decode_worked_by_hand():
    model = GTAD(GTADConfig(feature_dim=4, steps=8, max_duration=8, hidden_1d=8, hidden_3d=8))
    iou_map = torch.full((1, 2, 8, 8), 0.99)  # what is no candidate must not come back
    start = torch.tensor([[0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.8]])  # candidates 2, and 0 always; 7 never
    end = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1]])  # candidates 5, and 7 always; 0 never
    for (first, last), regression in {(0, 5): 0.5, (0, 7): 0.4, (2, 5): 0.9, (2, 7): 0.8}.items():
        iou_map[0, 0, last - first - 1, first] = regression
        iou_map[0, 1, last - first - 1, first] = 0.5
    (proposals,) = model.decode(GTADOutput(iou_map, start, end))
    # (2, 5) is first; it lowers (2, 7) and (0, 5) with IoU 3/5, (0, 7) with IoU 3/7. Then come (2, 7), (0, 5), (0, 7).
    second = 0.40 * exp(-((3 / 5) ** 2) / 0.8)
    third = 0.25 * exp(-((3 / 5) ** 2) / 0.8) * exp(-((3 / 7) ** 2) / 0.8)
    fourth = 0.20 * exp(-((3 / 7) ** 2) / 0.8) * exp(-((5 / 7) ** 2) / 0.8) * exp(-((5 / 7) ** 2) / 0.8)
    assert proposals.segments.tolist() == [[2, 5], [2, 7], [0, 5], [0, 7]]
    assert proposals.scores.tolist() == pytest.approx([0.45, second, third, fourth], rel=1e-6)
    assert proposals.labels.tolist() == [-1] * 4


def plain_candidates(probability, always):
    found = {always}
    for t in range(1, len(probability) - 1):
        peak = probability[t] > probability[t - 1] and probability[t] > probability[t + 1]
        if peak or probability[t] > 0.5 * max(probability):
            found.add(t)
    return found


def test_decode_equals_the_plain_loops():
    generator = torch.Generator().manual_seed(0)
    model = GTAD(GTADConfig(feature_dim=4, steps=16, max_duration=10, hidden_1d=8, hidden_3d=8, max_proposals=20))
    output = GTADOutput(
        torch.rand(3, 2, 10, 16, generator=generator),
        torch.rand(3, 16, generator=generator) ** 3,
        torch.rand(3, 16, generator=generator) ** 3,
    )
    for video, proposals in enumerate(model.decode(output)):
        starts = plain_candidates(output.start[video].tolist(), 0)
        ends = plain_candidates(output.end[video].tolist(), 15)
        pairs = [(s, s + d + 1) for d in range(10) for s in range(16) if s in starts and s + d + 1 in ends]
        scores = [(output.iou_map[video, 0, e - s - 1, s] * output.iou_map[video, 1, e - s - 1, s]) for s, e in pairs]
        expected = plain_soft_nms(pairs, [score.item() for score in scores], 0.8, 20)
        assert [tuple(segment) for segment in proposals.segments.tolist()] == [pairs[index] for index, _ in expected]
        assert proposals.scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-9)


def test_overfits_visible_segments():
    torch.manual_seed(0)
    steps = 16
    model = GTAD(GTADConfig(feature_dim=8, steps=steps, max_duration=steps, hidden_1d=32, hidden_2d=32, hidden_3d=64))
    segments = [torch.tensor(each).float() for each in ([[2, 7]], [[1, 4], [8, 14]], [[5, 15]], [[3, 6], [9, 12]])]
    features = 0.3 * torch.randn(len(segments), 8, steps)
    for video, each in enumerate(segments):
        for start, end in each.long().tolist():
            features[video, :4, start:end] += 1
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    targets = model.targets(segments, [])
    mask = all_true(len(segments), steps)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(model(features, mask), targets, generator)["total"].backward()
        optimizer.step()
    for each, proposals in zip(segments, model.decode(model(features, mask)), strict=True):
        assert sorted(proposals.segments[: len(each)].tolist()) == each.tolist()
