import json
import re
import subprocess
import sys

import pytest

from evaluation import DETECTION_PROTOCOLS, score_signature
from tests.evaluation.helpers import predicted, truth
from tspbench import __version__
from tspbench.errors import UserError
from tspbench.stages.score import score, score_files


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
    return predictions_path, [truth_path]


def test_a_report_by_hand(files, tmp_path):
    report = score_files("tal", *files, "test", "thumos14", unknown="count", json_out=tmp_path / "out" / "score.json")
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
        "unknown_videos": 1,
        "ground_truth": 3,
        "zero_length_ground_truth": 1,
        "labels": 3,
        "labels_without_ground_truth": 1,
        "labels_without_predictions": 1,
        "predictions": 4,
        "predictions_of_unknown_videos": 1,
    }
    assert json.loads((tmp_path / "out" / "score.json").read_bytes()) == {
        "task": "tal",
        "protocol": "thumos14",
        "metrics": report.metrics,
        "counts": report.counts,
        "signature": report.signature,
        "intervals": {},
        "per_class": {},
        "failed": {},
    }


def test_files_and_memory_agree(files):
    ground_truth = truth([("v1", "run", 0, 10), ("v2", "run", 5, 5), ("v3", "jump", 0, 1)])
    predictions = predicted([("v1", "run", 0, 5, 0.9), ("v2", "run", 5, 5, 0.8), ("v4", "run", 0, 1, 0.1)])
    scored = score("tal", ground_truth, predictions, DETECTION_PROTOCOLS["thumos14"])
    report = score_files("tal", *files, "test", "thumos14", unknown="count")
    assert scored.result.metrics() == report.metrics
    assert f"{scored.signature}|unknown-videos:counted" == report.signature
    assert scored.signature == score_signature("mAP", DETECTION_PROTOCOLS["thumos14"], ground_truth, __version__)
    assert scored.statistics.true_positive.shape == (3, 5)
    assert (scored.counts["unknown_videos"], scored.counts["predictions_of_unknown_videos"]) == (1, 1)


def test_a_video_that_the_ground_truth_lacks_is_refused(files):
    message = (
        f"{files[0]}, video 'v4': expected a video of the ground truth, found 1 video(s) that it lacks; remove them, "
        "or say with --unknown-videos whether to drop them or to count them as wrong."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        score_files("tal", *files, "test", "thumos14")


def test_dropped_videos_are_counted_and_signed(files):
    report = score_files("tal", *files, "test", "thumos14", unknown="drop")
    # Without the one wrong prediction the scores stay: it came last.
    assert report.metrics == score_files("tal", *files, "test", "thumos14", unknown="count").metrics
    assert (report.counts["unknown_videos"], report.counts["predictions_of_unknown_videos"]) == (1, 1)
    assert report.counts["predictions"] == 3
    assert report.signature.endswith("|unknown-videos:dropped")


def test_average_precision_of_each_class(files):
    report = score_files("tal", *files, "test", "thumos14", unknown="count", per_class=True)
    names = ["AP@0.30", "AP@0.40", "AP@0.50", "AP@0.60", "AP@0.70", "average_AP"]
    assert report.per_class == {
        "jump": dict.fromkeys(names, 0.0),
        "run": pytest.approx(dict(zip(names, [1, 1, 1, 1 / 4, 1 / 4, 7 / 10], strict=True)), abs=1e-15),
        "swim": dict.fromkeys(names),
    }


def test_intervals_hold_the_score(files):
    report = score_files("tal", *files, "test", "thumos14", unknown="count", intervals=True)
    assert set(report.intervals) == set(report.metrics)
    for name, (low, high) in report.intervals.items():
        assert 0.0 <= low <= report.metrics[name] <= high <= 1.0
    assert report.intervals == score_files("tal", *files, "test", "thumos14", unknown="count", intervals=True).intervals


def test_per_class_is_for_detection(files):
    with pytest.raises(UserError, match=r"^--per-class: expected task tal, found proposals, "):
        score_files("proposals", *files, "test", per_class=True)


def test_the_ground_truth_must_be_the_protocols_video_set(files):
    message = (
        f"{files[1][0]}: expected the 212 videos with 3,358 segments of thumos14-212, found 3 with 3; give that ground "
        "truth or choose another protocol."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        score_files("tal", *files, "test", "thumos14-212")


def test_several_ground_truth_files_are_joined(files, tmp_path):
    database = json.loads(files[1][0].read_bytes())["database"]
    parts = [tmp_path / "part1.json", tmp_path / "part2.json"]
    parts[0].write_text(json.dumps({"database": {name: database[name] for name in ("v1", "v3")}}))
    parts[1].write_text(json.dumps({"database": {name: database[name] for name in ("v2", "v4")}}))
    joined = score_files("tal", files[0], parts, "test", "thumos14", unknown="count")
    assert joined.metrics == score_files("tal", *files, "test", "thumos14", unknown="count").metrics
    with pytest.raises(UserError, match="video 'v1': expected a video that no other file has, found it in "):
        score_files("tal", files[0], [parts[0], *files[1]], "test", "thumos14")


def test_a_list_of_labels_decides_which_classes_there_are(files, tmp_path):
    (tmp_path / "labels.txt").write_text("run\njump\nswim\nwalk\n")
    report = score_files("tal", *files, "test", "thumos14", unknown="count", labels=tmp_path / "labels.txt")
    assert report.counts["labels"] == 4
    assert report.counts["labels_without_ground_truth"] == 2


@pytest.mark.parametrize(
    ("task", "protocol", "subset", "message"),
    [
        (
            "tall",
            "thumos14",
            "test",
            "'tall' is not a known task (did you mean 'tal'?); known are captioning, proposals, tal.",
        ),
        (
            "tal",
            "activtynet",
            "test",
            "'activtynet' is not a known protocol of tal (did you mean 'activitynet'?); known are activitynet, "
            "activitynet-4728, activitynet-4895, activitynet-4926, activitynet-file-order, thumos14, thumos14-210, "
            "thumos14-211, thumos14-212, thumos14-official.",
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
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('TRUTH', str(files[1][0])))}$"):
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
    imports = "import sys, tspbench.scoring_verbs, tspbench.stages.diagnose"
    code = f"{imports}; sys.exit('torch' if 'torch' in sys.modules else '')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
