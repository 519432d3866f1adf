"""Files that appear whole or not at all: temporary sibling, fsync, rename."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from tspbench.errors import UserError

# Room for so many bytes more says that a library failed for another reason than the disk.
PROBE_BYTES: Final = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends without an error.

    A kill at any moment leaves the old file, or none; at worst a ``.NAME.*.part`` sibling stays behind.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    # Behind a link lies the file that is meant; a device or a pipe would be gone once a file takes its place.
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be written (it is there, and no file): choose another place.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)  # as the umask has it; safetensors makes its files private
    except OSError as error:
        raise UserError(f"{path} cannot be written ({_why(error)}): choose another place.") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
        _sync_folder(path.parent)
    except UserError:
        raise
    except Exception as error:
        refusal = error if isinstance(error, OSError) else _refusal(temporary)
        if refusal is None:
            raise
        raise UserError(
            f"{path} cannot be written ({_why(refusal)}): make room or choose another place, then run "
            "the same command again; what is finished is kept."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write ``content`` to ``path`` atomically, as indented JSON with sorted keys; NumPy arrays become lists."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    write_bytes(path, orjson.dumps(content, option=options))


def _refusal(path: Path) -> OSError | None:
    """Ask the disk itself whether it is full: torch, HDF5 and safetensors each say so in their own way."""
    try:
        with path.open("ab") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _why(error: OSError) -> str:
    """Return the system's words for an error: those of HDF5 are several lines long."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
