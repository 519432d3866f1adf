"""G-TAD: graph convolutions over steps and a map of all segments (Xu et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from baselines.contract import CLASS_AGNOSTIC, Proposals, check_features
from baselines.nms import gaussian_soft_nms
from baselines.sampling import SampledLayer, align_bins

# Constants of the released code, branch `anet` of github.com/frostinassiky/gtad, file in brackets.
INPUT_GROUPS = 4  # groups of the first convolution [models.py, GTAD]
PATHS = 32  # groups of a GCNeXt block [models.py, GCNeXt]
PATH_WIDTH = 4  # channels a group [models.py, GCNeXt]
INNER_BINS = 32  # bins of a segment's own features [models.py, GraphAlign]
CONTEXT_BINS = 4  # bins of its neighbours' features [models.py, GraphAlign]
EXPANSION = 0.5  # of the segment's length, added at each side of the window [models.py, GraphAlign]
BOUNDARY_STEPS = 3.0  # length of the region around a true boundary [dataset.py]
BOUNDARY_POSITIVE = 0.5  # a step covered by more than this is a boundary [loss_function.py, tem_loss_func]
CLASSIFICATION_POSITIVE = 0.9  # IoU [loss_function.py, pem_cls_loss_func]
REGRESSION_HIGH, REGRESSION_MIDDLE = 0.7, 0.3  # IoU [loss_function.py, pem_reg_loss_func]
REGRESSION_WEIGHT = 10.0  # [loss_function.py, gtad_loss_func]
LOG_EPSILON = 1e-6  # [loss_function.py]
CANDIDATE_SHARE = 0.5  # of the highest boundary probability [gtad_inference.py]


class GTADConfig(BaseModel):
    """Settings of G-TAD; the defaults are those of the release for ActivityNet [opts.py]."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, multiple_of=INPUT_GROUPS, description="channels of the features")
    steps: int = Field(default=100, ge=4, description="steps T that every video is rescaled to")
    max_duration: int = Field(default=100, ge=1, description="longest segment D, in steps")
    hidden_1d: int = Field(default=256, gt=0, multiple_of=INPUT_GROUPS, description="channels along time")
    hidden_2d: int = Field(default=128, gt=0, description="channels of the later layers on the map")
    hidden_3d: int = Field(default=512, gt=0, description="channels of the first layer on the map")
    neighbours: int = Field(default=3, ge=1, description="nearest steps in feature space, the step itself included")
    nms_sigma: float = Field(default=0.8, gt=0, description="width of the soft suppression; the paper has 0.84")
    max_proposals: int = Field(default=100, ge=1, description="proposals a video")

    @model_validator(mode="after")
    def _fits_in_time(self) -> Self:
        if self.max_duration > self.steps:
            raise ValueError(f"max_duration {self.max_duration} is longer than the {self.steps} steps of a video")
        if self.neighbours > self.steps:
            raise ValueError(f"neighbours {self.neighbours} is more than the {self.steps} steps of a video")
        return self


@dataclass(frozen=True)
class GTADOutput:
    """Probabilities, float32.

    Attributes:
        iou_map: ``(B, 2, D, T)``; cell (d, s) speaks of the segment [s, s + d + 1). Channel 0 estimates its IoU by
            regression, channel 1 by classification. Cells with s + d >= T are no segments and are to be ignored; they
            hold what the reference gives them.
        start: ``(B, T)``, that a segment starts at the step.
        end: ``(B, T)``, that a segment ends at the step.
    """

    iou_map: Tensor
    start: Tensor
    end: Tensor


