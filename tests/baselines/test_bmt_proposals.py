from dataclasses import replace
from math import exp, log

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.bmt_proposals import (
    AUDIO_ANCHORS,
    AUDIO_KERNELS,
    VISUAL_ANCHORS,
    VISUAL_KERNELS,
    ProposalGenerator,
    ProposalGeneratorConfig,
    ProposalGeneratorOutput,
    anchor_lengths,
)
from baselines.caption_contract import Stream
from baselines.contract import CLASS_AGNOSTIC

# Two streams, of which the second has rows of 2.5 steps.
SMALL = {"stream_dims": [6, 3], "kernels": [[1, 3], [5]], "anchors": [[2.0, 8.0], [3.0, 4.0, 9.0]], "hidden": 8}


def stream(lengths, channels, row_steps=1.0, rows=None, seed=0):
    """A stream of videos of so many rows, padded with what must not be read."""
    rows = rows or max(lengths)
    features = torch.full((len(lengths), channels, rows), torch.inf)
    mask = torch.zeros(len(lengths), rows, dtype=torch.bool)
    for video, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 * seed + video)
        features[video, :, :length] = torch.randn(length, channels, generator=generator).T
        mask[video, :length] = True
    return Stream(features, mask, torch.full((len(lengths),), row_steps))


def small_streams(lengths=(12, 7), rows=(None, None)):
    shorter = [max(1, int(length / 2.5)) for length in lengths]
    return stream(lengths, 6, rows=rows[0]), stream(shorter, 3, 2.5, rows=rows[1], seed=1)


SOME_SEGMENTS = [torch.tensor([[1.0, 4.0], [0.0, 11.0]]), torch.tensor([[2.0, 5.0]])]


@pytest.fixture
def small():
    torch.manual_seed(0)
    return ProposalGenerator(ProposalGeneratorConfig(**SMALL)).eval()


def one_stream(**changes):
    """One stream of 1 channel, one head, the anchors 2 and 8."""
    settings_ = {"stream_dims": (1,), "kernels": ((1,),), "anchors": ((2.0, 8.0),), "hidden": 4, **changes}
    return ProposalGenerator(ProposalGeneratorConfig(**settings_)).eval()


def of_one_video(segments, rows=4, row_steps=1.0):
    """What each place of one video is to say: ``{(anchor, row): (centre, length)}``."""
    targets = one_stream().targets([torch.tensor(segments).view(-1, 2)], (stream([rows], 1, row_steps, rows=rows + 3),))
    video, anchor, row = targets.places[0].tolist()
    assert set(video) <= {0}
    numbers = zip(targets.centres[0].tolist(), targets.lengths[0].tolist(), strict=True)
    return dict(zip(zip(anchor, row, strict=True), numbers, strict=True))


def test_each_segment_has_the_nearest_anchor_at_its_centre():
    found = of_one_video([[1.0, 4.0], [0.0, 6.0]])
    # Length 3: IoU 2/3 with anchor 2 and 3/8 with anchor 8; the centre is 2.5. Length 6: 2/6 and 6/8; 3.0.
    assert found == {(0, 2): pytest.approx((0.5, log(3 / 2))), (1, 3): pytest.approx((0.0, log(6 / 8)))}


def test_targets_of_longer_rows():
    # Rows of 2.5 steps: the centre 4.5 is 1.8 rows; the length stays in steps.
    assert of_one_video([[1.0, 8.0]], row_steps=2.5) == {(1, 1): pytest.approx((0.8, log(7 / 8)))}


def test_of_equally_near_anchors_the_first_is_taken():
    assert list(of_one_video([[0.0, 4.0]])) == [(0, 2)]  # 2/4 and 4/8


def test_of_segments_with_the_same_place_the_last_counts():
    segments = [[1.0, 3.0], [0.8, 3.4], [0.0, 2.0]]
    found = of_one_video(segments)  # centres 2.0, 2.1 and 1.0
    assert found == {(0, 2): pytest.approx((0.1, log(2.6 / 2)), abs=1e-6), (0, 1): (0.0, 0.0)}
    assert of_one_video([segments[1], segments[0]]) == {(0, 2): (0.0, 0.0)}


def test_a_centre_beyond_the_video_is_at_its_end():
    assert of_one_video([[3.0, 6.5]], rows=4) == {(0, 3): pytest.approx((1.0, log(3.5 / 2)))}
    assert of_one_video([[-4.0, 1.0]]) == {(1, 0): pytest.approx((0.0, log(5 / 8)))}


