"""AR@AN and its area (proposal generation).

The rules are those of the official ActivityNet evaluator (``eval_proposal.py``), with its float operations in its
order, because it truncates their results:

- a budget is given as an average number of proposals a video (AN), and each video may spend of it in proportion to the
  number of its proposals: with P proposals for V videos in all, it keeps its best int(n · budget · V / P) of n;
- point j of the curve, of 100, uses the best int(m · j/100 · budget · V / M) of the m that a video kept, at most m,
  where M is the sum of m over the videos;
- a segment is found if one of these proposals has at least the temporal IoU; a proposal may find several segments, and
  several proposals the same one. Recall is the number of found segments, over all videos, by the number of segments;
- AR is the mean recall over the thresholds; AUC the area under AR over AN (trapezoids between the 100 points) by the
  last AN. As the curve starts at the first point, not at 0, the highest AUC at a budget of 100 is 0.99.

With exactly the budget for every video this is the recall of each video's best AN proposals. With less, the AN of a
point is nominal: a file with 10 proposals a video has its last word at AN 10, and the curve stays level from there.

Decided here:

- labels are not looked at: the same segment under two labels is two proposals;
- V counts the videos that hold a segment, P the proposals of the whole file, also those for videos without a segment
  and for videos that the ground truth lacks: they use up budget;
- a video with segments and without proposals is missed: its segments count as not found;
- without any proposal, or with so few in the videos that hold segments that none is kept, recall is 0 (the official
  evaluator stops there);
- a ground truth without any segment has recall, AR and AUC nan;
- a segment of length zero is never found, not even by a proposal of the same instant: the official evaluator has
  0 / 0 = nan there, which reaches no threshold. (In detection its nan passes every threshold.)

``statistics`` compares once; ``score`` can then be called for any number of resamples of the videos.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from evaluation.detection import checked_weights
from evaluation.matching import ranked
from evaluation.overlap import temporal_iou
from evaluation.protocols import ProposalProtocol
from evaluation.segments import CLASS_AGNOSTIC, Floats, GroundTruth, Integers, Predictions

POINTS: Final = 100
_FRACTIONS: Final = np.arange(1, POINTS + 1) / 100.0


@dataclass(frozen=True, eq=False)
class ProposalStatistics:
    """Everything that a score at the protocol's K thresholds needs, per video.

    Attributes:
        protocol: whose thresholds were used.
        videos: the V videos of the ground truth.
        proposals: how many proposals each video has, int64 (V,).
        outside: how many proposals are for videos that the ground truth lacks.
        ground_truth_video: index into ``videos`` of each annotated segment, int64 (M,).
        before: how many proposals of its video come before the first that reaches segment i at threshold k; all of
            them where none does, int64 (M, K).
    """

    protocol: ProposalProtocol
    videos: tuple[str, ...]
    proposals: Integers
    outside: int
    ground_truth_video: Integers
    before: Integers


@dataclass(frozen=True, eq=False)
class ProposalResult:
    """Proposal scores at K thresholds and 100 points, as fractions.

    Attributes:
        protocol: whose thresholds and points were used.
        number: average number of proposals a video at each point (AN), nominal, float64 (100,).
        recall: at each threshold and point, nan if there is no segment, float64 (K, 100).
        average_recall: its mean over the thresholds, float64 (100,).
        area: under ``average_recall`` over ``number``, by the last number.
    """

    protocol: ProposalProtocol
    number: Floats
    recall: Floats
    average_recall: Floats
    area: float

    def metrics(self) -> dict[str, float]:
        """Return the scores by name: "AR@1", …, "AUC"."""
        points = {shown: POINTS * shown // self.protocol.budget - 1 for shown in self.protocol.shown}
        return {**{f"AR@{shown}": float(self.average_recall[j]) for shown, j in points.items()}, "AUC": self.area}


def statistics(ground_truth: GroundTruth, predictions: Predictions, protocol: ProposalProtocol) -> ProposalStatistics:
    """Compare ``predictions`` with ``ground_truth`` at the thresholds of ``protocol``."""
    ground_truth = protocol.scoped(ground_truth)
    unlabelled = replace(predictions, label=np.full(len(predictions), CLASS_AGNOSTIC))
    proposals = protocol.scoped_predictions(unlabelled).aligned_to(ground_truth)
    order = ranked(proposals, proposals.video, protocol.ties)
    bounds = np.searchsorted(proposals.video[order], np.arange(len(ground_truth.videos) + 1))
    return ProposalStatistics(
        protocol=protocol,
        videos=ground_truth.videos,
        proposals=np.diff(bounds),
        outside=len(proposals) - int(bounds[-1]),
        ground_truth_video=ground_truth.video,
        before=_before(ground_truth, proposals, order, bounds, np.array(protocol.thresholds)),
    )


def _before(
    ground_truth: GroundTruth, proposals: Predictions, order: Integers, bounds: Integers, thresholds: Floats
) -> Integers:
    """Count the proposals that come before the first to reach each segment at each threshold, int64 (M, K).

    Args:
        ground_truth: M segments of V videos.
        proposals: N proposals, aligned to ``ground_truth``.
        order: proposals sorted by video, and within a video by who comes first, int64 (N,).
        bounds: which part of ``order`` is of video v: from bounds[v] to bounds[v + 1], int64 (V + 1,).
        thresholds: temporal IoU, float64 (K,).
    """
    segments = np.column_stack((ground_truth.start, ground_truth.end))
    proposed = np.column_stack((proposals.start, proposals.end))[order]
    by_video = np.argsort(ground_truth.video, kind="stable")
    firsts = np.searchsorted(ground_truth.video[by_video], np.arange(len(bounds)))
    before = np.empty((len(ground_truth), len(thresholds)), dtype=np.int64)
    for video in np.unique(ground_truth.video):
        held = by_video[firsts[video] : firsts[video + 1]]
        iou = temporal_iou(proposed[bounds[video] : bounds[video + 1]], segments[held])
        iou[:, ground_truth.start[held] == ground_truth.end[held]] = 0.0
        best_so_far = np.maximum.accumulate(iou, axis=0)
        before[held] = np.count_nonzero(best_so_far[..., None] < thresholds, axis=0)
    return before


def score(statistics: ProposalStatistics, video_weights: Integers | None = None) -> ProposalResult:
    """Compute recalls, with each video counted as often as its weight says.

    Args:
        statistics: of V videos.
        video_weights: how often each video of ``statistics.videos`` counts, integers of 0 or more, (V,); once each
            if None. Weight w equals w videos with the same segments and proposals. Proposals outside the subset
            always count once.

    Raises:
        ValueError: ``video_weights`` has another shape, is not of an integer type, or holds a negative number.
    """
    weights = checked_weights(len(statistics.videos), video_weights)
    budget = statistics.protocol.budget
    of_segment = weights[statistics.ground_truth_video]
    # The weight of a video that holds a segment, 0 for the others.
    holding = np.where(np.bincount(statistics.ground_truth_video, minlength=len(weights)) > 0, weights, 0)
    videos, positives = float(holding.sum()), float(of_segment.sum())
    if positives == 0.0:
        return _result(statistics.protocol, np.full((len(statistics.protocol.thresholds), POINTS), np.nan))
    total = int(weights @ statistics.proposals) + statistics.outside
    kept = np.zeros_like(statistics.proposals)
    if total:
        # The product and the ratio of floats in this order: the official evaluator truncates what comes out.
        ratio = budget * videos / total
        kept = np.minimum((statistics.proposals * ratio).astype(np.int64), statistics.proposals)
    total_kept = int(holding @ kept)
    share = _FRACTIONS * (budget * videos / total_kept) if total_kept else np.zeros(POINTS)
    found = _found_by_point(statistics, kept, share, of_segment)
    return _result(statistics.protocol, found / positives)


def _found_by_point(statistics: ProposalStatistics, kept: Integers, share: Floats, of_segment: Integers) -> Floats:
    """Return the weight of the segments that are found at each threshold and point, float64 (K, 100).

    Args:
        statistics: of V videos and M segments.
        kept: how many proposals each video keeps, int64 (V,).
        share: how much of them each point uses, above 1 for all, float64 (100,).
        of_segment: weight of each segment, int64 (M,).
    """
    sizes, size = np.unique(kept, return_inverse=True)
    used = np.minimum((sizes[:, None] * share).astype(np.int64), sizes[:, None])
    # For each segment and threshold the first point that uses more proposals than come before the one that reaches it.
    # The rows of `used` rise, and end to end, each lifted above the one before, they are one list to look it up in.
    lift = int(statistics.proposals.max()) + 1
    row = size[statistics.ground_truth_video][:, None]
    lifted = (used + lift * np.arange(len(sizes))[:, None]).ravel()
    first = np.searchsorted(lifted, statistics.before + lift * row, side="right") - POINTS * row
    thresholds = first.shape[1]
    slot = first + (POINTS + 1) * np.arange(thresholds)  # the last point of each threshold is for what no point finds
    weight = np.repeat(of_segment, thresholds)
    slots = np.bincount(slot.ravel(), weights=weight, minlength=(POINTS + 1) * thresholds)
    found: Floats = slots.reshape(thresholds, POINTS + 1)[:, :POINTS].cumsum(axis=1)
    return found


def _result(protocol: ProposalProtocol, recall: Floats) -> ProposalResult:
    """Average ``recall``, float64 (K, 100), over the thresholds, and integrate over the points."""
    number = _FRACTIONS * protocol.budget
    average = recall.mean(axis=0)
    return ProposalResult(protocol, number, recall, average, float(np.trapezoid(average, number) / number[-1]))
