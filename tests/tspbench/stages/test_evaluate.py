import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS, PROPOSAL_PROTOCOLS
from tests.tspbench.helpers import names, one_sentence, with_card
from tests.tspbench.stages.feature_sets import CLASSES, SETTINGS, write_rows, write_set
from tspbench.feature_views import TimeSettings
from tspbench.report import markdown, result_table
from tspbench.stages import evaluate as evaluate_module
from tspbench.stages import localization as localization_module
from tspbench.stages import rows as rows_module
from tspbench.stages.compare import compare
from tspbench.stages.evaluate import evaluate
from tspbench.stages.localization import Localization
from tspbench.stages.predict import joined
from tspbench.stages.score import score
from tspbench.stages.train import LocalizerSettings
from tspbench.storage.annotations import read_annotations
from tspbench.storage.class_scores import ClassScores, write_class_scores
from tspbench.storage.features import FeatureFiles
from tspbench.storage.hashes import hash_file
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import read_run, slug


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


def evaluation(tmp_path, dataset, scores=None, localizer=SETTINGS, seed=0, task="tal", references=()):
    return Localization(task, dataset, localizer, scores, references, seed, "cpu", tmp_path / "run")


@pytest.fixture
def stages_run(monkeypatch):
    """Count the stages that do any work."""
    ran = []
    real = evaluate_module.run_stage

    def counting(stage, folder, settings, inputs, outputs, work, **how):
        def counted(key):
            ran.append(f"{(folder if stage == 'check features' else folder.parent).name} {stage}")
            return work(key)

        return real(stage, folder, settings, inputs, outputs, counted, **how)

    for module in (evaluate_module, localization_module, rows_module):
        monkeypatch.setattr(module, "run_stage", counting)
    return ran


def test_rows_are_trained_predicted_and_scored(tmp_path, dataset, scores):
    rows = {"One set": [write_rows(tmp_path / "a.h5", dataset)], "Two": [write_rows(tmp_path / "b.h5", dataset, 1)]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate([what], rows, "A title", ["A note."])
    run = read_run(what.out)
    (task,) = run.tables
    assert [(row.name, row.folder) for row in task.rows] == [("One set", "tal/one-set"), ("Two", "tal/two")]
    assert task.facts == {
        "dataset": "small",
        "protocol": "activitynet",
        "localizer": "gtad",
        "with": "steps=8, max_duration=8, hidden_1d=16, hidden_2d=8, hidden_3d=16",
        "settings": "changed",
        "time": "rescale",
        "training": "2 epochs of adam at 0.005",
        "video-level labels": "top 2 classes of scores.json",
        "selection": "last epoch",
        "seed": "0",
    }
    table = result_table(what.out)
    assert all(0 <= float(cell) <= 100 for row in table.cells for cell in row[1:-1])

    # The score is that of the predictions as they lie there.
    folder = what.out / "tal" / "one-set"
    truth = read_annotations(dataset.annotations).ground_truth("val")
    again = score(
        "tal",
        truth,
        read_predictions(folder / "predict" / "predictions.json.gz", truth),
        DETECTION_PROTOCOLS["activitynet"],
    )
    record = read_record(folder / "score")
    assert record.figures["metrics"] == again.result.metrics()
    digest = hash_file(scores)[:8]
    assert record.figures["signature"] == f"{again.signature}|labels:top-2-of-{digest}" == table.tasks[0].signature
    assert record.figures["counts"]["missing_videos"] == 0
    assert names(folder / "score") == ["record.json", "statistics.npz"]
    with np.load(folder / "score" / "statistics.npz") as statistics:
        assert statistics["videos"].tolist() == ["v5", "v6", "v7"]


def test_finished_stages_are_skipped_and_changed_ones_run_again(tmp_path, dataset, scores, stages_run):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)], "b": [write_rows(tmp_path / "b.h5", dataset, 1)]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate([what], rows, "", [])
    of = {row: [f"{row} {stage}" for stage in ("train", "predict", "score")] for row in "ab"}
    checks = ["a check features", "b check features"]
    assert stages_run == [*checks, *of["a"], *of["b"], "tal compare"]
    table = result_table(what.out).cells
    stages_run.clear()
    evaluate([what], rows, "", [])
    assert stages_run == []
    (what.out / "tal" / "b" / "predict" / "predictions.json.gz").unlink()
    evaluate([what], rows, "", [])
    assert stages_run == ["b predict"]  # the same predictions again: their score stands
    assert result_table(what.out).cells == table
    stages_run.clear()
    write_rows(tmp_path / "a.h5", dataset, seed=2)
    evaluate([what], rows, "", [])
    assert stages_run == [checks[0], *of["a"], "tal compare"]
    stages_run.clear()
    evaluate([replace(what, seed=1)], rows, "", [])
    assert stages_run == [*of["a"], *of["b"], "tal compare"]


