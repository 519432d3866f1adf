"""G-TAD: graph convolutions over steps and a map of all segments (Xu et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from baselines.cell_convolution import cells_around
from baselines.contract import Proposals
from baselines.nms import gaussian_soft_nms
from baselines.proposal_maps import (
    MapHead,
    ProposalScores,
    ProposalTargets,
    balanced_log_loss,
    balanced_squared_loss,
    best_of,
    best_of_grid,
    boundary_targets,
    check_whole_videos,
    clip_segments,
    iou_targets,
    likely_boundaries,
    segment_map,
)
from baselines.sampling import SampledLayers, align_bins

# Constants of the released code, branch `anet` of github.com/frostinassiky/gtad, file in brackets.
INPUT_GROUPS = 4  # groups of the first convolution [models.py, GTAD]
PATHS = 32  # groups of a GCNeXt block [models.py, GCNeXt]
PATH_WIDTH = 4  # channels a group [models.py, GCNeXt]
EXPANSION = 0.5  # of the segment's length, added at each side of the window [models.py, GraphAlign]
MAP_LAYERS = 2  # layers on the map between the one that narrows and the one that scores [models.py, GTAD]
BOUNDARY_STEPS = 3.0  # length of the region around a true boundary [dataset.py]
BOUNDARY_POSITIVE = 0.5  # a step covered by more than this is a boundary [loss_function.py, tem_loss_func]
CLASSIFICATION_POSITIVE = 0.9  # IoU [loss_function.py, pem_cls_loss_func]
REGRESSION_HIGH, REGRESSION_MIDDLE = 0.7, 0.3  # IoU [loss_function.py, pem_reg_loss_func]


@dataclass(frozen=True)
class Objective:
    """What the two releases teach the same network differently.

    Attributes:
        step_region: first and last point of what counts as step 0 in the boundary targets.
        regression_weight, classification_weight: of these losses in the total.
        extra: added to the numbers of positives and of negatives in the classification loss.
    """

    step_region: tuple[float, float]
    regression_weight: float
    classification_weight: float
    extra: int


OBJECTIVES = {
    # branch `anet`: dataset.py, loss_function.py
    "activitynet": Objective(step_region=(-0.5, 1.5), regression_weight=10.0, classification_weight=1.0, extra=0),
    # branch `master`: dataset.py, loss_function.py (subgraph_loss_func, pem_cls_loss_func)
    "thumos": Objective(step_region=(-0.5, 0.5), regression_weight=1.0, classification_weight=10.0, extra=10),
}


class GTADConfig(BaseModel):
    """Settings of G-TAD; the defaults are those of the release for ActivityNet [opts.py].

    The release for THUMOS [branch `master`: opts.py, models.py, gtad_inference.py, gtad_postprocess.py] has steps 256,
    max_duration 64, inner_bins and context_bins 16, map_kernel 3, objective "thumos", boundary_filter false,
    proposals_shorter_than 60 (300 frames of 5 a step), nms_sigma 0.46 and max_proposals 200.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, multiple_of=INPUT_GROUPS, description="channels of the features")
    steps: int = Field(default=100, ge=4, description="steps T of a video, or of a window of it")
    max_duration: int = Field(default=100, ge=1, description="longest segment D, in steps")
    hidden_1d: int = Field(default=256, gt=0, multiple_of=INPUT_GROUPS, description="channels along time")
    hidden_2d: int = Field(default=128, gt=0, description="channels of the later layers on the map")
    hidden_3d: int = Field(default=512, gt=0, description="channels of the first layer on the map")
    neighbours: int = Field(default=3, ge=1, description="nearest steps in feature space, the step itself included")
    inner_bins: int = Field(default=32, ge=1, description="bins of a segment's own features")
    context_bins: int = Field(default=4, ge=1, description="bins of its neighbours' features")
    map_kernel: Literal[1, 3] = Field(
        default=1, description="width of the two layers in the middle of those on the map"
    )
    objective: Literal["activitynet", "thumos"] = Field(
        default="activitynet", description="the release whose boundary targets and weights of losses are used"
    )
    boundary_filter: bool = Field(default=True, description="propose only segments between two likely boundaries")
    proposals_shorter_than: int | None = Field(default=None, ge=2, description="in steps; none: propose all lengths")
    nms_sigma: float = Field(default=0.8, gt=0, description="width of the soft suppression; the paper has 0.84")
    max_proposals: int = Field(default=100, ge=1, description="proposals a video")

    @model_validator(mode="after")
    def _fits_in_time(self) -> Self:
        if self.max_duration > self.steps:
            raise ValueError(f"max_duration {self.max_duration} is longer than the {self.steps} steps of a video")
        if self.neighbours > self.steps:
            raise ValueError(f"neighbours {self.neighbours} is more than the {self.steps} steps of a video")
        return self