@dataclass(frozen=True)
class GTADTargets:
    """What `GTADOutput` is compared with; float32, shapes ``(B, D, T)``, ``(B, T)`` and ``(B, T)``.

    Attributes:
        iou_map: the highest IoU of the cell's segment with a true one; 0 in cells that are no segments.
        start: the share of [t - 0.5, t + 1.5) that is within 1.5 steps of a true start, the highest over segments.
        end: the same for ends.
    """

    iou_map: Tensor
    start: Tensor
    end: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Return the same targets on `device`."""
        return type(self)(self.iou_map.to(device), self.start.to(device), self.end.to(device))


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
    """G-TAD as released for ActivityNet.

    The steps of a video cover all of it: whoever feeds this localizer rescales the features to exactly T steps, so
    that a time in steps is seconds * T / duration, clipped to [0, T]. It has no notion of padding.
    """

    Config: ClassVar[type[GTADConfig]] = GTADConfig

    valid: Tensor
    cell_of_map: Tensor

    def __init__(self, config: GTADConfig) -> None:
        super().__init__()
        self.config = config
        steps, channels = config.steps, config.hidden_1d
        # In the order of the reference, which is the order of its weights.
        self.input = nn.Conv1d(config.feature_dim, channels, kernel_size=3, padding=1, groups=INPUT_GROUPS)
        self.backbone1 = GCNeXt(channels)
        self.start_block = GCNeXt(channels)
        self.start_score = nn.Linear(channels, 1)
        self.end_block = GCNeXt(channels)
        self.end_score = nn.Linear(channels, 1)
        self.backbone2 = GCNeXt(channels)

        start = torch.arange(steps)
        duration = torch.arange(config.max_duration)[:, None]
        valid = start + duration < steps
        self.register_buffer("valid", valid, persistent=False)
        # The map is computed on its segments alone, and on one row more that stands for all other cells.
        cells = int(valid.sum())
        cell_of_map = torch.full(valid.shape, cells)
        cell_of_map[valid] = torch.arange(cells)
        self.register_buffer("cell_of_map", cell_of_map.flatten(), persistent=False)
        windows = segment_windows(valid)
        self.align = SampledLayer(
            channels,
            config.hidden_3d,
            [align_bins(windows, steps=steps, bins=bins) for bins in (INNER_BINS, CONTEXT_BINS)],
            steps=steps,
        )
        self.head = nn.Sequential(
            nn.Linear(config.hidden_3d, config.hidden_2d),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_2d, config.hidden_2d),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_2d, config.hidden_2d),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_2d, 2),
        )

    def forward(self, features: Tensor, mask: Tensor) -> GTADOutput:
        """Apply the network.

        Args:
            features: ``(B, C, T)``, T exactly ``config.steps``.
            mask: ``(B, T)`` bool, all True.

        Raises:
            ValueError: if the shapes are wrong, or if the mask has a False: the T steps stand for the whole video, so
                a padded step would be taken for a part of it. Rescale the features instead of padding them.
        """
        check_features(features, mask)
        if features.shape[1:] != (self.config.feature_dim, self.config.steps):
            raise ValueError(
                f"expected features (B, {self.config.feature_dim}, {self.config.steps}), got {tuple(features.shape)}"
            )
        if not mask.all():
            raise ValueError("G-TAD takes videos rescaled to its number of steps and no padding, the mask has a False")
        hidden = F.relu(self.input(features)).mT
        hidden = self.backbone1(hidden, nearest_steps(hidden, self.config.neighbours))
        neighbours = nearest_steps(hidden, self.config.neighbours)
        start = self.start_score(self.start_block(hidden, neighbours))
        end = self.end_score(self.end_block(hidden, neighbours))
        hidden = self.backbone2(hidden, neighbours)
        context = take_steps(hidden, nearest_steps(hidden, self.config.neighbours)).mean(dim=2)
        cells = self.head(self.align(hidden, context))
        # The scores are float32 also under autocast: the losses take logarithms of them.
        iou_map = cells.float().sigmoid().mT.index_select(2, self.cell_of_map)
        return GTADOutput(
            iou_map=iou_map.unflatten(2, self.valid.shape),
            start=start.float().sigmoid().squeeze(2),
            end=end.float().sigmoid().squeeze(2),
        )

    def targets(self, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> GTADTargets:  # noqa: ARG002
        """Turn true segments into maps [dataset.py, _get_train_label].

        Args:
            segments: one ``(N_i, 2)`` tensor a video, [start, end) in steps; clipped to [0, T].
            labels: not used, proposals are class-agnostic.

        Raises:
            ValueError: if a segment ends before it starts or is not finite.
        """
        videos = [self._video_targets(video, each) for video, each in enumerate(segments)]
        iou_map, start, end = (torch.stack(parts) for parts in zip(*videos, strict=True))
        return GTADTargets(iou_map, start, end)

    def _video_targets(self, video: int, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, device = self.config.steps, segments.device
        if not len(segments):
            empty = torch.zeros(steps, device=device)
            return torch.zeros(self.valid.shape, device=device), empty, empty
        true_start, true_end = segments.float().unbind(dim=1)
        if not (true_end >= true_start).all() or not segments.isfinite().all():
            raise ValueError(f"segments of video {video} of the batch: expected start <= end, got {segments.tolist()}")
        true_start, true_end = true_start.clamp(0, steps), true_end.clamp(0, steps)

        cell_start = torch.arange(steps, device=device)
        cell_end = cell_start + torch.arange(1, self.config.max_duration + 1, device=device)[:, None]
        true_start_, true_end_ = true_start[:, None, None], true_end[:, None, None]
        overlap = (torch.minimum(cell_end, true_end_) - torch.maximum(cell_start, true_start_)).clamp(min=0)
        union = (cell_end - cell_start) + (true_end_ - true_start_) - overlap
        iou_map = (overlap / union).amax(dim=0) * (cell_end <= steps)
        return iou_map, _boundary_target(true_start, steps), _boundary_target(true_end, steps)

    def loss(self, output: GTADOutput, targets: GTADTargets, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute ``boundary + 10 * regression + classification`` [loss_function.py, gtad_loss_func].

        Args:
            output: of `forward`.
            targets: of `targets`, on the device of `output`.
            generator: a generator on the CPU; it chooses the cells that balance the regression.

        Returns:
            Scalars ``total``, ``boundary``, ``regression`` and ``classification``.
        """
        everywhere = torch.ones_like(targets.start, dtype=torch.bool)
        boundary = _balanced_log_loss(output.start, targets.start > BOUNDARY_POSITIVE, everywhere)
        boundary = boundary + _balanced_log_loss(output.end, targets.end > BOUNDARY_POSITIVE, everywhere)
        positive = targets.iou_map > CLASSIFICATION_POSITIVE
        classification = _balanced_log_loss(output.iou_map[:, 1], positive, self.valid.expand_as(positive))
        regression = _balanced_squared_loss(output.iou_map[:, 0], targets.iou_map, generator)
        total = boundary + REGRESSION_WEIGHT * regression + classification
        return {"total": total, "boundary": boundary, "regression": regression, "classification": classification}

    @torch.no_grad()
    def decode(self, output: GTADOutput) -> list[Proposals]:
        """Pair likely starts with likely ends, score the pairs, suppress [gtad_inference.py, gtad_postprocess.py].

        A pair (s, e) with s < e is the segment [s, e) and has the score regression * classification of its cell; the
        boundary probabilities choose the pairs but do not enter the score. As in the reference, e is at most T - 1, so
        that no segment reaches the end of the last step. Among equal scores the shorter segment comes first, then the
        earlier.

        Returns:
            One `Proposals` a video with at most ``config.max_proposals`` segments in steps, float64 scores (many
            suppressions make them smaller than float32 can tell apart) and the class-agnostic label.
        """
        duration, start = self.valid.nonzero(as_tuple=True)
        end = start + duration + 1
        inside = end < self.config.steps
        duration, start, end = duration[inside], start[inside], end[inside]
        likely = _candidates(output.start, edge=0)[:, start] & _candidates(output.end, edge=-1)[:, end]
        scores = output.iou_map.prod(dim=1)[:, duration, start] * likely
        # Most pairs are no candidates: a stable sort brings the others to the front in their order, and cuts the rest.
        order = likely.long().argsort(dim=1, descending=True, stable=True)[:, : int(likely.sum(dim=1).max())]
        segments = torch.stack([start, end], dim=1).to(scores.dtype)[order]
        picks, picked_scores = gaussian_soft_nms(
            segments, scores.gather(1, order), sigma=self.config.nms_sigma, keep=self.config.max_proposals
        )
        proposals = []
        for video_segments, video_picks, video_scores in zip(segments, picks, picked_scores, strict=True):
            found = video_picks >= 0
            labels = torch.full_like(video_picks[found], CLASS_AGNOSTIC)
            proposals.append(Proposals(video_segments[video_picks[found]], video_scores[found], labels))
        return proposals