def test_without_class_scores_every_class_is_an_action(tmp_path, dataset):
    what = evaluation(tmp_path, dataset)
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    record = read_record(what.out / "tal" / "a" / "score")
    assert record.figures["counts"]["labels"] == 1
    assert read_run(what.out).tables[0].facts["video-level labels"] == "none: class-agnostic scores"
    truth = read_annotations(dataset.annotations).ground_truth("val")
    truth = replace(truth, labels=("action",), label=np.zeros_like(truth.label))
    predictions = read_predictions(what.out / "tal" / "a" / "predict" / "predictions.json.gz", truth)
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
        evaluate([what], features, "", [])
        signatures.append(result_table(what.out).tasks[0].signature)
    assert signatures[0] != signatures[1]


def test_videos_without_features_are_counted_aloud_and_missed(tmp_path, dataset, scores, capsys):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset, without=("v0", "v5", "v6"))]}
    what = evaluation(tmp_path, dataset, scores)
    evaluate([what], rows, "", [])
    record = read_record(what.out / "tal" / "a" / "score")
    assert record.figures["counts"]["missing_videos"] == 2
    assert record.figures["counts"]["videos"] == 3
    assert read_record(what.out / "tal" / "a" / "train").figures["training_videos"] == 4
    told = capsys.readouterr().err
    assert "no features of 1 of 5 training videos (first: v0)" in told
    assert "no features of 2 of 3 validation videos (first: v5)" in told


def test_features_of_another_data_set_are_one_sentence(tmp_path, dataset, scores):
    other = write_set(tmp_path / "other", 2, 1)
    content = json.loads(other.annotations.read_text())["database"]
    other.annotations.write_text(json.dumps({"database": {f"x{name}": entry for name, entry in content.items()}}))
    path = write_rows(tmp_path / "other.h5", other)
    with one_sentence(path, "none of the 5 training videos", "'xv0'", "'v0'"):
        evaluate([evaluation(tmp_path, dataset, scores)], {"a": [path]}, "", [])


def test_rows_that_would_share_a_folder_are_refused(tmp_path, dataset):
    path = write_rows(tmp_path / "a.h5", dataset)
    with one_sentence("'TSP (max)'", "'tsp max'", "'tsp-max'"):
        evaluate([evaluation(tmp_path, dataset)], {"TSP (max)": [path], "tsp max": [path]}, "", [])
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
            evaluate([what], rows, "", [])
    assert stages_run == []


def test_a_split_or_class_that_is_not_there_is_one_sentence(tmp_path, dataset, scores):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    with one_sentence("'valid'", "did you mean 'val'?"):
        other = with_card(dataset, splits={"training": "train", "validation": "valid"})
        evaluate([evaluation(tmp_path, other, scores)], rows, "", [])
    few = {"v5": np.array([1.0])}
    write_class_scores(tmp_path / "few.json", ClassScores(("jump",), few))
    with one_sentence("class", "'run'"):
        evaluate([evaluation(tmp_path, dataset, tmp_path / "few.json")], rows, "", [])


