import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import nms
from baselines.nms import gaussian_soft_nms, hard_nms, vote

NOTHING = (0.0, 0.0, 1.0)
BMN_RULE = (0.5, 0.9, 10.0)  # a pick of width 10 spares up to 0.9


@pytest.fixture(params=["lazily", "by rounds"])
def way(request, monkeypatch):
    """Run a test with the formulation for the CPU and with that for a GPU."""
    if request.param == "by rounds":
        monkeypatch.setattr(nms, "pick_lazily", nms.pick_by_rounds)
    return request.param


def plain_soft_nms(segments, scores, sigma, keep, spare=NOTHING):
    """One video, one pair at a time."""
    left = [
        (score, start, end, index) for index, ((start, end), score) in enumerate(zip(segments, scores, strict=True))
    ]
    picked = []
    while left and len(picked) < keep:
        best = max(left, key=lambda each: (each[0], -each[3]))
        if best[0] <= 0:
            break
        picked.append((best[3], best[0]))
        left = [
            (score * plain_factor(best[1:3], (start, end), sigma, spare), start, end, index)
            for score, start, end, index in left
            if index != best[3]
        ]
    return picked


def plain_factor(pick, other, sigma, spare):
    low, high, extent = spare
    iou = plain_iou(pick, other)
    if iou <= low + (high - low) * (pick[1] - pick[0]) / extent:
        return 1.0
    return math.exp(-(iou * iou) / sigma) if sigma else 0.0


def plain_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = max(a[1], b[1]) - min(a[0], b[0])
    return overlap / union if overlap else 0.0


def plain_vote(pick, segments, scores, threshold):
    """Return one refined pick."""
    voters = [(*s, w) for s, w in zip(segments, scores, strict=True) if plain_iou(pick, s) >= threshold]
    total = sum(weight for *_, weight in voters)
    if not total:
        return pick
    return tuple(sum(voter[side] * voter[2] for voter in voters) / total for side in (0, 1))


def assert_greedy(segments, scores, sigma, keep, spare, picks, picked_scores):
    """Follow the picks one by one: each has the score that is due, and nothing that was left had more.

    Unlike a comparison of picks it forgives that scores which are equal on paper differ in the last bit.
    """
    left = dict(enumerate(scores))
    for pick, score in zip(picks, picked_scores, strict=True):
        best = max(left.values(), default=0.0)
        if pick < 0:
            assert best == score == 0
            continue
        assert score == pytest.approx(left.pop(pick), rel=1e-12)
        assert score >= best * (1 - 1e-12)
        left = {i: s * plain_factor(segments[pick], segments[i], sigma, spare) for i, s in left.items()}
    assert len(picks) == min(keep, len(scores))


def random_videos(seed):
    """Return a batch of four videos of different size, padded, and the same as lists."""
    rng = random.Random(seed)
    counts = [rng.randrange(40) for _ in range(4)]
    segments = torch.zeros(4, max(counts), 2)
    scores = torch.zeros(4, max(counts))
    videos = []
    for video, count in enumerate(counts):
        starts = [rng.randrange(20) for _ in range(count)]
        mine = [(float(start), float(start + rng.randrange(1, 10))) for start in starts]
        mine_scores = [rng.randrange(8) / 8 for _ in range(count)]  # coarse, so that there are ties and zeros
        segments[video, :count] = torch.tensor(mine).view(count, 2)
        scores[video, :count] = torch.tensor(mine_scores)
        videos.append((mine, mine_scores))
    return segments, scores, videos


@pytest.mark.parametrize("spare", [NOTHING, BMN_RULE])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 7, 100])
def test_equals_the_plain_loop_for_videos_of_different_size(way, seed, keep, spare):
    segments, scores, videos = random_videos(seed)
    low, high, extent = spare
    picks, picked_scores = gaussian_soft_nms(
        segments, scores, sigma=0.8, keep=keep, spare_low=low, spare_high=high, extent=extent
    )
    assert picks.shape == picked_scores.shape == (4, min(keep, scores.shape[1]))
    assert (picks.dtype, picked_scores.dtype) == (torch.int64, torch.float64)
    for video, (mine, mine_scores) in enumerate(videos):
        expected = plain_soft_nms(mine, mine_scores, 0.8, keep, spare)
        found = picks[video] >= 0
        assert picks[video][found].tolist() == [index for index, _ in expected]
        assert picked_scores[video][found].tolist() == pytest.approx([score for _, score in expected], rel=1e-12)
        assert (picked_scores[video][~found] == 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_hard_suppression_equals_the_plain_loop(way, seed, threshold):
    segments, scores, videos = random_videos(seed)
    picks, picked_scores = hard_nms(segments, scores, threshold=threshold, keep=7)
    for video, (mine, mine_scores) in enumerate(videos):
        expected = plain_soft_nms(mine, mine_scores, 0.0, 7, (threshold, threshold, 1.0))
        found = picks[video] >= 0
        assert picks[video][found].tolist() == [index for index, _ in expected]
        assert picked_scores[video][found].tolist() == [score for _, score in expected]
        assert (picked_scores[video][~found] == 0).all()


# Segments on a small grid, some of them without length, many of them the same; scores with ties and zeros.
candidates = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 8), st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0])), max_size=25
)


