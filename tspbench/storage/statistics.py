"""Per-video statistics of a score, so that resampling never matches again."""

from pathlib import Path

import numpy as np

from evaluation.detection import DetectionStatistics
from tspbench.storage.atomic import replacing


def write_statistics(path: Path, statistics: DetectionStatistics) -> None:
    """Write the arrays of a detection score as one .npz file, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            videos=np.array(statistics.videos),
            labels=np.array(statistics.labels),
            thresholds=np.array(statistics.protocol.thresholds),
            prediction=statistics.prediction,
            video=statistics.video,
            label=statistics.label,
            true_positive=statistics.true_positive,
            ground_truth_video=statistics.ground_truth_video,
            ground_truth_label=statistics.ground_truth_label,
        )
