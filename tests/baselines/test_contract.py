"""What holds for every localizer of the table."""

import copy

import pydantic
import pytest
import torch
from torch import nn

from baselines import LOCALIZERS
from baselines.contract import FeatureBatch, Proposals

SMALL = {
    "actionformer": {"feature_dim": 8, "steps": 12, "hidden": 16, "windows": (3, -1)},
    "bmn": {"feature_dim": 8, "steps": 12, "max_duration": 12, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16},
    "gtad": {"feature_dim": 8, "steps": 12, "max_duration": 10, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16},
}
STEPS = 12


@pytest.fixture(params=sorted(LOCALIZERS))
def name(request):
    return request.param


@pytest.fixture
def localizer(name):
    torch.manual_seed(0)
    return LOCALIZERS[name](LOCALIZERS[name].Config(**SMALL[name]))


def some_videos(count, channels=8):
    generator = torch.Generator().manual_seed(1)
    return FeatureBatch(
        features=torch.randn(count, channels, STEPS, generator=generator),
        mask=torch.ones(count, STEPS, dtype=torch.bool),
        # The last video has no segment.
        segments=[torch.tensor([[1.0, 4.0], [6.0, 10.5]])] * (count - 1) + [torch.zeros(0, 2)],
        labels=[torch.tensor([0, 1])] * (count - 1) + [torch.zeros(0, dtype=torch.int64)],
    )


def total_loss(localizer, batch, seed=0):
    output = localizer(batch.features, batch.mask)
    losses = localizer.loss(
        output, localizer.targets(batch.segments, batch.labels), torch.Generator().manual_seed(seed)
    )
    return output, losses


def tensors_of(output):
    return {name: value for name, value in vars(output).items() if isinstance(value, torch.Tensor)}


def test_it_is_a_module_built_from_its_settings(localizer):
    assert isinstance(localizer, nn.Module)


def test_settings_are_strict_and_frozen(name):
    config = LOCALIZERS[name].Config(**SMALL[name])
    with pytest.raises(pydantic.ValidationError):
        LOCALIZERS[name].Config(**SMALL[name], no_such_setting=1)
    with pytest.raises(pydantic.ValidationError):
        LOCALIZERS[name].Config(**{**SMALL[name], "feature_dim": "8"})
    with pytest.raises(pydantic.ValidationError):
        config.feature_dim = 16
    LOCALIZERS[name].Config(feature_dim=512)  # everything else has a default


def test_loss_is_finite_and_its_gradient_reaches_every_parameter(localizer):
    _, losses = total_loss(localizer, some_videos(4))
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    losses["total"].backward()
    for parameter_name, parameter in localizer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_loss_of_videos_without_segments_is_finite(localizer):
    batch = some_videos(2)
    empty = FeatureBatch(batch.features[1:], batch.mask[1:], batch.segments[1:], batch.labels[1:])
    _, losses = total_loss(localizer, empty)
    losses["total"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in localizer.parameters())


def test_same_seed_gives_the_same_bits(localizer):
    runs = []
    state = copy.deepcopy(localizer.state_dict())
    for _ in range(2):
        localizer.zero_grad()
        localizer.load_state_dict(state)  # a loss may keep running means
        torch.manual_seed(0)  # the global generator is that of random layers
        _, losses = total_loss(localizer, some_videos(4))
        losses["total"].backward()
        runs.append([losses["total"].detach(), *(parameter.grad.clone() for parameter in localizer.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_video_does_not_depend_on_its_companions(localizer):
    batch = some_videos(5)
    localizer.eval()
    together = tensors_of(localizer(batch.features, batch.mask))
    for video in range(5):
        alone = tensors_of(localizer(batch.features[video : video + 1], batch.mask[video : video + 1]))
        for part in together:
            torch.testing.assert_close(alone[part][0], together[part][video], rtol=1e-5, atol=1e-6)


def test_targets_move_and_do_not_depend_on_companions(localizer):
    batch = some_videos(3)
    together = tensors_of(localizer.targets(batch.segments, batch.labels).to("cpu"))
    alone = tensors_of(localizer.targets(batch.segments[1:2], batch.labels[1:2]))
    assert all(torch.equal(alone[part][0], together[part][1]) for part in together)


def test_proposals_are_best_first_and_inside_the_video(localizer):
    batch = some_videos(3)
    decoded = localizer.decode(localizer(batch.features, batch.mask))
    assert len(decoded) == 3
    for proposals in decoded:
        assert len(proposals) > 0
        assert (proposals.scores[:-1] >= proposals.scores[1:]).all()
        assert (proposals.segments >= 0).all()
        assert (proposals.segments <= STEPS).all()
        assert (proposals.segments[:, 0] < proposals.segments[:, 1]).all()
        assert (proposals.labels >= -1).all()
        assert not proposals.scores.requires_grad


def test_bfloat16_autocast_gives_a_finite_loss(localizer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = total_loss(localizer, some_videos(4))
    losses["total"].backward()
    assert losses["total"].isfinite()
    assert losses["total"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in localizer.parameters())


@pytest.mark.parametrize(
    ("features", "mask", "message"),
    [
        (torch.zeros(8, STEPS), torch.ones(8, STEPS, dtype=torch.bool), "features"),
        (torch.zeros(2, 8, STEPS, dtype=torch.int64), torch.ones(2, STEPS, dtype=torch.bool), "int64"),
        (torch.zeros(2, 8, STEPS), torch.ones(2, STEPS), "bool mask"),
        (torch.zeros(2, 4, STEPS), torch.ones(2, STEPS, dtype=torch.bool), "8"),
    ],
)
def test_wrong_input_is_named(localizer, features, mask, message):
    with pytest.raises(ValueError, match=message):
        localizer(features, mask)


def test_batches_check_themselves():
    batch = some_videos(2)
    with pytest.raises(ValueError, match="2 videos"):
        FeatureBatch(batch.features, batch.mask, batch.segments[:1], batch.labels)
    with pytest.raises(ValueError, match="video 0"):
        FeatureBatch(batch.features, batch.mask, batch.segments, batch.labels[::-1])
    assert torch.equal(batch.to("cpu").features, batch.features)
    with pytest.raises(ValueError, match="int64"):
        Proposals(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Proposals(torch.zeros(2, 2), torch.zeros(3), torch.zeros(2, dtype=torch.int64))


def test_every_localizer_has_a_small_example():
    assert sorted(SMALL) == sorted(LOCALIZERS)
