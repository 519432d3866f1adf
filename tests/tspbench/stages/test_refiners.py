"""Proposals of others in, refined and labelled segments out: `evaluate` with P-GCN."""

import gzip
import json

import numpy as np
import pytest
import torch

from evaluation import DETECTION_PROTOCOLS
from evaluation.overlap import temporal_iou
from tests.tspbench.helpers import one_sentence
from tests.tspbench.stages.feature_sets import SETTINGS as SMALL
from tests.tspbench.stages.feature_sets import write_rows, write_set
from tspbench.datasets import Dataset, DatasetCard
from tspbench.feature_views import TimeSettings
from tspbench.fit_settings import FitSettings
from tspbench.proposal_batches import RefineSettings
from tspbench.stages.evaluate import evaluate
from tspbench.stages.localization import Localization
from tspbench.stages.proposal_files import read_given_proposals
from tspbench.stages.score import score
from tspbench.stages.train import LOCALIZER_FILE, LocalizerSettings, new_localizer
from tspbench.storage.annotations import read_annotations
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.features import RowMeaning, VideoFeatures, write_features
from tspbench.storage.hashes import hash_file
from tspbench.storage.predictions import read_predictions
from tspbench.storage.records import read_record
from tspbench.storage.runs import read_run

SECONDS, CHANNELS, CLASSES = 64.0, 16, ("jump", "run", "swim")
SETTINGS = LocalizerSettings(
    name="pgcn",
    config={"hidden": 32, "dropout": 0.0, "graph_dropout": 0.0},
    time=TimeSettings(mode="padded", step_seconds=0.5),
    refine=RefineSettings(passes=4),
    fit=FitSettings(
        epochs=60,
        batch_size=6,
        optimizer="adam",
        learning_rates={"localizer": 0.003, "biases": 0.003},
        milestones=(45,),
    ),
)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Write 6 videos of 64 s with two segments each, and features in which classes, starts and ends show."""
    folder = tmp_path_factory.mktemp("six")
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((5, CHANNELS)).astype(np.float32)
    centres = (np.arange(128) + 0.5) * SECONDS / 128
    database, features, proposals = {}, {}, {}
    for k in range(6):
        segments = np.cumsum(rng.uniform([2, 12, 4, 8], [8, 20, 10, 16])).reshape(2, 2)
        labels = [CLASSES[k % 3], CLASSES[(k + 1) % 3]]
        shown = np.zeros((128, 5), dtype=np.float32)
        for (start, end), label in zip(segments, labels, strict=True):
            shown[:, CLASSES.index(label)] += (centres >= start) & (centres < end)
            shown[:, 3] += np.exp(-((centres - start) ** 2))
            shown[:, 4] += np.exp(-((centres - end) ** 2))
        rows = shown @ directions + 0.1 * rng.standard_normal((128, CHANNELS)).astype(np.float32)
        annotations = [
            {"segment": segment, "label": label} for segment, label in zip(segments.tolist(), labels, strict=True)
        ]
        database[f"v{k}"] = {"duration": SECONDS, "subset": "all", "annotations": annotations}
        features[f"v{k}"] = VideoFeatures(rows, SECONDS, "none")
        lengths = np.diff(segments, axis=1)
        near = np.repeat(segments, 8, axis=0) + rng.uniform(-0.12, 0.12, (16, 2)) * np.repeat(lengths, 8, axis=0)
        far = np.sort(rng.uniform(0, SECONDS, (24, 2)), axis=1)
        found = np.clip(np.concatenate([near, far]), 0, SECONDS)
        scores = rng.uniform(size=len(found))
        proposals[f"v{k}"] = [
            {"label": "action", "score": score, "segment": segment}
            for score, segment in zip(scores.tolist(), found.tolist(), strict=True)
        ]
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    (folder / "proposals.json").write_text(json.dumps({"results": proposals}))
    write_features(folder / "f.h5", features, RowMeaning("", "", 5, 5, 10.0, CHANNELS, "fp32"))
    splits = {"training": "all", "validation": "all"}
    return Dataset(folder, DatasetCard(name="six", annotations="annotations.json", splits=splits))


def task(dataset, out, *proposals, localizer=SETTINGS, **others):
    given = {"task": "tal", "class_scores": None, "references": (), "seed": 0, "device": "cpu", **others}
    return Localization(dataset=dataset, localizer=localizer, out=out, proposals=proposals, **given)


def best_iou(truth, found):
    """Return the IoU of each true segment with the best detection of its class that it shares more than half with."""
    ious = []
    for k in range(len(truth.start)):
        same = (found.video == truth.video[k]) & (found.label == truth.label[k])
        segments = np.stack([found.start, found.end], axis=1)[same]
        iou = temporal_iou(np.array([[truth.start[k], truth.end[k]]]), segments)[0]
        over = np.flatnonzero(iou > 0.5)
        ious.append(iou[over[found.score[same][over].argmax()]] if len(over) else 0.0)
    return np.array(ious)


def test_six_videos_are_learned_by_heart(six, tmp_path):
    given = six.folder / "proposals.json"
    what = task(six, tmp_path, given)
    evaluate([what], {"a": [six.folder / "f.h5"]}, "", [])
    record = read_record(tmp_path / "tal" / "a" / "score")
    assert record.figures["metrics"]["mAP@0.50"] >= 0.95
    assert record.figures["signature"].endswith("|labels:localizer")
    train = read_record(tmp_path / "tal" / "a" / "train")
    assert train.figures["training_videos"] == 6
    assert train.inputs["proposals 0"] == hash_file(given)
    facts = read_run(tmp_path).tables[0].facts
    assert facts["proposals"] == "proposals.json, all of a video"
    assert facts["training"] == "60 epochs of adam at 0.003, each video 4 times an epoch"

    # The same proposals with labels by chance.
    truth = read_annotations(six.annotations).ground_truth("all")
    labels = np.random.default_rng(0)
    content = json.loads(given.read_text())
    for rows in content["results"].values():
        for row in rows:
            row["label"] = str(labels.choice(CLASSES))
    (tmp_path / "by_chance.json").write_text(json.dumps(content))
    guessed = read_predictions(tmp_path / "by_chance.json", truth)
    by_chance = score("tal", truth, guessed, DETECTION_PROTOCOLS["activitynet"]).result.metrics()
    assert by_chance["mAP@0.50"] < 0.4

    # Of the proposals that are near an action, the nearest halves: the best detections are nearer than that.
    found = read_predictions(tmp_path / "tal" / "a" / "predict" / "predictions.json.gz", truth)
    before, after = [], best_iou(truth, found)
    for k in range(len(truth.start)):
        segments = np.stack([guessed.start, guessed.end], axis=1)[guessed.video == truth.video[k]]
        iou = temporal_iou(np.array([[truth.start[k], truth.end[k]]]), segments)[0]
        before.append(iou[iou > 0.5].mean())
    assert 1 - after.mean() < 0.5 * (1 - np.mean(before))


FAST = SETTINGS.model_copy(
    update={
        "fit": SETTINGS.fit.model_copy(update={"epochs": 1, "milestones": ()}),
        "refine": RefineSettings(),
        "time": TimeSettings(mode="padded"),
    }
)


@pytest.fixture
def dataset(tmp_path):
    """Write 5 training and 3 validation videos of 8 s, each with one action of 2.5 s."""
    return write_set(tmp_path / "set")


@pytest.fixture
def features(tmp_path, dataset):
    return {"a": [write_rows(tmp_path / "a.h5", dataset)]}


def submission(path, videos, segments=((1.0, 3.0), (2.0, 4.5), (5.0, 7.5))):
    """Write the same proposals of several videos, the first with the best score."""
    rows = [{"label": "action", "score": 1 / (k + 1), "segment": list(segment)} for k, segment in enumerate(segments)]
    path.write_text(json.dumps({"results": {video: rows for video in videos}}))
    return path


EVERY = [f"v{k}" for k in range(8)]


def finished(out):
    return {path.parent.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.rglob("record.json")}


def test_what_is_finished_is_skipped_until_what_is_seen_of_the_proposals_changes(tmp_path, dataset, features):
    given, out = submission(tmp_path / "p.json", EVERY), tmp_path / "run"
    stages = {f"tal/a/{verb}" for verb in ("train", "predict", "score")}

    def run_again(settings=FAST):
        before = finished(out) if out.exists() else {}
        evaluate([task(dataset, out, given, localizer=settings)], features, "", [])
        return {stage for stage, time in finished(out).items() if before.get(stage) != time}

    assert run_again() == stages | {"checked/a"}
    assert run_again() == set()
    submission(given, EVERY, [(0.0, 2.0), (2.0, 5.0), (1.0, 3.0)])
    assert run_again() == stages
    assert run_again(FAST.model_copy(update={"refine": RefineSettings(best=2)})) == stages
    assert read_run(out).tables[0].facts["proposals"] == "p.json, the best 2 of a video"


def test_videos_without_proposals_or_actions_teach_nothing_and_are_missed(tmp_path, dataset, features, capsys):
    content = json.loads(dataset.annotations.read_text())
    content["database"]["v3"]["annotations"] = []
    dataset.annotations.write_text(json.dumps(content))
    given = submission(tmp_path / "p.json", ["v0", "v2", "v3", "v5", "v7", "elsewhere", "nowhere"])
    evaluate([task(dataset, tmp_path / "run", given, localizer=FAST)], features, "", [])
    said = capsys.readouterr().err
    assert f"{given}: left out the proposals of 2 of 7 videos, which are in neither split (first: elsewhere)." in said
    assert "No proposals of 2 of 5 training videos (first: v1)." in said
    assert "No proposals of 1 of 3 validation videos (first: v6)." in said
    row = tmp_path / "run" / "tal" / "a"
    assert read_record(row / "train").figures["training_videos"] == 2
    assert read_record(row / "score").figures["counts"]["missing_videos"] == 1


def test_detections_end_with_their_video(tmp_path, dataset, features):
    """The last of three steps of 3 s ends a second after the videos."""
    given, out = submission(tmp_path / "p.json", EVERY, [(0.0, 9.0), (7.0, 8.0)]), tmp_path / "run"
    settings = FAST.model_copy(update={"time": TimeSettings(mode="padded", step_seconds=3.0)})
    evaluate([task(dataset, out, given, localizer=settings)], features, "", [])
    truth = read_annotations(dataset.annotations).ground_truth("val")
    found = read_predictions(out / "tal" / "a" / "predict" / "predictions.json.gz", truth)
    assert found.end.max() == 8.0
    assert (found.start < found.end).all()


def test_biases_learn_at_a_rate_of_their_own(tmp_path, dataset, features):
    given, out = submission(tmp_path / "p.json", EVERY), tmp_path / "run"
    fit = FAST.fit.model_copy(update={"learning_rates": {"localizer": 0.0, "biases": 0.01}})
    evaluate([task(dataset, out, given, localizer=FAST.model_copy(update={"fit": fit}))], features, "", [])
    after = read_weights(out / "tal" / "a" / "train" / LOCALIZER_FILE).features
    before = dict(new_localizer(FAST, 4, seed=0, classes=2).named_parameters())
    changed = {name for name, parameter in before.items() if not torch.equal(parameter, after[name])}
    assert changed == {name for name in before if name.endswith("bias")}


def test_the_upper_mark_is_the_best_of_the_proposals(tmp_path, dataset, features):
    """The actions of v5 to v7 are [2, 4.5), [3, 5.5) and [1, 3.5)."""
    out, given = tmp_path / "run", submission(tmp_path / "p.json", EVERY[:7])
    evaluate([task(dataset, out, given, localizer=FAST, references=("upper-mark",))], features, "", [])
    # v5 is proposed; of v6, [2, 4.5) has 1.5 / 3.5 in common, less than half; of v7 nothing is proposed. v5 and v7 run,
    # so that half of them are found, and v6 jumps.
    figures = read_record(out / "tal" / "upper-mark-of-the-grid" / "score").figures
    assert figures["metrics"]["average_mAP"] == pytest.approx((1 / 2 + 0) / 2)
    assert figures["signature"].endswith("|labels:true")
    best = FAST.model_copy(update={"refine": RefineSettings(best=1)})  # [1, 3) alone: 1 / 3.5 of v5
    evaluate([task(dataset, out, given, localizer=best, references=("upper-mark",))], features, "", [])
    assert read_record(out / "tal" / "upper-mark-of-the-grid" / "score").figures["metrics"]["average_mAP"] == 0.0


def test_a_localizer_writes_what_a_refiner_needs(tmp_path, dataset, features):
    proposing = SMALL.model_copy(update={"predict_training": True})
    out = tmp_path / "run"
    evaluate([task(dataset, out, localizer=proposing, task="proposals")], features, "", [])
    files = [out / "proposals" / "a" / verb / "predictions.json.gz" for verb in ("predict-training", "predict")]
    names = [set(json.loads(gzip.decompress(file.read_bytes()))["results"]) for file in files]
    assert names == [set(EVERY[:5]), set(EVERY[5:])]
    trained = read_record(out / "proposals" / "a" / "train").fingerprint
    evaluate([task(dataset, out, *files, localizer=FAST)], features, "", [])
    assert [table.task for table in read_run(out).tables] == ["proposals", "tal"]
    assert read_record(out / "tal" / "a" / "score").figures["counts"]["missing_videos"] == 0
    # To write them or not to is no other training.
    evaluate([task(dataset, out, localizer=SMALL, task="proposals")], features, "", [])
    assert read_record(out / "proposals" / "a" / "train").fingerprint == trained


def test_lists_of_the_release_are_read(tmp_path, dataset, features, capsys):
    """100 frames are the 8 seconds of a video: frames 25 to 50 are seconds 2 to 4."""
    entries = [
        f"# {k}\n/frames/v{k}\n50\n2\n{k % 2}\n" + k % 2 * "1 20 40\n" + "2\n1 0.5 0.6 25 50\n0 0 0 0 100\n"
        for k in range(8)
    ]
    given = tmp_path / "p.txt"
    given.write_text("".join([*entries, "# 8\nother\n100\n1\n0\n0\n"]))
    found = read_given_proposals([given], dict.fromkeys(EVERY, 8.0))
    assert "1 of 9 videos" in capsys.readouterr().err
    assert sorted(found) == EVERY
    assert found["v3"][0].tolist() == [[2.0, 4.0], [0.0, 8.0]]  # in the order of the file
    assert found["v3"][1].tolist() == [1.0, 1.0]
    evaluate([task(dataset, tmp_path / "run", given, localizer=FAST)], features, "", [])
    with one_sentence(given, "'v0'", "duration"):
        read_given_proposals([given], dict.fromkeys(EVERY))
    with one_sentence(given, "'w'", "9 others"):
        read_given_proposals([given], {"w": 8.0})
    for right, wrong in (
        ("\n50\n", "\nfifty\n"),
        ("25 50", "25"),
        ("25 50", "50 25"),
        ("25 50", "nan 25"),
        ("\n2\n1 0.5", "\n3\n1 0.5"),
    ):
        given.write_text(entries[0] + entries[1].replace(right, wrong))
        with one_sentence(given, "line 9", "P-GCN"):
            read_given_proposals([given], dict.fromkeys(EVERY, 8.0))


def test_a_segment_counts_once_with_its_best_score(tmp_path):
    rows = [(0.2, [1.0, 2.0]), (0.9, [3.0, 4.0]), (0.9, [0.0, 4.0]), (0.5, [1.0, 2.0]), (0.1, [3.0, 4.0])]
    entries = [{"label": "any", "score": score, "segment": segment} for score, segment in rows]
    (tmp_path / "p.json").write_text(json.dumps({"results": {"a": entries, "b": [], "c": entries[:1]}}))
    found = read_given_proposals([tmp_path / "p.json"], {"c": None, "a": None, "b": None})
    assert {name: (segments.tolist(), scores.tolist()) for name, (segments, scores) in found.items()} == {
        "a": ([[3.0, 4.0], [0.0, 4.0], [1.0, 2.0]], [0.9, 0.9, 0.5]),
        "c": ([[1.0, 2.0]], [0.2]),
    }


def test_mistakes_in_the_settings_are_one_sentence(tmp_path, dataset, features):
    given = submission(tmp_path / "p.json", EVERY)

    def changed(**changes):
        return {"localizer": FAST.model_copy(update=changes)}

    rate = FAST.fit.model_copy(update={"learning_rates": {"localizer": 0.1}})
    for words, proposals, others in (
        (["pgcn", "given none", "--proposals"], [], {}),
        (["--proposals", "gtad makes its own", "pgcn"], [given], {"localizer": SMALL}),
        (["pgcn", "choose tal"], [given], {"task": "proposals"}),
        (["--class-scores"], [given], {"class_scores": tmp_path / "scores.json"}),
        (["'whole-video'"], [given], {"references": ("whole-video",)}),
        (["config.classes", "expected 2", "found 3"], [given], changed(config={"classes": 3})),
        (["time.mode", '"padded"', '"rescale"'], [given], changed(time=TimeSettings())),
        (["learning_rates", "biases"], [given], changed(fit=rate)),
        (["fit.micro_batch", "pgcn"], [given], changed(fit=FAST.fit.model_copy(update={"micro_batch": 1}))),
        (["refine", "gtad"], [], {"localizer": SMALL.model_copy(update={"refine": RefineSettings(best=3)})}),
    ):
        with one_sentence(*words):
            evaluate([task(dataset, tmp_path / "run", *proposals, **{"localizer": FAST, **others})], features, "", [])
    assert not (tmp_path / "run").exists()


def test_mistakes_in_the_proposals_are_one_sentence(tmp_path, dataset, features):
    path = tmp_path / "p.json"

    def refused(*words):
        with one_sentence(path, *words):
            evaluate([task(dataset, tmp_path / "run", path, localizer=FAST)], features, "", [])

    refused("does not exist")
    for content, words in (
        ("video,start,end", ["JSON"]),
        (json.dumps({"database": {}}), ["results"]),
        (json.dumps({"results": {}}), ["no video at all"]),
        (json.dumps({"results": {"x": []}}), ["1 others such as 'x'"]),
        (json.dumps({"results": {"v0": [{"score": float("nan"), "segment": [0, 1]}]}}), ["'v0'", "finite"]),
        (json.dumps({"results": {"v0": [{"score": 1.0, "segment": [3, 1]}]}}), ["'v0'", "prediction 1"]),
    ):
        path.write_text(content)
        refused(*words)
    submission(path, EVERY[5:])
    refused("training videos such as 'v0'", "predict_training=true")
    submission(path, EVERY[:5])
    refused("validation videos such as 'v5'")
    both = submission(tmp_path / "both.json", EVERY)
    with one_sentence(both, "'v0'", "earlier"):
        evaluate([task(dataset, tmp_path / "run", path, both, localizer=FAST)], features, "", [])
    # Of videos that have features, or an action, none has proposals.
    submission(path, ["v0", "v5"])
    rows = {"a": [write_rows(tmp_path / "b.h5", dataset, without=("v0",))]}
    with one_sentence(tmp_path / "b.h5", "nothing to learn from"):
        evaluate([task(dataset, tmp_path / "run", path, localizer=FAST)], rows, "", [])
