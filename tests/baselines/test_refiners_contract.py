"""What holds for every refiner of the table."""

import copy
from dataclasses import replace

import pydantic
import pytest
import torch
from torch import nn

from baselines import REFINERS
from baselines.refiner_contract import ProposalBatch

SMALL = {
    "pgcn": {"feature_dim": 8, "classes": 3, "hidden": 16},
}
STEPS = (30, 12, 45, 20)


@pytest.fixture(params=sorted(REFINERS))
def name(request):
    return request.param


@pytest.fixture
def refiner(name):
    torch.manual_seed(0)
    return REFINERS[name](REFINERS[name].Config(**SMALL[name]))


def some_videos():
    """Four videos of different length: the second without proposals, the last without anything happening."""
    generator = torch.Generator().manual_seed(1)
    features, proposals, scores, segments, labels = [], [], [], [], []
    for video, steps in enumerate(STEPS):
        count = 0 if video == 1 else 25 + video
        start = torch.rand(count, generator=generator) * steps
        length = torch.rand(count, generator=generator) * steps / 2 + 0.5
        features.append(torch.randn(8, steps, generator=generator))
        proposals.append(torch.stack([start, start + length], dim=1))
        scores.append(torch.rand(count, generator=generator).sort(descending=True).values)
        some = [] if video == 3 else [[1.0, 6.0], [8.0, 11.5]]
        segments.append(torch.tensor(some).view(-1, 2))
        labels.append(torch.tensor([video, 1][: len(some)], dtype=torch.int64))
    return ProposalBatch(features, proposals, scores, segments, labels)


def only(batch, video):
    return ProposalBatch(*([part[video]] for part in vars(batch).values()))


def total_loss(refiner, batch, seed=0):
    graphs = refiner.graphs(batch, torch.Generator().manual_seed(seed))
    return refiner.loss(refiner(graphs), graphs)


def predicted(refiner, batch):
    graphs = refiner.graphs(batch, None)
    return refiner.decode(refiner(graphs), graphs)


def test_it_is_a_module_built_from_its_settings(refiner):
    assert isinstance(refiner, nn.Module)


def test_settings_are_strict_and_frozen(name):
    config = REFINERS[name].Config(**SMALL[name])
    with pytest.raises(pydantic.ValidationError):
        REFINERS[name].Config(**SMALL[name], no_such_setting=1)
    with pytest.raises(pydantic.ValidationError):
        REFINERS[name].Config(**{**SMALL[name], "feature_dim": "8"})
    with pytest.raises(pydantic.ValidationError):
        config.feature_dim = 16
    assert REFINERS[name].Config(feature_dim=512, classes=20, max_proposals=7).max_proposals == 7
    REFINERS[name].Config(feature_dim=512, classes=20)  # everything else has a default


def test_loss_is_finite_and_its_gradient_reaches_every_parameter(refiner):
    losses = total_loss(refiner, some_videos())
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    losses["total"].backward()
    for parameter_name, parameter in refiner.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("video", [1, 3])
def test_loss_without_proposals_or_without_segments_is_finite(refiner, video):
    losses = total_loss(refiner, only(some_videos(), video))
    losses["total"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in refiner.parameters())