def nearest_steps(features: Tensor, count: int) -> Tensor:
    """Find the nearest steps of each step in feature space, usually itself first.

    In float32 also under autocast: distances are small differences of large numbers.

    Args:
        features: ``(B, T, C)``.
        count: how many.

    Returns:
        ``(B, T, count)`` int64, numbers of steps.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        features = features.float()
        squares = features.square().sum(dim=2)
        closeness = 2 * features @ features.mT - squares[:, :, None] - squares[:, None, :]
        return closeness.topk(count, dim=2).indices


def take_steps(features: Tensor, steps: Tensor) -> Tensor:
    """Gather ``(B, T, C)`` at ``(B, T, k)``, giving ``(B, T, k, C)``.

    An embedding look-up, because its gradient is summed in a fixed order on every device.
    """
    videos, length, channels = features.shape
    flat = steps + length * torch.arange(videos, device=steps.device)[:, None, None]
    return F.embedding(flat, features.reshape(videos * length, channels))


class GCNeXt(nn.Module):
    """One block of graph convolutions, along time and between similar steps [models.py, GCNeXt].

    ``ReLU(x + temporal(x) + max over neighbours of semantic(neighbour, x))``, both branches narrowed to 128 channels
    in 32 groups. Steps come first and channels last, which makes convolutions of width 1 plain matrix products.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = PATHS * PATH_WIDTH
        self.temporal_in = nn.Linear(channels, width)
        self.temporal_mid = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=PATHS)
        self.temporal_out = nn.Linear(width, channels)
        self.semantic_in = nn.Linear(2 * channels, width)
        self.semantic_mid = nn.Conv1d(width, width, kernel_size=1, groups=PATHS)
        self.semantic_out = nn.Linear(width, channels)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """Apply the block to ``(B, T, C)`` with neighbours ``(B, T, k)``, see `nearest_steps`."""
        hidden = F.relu(self.temporal_in(features)).mT
        temporal = self.temporal_out(F.relu(self.temporal_mid(hidden)).mT)

        # The first layer sees (neighbour, own step). It is linear, so each half is applied to T steps and not to T * k.
        of_neighbour, of_own = self.semantic_in.weight.chunk(2, dim=1)
        hidden = take_steps(F.linear(features, of_neighbour), neighbours)
        hidden = F.relu(hidden + F.linear(features, of_own, self.semantic_in.bias)[:, :, None])
        hidden = F.relu(self.semantic_mid(hidden.flatten(1, 2).mT).mT)
        semantic = self.semantic_out(hidden).unflatten(1, neighbours.shape[1:]).max(dim=2).values
        return F.relu(features + temporal + semantic)