def test_a_video_without_segments_has_no_targets():
    assert of_one_video([]) == {}
    both = one_stream().targets([torch.zeros(0, 2), torch.tensor([[1.0, 2.0]])], (stream([4, 4], 1),))
    assert both.places[0].tolist() == [[1], [0], [1]]


@pytest.mark.parametrize("segment", [[2.0, 2.0], [3.0, 1.0], [0.0, float("inf")], [float("nan"), 1.0]])
def test_senseless_segments_are_refused(segment):
    with pytest.raises(ValueError, match="end after they start"):
        of_one_video([segment])


def output_of(model, logits, lengths, row_steps=1.0):
    mask = torch.arange(logits.shape[-1]) < torch.tensor(lengths)[:, None]
    return ProposalGeneratorOutput((logits,), (mask,), (torch.full((len(lengths),), row_steps),))


def test_losses_worked_by_hand():
    model = one_stream(kernels=((1, 1),), object_weight=2.0, no_object_weight=10.0)
    logits = torch.zeros(2, 2, 2, 3, 4)  # (video, head, anchor, number, row)
    logits[1, :, :, :, 2:] = 1e6  # padding
    # Head 0 is sure of a segment at anchor 0, row 1 of video 0 with probability 3/4; elsewhere all say 1/2.
    logits[0, 0, 0, :, 1] = torch.tensor([0.0, 0.5, log(3)])
    segments = [torch.tensor([[0.0, 2.0]]), torch.tensor([[-3.0, 5.0]])]
    # Video 0: anchor 0, row 1, centre 0, log 1. Video 1: anchor 1, row 1, centre 0, log 1.
    targets = model.targets(segments, (stream([4, 2], 1),))
    losses = model.loss(output_of(model, logits, [4, 2]), targets)
    head_0 = {"centre": 1 / 4, "length": (1 / 4 + 0) / 2, "object": (log(4 / 3) + log(2)) / 2}
    head_1 = {"centre": 1 / 4, "length": 0, "object": log(2)}
    for name, value in head_0.items():
        assert losses[name].item() == pytest.approx(value + head_1[name])
    # (4 + 2) rows of 2 anchors without the 2 places, in either head.
    assert losses["no_object"].item() == pytest.approx(2 * log(2))
    parts = [losses[name].item() for name in ("centre", "length", "object", "no_object")]
    assert losses["total"].item() == pytest.approx(parts[0] + parts[1] + 2 * parts[2] + 10 * parts[3])


def test_streams_are_summed(small):
    streams = small_streams()
    output, targets = small(streams), small.targets(SOME_SEGMENTS, streams)
    together = small.loss(output, targets)
    alone = []
    for number in (0, 1):
        only = [{name: (each[number],) for name, each in vars(part).items()} for part in (output, targets)]
        alone.append(small.loss(replace(output, **only[0]), replace(targets, **only[1])))
    for name, value in together.items():
        torch.testing.assert_close(value, alone[0][name] + alone[1][name])
        assert value > 0


def test_nothing_happens_in_a_batch(small):
    streams = small_streams()
    losses = small.loss(small(streams), small.targets([torch.zeros(0, 2)] * 2, streams))
    assert losses["object"] == losses["centre"] == losses["length"] == 0
    losses["total"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in small.parameters())


def test_decoding_worked_by_hand():
    model = one_stream(max_proposals=3, min_duration=0.5)
    logits = torch.zeros(1, 1, 2, 3, 5)
    logits[:, :, :, 2] = -9.0
    logits[0, 0, 0, :, 1] = torch.tensor([0.0, log(1.5), log(3)])  # centre 1.5, length 3, confidence 3/4
    logits[0, 0, 1, :, 3] = torch.tensor([log(3), 0.0, log(9)])  # centre 3.75, length 8, confidence 9/10
    logits[0, 0, 1, :, 4] = 50.0  # padding
    (found,) = model.decode(output_of(model, logits, [4]))
    # [-0.25, 7.75] is clipped to the 4 rows. The third is the first of those with -9: anchor 0, row 0, [-0.5, 1.5].
    assert found.segments.flatten().tolist() == pytest.approx([0.0, 4.0, 0.0, 3.0, 0.0, 1.5], abs=1e-6)
    assert found.scores.tolist() == pytest.approx([0.9, 0.75, 1 / (1 + exp(9))])
    assert found.labels.tolist() == [CLASS_AGNOSTIC] * 3
    # In rows of 2 steps the centres are 3 and 7.5 and the lengths the same; the end is 8.
    (found,) = model.decode(output_of(model, logits, [4], row_steps=2.0))
    assert found.segments.flatten().tolist() == pytest.approx([3.5, 8.0, 1.5, 4.5, 0.0, 2.0], abs=1e-6)