@settings(deadline=None)
@given(candidates, st.integers(1, 30), st.sampled_from([0.05, 0.4, 0.8]), st.sampled_from([NOTHING, BMN_RULE]))
def test_every_pick_is_the_best_that_is_left(drawn, keep, sigma, spare):
    pairs = [(start, start + length) for start, length, _ in drawn]
    scores = [score for *_, score in drawn]
    low, high, extent = spare
    arguments = [
        *torch.tensor(pairs, dtype=torch.float64).view(1, -1, 2).unbind(dim=2),
        torch.tensor([scores], dtype=torch.float64),
    ]
    for pick in (nms.pick_lazily, nms.pick_by_rounds):
        picks = torch.full((1, min(keep, len(drawn))), -1)
        picked_scores = torch.zeros(picks.shape, dtype=torch.float64)
        pick(*(each.contiguous() for each in arguments), sigma, low, high, extent, picks, picked_scores)
        assert_greedy(pairs, scores, sigma, keep, spare, picks[0].tolist(), picked_scores[0].tolist())


@settings(deadline=None)
@given(candidates, st.integers(1, 30), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_both_ways_of_hard_suppression_are_the_same(drawn, keep, threshold):
    segments = torch.tensor([(start, start + length) for start, length, _ in drawn]).view(1, -1, 2)
    scores = torch.tensor([[score for *_, score in drawn]])
    ours = hard_nms(segments, scores, threshold=threshold, keep=keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "pick_lazily", nms.pick_by_rounds)
        others = hard_nms(segments, scores, threshold=threshold, keep=keep)
    assert all(map(torch.equal, ours, others))


def test_both_ways_agree_on_many_random_segments():
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(3, 2000, generator=generator) * 100
    segments = torch.stack([starts, starts + torch.rand(3, 2000, generator=generator) * 20], dim=2)
    scores = torch.rand(3, 2000, generator=generator)
    picks, picked_scores = gaussian_soft_nms(segments, scores, sigma=0.4, keep=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "pick_lazily", nms.pick_by_rounds)
        other_picks, other_scores = gaussian_soft_nms(segments, scores, sigma=0.4, keep=100)
    assert torch.equal(picks, other_picks)
    torch.testing.assert_close(picked_scores, other_scores, rtol=1e-12, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    segments, scores, _ = random_videos(0)
    for function, options in (
        (gaussian_soft_nms, {"sigma": 0.8, "spare_low": 0.5, "spare_high": 0.9, "extent": 10.0}),
        (hard_nms, {"threshold": 0.5}),
    ):
        picks, picked_scores = function(segments, scores, keep=20, **options)
        gpu_picks, gpu_scores = function(segments.cuda(), scores.cuda(), keep=20, **options)
        assert torch.equal(picks, gpu_picks.cpu())
        torch.testing.assert_close(picked_scores, gpu_scores.cpu(), rtol=1e-12, atol=0)


def test_hand_worked(way):
    # IoU of the first with the second is 1/2, with the third 0.
    segments = torch.tensor([[[0.0, 4.0], [0.0, 2.0], [5.0, 6.0]]])
    picks, scores = gaussian_soft_nms(segments, torch.tensor([[0.9, 0.8, 0.7]]), sigma=0.5, keep=3)
    assert picks.tolist() == [[0, 2, 1]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-1 / 4 / 0.5)])


