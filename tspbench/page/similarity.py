"""Similarity of neighbouring clip features inside and across the boundaries of actions, for each row."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from tspbench.errors import UserError
from tspbench.feature_study import clip_actions, neighbour_similarity
from tspbench.page.contents import PageRun, RowStyle, Truth
from tspbench.page.tables import Table
from tspbench.page.tracks import Track, contrast_track
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles

MOST_VIDEOS: Final = 200  # that are read, so that a page of a large set takes seconds


def similarity(run: PageRun, truth: Truth, styles: Mapping[str, RowStyle]) -> tuple[list[Track], Table] | None:
    """Compare neighbouring clips of the scored videos, each row in its own features; None without feature files."""
    files = {row.name: row.files for table in run.tables for row in table.rows if row.files}
    videos = [video for video in truth.annotations.subset(truth.subset) if video.labels][:MOST_VIDEOS]
    tracks, cells = [], []
    for name, paths in files.items():
        found = _means(FeatureFiles([run.folder / path for path in paths]), videos)
        if found is None:
            continue
        inside, background, across = found
        title = f"Similarity of neighbouring clips, {name}"
        drawing = contrast_track(title, across, inside, background)
        tracks.append(Track(name, styles[name], drawing, f"{inside - across:+.3f}"))
        cells.append([name, *(f"{value:.3f}" for value in (inside, background, across)), f"{inside - across:+.3f}"])
    if not tracks:
        return None
    head = ["features", "inside actions", "in background", "across a boundary", "inside − across"]
    return tracks, Table("Mean cosine of neighbouring clips", head, cells)


def _means(files: FeatureFiles, videos: list[VideoAnnotations]) -> tuple[float, float, float] | None:
    """Return the mean similarity inside actions, in background and across boundaries; None if one has no pair."""
    try:
        rows = {video.name: np.asarray(files.rows(video.name)) for video in videos if video.name in files}
        pairs = list(_pairs(files, rows, videos))
    except (UserError, OSError):
        return None
    kinds = [np.concatenate([getattr(pair, kind) for pair in pairs] or [np.empty(0)]) for kind in
             ("inside", "background", "across")]  # fmt: skip
    if not all(len(values) for values in kinds):
        return None
    inside, background, across = (float(values.mean()) for values in kinds)
    return inside, background, across


def _pairs(files: FeatureFiles, rows: Mapping[str, Any], videos: list[VideoAnnotations]) -> Iterator[Any]:
    """Yield the similarities of each video, after the mean of all clips is taken from every feature."""
    if not rows or any(each.ndim != 2 for each in rows.values()):
        return
    mean = np.concatenate(list(rows.values())).mean(axis=0, dtype=np.float64)
    for video in videos:
        if video.name not in rows or len(rows[video.name]) < 2:
            continue
        duration = files.duration(video.name, video.duration_seconds)
        centres = files.centres(video.name, len(rows[video.name]), duration)
        classes = np.zeros(len(video.labels), dtype=np.int64)
        inside = clip_actions(centres, video.segments, classes) >= 0
        yield neighbour_similarity(rows[video.name], inside, mean)
