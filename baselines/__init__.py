"""Localizers: torch, feature steps; no files, no seconds."""

from typing import Any

from baselines.actionformer import ActionFormer
from baselines.bmn import BMN
from baselines.contract import FeatureBatch, Localizer, Proposals
from baselines.gtad import GTAD

LOCALIZERS: dict[str, type[Localizer[Any, Any]]] = {
    "actionformer": ActionFormer,
    "bmn": BMN,
    "gtad": GTAD,
}

__all__ = ["LOCALIZERS", "FeatureBatch", "Localizer", "Proposals"]
