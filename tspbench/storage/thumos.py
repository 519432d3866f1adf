"""THUMOS14 files: annotations as a folder of texts or as one CSV, detections as text.

Annotations come as the challenge gives them, a folder of ``LABEL_test.txt`` (or ``LABEL_val.txt``) whose lines say
``video start end``, or as one CSV with the columns ``video-name``, ``t-init``, ``t-end`` and ``label-idx`` (and perhaps
``video-duration``), as DETAD has it. Detections are lines of ``video start end class score``, as the challenge asks for
them. Times are seconds; error messages count lines from 1.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from evaluation.segments import CLASS_AGNOSTIC, GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.json_files import LATEST_SECONDS, read_content
from tspbench.storage.predictions import check_videos

AMBIGUOUS: Final = "Ambiguous"
# The 20 of the 101 classes that are annotated in time, by their number in the challenge's class list.
CLASS_NUMBERS: Final = {
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}
CLASSES: Final = 101
TEST_VIDEOS: Final = 1574
_SUBSETS: Final = {"test": "test", "val": "validation"}
_COLUMNS: Final = ("video-name", "t-init", "t-end", "label-idx")


class _Segment(NamedTuple):
    video: str
    subset: str
    start: float
    end: float
    label: str
    duration: float | None = None


def read_thumos_folder(folder: Path) -> Annotations:
    """Read a folder of annotation texts; the subsets are "test" and "validation".

    Raises:
        UserError: there is no such text, or a line does not fit; the sentence names file and line.
    """
    texts = sorted(path for path in folder.glob("*.txt") if path.stem.rpartition("_")[2] in _SUBSETS)
    if not texts:
        raise UserError(
            f"{folder}: expected THUMOS14 annotations such as BaseballPitch_test.txt, found none; give the folder "
            "that holds them, or an annotation file."
        )
    segments: list[_Segment] = []
    for path in texts:
        label, _, short = path.stem.rpartition("_")
        for number, line in enumerate(_lines(path, "annotation"), start=1):
            words = line.split()
            if not words:
                continue
            where = f"{path}, line {number}"
            times = _times(where, words[1:]) if len(words) == 3 else None
            if times is None:
                raise UserError(f"{where}: expected a video, a start and an end in seconds, found {line!r}; mend it.")
            segments.append(_Segment(words[0], _SUBSETS[short], *times, label))
    return _annotations(folder, segments)


def read_thumos_csv(path: Path) -> Annotations:
    """Read annotations from a CSV; ``label-idx`` counts the 20 classes from 0, and -1 is Ambiguous.

    The subset of a video is the middle of its name: "test" or "validation".

    Raises:
        UserError: a column is missing or a line does not fit; the sentence names file and line.
    """
    rows = csv.DictReader(io.StringIO("\n".join(_lines(path, "annotation"))))
    try:
        numbered = [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: expected CSV, found what is none ({error}); mend it."
        ) from error
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(
            f"{path}, line 1: expected the columns {', '.join(_COLUMNS)}, found no {missing[0]!r}; give a CSV that "
            "has them, or an annotation file in JSON."
        )
    if not numbered:
        raise UserError(f"{path}: expected annotated segments, found none; give a CSV that holds some.")
    names = [*CLASS_NUMBERS, AMBIGUOUS]
    segments: list[_Segment] = []
    for number, row in numbered:
        where = f"{path}, line {number}"
        times = _times(where, [row["t-init"], row["t-end"]])
        subset = (row["video-name"] or "").split("_")[1:2]
        index = row["label-idx"] or ""
        if times is None or not subset or index not in {str(k - 1) for k in range(len(names))}:
            raise UserError(
                f"{where}: expected a video such as video_test_0000004, two times in seconds and a label from -1 to "
                f"19, found {','.join(str(row[name]) for name in _COLUMNS)!r}; mend it."
            )
        duration = _number(row.get("video-duration"))
        segments.append(_Segment(row["video-name"], subset[0], *times, names[int(index)], duration))
    return _annotations(path, segments)


def read_thumos_detections(
    path: Path, ground_truth: GroundTruth, *, keep_unknown: bool = False, labelled: bool = True
) -> Predictions:
    """Read detections from a text, aligned to ``ground_truth``; classes by their numbers in the challenge's list.

    ``keep_unknown`` and ``labelled`` are those of ``tspbench.storage.predictions.read_predictions``.

    Raises:
        UserError: a line does not fit, or a video or class is unknown.
    """
    labels = {
        str(CLASS_NUMBERS[name]): index for index, name in enumerate(ground_truth.labels) if name in CLASS_NUMBERS
    }
    rows: dict[str, list[tuple[float, float, float, int]]] = {}
    for number, line in enumerate(_lines(path, "prediction"), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        times = _times(where, words[1:3]) if len(words) == 5 else None
        score = _number(words[-1])
        if times is None or score is None:
            raise UserError(
                f"{where}: expected a video, a start and an end in seconds, a class number and a score, found "
                f"{line!r}; mend it."
            )
        if labelled and words[3] not in labels:
            raise UserError(
                f"{where}: expected a class number of the ground truth such as {next(iter(labels), '7')}, found "
                f"{words[3]}; mend it."
            )
        rows.setdefault(words[0], []).append((*times, score, labels[words[3]] if labelled else CLASS_AGNOSTIC))
    check_videos(path, rows, ground_truth.videos, keep_unknown=keep_unknown)
    videos = ground_truth.videos + tuple(name for name in rows if name not in set(ground_truth.videos))
    index = {name: place for place, name in enumerate(videos)}
    table = np.array([row for part in rows.values() for row in part], dtype=np.float64).reshape(-1, 4)
    return Predictions(
        video=np.repeat(
            np.array([index[name] for name in rows], dtype=np.int64), [len(part) for part in rows.values()]
        ),
        start=table[:, 0].copy(),
        end=table[:, 1].copy(),
        score=table[:, 2].copy(),
        label=table[:, 3].astype(np.int64),
        videos=videos,
        labels=ground_truth.labels,
    )


def _annotations(path: Path, segments: Iterable[_Segment]) -> Annotations:
    """Group segments by video, in the order in which the videos come first."""
    videos: dict[str, list[_Segment]] = {}
    for segment in segments:
        videos.setdefault(segment.video, []).append(segment)
    return Annotations(path, tuple(_video(name, rows) for name, rows in videos.items()))


def _video(name: str, rows: list[_Segment]) -> VideoAnnotations:
    return VideoAnnotations(
        name=name,
        subset=rows[0].subset,
        duration_seconds=rows[0].duration,
        segments=np.array([(row.start, row.end) for row in rows], dtype=np.float64),
        labels=tuple(row.label for row in rows),
    )


def _lines(path: Path, kind: str) -> list[str]:
    return read_content(path, kind).decode("utf-8-sig", errors="replace").splitlines()


def _times(where: str, words: Iterable[str | None]) -> tuple[float, float] | None:
    """Return start and end, or None if they are not two numbers."""
    start, end = (_number(word) for word in words)
    if start is None or end is None or max(abs(start), abs(end)) > LATEST_SECONDS:
        return None
    if end < start:
        raise UserError(
            f"{where}: expected a segment that does not end before it starts, found {start} to {end}; mend it."
        )
    return start, end


def _number(word: str | None) -> float | None:
    try:
        value = float(word or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
