"""ActivityNet submission files: predicted segments with label and score.

The format is ``{"version", "results": {video: [{"label", "score", "segment": [start, end]}]}, "external_data"}``, plain
or gzipped; only ``results`` is read. Times are seconds. Error messages count predictions from 1.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import orjson

from evaluation.segments import GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.storage.atomic import write_bytes
from tspbench.storage.json_files import found, read_entries, segment_problem, unknown_label

_NUMBERS = (float, int)
_LARGEST = sys.float_info.max


def read_predictions(path: Path, ground_truth: GroundTruth) -> Predictions:
    """Read a submission file, .json or .json.gz, aligned to ``ground_truth``.

    As in the official evaluator, predictions for a video that the subset lacks are kept: they are false positives.
    Their videos follow those of ``ground_truth`` in ``Predictions.videos``.

    A label must be one of ``ground_truth.labels``, which may hold more classes than the subset has segments of. The
    official evaluator stops at a label without a segment in the subset; here such predictions are kept and change no
    score, so that a detector of all classes can be scored on a part of the videos.

    Raises:
        UserError: the file is missing, damaged or not JSON, an entry does not fit the format (the sentence names the
            video and the prediction), or the file shares no video with ``ground_truth``.
    """
    results = read_entries(path, "results", "prediction")
    _check_common_video(path, results, ground_truth)
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
                label, score, (start, end) = label_index[row["label"]], row["score"], row["segment"]
                right = (
                    type(score) in _NUMBERS
                    and type(start) in _NUMBERS
                    and type(end) in _NUMBERS
                    and -_LARGEST <= score <= _LARGEST
                    and -_LARGEST <= start <= end <= _LARGEST
                )
            except (KeyError, TypeError, ValueError):
                right = False
            if not right:
                raise _row_error(f"{path}, video {name!r}, prediction {number}", row, label_index)
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


def _check_common_video(path: Path, results: dict[str, object], ground_truth: GroundTruth) -> None:
    if results.keys().isdisjoint(ground_truth.videos):
        inside = f"{len(results)} others such as {next(iter(results))!r}" if results else "no video at all"
        raise UserError(
            f"{path}: expected predictions for videos of the ground truth such as {ground_truth.videos[0]!r}, found "
            f"{inside}; check the subset and how the videos are named."
        )


def _row_error(where: str, row: object, known: dict[str, int]) -> UserError:
    """Explain why ``row`` is not a prediction."""
    if not isinstance(row, dict):
        expected, value = 'an object with "label", "score" and "segment"', found(row)
    elif missing := [key for key in ("label", "score", "segment") if key not in row]:
        expected, value = f'the key "{missing[0]}"', found(row)
    elif not isinstance(row["label"], str) or row["label"] not in known:
        expected, value = f"one of the {len(known)} labels of the ground truth", unknown_label(row["label"], known)
    elif problem := segment_problem(row["segment"]):
        expected, value = problem, found(row["segment"])
    else:
        expected, value = 'a "score" that is a finite number', found(row["score"])
    return UserError(f"{where}: expected {expected}, found {value}; correct or remove this prediction.")