def test_short_proposals_are_dropped_after_the_best_are_taken():
    model = one_stream(max_proposals=2, min_duration=0.5)
    logits = torch.zeros(1, 1, 2, 3, 4)
    logits[0, 0, 0, :, 0] = torch.tensor([0.0, log(0.25), 9.0])  # length 0.5
    logits[0, 0, 0, :, 1] = torch.tensor([0.0, log(0.26), 8.0])
    (found,) = model.decode(output_of(model, logits, [4]))
    assert found.segments.flatten().tolist() == pytest.approx([1.24, 1.76])
    # Fewer places than proposals, all of them sure of something far too long.
    logits[0, 0, :, 1] = 1000.0
    (found,) = one_stream().decode(output_of(model, logits, [1]))
    assert found.segments.tolist() == [[0.0, 1.0]] * 2


def test_equally_sure_places_come_in_their_order(small):
    streams = small_streams([3], [5, 4])
    silent = [torch.zeros_like(logits) for logits in small(streams).logits]
    for number, logits in enumerate(silent):
        heads, anchors = logits.shape[1:3]
        place = torch.arange(heads * anchors * 3).view(heads, anchors, 3)[:, :, : logits.shape[4]]
        logits[0, :, :, 1, : place.shape[2]] = -place / 100 - number  # tells the places apart
    (found,) = small.decode(replace(small(streams), logits=tuple(silent)))
    # Stream 0: 2 heads of 2 anchors at 3 rows; stream 1: 1 head of 3 anchors at 1 row.
    whole = torch.tensor(
        [
            [row + 0.5 - half, row + 0.5 + half]
            for head in (0, 1)
            for anchor in (0, 1)
            for row in (0, 1, 2)
            for half in [(2, 8)[anchor] / 2 * exp(-(head * 6 + anchor * 3 + row) / 100)]
        ]
        + [
            [1.25 - half, 1.25 + half]
            for anchor in (0, 1, 2)
            for half in [(3, 4, 9)[anchor] / 2 * exp(-anchor * 3 / 100 - 1)]
        ]
    )
    torch.testing.assert_close(found.segments, whole.clamp(0, 3))
    assert set(found.scores.tolist()) == {0.5}


def test_padding_and_the_other_videos_change_nothing(small):
    lengths = (12, 7)
    together, padded = small_streams(lengths), small_streams(lengths, rows=(19, 9))
    proposals = small.decode(small(together))
    losses = small.loss(small(together), small.targets(SOME_SEGMENTS, together))
    for each, expected in zip(small.decode(small(padded)), proposals, strict=True):
        torch.testing.assert_close(vars(each), vars(expected))
    torch.testing.assert_close(small.loss(small(padded), small.targets(SOME_SEGMENTS, padded)), losses)
    for video, expected in enumerate(proposals):
        alone = tuple(
            Stream(each.features[video : video + 1], each.mask[video : video + 1], each.row_steps[:1])
            for each in padded
        )
        torch.testing.assert_close(vars(small.decode(small(alone))[0]), vars(expected))


def test_gradients_reach_every_parameter(small):
    streams = small_streams()
    small.loss(small(streams), small.targets(SOME_SEGMENTS, streams))["total"].backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_learns_one_video_by_heart():
    torch.manual_seed(0)
    model = ProposalGenerator(ProposalGeneratorConfig(**{**SMALL, "hidden": 32, "dropout": 0.0}))
    streams = small_streams([30])
    true = torch.tensor([[1.0, 4.0], [6.5, 16.0], [20.0, 21.5], [10.0, 29.0]])
    targets = model.targets([true], streams)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        model.loss(model(streams), targets)["total"].backward()
        optimizer.step()
    (found,) = model.eval().decode(model(streams))
    best = found.segments[: 3 * len(true)]  # one of each of the three heads
    nearest = (best[:, None] - true).abs().amax(dim=2)
    assert nearest.amin(dim=1).max() < 0.3
    assert nearest.amin(dim=0).max() < 0.3
    assert found.scores[3 * len(true) - 1] > 5 * found.scores[3 * len(true)]


