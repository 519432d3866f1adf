"""Proposals as nodes: who is next to whom, random neighbourhoods, and features pooled over any range.

Files in brackets are of the release of P-GCN, github.com/Alvin-Zeng/PGCN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOREGROUND, INCOMPLETE, BACKGROUND = 0, 1, 2  # kinds of proposals [pgcn_dataset.py]

# These two bound memory.
NODES_AT_ONCE = 128  # whose neighbours are looked up together: 1 MiB a matrix among 1,000 segments
GRAPHS_AT_ONCE = 64  # whose edges are weighed together: 16 MiB for features of 1,024 channels


@dataclass(frozen=True)
class GraphTargets:
    """What the scores of R roots are compared with.

    Attributes:
        kinds: ``(R,)`` int64, `FOREGROUND`, `INCOMPLETE` or `BACKGROUND`.
        labels: ``(R,)`` int64, the class of the action that the root overlaps most; background: no meaning.
        offsets: ``(R, 2)``, from the root to that action, see `baselines.pgcn.offsets_between`; for foreground only..
        offset_sums: ``(3, 2)`` float64, the number of all foreground proposals of these videos, the sums of their
            offsets and the sums of their squares.
    """

    kinds: Tensor
    labels: Tensor
    offsets: Tensor
    offset_sums: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""
        return type(self)(
            self.kinds.to(device), self.labels.to(device), self.offsets.to(device), self.offset_sums.to(device)
        )


@dataclass(frozen=True)
class ProposalGraphs:
    """R graphs of 1 + k + k² nodes each, among P proposals of B videos.

    Attributes:
        features: ``(P, 3, C)`` maxima before, in and after each proposal.
        members: ``(R, 1 + k, 1 + k)`` int64, numbers of proposals: the root with its children, each child with its own;
            see `draw_members`.
        segments: ``(R, 2)`` float64, the roots in steps.
        counts: ``(B,)`` int64, roots of each video.
        steps: ``(B,)`` int64, length of each video.
        targets: of the roots; none in prediction.
    """

    features: Tensor
    members: Tensor
    segments: Tensor
    counts: Tensor
    steps: Tensor
    targets: GraphTargets | None

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""
        return type(self)(
            self.features.to(device),
            self.members.to(device),
            self.segments.to(device),
            self.counts.to(device),
            self.steps.to(device),
            None if self.targets is None else self.targets.to(device),
        )


def join_graphs(videos: Sequence[ProposalGraphs]) -> ProposalGraphs:
    """Put the graphs of several videos behind one another."""
    before = accumulate((len(each.features) for each in videos), initial=0)
    targets = [each.targets for each in videos if each.targets is not None]
    return ProposalGraphs(
        features=torch.cat([each.features for each in videos]),
        members=torch.cat([each.members + nodes for each, nodes in zip(videos, before, strict=False)]),
        segments=torch.cat([each.segments for each in videos]),
        counts=torch.cat([each.counts for each in videos]),
        steps=torch.cat([each.steps for each in videos]),
        targets=_join_targets(targets) if targets else None,
    )


def _join_targets(videos: Sequence[GraphTargets]) -> GraphTargets:
    return GraphTargets(
        kinds=torch.cat([each.kinds for each in videos]),
        labels=torch.cat([each.labels for each in videos]),
        offsets=torch.cat([each.offsets for each in videos]),
        offset_sums=torch.stack([each.offset_sums for each in videos]).sum(dim=0),
    )


def shared_length(segments: Tensor, others: Tensor) -> Tensor:
    """Return the length that ``(..., 2)`` segments have in common with others, 0 where they are apart: ``(...)``."""
    start = torch.maximum(segments[..., 0], others[..., 0])
    return (torch.minimum(segments[..., 1], others[..., 1]) - start).clamp(min=0)


def iou_matrix(segments: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of each of ``(K, 2)`` segments with each of ``(N, 2)``, all of them longer than 0: ``(K, N)``."""
    shared = shared_length(segments[:, None], others)
    lengths, other_lengths = segments[:, 1] - segments[:, 0], others[:, 1] - others[:, 0]
    return shared / (lengths[:, None] + other_lengths - shared)


def distance_matrix(segments: Tensor, others: Tensor) -> Tensor:
    """Return the distance of centres over the length of the hull [detection_metrics.py, segment_distance].

    Args:
        segments: ``(K, 2)``, longer than 0.
        others: ``(N, 2)``.

    Returns:
        ``(K, N)``, 0 up to 1.
    """
    centres = (segments.sum(dim=1)[:, None] - others.sum(dim=1)).abs() / 2
    hull = torch.maximum(segments[:, None, 1], others[:, 1]) - torch.minimum(segments[:, None, 0], others[:, 0])
    return centres / hull