def segment_windows(valid: Tensor) -> Tensor:
    """List the windows that SGAlign samples [models.py, GraphAlign._get_anchors].

    Args:
        valid: ``(D, T)`` bool, the cells that are segments.

    Returns:
        ``(N + 1, 2)``, start and end in steps, half a segment's length wider at each side: one window a valid cell, in
        row-major order, and the window [0, 0] that the reference gives to all other cells. It counts as one step
        long, so that its bins run from step 0 to step 1.
    """
    duration, start = valid.nonzero(as_tuple=True)
    margin = EXPANSION * (duration + 1)
    windows = torch.stack([start - margin, start + duration + margin], dim=1)
    return F.pad(windows, (0, 0, 0, 1))


def _boundary_target(times: Tensor, steps: int) -> Tensor:
    """Return for each step t the largest share of [t - 0.5, t + 1.5) near one of `times` ``(N,)``: ``(T,)``."""
    low = torch.arange(steps, device=times.device) - 0.5
    high = low + 2
    near_low, near_high = times[:, None] - BOUNDARY_STEPS / 2, times[:, None] + BOUNDARY_STEPS / 2
    overlap = torch.minimum(high, near_high) - torch.maximum(low, near_low)
    return overlap.clamp(min=0).amax(dim=0) / 2


