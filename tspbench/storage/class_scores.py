"""Video-level class scores, in the format of the CUHK classifier's file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tspbench.errors import UserError
from tspbench.storage.atomic import write_json


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


def write_class_scores(path: Path, scores: ClassScores) -> None:
    """Write class scores atomically."""
    write_json(path, {"results": dict(scores.scores), "class": scores.labels})


def read_class_scores(path: Path) -> ClassScores:
    """Read class scores.

    Raises:
        UserError: no such file, another format, or a score that is no finite number of at least 0.
    """
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
