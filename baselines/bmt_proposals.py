"""BMT's proposal generator: anchors at every row of the encoded streams (Iashin and Rahtu, BMVC 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator
from torch import Tensor, nn

from baselines.attention import module_list
from baselines.caption_contract import Streams
from baselines.contract import CLASS_AGNOSTIC, Proposals

# Constants of the released code, github.com/v-iashin/BMT, main.py.
VISUAL_KERNELS: Final = (1, 5, 9, 13, 19, 25, 35, 45, 61, 79)
"""Widths of the first convolution of each head on the visual stream, in rows."""
AUDIO_KERNELS: Final = (5, 13, 23, 35, 51, 69, 91, 121, 161, 211)
"""The same on the audio stream."""
VISUAL_ANCHORS: Final = 128
"""How many anchors a row of the visual stream has."""
AUDIO_ANCHORS: Final = 48
"""The same of the audio stream."""

NUMBERS = 3  # that an anchor predicts: centre, length and confidence [model/proposal_generator.py]
MOST_ROUNDS = 300  # of k-means

Kernel = Annotated[int, Field(ge=1)]
Anchor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Read from TOML and JSON, whose arrays become lists.
Kernels = Annotated[tuple[Kernel, ...], Strict(False), Field(min_length=1)]
Anchors = Annotated[tuple[Anchor, ...], Strict(False), Field(min_length=1)]


class ProposalGeneratorConfig(BaseModel):
    """Settings of the proposal generator; the defaults are those of the release."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    stream_dims: Annotated[tuple[int, ...], Strict(False)] = Field(
        min_length=1, description="channels of each encoded stream"
    )
    kernels: Annotated[tuple[Kernels, ...], Strict(False)] = Field(
        description="of each stream, the width in rows of each head's first convolution; odd"
    )
    anchors: Annotated[tuple[Anchors, ...], Strict(False)] = Field(
        description="of each stream, the lengths that are typical of segments, in steps"
    )
    hidden: int = Field(default=512, gt=0, description="channels of a head's two hidden layers")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations left out in training")
    object_weight: float = Field(default=1.0, ge=0, description="of the confidence of anchors with a segment")
    no_object_weight: float = Field(default=100.0, ge=0, description="of the confidence of anchors without one")
    max_proposals: int = Field(default=100, ge=1, description="proposals a video")
    min_duration: float = Field(default=0.0, ge=0, description="steps; proposals that are not longer are dropped")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        counts = len(self.stream_dims), len(self.kernels), len(self.anchors)
        if len(set(counts)) > 1:
            raise ValueError(f"there are {counts[0]} streams, and kernels of {counts[1]} and anchors of {counts[2]}")
        if even := [kernel for kernels in self.kernels for kernel in kernels if kernel % 2 == 0]:
            raise ValueError(f"kernels have to be odd, got {even}")
        return self


@dataclass(frozen=True)
class ProposalGeneratorOutput:
    """What each head says at each row of each stream; each tuple has an entry a stream.

    Attributes:
        logits: ``(B, heads, anchors, 3, T)`` float32: the centre within the row before the sigmoid, the logarithm of
            the length over the anchor's, and the confidence before the sigmoid; without meaning at padding.
        masks: ``(B, T)`` bool, True at rows of the video.
        row_steps: ``(B,)``, how long a row is in steps.
    """

    logits: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    row_steps: tuple[Tensor, ...]


@dataclass(frozen=True)
class ProposalGeneratorTargets:
    """Which anchors answer for a segment, and with what; each tuple has an entry a stream, M its answers.

    Attributes:
        places: ``(3, M)`` int64, the number of the video, of the anchor and of the row; no two are equal.
        centres: ``(M,)`` float32 in [0, 1], where in the row the segment's centre is.
        lengths: ``(M,)`` float32, the logarithm of the segment's length over the anchor's.
    """

    places: tuple[Tensor, ...]
    centres: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> Self:
        """Return the same targets on `device`."""
        parts = (self.places, self.centres, self.lengths)
        return type(self)(*(tuple(tensor.to(device) for tensor in part) for part in parts))