def neighbours(segments: Tensor, nodes: Tensor, *, overlapping: int, distant: int, iou_above: float) -> Tensor:
    """List the candidates for a node's neighbourhood [pgcn_dataset.py, _sample_child_nodes].

    First come the segments that overlap the node's most, if by more than an IoU, then the nearest of those that do not
    overlap it at all. Where there are fewer than asked for, they are repeated from the first on; where there is none,
    the node itself stands there. Of equals the first segment comes first. The release counts a frame more in each
    length, and touching segments as overlapping by it; here time is continuous.

    Args:
        segments: ``(N, 2)``, all of a video's, longer than 0.
        nodes: ``(K,)`` int64, numbers of segments.
        overlapping: how many candidates overlap the node.
        distant: how many do not.
        iou_above: what the former's IoU is above, not negative.

    Returns:
        ``(K, overlapping + distant)`` int64, numbers of segments.
    """
    if not len(nodes):
        return nodes.new_zeros((0, overlapping + distant))
    segments = segments.double()
    found = []
    for some in torch.split(nodes, NODES_AT_ONCE):
        iou = iou_matrix(segments[some], segments)
        iou.scatter_(1, some[:, None], -1.0)  # nobody is a neighbour of himself
        closeness = distance_matrix(segments[some], segments).neg_()
        closeness.masked_fill_(iou != 0, -torch.inf)
        iou.masked_fill_(iou <= iou_above, -torch.inf)
        chosen = [_highest_repeated(iou, overlapping, some), _highest_repeated(closeness, distant, some)]
        found.append(torch.cat(chosen, dim=1))
    return torch.cat(found)


def _highest_repeated(values: Tensor, count: int, otherwise: Tensor) -> Tensor:
    """Return the columns of the highest `count` of each row of ``(K, N)``, best first; changes `values`.

    Not `topk`, which leaves open which of several equals it takes. -inf is never taken: the columns before are repeated
    instead, or there is `otherwise` ``(K,)``.
    """
    columns = []
    taken = torch.zeros_like(otherwise)
    for _ in range(count):
        column = values.argmax(dim=1, keepdim=True)
        taken += values.gather(1, column).squeeze(1) > -torch.inf
        values.scatter_(1, column, -torch.inf)
        columns.append(column)
    if not columns:
        return otherwise.new_zeros((len(otherwise), 0))
    place = torch.arange(count, device=values.device) % taken.clamp(min=1)[:, None]
    return torch.where(taken[:, None] > 0, torch.cat(columns, dim=1).gather(1, place), otherwise[:, None])


def draw_members(
    segments: Tensor,
    roots: Tensor,
    children: int,
    generator: torch.Generator,
    *,
    overlapping: int,
    distant: int,
    iou_above: float,
) -> Tensor:
    """Draw graphs: a root, its k children and theirs, all among the `neighbours` of their parents [pgcn_dataset.py].

    Of the places in the list of neighbours none is drawn twice for the same node of the same graph, but the same
    segment may stand at several places. A node that is in several graphs has other children in each.

    Args:
        segments: ``(N, 2)``, on the CPU.
        roots: ``(R,)`` int64, numbers of segments.
        children: k, at most ``overlapping + distant``.
        generator: on the CPU.
        overlapping: see `neighbours`.
        distant: see there.
        iou_above: see there.

    Returns:
        ``(R, 1 + k, 1 + k)`` int64, numbers of segments: in row 0 the root and its children, in row i child i and its
        own. What the grandchildren's children are has no influence on the root.
    """

    def children_of(nodes: Tensor) -> Tensor:
        rows, row = torch.unique(nodes, return_inverse=True)
        candidates = neighbours(segments, rows, overlapping=overlapping, distant=distant, iou_above=iou_above)
        places = torch.rand(*nodes.shape, candidates.shape[1], generator=generator).topk(children).indices
        return candidates[row].gather(-1, places)

    heads = torch.cat([roots[:, None], children_of(roots)], dim=1)
    grandchildren = children_of(heads[:, 1:])
    tails = torch.cat([heads[:, None, 1:], grandchildren], dim=1)
    return torch.cat([heads[:, :, None], tails], dim=2)