class GTAD(nn.Module):
    """G-TAD as released for ActivityNet, and with the settings of its release for THUMOS.

    The T steps are all of a video, or all of a window of it: for ActivityNet, whoever feeds this localizer rescales
    the features to exactly T steps, so that a time in steps is seconds * T / duration, clipped to [0, T]. It has no
    notion of padding. The map is computed on its segments alone (and, with kernels of 3, on the cells next to them).
    """

    Config: ClassVar[type[GTADConfig]] = GTADConfig
    takes_padding: ClassVar[bool] = False

    def __init__(self, config: GTADConfig) -> None:
        super().__init__()
        self.config = config
        self.objective = OBJECTIVES[config.objective]
        steps, channels = config.steps, config.hidden_1d
        segments, valid = segment_map(steps, config.max_duration, columns="starts")
        reach = MAP_LAYERS if config.map_kernel == 3 else 0
        cells = cells_around(valid, reach)
        # Plain tensors: the data pipeline uses them on the CPU wherever the weights are.
        self.segments = segments.flatten(0, 1)[cells[0]]
        lengths = self.segments[:, 1] - self.segments[:, 0]
        proposed = (self.segments[:, 1] < steps) & (lengths < (config.proposals_shorter_than or steps))
        self.proposed = proposed.nonzero()[:, 0]

        # In the order of the reference, which is the order of its weights.
        self.input = nn.Conv1d(config.feature_dim, channels, kernel_size=3, padding=1, groups=INPUT_GROUPS)
        self.backbone1 = GCNeXt(channels)
        self.start_block = GCNeXt(channels)
        self.start_score = nn.Linear(channels, 1)
        self.end_block = GCNeXt(channels)
        self.end_score = nn.Linear(channels, 1)
        self.backbone2 = GCNeXt(channels)
        # Cells that are no segments have the window [0, 0].
        windows = F.pad(sampling_windows(self.segments), (0, 0, 0, len(cells[-1]) - len(cells[0])))
        matrices = [align_bins(windows, steps=steps, bins=bins) for bins in (config.inner_bins, config.context_bins)]
        self.align = SampledLayers(channels, config.hidden_3d, config.hidden_2d, matrices, steps=steps)
        self.head = MapHead(config.hidden_2d, (len(valid), steps), cells, pointwise=MAP_LAYERS - reach)

    def forward(self, features: Tensor, mask: Tensor) -> ProposalScores:
        """Apply the network.

        Args:
            features: ``(B, C, T)``, T exactly ``config.steps``.
            mask: ``(B, T)`` bool, all True.

        Raises:
            ValueError: if the shapes are wrong, or if the mask has a False: the T steps stand for the whole video, so
                a padded step would be taken for a part of it. Rescale the features instead of padding them.
        """
        check_whole_videos(features, mask, self.config.feature_dim, self.config.steps)
        hidden = F.relu(self.input(features)).mT
        hidden = self.backbone1(hidden, nearest_steps(hidden, self.config.neighbours))
        neighbours = nearest_steps(hidden, self.config.neighbours)
        start = self.start_score(self.start_block(hidden, neighbours))
        end = self.end_score(self.end_block(hidden, neighbours))
        hidden = self.backbone2(hidden, neighbours)
        context = take_steps(hidden, nearest_steps(hidden, self.config.neighbours)).mean(dim=2)
        iou = self.head(self.align(hidden, context))
        return ProposalScores(iou, start.float().sigmoid().squeeze(2), end.float().sigmoid().squeeze(2))

    def targets(self, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> ProposalTargets:  # noqa: ARG002
        """Turn true segments into maps [dataset.py, _get_train_label].

        Args:
            segments: one ``(K_i, 2)`` tensor a video, [start, end) in steps; clipped to [0, T].
            labels: not used, proposals are class-agnostic.

        Raises:
            ValueError: if a segment ends before it starts or is not finite.
        """
        near = partial(boundary_targets, steps=self.config.steps, region=self.objective.step_region)
        half = BOUNDARY_STEPS / 2
        videos = [
            (iou_targets(start, end, self.segments), near(start, half), near(end, half))
            for start, end in clip_segments(segments, self.config.steps)
        ]
        return ProposalTargets(*(torch.stack(parts) for parts in zip(*videos, strict=True)))

    def loss(self, output: ProposalScores, targets: ProposalTargets, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute boundary loss + regression + classification, one of which weighs 10 [loss_function.py].

        Args:
            output: of `forward`.
            targets: of `targets`, on the device of `output`.
            generator: a generator on the CPU; it chooses the segments that balance the regression.

        Returns:
            Scalars ``total``, ``boundary``, ``regression`` and ``classification``.
        """
        objective, iou = self.objective, targets.iou
        boundary = balanced_log_loss(output.start, targets.start > BOUNDARY_POSITIVE)
        boundary = boundary + balanced_log_loss(output.end, targets.end > BOUNDARY_POSITIVE)
        classification = balanced_log_loss(output.iou[:, 1], iou > CLASSIFICATION_POSITIVE, extra=objective.extra)
        high = iou > REGRESSION_HIGH
        others = [(iou > REGRESSION_MIDDLE) & ~high, (iou > 0) & (iou <= REGRESSION_MIDDLE)]
        regression = balanced_squared_loss(output.iou[:, 0], iou, high, others, generator)
        parts = {"boundary": boundary, "regression": regression, "classification": classification}
        weighted = objective.regression_weight * regression + objective.classification_weight * classification
        return {"total": boundary + weighted, **parts}

    @torch.no_grad()
    def decode(self, output: ProposalScores) -> list[Proposals]:
        """Score the pairs of a start and an end and suppress [gtad_inference.py, gtad_postprocess.py].

        A pair (s, e) with s < e is the segment [s, e) and has the score regression * classification; the boundary
        probabilities choose the pairs, if ``config.boundary_filter``, but do not enter the score. As in the reference,
        e is at most T - 1, so that no segment reaches the end of the last step. Among equal scores the shorter segment
        comes first, then the earlier.

        Returns:
            One `Proposals` a video with at most ``config.max_proposals`` segments in steps, float64 scores and the
            class-agnostic label.
        """
        segments = self.grid().to(output.iou.device)
        scores = output.iou.prod(dim=1)[:, self.proposed.to(output.iou.device)]
        if self.config.boundary_filter:
            start, end = segments.unbind(dim=1)
            scores = scores * likely_boundaries(output.start, edge=0)[:, start]
            scores = scores * likely_boundaries(output.end, edge=-1)[:, end]
        return best_of_grid(segments, scores, self._suppression)

    def suppress(self, candidates: Sequence[Proposals]) -> list[Proposals]:
        """Suppress overlapping candidates as `decode` does."""
        return best_of(candidates, self._suppression)

    def grid(self) -> Tensor:
        """Return the segments that `decode` may propose: all [s, e) with s < e < T of the lengths that are allowed."""
        return self.segments[self.proposed]

    def _suppression(self, segments: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_soft_nms(segments, scores, sigma=self.config.nms_sigma, keep=self.config.max_proposals)


def sampling_windows(segments: Tensor) -> Tensor:
    """Widen ``(N, 2)`` segments to the windows that SGAlign samples [models.py, GraphAlign._get_anchors]."""
    start, end = segments.double().unbind(dim=1)
    margin = EXPANSION * (end - start)
    return torch.stack([start - margin, end - 1 + margin], dim=1)
