"""P-GCN: graph convolutions over the proposals of somebody else (Zeng et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baselines.contract import Proposals
from baselines.nms import hard_nms
from baselines.proposal_graph import (
    BACKGROUND,
    FOREGROUND,
    INCOMPLETE,
    GraphConvolutions,
    GraphTargets,
    ProposalGraphs,
    adjacencies,
    draw_members,
    iou_matrix,
    join_graphs,
    pool_stages,
    shared_length,
)
from baselines.refiner_contract import ProposalBatch

# Constants of the released code, github.com/Alvin-Zeng/PGCN, file in brackets.
SEED = 777  # of the neighbourhoods in prediction [pgcn_test.py]
SCORE_DEVIATION = 0.001  # of the weights of the layers that score [pgcn_models.py, PGCN]
REGRESSION_SCALE = 2.0  # of the mean smooth L1 loss [pgcn_ops.py, ClassWiseRegressionLoss]

MIN_DEVIATION = 0.01  # of offsets, for training sets whose few foreground proposals are all alike


class PGCNConfig(BaseModel):
    """Settings of P-GCN; the defaults are those of the release for THUMOS14 [dataset_cfg.yaml, pgcn_opts.py, test.sh].

    The two streams of the release, flow and RGB, are two models; where their scores are averaged, nms_threshold is
    0.32.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, description="channels of the features")
    classes: int = Field(gt=0, description="kinds of actions")
    hidden: int = Field(default=512, gt=0, description="channels between the two graph convolutions")
    children: int = Field(default=4, ge=1, description="neighbours drawn for a proposal, and again for each of them")
    overlapping: int = Field(default=8, ge=0, description="overlapping proposals among which they are drawn")
    distant: int = Field(default=2, ge=0, description="proposals apart from it among which they are drawn")
    neighbour_iou: float = Field(
        default=0.7, ge=0, lt=1, description="IoU above which a proposal counts as overlapping"
    )
    extension: float = Field(default=0.5, gt=0, description="length of the context at each side, over the proposal's")
    dropout: float = Field(default=0.8, ge=0, lt=1, description="share dropped before the classes are scored")
    graph_dropout: float = Field(default=0.7, ge=0, lt=1, description="share dropped between the graph convolutions")
    foregrounds: int = Field(default=1, ge=1, description="foreground proposals drawn of a video in training")
    incompletes: int = Field(default=6, ge=1, description="incomplete ones drawn")
    backgrounds: int = Field(default=1, ge=1, description="background ones drawn")
    foreground_iou: float = Field(default=0.7, ge=0, le=1, description="IoU above which a proposal is foreground")
    incomplete_iou: float = Field(default=0.3, ge=0, le=1, description="IoU below which it may be incomplete")
    incomplete_share: float = Field(default=0.01, ge=0, le=1, description="of it inside the action, for which it is so")
    background_iou: float = Field(default=0.01, ge=0, le=1, description="IoU below which it may be background")
    background_share: float = Field(default=0.02, ge=0, le=1, description="of the video, above which it then is")
    hard_share: float = Field(
        default=0.17, ge=0, le=1, description="incomplete proposals of a video that are learnt from"
    )
    completeness_weight: float = Field(default=0.5, ge=0, description="weight of the completeness loss")
    regression_weight: float = Field(default=0.5, ge=0, description="weight of the regression loss")
    top_scores: int = Field(default=2000, ge=1, description="pairs of proposal and class a video that are suppressed")
    nms_threshold: float = Field(default=0.35, ge=0, le=1, description="IoU above which one suppresses another")
    max_proposals: int = Field(default=2000, ge=1, description="detections a video; the release keeps all")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.children > self.overlapping + self.distant:
            raise ValueError(
                f"children {self.children} is more than the {self.overlapping} overlapping and {self.distant} distant"
                " proposals they are drawn from"
            )
        return self


@dataclass(frozen=True)
class PGCNScores:
    """What is said of R roots, float32, for K classes.

    Attributes:
        activity: ``(R, 1 + K)`` logits of no action and of each class.
        completeness: ``(R, K)``, high where the root is a whole action of the class.
        regression: ``(R, K, 2)`` offsets for each class, normalised.
    """

    activity: Tensor
    completeness: Tensor
    regression: Tensor


