"""Localizers and captioners: torch, feature steps; no files, no seconds."""

from typing import Any

from baselines.actionformer import ActionFormer
from baselines.bmn import BMN
from baselines.bmt import BMT
from baselines.caption_contract import CaptionBatch, Captioner
from baselines.contract import FeatureBatch, Localizer, Proposals
from baselines.gtad import GTAD

LOCALIZERS: dict[str, type[Localizer[Any, Any]]] = {
    "actionformer": ActionFormer,
    "bmn": BMN,
    "gtad": GTAD,
}

CAPTIONERS: dict[str, type[Captioner]] = {
    "bmt": BMT,
}

__all__ = ["CAPTIONERS", "LOCALIZERS", "CaptionBatch", "Captioner", "FeatureBatch", "Localizer", "Proposals"]