def _balanced_log_loss(probability: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Compute cross entropy in which positives and negatives weigh the same in all [loss_function.py, bi_loss].

    A batch with no positives (or no negatives), on which the reference is undefined, has the other term alone.
    """
    negative = counted & ~positive
    positives, negatives = positive.sum(), negative.sum()
    log_true = torch.log(probability + LOG_EPSILON) * positive
    log_false = torch.log(1 - probability + LOG_EPSILON) * negative
    # With n = n+ + n-: the reference's weights 0.5 n / n+ and 0.5 n / n-, times its mean over n.
    return -0.5 * (log_true.sum() / positives.clamp(min=1) + log_false.sum() / negatives.clamp(min=1))


def _balanced_squared_loss(estimate: Tensor, iou: Tensor, generator: torch.Generator) -> Tensor:
    """Compute half the mean squared error over balanced cells [loss_function.py, pem_reg_loss_func].

    The cells are all of high IoU, and random ones of middle and of low IoU, about as many of each. Where a group has
    fewer than that, all of it is taken (the reference then adds every cell of the map, valid or not).
    """
    high = iou > REGRESSION_HIGH
    middle = (iou > REGRESSION_MIDDLE) & ~high
    low = (iou > 0) & (iou <= REGRESSION_MIDDLE)
    chosen = high
    for group in (middle, low):
        share = high.sum() / group.sum().clamp(min=1)
        draw = torch.rand(group.shape, generator=generator).to(iou.device)
        chosen = chosen | (group & (draw > 1 - share))
    return 0.5 * ((estimate - iou).square() * chosen).sum() / chosen.sum().clamp(min=1)


def _candidates(probability: Tensor, *, edge: int) -> Tensor:
    """Choose the likely boundaries [gtad_inference.py].

    Args:
        probability: ``(B, T)``.
        edge: the step that is always a candidate, 0 for starts and -1 for ends.

    Returns:
        ``(B, T)`` bool: steps higher than both neighbours, and steps above half of the video's highest; of the first
        and the last step, only `edge`.
    """
    before, middle, after = probability[:, :-2], probability[:, 1:-1], probability[:, 2:]
    peak = (middle > before) & (middle > after)
    likely = F.pad(peak | (middle > CANDIDATE_SHARE * probability.amax(dim=1, keepdim=True)), (1, 1))
    likely[:, edge] = True
    return likely
