from math import exp, log
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.gtad import GTAD, GTADConfig
from baselines.proposal_maps import ProposalScores
from tests.baselines.plain import assert_equals_the_plain_formulation, plain_candidates, plain_gtad
from tests.baselines.test_nms import plain_soft_nms
from tests.baselines.test_sampling import plain_matrix

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "gtad_forward_T20_C16.npz"

THUMOS = {
    "steps": 256,
    "max_duration": 64,
    "inner_bins": 16,
    "context_bins": 16,
    "map_kernel": 3,
    "objective": "thumos",
    "boundary_filter": False,
    "proposals_shorter_than": 60,
    "nms_sigma": 0.46,
    "max_proposals": 200,
}  # the table of GTADConfig


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
    start, end = model.segments.unbind(dim=1)
    with np.load(GOLDEN) as golden:
        iou = golden["iou_map"][:, :, end - start - 1, start]
        for value, expected in ((output.iou, iou), (output.start, golden["start"]), (output.end, golden["end"])):
            np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("feature_dim", "settings_", "expected"), [(400, {}, 5_563_268), (512, {}, 5_584_772), (2048, THUMOS, 5_617_540)]
)
def test_number_of_parameters_is_the_reference_s(feature_dim, settings_, expected):
    model = GTAD(GTADConfig(feature_dim=feature_dim, **settings_))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def plain_matrices(config):
    """The sampling of every cell of the whole map, ``(D * T * bins, T)`` for the inner and the context bins."""
    windows = torch.zeros(config.max_duration, config.steps, 2, dtype=torch.float64)
    for d in range(config.max_duration):
        for s in range(config.steps - d):
            windows[d, s] = torch.tensor([s - 0.5 * (d + 1), s + d + 0.5 * (d + 1)])
    windows = windows.view(-1, 2)
    bins = (config.inner_bins, config.context_bins)
    return [plain_matrix(windows, config.steps, count).flatten(0, 1) for count in bins]


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    steps=st.integers(4, 14),
    shortened=st.integers(0, 6),
    channels=st.sampled_from([4, 8, 12]),
    videos=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    bins=st.sampled_from([(32, 4), (5, 3)]),
)
def test_forward_and_gradients_equal_the_plain_formulation(steps, shortened, channels, videos, kernel, bins):
    torch.manual_seed(steps)
    small = {"hidden_1d": 16, "hidden_2d": 12, "hidden_3d": 24, "inner_bins": bins[0], "context_bins": bins[1]}
    longest = max(1, steps - shortened)
    model = GTAD(GTADConfig(feature_dim=channels, steps=steps, max_duration=longest, map_kernel=kernel, **small))
    assert_equals_the_plain_formulation(model, plain_gtad, plain_matrices(model.config), videos)


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
    start, end = four_steps.segments.unbind(dim=1)
    torch.testing.assert_close(targets.iou[0], expected[end - start - 1, start])
    # The start region is [-0.5, 2.5], the steps are [-0.5, 1.5], [0.5, 2.5], [1.5, 3.5], [2.5, 4.5].
    assert targets.start[0].tolist() == [1, 1, 1 / 2, 0]
    assert targets.end[0].tolist() == [0, 1 / 2, 1, 1]
    assert not targets.iou[1].any()
    assert not targets.start[1].any()
    assert not targets.end[1].any()


def test_targets_of_several_segments_take_the_highest_and_clip(four_steps):
    both = four_steps.targets([torch.tensor([[-3.0, 1.0], [2.0, 9.0]])], [torch.tensor([0, 0])])
    first = four_steps.targets([torch.tensor([[0.0, 1.0]])], [torch.tensor([0])])
    second = four_steps.targets([torch.tensor([[2.0, 4.0]])], [torch.tensor([0])])
    for part in ("iou", "start", "end"):
        assert torch.equal(getattr(both, part), torch.maximum(getattr(first, part), getattr(second, part)))


