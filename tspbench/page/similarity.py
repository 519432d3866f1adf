"""Similarity of neighbouring clip features inside and across the boundaries of actions, for each row."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from evaluation.protocols import DETECTION_PROTOCOLS
from tspbench.errors import UserError
from tspbench.feature_study import NeighbourSimilarity, clip_actions, neighbour_similarity
from tspbench.page.contents import PageRun, RowStyle, Truth, left_out_of
from tspbench.page.tables import Table
from tspbench.page.tracks import Track, contrast_track
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, Rows

MOST_VIDEOS: Final = 200  # that are read, so that a page of a large set takes seconds
KINDS: Final = {"inside": "inside", "background": "outside", "across": "across"}


def similarity(
    run: PageRun, truth: Truth, styles: Mapping[str, RowStyle]
) -> tuple[tuple[list[Track], Table] | None, list[str]]:
    """Compare neighbouring clips of the scored videos, each row in its own features.

    From every feature the mean of all clips that are compared is taken, for a run need not have features of training
    videos; `tspbench.stages.study_features` takes the mean of the training clips, so that its numbers are others.

    Returns:
        Tracks and numbers, None without a row that has them; a sentence for each row whose files cannot be compared.
    """
    files = {row.name: row.files for table in run.tables for row in table.rows if row.files}
    videos = [video for video in _without_ignored(truth) if video.labels][:MOST_VIDEOS]
    tracks, cells, remarks = [], [], []
    for name, paths in files.items():
        try:
            inside, background, across = _means(FeatureFiles([run.folder / path for path in paths]), videos)
        except UserError as error:
            remarks.append(left_out_of("the similarity of features", name, error))
            continue
        title = f"Similarity of neighbouring clips, {name}"
        drawing = contrast_track(title, across, inside, background)
        tracks.append(Track(name, styles[name], drawing, f"{inside - across:+.3f}"))
        cells.append([name, *(f"{value:.3f}" for value in (inside, background, across)), f"{inside - across:+.3f}"])
    head = ["features", "inside actions", "in background", "across a boundary", "inside − across"]
    return (tracks, Table("Mean cosine of neighbouring clips", head, cells)) if tracks else None, remarks


def _without_ignored(truth: Truth) -> Iterator[VideoAnnotations]:
    """Yield the scored videos without the segments of the label that is not to be found, if there is one."""
    ignored = DETECTION_PROTOCOLS[truth.dataset.protocol].ignored_label
    for video in truth.annotations.subset(truth.subset):
        kept = [place for place, label in enumerate(video.labels) if label != ignored]
        yield replace(video, segments=video.segments[kept], labels=tuple(video.labels[place] for place in kept))


def _means(files: FeatureFiles, videos: list[VideoAnnotations]) -> tuple[float, float, float]:
    """Return the mean similarity inside actions, in background and across boundaries.

    Raises:
        UserError: a file is missing or damaged, or one of the three has no pair of clips.
    """
    try:
        rows = {video.name: files.rows(video.name) for video in videos if video.name in files}
        pairs = list(_pairs(files, rows, videos))
    except (OSError, KeyError, RuntimeError) as error:  # what h5py says of damage inside of a file
        raise UserError(f"{files.paths[0]} cannot be read ({error}): make or copy the file again.") from error
    means = []
    for kind in ("inside", "background", "across"):
        values = np.concatenate([getattr(pair, kind) for pair in pairs] or [np.empty(0)])
        if not len(values):
            raise UserError(
                f"{files.paths[0]}: expected neighbouring clips inside, outside and across the ends of actions in "
                f"{len(videos)} scored videos, found none {KINDS[kind]} in the {len(rows)} that it has."
            )
        means.append(float(values.mean()))
    inside, background, across = means
    return inside, background, across


def _pairs(
    files: FeatureFiles, rows: Mapping[str, Rows], videos: list[VideoAnnotations]
) -> Iterator[NeighbourSimilarity]:
    """Yield the similarities of each video, after the mean of all clips is taken from every feature."""
    mean = np.concatenate(list(rows.values())).mean(axis=0, dtype=np.float64) if rows else None
    for video in videos:
        if video.name not in rows or len(rows[video.name]) < 2:
            continue
        duration = files.duration(video.name, video.duration_seconds)
        centres = files.centres(video.name, len(rows[video.name]), duration)
        classes = np.zeros(len(video.labels), dtype=np.int64)
        inside = clip_actions(centres, video.segments, classes) >= 0
        yield neighbour_similarity(rows[video.name], inside, mean)
