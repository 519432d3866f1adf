"""Scores for all segments of a video: what BMN and G-TAD share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baselines.cell_convolution import CellConvolution
from baselines.contract import CLASS_AGNOSTIC, Proposals, check_features

# Constants of both releases: github.com/frostinassiky/gtad and github.com/JJBOY/BMN-Boundary-Matching-Network.
LOG_EPSILON = 1e-6  # [loss_function.py of both]
CANDIDATE_SHARE = 0.5  # of the highest boundary probability [gtad_inference.py; BMN, Section 3.6]

Suppression = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes segments ``(B, N, 2)`` and scores ``(B, N)``; returns picks and their scores, as `baselines.nms` does."""


@dataclass(frozen=True)
class ProposalScores:
    """Probabilities, float32.

    Attributes:
        iou: ``(B, 2, N)``, for each segment. Channel 0 estimates its IoU by regression, channel 1 by classification.
        start: ``(B, T)``, that a segment starts at the step.
        end: ``(B, T)``, that a segment ends at the step.
    """

    iou: Tensor
    start: Tensor
    end: Tensor


@dataclass(frozen=True)
class ProposalTargets:
    """What `ProposalScores` is compared with; float32, shapes ``(B, N)``, ``(B, T)`` and ``(B, T)``.

    Attributes:
        iou: the highest IoU of the segment with a true one.
        start: the share of the step's region that is near a true start, the highest over segments.
        end: the same for ends.
    """

    iou: Tensor
    start: Tensor
    end: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Return the same targets on `device`."""
        return type(self)(self.iou.to(device), self.start.to(device), self.end.to(device))


def segment_map(steps: int, longest: int, *, columns: Literal["ends", "starts"]) -> tuple[Tensor, Tensor]:
    """Lay out all segments of whole steps.

    Args:
        steps: length T of a video.
        longest: longest segment D, in steps.
        columns: with ``"ends"``, cell (s, e) is the segment [s, e + 1) and the map is ``(T, T)``; with ``"starts"``,
            cell (d, s) is the segment [s, s + d + 1) and the map is ``(D, T)``.

    Returns:
        The segments of all cells, ``(H, W, 2)`` int64, and ``(H, W)`` bool: which cells are segments, that is, are
        inside the video and no longer than `longest`.
    """
    column = torch.arange(steps)
    row = torch.arange(steps if columns == "ends" else longest)[:, None]
    start, end = (row, column + 1) if columns == "ends" else (column, column + row + 1)
    valid = (start < end) & (end <= steps) & (end - start <= longest)
    return torch.stack([start.expand_as(valid), end.expand_as(valid)], dim=2), valid


def check_whole_videos(features: Tensor, mask: Tensor, channels: int, steps: int) -> None:
    """Check the input of a localizer whose steps are all of a video, or of a window of it.

    Raises:
        ValueError: unless `features` is ``(B, channels, steps)`` and `mask` is bool ``(B, steps)`` and all True.
    """
    check_features(features, mask)
    if features.shape[1:] != (channels, steps):
        raise ValueError(f"expected features (B, {channels}, {steps}), got {tuple(features.shape)}")
    if not mask.all():
        raise ValueError("expected videos of exactly the localizer's steps and no padding, the mask has a False")


class MapHead(nn.Module):
    """The last layers on a map of segments: some convolutions and one that scores.

    Convolutions of width 1 are linear layers on the list of cells.
    """

    def __init__(self, hidden: int, shape: tuple[int, int], cells: Sequence[Tensor], *, pointwise: int = 0) -> None:
        """Make the layers.

        Args:
            hidden: channels of the input and of all layers but the last.
            shape: height and width of the map.
            cells: the lists of `cells_around`, one more than there are 3 x 3 convolutions.
            pointwise: the number of convolutions of width 1 before those.
        """
        super().__init__()
        self.pointwise = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(pointwise))
        self.local = nn.Sequential()
        for result, source in reversed(list(pairwise(cells))):
            self.local.append(CellConvolution(hidden, hidden, shape, source, result))
        self.score = nn.Linear(hidden, 2)
        self.cells = len(cells[0])

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn features of the last list of cells, ``(B, n, C)``, into probabilities of the first, ``(B, 2, N)``."""
        for layer in self.pointwise:
            hidden = F.relu(layer(hidden), inplace=True)
        if len(self.local):
            hidden = self.local(F.pad(hidden, (0, 0, 0, 1)))
        # The scores are float32 also under autocast: the losses take logarithms of them.
        scores: Tensor = self.score(hidden)[:, : self.cells]
        return scores.float().sigmoid().mT


def clip_segments(segments: Sequence[Tensor], steps: int) -> list[tuple[Tensor, Tensor]]:
    """Check the true segments of each video and clip them to [0, steps].

    Returns:
        One pair of starts and ends a video, ``(K,)`` float32 each.

    Raises:
        ValueError: if a segment ends before it starts or is not finite.
    """
    clipped = []
    for video, each in enumerate(segments):
        start, end = each.float().unbind(dim=1)
        if not (end >= start).all() or not each.isfinite().all():
            raise ValueError(f"segments of video {video} of the batch: expected start <= end, got {each.tolist()}")
        clipped.append((start.clamp(0, steps), end.clamp(0, steps)))
    return clipped


