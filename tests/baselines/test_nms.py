import math
import random

import pytest
import torch

from baselines.nms import gaussian_soft_nms


def plain_soft_nms(segments, scores, sigma, keep):
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
            (score * math.exp(-(plain_iou(best[1:3], (start, end)) ** 2) / sigma), start, end, index)
            for score, start, end, index in left
            if index != best[3]
        ]
    return picked


def plain_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = max(a[1], b[1]) - min(a[0], b[0])
    return overlap / union if overlap else 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 7, 100])
def test_equals_the_plain_loop_for_videos_of_different_size(seed, keep):
    rng = random.Random(seed)
    counts = [rng.randrange(40) for _ in range(4)]
    segments = torch.zeros(4, max(counts), 2)
    scores = torch.zeros(4, max(counts))
    expected = []
    for video, count in enumerate(counts):
        starts = [rng.randrange(20) for _ in range(count)]
        mine = [(float(start), float(start + rng.randrange(1, 10))) for start in starts]
        mine_scores = [rng.randrange(8) / 8 for _ in range(count)]  # coarse, so that there are ties and zeros
        segments[video, :count] = torch.tensor(mine).view(count, 2)
        scores[video, :count] = torch.tensor(mine_scores)
        expected.append(plain_soft_nms(mine, mine_scores, 0.8, keep))
    picks, picked_scores = gaussian_soft_nms(segments, scores, sigma=0.8, keep=keep)
    assert picks.shape == picked_scores.shape == (4, min(keep, max(counts)))
    for video, video_expected in enumerate(expected):
        found = picks[video] >= 0
        assert picks[video][found].tolist() == [index for index, _ in video_expected]
        assert picked_scores[video][found].tolist() == pytest.approx([score for _, score in video_expected], rel=1e-12)
        assert (picked_scores[video][~found] == 0).all()


def test_hand_worked():
    # IoU of the first with the second is 1/2, with the third 0.
    segments = torch.tensor([[[0.0, 4.0], [0.0, 2.0], [5.0, 6.0]]])
    picks, scores = gaussian_soft_nms(segments, torch.tensor([[0.9, 0.8, 0.7]]), sigma=0.5, keep=3)
    assert picks.tolist() == [[0, 2, 1]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-1 / 4 / 0.5)])


def test_ties_go_to_the_first():
    segments = torch.tensor([[[float(i), i + 1.0] for i in range(50)]])
    picks, _ = gaussian_soft_nms(segments, torch.full((1, 50), 0.5), sigma=0.8, keep=50)
    assert picks.tolist() == [list(range(50))]


def test_many_suppressions_do_not_lose_a_segment():
    segments = torch.tensor([[[0.0, 1.0]] * 120])
    picks, scores = gaussian_soft_nms(segments, torch.full((1, 120), 0.5), sigma=0.8, keep=100)
    assert (picks >= 0).all()
    assert scores[0, -1].item() == pytest.approx(0.5 * math.exp(-99 / 0.8))


def test_empty_segments_and_no_segments():
    picks, _ = gaussian_soft_nms(torch.zeros(1, 2, 2), torch.ones(1, 2), sigma=0.8, keep=5)
    assert picks.tolist() == [[0, 1]]
    picks, scores = gaussian_soft_nms(torch.zeros(3, 0, 2), torch.zeros(3, 0), sigma=0.8, keep=5)
    assert picks.shape == scores.shape == (3, 0)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 2\) and \(2, 4\)"):
        gaussian_soft_nms(torch.zeros(2, 3, 2), torch.zeros(2, 4), sigma=0.8, keep=5)
