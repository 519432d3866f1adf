"""TSP: temporally-sensitive pretraining, an action head and a foreground / background head."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tspbench.pretraining.contract import ClipLabels, HeadOptions, action_loss, new_head


class Tsp(nn.Module):
    """Two linear heads: the action class of the clip feature f, and the region of [f, GVF] (TSP, models/model.py).

    The global video feature (GVF) is frozen: it comes with the labels. Either head can be left out (the paper's
    ablation); without a GVF the region head sees f alone.
    """

    all_heads: ClassVar[tuple[str, ...]] = ("action", "region")
    wants_background: ClassVar[bool] = True

    def __init__(self, encoder: nn.Module, options: HeadOptions) -> None:
        super().__init__()
        self.encoder = encoder
        self._weights = dict(options.weights)
        self._uses_gvf = options.gvf_dim > 0
        outputs = {
            "action": (options.feature_dim, options.classes),
            "region": (options.feature_dim + options.gvf_dim, 2),
        }
        self.heads = nn.ModuleDict({head: new_head(*outputs[head]) for head in options.heads})

    def forward(self, clips: Tensor, labels: ClipLabels) -> dict[str, Tensor]:
        """Return the action logits (B, classes) and region logits (B, 2) of clips (B, 3, F, H, W)."""
        features = self.encoder(clips)
        inputs = {"action": features, "region": features}
        if self._uses_gvf:
            assert labels.gvf is not None, "this method was built with a GVF"  # noqa: S101 - a bug, not a mistake
            inputs["region"] = torch.cat([features, labels.gvf.to(features.dtype)], dim=1)
        return {head: layer(inputs[head]) for head, layer in self.heads.items()}

    def loss(self, logits: Mapping[str, Tensor], labels: ClipLabels) -> dict[str, Tensor]:
        """Return the cross-entropies and their weighted sum; background clips carry no action loss."""
        parts = {}
        if "action" in logits:
            parts["action"] = action_loss(logits["action"], labels.action)
        if "region" in logits:
            parts["region"] = F.cross_entropy(logits["region"].float(), labels.region)
        total = torch.stack([self._weights.get(head, 1.0) * part for head, part in parts.items()]).sum()
        return {**parts, "total": total}
