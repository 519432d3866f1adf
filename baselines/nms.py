"""Hard and soft suppression of overlapping segments, batched over videos."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def gaussian_soft_nms(
    segments: Tensor,
    scores: Tensor,
    *,
    sigma: float,
    keep: int,
    spare_low: float = 0.0,
    spare_high: float = 0.0,
    extent: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Pick the best segment again and again, each time lowering the scores of those that overlap it.

    A pick multiplies the score of every other segment by ``exp(-IoU² / sigma)`` (Bodla et al., ICCV 2017, eq. 4), but
    leaves those alone whose IoU with it is at most ``spare_low + (spare_high - spare_low) * width / extent``, width
    being the pick's. BSN and BMN spare with 0.5, 0.9 and the video's length as extent [BMN-jj, post_processing.py,
    Soft_NMS]; G-TAD and ActionFormer spare nothing.

    Scores are kept in float64, because a segment close to a hundred picks is multiplied by 0.29^100, which is 0 in
    float32. Ties go to the segment that comes first in the input. A score of 0 means "no such segment": it is never
    picked, so videos with fewer segments are padded with scores of 0. The released G-TAD and BSN code never returns
    the last remaining segment; here it is returned. ActionFormer's release drops scores below a minimum as soon as
    they get there: the same as dropping the picks below it, because scores only fall.

    Args:
        segments: ``(B, N, 2)``, [start, end) in any unit, finite, with start <= end.
        scores: ``(B, N)``, finite and not negative.
        sigma: width of the Gaussian, more than 0.
        keep: the largest number of picks a video.
        spare_low: IoU up to which a pick without width leaves others alone.
        spare_high: the same for a pick of width ``extent``.
        extent: in the unit of the segments, more than 0.

    Returns:
        Picks and their scores at the time of picking, both ``(B, min(keep, N))``, int64 and float64, best first. Where
        a video has run out of segments, the pick is -1 and the score 0.

    Raises:
        ValueError: if the shapes do not belong together, or numbers are not as said above.
    """
    if not (sigma > 0 and extent > 0):
        raise ValueError(f"expected a sigma and an extent of more than 0, got {sigma} and {extent}")
    return _suppress(segments, scores, keep, sigma, spare_low, spare_high, extent)


def hard_nms(segments: Tensor, scores: Tensor, *, threshold: float, keep: int) -> tuple[Tensor, Tensor]:
    """Pick the best segment again and again, each time removing those that overlap it by more than ``threshold``.

    An IoU of exactly the threshold stays, as in the code that P-GCN takes from SSN [action-detection,
    ops/sequence_funcs.py, temporal_nms]; ActionFormer's release removes it [libs/utils/csrc/nms_cpu.cpp]. Scores are
    not changed. All else is as in `gaussian_soft_nms`.
    """
    # The Gaussian whose width is 0: what is not spared is multiplied by 0.
    return _suppress(segments, scores, keep, 0.0, threshold, threshold, 1.0)


@torch.no_grad()
def vote(picked_segments: Tensor, segments: Tensor, scores: Tensor, *, threshold: float) -> Tensor:
    """Replace every pick by the mean of the segments around it, each weighted with its score.

    Box voting as ActionFormer's release does it [libs/utils/nms.py, seg_voting]: whoever has an IoU of at least
    ``threshold`` with the pick votes, and the IoU itself is no part of the weight.

    Args:
        picked_segments: ``(B, K, 2)``; rows that stand for no pick hold a segment without length.
        segments: ``(B, N, 2)``, all candidates, the picks among them.
        scores: ``(B, N)``, not negative, as they were before suppression.
        threshold: more than 0 and at most 1.

    Returns:
        ``(B, K, 2)`` in the type of ``picked_segments``, computed in float64. A row that nobody votes for, such as a
        segment without length, stays as it is.

    Raises:
        ValueError: if the shapes do not belong together, or the threshold is not as said above.
    """
    _check_shapes(segments, scores)
    if picked_segments.ndim != 3 or picked_segments.shape[::2] != segments.shape[::2]:
        raise ValueError(f"expected picked segments ({len(segments)}, K, 2), got {tuple(picked_segments.shape)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold of more than 0 and at most 1, got {threshold}")
    picked, voters = picked_segments.double(), segments.double()
    starts, ends = voters[:, None].unbind(dim=3)
    picked_starts, picked_ends = picked[:, :, None].unbind(dim=3)
    overlap = (torch.minimum(ends, picked_ends) - torch.maximum(starts, picked_starts)).clamp_(min=0)
    union = (ends - starts) + (picked_ends - picked_starts) - overlap
    weights = scores.double()[:, None] * (_ratio(overlap, union) >= threshold)
    total = weights.sum(dim=2, keepdim=True)
    return torch.where(total > 0, _ratio(weights, total) @ voters, picked).to(picked_segments.dtype)


