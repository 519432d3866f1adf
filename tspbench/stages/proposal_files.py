"""Proposals of others as files: those of a localizer of the same run, and those that the user gives."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.segments import GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.progress import say
from tspbench.segment_batches import Proposals, Segment
from tspbench.storage.json_files import read_content
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import earlier_tables

Floats = NDArray[np.float64]

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
    by_video = _by_video(_read_submission(path, [segment.video for segment in videos.values()]))
    return {name: by_video[number] for number, name in enumerate(videos)}


def read_given_proposals(paths: Sequence[Path], videos: Mapping[str, float | None]) -> Proposals:
    """Read the proposals that a user gives, and say aloud how many videos they speak of in vain.

    Args:
        paths: ActivityNet submission files, or lists as P-GCN's release has them (.txt).
        videos: name → length in seconds, if it is known.

    Returns:
        What is proposed of each of ``videos`` that a file speaks of: a segment once, with its best score, whatever
        labels it has, best first.

    Raises:
        UserError: a file cannot be read, speaks of none of ``videos``, or of a video that an earlier one speaks of.
    """
    proposals: Proposals = {}
    for path in paths:
        read = _read_list(path, videos) if path.suffix == ".txt" else _read_every(path, list(videos))
        strangers = [name for name in read if name not in videos]
        if strangers:
            told = f"{len(strangers)} of {len(read)} videos, which are in neither split (first: {strangers[0]})"
            say(f"{path}: left out the proposals of {told}.")
        for name in read:
            if name in proposals:
                raise UserError(f"{path}, video {name!r}: an earlier file has proposals of it, too: give one of them.")
        proposals |= {name: found for name, found in read.items() if name in videos}
    return proposals


def _read_every(path: Path, known: Sequence[str]) -> Proposals:
    """Return the proposals of every video of a submission file, which has to speak of a known one."""
    found = _read_submission(path, known)
    return {name: each for name, each in zip(found.videos, _by_video(found), strict=True) if len(each[1])}


def _read_submission(path: Path, videos: Sequence[str]) -> Predictions:
    nothing, none = np.empty(0), np.empty(0, dtype=np.int64)
    truth = GroundTruth(video=none, start=nothing, end=nothing, label=none, videos=tuple(videos), labels=())
    return read_predictions(path, truth, keep_unknown=True, labelled=False)


def _by_video(found: Predictions) -> list[tuple[Floats, Floats]]:
    """Return what is proposed of each of ``found.videos``."""
    order = np.argsort(found.video, kind="stable")
    bounds = np.searchsorted(found.video[order], np.arange(1, len(found.videos)))
    segments = np.stack([found.start, found.end], axis=1)
    return [_best_first(segments[rows], found.score[rows]) for rows in np.split(order, bounds)]


def _best_first(segments: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return each segment once, with its best score; equal scores in the order of the file."""
    order = np.argsort(-scores, kind="stable")
    first = order[np.sort(np.unique(segments[order], axis=0, return_index=True)[1])]
    return segments[first], scores[first]


def _read_list(path: Path, videos: Mapping[str, float | None]) -> Proposals:
    """Read a list of proposals as P-GCN's release has them (ops/io.py, load_proposal_file).

    An entry begins with a line ``# number``. Its other lines are: a path that ends in the video's name; a number of
    frames, and what to multiply it by; the number of true segments, and each as label, start, end; the number of
    proposals, and each as label, overlap, share, start, end, in frames. There are no scores: the first are the best.
    """
    try:
        lines = [line.strip() for line in read_content(path, "proposal").decode().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text, found something else: give a proposal file.") from error
    heads = [number for number, line in enumerate(lines) if line.startswith("#")]
    proposals: Proposals = {}
    for head, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        try:
            name, segments = _entry([line for line in lines[head + 1 : end] if line])
        except (IndexError, ValueError) as error:
            raise UserError(
                f"{path}, line {head + 1}: expected the entry of a video as in the lists of P-GCN's release (path, "
                "frames, factor, true segments, proposals of five numbers), found something else: correct this entry."
            ) from error
        duration = videos.get(name)
        if name in videos and duration is None:
            raise UserError(
                f"{path}, video {name!r}: its proposals are in frames, and the annotations do not say how long it is: "
                'add "duration" to the annotation file.'
            )
        proposals[name] = _best_first(segments * (duration or 1.0), np.ones(len(segments)))
    if not proposals.keys() & videos.keys():
        raise UserError(
            f"{path}: expected proposals of videos such as {min(videos)!r}, found "
            f"{f'{len(proposals)} others such as {min(proposals)!r}' if proposals else 'no video at all'}: check how "
            "the videos are named."
        )
    return proposals


def _entry(lines: Sequence[str]) -> tuple[str, Floats]:
    """Return the video's name and its proposals (n, 2) as shares of its length."""
    frames = float(lines[1]) * float(lines[2])
    first = 5 + int(lines[3])
    rows = lines[first : first + int(lines[first - 1])]
    segments = np.array([[float(text) for text in row.split()[3:5]] for row in rows]).reshape(-1, 2)
    right = len(rows) == int(lines[first - 1]) and 0 < frames < math.inf
    if not (right and np.isfinite(segments).all() and (segments[:, 1] >= segments[:, 0]).all()):
        raise ValueError
    return lines[0].rsplit("/", 1)[-1], segments / frames