class PGCN(nn.Module):
    """P-GCN as released for THUMOS14, one stream; follows `baselines.refiner_contract.Refiner`.

    The scores of whoever made the proposals are not used. Two things are not as released. The release adds a frame to
    some lengths and takes one from some starts; here time is continuous. Where a video has no incomplete proposal,
    either draws a foreground one instead, but the release then teaches that it is incomplete.
    """

    Config: ClassVar[type[PGCNConfig]] = PGCNConfig

    offset_sums: Tensor

    def __init__(self, config: PGCNConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.feature_dim
        # In the order of the release.
        self.activity = nn.Linear(2 * channels, config.classes + 1)
        self.completeness = nn.Linear(6 * channels, config.classes)
        self.regression = nn.Linear(6 * channels, 2 * config.classes)
        for layer in (self.activity, self.completeness, self.regression):
            nn.init.normal_(layer.weight, std=SCORE_DEVIATION)
            nn.init.zeros_(layer.bias)
        self.activity_graph = GraphConvolutions(channels, config.hidden, config.graph_dropout)
        self.completeness_graph = GraphConvolutions(3 * channels, config.hidden, config.graph_dropout)
        self.dropout = nn.Dropout(config.dropout)
        # `GraphTargets.offset_sums` of all that was learnt from.
        self.register_buffer("offset_sums", torch.zeros(3, 2, dtype=torch.float64))

    @torch.no_grad()
    def graphs(self, batch: ProposalBatch, generator: torch.Generator | None) -> ProposalGraphs:
        """Choose the roots, draw their neighbourhoods and pool the features [pgcn_dataset.py, pgcn_test.py].

        Proposals are cut at the video's ends; those of no length are left out. With a generator, a video's graphs are
        those of some random foreground, incomplete and background proposals, the true segments being foreground too,
        and other proposals are in none. Where there is no incomplete or background proposal, foreground takes its
        place; a video may come to fewer graphs, or none, only if nothing happens in it.

        Args:
            batch: on the CPU.
            generator: on the CPU. None: one graph for each proposal, with neighbourhoods that are drawn of a video in
                the same way each time.

        Raises:
            ValueError: if features have other channels than ``config.feature_dim`` or no step, if a segment is not
                finite, or a label is no class.
        """
        videos = []
        for video, features in enumerate(batch.features):
            if features.shape[0] != self.config.feature_dim or features.shape[1] == 0:
                raise ValueError(
                    f"features of video {video} of the batch: expected ({self.config.feature_dim}, T) with a T of at"
                    f" least 1, got {tuple(features.shape)}"
                )
            proposals, _ = _inside(video, "proposals", batch.proposals[video], features.shape[1])
            if generator is None:
                every = torch.arange(len(proposals))
                graphs = self._graphs_of(features, proposals, every, torch.Generator().manual_seed(SEED))
            else:
                segments, kept = _inside(video, "segments", batch.segments[video], features.shape[1])
                labels, last = batch.labels[video][kept], self.config.classes - 1
                if not ((labels >= 0) & (labels <= last)).all():
                    raise ValueError(
                        f"labels of video {video} of the batch: expected 0 to {last}, got {labels.tolist()}"
                    )
                graphs = self._drawn_graphs(features, proposals, segments, labels, generator)
            videos.append(graphs)
        return join_graphs(videos)

    def _graphs_of(
        self, features: Tensor, segments: Tensor, roots: Tensor, generator: torch.Generator
    ) -> ProposalGraphs:
        """Draw the graphs of some roots ``(R,)`` among segments ``(N, 2)`` of one video."""
        config = self.config
        members = draw_members(
            segments,
            roots,
            config.children,
            generator,
            overlapping=config.overlapping,
            distant=config.distant,
            iou_above=config.neighbour_iou,
        )
        nodes, members = torch.unique(members, return_inverse=True)
        return ProposalGraphs(
            features=pool_stages(features, segments[nodes], config.extension),
            members=members,
            segments=segments[roots],
            counts=torch.tensor([len(roots)]),
            steps=torch.tensor([features.shape[1]]),
            targets=None,
        )

    def _drawn_graphs(
        self, features: Tensor, proposals: Tensor, segments: Tensor, labels: Tensor, generator: torch.Generator
    ) -> ProposalGraphs:
        """Draw the graphs to learn from in one video [pgcn_dataset.py, _video_centric_sampling]."""
        config = self.config
        kinds, truth = self.kinds_of(proposals, segments, features.shape[1])
        foreground = kinds == FOREGROUND
        offsets = offsets_between(proposals[foreground], segments[truth[foreground]])
        sums = torch.stack([offsets.pow(power).sum(dim=0) for power in range(3)])

        # What may be in a graph: the true segments, which are foreground, and each proposal that is of a kind.
        used = kinds >= 0
        pool = torch.cat([segments, proposals[used]])
        truth = torch.cat([torch.arange(len(segments)), truth[used]])
        kinds = torch.cat([torch.full((len(segments),), FOREGROUND), kinds[used]])
        roots = []
        wanted = {FOREGROUND: config.foregrounds, INCOMPLETE: config.incompletes, BACKGROUND: config.backgrounds}
        for kind, count in wanted.items():
            (choice,) = (kinds == kind).nonzero(as_tuple=True)
            if not len(choice):
                (choice,) = (kinds == FOREGROUND).nonzero(as_tuple=True)
            if len(choice):
                roots.append(choice[torch.randint(len(choice), (count,), generator=generator)])
        root = torch.cat(roots) if roots else torch.zeros(0, dtype=torch.int64)
        graphs = self._graphs_of(features, pool, root, generator)
        # Without a true segment all are background, whose label and offsets have no meaning.
        nearest, label = (segments[truth[root]], labels[truth[root]]) if len(segments) else (pool[root], truth[root])
        targets = GraphTargets(kinds[root], label, offsets_between(pool[root], nearest), sums)
        return replace(graphs, targets=targets)

    def kinds_of(self, proposals: Tensor, segments: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Say what each proposal is an example of [pgcn_dataset.py, get_fg and get_negatives].

        Args:
            proposals: ``(N, 2)`` in steps.
            segments: ``(M, 2)``, true.
            steps: length of the video.

        Returns:
            The kind of each proposal, ``(N,)`` int64, -1: of nothing; and the number of the true segment that it
            overlaps most, the first of equals, ``(N,)`` int64, 0 where there is none.
        """
        config = self.config
        lengths = proposals[:, 1] - proposals[:, 0]
        if len(segments):
            iou, truth = iou_matrix(proposals, segments).max(dim=1)
            inside = shared_length(proposals, segments[truth]) / lengths
        else:
            iou = inside = torch.zeros_like(lengths)
            truth = torch.zeros(len(lengths), dtype=torch.int64)
        kinds = torch.full_like(truth, -1)
        kinds[(iou < config.background_iou) & (lengths / steps > config.background_share)] = BACKGROUND
        kinds[(iou < config.incomplete_iou) & (inside > config.incomplete_share)] = INCOMPLETE
        kinds[iou > config.foreground_iou] = FOREGROUND
        return kinds, truth

    def forward(self, graphs: ProposalGraphs) -> PGCNScores:
        """Score the roots."""
        features = graphs.features.float()
        own, whole = adjacencies(features, graphs.members)
        root = graphs.members[:, 0, 0]
        action, stages = features[:, 1], features.flatten(1)
        action = torch.cat([self.activity_graph(action, graphs.members, own), action[root]], dim=1)
        stages = torch.cat([self.completeness_graph(stages, graphs.members, whole), stages[root]], dim=1)
        # float32 also under autocast, for the losses.
        return PGCNScores(
            activity=self.activity(self.dropout(action)).float(),
            completeness=self.completeness(stages).float(),
            regression=self.regression(stages).float().unflatten(1, (-1, 2)),
        )

    def offset_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the offsets that were learnt from, ``(2,)`` each; 0 and 1 before there are any.

        The release takes them of all foreground proposals of the training set beforehand; here they are the same from
        the end of the first epoch on, up to how often a video was seen, and until then those of the videos seen.
        """
        number, total, squares = self.offset_sums
        mean = total / number.clamp(min=1)
        deviation = (squares / number.clamp(min=1) - mean.square()).clamp(min=MIN_DEVIATION**2).sqrt()
        return mean.float(), torch.where(number > 0, deviation, 1.0).float()

    def loss(self, output: PGCNScores, graphs: ProposalGraphs) -> dict[str, Tensor]:
        """Compute ``activity + 0.5 completeness + 0.5 regression`` [pgcn_train.py].

        In training, each call adds to what is known of the offsets (`offset_sums`, a buffer). A part that no root has
        a share in is 0.

        Returns:
            Scalars ``total``, ``activity``, ``completeness`` and ``regression``.

        Raises:
            ValueError: if the graphs were made for prediction.
        """
        if graphs.targets is None:
            raise ValueError("expected graphs that were drawn by a generator, got those of a prediction")
        config, targets = self.config, graphs.targets
        if self.training:
            self.offset_sums += targets.offset_sums
        foreground, incomplete = targets.kinds == FOREGROUND, targets.kinds == INCOMPLETE
        label = torch.where(foreground, targets.labels + 1, 0)[~incomplete]
        activity = F.cross_entropy(output.activity[~incomplete], label, reduction="sum") / max(len(label), 1)

        of_label = output.completeness.gather(1, targets.labels[:, None]).squeeze(1)
        completeness = completeness_loss(
            of_label[foreground], of_label[incomplete].view(-1, config.incompletes), config.hard_share
        )

        mean, deviation = self.offset_statistics()
        estimate = output.regression[foreground, targets.labels[foreground]]
        true = ((targets.offsets[foreground] - mean) / deviation).to(estimate.dtype)
        regression = F.smooth_l1_loss(estimate, true, reduction="sum") / max(true.numel(), 1) * REGRESSION_SCALE

        total = activity + config.completeness_weight * completeness + config.regression_weight * regression
        return {"total": total, "activity": activity, "completeness": completeness, "regression": regression}

    @torch.no_grad()
    def decode(self, output: PGCNScores, graphs: ProposalGraphs) -> list[Proposals]:
        """Choose, suppress and then move [pgcn_test.py, eval_detection_results.py].

        A root has the score ``softmax(activity) * exp(completeness)`` for each class. The best pairs of root and class
        suppress each other within a class, as they were proposed; only then are they moved, cut at the video's ends and
        left out if nothing remains. Among equal scores the first root comes first, then the smaller class.

        Returns:
            One `Proposals` a video, on the CPU, where suppression is fast; scores are float64.
        """
        counts = graphs.counts.tolist()
        mean, deviation = self.offset_statistics()
        offsets = torch.split((output.regression * deviation + mean).double().cpu(), counts)
        likely = output.activity.double().softmax(dim=1)[:, 1:] * output.completeness.double().exp()
        segments = torch.split(graphs.segments.cpu(), counts)
        best = [each.flatten().sort(descending=True, stable=True) for each in torch.split(likely.cpu(), counts)]
        scores = [each.values[: self.config.top_scores] for each in best]
        places = [each.indices[: self.config.top_scores] for each in best]
        picks = self._suppress(segments, scores, places, span=int(graphs.steps.max()) + 1)
        found = []
        for video, each in enumerate(picks):
            pick = each[each >= 0]
            root, label = places[video][pick] // self.config.classes, places[video][pick] % self.config.classes
            moved = move(segments[video][root], offsets[video][root, label]).clamp(min=0)
            moved = torch.minimum(moved, graphs.steps[video].cpu()).float()
            kept = moved[:, 0] < moved[:, 1]
            found.append(Proposals(moved[kept], scores[video][pick][kept], label[kept]))
        return found

    def _suppress(
        self, segments: Sequence[Tensor], scores: Sequence[Tensor], places: Sequence[Tensor], span: int
    ) -> Tensor:
        """Suppress within classes; a place is ``root * classes + class``, `span` longer than any video."""
        classes = self.config.classes
        # Classes lie side by side in time, so that none overlaps another.
        shifted = [
            each[place // classes] + (place % classes * span)[:, None]
            for each, place in zip(segments, places, strict=True)
        ]
        padded = pad_sequence(shifted, batch_first=True), pad_sequence(list(scores), batch_first=True)
        picks, _ = hard_nms(*padded, threshold=self.config.nms_threshold, keep=self.config.max_proposals)
        return picks


def offsets_between(segments: Tensor, targets: Tensor) -> Tensor:
    """Return what `move` makes one segment into another by, ``(..., 2)`` for ``(..., 2)`` [pgcn_dataset.py].

    How far the centre moves, over the length of the segment, and the logarithm of the ratio of lengths.
    """
    length, target = segments[..., 1] - segments[..., 0], targets[..., 1] - targets[..., 0]
    shift = (targets.sum(dim=-1) - segments.sum(dim=-1)) / 2 / length
    return torch.stack([shift, (target / length).log()], dim=-1)


def move(segments: Tensor, offsets: Tensor) -> Tensor:
    """Move centres by a share of the length and stretch by an exponential [eval_detection_results.py]."""
    length = segments[..., 1] - segments[..., 0]
    centre = segments.sum(dim=-1) / 2 + length * offsets[..., 0]
    half = length * offsets[..., 1].exp() / 2
    return torch.stack([centre - half, centre + half], dim=-1)


def completeness_loss(foreground: Tensor, incomplete: Tensor, hard_share: float) -> Tensor:
    """Compute hinge losses, of the hardest incomplete proposals of each video alone [pgcn_ops.py, CompletenessLoss].

    Args:
        foreground: ``(F,)``, completeness of foreground proposals, which should be at least 1.
        incomplete: ``(B, n)``, of the incomplete ones of each video, which should be at most -1.
        hard_share: of the n that are learnt from, rounded down, but at least one.

    Returns:
        The sum over F + B * n * hard_share, which is rounded down as well, but at least 1 more than F.
    """
    videos, count = incomplete.shape
    hardest = F.relu(1 + incomplete).topk(max(int(count * hard_share), 1), dim=1).values
    number = len(foreground) + max(int(videos * count * hard_share), 1)
    return (F.relu(1 - foreground).sum() + hardest.sum()) / number


def _inside(video: int, name: str, segments: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Cut ``(N, 2)`` segments at the video's ends, in float64; return those that are left and which they are."""
    if not segments.isfinite().all():
        raise ValueError(f"{name} of video {video} of the batch: expected finite numbers, got {segments.tolist()}")
    segments = segments.double().clamp(0, steps)
    kept = segments[:, 0] < segments[:, 1]
    return segments[kept], kept
