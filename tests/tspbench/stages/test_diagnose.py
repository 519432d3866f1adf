import json
import re
import subprocess
import sys

import pytest

from tests.tspbench.helpers import names, one_sentence
from tspbench.errors import UserError
from tspbench.stages.diagnose import diagnose_files, notes

DATABASE = {
    "v1": {
        "duration": 100,
        "annotations": [{"segment": [0, 2], "label": "run"}, {"segment": [10, 15], "label": "run"}],
    },
    "v2": {
        "duration": 50,
        "annotations": [{"segment": [5, 5], "label": "jump"}, {"segment": [0, 10], "label": "jump"}],
    },
    "v3": {"duration": 9, "annotations": [{"segment": [0, 10], "label": "run"}]},
}
RESULTS = {
    "v1": [
        {"label": "run", "score": 0.9, "segment": [10, 15]},
        {"label": "run", "score": 0.8, "segment": [10, 14]},
        {"label": "run", "score": 0.7, "segment": [0, 2]},
    ],
    "v2": [{"label": "run", "score": 0.1, "segment": [0, 10]}],
}


@pytest.fixture
def files(tmp_path):
    """Return a way to write predictions and annotations, with other results or without durations."""

    def write(results=RESULTS, durations=True):
        database = {name: {**entry, "subset": "test"} for name, entry in DATABASE.items()}
        if not durations:
            database = {
                name: {key: entry[key] for key in ("subset", "annotations")} for name, entry in database.items()
            }
        paths = tmp_path / "predictions.json", tmp_path / "truth.json"
        paths[0].write_text(json.dumps({"results": results}))
        paths[1].write_text(json.dumps({"database": database}))
        return paths[0], [paths[1]]

    return write


