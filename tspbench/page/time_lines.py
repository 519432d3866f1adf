"""True segments of chosen videos above what each row finds, on one line of time with thumbnails."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import av
import numpy as np

from evaluation import detection
from evaluation.protocols import DetectionProtocol
from evaluation.segments import GroundTruth, Predictions
from tspbench.errors import UserError
from tspbench.page.charts import Axis
from tspbench.page.contents import RowStyle, Truth
from tspbench.page.errors import RowDetections
from tspbench.page.tables import Table
from tspbench.page.tracks import Bar, Track, bar_track
from tspbench.storage.video import Frames, open_video, scan_video
from tspbench.video_names import known_name

VIDEOS: Final = 6
FEWEST: Final = 4  # predictions that are judged of a row, if it has as many
MOST: Final = 40  # predictions that are drawn of a row, so that the page of long videos stays small
THUMBNAILS: Final = 10
THUMBNAIL_HEIGHT: Final = 64
RIGHT_AT: Final = DetectionProtocol(name="shown", thresholds=(0.5,), source="tIoU of the time lines")


@dataclass(frozen=True)
class VideoTimeLine:
    """One video.

    Args:
        name: of the video.
        seconds: its length.
        thumbnails: data URI of a strip of pictures, evenly over the video; "" without the video.
        tracks: the true segments, then the rows.
        ticks: (percent of the line, text) of the axis.
        table: all that is drawn, in numbers.
        note: what of the rows is not drawn; "" if everything is.
    """

    name: str
    seconds: float
    thumbnails: str
    tracks: Sequence[Track]
    ticks: Sequence[tuple[float, str]]
    table: Table
    note: str


def time_lines(
    rows: Sequence[RowDetections], truth: Truth, styles: Mapping[str, RowStyle], most: int = VIDEOS
) -> list[VideoTimeLine]:
    """Draw the first scored videos that hold a segment, at most so many."""
    if not rows:
        return []
    first = rows[0].truth
    held = [name for v, name in enumerate(first.videos) if np.any(first.video == v)][:most]
    files = _files(truth)
    return [_time_line(name, rows, truth, styles, known_file(name, files)) for name in held]


def known_file(name: str, files: Mapping[str, Path]) -> Path | None:
    """Return the file of an annotated video."""
    return next((path for stem, path in files.items() if stem == name or known_name(stem, {name}) == name), None)


def _time_line(
    name: str, rows: Sequence[RowDetections], truth: Truth, styles: Mapping[str, RowStyle], file: Path | None
) -> VideoTimeLine:
    true = rows[0].truth.of_videos([name])
    annotated = next(video.duration_seconds for video in truth.annotations.videos if video.name == name)
    seconds = annotated or max(float(true.end.max()), 1.0)
    cells = []
    bars, drawn = [], 0
    for start, end, label in zip(true.start.tolist(), true.end.tolist(), true.label.tolist(), strict=True):
        bars.append(_bar(start, end, seconds, true.labels[label], shown=true.labels[label]))
        cells.append(["true", true.labels[label], f"{start:.2f}", f"{end:.2f}", "—", "—"])
    tracks = [Track("True segments", None, bar_track(f"True segments of {name}", bars, tall=True))]
    for each in rows:
        best, right = _best(each, name)
        bars, drawn = [], max(drawn, len(best))
        for place, hit in list(zip(best, right, strict=True))[:MOST]:
            start, end, score = (float(array[place]) for array in (each.found.start, each.found.end, each.found.score))
            label = each.found.labels[each.found.label[place]] if each.found.label[place] >= 0 else "proposal"
            bars.append(_bar(start, end, seconds, f"{label}, score {score:.3g}", solid=hit))
            cells.append([
                each.row.name, label, f"{start:.2f}", f"{end:.2f}", f"{score:.3g}", "right" if hit else "wrong",
            ])  # fmt: skip
        drawing = bar_track(f"{each.row.name} in {name}", bars)
        tracks.append(Track(each.row.name, styles[each.row.name], drawing, f"{sum(right)} of {len(true)}"))
    ticks = [(100 * value / seconds, f"{text} s") for value, text in Axis("s", 0, seconds).ticks()]
    head = ["features", "class", "start (s)", "end (s)", "score", "at tIoU 0.5"]
    table = Table(f"Segments of {name}", head, cells, numbers=False)
    note = f"Of each row the {MOST} predictions with the highest scores are drawn." if drawn > MOST else ""
    return VideoTimeLine(name, seconds, _strip(file, seconds) if file else "", tracks, ticks, table, note)


def _bar(start: float, end: float, seconds: float, text: str, *, solid: bool = True, shown: str = "") -> Bar:
    low, high = (100 * min(max(time / seconds, 0.0), 1.0) for time in (start, end))
    return Bar(low, high, f"{text}, {start:.1f} to {end:.1f} s", solid, shown)


def _best(each: RowDetections, name: str) -> tuple[list[int], list[bool]]:
    """Return the surest predictions of a video, twice as many as there are segments, and which of them are right."""
    true, video = each.truth.of_videos([name]), each.found.videos.index(name)
    places = np.flatnonzero(each.found.video == video)
    order = places[np.argsort(-each.found.score[places], kind="stable")][: max(FEWEST, 2 * len(true))]
    if not len(order):
        return [], []
    best = replace(each.found.where(np.isin(np.arange(len(each.found)), order)), videos=each.found.videos)
    if np.any(best.label < 0):
        best, true = _unlabelled(best, true)
    judged = detection.statistics(true, best, RIGHT_AT)
    kept = np.sort(order)[judged.prediction]
    hits = dict(zip(kept.tolist(), judged.true_positive[:, 0].tolist(), strict=True))
    return order.tolist(), [hits[place] for place in order.tolist()]


def _unlabelled(found: Predictions, true: GroundTruth) -> tuple[Predictions, GroundTruth]:
    """Give everything the same class, so that proposals are matched as detections are."""
    one = ("action",)
    return (
        replace(found, labels=one, label=np.zeros_like(found.label)),
        replace(true, labels=one, label=np.zeros_like(true.label)),
    )


def _files(truth: Truth) -> dict[str, Path]:
    try:
        return truth.dataset.video_files()
    except (UserError, OSError):
        return {}


def _strip(path: Path, seconds: float) -> str:
    """Return pictures of a video beside each other as a data URI; "" if it cannot be read."""
    try:
        info = scan_video(path)
        moments = (np.arange(THUMBNAILS) + 0.5) * seconds / THUMBNAILS
        places = np.clip(np.searchsorted(info.timestamps, moments), 0, info.frames - 1)
        unique, back = np.unique(places, return_inverse=True)
        frames = open_video(info).read(unique.astype(np.int64))[back]
    except UserError:
        return ""
    height, width = frames.shape[1:3]
    width = max(2, round(width * THUMBNAIL_HEIGHT / height / 2) * 2)
    small = [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        .reformat(width, THUMBNAIL_HEIGHT)
        .to_ndarray()
        for frame in frames
    ]
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(np.concatenate(small, axis=1))).decode()


def _jpeg(picture: Frames) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as JPEG; FFmpeg does it, so that no other library is needed."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", 1
    encoder.options = {"qmin": "4", "qmax": "6"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
