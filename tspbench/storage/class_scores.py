"""Video-level class scores: files in the format of the CUHK classifier, and UntrimmedNet's array for THUMOS14."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json
from tspbench.storage.thumos import CLASS_NUMBERS, CLASSES, TEST_VIDEOS


@dataclass(frozen=True)
class ClassScores:
    """How likely each class occurs somewhere in each video.

    Args:
        labels: class names in the order of the scores.
        scores: video → (classes,) float64, finite and not negative.
    """

    labels: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]

    def of(self, video: str, labels: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores of ``video`` in the order of ``labels``.

        Raises:
            UserError: the video or a label has no score.
        """
        index = {label: k for k, label in enumerate(self.labels)}
        missing = [label for label in labels if label not in index]
        if missing:
            raise UserError(f"The class scores lack the class {missing[0]!r} ({len(missing)} such): add them.")
        if video not in self.scores:
            raise UserError(f"The class scores lack the video {video!r}: add it.")
        return self.scores[video][[index[label] for label in labels]]

    def check(self, path: Path, videos: Sequence[str], labels: Sequence[str]) -> None:
        """Raise a UserError that names ``path`` unless there are scores of all ``labels`` for all ``videos``."""
        for kind, wanted, there in (("class", labels, self.labels), ("video", videos, self.scores)):
            missing = sorted(set(wanted) - set(there))
            if missing:
                raise UserError(
                    f"{path}: expected scores of {len(wanted)} {kind}(s), {len(missing)} are missing (first: "
                    f"{missing[0]!r}): add them."
                )


def write_class_scores(path: Path, scores: ClassScores) -> None:
    """Write class scores atomically."""
    write_json(path, {"results": dict(scores.scores), "class": scores.labels})


def read_class_scores(path: Path) -> ClassScores:
    """Read class scores; an .npy file is UntrimmedNet's, see ``_read_array``.

    Raises:
        UserError: no such file, another format, or a score that is no finite number of at least 0.
    """
    if path.suffix == ".npy":
        return _read_array(path)
    try:
        content = orjson.loads(path.read_bytes())
        labels, results = tuple(content["class"]), dict(content["results"])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of class scores.") from error
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path} is not a file of class scores ({error}): expected {{"results": {{video: [scores]}}, "class": '
            "[labels]}."
        ) from error
    scores = {}
    for video, values in results.items():
        try:
            row = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            row = np.full(0, np.nan)
        if row.shape != (len(labels),) or not np.isfinite(row).all() or (row < 0).any():
            raise UserError(
                f"{path}, video {video!r}: expected {len(labels)} finite scores of at least 0, one a class: mend it."
            )
        scores[video] = row
    return ClassScores(labels, scores)


def _read_array(path: Path) -> ClassScores:
    """Read the scores that G-TAD's release uses for THUMOS14: one row a test video, one column a class of the 101.

    Row r is the video ``video_test_{r + 1:07}``, column c the class number c + 1 (`CLASS_NUMBERS`); the 20
    classes that are annotated in time are kept.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable array ({error}): give UntrimmedNet's .npy file.") from error
    if array.shape != (TEST_VIDEOS, CLASSES) or array.dtype.kind != "f":
        raise UserError(
            f"{path}: expected {TEST_VIDEOS} videos by {CLASSES} classes of THUMOS14, found {array.dtype} "
            f"{array.shape}: give UntrimmedNet's .npy file, or class scores as JSON."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array < 0).any(axis=1))
    if bad.size:
        raise UserError(f"{path}, row {bad[0]}: expected finite scores of at least 0: give the file as released.")
    kept = array[:, [number - 1 for number in CLASS_NUMBERS.values()]].astype(np.float64)
    return ClassScores(tuple(CLASS_NUMBERS), {f"video_test_{row + 1:07}": scores for row, scores in enumerate(kept)})