@pytest.mark.parametrize("segment", [[3.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_impossible_segments_are_refused(four_steps, segment):
    with pytest.raises(ValueError, match="video 1 of the batch"):
        four_steps.targets([torch.tensor([[0.0, 1.0]]), torch.tensor([segment])], [torch.tensor([0])] * 2)


def test_losses_worked_by_hand(four_steps):
    targets = four_steps.targets([torch.tensor([[1.0, 3.0]])], [torch.tensor([0])])
    iou = torch.stack([targets.iou[0] + 0.2, torch.full((10,), 0.2)])
    iou[1, four_steps.segments.tolist().index([1, 3])] = 0.9  # the one segment of IoU above 0.9
    output = ProposalScores(
        iou[None], start=torch.tensor([[0.8, 0.6, 0.3, 0.1]]), end=torch.tensor([[0.2, 0.4, 0.5, 0.7]])
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


def test_targets_and_losses_of_the_thumos_release_worked_by_hand(four_steps):
    small = {"hidden_1d": 8, "hidden_3d": 8}
    model = GTAD(GTADConfig(feature_dim=4, steps=4, max_duration=2, objective="thumos", **small))
    targets = model.targets([torch.tensor([[1.0, 3.0]])], [torch.tensor([0])])
    # The start region is [-0.5, 2.5], the steps are [-0.5, 0.5], [0.5, 1.5], [1.5, 2.5], [2.5, 3.5].
    assert targets.start[0].tolist() == [1, 1, 1, 0]
    assert targets.end[0].tolist() == [0, 0, 1, 1]
    assert model.segments.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 2], [1, 3], [2, 4]]
    torch.testing.assert_close(targets.iou[0], torch.tensor([0, 1 / 2, 1 / 2, 0, 1 / 3, 1, 1 / 3]))
    iou = torch.stack([targets.iou[0] + 0.2, torch.full((7,), 0.2)])
    iou[1, 5] = 0.9
    half = torch.full((1, 4), 0.5)
    losses = model.loss(ProposalScores(iou[None], half, half), targets, torch.Generator())
    # 1 positive and 6 negatives, each number with 10 more.
    classification = -0.5 * (log(0.9) / 11 + 6 * log(0.8) / 16)
    regression = 0.5 * 0.2**2
    assert losses["classification"].item() == pytest.approx(classification, abs=1e-5)
    assert losses["total"].item() == pytest.approx(-2 * log(0.5) + regression + 10 * classification, abs=1e-4)


def test_decode_worked_by_hand():
    model = GTAD(GTADConfig(feature_dim=4, steps=8, max_duration=8, hidden_1d=8, hidden_3d=8))
    iou = torch.full((1, 2, 36), 0.99)  # what is no candidate must not come back
    start = torch.tensor([[0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.8]])  # candidates 2, and 0 always; 7 never
    end = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1]])  # candidates 5, and 7 always; 0 never
    for (first, last), regression in {(0, 5): 0.5, (0, 7): 0.4, (2, 5): 0.9, (2, 7): 0.8}.items():
        iou[0, :, model.segments.tolist().index([first, last])] = torch.tensor([regression, 0.5])
    (proposals,) = model.decode(ProposalScores(iou, start, end))
    # (2, 5) is first; it lowers (2, 7) and (0, 5) with IoU 3/5, (0, 7) with IoU 3/7. Then come (2, 7), (0, 5), (0, 7).
    second = 0.40 * exp(-((3 / 5) ** 2) / 0.8)
    third = 0.25 * exp(-((3 / 5) ** 2) / 0.8) * exp(-((3 / 7) ** 2) / 0.8)
    fourth = 0.20 * exp(-((3 / 7) ** 2) / 0.8) * exp(-((5 / 7) ** 2) / 0.8) * exp(-((5 / 7) ** 2) / 0.8)
    assert proposals.segments.tolist() == [[2, 5], [2, 7], [0, 5], [0, 7]]
    assert proposals.scores.tolist() == pytest.approx([0.45, second, third, fourth], rel=1e-6)
    assert proposals.labels.tolist() == [-1] * 4


@pytest.mark.parametrize("filtered", [True, False])
def test_decode_equals_the_plain_loops(filtered):
    generator = torch.Generator().manual_seed(0)
    small = {"hidden_1d": 8, "hidden_3d": 8, "max_proposals": 20}
    options = {} if filtered else {"boundary_filter": False, "proposals_shorter_than": 7}
    model = GTAD(GTADConfig(feature_dim=4, steps=16, max_duration=10, **small, **options))
    listed = model.segments.tolist()
    output = ProposalScores(
        torch.rand(3, 2, len(listed), generator=generator),
        torch.rand(3, 16, generator=generator) ** 3,
        torch.rand(3, 16, generator=generator) ** 3,
    )
    decoded = model.decode(output)
    for video, proposals in enumerate(decoded):
        starts = plain_candidates(output.start[video].tolist(), 0) if filtered else range(16)
        ends = plain_candidates(output.end[video].tolist(), 15) if filtered else range(16)
        longest = 10 if filtered else 6
        pairs = [(s, s + d) for d in range(1, longest + 1) for s in range(16) if s in starts and s + d in ends]
        scores = [output.iou[video, :, listed.index(list(pair))].prod().item() for pair in pairs]
        expected = plain_soft_nms(pairs, scores, 0.8, 20)
        assert [tuple(segment) for segment in proposals.segments.tolist()] == [pairs[index] for index, _ in expected]
        assert proposals.scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-9)
        assert set(pairs) <= {tuple(segment) for segment in model.grid().tolist()}


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
