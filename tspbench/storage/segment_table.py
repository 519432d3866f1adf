"""Annotations as one CSV: video, start, end, label, and perhaps the split and the duration.

One row an action. Columns go by their names in the first line, in any order and case; between them stand commas,
semicolons or tabs; the text is UTF-8, gzipped or not. Times are seconds, or mm:ss, or hh:mm:ss, each with a fraction
or without (``83.5``, ``1:23.5``, ``0:01:23.5``); where columns are not parted by commas, the fraction may be. A row
that leaves start, end and label empty names a video without actions.

A video goes by the name of its file, without folder, suffix and leading ``v_``: ``clips/v_jump.mp4``, ``v_jump`` and
``jump`` are one video, called "jump". Without a column ``split`` (or ``subset``) a quarter of the videos is for
validation, see `divide`. Error messages count lines from 1.
"""

import csv
import difflib
import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from tspbench.errors import UserError
from tspbench.storage.annotations import Annotations, VideoAnnotations
from tspbench.storage.json_files import LATEST_SECONDS, read_content
from tspbench.storage.tsp_segments import COLUMNS as TSP_COLUMNS

VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"})
COLUMNS: Final = ("video", "start", "end", "label")
SPLITS: Final = ("split", "subset")
# What people and benchmarks call the parts of a data set → its name here.
SUBSETS: Final = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "testing",
    "testing": "testing",
}
_DELIMITERS: Final = ",;\t"
_SHOWN_PROBLEMS: Final = 5

Cells = Mapping[str, str]


