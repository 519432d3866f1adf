import subprocess
import sys

import pytest

from evaluation import METRICS, PROTOCOLS, detection, proposals
from tests.evaluation.helpers import predicted, truth


@pytest.mark.parametrize("task", ["tal", "proposals"])
def test_every_metric_goes_from_statistics_to_named_scores(task):
    metric = METRICS[task]
    ground_truth = truth([("a", "run", 0.0, 1.0)])
    predictions = predicted([("a", "run", 0.0, 1.0, 0.5)])
    for protocol in PROTOCOLS[task].values():
        statistics = metric.statistics(ground_truth, predictions, protocol)
        assert statistics.videos == ("a",)
        perfect = metric.score(statistics).metrics()
        # A perfect curve has the area 0.99: it starts at the first point, not at 0.
        assert {name: value for name, value in perfect.items() if name != "AUC"} == dict.fromkeys(
            set(perfect) - {"AUC"}, 1.0
        )


def test_the_tasks_are_those_of_the_protocols():
    assert list(METRICS) == list(PROTOCOLS)


def test_localization_is_detection():
    assert METRICS["tal"].statistics is detection.statistics
    assert METRICS["tal"].score is detection.score
    assert METRICS["proposals"].score is proposals.score


def test_importing_it_loads_neither_torch_nor_numba():
    code = "import sys, evaluation; sys.exit(' '.join({'torch', 'numba'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
