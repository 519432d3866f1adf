"""ActionFormer: every point of a transformer pyramid tells an action and its ends (Zhang et al., ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baselines.contract import CLASS_AGNOSTIC, Proposals, check_features
from baselines.nms import gaussian_soft_nms, vote
from baselines.pyramid import PyramidHead, TransformerPyramid, join, split

# Constants of the released code, github.com/happyharrycn/actionformer_release, file in brackets.
FIRST_RANGE = 4.0  # a point of level 0 regresses up to so many steps, each level twice as many [libs/core/config.py]
CENTRE_RADIUS = 1.5  # strides around the centre in which a point is positive [configs/anet_tsp.yaml]
TIE_STEPS = 1e-3  # durations that differ by less are equal [libs/modeling/meta_archs.py]
CLASS_PRIOR = 0.01  # probability of an action at first [configs/anet_tsp.yaml]
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # [libs/modeling/losses.py]
NORMALIZER_MOMENTUM = 0.9  # [libs/modeling/meta_archs.py]
MIN_SCORE = 0.001  # of a candidate, before and after suppression [configs/anet_tsp.yaml, libs/core/config.py]
CANDIDATES = 2000  # of a level, the best [configs/anet_tsp.yaml, pre_nms_topk]
DIOU_EPSILON = 1e-8  # [libs/modeling/losses.py]


class ActionFormerConfig(BaseModel):
    """Settings of ActionFormer; the defaults are those of the release for TSP features of ActivityNet [anet_tsp]."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, description="channels of the features")
    steps: int = Field(default=192, gt=0, description="steps T of the videos, or windows of them, to train on")
    classes: int = Field(default=0, ge=0, description="kinds of actions; 0: only whether there is an action")
    hidden: int = Field(default=256, gt=0, description="channels of all layers")
    heads: int = Field(default=4, gt=0, description="heads of attention")
    windows: tuple[int, ...] = Field(
        default=(7, 7, 7, 7, 7, -1),
        min_length=1,
        strict=False,
        description="keys of a query, one odd number a level of the pyramid; -1: all",
    )
    position_encoding: bool = Field(default=True, description="whether to add sinusoids of the position")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="share of residual branches left out in training")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="of the classification's targets")
    regression_weight: float = Field(default=2.0, ge=0, description="of the regression in the loss")
    initial_normalizer: float = Field(default=200.0, gt=0, description="positive points a batch, first estimate")
    min_duration: float = Field(default=0.001, ge=0, description="shorter candidates are dropped, in steps")
    nms_sigma: float = Field(default=0.75, gt=0, description="width of the soft suppression")
    voting_threshold: float = Field(
        default=0.9, gt=0, le=1, description="IoU of candidates that move a proposal; only without classes"
    )
    max_proposals: int = Field(default=100, ge=1, description="proposals a video")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of the {self.heads} heads")
        if any(window != -1 and (window < 3 or window % 2 == 0) for window in self.windows):
            raise ValueError(f"windows {self.windows}: expected odd numbers of at least 3, or -1 for all keys")
        stride = 2 ** (len(self.windows) - 1)
        if self.steps % stride:
            raise ValueError(f"steps {self.steps} is not a multiple of {stride}, the last level's stride")
        return self


@dataclass(frozen=True)
class ActionFormerOutput:
    """What each point of the pyramid says, float32; P points, the levels' behind one another.

    Attributes:
        logits: ``(B, P, K)`` of the classes, K = 1 without classes; 0 at points that are padding.
        offsets: ``(B, P, 2)`` from the point to the start and to the end, in strides, not negative; 0 likewise.
        mask: ``(B, P)`` bool, True at points of the video.
        points: ``(B, P, 2)``, where the point is and the stride of its level, in steps; the same for all videos.
    """

    logits: Tensor
    offsets: Tensor
    mask: Tensor
    points: Tensor


