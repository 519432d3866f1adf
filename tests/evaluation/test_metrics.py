import subprocess
import sys

from evaluation import DETECTION_PROTOCOLS, METRICS, detection
from tests.evaluation.helpers import predicted, truth


def test_every_metric_goes_from_statistics_to_named_scores():
    ground_truth = truth([("a", "run", 0.0, 1.0)])
    predictions = predicted([("a", "run", 0.0, 1.0, 0.5)])
    for metric in METRICS.values():
        result = metric.score(metric.statistics(ground_truth, predictions, DETECTION_PROTOCOLS["thumos14"]))
        assert set(result.metrics().values()) == {1.0}


def test_localization_is_detection():
    assert METRICS["tal"].statistics is detection.statistics
    assert METRICS["tal"].score is detection.score


def test_importing_it_loads_neither_torch_nor_numba():
    code = "import sys, evaluation; sys.exit(' '.join({'torch', 'numba'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
