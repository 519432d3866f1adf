"""PROTOCOLS: thresholds, comparison and interpolation per benchmark, with source."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Protocol:
    """How a benchmark counts a detection as right and turns the counts into an average precision.

    Attributes:
        name: the key of this row in ``PROTOCOLS``.
        thresholds: temporal IoU, rising, in (0, 1].
        comparison: how a temporal IoU must compare with a threshold.
        interpolation: "all-point" is the area under the precision envelope, as in PASCAL VOC since 2010.
        ties: the order of equal scores: the fixed one of ``evaluation.matching``, or by "file" as in
            ``evaluation.file_order``.
        source: where the above is laid down.

    Raises:
        ValueError: there is no threshold, or they do not rise within (0, 1].
    """

    name: str
    thresholds: tuple[float, ...]
    comparison: Literal[">="]
    interpolation: Literal["all-point"]
    source: str
    ties: Literal["fixed", "file"] = "fixed"

    def __post_init__(self) -> None:
        bounds = (0.0, *self.thresholds)
        rising = all(low < high for low, high in zip(bounds, self.thresholds, strict=False))
        if not self.thresholds or not rising or self.thresholds[-1] > 1.0:
            raise ValueError(f"thresholds must rise within (0, 1], received {self.thresholds}.")


PROTOCOLS: dict[str, Protocol] = {
    "activitynet": Protocol(
        name="activitynet",
        # Not ten decimal literals: the official evaluator calls linspace, whose 0.9 is one bit below the literal.
        thresholds=tuple(np.linspace(0.5, 0.95, 10).tolist()),
        comparison=">=",
        interpolation="all-point",
        source="ActivityNet challenge, Evaluation/eval_detection.py: tIoU 0.5:0.05:0.95.",
    ),
    "activitynet-file-order": Protocol(
        name="activitynet-file-order",
        thresholds=tuple(np.linspace(0.5, 0.95, 10).tolist()),
        comparison=">=",
        interpolation="all-point",
        source=(
            "As activitynet, but equal scores as the official evaluator leaves them (NumPy's plain quicksort of the "
            "file's rows): for published files with ties; another order of the file gives another score."
        ),
        ties="file",
    ),
    "thumos14": Protocol(
        name="thumos14",
        thresholds=tuple(np.linspace(0.3, 0.7, 5).tolist()),
        comparison=">=",
        interpolation="all-point",
        source=(
            "The ActivityNet evaluator at tIoU 0.3:0.1:0.7, as the code of G-TAD, P-GCN and ActionFormer scores "
            "THUMOS14; not interchangeable with the challenge's own MATLAB evaluator."
        ),
    ),
}