@pytest.mark.parametrize(
    ("width", "second_score"),
    [
        # The second is the first half of the pick: IoU 1/2. A pick spares up to 0.25 + 0.5 · width / 8.
        (4.0, 0.8),  # up to 0.5: spared, as it is not above
        (2.0, 0.8 * math.exp(-1 / 4 / 0.5)),  # up to 0.375
        (8.0, 0.8),  # up to 0.75
    ],
)
def test_the_rule_of_widths_hand_worked(way, width, second_score):
    segments = torch.tensor([[[0.0, width], [0.0, width / 2]]])
    scores = torch.tensor([[0.9, 0.8]])
    picks, picked = gaussian_soft_nms(segments, scores, sigma=0.5, keep=2, spare_low=0.25, spare_high=0.75, extent=8.0)
    assert picks.tolist() == [[0, 1]]
    assert picked[0].tolist() == pytest.approx([0.9, second_score])


def test_hard_suppression_hand_worked(way):
    # IoU with the first: 1/2, 1/4 and 0. The second, once removed, removes nothing, though it is the third's double.
    segments = torch.tensor([[[0.0, 4.0], [0.0, 2.0], [0.0, 1.0], [5.0, 6.0]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 1.0]])
    for threshold, kept in ((0.5, [3, 0, 1, 2]), (0.49, [3, 0, 2, -1]), (0.2, [3, 0, -1, -1])):
        picks, picked_scores = hard_nms(segments, scores, threshold=threshold, keep=4)
        assert picks.tolist() == [kept]
        assert picked_scores[0].tolist() == [scores[0, i].item() if i >= 0 else 0.0 for i in kept]
    assert hard_nms(segments, scores, threshold=0.5, keep=2)[0].tolist() == [[3, 0]]


def test_ties_go_to_the_first(way):
    segments = torch.tensor([[[float(i), i + 1.0] for i in range(50)]])
    picks, _ = gaussian_soft_nms(segments, torch.full((1, 50), 0.5), sigma=0.8, keep=50)
    assert picks.tolist() == [list(range(50))]


def test_a_tie_that_comes_about_later_goes_to_the_first_too(way):
    segments = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [5.0, 6.0]]])
    scores = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    _, lowered = gaussian_soft_nms(segments, scores, sigma=1.0, keep=2)
    scores[0, 2] = lowered[0, 1]  # e^-1, as this formulation has it
    picks, _ = gaussian_soft_nms(segments, scores, sigma=1.0, keep=3)
    assert picks.tolist() == [[0, 1, 2]]


def test_many_suppressions_do_not_lose_a_segment(way):
    segments = torch.tensor([[[0.0, 1.0]] * 120])
    picks, scores = gaussian_soft_nms(segments, torch.full((1, 120), 0.5), sigma=0.8, keep=100)
    assert (picks >= 0).all()
    assert scores[0, -1].item() == pytest.approx(0.5 * math.exp(-99 / 0.8))


def test_empty_segments_and_no_segments(way):
    picks, _ = gaussian_soft_nms(torch.zeros(1, 2, 2), torch.ones(1, 2), sigma=0.8, keep=5)
    assert picks.tolist() == [[0, 1]]
    assert hard_nms(torch.zeros(1, 2, 2), torch.ones(1, 2), threshold=0.0, keep=5)[0].tolist() == [[0, 1]]
    picks, scores = gaussian_soft_nms(torch.zeros(3, 0, 2), torch.zeros(3, 0), sigma=0.8, keep=5)
    assert picks.shape == scores.shape == (3, 0)
    picks, scores = gaussian_soft_nms(torch.zeros(0, 4, 2), torch.zeros(0, 4), sigma=0.8, keep=5)
    assert picks.shape == scores.shape == (0, 4)


def test_the_input_stays_as_it_is(way):
    segments, scores, _ = random_videos(1)
    segments, scores = segments.double(), scores.double().requires_grad_()
    before = segments.clone(), scores.clone()
    _, picked_scores = gaussian_soft_nms(segments, scores, sigma=0.8, keep=100)
    assert torch.equal(segments, before[0])
    assert torch.equal(scores, before[1])
    assert not picked_scores.requires_grad


