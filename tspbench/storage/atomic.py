"""Files that appear whole or not at all: temporary sibling, fsync, rename."""

from __future__ import annotations

import errno
import glob
import io
import os
import socket
import stat
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from tspbench.errors import UserError

if TYPE_CHECKING:
    import h5py

# Room for so many bytes more says that a library failed for another reason than the disk.
PROBE_BYTES: Final = 1 << 20
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends without an error.

    A kill at any moment leaves the old file, or none; at worst a ``.NAME.*.part`` sibling stays behind, until the file
    is written the next time.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    # Behind a link lies the file that is meant; a device or a pipe would be gone once a file takes its place.
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be written (it is there, and no file): choose another place.")
    temporary = path.with_name(f".{path.name}.{_room()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)  # as the umask has it; safetensors makes its files private
    except OSError as error:
        raise _unwritten(path, error) from error
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
        raise _unwritten(path, refusal, begun=True) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_h5(path: Path) -> Iterator[h5py.File]:
    """Yield a new H5 file that takes the place of ``path`` when the block ends without an error.

    Raises:
        UserError: see `replacing`.
    """
    import h5py  # noqa: PLC0415 - most commands write no such file

    with replacing(path) as temporary, _Disk(temporary, "w+") as disk:
        try:
            with h5py.File(disk, "w") as file:
                yield file
        finally:
            if disk.error is not None:
                raise disk.error


class _Disk(io.FileIO):
    """A file that keeps a full disk to itself: told of it, HDF5 crashes the whole process when that ends.

    Attributes:
        error: the first one; what is written from then on is lost.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, or note why not."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or note why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


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


def _remove_left(path: Path) -> None:
    """Remove the temporary siblings that processes left which are gone: large ones would fill a disk, kill by kill."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_room()}-*.part"):
        process = left.suffixes[-2].split("-")[1]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except OSError:  # somebody else's
            continue


@cache
def _room() -> str:
    """Return what tells which processes see each other: those of other machines and containers do not."""
    namespace = Path("/proc/self/ns/pid")
    seen = f"{socket.gethostname()} {namespace.readlink() if namespace.is_symlink() else ''}"
    return f"{zlib.crc32(seen.encode()):08x}"


def _unwritten(path: Path, error: OSError, *, begun: bool = False) -> UserError:
    if begun or error.errno in FULL:
        mend = "make room or choose another place, then run the same command again; what is finished is kept."
    else:
        mend = "choose another place."
    return UserError(f"{path} cannot be written ({_why(error)}): {mend}")


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
