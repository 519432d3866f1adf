import json
import re
import subprocess
import sys

import pytest

from evaluation import DETECTION_PROTOCOLS, score_signature
from tests.evaluation.helpers import predicted, truth
from tspbench import __version__
from tspbench.errors import UserError
from tspbench.stages.score import score_files, score_tal


@pytest.fixture
def files(tmp_path):
    """Write a ground truth and predictions; "run" is found at IoU 1/2 and 1, "jump" never."""
    database = {
        "v1": {"subset": "test", "annotations": [{"segment": [0, 10], "label": "run"}]},
        "v2": {"subset": "test", "annotations": [{"segment": [5, 5], "label": "run"}]},
        "v3": {"subset": "test", "annotations": [{"segment": [0, 1], "label": "jump"}]},
        "v4": {"subset": "train", "annotations": [{"segment": [0, 1], "label": "swim"}]},
    }
    results = {
        "v1": [{"label": "run", "score": 0.9, "segment": [0, 5]}, {"label": "swim", "score": 0.9, "segment": [0, 5]}],
        "v2": [{"label": "run", "score": 0.8, "segment": [5, 5]}],
        "v3": [],
        "v4": [{"label": "run", "score": 0.1, "segment": [0, 1]}],
    }
    truth_path, predictions_path = tmp_path / "truth.json", tmp_path / "predictions.json"
    truth_path.write_text(json.dumps({"database": database}))
    predictions_path.write_text(json.dumps({"results": results}))
    return predictions_path, truth_path


def test_a_report_by_hand(files, tmp_path):
    report = score_files("tal", *files, "test", "thumos14", json_out=tmp_path / "out" / "score.json")
    # From 0.3 to 0.5 "run" has AP 1; above, only the second of two predictions is right: 1/2 · 1/2. "jump" has AP 0.
    assert report.metrics == pytest.approx(
        {
            "mAP@0.30": 1 / 2,
            "mAP@0.40": 1 / 2,
            "mAP@0.50": 1 / 2,
            "mAP@0.60": 1 / 8,
            "mAP@0.70": 1 / 8,
            "average_mAP": 7 / 20,
        },
        abs=1e-15,
    )
    assert report.counts == {
        "videos": 3,
        "missing_videos": 1,
        "videos_outside_subset": 1,
        "ground_truth": 3,
        "zero_length_ground_truth": 1,
        "labels": 3,
        "labels_without_ground_truth": 1,
        "labels_without_predictions": 1,
        "predictions": 4,
        "predictions_outside_subset": 1,
    }
    assert json.loads((tmp_path / "out" / "score.json").read_bytes()) == {
        "task": "tal",
        "protocol": "thumos14",
        "metrics": report.metrics,
        "counts": report.counts,
        "signature": report.signature,
    }


def test_files_and_memory_agree(files):
    ground_truth = truth([("v1", "run", 0, 10), ("v2", "run", 5, 5), ("v3", "jump", 0, 1)])
    predictions = predicted([("v1", "run", 0, 5, 0.9), ("v2", "run", 5, 5, 0.8), ("v4", "run", 0, 1, 0.1)])
    scored = score_tal(ground_truth, predictions, DETECTION_PROTOCOLS["thumos14"])
    report = score_files("tal", *files, "test", "thumos14")
    assert scored.result.metrics() == report.metrics
    assert scored.signature == report.signature
    assert scored.signature == score_signature("mAP", DETECTION_PROTOCOLS["thumos14"], ground_truth, __version__)
    assert scored.statistics.true_positive.shape == (3, 5)
    assert (scored.counts["videos_outside_subset"], scored.counts["predictions_outside_subset"]) == (1, 1)


def test_a_list_of_labels_decides_which_classes_there_are(files, tmp_path):
    (tmp_path / "labels.txt").write_text("run\njump\nswim\nwalk\n")
    report = score_files("tal", *files, "test", "thumos14", labels=tmp_path / "labels.txt")
    assert report.counts["labels"] == 4
    assert report.counts["labels_without_ground_truth"] == 2


@pytest.mark.parametrize(
    ("task", "protocol", "subset", "message"),
    [
        ("tall", "thumos14", "test", "'tall' is not a known task (did you mean 'tal'?); known are tal."),
        (
            "tal",
            "activtynet",
            "test",
            "'activtynet' is not a known protocol (did you mean 'activitynet'?); known are activitynet, "
            "activitynet-file-order, thumos14.",
        ),
        (
            "tal",
            "thumos14",
            "tests",
            "'tests' is not a known subset of TRUTH (did you mean 'test'?); known are test, train.",
        ),
    ],
)
def test_unknown_names(files, task, protocol, subset, message):
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('TRUTH', str(files[1])))}$"):
        score_files(task, *files, subset, protocol)


def test_a_label_of_another_list_is_refused(files, tmp_path):
    (tmp_path / "labels.json").write_text('["run"]')
    with pytest.raises(UserError, match="video 'v3', annotation 1: expected a label of the given list, found 'jump';"):
        score_files("tal", *files, "test", "thumos14", labels=tmp_path / "labels.json")


def test_nothing_is_written_when_something_is_wrong(files, tmp_path):
    with pytest.raises(UserError):
        score_files("tal", *files, "tests", "thumos14", json_out=tmp_path / "score.json")
    assert not (tmp_path / "score.json").exists()


def test_scoring_imports_no_torch():
    code = "import sys, tspbench.stages.score; sys.exit('torch' if 'torch' in sys.modules else '')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
