"""Folders for what nobody needs later: gone when the work ends, and after a kill when the next work begins."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tspbench.errors import UserError

PREFIX: Final = ".scratch-"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in ``parent`` that no other process uses; it is removed in any case.

    Whoever uses such a folder holds a lock on it, which ends with the process: those without one were left by a kill,
    and are removed here.

    Args:
        parent: an existing folder.

    Raises:
        UserError: nothing can be made there.
    """
    try:
        folder, descriptor = _new(parent)
    except OSError as error:
        raise UserError(
            f"{parent} cannot be written ({error.strerror or error}): make room or choose another place."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _new(parent: Path) -> tuple[Path, int]:
    """Return a new folder, and the descriptor that holds its lock; folders that were left are removed."""
    with _locked(parent, fcntl.LOCK_EX):  # one at a time, lest a folder be taken for a left one before it is locked
        for left in parent.glob(f"{PREFIX}*"):
            with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        _lock(descriptor, fcntl.LOCK_EX)
        return folder, descriptor


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold a lock on a folder; yield whether it was to be had."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor, how)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except OSError:  # somebody holds it, or a network disk knows no locks
        return False
    return True
