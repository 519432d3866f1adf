"""Caption files: references of ActivityNet Captions, and densevid submissions.

References are ``{video: {"timestamps": [[start, end], …], "sentences": […]}}``, submissions
``{"results": {video: [{"sentence", "timestamp": [start, end]}]}}``, both plain or gzipped; other keys are ignored, but
for the ``"duration"`` of a video where it is asked for. Times are seconds. Error messages count captions from 1.
"""

import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from evaluation.captions import Captions
from tspbench.errors import UserError
from tspbench.storage.atomic import write_bytes
from tspbench.storage.json_files import found, is_time, read_entries, read_json, uncollected

Row = tuple[float, float, str]
# How far a caption may reach beyond its video. Those of ActivityNet Captions do by up to 0.011 s.
SPARE_SECONDS: Final = 0.5


@dataclass(frozen=True, eq=False)
class CaptionFile:
    """A file of ActivityNet Captions, to train on or to evaluate on.

    Attributes:
        path: the file.
        captions: as `read_references` gives them.
        durations: video → its length in seconds; None: the file does not say.
    """

    path: Path
    captions: Captions
    durations: dict[str, float | None]


@uncollected()
def read_references(path: Path) -> Captions:
    """Read one reference file.

    Published files hold a few segments that end before they start. They stay, with length zero: like that, as in the
    official evaluator, no caption overlaps them.

    Raises:
        UserError: the file is missing, damaged or not JSON, or an entry does not fit the format; the sentence names
            the video and the caption.
    """
    content = _read_videos(path)
    return _captions({name: _references(f"{path}, video {name!r}", entry) for name, entry in content.items()})


@uncollected()
def read_caption_file(path: Path) -> CaptionFile:
    """Read one reference file together with the lengths of its videos.

    Captions that end up to `SPARE_SECONDS` beyond their video stay as they are: they are scored like that, too. As in
    `read_references`, segments that end before they start stay, with length zero: who trains leaves them out.

    Raises:
        UserError: as `read_references`; a duration that is no time above 0; a caption that begins before its video or
            reaches further beyond it.
    """
    content = _read_videos(path)
    rows: dict[str, list[Row]] = {}
    durations: dict[str, float | None] = {}
    for name, entry in content.items():
        where = f"{path}, video {name!r}"
        durations[name] = duration = _duration(where, entry)
        rows[name] = _references(where, entry, duration or math.inf)
    return CaptionFile(path, _captions(rows), durations)


@uncollected()
def read_captions(path: Path) -> Captions:
    """Read a submission.

    Raises:
        UserError: the file is missing, damaged or not JSON, or an entry does not fit the format; the sentence names
            the video and the caption.
    """
    results = read_entries(path, "results", "prediction")
    return _captions({name: _submitted(f"{path}, video {name!r}", entry) for name, entry in results.items()})


def write_captions(path: Path, captions: Captions, scores: NDArray[np.float64] | None = None) -> None:
    """Write a submission atomically, as the densevid evaluator reads it; a name that ends in .gz is gzipped.

    `read_captions` reads back every video, also one without a caption, and every number to the last bit.

    Args:
        path: the file.
        captions: videos in their order, and the captions of each in theirs.
        scores: (N,) finite, written as "proposal_score"; None: there are none.

    Raises:
        ValueError: scores of another shape, or one that is not finite.
        UserError: the file cannot be written.
    """
    if scores is not None and not (scores.shape == (len(captions),) and np.isfinite(scores).all()):
        raise ValueError(f"{path}: expected {len(captions)} finite scores, received {scores}.")
    start, end = captions.start.tolist(), captions.end.tolist()
    results: dict[str, list[dict[str, object]]] = {}
    for video, rows in captions.rows().items():
        results[video] = [{"sentence": captions.sentences[k], "timestamp": (start[k], end[k])} for k in rows]
        if scores is not None:
            for row, entry in zip(rows, results[video], strict=True):
                entry["proposal_score"] = float(scores[row])
    content = orjson.dumps({"version": "VERSION 1.0", "results": results, "external_data": {}})
    # Without a time stamp, so that equal captions give equal files.
    write_bytes(path, gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)


