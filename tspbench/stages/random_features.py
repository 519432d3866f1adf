"""Features that know nothing but how many rows a video has: the floor, a prior of segments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tspbench.stages.stage import run_stage
from tspbench.storage.features import FeatureFiles, write_like
from tspbench.storage.hashes import hash_file

FEATURES_FILE: Final = "features.h5"


def random_features(template: Sequence[Path], folder: Path, seed: int) -> Path:
    """Write standard normal features with the videos, rows and attributes of ``template``; skipped when finished.

    Args:
        template: the files of a feature set.
        folder: where `FEATURES_FILE` goes.
        seed: of the numbers.
    """

    def work(_key: str) -> Mapping[str, object]:
        files = FeatureFiles(template)
        rng = np.random.default_rng([seed, 30])
        write_like(
            folder / FEATURES_FILE,
            files,
            "random",
            f"seed {seed}",
            lambda shape: rng.standard_normal(shape, dtype=np.float32),
        )
        return {"videos": len(files.videos)}

    inputs = {f"rows as in {number}": hash_file(path) for number, path in enumerate(template)}
    run_stage("random features", folder, {"seed": seed}, inputs, [FEATURES_FILE], work)
    return folder / FEATURES_FILE
