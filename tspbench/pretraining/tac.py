"""TAC: trimmed action classification, clips of actions alone."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from tspbench.pretraining.contract import ClipLabels, HeadOptions, action_loss, new_head


class Tac(nn.Module):
    """One linear head on the clip feature, cross-entropy over the action classes (TSP, train/train_tac.sh)."""

    all_heads: ClassVar[tuple[str, ...]] = ("action",)
    wants_background: ClassVar[bool] = False

    def __init__(self, encoder: nn.Module, options: HeadOptions) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({"action": new_head(options.feature_dim, options.classes)})

    def forward(self, clips: Tensor, labels: ClipLabels) -> dict[str, Tensor]:  # noqa: ARG002 - the contract's shape
        """Return the action logits (B, classes) of clips (B, 3, F, H, W)."""
        return {"action": self.heads["action"](self.encoder(clips))}

    def loss(self, logits: Mapping[str, Tensor], labels: ClipLabels) -> dict[str, Tensor]:
        """Return the cross-entropy of the foreground clips."""
        action = action_loss(logits["action"], labels.action)
        return {"action": action, "total": action}