def pool_stages(features: Tensor, segments: Tensor, extension: float) -> Tensor:
    """Take the maxima of features before, in and after segments [I3D_Pooling.py].

    Before and after are the stretches by which the segment is extended, a share of its length, cut at the video's ends.
    A stretch has the steps that it touches, and if it is empty the step that holds its place, or the last. The release
    takes the clips that begin in a stretch and end in it or just behind, all but the video's last: the same for clips
    as long as their stride, which steps are, except that here the last is a step like others.

    Args:
        features: ``(C, T)``, T at least 1.
        segments: ``(P, 2)`` in steps, inside [0, T].
        extension: the share.

    Returns:
        ``(P, 3, C)``: before, in, after.
    """
    steps = features.shape[1]
    start, end = segments.unbind(dim=1)
    margin = extension * (end - start)
    instants = torch.stack([(start - margin).clamp(min=0), start, end, (end + margin).clamp(max=steps)], dim=1)
    first = instants[:, :-1].floor().long().clamp(max=steps - 1)
    last = torch.maximum(instants[:, 1:].ceil().long() - 1, first)
    return range_maxima(features, first.flatten(), last.flatten()).view(-1, 3, len(features))


def range_maxima(features: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Take the maxima over ranges of steps, each the maximum of two overlapping ones of a length 2^k.

    Args:
        features: ``(C, T)``.
        first: ``(K,)`` int64, the first step of each range.
        last: ``(K,)`` int64, its last, not before the first.

    Returns:
        ``(K, C)``; O(T log T + K) a channel.
    """
    level = features.T.contiguous()  # row t: the maximum over the `width` steps from t on
    lengths = last - first + 1
    longest = int(lengths.max()) if len(lengths) else 0
    maxima = level.new_empty((len(lengths), level.shape[1]))
    width = 1
    while width <= longest:
        (ranges,) = ((lengths >= width) & (lengths < 2 * width)).nonzero(as_tuple=True)
        maxima[ranges] = torch.maximum(level[first[ranges]], level[last[ranges] + 1 - width])
        if 2 * width <= longest:
            level = torch.maximum(level[:-width], level[width:])
        width *= 2
    return maxima


@torch.no_grad()
def adjacencies(features: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh the edges, ``ReLU(cosine similarity)`` over k for a child and 1 for the node itself [pgcn_models.py, PGCN].

    In float32 also under autocast. Features of length 0 are similar to nothing; the release divides by 0 there.

    Args:
        features: ``(P, 3, C)`` float32.
        members: ``(R, 1 + k, 1 + k)``, see `draw_members`.

    Returns:
        For the proposals' own features and for all three stages, ``(R, 1 + k, 1 + k)``: from the first of each row.
    """
    squares = features.square().sum(dim=2)
    lengths = torch.stack([squares[:, 1], squares.sum(dim=1)], dim=1).sqrt()  # (P, 2)
    weights = features.new_ones((2, *members.shape))
    with torch.autocast(features.device.type, enabled=False):
        for part, some in zip(
            torch.split(weights, GRAPHS_AT_ONCE, dim=1), torch.split(members, GRAPHS_AT_ONCE), strict=True
        ):
            node, child = some[:, :, :1], some[:, :, 1:]
            products = (features[node] * features[child]).sum(dim=4)
            products = torch.stack([products[..., 1], products.sum(dim=3)], dim=3)
            both = (lengths[node] * lengths[child]).clamp(min=torch.finfo(torch.float32).tiny)
            part[..., 1:] = (F.relu(products / both) / child.shape[2]).permute(3, 0, 1, 2)
    own, whole = weights
    return own, whole


class GraphConvolutions(nn.Module):
    """Two graph convolutions, of which the second is computed for the roots alone [pgcn_models.py, GCN].

    ``X' = A ReLU(A X W1 + b1) W2 + b2``. As the weights are the same for all graphs, X W1 is computed once a proposal,
    however many graphs it is in.
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(channels, hidden)
        self.second = nn.Linear(hidden, channels)
        self.dropout = dropout
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.out_features)  # the release takes the root of the outputs, not of the inputs
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def forward(self, features: Tensor, members: Tensor, adjacency: Tensor) -> Tensor:
        """Turn features ``(P, C)`` into those of the roots, ``(R, C)``.

        Args:
            features: of all proposals.
            members: ``(R, n, n)``, see `draw_members`.
            adjacency: ``(R, n, n)``, of the first member of each row and each of its members.
        """
        linear = F.linear(features, self.first.weight).float()
        with torch.autocast(features.device.type, enabled=False):
            # Weighted sums that never hold all that is summed.
            summed = F.embedding_bag(
                members.flatten(0, 1), linear, per_sample_weights=adjacency.flatten(0, 1), mode="sum"
            )
            hidden = F.relu(summed + self.first.bias).view(*members.shape[:2], linear.shape[1])
            hidden = F.dropout(hidden, self.dropout, self.training)
            root = (adjacency[:, :1] @ hidden).squeeze(1)
        output: Tensor = self.second(root)
        return output.float()
