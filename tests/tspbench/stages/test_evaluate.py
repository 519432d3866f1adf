import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS
from tests.tspbench.helpers import names, one_sentence
from tests.tspbench.stages.feature_sets import CLASSES, SETTINGS, write_rows, write_set
from tspbench.report import result_table
from tspbench.stages import evaluate as module
from tspbench.stages.evaluate import Evaluation, evaluate_tal, slug
from tspbench.stages.score import score
from tspbench.storage.annotations import read_annotations
from tspbench.storage.class_scores import ClassScores, write_class_scores
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import read_run


@pytest.fixture
def dataset(tmp_path):
    return write_set(tmp_path / "set")


@pytest.fixture
def scores(tmp_path, dataset):
    """Write class scores that are sure of each video's class."""
    videos = read_annotations(dataset.annotations).videos
    rows = {v.name: np.array([0.9, 0.1] if v.labels[0] == "jump" else [0.1, 0.9]) for v in videos}
    write_class_scores(tmp_path / "scores.json", ClassScores(CLASSES, rows))
    return tmp_path / "scores.json"


def evaluation(tmp_path, dataset, scores=None, localizer=SETTINGS, seed=0):
    return Evaluation(dataset, localizer, scores, seed, "cpu", tmp_path / "run")


@pytest.fixture
def stages_run(monkeypatch):
    """Count the stages that do any work."""
    ran = []
    real = module.run_stage

    def counting(stage, folder, settings, inputs, outputs, work):
        def counted(key):
            ran.append(f"{folder.parent.name} {stage}")
            return work(key)

        return real(stage, folder, settings, inputs, outputs, counted)

    monkeypatch.setattr(module, "run_stage", counting)
    return ran


def test_rows_are_trained_predicted_and_scored(tmp_path, dataset, scores):
    rows = {"One set": [write_rows(tmp_path / "a.h5", dataset)], "Two": [write_rows(tmp_path / "b.h5", dataset, 1)]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate_tal(what, rows, "A title", ["A note."])
    run = read_run(what.out)
    assert [(row.name, row.folder) for row in run.rows] == [("One set", "rows/one-set"), ("Two", "rows/two")]
    assert run.facts == {
        "dataset": "small",
        "protocol": "activitynet",
        "localizer": "gtad",
        "video-level labels": "top 2 classes",
        "selection": "last epoch",
        "seed": "0",
    }
    table = result_table(what.out)
    assert all(0 <= float(cell) <= 100 for row in table.cells for cell in row[1:-1])

    # The score is that of the predictions as they lie there.
    folder = what.out / "rows" / "one-set"
    truth = read_annotations(dataset.annotations).ground_truth("val")
    again = score(
        "tal",
        truth,
        read_predictions(folder / "predict" / "predictions.json.gz", truth),
        DETECTION_PROTOCOLS["activitynet"],
    )
    record = read_record(folder / "score")
    assert record.figures["metrics"] == again.result.metrics()
    assert record.figures["signature"] == again.signature == table.signature
    assert record.figures["counts"]["missing_videos"] == 0
    assert names(folder / "score") == ["record.json", "statistics.npz"]
    with np.load(folder / "score" / "statistics.npz") as statistics:
        assert statistics["videos"].tolist() == ["v5", "v6", "v7"]


def test_finished_stages_are_skipped_and_changed_ones_run_again(tmp_path, dataset, scores, stages_run):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)], "b": [write_rows(tmp_path / "b.h5", dataset, 1)]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate_tal(what, rows, "", [])
    every = [f"{row} {stage}" for row in "ab" for stage in ("train", "predict", "score")]
    assert stages_run == every
    table = result_table(what.out).cells
    stages_run.clear()
    evaluate_tal(what, rows, "", [])
    assert stages_run == []
    (what.out / "rows" / "b" / "predict" / "predictions.json.gz").unlink()
    evaluate_tal(what, rows, "", [])
    assert stages_run == ["b predict"]  # the same predictions again: their score stands
    assert result_table(what.out).cells == table
    stages_run.clear()
    write_rows(tmp_path / "a.h5", dataset, seed=2)
    evaluate_tal(what, rows, "", [])
    assert stages_run == every[:3]
    stages_run.clear()
    evaluate_tal(replace(what, seed=1), rows, "", [])
    assert stages_run == every


