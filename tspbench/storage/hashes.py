"""Content hashes: of files, folders of videos and plain data."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import orjson

from tspbench.errors import UserError


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content; a file is read again only when its size or time has changed.

    Raises:
        UserError: the file is not there or cannot be read.
    """
    try:
        status = path.stat()
        return _hash_content(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give the path of a file.") from error


def hash_videos(videos: Mapping[str, Path]) -> str:
    """Return a hash of names and sizes: videos are too large to be read for this each time."""
    return hash_data({name: [path.name, path.stat().st_size] for name, path in videos.items()})


def hash_data(data: object) -> str:
    """Return the SHA-256 of plain data (as sorted JSON)."""
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()


@lru_cache(maxsize=4096)
def _hash_content(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 - size and time are the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
