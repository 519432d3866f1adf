"""ActivityNet submission files: predicted segments with label and score.

The format is ``{"version", "results": {video: [{"label", "score", "segment": [start, end]}]}, "external_data"}``, plain
or gzipped; only ``results`` is read. Times are seconds. Error messages count predictions from 1.
"""

import gzip
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import orjson

from evaluation.segments import CLASS_AGNOSTIC, GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.storage.atomic import write_bytes
from tspbench.storage.json_files import LATEST_SECONDS, found, read_entries, segment_problem, uncollected, unknown_label

_NUMBERS = (float, int)
_LARGEST = sys.float_info.max


@uncollected()
def read_predictions(
    path: Path, ground_truth: GroundTruth, *, keep_unknown: bool = False, labelled: bool = True
) -> Predictions:
    """Read a submission file, .json or .json.gz, aligned to ``ground_truth``.

    A label must be one of ``ground_truth.labels``, which may hold more classes than the subset has segments of. The
    official evaluator stops at a label without a segment in the subset; here such predictions are kept and change no
    score, so that a detector of all classes can be scored on a part of the videos.

    Args:
        path: the file.
        ground_truth: whose videos and labels the predictions are about.
        keep_unknown: whether to keep predictions for videos that ``ground_truth`` lacks instead of refusing the file.
            Their videos then follow those of ``ground_truth`` in ``Predictions.videos``.
        labelled: whether predictions need a label; if False, labels are not looked at, and all predictions are
            class-agnostic.

    Raises:
        UserError: the file is missing, damaged or not JSON, an entry does not fit the format (the sentence names the
            video and the prediction), a video is unknown, or the file shares no video with ``ground_truth``.
    """
    results = read_entries(path, "results", "prediction")
    check_videos(path, results, ground_truth.videos, keep_unknown=keep_unknown)
    label_index = {label: index for index, label in enumerate(ground_truth.labels)}
    scores: list[float] = []
    starts: list[float] = []
    ends: list[float] = []
    labels: list[int] = []
    counts: list[int] = []
    for name, rows in results.items():
        if not isinstance(rows, list):
            raise UserError(
                f"{path}, video {name!r}: expected a list of predictions, found {found(rows)}; give [] if there are "
                "none."
            )
        counts.append(len(rows))
        for number, row in enumerate(rows, start=1):
            # Half a million rows pass here. What is right is recognised inline, what is wrong is explained elsewhere.
            try:
                label = label_index[row["label"]] if labelled else CLASS_AGNOSTIC
                score, (start, end) = row["score"], row["segment"]
                right = (
                    type(score) in _NUMBERS
                    and type(start) in _NUMBERS
                    and type(end) in _NUMBERS
                    and -_LARGEST <= score <= _LARGEST
                    and -LATEST_SECONDS <= start <= end <= LATEST_SECONDS
                )
            except (KeyError, TypeError, ValueError):
                right = False
            if not right:
                where = f"{path}, video {name!r}, prediction {number}"
                raise _row_error(where, row, label_index if labelled else None)
            scores.append(score)
            starts.append(start)
            ends.append(end)
            labels.append(label)
    known = set(ground_truth.videos)
    videos = ground_truth.videos + tuple(name for name in results if name not in known)
    video_index = {name: index for index, name in enumerate(videos)}
    return Predictions(
        video=np.repeat(np.array([video_index[name] for name in results], dtype=np.int64), counts),
        start=np.array(starts, dtype=np.float64),
        end=np.array(ends, dtype=np.float64),
        score=np.array(scores, dtype=np.float64),
        label=np.array(labels, dtype=np.int64),
        videos=videos,
        labels=ground_truth.labels,
    )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a submission file atomically; a name that ends in .gz is gzipped.

    Every number is read back to the last bit. Videos without a prediction are left out.

    Raises:
        ValueError: a prediction has no label.
        UserError: the file cannot be written.
    """
    if np.any(predictions.label < 0):
        raise ValueError(f"{path}: a submission needs labels, received class-agnostic predictions.")
    results: dict[str, list[dict[str, object]]] = {}
    rows = zip(
        predictions.video.tolist(),
        predictions.start.tolist(),
        predictions.end.tolist(),
        predictions.score.tolist(),
        predictions.label.tolist(),
        strict=True,
    )
    for video, start, end, score, label in rows:
        row = {"label": predictions.labels[label], "score": score, "segment": (start, end)}
        results.setdefault(predictions.videos[video], []).append(row)
    content = orjson.dumps({"version": "VERSION 1.3", "results": results, "external_data": {}})
    # Without a time stamp, so that equal predictions give equal files.
    write_bytes(path, gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)


def check_videos(path: Path, named: Collection[str], known: Collection[str], *, keep_unknown: bool) -> None:
    """Raise unless a prediction file is about videos of the ground truth.

    Args:
        path: the file, for messages.
        named: the videos that it names.
        known: the videos of the ground truth.
        keep_unknown: whether some of ``named`` may be unknown.

    Raises:
        UserError: no video is known, or one is not and ``keep_unknown`` is False.
    """
    known = set(known)
    strangers = [name for name in named if name not in known]
    if len(strangers) == len(named):
        inside = f"{len(named)} others such as {strangers[0]!r}" if strangers else "no video at all"
        raise UserError(
            f"{path}: expected predictions for videos of the ground truth such as {min(known)!r}, found {inside}; "
            "check the subset and how the videos are named."
        )
    if strangers and not keep_unknown:
        raise UserError(
            f"{path}, video {strangers[0]!r}: expected a video of the ground truth, found {len(strangers):,} video(s) "
            "that it lacks; remove them, or say with --unknown-videos whether to drop them or to count them as wrong."
        )


def _row_error(where: str, row: object, known: dict[str, int] | None) -> UserError:
    """Explain why ``row`` is not a prediction; ``known`` are the labels, None if there need be none."""
    keys = ("score", "segment") if known is None else ("label", "score", "segment")
    if not isinstance(row, dict):
        names = " and ".join([", ".join(f'"{key}"' for key in keys[:-1]), f'"{keys[-1]}"'])
        expected, value = f"an object with {names}", found(row)
    elif missing := [key for key in keys if key not in row]:
        expected, value = f'the key "{missing[0]}"', found(row)
    elif known is not None and (not isinstance(row["label"], str) or row["label"] not in known):
        expected, value = f"one of the {len(known)} labels of the ground truth", unknown_label(row["label"], known)
    elif problem := segment_problem(row["segment"]):
        expected, value = problem, found(row["segment"])
    else:
        expected, value = 'a "score" that is a finite number', found(row["score"])
    return UserError(f"{where}: expected {expected}, found {value}; correct or remove this prediction.")