def test_proposals_are_scored_by_recall(tmp_path, dataset):
    what = evaluation(tmp_path, dataset, task="proposals")
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    table = result_table(what.out)
    assert table.header == ["features", "AR@1", "@10", "@100", "AUC", "95 % interval"]
    record = read_record(what.out / "proposals" / "a" / "score")
    truth = read_annotations(dataset.annotations).ground_truth("val")
    path = what.out / "proposals" / "a" / "predict" / "predictions.json.gz"
    found = read_predictions(path, truth, labelled=False)
    assert (
        score("proposals", truth, found, PROPOSAL_PROTOCOLS["activitynet"]).result.metrics()
        == record.figures["metrics"]
    )
    assert "labels" not in record.figures["signature"]


def test_tasks_share_a_table_and_their_check(tmp_path, dataset, scores, stages_run):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)], "b": [write_rows(tmp_path / "b.h5", dataset, 1)]}
    tal, proposals = (evaluation(tmp_path, dataset, scores, task=task) for task in ("tal", "proposals"))
    evaluate([tal, proposals], rows, "Both", [])
    assert stages_run.count("a check features") == 1
    table = result_table(tal.out)
    assert [len(cells) for cells in table.cells] == [11, 11]
    assert [task.table.task for task in table.tasks] == ["tal", "proposals"]
    assert all(list(task.differences) == [("b", "a")] for task in table.tasks)


def test_the_comparison_is_that_of_the_command(tmp_path, dataset, scores):
    rows = {name: [write_rows(tmp_path / f"{name}.h5", dataset, seed)] for seed, name in enumerate("abc")}
    what = evaluation(tmp_path, dataset, scores)
    evaluate([what], rows, "", [])
    pairs = read_record(what.out / "tal" / "comparison").figures["differences"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    files = [what.out / "tal" / name / "score" / "statistics.npz" for name in "ab"]
    alone = compare("tal", [files[0]], [files[1]]).metrics["average_mAP"]
    told = pairs[0]["metrics"]["average_mAP"]
    assert (told["a"], told["b"], told["difference"]) == (alone.a, alone.b, alone.difference)
    assert [told["low"], told["high"], told["p"]] == pytest.approx([alone.low, alone.high, alone.p])


def test_reference_rows_by_hand(tmp_path, dataset, scores):
    """Videos of 8 s, each with one segment of 2.5 s that starts at second 2, 3 or 1 (v5 to v7), on a grid of 1 s."""
    what = evaluation(tmp_path, dataset, scores, references=("whole-video", "uniform-grid", "upper-mark"))
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    table = result_table(what.out)
    assert table.rows == ["Whole video", "Uniform grid", "Upper mark of the grid", "a"]
    metrics = {row.name: read_record(what.out / row.folder / "score").figures for row in table.tasks[0].table.rows}
    # 2.5 / 8 < 0.5: never found. On the grid, [2, 4) has 2 / 2.5 = 0.8 of [2, 4.5): tIoU 0.5 to 0.8 of 0.5 to 0.95.
    assert metrics["Whole video"]["metrics"]["average_mAP"] == 0.0
    assert metrics["Uniform grid"]["metrics"]["average_mAP"] > 0.0
    assert metrics["Upper mark of the grid"]["metrics"]["average_mAP"] == pytest.approx(0.7)
    assert metrics["Upper mark of the grid"]["signature"].endswith("|labels:true")
    assert metrics["Whole video"]["signature"] == metrics["a"]["signature"]
    assert not (what.out / "tal" / "whole-video" / "train").exists()
    assert not (what.out / "tal" / "comparison").exists()  # a single row has nothing to be compared with


def test_reference_rows_leave_out_videos_without_features(tmp_path, dataset, scores):
    what = evaluation(tmp_path, dataset, scores, references=("whole-video", "upper-mark"))
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset, without=("v6",))]}, "", [])
    for row in ("whole-video", "upper-mark-of-the-grid", "a"):
        assert read_record(what.out / "tal" / row / "score").figures["counts"]["missing_videos"] == 1
    assert "Whole video: no prediction for 1 of the 3 scored videos" in markdown(result_table(what.out))


