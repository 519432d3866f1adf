"""Caption files: references of ActivityNet Captions, and densevid submissions.

References are ``{video: {"timestamps": [[start, end], …], "sentences": […]}}``, submissions
``{"results": {video: [{"sentence", "timestamp": [start, end]}]}}``, both plain or gzipped; other keys are ignored.
Times are seconds. Error messages count captions from 1.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.captions import Captions
from tspbench.errors import UserError
from tspbench.storage.json_files import found, is_time, read_entries, read_json, uncollected

Row = tuple[float, float, str]


@uncollected()
def read_references(path: Path) -> Captions:
    """Read one reference file.

    Published files hold a few segments that end before they start. They stay, with length zero: like that, as in the
    official evaluator, no caption overlaps them.

    Raises:
        UserError: the file is missing, damaged or not JSON, or an entry does not fit the format; the sentence names
            the video and the caption.
    """
    content = read_json(path, "reference")
    if not isinstance(content, dict) or not content:
        raise UserError(
            f'{path}: expected an object {{video: {{"timestamps": …, "sentences": …}}}}, found {found(content)}; give '
            "a reference file of ActivityNet Captions."
        )
    return _captions({name: _references(f"{path}, video {name!r}", entry) for name, entry in content.items()})


@uncollected()
def read_captions(path: Path) -> Captions:
    """Read a submission.

    Raises:
        UserError: the file is missing, damaged or not JSON, or an entry does not fit the format; the sentence names
            the video and the caption.
    """
    results = read_entries(path, "results", "prediction")
    return _captions({name: _submitted(f"{path}, video {name!r}", entry) for name, entry in results.items()})


def _references(where: str, entry: object) -> list[Row]:
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
        rows.append((start, max(start, end), sentence))
    return rows


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
