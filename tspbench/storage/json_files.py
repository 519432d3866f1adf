"""JSON files of annotations, predictions and captions: read whole, and what is wrong in them said in a few words.

Files may be gzipped, whatever their name. Of a key that comes twice in an object the last one counts, as it does for
Python's own reader and with it for the official evaluators.
"""

import difflib
import gc
import gzip
import json
import reprlib
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from tspbench.errors import UserError

_LARGEST = sys.float_info.max
LATEST_SECONDS: Final = 1e12  # no video is as long, and sums and products of such times are far from overflow


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's search for cycles while millions of small objects are made, none of which is in one.

    Each search walks through all of them: without them a large file is read in a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_entries(path: Path, key: str, kind: str) -> dict[str, object]:
    """Return the object under ``key`` of an ActivityNet JSON file.

    Args:
        path: .json or .json.gz.
        key: "database" or "results".
        kind: what the file is called in messages.

    Raises:
        UserError: the file is missing, damaged or not JSON, or has no such object.
    """
    content = read_json(path, kind)
    if not isinstance(content, dict) or not isinstance(content.get(key), dict):
        inside = content.get(key, content) if isinstance(content, dict) else content
        raise UserError(
            f'{path}: expected an object {{"{key}": {{video: …}}}}, found {found(inside)}; '
            f"give an ActivityNet {kind} file."
        )
    entries: dict[str, object] = content[key]
    return entries


def read_json(path: Path, kind: str) -> object:
    """Return the content of a JSON file, plain or gzipped; NaN is read as Python's own writer leaves it.

    Raises:
        UserError: the file is missing, damaged or not JSON; the sentence calls it the ``kind`` file.
    """
    content = read_content(path, kind)
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        # Python's own writer emits NaN, which is not JSON: its reader gets as far as the entry that is wrong.
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            where = f"line {error.lineno} column {error.colno}"
            raise UserError(
                f"{path}: expected JSON, found something else at {where}; give the {kind} file as JSON."
            ) from error


def read_content(path: Path, kind: str) -> bytes:
    """Return the bytes of a file, unpacked if they are gzipped.

    Raises:
        UserError: the file is missing or damaged; the sentence calls it the ``kind`` file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of the {kind} file.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of the {kind} file.") from error
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path}: expected whole gzip data, found it cut off or damaged; copy the file again."
        ) from error


def is_number(value: object) -> bool:
    """Tell whether ``value``, as read from JSON, is a finite number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def is_time(value: object) -> bool:
    """Tell whether ``value``, as read from JSON, is a time in seconds."""
    return isinstance(value, int | float) and is_number(value) and -LATEST_SECONDS <= value <= LATEST_SECONDS


def segment_problem(segment: object) -> str | None:
    """Return what was expected of a segment as read from JSON, or None if it is one."""
    if not (isinstance(segment, list) and len(segment) == 2 and all(is_time(time) for time in segment)):
        return 'a "segment" of two finite numbers [start, end] in seconds'
    return None if segment[0] <= segment[1] else 'a "segment" [start, end] that does not end before it starts'


def unknown_label(label: object, known: Collection[str]) -> str:
    """Describe a label that is not one of ``known``, with the nearest of them."""
    close = difflib.get_close_matches(label, known, n=1) if isinstance(label, str) else []
    return found(label) + (f" (did you mean {close[0]!r}?)" if close else "")


def found(value: object) -> str:
    """Describe a value as read from JSON in a few words."""
    return "nothing" if value is None else reprlib.repr(value)
