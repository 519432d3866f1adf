"""Localizers, refiners and captioners: torch, feature steps; no files, no seconds."""

from typing import Any

from baselines.actionformer import ActionFormer
from baselines.bmn import BMN
from baselines.bmt import BMT
from baselines.caption_contract import CaptionBatch, Captioner
from baselines.contract import FeatureBatch, Localizer, Proposals
from baselines.gtad import GTAD
from baselines.pgcn import PGCN
from baselines.refiner_contract import ProposalBatch, Refiner

LOCALIZERS: dict[str, type[Localizer[Any, Any]]] = {
    "actionformer": ActionFormer,
    "bmn": BMN,
    "gtad": GTAD,
}

REFINERS: dict[str, type[Refiner[Any, Any]]] = {
    "pgcn": PGCN,
}

CAPTIONERS: dict[str, type[Captioner]] = {
    "bmt": BMT,
}

__all__ = [
    "CAPTIONERS",
    "LOCALIZERS",
    "REFINERS",
    "CaptionBatch",
    "Captioner",
    "FeatureBatch",
    "Localizer",
    "ProposalBatch",
    "Proposals",
    "Refiner",
]
