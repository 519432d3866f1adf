"""The protocol that every localizer follows, and its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

CLASS_AGNOSTIC = -1
"""The label of a proposal that says "an action", not which."""


@dataclass(frozen=True)
class FeatureBatch:
    """Features of several videos, with what happens in them.

    Attributes:
        features: ``(B, C, T)`` floating point.
        mask: ``(B, T)`` bool, True where a step belongs to the video and False where it is padding.
        segments: one ``(N_i, 2)`` tensor of [start, end) a video, in feature steps; N_i may be 0.
        labels: one ``(N_i,)`` int64 tensor a video.

    Raises:
        ValueError: if the shapes do not belong together.
    """

    features: Tensor
    mask: Tensor
    segments: Sequence[Tensor]
    labels: Sequence[Tensor]

    def __post_init__(self) -> None:
        check_features(self.features, self.mask)
        videos = len(self.features)
        if len(self.segments) != videos or len(self.labels) != videos:
            raise ValueError(
                f"a batch of {videos} videos needs as many segments and labels,"
                f" got {len(self.segments)} and {len(self.labels)}"
            )
        for video, (segments, labels) in enumerate(zip(self.segments, self.labels, strict=True)):
            if segments.shape != (len(labels), 2):
                raise ValueError(
                    f"video {video} of the batch has {len(labels)} labels and segments of shape"
                    f" {tuple(segments.shape)}, expected ({len(labels)}, 2)"
                )

    def to(self, device: torch.device | str) -> Self:
        """Return the same batch on `device`."""
        return type(self)(
            self.features.to(device),
            self.mask.to(device),
            [segments.to(device) for segments in self.segments],
            [labels.to(device) for labels in self.labels],
        )


@dataclass(frozen=True)
class Proposals:
    """What a localizer finds in one video, best first.

    Attributes:
        segments: ``(N, 2)`` float, [start, end) in feature steps.
        scores: ``(N,)`` float, not increasing. Only their order has a meaning within one video.
        labels: ``(N,)`` int64; `CLASS_AGNOSTIC` where the localizer does not tell classes apart.

    Raises:
        ValueError: if the shapes do not belong together or the labels are not int64.
    """

    segments: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.segments.shape != (count, 2) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                "expected segments (N, 2), scores (N,) and labels (N,), got"
                f" {tuple(self.segments.shape)}, {tuple(self.scores.shape)} and {tuple(self.labels.shape)}"
            )
        if self.labels.dtype != torch.int64:
            raise ValueError(f"expected labels of type int64, got {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.scores)


def check_features(features: Tensor, mask: Tensor) -> None:
    """Check the input that every localizer takes.

    Raises:
        ValueError: unless `features` is floating point ``(B, C, T)`` and `mask` is bool ``(B, T)``.
    """
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(f"expected floating point features (B, C, T), got {features.dtype} {tuple(features.shape)}")
    expected = (features.shape[0], features.shape[2])
    if mask.shape != expected or mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask {expected}, got {mask.dtype} {tuple(mask.shape)}")


class LocalizerTargets(Protocol):
    """What a localizer is trained towards: tensors of a fixed size a video, whatever happens in it."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same targets on `device`."""


Output = TypeVar("Output")
Targets = TypeVar("Targets", bound=LocalizerTargets)


class Localizer(Protocol[Output, Targets]):
    """Finds segments in a sequence of features. Every localizer is a `torch.nn.Module` as well.

    A localizer is built from its settings, ``Name(Name.Config(feature_dim=512))``, and speaks of time in feature
    steps only; whoever knows seconds converts. Step t covers [t, t + 1).
    """

    Config: ClassVar[type[Any]]
    """A strict, frozen pydantic model. It has `feature_dim` (C), `steps` (the T it is trained on), `max_proposals` and,
    if the localizer tells classes apart, `classes` (their number, 0: it does not); every setting but `feature_dim` has
    a default, the paper's or its release's."""

    takes_padding: ClassVar[bool]
    """Whether a mask may have a False: else the T steps are all of a video's, or of a window of it."""

    def __init__(self, config: Any) -> None: ...

    def __call__(self, features: Tensor, mask: Tensor) -> Output:
        """Apply the network.

        In training its random layers, if it has any, draw from torch's global generator: whoever trains seeds it.

        Args:
            features: ``(B, C, T)``; T is ``config.steps``, but any length where the localizer takes padding and is in
                evaluation mode.
            mask: ``(B, T)`` bool, True on steps of the video, which come first.

        Returns:
            A tensor or a frozen dataclass of tensors, each video's part of which depends on that video alone.
        """

    def targets(self, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Turn annotations into what the output is compared with.

        Cheap enough for the data pipeline, and on the device of `segments`.

        Args:
            segments: one ``(N_i, 2)`` tensor a video, in feature steps.
            labels: one ``(N_i,)`` tensor a video.
        """

    def loss(self, output: Output, targets: Targets, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Compare output and targets.

        Args:
            output: what the network returned.
            targets: of the same videos, on the same device.
            generator: a generator on the CPU, from which all random choices are drawn.

        Returns:
            Scalars by name: ``"total"``, to be minimised, and the parts it is made of.
        """

    def decode(self, output: Output) -> list[Proposals]:
        """Turn output into proposals, overlapping ones suppressed: one `Proposals` a video."""

    def suppress(self, candidates: Sequence[Proposals]) -> list[Proposals]:
        """Suppress overlapping candidates as `decode` does, for a video that was seen in windows.

        Args:
            candidates: one `Proposals` a video, in any order, in steps of the length that `decode` speaks of.

        Returns:
            One `Proposals` a video, at most ``config.max_proposals`` each.
        """

    def grid(self) -> Tensor | None:
        """Return every segment that `decode` may propose, ``(M, 2)`` in steps; None: any segment."""