class StreamHeads(nn.Module):
    """The heads of one stream, convolutions along time [model/proposal_generator.py, ProposalGenerationHead]."""

    def __init__(self, config: ProposalGeneratorConfig, stream: int) -> None:
        super().__init__()
        hidden, numbers = config.hidden, NUMBERS * len(config.anchors[stream])
        self.heads = module_list(
            nn.Sequential(
                nn.Conv1d(config.stream_dims[stream], hidden, kernel, padding=kernel // 2),
                nn.Dropout(config.dropout),
                nn.ReLU(),
                nn.Conv1d(hidden, hidden, kernel_size=1),
                nn.Dropout(config.dropout),
                nn.ReLU(),
                nn.Conv1d(hidden, numbers, kernel_size=1),
            )
            for kernel in config.kernels[stream]
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Map ``(B, C, T)``, of which rows are real where `mask` is True, to ``(B, heads, anchors, 3, T)`` float32."""
        rows = features.masked_fill(~mask[:, None], 0.0)
        logits = torch.stack([head(rows) for head in self.heads], dim=1)
        return torch.unflatten(logits, 2, (-1, NUMBERS)).float()


class ProposalGenerator(nn.Module):
    """The heads of BMT's proposal generator [model/proposal_generator.py], in feature steps.

    It reads the streams that a captioner's `encode` returns. At every row, each head of a stream predicts for each
    anchor a segment and how sure it is of it.

    Where it is not the release, and why: padding is zeros before the first convolution and has neither predictions nor
    losses (there it is trained as if nothing happened, and may be proposed), so that a video does not depend on those
    beside it. A batch in which nothing happens has a loss of 0 for what is found, which is NaN there. The centre of a
    segment whose centre lies beyond the last row is the end of that row (there, its fraction of a row further on).
    """

    Config: ClassVar[type[ProposalGeneratorConfig]] = ProposalGeneratorConfig

    def __init__(self, config: ProposalGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = module_list(StreamHeads(config, stream) for stream in range(len(config.stream_dims)))

    def forward(self, streams: Streams) -> ProposalGeneratorOutput:
        """Apply the heads to encoded streams of B videos.

        Raises:
            ValueError: if the streams are not those of the settings.
        """
        dims = tuple(stream.features.shape[1] for stream in streams)
        if dims != self.config.stream_dims:
            raise ValueError(f"expected streams of {self.config.stream_dims} channels, got {dims}")
        return ProposalGeneratorOutput(
            tuple(heads(stream.features, stream.mask) for heads, stream in zip(self.streams, streams, strict=True)),
            tuple(stream.mask for stream in streams),
            tuple(stream.row_steps for stream in streams),
        )

    def targets(self, segments: Sequence[Tensor], streams: Streams) -> ProposalGeneratorTargets:
        """Give each segment to one anchor of one row of each stream, the same for all heads [make_targets].

        The anchor is that whose length has the highest IoU with the segment's, the first among equals; the row is that
        of the segment's centre, or the last if the centre is beyond. Of segments with the same place the last one
        counts. All other places are without a segment, however close they are.

        Args:
            segments: one ``(N_i, 2)`` tensor a video, [start, end) in steps.
            streams: of the same videos.

        Raises:
            ValueError: if a segment is not finite or does not end after it starts.
        """
        device = streams[0].mask.device
        counts = torch.tensor([len(each) for each in segments])
        video = torch.arange(len(segments)).repeat_interleave(counts).to(device)
        start, end = torch.cat([each.to(device) for each in segments]).double().unbind(dim=1)
        if not bool(((start < end) & start.isfinite() & end.isfinite()).all()):
            raise ValueError("expected finite segments that end after they start")
        places, centres, lengths = [], [], []
        for stream, anchors in zip(streams, self._anchors(device), strict=True):
            length = (end - start)[:, None]
            anchor = (torch.minimum(length, anchors) / torch.maximum(length, anchors)).argmax(dim=1)
            centre = (start + end) / 2 / stream.row_steps.double()[video]
            rows = stream.mask.sum(dim=1)[video]
            row = torch.minimum(centre.clamp(min=0).long(), rows - 1)
            key = (video * len(anchors) + anchor) * stream.mask.shape[1] + row
            order = key.argsort(stable=True)
            key = key[order]
            kept = order[torch.cat([key[1:] != key[:-1], key.new_ones(len(key[:1]), dtype=torch.bool)])]
            places.append(torch.stack([video, anchor, row])[:, kept])
            centres.append((centre - row).clamp(0, 1)[kept].float())
            lengths.append((length[:, 0] / anchors[anchor]).log()[kept].float())
        return ProposalGeneratorTargets(tuple(places), tuple(centres), tuple(lengths))

    def loss(self, output: ProposalGeneratorOutput, targets: ProposalGeneratorTargets) -> dict[str, Tensor]:
        """Compare output and targets, each part a mean over the batch and a sum over heads and streams.

        Returns:
            Scalars ``total``, which is ``centre + length + object_weight * object + no_object_weight * no_object``;
            ``centre`` and ``length``, squared errors where there is a segment; ``object`` and ``no_object``, cross
            entropy of the confidence where there is one and where there is none.
        """
        losses = []
        for stream, (logits, mask) in enumerate(zip(output.logits, output.masks, strict=True)):
            video, anchor, row = targets.places[stream]
            count = max(len(video), 1)
            found = logits[video, :, anchor, :, row]  # (M, heads, 3)
            centre = (found[:, :, 0].sigmoid() - targets.centres[stream][:, None]).square().sum() / count
            length = (found[:, :, 1] - targets.lengths[stream][:, None]).square().sum() / count
            is_object = F.softplus(-found[:, :, 2]).sum() / count
            free = mask[:, None].repeat(1, logits.shape[2], 1)
            free[video, anchor, row] = False
            nothing = (F.softplus(logits[:, :, :, 2]) * free[:, None]).sum() / free.sum().clamp(min=1)
            losses.append(torch.stack([centre, length, is_object, nothing]))
        centre, length, is_object, nothing = torch.stack(losses).sum(dim=0)
        parts = {"centre": centre, "length": length, "object": is_object, "no_object": nothing}
        confidence = self.config.object_weight * is_object + self.config.no_object_weight * nothing
        return {"total": centre + length + confidence, **parts}

    @torch.no_grad()
    def decode(self, output: ProposalGeneratorOutput) -> list[Proposals]:
        """Return what the heads of all streams are most sure of, overlapping or not [utilities/proposal_utils.py].

        The best ``config.max_proposals`` are clipped to the rows of the first stream, then those dropped that are not
        longer than ``config.min_duration``. Among equal confidences the earlier stream comes first, then the earlier
        head, anchor and row.

        Returns:
            One `Proposals` a video, in steps, with the confidences as scores and the class-agnostic label.
        """
        count = self.config.max_proposals
        anchors = self._anchors(output.masks[0].device)
        streams = zip(output.logits, output.masks, output.row_steps, anchors, strict=True)
        best = torch.cat([_best_of_stream(*each, count=count) for each in streams], dim=1)
        order = best[:, :, 2].argsort(dim=1, descending=True, stable=True)[:, :count]
        best = best.take_along_dim(order[:, :, None], dim=1)
        extent = output.masks[0].sum(dim=1) * output.row_steps[0]
        segments = best[:, :, :2].clamp(min=0).minimum(extent[:, None, None]).float()
        long_enough = segments[:, :, 1] - segments[:, :, 0] > self.config.min_duration
        kept = long_enough & (best[:, :, 2] > -math.inf)
        scores = best[:, :, 2].sigmoid().float()
        return [
            Proposals(each[keep], score[keep], torch.full_like(score[keep], CLASS_AGNOSTIC, dtype=torch.int64))
            for each, score, keep in zip(segments, scores, kept, strict=True)
        ]

    def _anchors(self, device: torch.device) -> list[Tensor]:
        return [torch.tensor(anchors, dtype=torch.float64, device=device) for anchors in self.config.anchors]


def _best_of_stream(logits: Tensor, mask: Tensor, row_steps: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Return the start, end and confidence logit, -inf at padding, ``(B, <= count, 3)`` float64, of the most sure."""
    rows = logits.shape[4]
    confidence = logits[:, :, :, 2].masked_fill(~mask[:, None, None], -math.inf).flatten(1)
    count = min(count, confidence.shape[1])
    place = torch.stack([_first_best(video, count) for video in confidence])
    head, anchor, row = place // (rows * len(anchors)), place // rows % len(anchors), place % rows
    video = torch.arange(len(logits), device=logits.device)[:, None]
    chosen = logits[video, head, anchor, :, row].double()
    centre = (row + chosen[:, :, 0].sigmoid()) * row_steps.double()[:, None]
    half = anchors[anchor] * chosen[:, :, 1].exp() / 2
    return torch.stack([centre - half, centre + half, confidence.gather(1, place).double()], dim=2)


def _first_best(scores: Tensor, count: int) -> Tensor:
    """Return the places of the highest `count` of ``(N,)``, best first, the first among equals.

    Not `topk` alone, which leaves open which of several equals it takes, nor a sort of all, which is slower.
    """
    (places,) = (scores >= scores.topk(count).values[-1]).nonzero(as_tuple=True)
    return places[scores[places].argsort(descending=True, stable=True)[:count]]


def anchor_lengths(lengths: NDArray[np.float64], count: int, seed: int) -> tuple[float, ...]:
    """Cluster the lengths of segments by k-means; BMT's anchors are the means [calc_anchors_using_kmeans].

    It starts, as the release, from lengths drawn at random, but from different ones. A cluster that runs empty starts
    anew at the length that is farthest from its mean.

    Args:
        lengths: ``(N,)``, finite and above 0, in any unit.
        count: how many anchors, at least 1.
        seed: of the first means.

    Returns:
        ``count`` means in rising order, or all lengths if there are not more than `count` different ones.

    Raises:
        ValueError: if there is no length, or numbers are not as said above.
    """
    if lengths.ndim != 1 or not len(lengths) or not (np.isfinite(lengths) & (lengths > 0)).all() or count < 1:
        raise ValueError(f"expected finite lengths (N,) above 0, N and count at least 1, got {lengths} and {count}")
    values, weights = np.unique(lengths.astype(np.float64), return_counts=True)
    count = min(count, len(values))
    drawn = np.random.default_rng(seed).choice(values, count, replace=False, p=weights / weights.sum())
    means = np.sort(drawn)
    for _ in range(MOST_ROUNDS):
        nearest = np.searchsorted((means[1:] + means[:-1]) / 2, values)
        size = np.bincount(nearest, weights, count)
        moved = np.bincount(nearest, weights * values, count) / np.maximum(size, 1)
        farthest = np.argsort(-np.abs(values - moved[nearest]), kind="stable")
        moved[size == 0] = values[farthest[: np.count_nonzero(size == 0)]]
        moved.sort()
        if np.array_equal(moved, means):
            break
        means = moved
    return tuple(means.tolist())