def test_voting_hand_worked():
    # IoU of the pick [0, 4) with [0, 4): 1, with [0, 5): 4/5, with [1, 5): 3/5, with [8, 9): 0.
    segments = torch.tensor([[[0.0, 4.0], [0.0, 5.0], [1.0, 5.0], [8.0, 9.0]]])
    scores = torch.tensor([[0.5, 0.25, 0.25, 1.0]])
    picked = segments[:, :1]
    assert vote(picked, segments, scores, threshold=0.9).tolist() == [[[0.0, 4.0]]]
    # (0.5 · 4 + 0.25 · 5) / 0.75; an IoU of exactly the threshold votes
    assert vote(picked, segments, scores, threshold=4 / 5)[0, 0].tolist() == pytest.approx([0.0, 13 / 3])
    # (0.25 · 1) / 1 and (0.5 · 4 + 0.25 · 5 + 0.25 · 5) / 1
    assert vote(picked, segments, scores, threshold=0.6)[0, 0].tolist() == pytest.approx([0.25, 4.5])


def test_who_has_no_voters_stays():
    segments = torch.tensor([[[0.0, 4.0], [0.0, 0.0], [6.0, 8.0]], [[0.0, 0.0]] * 3])
    scores = torch.tensor([[0.5, 0.5, 0.0], [0.0] * 3])
    # A segment without length, one that overlaps nothing, one whose only voter has a score of 0, and no candidates.
    picked = torch.tensor([[[0.0, 0.0], [20.0, 21.0], [6.0, 8.0]], [[0.0, 0.0], [2.0, 3.0], [0.0, 1.0]]])
    assert torch.equal(vote(picked, segments, scores, threshold=0.5), picked)
    assert vote(picked[:, :0], segments, scores, threshold=0.5).shape == (2, 0, 2)
    assert torch.equal(vote(picked, segments[:, :0], scores[:, :0], threshold=0.5), picked)


@given(candidates.filter(len), st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_voting_equals_the_plain_loop(drawn, threshold):
    pairs = [(float(start), float(start + length)) for start, length, _ in drawn]
    scores = [score for *_, score in drawn]
    segments = torch.tensor([pairs], dtype=torch.float64)
    refined = vote(segments, segments, torch.tensor([scores], dtype=torch.float64), threshold=threshold)
    for pick, result in zip(pairs, refined[0].tolist(), strict=True):
        assert result == pytest.approx(plain_vote(pick, pairs, scores, threshold), rel=1e-12)


def test_voting_returns_the_type_of_the_picks():
    segments, scores, _ = random_videos(0)
    assert vote(segments, segments, scores, threshold=0.5).dtype == torch.float32
    assert vote(segments.double(), segments, scores, threshold=0.5).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p: gaussian_soft_nms(s, p[:, :2], sigma=0.8, keep=5), r"\(2, 3, 2\) and \(2, 2\)"),
        (lambda s, p: hard_nms(s, p[:, :2], threshold=0.8, keep=5), r"\(2, 3, 2\) and \(2, 2\)"),
        (lambda s, p: gaussian_soft_nms(s, p, sigma=0.0, keep=5), "more than 0, got 0.0 and 1.0"),
        (lambda s, p: gaussian_soft_nms(s, p, sigma=0.8, keep=5, extent=0.0), "more than 0, got 0.8 and 0.0"),
        (lambda s, p: gaussian_soft_nms(s, p - 2, sigma=0.8, keep=5), "scores that are not negative"),
        (lambda s, p: gaussian_soft_nms(s, p * math.nan, sigma=0.8, keep=5), "finite scores"),
        (lambda s, p: hard_nms(s, p * math.inf, threshold=0.8, keep=5), "finite scores"),
        (lambda s, p: hard_nms(s.flip(2), p, threshold=0.8, keep=5), "start <= end"),
        (lambda s, p: hard_nms(s * math.nan, p, threshold=0.8, keep=5), "finite segments"),
        (lambda s, p: vote(s, s, p[:, :2], threshold=0.8), r"\(2, 3, 2\) and \(2, 2\)"),
        (lambda s, p: vote(s[:1], s, p, threshold=0.8), r"\(2, K, 2\), got \(1, 3, 2\)"),
        (lambda s, p: vote(s, s, p, threshold=0.0), "threshold of more than 0 and at most 1, got 0.0"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.tensor([0.0, 1.0]).expand(2, 3, 2), torch.ones(2, 3))


def test_without_a_place_to_keep_it_the_loop_is_compiled_anew(monkeypatch):
    real = numba.njit

    def njit(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function '_pick_lazily': no locator available for file 'x'")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", njit)
    nms._machine_code.cache_clear()
    assert hard_nms(torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1), threshold=0.5, keep=1)[0].tolist() == [[0]]
    nms._machine_code.cache_clear()


def test_importing_it_does_not_import_numba():
    code = "import sys, baselines.nms; sys.exit('numba' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
