"""Builders of small inputs, and the way to the reference numbers."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from evaluation import CLASS_AGNOSTIC, Captions, GroundTruth, Predictions

# Beside the repository, not in it: annotations and reference scores are too large to commit.
SHARED = Path(__file__).resolve().parents[3] / "shared"

TruthRow = tuple[str, str, float, float]
CaptionRow = tuple[str, float, float, str]
PredictionRow = tuple[str, str, float, float, float]


def shared(name: str) -> Path:
    """Return the path of a reference file; skip the test where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference data is missing: {path}")
    return path


def truth(
    rows: Iterable[TruthRow], videos: Iterable[str] | None = None, labels: Iterable[str] | None = None
) -> GroundTruth:
    """Build a ground truth from rows (video, label, start, end)."""
    rows = list(rows)
    videos = tuple(dict.fromkeys(row[0] for row in rows)) if videos is None else tuple(videos)
    labels = tuple(dict.fromkeys(row[1] for row in rows)) if labels is None else tuple(labels)
    return GroundTruth(
        videos=videos,
        labels=labels,
        video=np.array([videos.index(row[0]) for row in rows], dtype=np.int64),
        start=np.array([row[2] for row in rows], dtype=np.float64),
        end=np.array([row[3] for row in rows], dtype=np.float64),
        label=np.array([labels.index(row[1]) for row in rows], dtype=np.int64),
    )


def predicted(
    rows: Iterable[PredictionRow], videos: Iterable[str] | None = None, labels: Iterable[str] | None = None
) -> Predictions:
    """Build predictions from rows (video, label or "", start, end, score)."""
    rows = list(rows)
    videos = tuple(dict.fromkeys(row[0] for row in rows)) if videos is None else tuple(videos)
    labels = tuple(dict.fromkeys(row[1] for row in rows if row[1])) if labels is None else tuple(labels)
    return Predictions(
        video=np.array([videos.index(row[0]) for row in rows], dtype=np.int64),
        start=np.array([row[2] for row in rows], dtype=np.float64),
        end=np.array([row[3] for row in rows], dtype=np.float64),
        score=np.array([row[4] for row in rows], dtype=np.float64),
        label=np.array([labels.index(row[1]) if row[1] else CLASS_AGNOSTIC for row in rows], dtype=np.int64),
        videos=videos,
        labels=labels,
    )


def captions_of(rows: Iterable[CaptionRow], videos: Iterable[str] | None = None) -> Captions:
    """Build captions from rows (video, start, end, sentence)."""
    rows = list(rows)
    videos = tuple(dict.fromkeys(row[0] for row in rows)) if videos is None else tuple(videos)
    return Captions(
        videos=videos,
        video=np.array([videos.index(row[0]) for row in rows], dtype=np.int64),
        start=np.array([row[1] for row in rows], dtype=np.float64),
        end=np.array([row[2] for row in rows], dtype=np.float64),
        sentences=tuple(row[3] for row in rows),
    )
