"""Training states in files: the last few are kept, and a damaged one falls back to the one before."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from tspbench.errors import UserError
from tspbench.progress import say
from tspbench.storage.atomic import replacing

STATES: Final = "training"
"""The folder of a training's states, in that of its stage."""

_STATES: Final = "state-*.pt"
_UNFINISHED: Final = ".state-*.part"


class TrainingStates:
    """The states of one training, ``state-EEEE-SSSSSS.pt``: behind how many epochs and how many steps of the next.

    Args:
        folder: where they lie; states of other trainings in it are passed over, and gone with the first one written.
        fingerprint: of the training.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int) -> None:
        self.folder, self._fingerprint, self._keep = folder, fingerprint, keep
        self._own: list[Path] = []  # of this training, the newest last

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the path and the content of the newest state that is whole; damaged ones are named aloud.

        What a kill has left half-written is removed.
        """
        for path in self.folder.glob(_UNFINISHED):
            path.unlink(missing_ok=True)
        damaged, found = [], None
        paths = sorted(self.folder.glob(_STATES))
        for place, path in reversed(list(enumerate(paths))):
            try:
                state = read_state(path)
            except UserError:
                damaged.append(path)
                continue
            if state.get("fingerprint") == self._fingerprint:
                # What this training wrote last has removed all that was not its own.
                self._own, found = paths[: place + 1], (path, state)
                break
        if damaged:
            what = "training starts again" if found is None else f"training goes on from {found[0].name}"
            say(f"{' and '.join(map(str, damaged))} {'is' if len(damaged) == 1 else 'are'} damaged: {what}.")
        return found

    def write(self, epoch: int, step: int, state: Mapping[str, object]) -> None:
        """Write a state, and remove those that are no longer kept.

        Args:
            epoch: how many are done.
            step: how many of the next epoch are done.
            state: tensors, numbers, strings, lists and dicts.

        Raises:
            UserError: the disk is full; all earlier states are kept.
        """
        path = self.folder / f"state-{epoch:04d}-{step:06d}.pt"
        write_state(path, {**state, "fingerprint": self._fingerprint})
        self._own = [*(each for each in self._own if each != path), path][-self._keep :]
        for other in set(self.folder.glob(_STATES)) - set(self._own):
            other.unlink(missing_ok=True)


def remove_states(folder: Path) -> None:
    """Remove the training states in the folder of a stage that is finished, those of version 0.5.0, too."""
    shutil.rmtree(folder / STATES, ignore_errors=True)
    (folder / f"{STATES}.pt").unlink(missing_ok=True)


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Write a training state (tensors, numbers, strings, lists, dicts) atomically."""
    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state written by `write_state`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # because torch does not compare the checksums
            broken = archive.testzip()
        state = None if broken else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails with whatever its bytes lead to
        raise UserError(f"{path} is damaged ({type(error).__name__}): remove it, and training starts again.") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is damaged (a checksum is wrong): remove it, and training starts again.")
    return state
