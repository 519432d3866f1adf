from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.bmn import BMN, VARIANTS, BMNConfig, sampling_windows
from baselines.proposal_maps import ProposalScores
from baselines.sampling import matching_points
from tests.baselines.plain import assert_equals_the_plain_formulation, plain_bmn, plain_candidates
from tests.baselines.test_nms import plain_soft_nms

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "bmn_forward_T20_C16.npz"
SMALL = {"hidden_1d": 16, "hidden_2d": 12, "hidden_3d": 24}


def all_true(videos, steps):
    return torch.ones(videos, steps, dtype=torch.bool)


@pytest.fixture
def golden():
    if not GOLDEN.is_file():
        pytest.skip(f"no golden numbers of the reference: {GOLDEN} is absent")
    with np.load(GOLDEN) as numbers:
        yield numbers


def test_forward_equals_the_reference(golden):
    model = BMN(BMNConfig(feature_dim=16, steps=20, max_duration=20))
    for number, parameter in enumerate(model.parameters()):  # the formula of shared/golden/README.md
        reference = parameter.data
        if parameter is model.sampled.weight:
            reference = reference.permute(1, 2, 0)  # the reference has (O, C, bins)
        j = np.arange(parameter.numel(), dtype=np.float64)
        scale = 0.1 if parameter.ndim <= 1 else 1 / np.sqrt(reference[0].numel())
        values = (scale * np.sin(0.37 * j + number)).astype(np.float32)
        reference.copy_(torch.from_numpy(values).view(reference.shape))
    j = np.arange(16 * 20)
    features = torch.from_numpy(np.cos(0.11 * j + 0.003 * (j % 97)).astype(np.float32)).view(1, 16, 20)
    output = model(features, all_true(1, 20))
    start, end = model.segments.unbind(dim=1)
    expected = golden["confidence_map"][:, :, start, end - 1]
    assert expected.std() > 0.02
    for value, other in ((output.iou, expected), (output.start, golden["start"]), (output.end, golden["end"])):
        np.testing.assert_allclose(value.detach().numpy(), other, rtol=0, atol=1e-5)


