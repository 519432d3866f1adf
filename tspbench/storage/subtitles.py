"""Subtitles of a video: SubRip (.srt) and WebVTT (.vtt).

A file is called after its video: letters, digits and ``_.-~`` as they are, every other byte of its UTF-8 name as %XX,
and so is a dot at the beginning. A name that is too long for a file ends in its SHA-256. So no file lies elsewhere,
whatever a video is called, and no two videos share one (where the file system tells "a" from "A").
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from tspbench.storage.atomic import write_text

Cue = tuple[int, int, str]  # milliseconds of start and end, text
LONGEST_NAME: Final = 200  # bytes; file systems take 255, and a file that is being written has a longer name
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Ends of sentences, and what may stand behind them.
_ENDED: Final = re.compile(r"""[.!?…]["'”’)\]]*$""")
# SubRip has no way to write what players take for markup, and "-->" separates times: here are the nearest others.
_SUBRIP: Final = str.maketrans("<>{}", "‹›()")
_WEBVTT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def write_subtitles(
    folder: Path,
    video: str,
    segments_seconds: NDArray[np.float64],
    sentences: Sequence[str],
    scores: NDArray[np.float64],
    *,
    name: str = "",
) -> tuple[Path, Path]:
    """Write the subtitles of a video, each file atomically.

    Of captions that overlap the best scored are kept, in order of time; see `chosen_cues`.

    Args:
        folder: where the files go.
        video: its name, of which the files get theirs.
        segments_seconds: (N, 2) [start, end).
        sentences: N texts, in one line or several.
        scores: (N,), the higher the better.
        name: of the files without suffix, where it is not to follow from the video's.

    Returns:
        The .srt and the .vtt file.

    Raises:
        ValueError: arrays of other shapes, or a number that is not finite.
        UserError: a file cannot be written.
    """
    cues = chosen_cues(segments_seconds, sentences, scores)
    subrip = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.translate(_SUBRIP)}\n\n"
        for number, (start, end, text) in enumerate(cues, start=1)
    ]
    webvtt = [
        f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{text.translate(_WEBVTT)}\n" for start, end, text in cues
    ]
    name = name or file_name(video)
    paths = folder / f"{name}.srt", folder / f"{name}.vtt"
    write_text(paths[0], "".join(subrip))
    write_text(paths[1], "WEBVTT\n" + "".join(webvtt))
    return paths


def remove_subtitles(folder: Path) -> None:
    """Delete the subtitles in a folder, so that none of an earlier run is taken for one of this."""
    for path in [*folder.glob("*.srt"), *folder.glob("*.vtt")]:
        path.unlink()


def chosen_cues(
    segments_seconds: NDArray[np.float64], sentences: Sequence[str], scores: NDArray[np.float64]
) -> list[Cue]:
    """Return the captions that a viewer can read one after the other, in order of time.

    The best scored caption is kept, then each next one that overlaps none that is kept; of equal scores the first
    counts. Times are rounded to milliseconds and clipped to the video's start before that; captions that are empty, or
    last no millisecond, are left out. Sentences get a capital and a full stop.

    Args:
        segments_seconds: (N, 2) [start, end).
        sentences: N texts.
        scores: (N,), the higher the better.

    Raises:
        ValueError: arrays of other shapes, or a number that is not finite.
    """
    count = len(sentences)
    if segments_seconds.shape != (count, 2) or scores.shape != (count,):
        raise ValueError(
            f"expected segments ({count}, 2) and scores ({count},), got {segments_seconds.shape} and {scores.shape}"
        )
    if not (np.isfinite(segments_seconds).all() and np.isfinite(scores).all()):
        raise ValueError("expected finite segments and scores")
    times = np.rint(np.maximum(segments_seconds, 0.0) * 1000).astype(np.int64).tolist()
    kept: list[Cue] = []
    for row in np.argsort(-scores, kind="stable"):
        (start, end), text = times[row], _sentence(sentences[row])
        if text and start < end and all(end <= other[0] or other[1] <= start for other in kept):
            kept.append((start, end, text))
    return sorted(kept)


def file_name(video: str) -> str:
    """Return what the files of a video are called, without suffix."""
    name = quote(video.encode(errors="surrogatepass"), safe="")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_NAME:
        # Behind a percent sign quoted names have two digits: none is like this one, nor like that of "".
        name = f"{name[: LONGEST_NAME // 2]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return name or "%"


def _sentence(text: str) -> str:
    """Return a text as one line that begins with a capital and ends a sentence."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    if not line:
        return ""
    return line[0].upper() + line[1:] + ("" if _ENDED.search(line) else ".")


def _clock(milliseconds: int, mark: str) -> str:
    """Return a time as hours, minutes and seconds, and behind ``mark`` thousandths."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{rest:03d}"
