"""Features as a folder of .npy files, one a video, as ActionFormer and OpenTAD keep them.

A file is called VIDEO.npy; the ``v_`` that names of ActivityNet's videos begin with may be there or not. A file says
nothing of what a row means, nor which of its two axes is time, and published folders have it either way. The layout is
therefore told, never guessed.
"""

from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.storage.atomic import replacing
from tspbench.storage.features import Rows
from tspbench.video_names import PREFIX, other_name

Layout = Literal["time-first", "channels-first"]
LAYOUTS: Final[dict[Layout, str]] = {"time-first": "(T, C)", "channels-first": "(C, T)"}


class FeatureFolder:
    """One feature set as a folder of .npy files; the shapes are read at once, the rows when they are asked for.

    Args:
        folder: where the files lie; other files in it do not count.
        layout: which axis is time.

    Raises:
        UserError: no such folder, no .npy file, two files of one video, a file that holds no two axes of numbers, or
            rows of different widths; if the widths differ and the lengths do not, it names the other layout.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.paths, self.layout = (folder,), layout
        self._files = npy_files(folder, "features")
        for video in self._files:
            if video.startswith(PREFIX) and (other := other_name(video)) in self._files:
                raise UserError(
                    f"{folder}: expected one file of the video {other!r}, found {other}.npy and {video}.npy; remove "
                    "one of them."
                )
        self._shapes = {video: self._shape(path) for video, path in self._files.items()}
        self.feature_dim = next(width for _, width in self._shapes.values())
        if any(width != self.feature_dim for _, width in self._shapes.values()):
            raise self._uneven()

    @property
    def videos(self) -> frozenset[str]:
        """Names of the videos that have features, as the files are called."""
        return frozenset(self._files)

    def count(self, video: str) -> int:
        """Return how many rows ``video`` has, without reading them."""
        return self._shapes[video][0]

    def rows(self, video: str) -> Rows:
        """Return the (T, C) float32 rows of ``video``.

        Raises:
            UserError: a value is not finite, or the file is gone.
        """
        path = self._files[video]
        content = open_npy(path, LAYOUTS[self.layout])
        return finite_rows(path, content if self.layout == "time-first" else content.T)

    def _shape(self, path: Path) -> tuple[int, int]:
        """Return the number of rows in a file and their width."""
        first, second = open_npy(path, LAYOUTS[self.layout]).shape
        return (first, second) if self.layout == "time-first" else (second, first)

    def _uneven(self) -> UserError:
        """Say which two files have rows of different widths, and whether the axes are taken for each other."""
        first, count = next((self._files[video].name, count) for video, (count, _) in self._shapes.items())
        video, found = next((video, width) for video, (_, width) in self._shapes.items() if width != self.feature_dim)
        told = (
            f"{self._files[video]}: expected rows of {self.feature_dim:,} numbers as in {first}, found {found:,}, read "
            f"as {LAYOUTS[self.layout]}"
        )
        if any(other != count for other, _ in self._shapes.values()):
            return UserError(f"{told}; give the features of one network.")
        other: Layout = "channels-first" if self.layout == "time-first" else "time-first"
        return UserError(
            f"{told}, while the other axis is {count:,} long in all {len(self._shapes):,} files, as if they were "
            f"{LAYOUTS[other]}; give --layout {other}."
        )


def write_npy(folder: Path, video: str, rows: Rows, layout: Layout) -> None:
    """Write VIDEO.npy atomically, unless the same rows lie there already, as of an interrupted run.

    Args:
        folder: where the file goes.
        video: its name.
        rows: (T, C).
        layout: how the file holds them.

    Raises:
        UserError: a file of this name holds something else.
    """
    path = folder / f"{video}.npy"
    content = np.ascontiguousarray(rows if layout == "time-first" else rows.T)
    if not path.exists():
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, content, allow_pickle=False)
        return
    there = open_npy(path, LAYOUTS[layout])
    if (there.dtype, there.shape) != (content.dtype, content.shape) or there.tobytes() != content.tobytes():
        raise UserError(
            f"{path}: expected nothing, or the same {content.dtype} {content.shape} from an interrupted run, found "
            f"other features ({there.dtype} {there.shape}); remove the file, or choose another folder."
        )


def npy_files(folder: Path, what: str) -> dict[str, Path]:
    """Return the .npy files in a folder, name without suffix → path, in the order of the names.

    Args:
        folder: where they lie.
        what: they hold, for the message.

    Raises:
        UserError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist or is no folder; give a folder of .npy files of {what}.")
    there = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == ".npy"}
    if not there:
        raise UserError(f"{folder}: expected .npy files of {what}, one a video, found none; give their folder.")
    return there


def open_npy(path: Path, axes: str, again: str = "this video") -> NDArray[np.generic]:
    """Map an .npy file into memory: nothing is read before its shape is known, and Python objects are never made.

    Args:
        path: the file.
        axes: what its two axes are, for the message.
        again: what has to be extracted again if they are not.

    Raises:
        UserError: it cannot be read, is no .npy file, or does not hold two axes of numbers, neither of them empty.
    """
    try:
        content: NDArray[np.generic] = open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); copy it again.") from error
    except ValueError as error:
        raise UserError(
            f"{path}: expected an .npy file of {axes} numbers, found Python objects, another format, or a file that is "
            "cut off; write it again with numpy.save as an array of float32."
        ) from error
    if content.dtype.kind not in "fiu" or content.ndim != 2 or not content.size:
        raise UserError(
            f"{path}: expected {axes} numbers, neither axis empty, found {content.dtype} {content.shape}; extract "
            f"{again} again."
        )
    return content


def finite_rows(path: Path, content: NDArray[np.generic], again: str = "this video") -> Rows:
    """Return mapped (T, C) numbers as float32 in memory; ``path`` and ``again`` are for the message.

    Raises:
        UserError: a value is not finite, or larger than float32 holds.
    """
    with np.errstate(over="ignore"):
        rows: Rows = np.ascontiguousarray(content, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"{path} holds NaN or infinity; extract {again} again.")
    return rows
