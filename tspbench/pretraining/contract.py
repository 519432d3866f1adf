"""What an encoder is taught with: labelled segments in, a loss and accuracies out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKGROUND = -1  # action label of a clip outside every action; carries no action loss


@dataclass(frozen=True)
class ClipLabels:
    """Labels of a batch of clips.

    Args:
        action: (B,) int64, index of the action class, `BACKGROUND` outside every action.
        region: (B,) int64, 0 inside an action, 1 outside (the order of TSP's released heads).
        gvf: (B, D) float32, the global feature of the video that each clip is from; None where no method asks.
    """

    action: Tensor
    region: Tensor
    gvf: Tensor | None

    def to(self, device: torch.device) -> "ClipLabels":
        """Return the same labels on ``device``."""
        return ClipLabels(
            self.action.to(device), self.region.to(device), None if self.gvf is None else self.gvf.to(device)
        )


@dataclass(frozen=True)
class HeadOptions:
    """What a method's heads are built from.

    Args:
        feature_dim: length of the encoder's feature.
        classes: number of action classes.
        heads: which of the method's heads are trained.
        gvf_dim: length of the global video feature, 0 for none.
        weights: head → factor of its loss; 1 for those that are not named, as published.
    """

    feature_dim: int
    classes: int
    heads: tuple[str, ...]
    gvf_dim: int
    weights: Mapping[str, float]


class PretrainingMethod(Protocol):
    """An `torch.nn.Module` built as ``Method(encoder, options)``; only the encoder's weights serve extraction."""

    all_heads: ClassVar[tuple[str, ...]]
    wants_background: ClassVar[bool]
    encoder: nn.Module
    heads: nn.ModuleDict

    def __call__(self, clips: Tensor, labels: ClipLabels) -> dict[str, Tensor]:
        """Return each head's (B, classes) logits for clips (B, 3, F, H, W)."""

    def loss(self, logits: Mapping[str, Tensor], labels: ClipLabels) -> dict[str, Tensor]:
        """Return the loss of each head and their weighted sum as "total"."""


def new_head(inputs: int, outputs: int) -> nn.Linear:
    """Return a classification head, weights from N(0, 0.01), bias 0 (TSP models/model.py)."""
    head = nn.Linear(inputs, outputs)
    nn.init.normal_(head.weight, 0.0, 0.01)
    nn.init.zeros_(head.bias)
    return head


def action_loss(logits: Tensor, action: Tensor) -> Tensor:
    """Return the mean cross-entropy of the clips that have an action, 0 if none has: not 0 / 0.

    Args:
        logits: (B, classes).
        action: (B,) class indices, `BACKGROUND` for none.
    """
    summed = F.cross_entropy(logits.float(), action, ignore_index=BACKGROUND, reduction="sum")
    return summed / (action != BACKGROUND).sum().clamp(min=1)


Answers = Mapping[str, Counter[tuple[int, int]]]
"""Head → (true class, given class) → how many clips."""


def count_answers(logits: Mapping[str, Tensor], labels: ClipLabels) -> Answers:
    """Count what each head says of a batch; background clips do not count for the action head."""
    counts = {}
    for head, values in logits.items():
        truth = labels.action if head == "action" else labels.region
        counted = truth != BACKGROUND
        given = values.argmax(1)[counted]
        counts[head] = Counter(zip(truth[counted].tolist(), given.tolist(), strict=True))
    return counts


def added_up(counts: Iterable[Answers]) -> Answers:
    """Add up the counts of many batches."""
    total: dict[str, Counter[tuple[int, int]]] = {}
    for batch in counts:
        for head, answers in batch.items():
            total.setdefault(head, Counter()).update(answers)
    return total


def accuracies(answers: Answers) -> dict[str, float]:
    """Return the accuracy of each head that was asked, and their mean, by which epochs are compared."""
    each = {
        f"{head}_accuracy": sum(many for (true, given), many in counts.items() if true == given) / counts.total()
        for head, counts in answers.items()
        if counts.total()
    }
    return {**each, "mean_accuracy": sum(each.values()) / len(each)} if each else {}


def constant_heads(answers: Answers) -> dict[str, int]:
    """Return the heads that say the same of every clip though clips differ, and what: they have learned nothing."""
    found = {}
    for head, counts in answers.items():
        given = {answer for _, answer in counts}
        if len(given) == 1 and len({true for true, _ in counts}) > 1:
            found[head] = given.pop()
    return found