def test_settings_of_the_release():
    config = ProposalGeneratorConfig(
        stream_dims=(1024, 128),
        kernels=(VISUAL_KERNELS, AUDIO_KERNELS),
        anchors=(tuple(range(1, VISUAL_ANCHORS + 1)), tuple(range(1, AUDIO_ANCHORS + 1))),
    )
    with torch.device("meta"):
        model = ProposalGenerator(config)
    # A head: D * k * 512 + 512, 512 * 512 + 512, 512 * 3A + 3A. The kernels of the streams sum to 292 and 780.
    visual = 1024 * 292 * 512 + 10 * (512 + 512 * 513 + 513 * 3 * 128)
    audio = 128 * 780 * 512 + 10 * (512 + 512 * 513 + 513 * 3 * 48)
    assert sum(parameter.numel() for parameter in model.parameters()) == visual + audio


def test_settings_are_strict_and_survive_json():
    config = ProposalGeneratorConfig(**SMALL)
    assert config.kernels == ((1, 3), (5,))
    assert ProposalGeneratorConfig(**config.model_dump(mode="json")) == config
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.hidden = 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernels": [[1, 4], [5]]}, r"odd, got \[4\]"),
        ({"kernels": [[1, 3]]}, "2 streams, and kernels of 1 and anchors of 2"),
        ({"kernels": [[], [5]]}, "at least 1 item"),
        ({"kernels": [["1"], [5]]}, "valid integer"),
        ({"anchors": [[0.0], [1.0]]}, "greater than 0"),
        ({"anchors": [[float("inf")], [1.0]]}, "finite"),
        ({"anchor": []}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_are_named(wrong, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        ProposalGeneratorConfig(**{**SMALL, **wrong})


def test_other_streams_are_refused(small):
    with pytest.raises(ValueError, match=r"streams of \(6, 3\) channels, got \(6,\)"):
        small(small_streams()[:1])


def test_anchors_worked_by_hand():
    # Two groups that no start can tell apart otherwise: means 2 and 31.
    assert anchor_lengths(np.array([30.0, 1.0, 3.0, 32.0, 2.0]), 2, seed=0) == (2.0, 31.0)
    assert anchor_lengths(np.array([5.0, 2.0, 5.0]), 4, seed=0) == (2.0, 5.0)
    assert anchor_lengths(np.array([1.0, 1.0, 1.0, 5.0]), 1, seed=0) == (2.0,)


def test_an_anchor_that_is_nearest_to_nothing_starts_anew():
    # In the second round the means are 2, 16/3, 14.5 and 23, and the second is nearest to no length. It goes to 17,
    # the farthest from its mean 13. Without that it would stay empty.
    lengths = np.array([2.0, 3.0, 3.0, 10.0, 12.0, 17.0, 23.0, 23.0])
    assert anchor_lengths(lengths, 4, seed=0) == (8 / 3, 11.0, 17.0, 23.0)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from([0.25, 1, 1.5, 2, 3, 3.5, 7, 20, 21, 22, 23, 50, 51, 90.5]), min_size=1),
    count=st.integers(1, 10),
    seed=st.integers(0, 50),
)
def test_anchors_are_the_means_of_what_is_nearest_to_them(lengths, count, seed):
    lengths = np.array(lengths)
    anchors = anchor_lengths(lengths, count, seed)
    assert len(anchors) == min(count, len(set(lengths.tolist())))
    assert list(anchors) == sorted(set(anchors))
    # Of two equally near anchors the shorter one.
    nearest = np.abs(lengths[:, None] - np.array(anchors)).argmin(axis=1)
    for number, anchor in enumerate(anchors):
        assert anchor == pytest.approx(lengths[nearest == number].mean())
    assert anchors == anchor_lengths(lengths[::-1], count, seed)
    assert anchor_lengths(lengths * 4, count, seed) == tuple(4 * anchor for anchor in anchors)


@pytest.mark.parametrize(
    ("lengths", "count"), [([], 2), ([1.0], 0), ([0.0, 1.0], 1), ([float("nan")], 1), ([[1.0]], 1)]
)
def test_lengths_that_are_none_are_refused(lengths, count):
    with pytest.raises(ValueError, match="finite lengths"):
        anchor_lengths(np.array(lengths), count, seed=0)
