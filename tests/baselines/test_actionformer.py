import json
from math import exp, log
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F

from baselines.actionformer import ActionFormer, ActionFormerConfig, ActionFormerOutput, pyramid_points
from baselines.contract import Proposals
from baselines.nms import vote
from tests.baselines.test_nms import plain_soft_nms
from tests.baselines.test_pyramid import LENGTHS, lively, plain_conv, plain_norm, plain_pyramid

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
THUMOS14_I3D = {
    "feature_dim": 2048,
    "steps": 2304,
    "classes": 20,
    "hidden": 512,
    "windows": (19, 19, 19, 19, 19, 19),
    "position_encoding": False,
}


def fill_by_formula(model, parameters):
    """Give the weights the values of shared/golden/README.md; parameters are [number, name, shape]."""
    for parameter, (number, _, shape) in zip(model.parameters(), parameters, strict=True):
        j = np.arange(parameter.numel(), dtype=np.float64)
        scale = 0.1 if len(shape) <= 1 else 1 / np.sqrt(np.prod(shape[1:]))
        values = (scale * np.sin(0.37 * j + number)).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(values).view(parameter.shape))


def golden_case():
    """Return the model and the input of the golden forward pass."""
    listed = GOLDEN / "actionformer_anet_tsp_parameters.json"
    if not listed.is_file():
        pytest.skip(f"no golden numbers of the reference: {listed} is absent")
    model = ActionFormer(ActionFormerConfig(feature_dim=512)).eval()
    fill_by_formula(model, json.loads(listed.read_text()))
    j = np.arange(512 * 192)
    features = torch.from_numpy(np.cos(0.11 * j + 0.003 * (j % 97)).astype(np.float32)).view(1, 512, 192)
    return model, features, torch.arange(192)[None] < 150


@torch.no_grad()
def test_forward_equals_the_reference():
    model, features, mask = golden_case()
    output = model(features, mask)
    with np.load(GOLDEN / "actionformer_anet_tsp_forward.npz") as golden:
        for part, name in (("logits", "cls_logits"), ("offsets", "offsets"), ("mask", "mask")):
            expected = np.concatenate([golden[f"{name}_{level}"] for level in range(6)], axis=2).swapaxes(1, 2)
            np.testing.assert_allclose(
                getattr(output, part).numpy().reshape(expected.shape).astype(float), expected, rtol=0, atol=1e-6
            )