def _read_videos(path: Path) -> dict[str, object]:
    content = read_json(path, "reference")
    if not isinstance(content, dict) or not content:
        raise UserError(
            f'{path}: expected an object {{video: {{"timestamps": …, "sentences": …}}}}, found {found(content)}; give '
            "a reference file of ActivityNet Captions."
        )
    return content


def _references(where: str, entry: object, duration: float | None = None) -> list[Row]:
    """Return the captions of an entry; where a duration is given, they may hardly exceed it."""
    if not isinstance(entry, dict):
        raise UserError(
            f'{where}: expected an object with "timestamps" and "sentences", found {found(entry)}; mend it.'
        )
    lists = [entry.get("timestamps"), entry.get("sentences")]
    if not all(isinstance(part, list) for part in lists):
        raise UserError(
            f'{where}: expected the lists "timestamps" and "sentences", found {found(lists[0])} and {found(lists[1])}; '
            "give [] if there are none."
        )
    times, sentences = entry["timestamps"], entry["sentences"]
    if len(times) != len(sentences):
        raise UserError(
            f"{where}: expected as many timestamps as sentences, found {len(times)} and {len(sentences)}; mend it."
        )
    rows = []
    for number, (time, sentence) in enumerate(zip(times, sentences, strict=True), start=1):
        start, end = _checked(f"{where}, caption {number}", time, sentence)
        end = max(start, end)
        if duration is not None and (start < 0 or end > duration + SPARE_SECONDS):
            video = "that begins at 0 or later" if duration == math.inf else f"within [0, {duration:g}], the video"
            raise UserError(
                f'{where}, caption {number}: expected a "timestamp" {video}, found {found(time)}; correct or remove '
                "this caption, or correct the duration."
            )
        rows.append((start, end, sentence))
    return rows


def _duration(where: str, entry: object) -> float | None:
    """Return the length in seconds of an entry that is one, if it has any."""
    duration = entry.get("duration") if isinstance(entry, dict) else None
    if duration is None:
        return None
    if not is_time(duration) or duration <= 0:
        raise UserError(
            f'{where}: expected a "duration" in seconds above 0, found {found(duration)}; correct it, or leave it out.'
        )
    return float(duration)


def _submitted(where: str, entry: object) -> list[Row]:
    if not isinstance(entry, list):
        raise UserError(f"{where}: expected a list of captions, found {found(entry)}; give [] if there are none.")
    rows = []
    for number, caption in enumerate(entry, start=1):
        place = f"{where}, caption {number}"
        if not isinstance(caption, dict):
            raise UserError(
                f'{place}: expected an object with "sentence" and "timestamp", found {found(caption)}; correct or '
                "remove this caption."
            )
        for key in ("sentence", "timestamp"):
            if key not in caption:
                raise UserError(
                    f'{place}: expected the key "{key}", found {found(caption)}; correct or remove this caption.'
                )
        start, end = _checked(place, caption["timestamp"], caption["sentence"])
        if end < start:
            raise UserError(
                f'{place}: expected a "timestamp" [start, end] that does not end before it starts, found '
                f"{found(caption['timestamp'])}; correct or remove this caption."
            )
        rows.append((start, end, caption["sentence"]))
    return rows


def _checked(where: str, time: object, sentence: object) -> tuple[float, float]:
    """Return start and end in seconds of a caption that is one."""
    if not isinstance(sentence, str):
        expected, value = 'a "sentence" that is text', sentence
    elif not (isinstance(time, list) and len(time) == 2 and all(is_time(part) for part in time)):
        expected, value = 'a "timestamp" of two finite numbers [start, end] in seconds', time
    elif not sentence.isascii() and any("\ud800" <= character <= "\udfff" for character in sentence):
        expected, value = 'a "sentence" of whole characters, not half a surrogate pair', sentence
    else:
        return float(time[0]), float(time[1])
    raise UserError(f"{where}: expected {expected}, found {found(value)}; correct or remove this caption.")


def _captions(rows: Mapping[str, list[Row]]) -> Captions:
    every = [row for part in rows.values() for row in part]
    counts = [len(part) for part in rows.values()]
    return Captions(
        videos=tuple(rows),
        video=np.repeat(np.arange(len(rows), dtype=np.int64), counts),
        start=np.array([start for start, _, _ in every], dtype=np.float64),
        end=np.array([end for _, end, _ in every], dtype=np.float64),
        sentences=tuple(sentence for _, _, sentence in every),
    )