def test_sampling_equals_the_reference_s_mask(golden):
    segments = torch.tensor([[start, end + 1] for start in range(20) for end in range(20)])
    windows = sampling_windows(segments, VARIANTS["pytorch"])
    windows[segments[:, 0] >= segments[:, 1]] = torch.nan
    matrix = matching_points(windows, steps=20, bins=32, points=3).to_dense()  # (start, end), (step, bin)
    mask = matrix.view(20, 20, 20, 32).permute(2, 3, 0, 1).reshape(20, -1)
    np.testing.assert_allclose(mask.numpy(), golden["sample_mask"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("feature_dim", "expected"), [(400, 4_978_564), (512, 5_000_068)])
def test_number_of_parameters_is_the_reference_s(feature_dim, expected):
    model = BMN(BMNConfig(feature_dim=feature_dim))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_number_of_parameters_of_the_paper_s_table_1():
    model = BMN(BMNConfig(feature_dim=400, variant="paper"))
    along_time = (400 * 3 + 1) * 256 + (256 * 3 + 1) * 128 + (128 * 3 + 1) * 256 + (256 * 3 + 1) * 2
    on_the_map = (128 * 32 + 1) * 512 + (512 + 1) * 128 + (128 * 9 + 1) * 128 + (128 + 1) * 2
    assert sum(parameter.numel() for parameter in model.parameters()) == along_time + on_the_map


def plain_points(start, end, steps, bins, points):
    """The rule of `matching_points`, one position at a time: ``(steps, bins)``."""
    matrix = [[0.0] * bins for _ in range(steps)]
    for number in range(bins * points):
        position = start + (end - start) / (bins * points - 1) * number
        if position <= -1 or position >= steps:
            continue
        low = int(position)  # towards 0
        share = max(position, 0) - low
        matrix[low][number // points] += (1 - share) / points
        if share > 0 and low + 1 < steps:
            matrix[low + 1][number // points] += share / points
    return matrix


def plain_mask(config):
    """The reference's mask ``(T, bins, H, W)`` of the whole map."""
    steps, longest = config.steps, config.max_duration
    rows = steps if config.variant == "pytorch" else longest
    mask = torch.zeros(steps, 32, rows, steps, dtype=torch.float64)
    for row in range(rows):
        for column in range(steps):
            if config.variant == "pytorch":
                start, end, margin, points = row, column + 1, 0.5 * (column + 1 - row + 1), 3
            else:
                start, end, margin, points = column, column + row + 1, 0.25 * (row + 1), 1
            if start < end <= steps and end - start <= longest:
                each = plain_points(start - margin, end + margin, steps, 32, points)
                mask[:, :, row, column] = torch.tensor(each, dtype=torch.float64)
    return mask


@pytest.mark.parametrize("variant", ["pytorch", "paper"])
@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    steps=st.integers(4, 13),
    shortened=st.integers(0, 6),
    channels=st.sampled_from([4, 8, 12]),
    videos=st.integers(1, 3),
)
def test_forward_and_gradients_equal_the_plain_formulation(variant, steps, shortened, channels, videos):
    torch.manual_seed(steps)
    longest = max(1, steps - shortened)
    model = BMN(BMNConfig(feature_dim=channels, steps=steps, max_duration=longest, variant=variant, **SMALL))
    assert_equals_the_plain_formulation(model, plain_bmn, [plain_mask(model.config)], videos)


def test_a_padded_step_is_refused():
    model = BMN(BMNConfig(feature_dim=4, steps=6, max_duration=6, **SMALL))
    mask = all_true(1, 6)
    mask[0, 5] = False
    with pytest.raises(ValueError, match="no padding"):
        model(torch.zeros(1, 4, 6), mask)


def test_a_duration_that_does_not_fit_is_named():
    with pytest.raises(pydantic.ValidationError, match="longer than the 48 steps"):
        BMNConfig(feature_dim=8, steps=48)


def four_steps(variant):
    return BMN(BMNConfig(feature_dim=4, steps=4, max_duration=4, variant=variant, **SMALL))


def test_targets_worked_by_hand():
    targets = four_steps("pytorch").targets([torch.tensor([[1.0, 3.0]]), torch.zeros(0, 2)], [])
    expected = [  # rows: starts 0 to 3; in each row: ends from start + 1 to 4
        *[0, 1 / 3, 2 / 3, 1 / 2],
        *[1 / 2, 1, 2 / 3],
        *[1 / 2, 1 / 3],
        *[0],
    ]
    torch.testing.assert_close(targets.iou[0], torch.tensor(expected))
    # The start region is [-0.5, 2.5], the steps are [-0.5, 0.5], [0.5, 1.5], [1.5, 2.5], [2.5, 3.5].
    assert targets.start[0].tolist() == [1, 1, 1, 0]
    assert targets.end[0].tolist() == [0, 0, 1, 1]
    assert not targets.iou[1].any()
    assert not targets.start[1].any()
    assert not targets.end[1].any()


def test_targets_of_the_paper_worked_by_hand():
    targets = four_steps("paper").targets([torch.tensor([[0.5, 3.0]])], [])
    expected = [  # rows: durations 1 to 4; in each row: starts from 0
        *[(1 / 2) / (3 / 1), 1 / (5 / 2), 1 / (5 / 2), 0],
        *[(3 / 2) / (6 / 2), 2 / (5 / 2), 1 / (7 / 2)],
        *[(5 / 2) / 3, 2 / (7 / 2)],
        *[(5 / 2) / 4],
    ]
    torch.testing.assert_close(targets.iou[0], torch.tensor(expected))
    # A tenth of the segment is 1/4: the start region is [0.25, 0.75], the end region [2.75, 3.25].
    assert targets.start[0].tolist() == [0.25, 0.25, 0, 0]
    assert targets.end[0].tolist() == [0, 0, 0, 0.5]


def test_losses_worked_by_hand():
    model = four_steps("pytorch")
    targets = model.targets([torch.tensor([[1.0, 3.0]])], [])
    iou = torch.stack([targets.iou[0] + 0.2, torch.full((10,), 0.2)])
    iou[1, model.segments.tolist().index([1, 3])] = 0.9  # the one segment of IoU above 0.9
    output = ProposalScores(iou[None], torch.tensor([[0.8, 0.6, 0.3, 0.1]]), torch.tensor([[0.2, 0.4, 0.5, 0.7]]))
    losses = model.loss(output, targets, torch.Generator())
    # Starts are steps 0, 1 and 2, ends are steps 2 and 3.
    start = -0.5 * ((log(0.8) + log(0.6) + log(0.3)) / 3 + log(0.9))
    end = -0.5 * ((log(0.5) + log(0.7)) / 2 + (log(0.8) + log(0.6)) / 2)
    classification = -0.5 * (log(0.9) + log(0.8))
    regression = 0.5 * 0.2**2  # the same error everywhere, whichever segments are drawn
    assert losses["boundary"].item() == pytest.approx(start + end, abs=1e-5)
    assert losses["classification"].item() == pytest.approx(classification, abs=1e-5)
    assert losses["regression"].item() == pytest.approx(regression, abs=1e-6)
    assert losses["total"].item() == pytest.approx(start + end + 10 * regression + classification, abs=1e-4)


def test_losses_of_the_paper_worked_by_hand():
    model = four_steps("paper")
    targets = model.targets([torch.tensor([[1.0, 3.0]])], [])
    # Above 0.5: [1, 3), [0, 3) and [1, 4). Above 0.6: the same. Below 0.2: [0, 1) and [3, 4), both taken.
    listed = model.segments.tolist()
    error = torch.full((10,), 0.7)
    error[[listed.index(each) for each in ([1, 3], [0, 3], [1, 4])]] = 0.1
    error[[listed.index(each) for each in ([0, 1], [3, 4])]] = 0.3
    iou = torch.stack([targets.iou[0] + error, torch.where(targets.iou[0] > 0.5, 0.9, 0.2)])
    half = torch.full((1, 4), 0.5)
    losses = model.loss(ProposalScores(iou[None], half, half), targets, torch.Generator())
    # No step is covered by more than half of [0.8, 1.2] or [2.8, 3.2]: all are negatives. Weights: l / l+ and l / l-.
    boundary = -2 * log(0.5)
    classification = -(log(0.9) + log(0.8))
    regression = (3 * 0.1**2 + 2 * 0.3**2) / 5
    assert losses["boundary"].item() == pytest.approx(boundary, abs=1e-5)
    assert losses["classification"].item() == pytest.approx(classification, abs=1e-5)
    assert losses["regression"].item() == pytest.approx(regression, rel=1e-5)
    assert losses["total"].item() == pytest.approx(boundary + 10 * regression + classification, abs=1e-4)


def test_decode_worked_by_hand():
    model = four_steps("pytorch")
    iou = torch.full((1, 2, 10), 0.99)  # what ends at 4 must not come back
    start = torch.tensor([[0.5, 1.0, 0.25, 0.9]])
    end = torch.tensor([[0.9, 0.125, 0.5, 1.0]])
    products = {(0, 1): 0.5, (0, 2): 0.5, (0, 3): 0.25, (1, 2): 0.25, (1, 3): 1.0, (2, 3): 0.5}
    for segment, product in products.items():
        iou[0, :, model.segments.tolist().index(list(segment))] = torch.tensor([product, 1.0])
    (proposals,) = model.decode(ProposalScores(iou, start, end))
    # start * end * product: (1, 3) 1, (0, 2) 1/8, (0, 3) 1/8, (1, 2) 1/8, (2, 3) 1/8, (0, 1) 1/32. The first spares up
    # to 0.5 + 0.4 * 2/4 = 0.7, and overlaps none by more; nor do the others, with 0.6, 0.7 and 0.8 for 1 to 3 steps.
    assert proposals.segments.tolist() == [[1, 3], [0, 2], [0, 3], [1, 2], [2, 3], [0, 1]]
    assert proposals.scores.tolist() == [1, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 32]
    assert proposals.labels.tolist() == [-1] * 6


def test_suppression_spares_by_width():
    model = BMN(BMNConfig(feature_dim=4, steps=10, max_duration=10, **SMALL))
    output = ProposalScores(torch.zeros(1, 2, 55), torch.ones(1, 10), torch.ones(1, 10))
    for segment, score in {(0, 2): 1.0, (0, 3): 0.9, (4, 9): 0.8, (5, 9): 0.7}.items():
        output.iou[0, :, model.segments.tolist().index(list(segment))] = torch.tensor([score, 1.0])
    (proposals,) = model.decode(output)
    # (0, 2) spares up to 0.58, IoU 2/3; (4, 9) up to 0.7, IoU 4/5.
    expected = [1.0, 0.8, 0.9 * exp(-((2 / 3) ** 2) / 0.4), 0.7 * exp(-((4 / 5) ** 2) / 0.4)]
    assert proposals.segments.tolist() == [[0, 2], [4, 9], [0, 3], [5, 9]]
    assert proposals.scores.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variant", ["pytorch", "paper"])
def test_decode_equals_the_plain_loops(variant):
    generator = torch.Generator().manual_seed(0)
    model = BMN(BMNConfig(feature_dim=4, steps=16, max_duration=10, variant=variant, max_proposals=20, **SMALL))
    listed = model.segments.tolist()
    output = ProposalScores(
        torch.rand(3, 2, len(listed), generator=generator),
        torch.rand(3, 16, generator=generator) ** 3,
        torch.rand(3, 16, generator=generator) ** 3,
    )
    for video, proposals in enumerate(model.decode(output)):
        start, end = output.start[video].tolist(), output.end[video].tolist()
        pairs = [(s, e) for s, e in listed if e < 16]
        assert pairs == [tuple(segment) for segment in model.grid().tolist()]
        if variant == "paper":
            starts, ends = plain_candidates(start, 0), plain_candidates(end, 15)
            pairs = [(s, e) for s, e in pairs if s in starts and e in ends]
        confidence = [output.iou[video, :, listed.index(list(pair))].prod().item() for pair in pairs]
        if variant == "paper":
            confidence = [sqrt(value) for value in confidence]
        scores = [start[s] * end[e] * value for (s, e), value in zip(pairs, confidence, strict=True)]
        expected = plain_soft_nms(pairs, scores, 0.4, 20, (0.5, 0.9, 16))
        assert [tuple(segment) for segment in proposals.segments.tolist()] == [pairs[index] for index, _ in expected]
        assert proposals.scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("variant", ["pytorch", "paper"])
def test_gradient_reaches_every_parameter(variant):
    torch.manual_seed(0)
    model = BMN(BMNConfig(feature_dim=8, steps=8, max_duration=8, variant=variant, **SMALL))
    targets = model.targets([torch.tensor([[1.0, 4.0], [5.0, 7.0]])] * 2, [])
    output = model(torch.randn(2, 8, 8), all_true(2, 8))
    model.loss(output, targets, torch.Generator())["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
