"""BMN: boundary probabilities and a confidence map of all segments (Lin et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
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
from baselines.sampling import SampledLayers, matching_points

BINS = 32  # N, bins of a segment's features [Section 3.4; models.py]
BOUNDARY_REGION = (-0.5, 0.5)  # around a step [Section 3.5; dataset.py]
BOUNDARY_POSITIVE = 0.5  # theta: a step covered by more than this is a boundary [Section 3.5; loss_function.py]
REGRESSION_WEIGHT = 10.0  # lambda [Section 3.5; loss_function.py, bmn_loss_func]


@dataclass(frozen=True)
class Variant:
    """Where the paper and the PyTorch code that everyone uses differ in numbers.

    Attributes:
        margin: share of its length by which the window of a segment is longer on each side.
        inclusive: how many steps longer the segment counts for that.
        points: sampling points a bin.
        columns: what a column of the map stands for, see `segment_map`.
        local_layers: 3 x 3 convolutions.
        classification_positive: IoU above which a segment is positive.
        high: IoU above which a segment counts as high in the regression.
        low: IoU up to which it counts as low.
        loss_scale: of the whole loss: the code halves both kinds of loss, the paper neither.
    """

    margin: float
    inclusive: int
    points: int
    columns: Literal["ends", "starts"]
    local_layers: int
    classification_positive: float
    high: float
    low: float
    loss_scale: float


VARIANTS = {
    # models.py, dataset.py and loss_function.py of github.com/JJBOY/BMN-Boundary-Matching-Network
    "pytorch": Variant(
        margin=0.5,
        inclusive=1,
        points=3,
        columns="ends",
        local_layers=2,
        classification_positive=0.9,
        high=0.7,
        low=0.3,
        loss_scale=1.0,
    ),
    # Table 1, Sections 3.3 and 3.5
    "paper": Variant(
        margin=0.25,
        inclusive=0,
        points=1,
        columns="starts",
        local_layers=1,
        classification_positive=0.5,
        high=0.6,
        low=0.2,
        loss_scale=2.0,
    ),
}


class BMNConfig(BaseModel):
    """Settings of BMN; the defaults are those of the PyTorch code everyone uses, for ActivityNet [opts.py]."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, multiple_of=4, description="channels of the features")
    steps: int = Field(default=100, ge=4, description="steps T of a video, or of a window of it")
    max_duration: int = Field(default=100, ge=1, description="longest segment D, in steps")
    variant: Literal["pytorch", "paper"] = Field(
        default="pytorch",
        description="the PyTorch code that everyone uses, or the network, loss and scores of the paper",
    )
    hidden_1d: int = Field(default=256, gt=0, multiple_of=4, description="channels along time")
    hidden_2d: int = Field(default=128, gt=0, description="channels of the later layers on the map")
    hidden_3d: int = Field(default=512, gt=0, description="channels of the first layer on the map")
    nms_sigma: float = Field(default=0.4, gt=0, description="width of the soft suppression")
    nms_spare_low: float = Field(default=0.5, ge=0, le=1, description="IoU up to which short segments are spared by it")
    nms_spare_high: float = Field(default=0.9, ge=0, le=1, description="the same for segments as long as the T steps")
    max_proposals: int = Field(default=100, ge=1, description="proposals a video")

    @model_validator(mode="after")
    def _fits_in_time(self) -> Self:
        if self.max_duration > self.steps:
            raise ValueError(f"max_duration {self.max_duration} is longer than the {self.steps} steps of a video")
        return self