def iou_targets(start: Tensor, end: Tensor, segments: Tensor) -> Tensor:
    """Return the highest IoU of each of `segments` ``(N, 2)`` with a true one ``(K,)``, or 0: ``(N,)``."""
    low, high = segments.to(start.device).unbind(dim=1)
    overlap = torch.minimum(high, end[:, None]) - torch.maximum(low, start[:, None])
    union = (high - low) + (end - start)[:, None] - overlap
    return F.pad(overlap / union, (0, 0, 0, 1)).amax(dim=0)  # a row of zeros: apart, the overlap is negative


def boundary_targets(times: Tensor, half: Tensor | float, steps: int, *, region: tuple[float, float]) -> Tensor:
    """Return for each step the largest share of its region that is near one of some times, or 0.

    Args:
        times: ``(K,)``, in steps.
        half: how near is near, ``(K,)`` or the same for all, in steps.
        steps: their number T.
        region: first and last point of step 0's region.

    Returns:
        ``(T,)``.
    """
    step = torch.arange(steps, device=times.device)
    low = torch.maximum(step + region[0], (times - half)[:, None])
    high = torch.minimum(step + region[1], (times + half)[:, None])
    shares = (high - low) / (region[1] - region[0])
    return F.pad(shares, (0, 0, 0, 1)).amax(dim=0)  # a row of zeros: apart, the share is negative


def balanced_log_loss(probability: Tensor, positive: Tensor, *, extra: int = 0) -> Tensor:
    """Compute cross entropy in which positives and negatives weigh the same in all [loss_function.py, bi_loss].

    With n = n+ + n-, the reference's weights are 0.5 n / n+ and 0.5 n / n-, and its mean is over n. A batch with no
    positives (or no negatives), on which it is undefined, has the other term alone.

    Args:
        probability: of any shape.
        positive: bool, of the same shape.
        extra: added to both n+ and n-.
    """
    positives = positive.sum()
    log_true = torch.log(probability + LOG_EPSILON) * positive
    log_false = torch.log(1 - probability + LOG_EPSILON) * ~positive
    true_share = log_true.sum() / (positives + extra).clamp(min=1)
    return -0.5 * (true_share + log_false.sum() / (positive.numel() - positives + extra).clamp(min=1))


def balanced_squared_loss(
    estimate: Tensor, iou: Tensor, high: Tensor, others: Sequence[Tensor], generator: torch.Generator
) -> Tensor:
    """Compute half the mean squared error over balanced segments [loss_function.py, pem_reg_loss_func].

    The segments are all of the high group, and random ones of each other group, about as many. Where a group has fewer
    than that, all of it is taken (the releases then add every cell of the map, valid or not).

    Args:
        estimate: of any shape.
        iou: what is estimated.
        high: bool, the segments of high IoU.
        others: bool, the other groups.
        generator: a generator on the CPU.
    """
    chosen = high
    for group in others:
        share = high.sum() / group.sum().clamp(min=1)
        draw = torch.rand(group.shape, generator=generator).to(iou.device)
        chosen = chosen | (group & (draw > 1 - share))
    return 0.5 * ((estimate - iou).square() * chosen).sum() / chosen.sum().clamp(min=1)


def likely_boundaries(probability: Tensor, *, edge: int) -> Tensor:
    """Choose the likely boundaries [BMN, Section 3.6; gtad_inference.py].

    Args:
        probability: ``(B, T)``.
        edge: the step that is always chosen, 0 for starts and -1 for ends.

    Returns:
        ``(B, T)`` bool: steps higher than both neighbours, and steps above half of the video's highest; of the first
        and the last step, only `edge`.
    """
    before, middle, after = probability[:, :-2], probability[:, 1:-1], probability[:, 2:]
    peak = (middle > before) & (middle > after)
    likely = F.pad(peak | (middle > CANDIDATE_SHARE * probability.amax(dim=1, keepdim=True)), (1, 1))
    likely[:, edge] = True
    return likely


def best_of_grid(segments: Tensor, scores: Tensor, suppression: Suppression) -> list[Proposals]:
    """Suppress overlapping segments of a grid.

    Args:
        segments: ``(M, 2)``, the same for all videos.
        scores: ``(B, M)``, 0 where a segment is no candidate.
        suppression: of one of the kinds of `baselines.nms`.

    Returns:
        One `Proposals` a video, class-agnostic, with float64 scores: many suppressions make them smaller than float32
        can tell apart.
    """
    # Most may be no candidates: a stable sort brings the others to the front in their order, and cuts the rest.
    candidate = scores > 0
    order = candidate.long().argsort(dim=1, descending=True, stable=True)[:, : int(candidate.sum(dim=1).max())]
    segments = segments.to(scores.device, scores.dtype)[order]
    return _proposals(segments, *suppression(segments, scores.gather(1, order)))


def best_of(candidates: Sequence[Proposals], suppression: Suppression) -> list[Proposals]:
    """Suppress overlapping candidates, whose number differs between videos; see `best_of_grid`."""
    if not candidates:
        return []
    segments = pad_sequence([each.segments for each in candidates], batch_first=True)
    scores = pad_sequence([each.scores for each in candidates], batch_first=True)
    return _proposals(segments, *suppression(segments, scores))


def _proposals(segments: Tensor, picks: Tensor, scores: Tensor) -> list[Proposals]:
    """Collect what was picked of ``(B, N, 2)`` segments, one `Proposals` a video."""
    proposals = []
    for some, picked, its_scores in zip(segments, picks, scores, strict=True):
        found = picked >= 0
        labels = torch.full_like(picked[found], CLASS_AGNOSTIC)
        proposals.append(Proposals(some[picked[found]], its_scores[found], labels))
    return proposals
