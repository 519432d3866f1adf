"""The proposals that a localizer made from the same features, in the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.segments import GroundTruth
from tspbench.errors import UserError
from tspbench.segment_batches import Proposals, Segment
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import earlier_tables

PREDICTIONS_FILE: Final = "predictions.json.gz"


def localizer_predictions(out: Path, row: str, localizer: str, features: Mapping[str, str]) -> Path:
    """Return the prediction file of a row of the run in ``out``.

    Args:
        out: folder of the run.
        row: its name.
        localizer: which made the predictions.
        features: hashes of the feature files, which have to be those that the localizer saw.

    Raises:
        UserError: there are none, or they are of other features; says which command makes them.
    """
    for table in earlier_tables(out):
        folders = [each.folder for each in table.rows if each.name == row and not each.reference]
        if table.facts.get("localizer") == localizer and folders:
            path = out / folders[0] / "predict" / PREDICTIONS_FILE
            record = read_record(path.parent)
            if path.is_file() and record and {**record.inputs, **features} == dict(record.inputs):
                return path
    raise UserError(
        f"{out} holds no proposals of {localizer} for the features of row {row!r}: run `tspbench evaluate --task "
        f"proposals --localizer {localizer}` on the same features with the same --out first."
    )


def read_proposals(path: Path, videos: Mapping[str, Segment]) -> Proposals:
    """Read the proposals for some videos.

    Args:
        path: from `localizer_predictions`.
        videos: name → the video as the feature files name it.

    Returns:
        What is proposed of each of ``videos``: a segment once, with its best score, whatever labels it has.
    """
    record = read_record(path.parent)
    if record and not record.figures["predictions"]:
        return {name: (np.empty((0, 2)), np.empty(0)) for name in videos}
    nothing, none = np.empty(0), np.empty(0, dtype=np.int64)
    truth = GroundTruth(
        video=none,
        start=nothing,
        end=nothing,
        label=none,
        videos=tuple(segment.video for segment in videos.values()),
        labels=(),
    )
    found = read_predictions(path, truth, keep_unknown=True, labelled=False)
    proposals: Proposals = {}
    for number, name in enumerate(videos):
        rows = np.flatnonzero(found.video == number)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        segments = np.stack([found.start[rows], found.end[rows]], axis=1)
        first = np.sort(np.unique(segments, axis=0, return_index=True)[1])
        proposals[name] = segments[first], found.score[rows][first]
    return proposals