def test_windows_reach_the_same_table(tmp_path, dataset, scores):
    """Windows of 8 rows, 4 apart, over the 16 rows of each video."""
    settings = SETTINGS.model_copy(update={"time": TimeSettings(mode="windows")})
    what = evaluation(tmp_path, dataset, scores, settings, references=("upper-mark",))
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    truth = read_annotations(dataset.annotations).ground_truth("val")
    path = what.out / "tal" / "a" / "predict" / "predictions.json.gz"
    found = read_predictions(path, truth)
    assert found.start.min() >= 0.0
    assert found.end.max() <= 8.0
    assert (found.end > found.start).all()
    assert found.end.max() > 4.0, "the second half is seen, too"
    # Rows are half a second apart: [s, s + 2.5) of whole seconds is on the grid itself.
    figures = read_record(what.out / "tal" / "upper-mark-of-the-grid" / "score").figures
    assert figures["metrics"]["average_mAP"] == 1.0


def test_ignored_segments_are_neither_learned_nor_lost(tmp_path, dataset):
    content = json.loads(dataset.annotations.read_text())
    content["database"]["v0"]["annotations"].append({"segment": [6.0, 7.0], "label": "Ambiguous"})
    content["database"]["v5"]["annotations"] = [{"segment": [6.0, 7.0], "label": "Ambiguous"}]
    dataset.annotations.write_text(json.dumps(content))
    what = evaluation(tmp_path, with_card(dataset, protocol="thumos14"))
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    evaluate([what], features, "", [])
    counts = read_record(what.out / "tal" / "a" / "score").figures["counts"]
    assert counts["ground_truth"] == 2
    benchmark = localization_module._benchmark(what, {"a": FeatureFiles(features["a"])})
    assert [len(video.labels) for video in benchmark.videos["training"]] == [1] * 5
    assert {label for videos in benchmark.videos.values() for video in videos for label in video.labels} == {"action"}


def test_two_sources_of_labels_or_the_wrong_number_are_refused(tmp_path, dataset, scores):
    rows = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    former = LocalizerSettings(name="actionformer", config={"classes": 3}, fit=SETTINGS.fit)
    with one_sentence("config.classes", "expected 2", "found 3"):
        evaluate([evaluation(tmp_path, dataset, localizer=former)], rows, "", [])
    former = former.model_copy(update={"config": {"classes": 2}})
    with one_sentence("--class-scores"):
        evaluate([evaluation(tmp_path, dataset, scores, former)], rows, "", [])
    with one_sentence("'whole-video'", "class scores"):
        evaluate([evaluation(tmp_path, dataset, localizer=former, references=("whole-video",))], rows, "", [])
    fit = SETTINGS.fit.model_copy(update={"learning_rates": {"localiser": 0.1}})
    with one_sentence("fit.learning_rates", "localiser"):
        evaluate([evaluation(tmp_path, dataset, localizer=SETTINGS.model_copy(update={"fit": fit}))], rows, "", [])
    with one_sentence("activitynet-4728", "4,728", "3"):
        evaluate([evaluation(tmp_path, with_card(dataset, protocol="activitynet-4728"))], rows, "", [])


def test_bad_features_of_the_last_row_stop_before_the_first_is_trained(tmp_path, dataset, scores, stages_run):
    good, bad = write_rows(tmp_path / "a.h5", dataset), write_rows(tmp_path / "b.h5", dataset)
    with h5py.File(bad, "r+") as file:
        file["v7"][3, 2] = np.nan
    with one_sentence(bad, "'v7'", "NaN"):
        evaluate([evaluation(tmp_path, dataset, scores)], {"a": [good], "b": [bad]}, "", [])
    assert stages_run == ["a check features", "b check features"]


def test_what_changes_no_training_trains_nothing_again(tmp_path, dataset, scores, stages_run):
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    evaluate([evaluation(tmp_path, dataset)], features, "", [])
    for settings, given, ran in (
        (SETTINGS.model_copy(update={"fit": SETTINGS.fit.model_copy(update={"workers": 1})}), None, []),
        (SETTINGS, scores, ["a predict", "a score"]),
        (SETTINGS.model_copy(update={"top_labels": 1}), scores, ["a predict", "a score"]),
    ):
        stages_run.clear()
        evaluate([evaluation(tmp_path, dataset, given, settings)], features, "", [])
        assert stages_run == ran