@torch.no_grad()
def _suppress(
    segments: Tensor, scores: Tensor, keep: int, sigma: float, spare_low: float, spare_high: float, extent: float
) -> tuple[Tensor, Tensor]:
    _check_shapes(segments, scores)
    starts, ends = (each.contiguous() for each in segments.double().unbind(dim=2))
    scores = scores.double().contiguous()
    if not (scores.isfinite() & (scores >= 0)).all():
        raise ValueError("expected finite scores that are not negative")
    if not (segments.isfinite().all() and (starts <= ends).all()):
        raise ValueError("expected finite segments with start <= end")
    shape = (len(scores), min(keep, scores.shape[1]))
    picks = torch.full(shape, -1, dtype=torch.int64, device=scores.device)
    picked_scores = torch.zeros(shape, dtype=torch.float64, device=scores.device)
    pick = pick_lazily if scores.device.type == "cpu" else pick_by_rounds
    pick(starts, ends, scores, float(sigma), float(spare_low), float(spare_high), float(extent), picks, picked_scores)
    return picks, picked_scores


def _check_shapes(segments: Tensor, scores: Tensor) -> None:
    if segments.ndim != 3 or segments.shape[2] != 2 or scores.shape != segments.shape[:2]:
        raise ValueError(
            f"expected segments (B, N, 2) and scores (B, N), got {tuple(segments.shape)} and {tuple(scores.shape)}"
        )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, where 0 of 0 is 0: two empty segments at one place have no union; they do not overlap either."""
    return part / whole.clamp(min=torch.finfo(torch.float64).tiny)


def pick_by_rounds(
    starts: Tensor,
    ends: Tensor,
    scores: Tensor,
    sigma: float,
    spare_low: float,
    spare_high: float,
    extent: float,
    picks: Tensor,
    picked_scores: Tensor,
) -> None:
    """Pick on any device, with operations on all segments in every round: what a GPU is good at.

    Args:
        starts: ``(B, N)`` float64.
        ends: the same.
        scores: the same.
        sigma: see `gaussian_soft_nms`; 0 removes what is not spared.
        spare_low: see there.
        spare_high: see there.
        extent: see there.
        picks: ``(B, K)`` int64, all -1; written to.
        picked_scores: ``(B, K)`` float64, all 0; written to.
    """
    lengths = ends - starts
    remaining = scores
    for k in range(picks.shape[1]):
        best_score, best = remaining.max(dim=1, keepdim=True)  # the first of equals, as torch documents
        picks[:, k : k + 1] = torch.where(best_score > 0, best, -1)
        picked_scores[:, k : k + 1] = best_score
        width = lengths.gather(1, best)
        overlap = torch.minimum(ends, ends.gather(1, best)) - torch.maximum(starts, starts.gather(1, best))
        overlap.clamp_(min=0)
        iou = _ratio(overlap, lengths + width - overlap)
        spared = iou <= spare_low + (spare_high - spare_low) * width / extent
        factor = iou.square_().div_(-sigma).exp_() if sigma > 0 else torch.zeros_like(iou)
        remaining = remaining * factor.masked_fill_(spared, 1.0)
        remaining.scatter_(1, best, 0.0)


def pick_lazily(starts: Tensor, ends: Tensor, scores: Tensor, *rule_and_results: Any) -> None:
    """Pick on the CPU: `pick_by_rounds` with the same arguments, products in the same order, far fewer of them.

    Exponentials of different libraries differ in the last bit, so that scores of the two agree to about 1e-14 of their
    value, and exactly where nothing but 0 and 1 is multiplied.
    """
    arrays = [each.numpy() if isinstance(each, Tensor) else each for each in rule_and_results]
    _machine_code(_pick_lazily)(starts.numpy(), ends.numpy(), scores.numpy(), *arrays)


def _pick_lazily(
    starts: Any,
    ends: Any,
    scores: Any,
    sigma: float,
    spare_low: float,
    spare_high: float,
    extent: float,
    picks: Any,
    picked_scores: Any,
) -> None:
    # Scores only fall. So a round looks at each score as it was when last needed, and lowers it by the picks since then
    # only if it could still be the best: most segments are never touched. `>` gives ties to the first.
    for video in range(scores.shape[0]):
        start, end = starts[video], ends[video]
        remaining = scores[video].copy()
        lowered_by = np.zeros(remaining.shape[0], np.int64)  # so many of the picks
        for k in range(picks.shape[1]):
            best, best_score = -1, 0.0
            for i in range(remaining.shape[0]):
                if remaining[i] <= best_score:
                    continue
                for earlier in range(lowered_by[i], k):
                    pick = picks[video, earlier]
                    overlap = min(end[i], end[pick]) - max(start[i], start[pick])
                    if overlap <= 0:
                        continue
                    width = end[pick] - start[pick]
                    iou = overlap / ((end[i] - start[i]) + width - overlap)
                    if iou > spare_low + (spare_high - spare_low) * width / extent:
                        remaining[i] *= math.exp(-(iou * iou) / sigma) if sigma > 0 else 0.0
                lowered_by[i] = k
                if remaining[i] > best_score:
                    best, best_score = i, remaining[i]
            if best < 0:
                break
            picks[video, k], picked_scores[video, k] = best, best_score
            remaining[best] = 0.0


@functools.cache
def _machine_code(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile with numba, once per installation, or once per process where no folder for it can be written."""
    import numba  # noqa: PLC0415 - most of a second, which those who suppress nothing have no reason to wait for

    compiled: Callable[..., None]
    try:
        compiled = numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(loop)
    return compiled
