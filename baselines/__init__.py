"""Localizers: torch, feature steps; no files, no seconds."""

from typing import Any

from baselines.contract import FeatureBatch, Localizer, Proposals
from baselines.gtad import GTAD

LOCALIZERS: dict[str, type[Localizer[Any, Any]]] = {
    "gtad": GTAD,
}

__all__ = ["LOCALIZERS", "FeatureBatch", "Localizer", "Proposals"]