class BMN(nn.Module):
    """BMN, as the PyTorch code everyone uses has it or as the paper has it.

    Its steps are all of a video or of a window of it, as in G-TAD. The map is computed on its segments alone, and on
    the cells next to them that the 3 x 3 convolutions see.
    """

    Config: ClassVar[type[BMNConfig]] = BMNConfig
    takes_padding: ClassVar[bool] = False

    def __init__(self, config: BMNConfig) -> None:
        super().__init__()
        self.config = config
        self.variant = variant = VARIANTS[config.variant]
        width, steps = config.hidden_1d, config.steps
        segments, valid = segment_map(steps, config.max_duration, columns=variant.columns)
        cells = cells_around(valid, variant.local_layers)
        # Plain tensors: the data pipeline uses them on the CPU wherever the weights are.
        self.segments = segments.flatten(0, 1)[cells[0]]
        self.proposed = (self.segments[:, 1] < steps).nonzero()[:, 0]

        # In the order of the reference, which is the order of its weights.
        if config.variant == "pytorch":
            self.base = nn.Sequential(*_along_time(config.feature_dim, width, 4), *_along_time(width, width, 4))
            self.boundaries = nn.ModuleList(
                nn.Sequential(*_along_time(width, width, 4), nn.Conv1d(width, 1, kernel_size=1))
                for _ in ("start", "end")
            )
            self.proposal = nn.Sequential(*_along_time(width, width, 1))
        else:
            half = width // 2
            self.base = nn.Sequential(*_along_time(config.feature_dim, width, 1), *_along_time(width, half, 1))
            both = nn.Sequential(*_along_time(half, width, 1), nn.Conv1d(width, 2, kernel_size=3, padding=1))
            self.boundaries = nn.ModuleList([both])
            self.proposal = nn.Sequential()
        windows = torch.full((len(cells[-1]), 2), torch.nan, dtype=torch.float64)
        windows[: len(self.segments)] = sampling_windows(self.segments, variant)
        matrix = matching_points(windows, steps=steps, bins=BINS, points=variant.points)
        channels = width if config.variant == "pytorch" else width // 2
        self.sampled = SampledLayers(channels, config.hidden_3d, config.hidden_2d, [matrix], steps=steps)
        self.head = MapHead(config.hidden_2d, (len(valid), steps), cells)

    def forward(self, features: Tensor, mask: Tensor) -> ProposalScores:
        """Apply the network.

        Args:
            features: ``(B, C, T)``, T exactly ``config.steps``.
            mask: ``(B, T)`` bool, all True.

        Raises:
            ValueError: if the shapes are wrong or the mask has a False.
        """
        check_whole_videos(features, mask, self.config.feature_dim, self.config.steps)
        base = self.base(features)
        # (B, 2, T), float32 also under autocast: the losses take logarithms of them.
        boundaries = torch.cat([branch(base) for branch in self.boundaries], dim=1).float().sigmoid()
        iou = self.head(self.sampled(self.proposal(base).mT))
        return ProposalScores(iou, start=boundaries[:, 0], end=boundaries[:, 1])

    def targets(self, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> ProposalTargets:  # noqa: ARG002
        """Turn true segments into maps [Section 3.5; dataset.py, _get_train_label].

        Args:
            segments: one ``(K_i, 2)`` tensor a video, [start, end) in steps; clipped to [0, T].
            labels: not used, proposals are class-agnostic.

        Raises:
            ValueError: if a segment ends before it starts or is not finite.
        """
        steps = self.config.steps
        near = partial(boundary_targets, steps=steps, region=BOUNDARY_REGION)
        iou, starts, ends = [], [], []
        for start, end in clip_segments(segments, steps):
            # The code has 3 steps around a boundary, the paper a fifth of the segment.
            half = 1.5 if self.config.variant == "pytorch" else (end - start) / 10
            iou.append(iou_targets(start, end, self.segments))
            starts.append(near(start, half))
            ends.append(near(end, half))
        return ProposalTargets(torch.stack(iou), torch.stack(starts), torch.stack(ends))

    def loss(self, output: ProposalScores, targets: ProposalTargets, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute ``boundary + 10 * regression + classification`` [Section 3.5; loss_function.py, bmn_loss_func].

        Args:
            output: of `forward`.
            targets: of `targets`, on the device of `output`.
            generator: a generator on the CPU; it chooses the segments that balance the regression.

        Returns:
            Scalars ``total``, ``boundary``, ``regression`` and ``classification``.
        """
        variant, iou = self.variant, targets.iou
        boundary = balanced_log_loss(output.start, targets.start > BOUNDARY_POSITIVE)
        boundary = boundary + balanced_log_loss(output.end, targets.end > BOUNDARY_POSITIVE)
        classification = balanced_log_loss(output.iou[:, 1], iou > variant.classification_positive)
        high = iou > variant.high
        if self.config.variant == "pytorch":
            others = [(iou > variant.low) & ~high, (iou > 0) & (iou <= variant.low)]
        else:
            others = [iou < variant.low]
        regression = balanced_squared_loss(output.iou[:, 0], iou, high, others, generator)
        parts = {"boundary": boundary, "regression": regression, "classification": classification}
        parts = {name: variant.loss_scale * part for name, part in parts.items()}
        total = parts["boundary"] + REGRESSION_WEIGHT * parts["regression"] + parts["classification"]
        return {"total": total, **parts}

    @torch.no_grad()
    def decode(self, output: ProposalScores) -> list[Proposals]:
        """Score the pairs of a start and an end and suppress [main.py, BMN_inference; Section 3.6].

        A pair (s, e) with s < e is the segment [s, e). Its score is start(s) * end(e) * regression * classification; in
        the paper the last two stand under a root, and both boundaries have to be likely ones. As there is no
        probability that a segment ends at T, e is at most T - 1. Among equal scores the first cell of the map, row by
        row, comes first.

        Returns:
            One `Proposals` a video with at most ``config.max_proposals`` segments in steps, float64 scores and the
            class-agnostic label.
        """
        segments = self.grid().to(output.iou.device)
        start, end = segments.unbind(dim=1)
        scores = output.iou.prod(dim=1)[:, self.proposed.to(output.iou.device)]
        if self.config.variant == "paper":
            likely = likely_boundaries(output.start, edge=0)[:, start] & likely_boundaries(output.end, edge=-1)[:, end]
            scores = scores.sqrt() * likely
        return best_of_grid(segments, output.start[:, start] * output.end[:, end] * scores, self._suppression)

    def suppress(self, candidates: Sequence[Proposals]) -> list[Proposals]:
        """Suppress overlapping candidates as `decode` does."""
        return best_of(candidates, self._suppression)

    def grid(self) -> Tensor:
        """Return the segments that `decode` may propose: all [s, e) with s < e < T and no longer than D."""
        return self.segments[self.proposed]

    def _suppression(self, segments: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return gaussian_soft_nms(
            segments,
            scores,
            sigma=config.nms_sigma,
            keep=config.max_proposals,
            spare_low=config.nms_spare_low,
            spare_high=config.nms_spare_high,
            extent=config.steps,
        )


def sampling_windows(segments: Tensor, variant: Variant) -> Tensor:
    """Widen ``(N, 2)`` segments to the windows that are sampled [Section 3.3; models.py, _get_interp1d_mask]."""
    start, end = segments.double().unbind(dim=1)
    margin = variant.margin * (end - start + variant.inclusive)
    return torch.stack([start - margin, end + margin], dim=1)


def _along_time(in_channels: int, out_channels: int, groups: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1, groups=groups), nn.ReLU()