def test_a_diagnosis_by_hand(files, tmp_path):
    report = diagnose_files(*files(), "test", "thumos14", out=tmp_path / "out")
    assert names(tmp_path / "out") == ["diagnosis.json", "diagnosis.md", "diagnosis.png"]
    assert (tmp_path / "out" / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "out" / "diagnosis.json").read_bytes())
    # Two runs and a jump remain: N = 3/2. Run: precision 1, then 3/2 / (3/2 + 1) = 3/5; jump is not found.
    assert (written["task"], written["protocol"], written["thresholds"]) == ("tal", "thumos14", [0.5])
    assert written["instances_per_class"] == 3 / 2
    assert written["average_mAP_N"] == pytest.approx((1 + 3 / 5) / 2 / 2, abs=1e-15)
    assert written["false_negatives"] == pytest.approx(1 / 3, abs=1e-15)
    assert written["counts"] == report.counts
    assert written["signature"] == report.signature
    slices = written["false_positives"]["slices"]
    assert [found["predictions"] for found in slices] == [2, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert slices[0] == {
        "predictions": 2,
        "true_positive": 0.5,
        "double_detection": 0.5,
        "wrong_label": 0.0,
        "localization": 0.0,
        "confusion": 0.0,
        "background": 0.0,
    }
    assert slices[1]["true_positive"] == slices[1]["wrong_label"] == 0.5
    assert slices[2]["background"] is None
    impact = written["false_positives"]["impact"]
    assert impact["double_detection"] == pytest.approx((1 - (1 + 3 / 5) / 2) / 2, abs=1e-15)
    length = written["characteristics"]["length"]
    assert [bucket["name"] for bucket in length["buckets"]] == ["XS", "S", "M", "L", "XL"]
    assert length["buckets"][1] == {
        "name": "S",
        "above": 3.0,
        "up_to": 6.0,
        "segments": 1,
        "share": pytest.approx(1 / 3),
        "average_mAP_N": 1.0,
        "false_negatives": 0.0,
    }
    assert (length["buckets"][3]["average_mAP_N"], length["buckets"][4]["up_to"]) == (None, None)
    assert length["lowest"] == 0.0
    assert length["highest"] == pytest.approx(1 / written["average_mAP_N"])


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figure, which takes a second."""
    monkeypatch.setattr("tspbench.stages.diagnose.image_bytes", lambda figure: b"")


@pytest.mark.usefixtures("undrawn")
def test_the_tables_say_the_same_in_percent(files, tmp_path):
    report = diagnose_files(*files(), "test", "thumos14", out=tmp_path)
    text = (tmp_path / "diagnosis.md").read_text()
    for line in (
        "# Diagnosis of `predictions.json`",
        "Diagnosed: 4 predictions against 3 segments of 3 videos.",
        "Left out: 1 segments end where they start.",
        "Left out: 1 segments are longer than their video.",
        "Missing: 1 videos have no prediction and count as missed.",
        "Labels: 1 have no prediction and count 0.",
        "At tIoU 0.50 average-mAP_N is 40.00 %, with N = 1.50 segments a class, and 33.3 % of the segments are not "
        "found.",
        "|  | 1G | 2G | 3G | 4G | 5G | 6G | 7G | 8G | 9G | 10G |",
        "| True positive | 50.0 | 50.0 | — | — | — | — | — | — | — | — |",
        "| Predictions | 2 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |",
        "| Double detection | 10.00 |",
        "### Coverage (fraction of the video)",
        "| XS | [0, 0.02] | 1 | 33.3 | 60.00 | 0.0 |",
        "### Length (seconds)",
        "| L | (12, 18] | 0 | 0.0 | — | — |",
        "| all |  | 3 |  | 40.00 | 33.3 |",
        "Lowest and highest bucket relative to all segments: 0.00 to 2.50.",
        "### Instances (of any class in the video)",
        "![Diagnosis](diagnosis.png)",
        f"Signature: `{report.signature}`",
    ):
        assert line in text.splitlines()


@pytest.mark.usefixtures("undrawn")
def test_a_signature_names_rules_segments_and_durations(files, tmp_path):
    with_durations = diagnose_files(*files(), "test", "thumos14-official", out=tmp_path).signature
    assert re.fullmatch(
        r"DETAD\|protocol:thumos14-official\|tIoU:0\.50\|ties:score,video,start,end,label\|matching:detection\|"
        r"AP:all-point\|videos:3\|segments:5\|truth:[0-9a-f]{8}\|tspbench:[^|]+\|diagnosed:3\|durations:[0-9a-f]{8}",
        with_durations,
    )
    assert (
        diagnose_files(*files(durations=False), "test", "thumos14-official", out=tmp_path).signature != with_durations
    )


@pytest.mark.usefixtures("undrawn")
def test_without_durations_coverage_is_left_out(files, tmp_path):
    report = diagnose_files(*files(durations=False), "test", "thumos14", out=tmp_path)
    sentence = "Coverage is left out: the ground truth states no duration of a video."
    assert sentence in report.notes
    text = (tmp_path / "diagnosis.md").read_text()
    assert sentence in text
    assert "### Coverage" not in text
    assert list(json.loads((tmp_path / "diagnosis.json").read_bytes())["characteristics"]) == ["instances", "length"]


@pytest.mark.usefixtures("undrawn")
def test_unknown_videos_are_refused_dropped_or_counted(files, tmp_path):
    stranger = {"v9": [{"label": "run", "score": 1.0, "segment": [0, 1]}] * 2}
    paths = files({**RESULTS, **stranger})
    with one_sentence(paths[0], "video 'v9'", "--unknown-videos"):
        diagnose_files(*paths, "test", "thumos14", out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    counted = diagnose_files(*paths, "test", "thumos14", out=tmp_path, unknown="count")
    dropped = diagnose_files(*paths, "test", "thumos14", out=tmp_path, unknown="drop")
    without = diagnose_files(*files(), "test", "thumos14", out=tmp_path, unknown="drop")
    # Two errors come before the runs: precision 3/4 / (3/4 + 2) = 3/11, then 3/2 / (3/2 + 3) = 1/3.
    assert counted.diagnosis.average_map == pytest.approx(1 / 6, abs=1e-15)
    assert dropped.diagnosis.average_map == without.diagnosis.average_map
    for report, done in ((counted, "counted as wrong"), (dropped, "dropped")):
        assert f"Unknown: 1 videos are not in the ground truth; their 2 predictions were {done}." in report.notes
        assert (report.counts["unknown_videos"], report.counts["predictions_of_unknown_videos"]) == (1, 2)
        assert report.signature == f"{without.signature}|unknown-videos:{done.split()[0]}"
    assert (counted.counts["predictions"], dropped.counts["predictions"]) == (6, 4)


@pytest.mark.usefixtures("undrawn")
def test_several_ground_truths_and_a_list_of_labels(files, tmp_path):
    predictions, (ground_truth,) = files()
    (tmp_path / "labels.txt").write_text("jump\nrun\nswim\n")
    database = json.loads(ground_truth.read_bytes())["database"]
    parts = [tmp_path / "part1.json", tmp_path / "part2.json"]
    for path, videos in zip(parts, (["v3", "v1"], ["v2"]), strict=True):
        path.write_text(json.dumps({"database": {name: database[name] for name in videos}}))
    whole = diagnose_files(predictions, [ground_truth], "test", "thumos14", out=tmp_path)
    split = diagnose_files(predictions, parts, "test", "thumos14", out=tmp_path, labels=tmp_path / "labels.txt")
    assert split.diagnosis.average_map == whole.diagnosis.average_map
    assert split.signature == whole.signature
    assert "Labels: 1 have no segment and are left out of the means." in split.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [({"protocol": "thumos"}, "is not a known protocol of tal"), ({"subset": "testing"}, "is not a known subset")],
)
def test_unknown_names_are_one_sentence(files, tmp_path, change, message):
    predictions, ground_truth = files()
    arguments = {"subset": "test", "protocol": "thumos14", **change}
    with pytest.raises(UserError, match=message):
        diagnose_files(predictions, ground_truth, **arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(files, tmp_path):
    (tmp_path / "out").write_text("")
    with one_sentence(tmp_path / "out", "cannot be written"):
        diagnose_files(*files(), "test", "thumos14", out=tmp_path / "out")


def test_notes_say_what_has_no_part():
    names_of_counts = (
        "zero_length_ground_truth coverage_above_one missing_videos unknown_videos labels_without_predictions "
        "labels_without_ground_truth predictions_of_labels_without_ground_truth without_coverage"
    )
    quiet = dict.fromkeys(names_of_counts.split(" "), 0)
    counts = {**quiet, "predictions": 1234, "diagnosed": 5, "videos": 2}
    assert notes(counts, "dropped") == ["Diagnosed: 1,234 predictions against 5 segments of 2 videos."]
    some = notes({**counts, "without_coverage": 3, "predictions_of_labels_without_ground_truth": 7}, "dropped")
    assert some[1:] == [
        "Left out: 7 predictions are of labels without a segment.",
        "Coverage: 3 segments have none, for want of their video's duration.",
    ]


def test_the_stage_is_light():
    code = (
        "import sys, tspbench.stages.diagnose; sys.exit(str({'torch', 'matplotlib', 'numba'} & set(sys.modules) or ''))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