def test_without_class_scores_every_class_is_an_action(tmp_path, dataset):
    what = evaluation(tmp_path, dataset)
    evaluate_tal(what, {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    record = read_record(what.out / "rows" / "a" / "score")
    assert record.figures["counts"]["labels"] == 1
    assert read_run(what.out).facts["video-level labels"] == "none: class-agnostic scores"
    truth = read_annotations(dataset.annotations).ground_truth("val")
    truth = replace(truth, labels=("action",), label=np.zeros_like(truth.label))
    predictions = read_predictions(what.out / "rows" / "a" / "predict" / "predictions.json.gz", truth)
    assert predictions.labels == ("action",)
    assert (
        score("tal", truth, predictions, DETECTION_PROTOCOLS["activitynet"]).result.metrics()
        == record.figures["metrics"]
    )


def test_labelled_and_agnostic_scores_have_other_signatures(tmp_path, dataset, scores):
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    signatures = []
    for k, given in enumerate((None, scores)):
        what = replace(evaluation(tmp_path, dataset, given), out=tmp_path / str(k))
        evaluate_tal(what, features, "", [])
        signatures.append(result_table(what.out).signature)
    assert signatures[0] != signatures[1]


def test_videos_without_features_are_counted_aloud_and_missed(tmp_path, dataset, scores, capsys):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset, without=("v0", "v5", "v6"))]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate_tal(what, rows, "", [])
    record = read_record(what.out / "rows" / "a" / "score")
    assert record.figures["counts"]["missing_videos"] == 2
    assert record.figures["counts"]["videos"] == 3
    assert read_record(what.out / "rows" / "a" / "train").figures["training_videos"] == 4
    told = capsys.readouterr().err
    assert "no features of 1 of 5 training videos (first: v0)" in told
    assert "no features of 2 of 3 validation videos (first: v5)" in told


def test_features_of_another_data_set_are_one_sentence(tmp_path, dataset, scores):
    other = write_set(tmp_path / "other", 2, 1)
    content = json.loads(other.annotations.read_text())["database"]
    other.annotations.write_text(json.dumps({"database": {f"x{name}": entry for name, entry in content.items()}}))
    path = write_rows(tmp_path / "other.h5", other)
    with one_sentence(path, "none of the 5 training videos", "'xv0'", "'v0'"):
        evaluate_tal(evaluation(tmp_path, dataset, scores), {"a": [path]}, "", [])


def test_rows_that_would_share_a_folder_are_refused(tmp_path, dataset):
    path = write_rows(tmp_path / "a.h5", dataset)
    with one_sentence("'TSP (max)'", "'tsp max'", "'tsp-max'"):
        evaluate_tal(evaluation(tmp_path, dataset), {"TSP (max)": [path], "tsp max": [path]}, "", [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "folder"), [("TSP + GVF", "tsp-gvf"), ("a/../b", "a-b"), ("…", "row"), ("R(2+1)D-34", "r-2-1-d-34")]
)
def test_names_of_folders(name, folder):
    assert slug(name) == folder


def test_mistakes_are_found_before_any_training(tmp_path, dataset, scores, stages_run):
    good = write_rows(tmp_path / "a.h5", dataset)
    (tmp_path / "bad.h5").write_bytes(b"no")
    (tmp_path / "bad.json").write_text("{}")
    wrong = SETTINGS.model_copy(update={"config": {"step": 3}})
    for what, rows, part in (
        (evaluation(tmp_path, dataset, scores), {"a": [good], "b": [tmp_path / "bad.h5"]}, "bad.h5"),
        (evaluation(tmp_path, dataset, tmp_path / "bad.json"), {"a": [good]}, "bad.json"),
        (evaluation(tmp_path, dataset, scores, wrong), {"a": [good]}, "'step'"),
    ):
        with one_sentence(part):
            evaluate_tal(what, rows, "", [])
    assert stages_run == []


def test_a_split_or_class_that_is_not_there_is_one_sentence(tmp_path, dataset, scores):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    with one_sentence("'valid'", "did you mean 'val'?"):
        other = replace(dataset, splits={"training": "train", "validation": "valid"})
        evaluate_tal(evaluation(tmp_path, other, scores), rows, "", [])
    few = {"v5": np.array([1.0])}
    write_class_scores(tmp_path / "few.json", ClassScores(("jump",), few))
    with one_sentence("class", "'run'"):
        evaluate_tal(evaluation(tmp_path, dataset, tmp_path / "few.json"), rows, "", [])
