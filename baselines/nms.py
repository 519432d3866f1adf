"""Soft suppression of overlapping segments, batched over videos."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gaussian_soft_nms(segments: Tensor, scores: Tensor, *, sigma: float, keep: int) -> tuple[Tensor, Tensor]:
    """Pick the best segment again and again, each time lowering the scores of those that overlap it.

    A pick multiplies every other score by ``exp(-IoU² / sigma)`` (Bodla et al., ICCV 2017, eq. 4). Scores are kept in
    float64, because a segment close to a hundred picks is multiplied by 0.29^100, which is 0 in float32.

    Ties go to the segment that comes first in the input. A score of 0 means "no such segment": it is never picked, so
    videos with fewer segments are padded with scores of 0. The released G-TAD and BSN code never returns the last
    remaining segment; here it is returned.

    Args:
        segments: ``(B, N, 2)``, [start, end) in any unit, with start <= end.
        scores: ``(B, N)``, not negative.
        sigma: width of the Gaussian.
        keep: the largest number of picks a video.

    Returns:
        Picks and their scores at the time of picking, both ``(B, min(keep, N))``, best first. Where a video has run
        out of segments, the pick is -1 and the score 0.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    if segments.ndim != 3 or segments.shape[2] != 2 or scores.shape != segments.shape[:2]:
        raise ValueError(
            f"expected segments (B, N, 2) and scores (B, N), got {tuple(segments.shape)} and {tuple(scores.shape)}"
        )
    videos, count = scores.shape
    rounds = min(keep, count)
    picks = torch.full((videos, rounds), -1, dtype=torch.int64, device=scores.device)
    picked_scores = torch.zeros((videos, rounds), dtype=torch.float64, device=scores.device)
    starts, ends = segments.double().unbind(dim=2)
    starts, ends = starts.contiguous(), ends.contiguous()
    lengths = ends - starts
    remaining = scores.double()
    for k in range(rounds):
        best_score, best = remaining.max(dim=1, keepdim=True)  # the first of equals, as torch documents
        picks[:, k : k + 1] = torch.where(best_score > 0, best, -1)
        picked_scores[:, k : k + 1] = best_score
        overlap = torch.minimum(ends, ends.gather(1, best)) - torch.maximum(starts, starts.gather(1, best))
        overlap.clamp_(min=0)
        union = lengths + lengths.gather(1, best) - overlap
        # Two empty segments at one place have no union; they do not overlap either.
        iou = overlap.div_(union.clamp_(min=torch.finfo(torch.float64).tiny))
        remaining = remaining * iou.square_().div_(-sigma).exp_()
        remaining.scatter_(1, best, 0.0)
    return picks, picked_scores
