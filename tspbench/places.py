"""Where everything lies that the benchmark reads and does not make."""

import os
from pathlib import Path

DATA_VARIABLE = "TSPBENCH_DATA"


def data_root() -> Path:
    """Return the folder of benchmarks, released weights and features: ``TSPBENCH_DATA``, or else ``data``."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")