@dataclass(frozen=True)
class ActionFormerTargets:
    """What `ActionFormerOutput` is compared with, float32.

    Attributes:
        classes: ``(B, P, K)``, 1 for the classes of the point's segment, else 0.
        offsets: ``(B, P, 2)`` from the point to its segment's start and end, in strides; 0 at points without one.
    """

    classes: Tensor
    offsets: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Return the same targets on `device`."""
        return type(self)(self.classes.to(device), self.offsets.to(device))


def pyramid_points(steps: int, levels: int, device: torch.device) -> Tensor:
    """List the points of a pyramid over `steps` steps [libs/modeling/loc_generators.py].

    Point i of a level of stride s is the centre of step s * i: the release counts from the centre of step 0, we from
    its start, half a step earlier.

    Returns:
        ``(P, 2)``, place and stride in steps.
    """
    points = []
    for level in range(levels):
        place = torch.arange(0, steps, 2**level, device=device) + 0.5
        points.append(torch.stack([place, torch.full_like(place, 2**level)], dim=1))
    return torch.cat(points)


class ActionFormer(nn.Module):
    """ActionFormer in feature steps; follows `baselines.contract.Localizer`.

    The layers are those of the release, and so is the order of the parameters. Of its options, those are here that its
    recipes for ActivityNet with TSP and THUMOS14 with I3D choose.
    """

    Config: ClassVar[type[ActionFormerConfig]] = ActionFormerConfig
    takes_padding: ClassVar[bool] = True

    loss_normalizer: Tensor

    def __init__(self, config: ActionFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid = TransformerPyramid(
            config.feature_dim,
            config.hidden,
            config.heads,
            config.windows,
            config.steps,
            position_encoding=config.position_encoding,
            drop_path=config.drop_path,
        )
        self.class_head = PyramidHead(config.hidden, max(config.classes, 1))
        self.offset_head = PyramidHead(config.hidden, 2, scales=len(config.windows))
        # The running number of positive points of a batch, which losses are divided by.
        self.register_buffer("loss_normalizer", torch.tensor(config.initial_normalizer))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        class_bias = torch.full((max(config.classes, 1),), math.log(CLASS_PRIOR / (1 - CLASS_PRIOR)))
        self.class_head.output.bias = nn.Parameter(class_bias)

    def forward(self, features: Tensor, mask: Tensor) -> ActionFormerOutput:
        """Compute class scores and offsets of all points.

        Args:
            features: ``(B, C, T)``; T is ``config.steps`` in training, any number in evaluation mode.
            mask: ``(B, T)`` bool, True on the steps of the video, which come first.

        Returns:
            The output, whose P is the sum of T / 2^l, rounded up, over the levels l.

        Raises:
            ValueError: if the shapes are not as said above.
        """
        check_features(features, mask)
        steps = mask.shape[1]
        if features.shape[1] != self.config.feature_dim:
            raise ValueError(f"expected features of {self.config.feature_dim} channels, got {tuple(features.shape)}")
        if steps == 0 or (self.training and steps != self.config.steps):
            raise ValueError(f"expected features of {self.config.steps} steps in training, got {tuple(features.shape)}")
        pyramid, levels = self.pyramid(features, mask)
        rows, joined = join(pyramid, levels)
        logits = split(self.class_head(rows, joined), levels, steps)
        offsets = split(self.offset_head(rows, joined), levels, steps)
        offsets = [F.relu(each * scale) for each, scale in zip(offsets, self.offset_head.scales, strict=True)]
        points = pyramid_points(steps, len(levels), features.device)
        return ActionFormerOutput(
            # float32 also under autocast, for the losses and for times of long videos.
            logits=torch.cat(logits, dim=1).float(),
            offsets=torch.cat(offsets, dim=1).float(),
            mask=torch.cat(split(joined.valid, levels, steps), dim=1),
            points=points.expand(len(features), -1, -1),
        )

    def targets(self, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> ActionFormerTargets:
        """Assign segments to points [libs/modeling/meta_archs.py, label_points_single_video].

        A point takes a segment if it is inside, within 1.5 strides of the centre, and if the farther end of the
        segment is in the range of its level. Of several it takes the shortest, the first of equals; of all that are as
        short it takes the classes.

        Args:
            segments: one ``(N_i, 2)`` tensor a video, [start, end) in steps; not clipped.
            labels: one ``(N_i,)`` tensor a video, classes from 0; not used without classes.

        Raises:
            ValueError: if a segment ends before it starts or is not finite, or if a label is no class.
        """
        videos = [self._video_targets(video, *each) for video, each in enumerate(zip(segments, labels, strict=True))]
        classes, offsets = (torch.stack(parts) for parts in zip(*videos, strict=True))
        return ActionFormerTargets(classes, offsets)

    def _video_targets(self, video: int, segments: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        points = pyramid_points(self.config.steps, len(self.config.windows), segments.device)
        kinds = max(self.config.classes, 1)
        if not len(segments):
            return segments.new_zeros((len(points), kinds)).float(), torch.zeros_like(points)
        start, end = segments.float().unbind(dim=1)
        if not (end >= start).all() or not segments.isfinite().all():
            raise ValueError(f"segments of video {video} of the batch: expected start <= end, got {segments.tolist()}")
        labels = labels if self.config.classes else torch.zeros_like(labels)
        if not ((labels >= 0) & (labels < kinds)).all():
            raise ValueError(f"labels of video {video} of the batch: expected 0 to {kinds - 1}, got {labels.tolist()}")

        place, stride = points[:, :1], points[:, 1:]
        distances = torch.stack([place - start, end - place], dim=2)  # (P, N, 2)
        from_centre = (place - (start + end) / 2).abs()
        farther = distances.amax(dim=2)
        takes = (distances.amin(dim=2) > 0) & (from_centre < CENTRE_RADIUS * stride)
        # The ranges of the levels: 0 to 4 steps, 4 to 8, ..., and the last without an end.
        takes &= (farther >= FIRST_RANGE / 2 * stride) | (stride == 1)
        takes &= (farther <= FIRST_RANGE * stride) | (stride == stride.max())
        durations = torch.where(takes, end - start, math.inf)
        shortest, chosen = durations.min(dim=1, keepdim=True)  # the first of equals, as torch documents
        as_short = takes & (durations <= shortest + TIE_STEPS)
        classes = (as_short.float() @ F.one_hot(labels.long(), kinds).float()).clamp(max=1)
        offsets = distances.gather(1, chosen[:, :, None].expand(-1, -1, 2)).squeeze(1) / stride
        return classes, offsets * takes.any(dim=1, keepdim=True)

    def loss(
        self,
        output: ActionFormerOutput,
        targets: ActionFormerTargets,
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Compute ``classification + regression_weight * regression`` [libs/modeling/meta_archs.py, losses].

        Sums over the points of all videos, divided by a running mean of the number of positive points. In training,
        each call moves the mean (`loss_normalizer`, a buffer).

        Args:
            output: of `forward` on ``config.steps`` steps.
            targets: of `targets`, on the device of `output`.
            generator: not used, nothing is random here.

        Returns:
            Scalars ``total``, ``classification`` and ``regression``.
        """
        positive = targets.classes.any(dim=2) & output.mask
        normalizer = self.loss_normalizer
        if self.training:
            normalizer = torch.lerp(positive.sum().clamp(min=1).float(), normalizer, NORMALIZER_MOMENTUM)
            self.loss_normalizer.copy_(normalizer)
        smoothing, kinds = self.config.label_smoothing, targets.classes.shape[2]
        smooth = targets.classes * (1 - smoothing) + smoothing / (kinds + 1)
        classification = (_focal_loss(output.logits, smooth) * output.mask[:, :, None]).sum() / normalizer
        # What is not positive is put aside before, lest its gradient be 0 * inf.
        estimate = torch.where(positive[:, :, None], output.offsets, 1.0)
        true = torch.where(positive[:, :, None], targets.offsets, 1.0)
        regression = _diou_loss(estimate, true).sum() / normalizer
        total = classification + self.config.regression_weight * regression
        return {"total": total, "classification": classification, "regression": regression}

    @torch.no_grad()
    def decode(self, output: ActionFormerOutput) -> list[Proposals]:
        """Turn the likely points into segments and suppress [libs/modeling/meta_archs.py, inference_single_video].

        Proposals are clipped to the video, last of all.

        Returns:
            One `Proposals` a video as of `suppress`.
        """
        place, stride = output.points[:, :, :1], output.points[:, :, 1:]
        direction = torch.tensor([-1.0, 1.0], device=place.device)
        segments = place + direction * output.offsets * stride
        long_enough = segments[:, :, 1] - segments[:, :, 0] > self.config.min_duration
        scores = output.logits.sigmoid() * output.mask[:, :, None]
        kinds = scores.shape[2]
        chosen = []
        for level in range(len(self.config.windows)):
            of_level = (output.points[0, :, 1] == 2**level).nonzero().squeeze(1)
            flat = scores[:, of_level].flatten(1)
            best = flat.argsort(dim=1, descending=True, stable=True)[:, :CANDIDATES]
            chosen.append(best + of_level[:1] * kinds)
        candidate = torch.cat(chosen, dim=1)  # number of point * kinds + class
        point, label = candidate // kinds, candidate % kinds
        kept = scores.flatten(1).gather(1, candidate)
        kept = kept * ((kept > MIN_SCORE) & long_enough.gather(1, point))
        segments = segments.gather(1, point[:, :, None].expand(-1, -1, 2))
        found = self._suppress(segments, kept, label if self.config.classes else torch.full_like(label, CLASS_AGNOSTIC))
        lengths = (output.mask & (output.points[:, :, 1] == 1)).sum(dim=1)
        return [
            Proposals(torch.minimum(each.segments.clamp(min=0), length), each.scores, each.labels)
            for each, length in zip(found, lengths, strict=True)
        ]

    @torch.no_grad()
    def suppress(self, candidates: Sequence[Proposals]) -> list[Proposals]:
        """Suppress candidates softly, each class by itself [libs/utils/nms.py, batched_nms].

        Without classes, each proposal then moves to where the candidates near it are (`vote`), as in the release.

        Args:
            candidates: one `Proposals` a video, in steps.

        Returns:
            One `Proposals` a video with at most ``config.max_proposals`` segments, float64 scores and the labels of
            the candidates. Among equal scores the earlier candidate comes first.
        """
        if not candidates:
            return []
        segments = pad_sequence([each.segments for each in candidates], batch_first=True)
        scores = pad_sequence([each.scores for each in candidates], batch_first=True)
        labels = pad_sequence([each.labels for each in candidates], batch_first=True)
        return self._suppress(segments, scores, labels)

    def _suppress(self, segments: Tensor, scores: Tensor, labels: Tensor) -> list[Proposals]:
        """Suppress ``(B, N, 2)``, ``(B, N)`` and ``(B, N)``; a score of 0 means that there is no candidate."""
        segments = torch.where(scores[:, :, None] > 0, segments, 0.0).double()
        # Classes lie side by side in time, so that none overlaps another: picking the best of all then is picking the
        # best of each class and sorting.
        span = segments.abs().amax() * 2 + 1 if segments.numel() else 1.0
        picks, picked_scores = gaussian_soft_nms(
            segments + (labels * span)[:, :, None],
            scores,
            sigma=self.config.nms_sigma,
            keep=self.config.max_proposals,
        )
        picked = segments.gather(1, picks.clamp(min=0)[:, :, None].expand(-1, -1, 2))
        if not self.config.classes:
            picked = vote(picked, segments, scores, threshold=self.config.voting_threshold)
        found = (picks >= 0) & (picked_scores >= MIN_SCORE)
        labels = labels.gather(1, picks.clamp(min=0))
        return [
            Proposals(video_segments[kept].float(), video_scores[kept], video_labels[kept])
            for video_segments, video_scores, video_labels, kept in zip(
                picked, picked_scores, labels, found, strict=True
            )
        ]

    def grid(self) -> Tensor | None:
        """Return None: a proposal may be any segment."""
        return None


def _focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute cross entropy in which what is right already weighs little [libs/modeling/losses.py]."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = probability * targets + (1 - probability) * (1 - targets)
    alpha = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return alpha * entropy * (1 - right) ** FOCAL_GAMMA


def _diou_loss(estimate: Tensor, true: Tensor) -> Tensor:
    """Compute ``1 - IoU + (distance of centres / length of hull)²`` [libs/modeling/losses.py, ctr_diou_loss_1d].

    Args:
        estimate: ``(..., 2)`` distances from one point to start and end, not negative.
        true: the same of the true segment.
    """
    overlap = torch.minimum(estimate, true).sum(dim=-1)
    union = (estimate + true).sum(dim=-1) - overlap
    hull = torch.maximum(estimate, true).sum(dim=-1)
    difference = estimate - true
    distance = 0.5 * (difference[..., 1] - difference[..., 0])
    return 1 - overlap / union.clamp(min=DIOU_EPSILON) + (distance / hull.clamp(min=DIOU_EPSILON)).square()
