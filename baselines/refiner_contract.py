"""The protocol that every refiner of proposals follows, and its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

from baselines.contract import Proposals


@dataclass(frozen=True)
class ProposalBatch:
    """Candidate segments of several videos, with the features they lie in and what really happens there.

    Attributes:
        features: one ``(C, T_i)`` floating point tensor a video.
        proposals: one ``(N_i, 2)`` tensor of [start, end) a video, in feature steps, best first; N_i may be 0.
        scores: one ``(N_i,)`` tensor a video: of whoever proposed them.
        segments: one ``(M_i, 2)`` tensor of true [start, end) a video, in feature steps; M_i may be 0.
        labels: one ``(M_i,)`` int64 tensor a video.

    Raises:
        ValueError: if the shapes do not belong together.
    """

    features: Sequence[Tensor]
    proposals: Sequence[Tensor]
    scores: Sequence[Tensor]
    segments: Sequence[Tensor]
    labels: Sequence[Tensor]

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.features, self.proposals, self.scores, self.segments, self.labels)]
        if len(set(counts)) != 1:
            raise ValueError(f"expected as many of each part as there are videos, got {counts}")
        parts = zip(self.features, self.proposals, self.scores, self.segments, self.labels, strict=True)
        for video, (features, proposals, scores, segments, labels) in enumerate(parts):
            if features.ndim != 2 or not features.is_floating_point():
                raise ValueError(f"video {video}: expected floating point features (C, T), got {tuple(features.shape)}")
            for name, pairs, singles in (("proposals", proposals, scores), ("segments", segments, labels)):
                if pairs.shape != (len(singles), 2):
                    raise ValueError(f"video {video}: expected {name} ({len(singles)}, 2), got {tuple(pairs.shape)}")


class RefinerGraphs(Protocol):
    """What a refiner looks at: tensors alone, made by its `Refiner.graphs`."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""


Output = TypeVar("Output")
Graphs = TypeVar("Graphs", bound=RefinerGraphs)


class Refiner(Protocol[Output, Graphs]):
    """Classifies the proposals of somebody else and moves their boundaries. A `torch.nn.Module` as well.

    Built from its settings, ``Name(Name.Config(feature_dim=512, classes=20))``; it speaks of time in feature steps.
    """

    Config: ClassVar[type[Any]]
    """A strict, frozen pydantic model with `feature_dim` (C), `classes` and `max_proposals`; every other setting has a
    default, the paper's or its release's."""

    def __init__(self, config: Any) -> None: ...

    def graphs(self, batch: ProposalBatch, generator: torch.Generator | None) -> Graphs:
        """Look up what the network needs; no gradient flows, cheap enough for the data pipeline.

        Args:
            batch: of one video or several.
            generator: on the CPU, from which all random choices are drawn. None: prediction; every proposal is looked
                at, and what follows is the same each time.
        """

    def __call__(self, graphs: Graphs) -> Output:
        """Apply the network; in training its random layers draw from torch's global generator."""

    def loss(self, output: Output, graphs: Graphs) -> Mapping[str, Tensor]:
        """Return scalars by name: ``"total"``, to be minimised, and its parts. Only for graphs drawn by a generator."""

    def decode(self, output: Output, graphs: Graphs) -> list[Proposals]:
        """Return the refined segments with classes of each video of the batch, overlapping ones suppressed."""
