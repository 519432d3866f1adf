"""Which reader an annotation or prediction file needs, by its name.

A folder holds THUMOS14 annotation texts, a .txt its detections. A .csv, plain or gzipped, holds THUMOS14 annotations
where its columns are theirs, and else a table of video, start, end and label. Everything else is ActivityNet JSON,
plain or gzipped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from evaluation.segments import GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.storage.annotations import Annotations, read_annotations
from tspbench.storage.predictions import read_predictions
from tspbench.storage.segment_table import columns, read_segment_table
from tspbench.storage.thumos import read_thumos_csv, read_thumos_detections, read_thumos_folder

# Columns that only the THUMOS14 table has.
THUMOS_COLUMNS: Final = frozenset({"t-init", "label-idx"})


def read_ground_truth(paths: Sequence[Path]) -> Annotations:
    """Read annotations of any format; several files are joined.

    Raises:
        UserError: a file does not fit its format, or two files hold the same video.
    """
    parts = [_read_part(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    seen: dict[str, Path] = {}
    for part in parts:
        for video in part.videos:
            if video.name in seen:
                raise UserError(
                    f"{part.path}, video {video.name!r}: expected a video that no other file has, found it in "
                    f"{seen[video.name]}, too; give each video once."
                )
            seen[video.name] = part.path
    return Annotations(parts[0].path, tuple(video for part in parts for video in part.videos))


def read_any_predictions(
    path: Path, ground_truth: GroundTruth, *, keep_unknown: bool = False, labelled: bool = True
) -> Predictions:
    """Read predictions of any format, see ``tspbench.storage.predictions.read_predictions``."""
    if path.suffix == ".txt":
        return read_thumos_detections(path, ground_truth, keep_unknown=keep_unknown, labelled=labelled)
    return read_predictions(path, ground_truth, keep_unknown=keep_unknown, labelled=labelled)


def is_csv(path: Path) -> bool:
    """Tell whether a name is that of a CSV, plain or gzipped."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def is_thumos_csv(path: Path) -> bool:
    """Tell whether the columns of a CSV are those of THUMOS14.

    Raises:
        UserError: the file is missing or no text.
    """
    return not THUMOS_COLUMNS.isdisjoint(columns(path))


def _read_part(path: Path) -> Annotations:
    if path.is_dir():
        return read_thumos_folder(path)
    if not is_csv(path):
        return read_annotations(path)
    return read_thumos_csv(path) if is_thumos_csv(path) else read_segment_table(path)