def test_other_splits_or_ignored_segments_are_other_work(tmp_path, dataset, stages_run):
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    evaluate([evaluation(tmp_path, dataset)], features, "", [])
    everything = ["a train", "a predict", "a score"]
    stages_run.clear()
    swapped = with_card(dataset, splits={"training": "val", "validation": "train"})
    evaluate([evaluation(tmp_path, swapped)], features, "", [])
    assert stages_run == ["a check features", *everything]
    stages_run.clear()
    evaluate([evaluation(tmp_path, with_card(swapped, protocol="thumos14"))], features, "", [])
    assert stages_run == everything


def test_a_run_that_has_begun_anew_shows_nothing_of_the_last_one(tmp_path, dataset):
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    what = evaluation(tmp_path, dataset)
    evaluate([what], features, "", [])
    begun = evaluation(tmp_path, dataset, seed=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows_module, "train_localizer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate([begun], features, "", [])
    assert {cell for row in result_table(what.out).cells for cell in row[1:]} == {"—"}
    evaluate([what], features, "", [])
    assert "—" not in result_table(what.out).cells[0]


def interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


def test_a_second_task_in_the_same_folder_joins_the_first(tmp_path, dataset):
    features = {"a": [write_rows(tmp_path / "a.h5", dataset)]}
    for task in ("tal", "proposals", "tal"):
        what = evaluation(tmp_path, dataset, task=task)
        evaluate([what], features, "", [])
    assert sorted(task.table.task for task in result_table(what.out).tasks) == ["proposals", "tal"]
    assert len(result_table(what.out).cells[0]) == 11


def test_random_features_are_made_from_features_that_were_checked(tmp_path, dataset, stages_run):
    good, bad = write_rows(tmp_path / "a.h5", dataset), write_rows(tmp_path / "b.h5", dataset)
    with h5py.File(bad, "r+") as file:
        file["v7"][3, 2] = np.nan
    with one_sentence(bad, "'v7'"):
        evaluate([evaluation(tmp_path, dataset, references=("random-features",))], {"b": [bad]}, "", [])
    assert not (tmp_path / "run" / "features").exists()
    what = evaluation(tmp_path, dataset, references=("upper-mark", "random-features"))
    evaluate([what], {"a": [good]}, "", [])
    table = result_table(what.out)
    assert table.rows == ["Upper mark of the grid", "Random features", "a"]
    assert list(table.tasks[0].differences) == [("a", "Random features")]


def test_a_localizer_that_finds_nothing_misses_every_video(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(rows_module, "predict", lambda views, *_: joined([], ("action",), []))
    what = evaluation(tmp_path, dataset)
    evaluate([what], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    figures = read_record(what.out / "tal" / "a" / "score").figures
    assert figures["metrics"]["average_mAP"] == 0.0
    assert figures["counts"]["missing_videos"] == 3


def test_without_a_segment_there_is_nothing_to_learn(tmp_path, dataset):
    content = json.loads(dataset.annotations.read_text())
    for entry in content["database"].values():
        if entry["subset"] == "train":
            entry["annotations"] = []
    dataset.annotations.write_text(json.dumps(content))
    path = write_rows(tmp_path / "a.h5", dataset)
    with one_sentence(path, "5 training videos", "nothing to learn from"):
        evaluate([evaluation(tmp_path, dataset)], {"a": [path]}, "", [])


def test_a_row_never_shows_two_feature_sets(tmp_path, dataset):
    """Another task of the same name and folder, but of other features, is not of the same row."""
    tal, proposals = (evaluation(tmp_path, dataset, task=task) for task in ("tal", "proposals"))
    evaluate([tal], {"a": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    evaluate([proposals], {"a": [write_rows(tmp_path / "other.h5", dataset, seed=1)]}, "", [])
    assert [table.task for table in read_run(tal.out).tables] == ["proposals"]
    evaluate([tal], {"b": [write_rows(tmp_path / "a.h5", dataset)]}, "", [])
    assert [table.task for table in read_run(tal.out).tables] == ["proposals", "tal"]
