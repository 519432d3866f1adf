"""Per-video statistics of a score, so that resampling never matches again."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

import numpy as np
from pydantic import TypeAdapter

from evaluation import METRICS
from tspbench.errors import UserError
from tspbench.storage.atomic import replacing

FORMAT: Final = "tspbench statistics 1"
ABOUT: Final = "about"  # the entry that says what the others are
STRINGS: Final = tuple[str, ...]


class StoredStatistics(NamedTuple):
    """What a file of statistics holds: those of a metric, of the type that its ``statistics`` returns."""

    task: str
    statistics: Any
    signature: str


def write_statistics(path: Path, statistics: Any, signature: str) -> None:
    """Write the statistics of any metric of ``evaluation.METRICS`` as one .npz file, atomically.

    Every field is an entry: arrays as they are, strings as an array, everything else as JSON.

    Args:
        path: where to.
        statistics: a dataclass, as a metric's ``statistics`` returns it.
        signature: of the score.
    """
    task = next(name for name in METRICS if statistics_type(name) is type(statistics))
    hints = get_type_hints(type(statistics))
    entries: dict[str, Any] = {
        field.name: _entry(getattr(statistics, field.name), hints[field.name]) for field in fields(type(statistics))
    }
    about = np.array(json.dumps({"format": FORMAT, "task": task, "signature": signature}))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{ABOUT: about, **entries})


def read_statistics(path: Path) -> StoredStatistics:
    """Read what ``write_statistics`` wrote.

    Raises:
        UserError: the file cannot be read, is damaged, is another one, or is of another version.
    """
    entries = _entries(path)
    try:
        about = json.loads(str(entries.pop(ABOUT)))
        found, task, signature = about["format"], about["task"], about["signature"]
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"a whole file of {FORMAT!r}", "another one or a part of one") from error
    if found != FORMAT or not isinstance(task, str) or task not in METRICS:
        raise _refused(path, f"{FORMAT!r} of a task among {', '.join(sorted(METRICS))}", f"{found!r} of {task!r}")
    kind = statistics_type(task)
    names = [field.name for field in fields(kind)]
    if entries.keys() != set(names):
        raise _refused(path, f"the entries {', '.join(sorted(names))}", ", ".join(sorted(entries)) or "none")
    hints = get_type_hints(kind)
    values = {}
    for name in names:
        try:
            values[name] = _value(entries[name], hints[name])
        except ValueError as error:
            raise _refused(path, f"an entry {name!r} as {kind.__name__} has it", "another") from error
    return StoredStatistics(task, kind(**values), signature)


def statistics_type(task: str) -> Any:
    """Return the dataclass that the statistics of ``task`` are."""
    return get_type_hints(METRICS[task].statistics)["return"]


def _entry(value: Any, hint: Any) -> np.ndarray[Any, Any]:
    """Return a field as an array that needs no pickling."""
    if isinstance(value, np.ndarray):
        return value
    if hint == STRINGS:
        return np.array(value, dtype=np.str_)
    return np.array(json.dumps(TypeAdapter(hint).dump_python(value)))


def _value(entry: np.ndarray[Any, Any], hint: Any) -> Any:
    """Return the field of type ``hint`` that ``_entry`` made ``entry`` of."""
    if hint == STRINGS:
        return tuple(entry.tolist())
    if entry.dtype.kind == "U":
        return TypeAdapter(hint).validate_python(json.loads(str(entry)))
    return entry


def _entries(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return every array of an .npz file; none if it is not one."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return {}
            file.seek(0)
            stored: Mapping[str, np.ndarray[Any, Any]] = np.load(file, allow_pickle=False)
            return dict(stored)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a statistics.npz.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise _refused(path, f"a whole file of {FORMAT!r}", "a damaged one") from error


def _refused(path: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected {expected}, found {found}; score the predictions again with this version of tspbench."
    )
