"""TSP ground-truth CSVs: foreground and background segments of each video.

The columns are those of the files that TSP released (data/*_tsp_groundtruth.csv, data/*_metadata.csv), plain or
gzipped. Rows of background have an empty action label. Times are seconds, written with as many digits as bring the same
number back; videos go by their name without suffix and without ActivityNet's ``v_``. Error messages count lines from 1.
"""

import csv
import gzip
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tspbench.errors import UserError
from tspbench.storage.atomic import write_bytes
from tspbench.storage.json_files import LATEST_SECONDS, read_content, uncollected

COLUMNS: Final = (
    "video-name",
    "t-start",
    "t-end",
    "action-label",
    "video-duration",
    "filename",
    "fps",
    "video-frames",
    "temporal-region-label",
)
METADATA_COLUMNS: Final = ("filename", "video-duration", "fps", "video-frames")
ACTION: Final = "Action"
NO_ACTION: Final = "No action"


class VideoMetadata(NamedTuple):
    """What the ground truth says about a video file.

    Args:
        filename: its name on disk.
        duration_seconds: its length.
        fps: frames a second.
        frames: how many there are.
    """

    filename: str
    duration_seconds: float
    fps: float
    frames: int


class SegmentRow(NamedTuple):
    """One row of a ground-truth CSV.

    Args:
        video: the video's name.
        start: first second.
        end: last second; in released files some lie after the end of the video.
        label: action class, None for background.
        file: about the video.
    """

    video: str
    start: float
    end: float
    label: str | None
    file: VideoMetadata


@uncollected()
def read_segments(path: Path) -> list[SegmentRow]:
    """Read a ground-truth CSV, in the order of the file.

    Raises:
        UserError: the file is missing, damaged or empty, a column is missing, or a line does not fit; the sentence
            names the line.
    """
    rows: list[SegmentRow] = []
    durations: dict[str, float] = {}
    for where, values in _lines(path, COLUMNS, "ground-truth"):
        row = _segment(where, values)
        if durations.setdefault(row.video, row.file.duration_seconds) != row.file.duration_seconds:
            raise UserError(
                f"{where}: expected the duration of {row.video!r} as in its other lines, {durations[row.video]}, found "
                f"{row.file.duration_seconds}; mend it."
            )
        rows.append(row)
    return rows


def write_segments(path: Path, rows: Iterable[SegmentRow]) -> None:
    """Write a ground-truth CSV atomically, gzipped where the name ends in .gz: equal rows give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video, start, end, label, (filename, duration, fps, frames) in rows:
        region = NO_ACTION if label is None else ACTION
        numbers = (float(start), float(end), label or "", float(duration), filename, float(fps), frames)
        writer.writerow((video, *numbers, region))
    content = text.getvalue().encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_metadata(path: Path) -> dict[str, VideoMetadata]:
    """Read a metadata CSV: video → what is known of its file, in the order of the file.

    Raises:
        UserError: the file is missing, damaged or empty, a column is missing, a line does not fit, or a video comes
            twice; the sentence names the line.
    """
    found: dict[str, VideoMetadata] = {}
    for where, values in _lines(path, METADATA_COLUMNS, "metadata"):
        metadata = _metadata(where, values)
        video = Path(metadata.filename).stem.removeprefix("v_")
        if video in found:
            raise UserError(f"{where}: expected each video once, found {video!r} again; remove one.")
        found[video] = metadata
    return found


def _lines(path: Path, columns: Sequence[str], kind: str) -> list[tuple[str, dict[str, str]]]:
    """Return each line's place, for messages, and its values by column."""
    text = read_content(path, kind).decode("utf-8-sig", errors="replace")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(rows, [])
        missing = [name for name in columns if name not in head]
        if missing:
            raise UserError(
                f"{path}, line 1: expected the columns {','.join(columns)}, found no {missing[0]!r}; give a {kind} CSV "
                "as TSP has it."
            )
        lines = []
        for values in rows:
            if len(values) != len(head):
                raise UserError(
                    f"{path}, line {rows.line_num}: expected {len(head)} values, found {len(values)}; mend it."
                )
            lines.append((f"{path}, line {rows.line_num}", dict(zip(head, values, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: expected CSV, found none ({error}); mend it.") from error
    if not lines:
        raise UserError(f"{path}: expected at least one line below the head, found none; give another {kind} CSV.")
    return lines


def _segment(where: str, values: dict[str, str]) -> SegmentRow:
    start, end = (_number(where, values, name, -LATEST_SECONDS) for name in ("t-start", "t-end"))
    if end < start:
        raise UserError(
            f"{where}: expected a segment that does not end before it starts, found {start} to {end}; mend it."
        )
    video, label, region = (values[name] for name in ("video-name", "action-label", "temporal-region-label"))
    if not video:
        raise UserError(f"{where}: expected the name of a video in 'video-name', found nothing; add it.")
    if (region, bool(label)) not in ((ACTION, True), (NO_ACTION, False)):
        raise UserError(
            f"{where}: expected {ACTION!r} with an action label, or {NO_ACTION!r} with none, found {region!r} with "
            f"{label!r}; mend it."
        )
    return SegmentRow(video, start, end, label or None, _metadata(where, values))


def _metadata(where: str, values: dict[str, str]) -> VideoMetadata:
    duration, fps, frames = (_number(where, values, name, 0.0) for name in METADATA_COLUMNS[1:])
    if not values["filename"]:
        raise UserError(f"{where}: expected a file's name in 'filename', found nothing; add it.")
    if frames != int(frames):
        raise UserError(f"{where}: expected a whole number in 'video-frames', found {frames}; mend it.")
    return VideoMetadata(values["filename"], duration, fps, int(frames))


def _number(where: str, values: dict[str, str], name: str, least: float) -> float:
    try:
        value = float(values[name])
    except ValueError:
        value = math.nan
    if not least <= value <= LATEST_SECONDS:
        what = "a number that is not negative" if least == 0 else "a time in seconds"
        raise UserError(f"{where}: expected {what} in {name!r}, found {values[name]!r}; mend it.")
    return value