@dataclass
class _Video:
    """What the rows read so far say about one video."""

    split: str = ""
    duration: float | None = None
    segments: list[tuple[float, float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


class _Problems:
    """Everything that is wrong in a table, to be told in one sentence."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, list[str]()

    def add(self, line: int, column: str, expected: str, found: str) -> None:
        """Note that a cell does not hold what it should."""
        self._found.append(f"line {line}, column {column!r}: expected {expected}, found {found or 'nothing'}")

    def raise_if_any(self) -> None:
        """Raise what was noted.

        Raises:
            UserError: there is something.
        """
        if self._found:
            more = len(self._found) - _SHOWN_PROBLEMS
            told = "; ".join(self._found[:_SHOWN_PROBLEMS]) + (f"; and {more:,} more of this kind" if more > 0 else "")
            raise UserError(f"{self._path}, {told}: correct or remove these rows.")


def read_segment_table(path: Path) -> Annotations:
    """Read annotations from a CSV with the columns video, start, end and label.

    Optional are ``split`` or ``subset`` (train, val and test in their usual spellings are called "training",
    "validation" and "testing", other names stay) and ``duration``, the length of the video. It is enough if one row
    of a video says either.

    Raises:
        UserError: the file is missing or no such table, or cells do not fit; one sentence names line and column of
            the first problems.
    """
    delimiter, names = _head(path)
    _check_columns(path, names)
    split_column = next((name for name in SPLITS if name in names), None)
    problems = _Problems(path)
    videos: dict[str, _Video] = {}
    first_lines: dict[str, int] = {}
    for line, cells in _rows(path, delimiter, names):
        name = video_name(cells["video"])
        if not name:
            problems.add(line, "video", "the name of a video", repr(cells["video"]))
            continue
        first_lines.setdefault(name, line)
        video = videos.setdefault(name, _Video())
        _add_segment(problems, line, video, cells, delimiter)
        _add_duration(problems, line, video, cells.get("duration", ""), "duration", delimiter)
        if split_column and cells[split_column]:
            split = SUBSETS.get(cells[split_column].casefold(), cells[split_column])
            if video.split not in ("", split):
                problems.add(line, split_column, f"{video.split!r} as in the video's other rows", repr(split))
            video.split = split
    if split_column is None:
        validation = divide(videos)
        for name, video in videos.items():
            video.split = "validation" if name in validation else "training"
    for name in (name for name, video in videos.items() if not video.split):
        problems.add(first_lines[name], str(split_column), "a split such as training or validation", "")
    problems.raise_if_any()
    return _annotations(path, videos)


def columns(path: Path) -> tuple[str, ...]:
    """Return the column names of a CSV in lower case, none where its first line is empty.

    Raises:
        UserError: the file is missing or no text.
    """
    return _head(path)[1]


def video_name(text: str) -> str:
    """Return what a video is called whose file ``text`` names, with folder, suffix and ``v_`` or without."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    return (path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name).removeprefix("v_")


def divide(videos: Iterable[str]) -> frozenset[str]:
    """Choose a quarter of the videos for validation, at least one of two.

    Those whose names have the lowest SHA-256: the choice depends on nothing but the names, and one more video moves at
    most one of the others.
    """
    ranked = sorted(videos, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    return frozenset(ranked[: (len(ranked) + 2) // 4])


def _head(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return what stands between columns, and their names in lower case."""
    first = _text(path).lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    row = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
    return delimiter, tuple(name.strip().casefold() for name in row) if first.strip() else ()


def _text(path: Path) -> str:
    try:
        return read_content(path, "annotation").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected text in UTF-8, found another encoding at byte {error.start:,}: save it as CSV in UTF-8."
        ) from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    told = ", ".join(map(repr, names)) or "nothing"
    if set(TSP_COLUMNS) <= set(names):
        expected, mend = "", "this is a ground truth file of TSP, which `tspbench data import` makes a data set of"
    elif missing := [name for name in COLUMNS if name not in names]:
        close = difflib.get_close_matches(missing[0], names, n=1)
        expected, mend = "", f"call one of them {missing[0]!r}" + (f", perhaps {close[0]!r}" if close else "")
    elif twice := [name for name in names if name and names.count(name) > 1]:
        expected, mend = " once each", f"take one {twice[0]!r} out"
    elif set(SPLITS) <= set(names):
        expected, mend = " and one of split and subset", "take one of these two out"
    else:
        return
    raise UserError(f"{path}, line 1: expected the columns {', '.join(COLUMNS)}{expected}, found {told}: {mend}.")


def _rows(path: Path, delimiter: str, names: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    """Yield line number and cells by column of every row below the first one that holds anything.

    Raises:
        UserError: there is none, or one has more cells than there are columns.
    """
    reader = csv.reader(
        io.StringIO(_text(path).replace("\0", ""), newline=""), delimiter=delimiter, skipinitialspace=True
    )
    count = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if any(cells[len(names) :]):
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {len(names)} cells as in line 1, found {len(cells)}: "
                    f"put quotes around a cell that holds {delimiter!r}."
                )
            count += 1
            if count > 1:
                yield reader.line_num, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: expected CSV, found what is none ({error}): mend this line."
        ) from error
    if count <= 1:
        raise UserError(f"{path}: expected rows below the names of the columns, found none: add one for each action.")


def _add_segment(problems: _Problems, line: int, video: _Video, cells: Cells, delimiter: str) -> None:
    """Add the segment of a row, if it has one, or note what is wrong with it."""
    if not any(cells[name] for name in COLUMNS[1:]):
        return
    times = {name: _seconds(cells[name], delimiter) for name in ("start", "end")}
    for name, value in times.items():
        if value is None:
            problems.add(line, name, "a time in seconds, mm:ss or hh:mm:ss", repr(cells[name]) if cells[name] else "")
    if not cells["label"]:
        problems.add(line, "label", "the name of a class", "")
    start, end = times.values()
    if start is None or end is None:
        return
    if end < start:
        problems.add(line, "end", f"a time not before the start, {cells['start']}", cells["end"])
    video.segments.append((start, end))
    video.labels.append(cells["label"])


def _add_duration(problems: _Problems, line: int, video: _Video, text: str, column: str, delimiter: str) -> None:
    if not text:
        return
    seconds = _seconds(text, delimiter)
    if seconds is None or seconds <= 0:
        problems.add(line, column, "a length in seconds, mm:ss or hh:mm:ss, above 0", repr(text))
    elif video.duration not in (None, seconds):
        problems.add(line, column, f"{video.duration:g} s as in the video's other rows", f"{seconds:g} s")
    else:
        video.duration = seconds


def _seconds(text: str, delimiter: str) -> float | None:
    """Return a time in seconds, None if ``text`` is none."""
    *higher, last = (text if delimiter == "," else text.replace(",", ".")).split(":")
    try:
        seconds = float(last) if "_" not in last else math.nan
    except ValueError:
        return None
    if len(higher) > 2 or not all(part.isascii() and part.isdigit() for part in higher):
        return None
    # Sixty seconds make a minute, and where there are hours, sixty minutes one of them.
    if higher and (not 0 <= seconds < 60 or int(higher[-1]) >= (60 if len(higher) == 2 else math.inf)):
        return None
    minutes = sum(int(part) * 60**place for place, part in enumerate(reversed(higher)))
    total = 60 * minutes + seconds
    return total if abs(total) <= LATEST_SECONDS else None


def _annotations(path: Path, videos: Mapping[str, _Video]) -> Annotations:
    return Annotations(
        path,
        tuple(
            VideoAnnotations(
                name=name,
                subset=video.split,
                duration_seconds=video.duration,
                segments=np.array(video.segments, dtype=np.float64).reshape(-1, 2),
                labels=tuple(video.labels),
            )
            for name, video in videos.items()
        ),
    )