def test_loss_without_anything_is_finite(refiner):
    batch = only(some_videos(), 1)
    losses = total_loss(refiner, replace(batch, segments=[torch.zeros(0, 2)], labels=[torch.zeros(0).long()]))
    losses["total"].backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_same_seed_gives_the_same_bits(refiner):
    runs = []
    state = copy.deepcopy(refiner.state_dict())
    for _ in range(2):
        refiner.zero_grad()
        refiner.load_state_dict(state)  # a loss may keep running means
        torch.manual_seed(0)  # the global generator is that of random layers
        losses = total_loss(refiner, some_videos())
        losses["total"].backward()
        runs.append([losses["total"].detach(), *(parameter.grad.clone() for parameter in refiner.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    assert total_loss(refiner, some_videos(), seed=1)["total"] != runs[0][0]


def test_graphs_do_not_draw_from_the_global_generator(refiner):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    refiner.graphs(some_videos(), torch.Generator().manual_seed(0))
    refiner.graphs(some_videos(), None)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_video_does_not_depend_on_its_companions(refiner):
    batch = some_videos()
    refiner.eval()
    together = predicted(refiner, batch)
    assert len(together) == len(STEPS)
    for video, proposals in enumerate(together):
        (alone,) = predicted(refiner, only(batch, video))
        assert torch.equal(alone.labels, proposals.labels)
        torch.testing.assert_close(alone.scores, proposals.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.segments, proposals.segments, rtol=1e-5, atol=1e-5)


def test_prediction_does_not_look_at_what_is_true(refiner):
    batch = some_videos()
    refiner.eval()
    blind = replace(
        batch, segments=[torch.zeros(0, 2)] * len(STEPS), labels=[torch.zeros(0, dtype=torch.int64)] * len(STEPS)
    )
    for one, other in zip(predicted(refiner, batch), predicted(refiner, blind), strict=True):
        assert torch.equal(one.scores, other.scores)


def test_proposals_are_best_first_and_inside_the_video(refiner):
    refiner.eval()
    for video, proposals in enumerate(predicted(refiner, some_videos())):
        assert (len(proposals) > 0) == (video != 1)
        assert (proposals.scores[:-1] >= proposals.scores[1:]).all()
        assert (proposals.segments >= 0).all()
        assert (proposals.segments <= STEPS[video]).all()
        assert (proposals.segments[:, 0] < proposals.segments[:, 1]).all()
        assert (proposals.labels >= 0).all()
        assert (proposals.labels < 3).all()
        assert not proposals.scores.requires_grad


def test_there_are_no_more_than_max_proposals(name):
    refiner = REFINERS[name](REFINERS[name].Config(**SMALL[name], max_proposals=2)).eval()
    assert [len(proposals) for proposals in predicted(refiner, some_videos())] == [2, 0, 2, 2]


def test_graphs_move(refiner):
    refiner.eval()
    batch = some_videos()
    graphs = refiner.graphs(batch, torch.Generator().manual_seed(0))
    moved = graphs.to("cpu")
    assert refiner.loss(refiner(moved), moved)["total"] == refiner.loss(refiner(graphs), graphs)["total"]
    graphs = refiner.graphs(batch, None).to("cpu")
    assert len(refiner.decode(refiner(graphs), graphs)) == len(STEPS)


def test_there_is_no_loss_of_a_prediction(refiner):
    graphs = refiner.graphs(some_videos(), None)
    with pytest.raises(ValueError, match="generator"):
        refiner.loss(refiner(graphs), graphs)


def test_bfloat16_autocast_gives_a_finite_loss(refiner):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = total_loss(refiner, some_videos())
    losses["total"].backward()
    assert losses["total"].isfinite()
    assert losses["total"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in refiner.parameters())


def test_features_of_other_channels_are_refused(refiner):
    batch = some_videos()
    with pytest.raises(ValueError, match="video 2"):
        refiner.graphs(replace(batch, features=[*batch.features[:2], torch.zeros(7, 45), batch.features[3]]), None)


def test_batches_check_themselves():
    batch = some_videos()
    with pytest.raises(ValueError, match="as many of each part"):
        replace(batch, scores=batch.scores[:3])
    with pytest.raises(ValueError, match=r"video 0: expected proposals \(0, 2\), got \(25, 2\)"):
        replace(batch, scores=[torch.zeros(0), *batch.scores[1:]])
    with pytest.raises(ValueError, match=r"video 3: expected segments \(1, 2\), got \(0, 2\)"):
        replace(batch, labels=[*batch.labels[:3], torch.zeros(1, dtype=torch.int64)])
    with pytest.raises(ValueError, match="video 0: expected floating point"):
        replace(batch, features=[torch.zeros(8, 30, dtype=torch.int64), *batch.features[1:]])


def test_every_refiner_has_a_small_example():
    assert sorted(SMALL) == sorted(REFINERS)