@pytest.mark.parametrize(
    ("settings", "expected"), [({"feature_dim": 512}, 6_943_497), (THUMOS14_I3D, 29_251_612)], ids=["anet", "thumos"]
)
def test_number_of_parameters_is_the_reference_s(settings, expected):
    model = ActionFormer(ActionFormerConfig(**settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def plain_head(head, rows, mask):
    for conv, norm in zip(head.convs, head.norms, strict=True):
        rows = F.relu(plain_norm(norm, plain_conv(conv, rows, mask)))
    return plain_conv(head.output, rows, mask)


@pytest.mark.parametrize("steps", [40, 45])
@torch.no_grad()
def test_a_batch_of_all_lengths_equals_the_plain_formulation_of_each_video(steps):
    torch.manual_seed(0)
    config = ActionFormerConfig(feature_dim=3, steps=24, classes=2, hidden=8, heads=2, windows=(3, 5, -1))
    model = lively(ActionFormer(config))
    videos = [torch.randn(3, length, dtype=torch.float64) for length in LENGTHS]
    mask = torch.arange(steps) < torch.tensor(LENGTHS)[:, None]
    features = torch.zeros(len(videos), 3, steps, dtype=torch.float64)
    for video, row in zip(videos, features, strict=True):
        row[:, : video.shape[1]] = video
    output = model(features, mask)
    for number, video in enumerate(videos):
        of_video = output.mask[number]
        levels = plain_pyramid(model.pyramid, video)
        logits = [plain_head(model.class_head, rows, mask)[mask.expand(1, 2, -1)].view(2, -1) for rows, mask in levels]
        offsets = [
            F.relu(scale * plain_head(model.offset_head, rows, mask))[mask.expand(1, 2, -1)].view(2, -1)
            for scale, (rows, mask) in zip(model.offset_head.scales, levels, strict=True)
        ]
        # The output is float32.
        torch.testing.assert_close(output.logits[number, of_video].double(), torch.cat(logits, 1).T, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            output.offsets[number, of_video].double(), torch.cat(offsets, 1).T, rtol=0, atol=1e-6
        )
        places = [torch.arange(0, video.shape[1], stride) + 0.5 for stride in (1, 2, 4)]
        assert torch.equal(output.points[number, of_video, 0], torch.cat(places))
        assert not output.logits[number, ~of_video].any()
        assert not output.offsets[number, ~of_video].any()


def test_training_takes_its_number_of_steps_only():
    model = small(steps=8)
    features, mask = torch.zeros(1, 4, 6), torch.ones(1, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="8 steps in training"):
        model(features, mask)
    assert model.eval()(features, mask).mask.shape == (1, 9)
    with pytest.raises(ValueError, match="steps"):
        model(features[:, :, :0], mask[:, :0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 18}, "not a multiple of the 4 heads"),
        ({"windows": (7, 4)}, "odd"),
        ({"windows": (7, 1)}, "odd"),
        ({"windows": (7, 0)}, "odd"),
        ({"steps": 200}, "multiple of 32"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        ActionFormerConfig(**{"feature_dim": 8, **settings})


def small(**settings):
    """Two levels, with strides 1 and 2; the first regresses up to 4 steps and the second from 4 on."""
    return ActionFormer(
        ActionFormerConfig(**{"feature_dim": 4, "steps": 8, "hidden": 8, "windows": (3, -1), **settings})
    )


def assigned(model, *segments, labels=None):
    """Return {place and stride: (offsets in steps, classes)} of the points that take a segment."""
    labels = torch.tensor(labels or [0] * len(segments))
    targets = model.targets([torch.tensor(segments)], [labels])
    points = pyramid_points(model.config.steps, len(model.config.windows), torch.device("cpu"))
    found = {}
    for (place, stride), offsets, classes in zip(
        points.tolist(), targets.offsets[0].tolist(), targets.classes[0].tolist(), strict=True
    ):
        if any(classes):
            found[place, stride] = ([offset * stride for offset in offsets], classes)
        else:
            assert offsets == [0, 0]
    return found


def test_points_are_centres_of_steps():
    points = pyramid_points(5, 3, torch.device("cpu"))
    assert points.tolist() == [
        *[[0.5, 1], [1.5, 1], [2.5, 1], [3.5, 1], [4.5, 1]],
        *[[0.5, 2], [2.5, 2], [4.5, 2]],
        *[[0.5, 4], [4.5, 4]],
    ]


def test_middle_levels_have_a_range_with_two_ends():
    found = assigned(small(steps=16, windows=(3, 3, -1)), [0.5, 12.5])
    # Level 1: 4.5, 6.5 and 8.5 are within 3 of the centre 6.5; their farther ends are 8, 6 and 8 steps away. Level 2:
    # 4.5 and 8.5 are within 6; 0.5 and 12.5 are the segment's ends.
    assert list(found) == [(4.5, 2), (6.5, 2), (8.5, 2), (4.5, 4), (8.5, 4)]
    assert (6.5, 2) not in assigned(small(steps=16, windows=(3, 3, -1)), [-2.0, 15.0])


def test_targets_worked_by_hand():
    # Level 0: within 1.5 of the centre 2.25 are 1.5, 2.5 and 3.5. Level 1: 0.5 and 4.5 are within 3 and have an end as
    # far as 4 steps, but 4.5 is the segment's end and not inside; 2.5 has none.
    assert assigned(small(), [0.0, 4.5]) == {
        (1.5, 1): ([1.5, 3.0], [1.0]),
        (2.5, 1): ([2.5, 2.0], [1.0]),
        (3.5, 1): ([3.5, 1.0], [1.0]),
        (0.5, 2): ([0.5, 4.0], [1.0]),
    }


@pytest.mark.parametrize(
    ("segment", "places"),
    [
        ([1.0, 6.5], [(2.5, 1), (3.5, 1), (4.5, 1), (2.5, 2)]),  # exactly 4 steps are in both levels' ranges
        ([0.0, 4.0], [(1.5, 1), (2.5, 1)]),  # exactly 1.5 strides from the centre is too far
        ([1.5, 3.5], [(2.5, 1)]),  # an end is not inside
        ([1.75, 2.25], []),  # too short for any point
        ([2.5, 2.5], []),
        ([-3.0, 3.0], [(0.5, 1), (2.5, 2)]),  # a segment is not clipped: the centre is 0, the start 5.5 from 2.5
        ([-30.0, 60.0], []),  # nor is this, whose centre is at 15
        ([-30.0, 38.0], [(2.5, 2), (4.5, 2), (6.5, 2)]),  # the last level has no longest distance
    ],
)
def test_who_takes_a_segment(segment, places):
    assert list(assigned(small(), segment)) == places


def test_a_point_in_several_segments_takes_the_shortest():
    found = assigned(small(classes=3), [1.0, 4.0], [2.0, 4.0], [0.0, 5.0], labels=[0, 1, 2])
    assert found[2.5, 1] == ([0.5, 1.5], [0, 1, 0])
    assert found[1.5, 1] == ([0.5, 2.5], [1, 0, 0])


def test_segments_of_one_length_give_their_classes_together_and_the_first_its_ends():
    found = assigned(small(classes=3), [1.5, 4.0], [2.0, 4.5], [2.0, 4.5], labels=[2, 1, 1])
    assert found[2.5, 1] == ([1.0, 1.5], [0, 1, 1])
    # A difference of less than a thousandth of a step is none; the shorter has the ends.
    found = assigned(small(classes=3), [1.5, 4.0], [2.0, 4.4995], labels=[2, 1])
    assert found[2.5, 1] == ([0.5, pytest.approx(1.9995)], [0, 1, 1])


def test_videos_without_segments_have_targets_of_zeros():
    targets = small(classes=2).targets([torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)])
    assert targets.classes.shape == (1, 12, 2)
    assert targets.offsets.shape == (1, 12, 2)
    assert not targets.classes.any()
    assert not targets.offsets.any()


@pytest.mark.parametrize("segment", [[3.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_impossible_segments_are_refused(segment):
    with pytest.raises(ValueError, match="segments of video 1 of the batch"):
        small().targets([torch.tensor([[0.0, 1.0]]), torch.tensor([segment])], [torch.tensor([0])] * 2)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_class_are_refused_where_there_are_classes(label):
    segments, labels = [torch.tensor([[0.0, 2.5]])], [torch.tensor([label])]
    with pytest.raises(ValueError, match="labels of video 0 of the batch"):
        small(classes=2).targets(segments, labels)
    assert small().targets(segments, labels).classes.sum() == 2


def as_output(model, logits, offsets, length):
    """Make an output of one video of `length` steps, from lists over all points."""
    points = pyramid_points(model.config.steps, len(model.config.windows), torch.device("cpu"))
    logits = torch.tensor(logits, dtype=torch.float32).view(1, len(points), -1)
    offsets = torch.tensor(offsets, dtype=torch.float32).view(1, len(points), 2)
    return ActionFormerOutput(logits, offsets, points[None, :, 0] < length, points[None])


def focal(logit, target):
    p = 1 / (1 + exp(-logit))
    right = p * target + (1 - p) * (1 - target)
    entropy = -target * log(p) - (1 - target) * log(1 - p)
    return (0.25 * target + 0.75 * (1 - target)) * (1 - right) ** 2 * entropy


def test_losses_worked_by_hand():
    model = small(steps=4)
    targets = model.targets([torch.tensor([[0.25, 2.25], [3.25, 3.75]])], [torch.tensor([0, 0])])
    # Points 0.5, 1.5, 2.5, 3.5 and 0.5, 2.5. The first two of level 0 take a segment, as does the fourth: but that is
    # padding.
    logits, offsets = [1.0, -2.0, 0.5, 9.0, 0.0, -1.0], [[0.5, 1.5], [0.0, 0.0], [7, 7], [7, 7], [7, 7], [7, 7]]
    output = as_output(model, logits, offsets, length=3)
    losses = model.loss(output, targets, torch.Generator())
    normalizer = 0.9 * 200 + 0.1 * 2
    targets_smoothed = [0.95, 0.95, 0.05, None, 0.05, 0.05]
    classification = sum(focal(x, y) for x, y in zip(logits, targets_smoothed, strict=True) if y is not None)
    # Point 0.5: [0, 2] against [0.25, 2.25] is IoU 1.75 / 2.25, centres 0.25 apart in a hull of 2.25.
    # Point 1.5: no overlap with nothing; centres 1.5 and 1.25 in a hull of 2.
    regression = (1 - 1.75 / 2.25 + (0.25 / 2.25) ** 2) + (1 + (0.25 / 2) ** 2)
    assert losses["classification"].item() == pytest.approx(classification / normalizer, rel=1e-5)
    assert losses["regression"].item() == pytest.approx(regression / normalizer, rel=1e-5)
    assert losses["total"].item() == pytest.approx((classification + 2 * regression) / normalizer, rel=1e-5)


def test_the_normalizer_runs_in_training_only_and_is_saved():
    model = small(initial_normalizer=10.0)
    targets = model.targets([torch.tensor([[0.0, 4.0]])], [torch.tensor([0])])  # two points
    nothing = model.targets([torch.zeros(0, 2)], [torch.zeros(0)])
    output = as_output(model, [0.0] * 12, [[1.0, 1.0]] * 12, length=8)
    first = model.loss(output, targets, torch.Generator())["classification"]
    assert model.loss_normalizer.item() == pytest.approx(0.9 * 10 + 0.1 * 2)
    model.loss(output, nothing, torch.Generator())  # counts as one point
    assert model.loss_normalizer.item() == pytest.approx(0.9 * 9.2 + 0.1 * 1)
    again = small()
    again.load_state_dict(model.state_dict())
    assert again.loss_normalizer.item() == model.loss_normalizer.item()
    again.eval().loss(output, targets, torch.Generator())
    assert again.loss_normalizer.item() == model.loss_normalizer.item()
    second = again.loss(output, targets, torch.Generator())["classification"]
    assert second.item() == pytest.approx(first.item() * 9.2 / 8.38)


def test_padding_has_no_loss_and_no_gradient():
    torch.manual_seed(0)
    model = small().eval()
    mask = torch.arange(8)[None] < 5
    features = torch.randn(1, 4, 8)
    targets = model.targets([torch.tensor([[0.5, 4.0], [5.5, 7.5]])], [torch.tensor([0, 0])])
    losses = []
    for fill in (0.0, 9.0):
        given = features.masked_fill(~mask[:, None], fill).requires_grad_()
        losses.append(model.loss(model(given, mask), targets, torch.Generator())["total"])
        losses[-1].backward()
        assert given.grad[:, :, :5].abs().min() > 0
        assert not given.grad[:, :, 5:].any()
    assert losses[0].item() == losses[1].item()


def logit(probability):
    return log(probability / (1 - probability))


NEVER = -20.0  # a logit far below any threshold


def test_decode_worked_by_hand():
    model = small(nms_sigma=0.8, voting_threshold=0.6)
    logits = [NEVER] * 12
    offsets = [[1.0, 1.0]] * 12
    logits[2], offsets[2] = logit(0.8), [1.5, 2.5]  # [1, 5]
    logits[3], offsets[3] = logit(0.4), [2.5, 0.5]  # [1, 4]: IoU 3/4 with the first
    logits[5], offsets[5] = logit(0.5), [2.0, 4.5]  # [3.5, 10]: IoU 1.5/9 with the first, 0.5/9 with the second
    logits[6] = logit(0.9)  # padding
    logits[8], offsets[8] = logit(0.6), [1.0, 0.5]  # stride 2: [0.5 - 2, 0.5 + 1]: IoU 0.5/6.5 and 0.5/5.5
    logits[9], offsets[9] = logit(0.3), [0.0, 0.0]  # too short
    (found,) = model.decode(as_output(model, logits, offsets, length=6))
    # The first two vote for each other's ends with the scores they had; then all are clipped to [0, 6].
    two = torch.tensor([[[1.0, 5.0], [1.0, 4.0]]])
    ((voted, voted_second),) = vote(two, two, torch.tensor([[0.8, 0.4]]), threshold=0.6).tolist()
    assert 4 < voted_second[1] <= voted[1] < 5
    expected = {
        "first": (0.8, voted),
        "stride 2": (0.6 * exp(-((0.5 / 6.5) ** 2) / 0.8), [0.0, 1.5]),
        "long": (0.5 * exp(-((1.5 / 9) ** 2) / 0.8), [3.5, 6.0]),
        "second": (0.4 * exp(-((3 / 4) ** 2 + (0.5 / 5.5) ** 2 + (0.5 / 9) ** 2) / 0.8), voted_second),
    }
    assert found.scores.tolist() == pytest.approx([score for score, _ in expected.values()], rel=1e-6)
    np.testing.assert_allclose(found.segments, [segment for _, segment in expected.values()], atol=1e-6)
    assert found.labels.tolist() == [-1] * 4


def test_classes_are_suppressed_each_by_itself_and_do_not_vote():
    model = small(classes=2, nms_sigma=0.5)
    logits = [[NEVER, NEVER] for _ in range(12)]
    offsets = [[1.0, 1.0]] * 12
    logits[2], offsets[2] = [logit(0.8), logit(0.7)], [1.5, 2.5]  # [1, 5] twice, in both classes
    logits[3], offsets[3] = [logit(0.5), logit(0.4)], [2.5, 1.25]  # [1, 4.75]
    (found,) = model.decode(as_output(model, logits, offsets, length=8))
    decay = exp(-((3.75 / 4) ** 2) / 0.5)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.segments.tolist() == [[1, 5], [1, 5], [1, 4.75], [1, 4.75]]
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.5 * decay, 0.4 * decay], rel=1e-6)


def test_scores_of_a_thousandth_or_less_are_dropped_before_and_after_suppression():
    model = small()
    logits = [NEVER] * 12
    offsets = [[1.0, 1.0]] * 12
    logits[0], logits[1], logits[5] = logit(0.00099), logit(0.5), logit(0.00101)
    logits[6], offsets[6] = logit(0.0009), [2.05, 0.0]  # [4.45, 6.5] would move the start of [4.5, 6.5]
    logits[2], offsets[2] = logit(0.0012), [2.0, 0.0]  # the same segment as the best: exp(-1 / 0.75) of it is left
    (found,) = model.decode(as_output(model, logits, offsets, length=8))
    assert found.segments.tolist() == [[0.5, 2.5], [4.5, 6.5]]
    (nothing,) = model.decode(as_output(model, [NEVER] * 12, offsets, length=8))
    assert len(nothing) == 0


def test_of_each_level_the_best_candidates_are_taken(monkeypatch):
    monkeypatch.setattr("baselines.actionformer.CANDIDATES", 2)
    model = small(classes=2, max_proposals=100)
    probabilities = torch.linspace(0.1, 0.9, 24).view(12, 2)
    (found,) = model.decode(as_output(model, torch.logit(probabilities).tolist(), [[0.1, 0.1]] * 12, length=8))
    # Points 7 and 11 are the last of their levels.
    assert [
        (label, segment[0] + 0.1) for label, segment in zip(found.labels, found.segments.tolist(), strict=True)
    ] == [
        (1, pytest.approx(6.4)),
        (0, pytest.approx(6.4)),
        (1, pytest.approx(7.5)),
        (0, pytest.approx(7.5)),
    ]


def test_suppression_equals_the_plain_loops_over_videos_and_classes():
    generator = torch.Generator().manual_seed(0)
    model = small(classes=3, max_proposals=12, nms_sigma=0.4)
    videos = []
    for count in (40, 0, 7, 1):
        start = torch.rand(count, generator=generator) * 8
        segments = torch.stack([start, start + 0.1 + 4 * torch.rand(count, generator=generator)], dim=1)
        labels = torch.randint(0, 3, (count,), generator=generator)
        videos.append(Proposals(segments, torch.rand(count, generator=generator), labels))
    for candidates, found in zip(videos, model.suppress(videos), strict=True):
        expected = []
        for label in range(3):
            own = candidates.labels == label
            segments = [tuple(segment) for segment in candidates.segments[own].tolist()]
            picks = plain_soft_nms(segments, candidates.scores[own].tolist(), 0.4, 12)
            expected += [(score, segments[index], label) for index, score in picks if score >= 0.001]
        expected = sorted(expected, reverse=True)[:12]
        assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-9)
        assert [tuple(segment) for segment in found.segments.tolist()] == [segment for _, segment, _ in expected]
        assert found.labels.tolist() == [label for _, _, label in expected]
    assert model.suppress([]) == []


def test_parts_of_a_video_are_suppressed_as_the_whole():
    """Candidates that overlap none of the other part are suppressed the same, in whatever order they come."""
    model = small()
    parts = [
        Proposals(torch.tensor([[0.0, 4.0], [1.0, 4.0]]), torch.tensor([0.9, 0.8]), torch.tensor([-1, -1])),
        Proposals(torch.tensor([[5.0, 6.0], [5.0, 6.5]]), torch.tensor([0.7, 0.95]), torch.tensor([-1, -1])),
    ]
    whole = Proposals(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("segments", "scores", "labels"))
    )
    (found,) = model.suppress([whole])
    apart = [proposal for part in model.suppress(parts) for proposal in zip(part.scores, part.segments, strict=True)]
    apart.sort(key=lambda proposal: -proposal[0])
    assert found.scores.tolist() == pytest.approx([score.item() for score, _ in apart])
    assert found.segments.tolist() == [segment.tolist() for _, segment in apart]


def test_a_proposal_may_be_any_segment():
    assert small().grid() is None
    assert small().takes_padding


def test_overfits_visible_segments():
    torch.manual_seed(0)
    model = small(feature_dim=8, steps=16, hidden=16, windows=(5, 5, -1))
    segments = [torch.tensor(each) for each in ([[2.0, 7.5]], [[1, 4], [8.5, 14]], [[5, 15.0]], [[3, 6], [9, 12.25]])]
    mask = torch.arange(16) < torch.tensor([[16], [16], [16], [13]])
    features = 0.3 * torch.randn(4, 8, 16)
    centre = torch.arange(16) + 0.5
    for video, each in enumerate(segments):
        for start, end in each.tolist():
            features[video, :4] += ((centre > start) & (centre < end)).float()
    targets = model.targets(segments, [torch.zeros(len(each), dtype=torch.int64) for each in segments])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(model(features, mask), targets, torch.Generator())["total"].backward()
        optimizer.step()
    for each, found in zip(segments, model.eval().decode(model(features, mask)), strict=True):
        best = found.segments[: len(each)]
        best = best[best[:, 0].argsort()]
        overlap = torch.minimum(best[:, 1], each[:, 1]) - torch.maximum(best[:, 0], each[:, 0])
        union = torch.maximum(best[:, 1], each[:, 1]) - torch.minimum(best[:, 0], each[:, 0])
        assert (overlap / union).min() > 0.9
