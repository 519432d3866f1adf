import json
import multiprocessing
import os
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import cut, one_sentence, silent, small_dataset, with_card
from tspbench.datasets import open_dataset
from tspbench.encoders import load_encoder, new_encoder
from tspbench.fit_settings import FitSettings
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment
from tspbench.stages import pretrain as module
from tspbench.stages.lessons import prepare_lesson
from tspbench.stages.pretrain import ENCODER_FILE, PUBLISHED_FIT, PretrainSettings, global_features, pretrain
from tspbench.storage.checkpoints import read_weights
from tspbench.storage.recipes import write_toml
from tspbench.storage.tsp_segments import SegmentRow, VideoMetadata, read_segments, write_segments
from tspbench.storage.video import write_video

CLIP_SECONDS = 8 / 12
FIT = FitSettings(
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    learning_rates={"stem": 0.0, "backbone": 0.02, "heads": 0.02},
    select="best",
    workers=0,
)
TSP = PretrainSettings(method="tsp", gvf="none", clips_per_segment=1, shortest_gap_clips=1.0, fit=FIT)
TAC = TSP.model_copy(update={"method": "tac"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.fixture
def gvf():
    rng = np.random.default_rng(0)
    return {f"v{k}": rng.standard_normal(6).astype(np.float32) for k in range(5)}


def lesson_of(dataset, settings, gvf=None):
    return prepare_lesson(dataset, CLIP_SECONDS, settings, gvf)


def run(folder, lesson, settings, seed=0, key="key", advance=silent):
    encoder = new_encoder("tiny", 0)
    return pretrain("tiny", encoder, lesson, settings, seed=seed, device="cpu", folder=folder, key=key, advance=advance)


def test_a_lesson_by_hand(dataset):
    lesson = lesson_of(dataset, TSP)
    assert lesson.labels == ("even", "odd")
    found = [(s.video, s.start, s.end, s.action) for s in lesson.training]
    assert found[:3] == [("v0", 1.0, 2.5, 0), ("v0", 0.0, 1.0, BACKGROUND), ("v0", 2.5, 4.0, BACKGROUND)]
    assert [s.action for s in lesson.training if not s.region] == [0, 1, 0]
    assert {s.video for s in lesson.validation} == {"v3", "v4"}
    assert sorted(lesson.videos) == [f"v{k}" for k in range(5)]
    # Gaps of 1 s and 1.5 s are shorter than 3 clips of 0.67 s.
    assert not any(s.region for s in lesson_of(dataset, TSP.model_copy(update={"shortest_gap_clips": 3.0})).training)


def test_tac_sees_actions_alone(dataset):
    assert [s.action for s in lesson_of(dataset, TAC).training] == [0, 1, 0]


def test_an_encoder_is_trained_and_says_what_it_was_taught(dataset, tmp_path):
    lesson = lesson_of(dataset, TSP)
    figures = run(tmp_path, lesson, TSP)
    assert figures["training_segments"] == {"foreground": 3, "background": 6}
    assert figures["validation_segments"] == {"foreground": 2, "background": 4}
    assert len(figures["epochs"]) == 2
    expected = {"action_loss", "region_loss", "total_loss", "action_accuracy", "region_accuracy", "mean_accuracy"}
    assert set(figures["epochs"][0]) == expected
    best = max(range(2), key=lambda k: figures["epochs"][k]["mean_accuracy"])
    assert figures["kept_epoch"] == best
    encoder, weights = load_encoder(None, tmp_path / ENCODER_FILE)
    assert weights.card == {
        "method": "tsp",
        "labels": ["even", "odd"],
        "seed": 0,
        "fingerprint": "key",
        "encoder": "tiny",
    }
    assert {head: tuple(parts["weight"].shape) for head, parts in weights.heads.items()} == {
        "action": (2, 128),
        "region": (2, 128),
    }
    fresh = new_encoder("tiny", 0).state_dict()
    trained = encoder.state_dict()
    assert torch.equal(fresh["stem.0.weight"], trained["stem.0.weight"])  # rate 0
    assert not torch.equal(fresh["stem.1.running_mean"], trained["stem.1.running_mean"])
    assert not torch.equal(fresh["stages.0.0.weight"], trained["stages.0.0.weight"])


@pytest.mark.parametrize("method", ["tac", "tsp"])
def test_a_run_that_breaks_off_ends_as_if_it_had_not(dataset, tmp_path, method):
    settings = {"tac": TAC, "tsp": TSP}[method]
    lesson = lesson_of(dataset, settings)
    told = run(tmp_path / "whole", lesson, settings)

    def stop(done, total, note=""):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", lesson, settings, advance=stop)
    assert not (tmp_path / "broken" / ENCODER_FILE).exists()
    assert run(tmp_path / "broken", lesson, settings) == told
    first, second = ((tmp_path / name / ENCODER_FILE).read_bytes() for name in ("whole", "broken"))
    assert first == second


def test_the_seed_decides(dataset, tmp_path):
    lesson = lesson_of(dataset, TAC)
    for name, seed in (("a", 1), ("b", 2)):
        run(tmp_path / name, lesson, TAC, seed=seed)
    weights = [read_weights(tmp_path / name / ENCODER_FILE) for name in "ab"]
    assert not torch.equal(weights[0].heads["action"]["weight"], weights[1].heads["action"]["weight"])


def test_global_features_widen_the_region_head(dataset, tmp_path, gvf):
    settings = TSP.model_copy(update={"gvf": "max"})
    run(tmp_path, lesson_of(dataset, settings, gvf), settings)
    heads = read_weights(tmp_path / ENCODER_FILE).heads
    assert heads["action"]["weight"].shape == (2, 128)
    assert heads["region"]["weight"].shape == (2, 128 + 6)


def test_tac_and_tsp_without_gvf_ask_for_none():
    assert not TAC.model_copy(update={"gvf": "max"}).needs_gvf()
    assert not TSP.needs_gvf()
    assert TSP.model_copy(update={"gvf": "avg"}).needs_gvf()


def test_single_heads_are_trained_alone(dataset, tmp_path):
    settings = TSP.model_copy(update={"heads": ("region",)})
    figures = run(tmp_path, lesson_of(dataset, settings), settings)
    assert set(figures["epochs"][0]) == {"region_loss", "total_loss", "region_accuracy", "mean_accuracy"}
    assert read_weights(tmp_path / ENCODER_FILE).heads.keys() == {"region"}


def test_missing_global_features_are_one_sentence(dataset, gvf):
    del gvf["v1"], gvf["v4"]
    with one_sentence("2 of 5 videos", "'v1'"):
        lesson_of(dataset, TSP.model_copy(update={"gvf": "max"}), gvf)


THUMOS14 = {"training": "valid", "validation": "test"}


@pytest.fixture(scope="module")
def thumos(tmp_path_factory):
    """The real ground truth of THUMOS14, with grey videos of the real lengths for the shortest of each split."""
    folder = tmp_path_factory.mktemp("thumos14")
    paths = {role: shared(f"data/thumos14/{name}_tsp_groundtruth.csv.gz") for role, name in THUMOS14.items()}
    for path in paths.values():
        durations = {row.video: row.file.duration_seconds for row in read_segments(path)}
        for video in sorted(durations, key=lambda video: durations[video])[:3]:
            frames = (np.full((64, 64, 3), k % 256, dtype=np.uint8) for k in range(round(5 * durations[video])))
            write_video(folder / "videos" / f"{video}.mp4", frames, 5)
    card = {"name": "thumos14", "protocol": "thumos14", "segments": {role: str(path) for role, path in paths.items()}}
    write_toml(folder / "dataset.toml", card)
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def released_gvf():
    return global_features([shared("data/thumos14/r2plus1d_34-max_gvf.h5")], "max")


def test_every_video_of_thumos14_has_a_released_global_feature(released_gvf):
    assert len(released_gvf) == 413
    assert {vector.shape for vector in released_gvf.values()} == {(512,)}
    assert all(np.isfinite(vector).all() for vector in released_gvf.values())
    named = {
        role: {row.video for row in read_segments(shared(f"data/thumos14/{name}_tsp_groundtruth.csv.gz"))}
        for role, name in THUMOS14.items()
    }
    assert {role: len(videos) for role, videos in named.items()} == {"training": 200, "validation": 212}
    # In the one that is left everything is ambiguous.
    assert released_gvf.keys() - named["training"] - named["validation"] == {"video_test_0001292"}
    assert named["training"] | named["validation"] < released_gvf.keys()


@pytest.mark.parametrize("name", ["tiny", "r2plus1d_18"])
def test_the_released_global_features_drive_a_pretraining_on_thumos14(thumos, released_gvf, tmp_path, capsys, name):
    classes = tuple(json.loads(shared("data/thumos14/action_labels.json").read_text()))
    encoder = new_encoder(name, 0)
    fit = FIT.model_copy(update={"epochs": 1, "batch_size": 8})
    settings = PretrainSettings(method="tsp", gvf="max", clips_per_segment=1, sampling="every-segment", fit=fit)
    lesson = prepare_lesson(thumos, encoder.preprocessing.clip_seconds, settings, released_gvf)
    assert lesson.labels == classes
    assert "197 of 200 training videos are not there" in capsys.readouterr().err
    assert len(lesson.videos) == 6
    # What the file says of the three shortest videos, where a clip fits: none of their segments leaves its video.
    rows = [row for row in read_segments(thumos.segments("training")) if row.video in lesson.videos]
    kept = {
        (row.video, row.start, row.end, row.label)
        for row in rows
        if row.end - row.start >= encoder.preprocessing.clip_seconds
    }
    assert kept == {(s.video, s.start, s.end, None if s.region else lesson.labels[s.action]) for s in lesson.training}
    if name == "r2plus1d_18":  # one step, of two clips
        actions, background = ([s for s in lesson.training if s.region == region] for region in (0, 1))
        lesson = replace(lesson, training=[actions[0], background[0]], validation=lesson.validation[:1])
    figures = pretrain(
        name, encoder, lesson, settings, seed=0, device="cpu", folder=tmp_path, key="key", advance=silent
    )
    assert np.isfinite([figures["epochs"][0][f"{part}_loss"] for part in ("action", "region", "total")]).all()
    heads = read_weights(tmp_path / ENCODER_FILE).heads
    assert heads["action"]["weight"].shape == (20, encoder.feature_dim)
    assert heads["region"]["weight"].shape == (2, encoder.feature_dim + 512)


def test_missing_videos_are_counted_aloud_and_left_out(dataset, tmp_path, capsys):
    (tmp_path / "v").mkdir()
    for name in ("v0", "v3"):
        (tmp_path / "v" / f"{name}.mp4").symlink_to(dataset.videos / f"{name}.mp4")
    lesson = lesson_of(with_card(dataset, videos=str(tmp_path / "v")), TSP)
    assert sorted(lesson.videos) == ["v0", "v3"]
    told = capsys.readouterr().err
    assert "2 of 3 training videos are not there (first: v1)" in told
    assert "1 of 2 validation videos are not there (first: v4)" in told
    (tmp_path / "v" / "v3.mp4").unlink()
    with one_sentence(dataset.annotations, "'val'", "found none"):
        lesson_of(with_card(dataset, videos=str(tmp_path / "v")), TSP)


def ground_truth(folder, role, *rows, duration=4.0):
    """Write segments (video, start, end, label) as the ground truth of a role, and return the card's entry."""
    write_segments(
        folder / f"{role}.csv",
        [SegmentRow(*row, VideoMetadata(f"{row[0]}.mp4", duration, 12.0, int(12 * duration))) for row in rows],
    )
    return {role: str(folder / f"{role}.csv")}


ROWS = {
    "training": [("v0", 0.5, 1.5, "odd"), ("v1", 3.0, 9.0, "even"), ("v1", 3.5, 9.0, "even"), ("v0", 0.0, 0.6, None)],
    "validation": [("v3", 0.0, 2.0, "odd"), ("v3", 2.0, 4.0, None)],
}


def both(folder):
    return {key: path for role, rows in ROWS.items() for key, path in ground_truth(folder, role, *rows).items()}


@pytest.mark.parametrize("annotated", [True, False])
def test_ready_made_segments_are_taken_as_they_are(dataset, tmp_path, annotated):
    """Cut off at the end of the video, and dropped where no clip of 0.67 s fits."""
    annotations = {} if annotated else {"annotations": None}
    lesson = lesson_of(with_card(dataset, segments=both(tmp_path), **annotations), TSP)
    assert lesson.labels == ("even", "odd")
    assert lesson.training == [LabelledSegment("v0", 0.5, 1.5, 1), LabelledSegment("v1", 3.0, 4.0, 0)]
    assert lesson.validation == [LabelledSegment("v3", 0.0, 2.0, 1), LabelledSegment("v3", 2.0, 4.0, BACKGROUND)]
    assert sorted(lesson.videos) == ["v0", "v1", "v3"]


def test_a_role_without_ready_made_segments_is_cut_from_the_annotations(dataset, tmp_path):
    entry = ground_truth(tmp_path, "training", *ROWS["training"])
    lesson = lesson_of(with_card(dataset, segments=entry), TSP)
    assert len(lesson.training) == 2
    assert lesson.validation == lesson_of(dataset, TSP).validation
    with one_sentence("dataset.toml", '"annotations"'):
        lesson_of(with_card(dataset, segments=entry, annotations=None), TSP)


def test_annotations_of_one_role_go_with_segments_of_the_other(dataset, tmp_path):
    content = json.loads(dataset.annotations.read_text())
    content["database"] = {name: entry for name, entry in content["database"].items() if entry["subset"] == "val"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    entry = ground_truth(tmp_path, "training", *ROWS["training"])
    lesson = lesson_of(with_card(dataset, segments=entry, annotations=str(tmp_path / "a.json")), TSP)
    assert {segment.video for segment in lesson.training} == {"v0", "v1"}


def test_a_trial_takes_the_segments_of_its_videos_alone(dataset, tmp_path):
    rows = [(f"v{k}", 0.5, 1.5, "odd") for k in range(3)]
    ready = with_card(dataset, segments={**both(tmp_path), **ground_truth(tmp_path, "training", *rows)})
    trial = replace(ready, trial={"training": 2})
    tried = {video.name for video in trial.read().subset("train")}
    assert len(tried) == 2
    lesson, whole = lesson_of(trial, TSP), lesson_of(ready, TSP)
    assert lesson.training == [segment for segment in whole.training if segment.video in tried]
    assert (len(lesson.training), len(whole.training)) == (2, 3)
    assert lesson.validation == whole.validation


def test_labels_that_nobody_knows_are_one_sentence(dataset, tmp_path):
    entry = ground_truth(tmp_path, "validation", ("v3", 0.0, 2.0, "evn"))
    with one_sentence(tmp_path / "validation.csv", "'v3'", "'evn'", "did you mean 'even'?"):
        lesson_of(with_card(dataset, segments=entry), TSP)
    entries = {**both(tmp_path), **ground_truth(tmp_path, "validation", ("v3", 0.0, 2.0, "run"))}
    with one_sentence(tmp_path / "validation.csv", "'run'", "known are even, odd"):
        lesson_of(with_card(dataset, segments=entries, annotations=None), TSP)


def test_missing_videos_of_ready_made_segments_are_counted_aloud(dataset, tmp_path, capsys):
    entry = ground_truth(tmp_path, "training", *ROWS["training"], ("v8", 0.0, 2.0, "odd"), ("v8", 2.0, 4.0, None))
    assert len(lesson_of(with_card(dataset, segments=entry), TSP).training) == 2
    assert "1 of 3 training videos are not there (first: v8)" in capsys.readouterr().err
    entry = ground_truth(tmp_path, "training", ("v8", 0.0, 2.0, "odd"))
    with one_sentence(tmp_path / "training.csv", "found none"):
        lesson_of(with_card(dataset, segments=entry), TSP)


def test_every_segment_gives_tac_its_background_without_a_label(dataset):
    """So TSP's code trains it, and validates it on actions alone; figures say what an epoch has."""
    lesson = lesson_of(dataset, TAC.model_copy(update={"sampling": "every-segment"}))
    assert [s.action for s in lesson.training].count(BACKGROUND) == 6
    assert [s.action for s in lesson.validation] == [1, 0]
    assert lesson.training == lesson_of(dataset, TSP).training


@pytest.mark.parametrize(("sampling", "steps"), [("balanced", 2 * 3), ("every-segment", 2 * 5)])
def test_an_epoch_is_as_long_as_its_sampling_says(dataset, tmp_path, sampling, steps):
    """3 actions and 6 gaps, 4 clips of each, in batches of 8: 24 clips balanced, 36 of every segment."""
    settings = TSP.model_copy(update={"sampling": sampling, "clips_per_segment": 4})
    told = []
    run(tmp_path, lesson_of(dataset, settings), settings, advance=lambda done, total, note="": told.append(total))
    assert set(told) == {steps}


def test_what_the_protocol_ignores_is_neither_action_nor_cut_out(dataset, tmp_path):
    """As in TSP's ground truth of THUMOS14: ambiguous stretches are dropped before the gaps are cut."""
    content = json.loads(dataset.annotations.read_text())
    content["database"]["v0"]["annotations"].append({"segment": [3.0, 3.8], "label": "Ambiguous"})
    content["database"]["v1"]["annotations"] = [{"segment": [3.0, 3.8], "label": "Ambiguous"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    ambiguous = with_card(dataset, annotations=str(tmp_path / "a.json"))
    lesson = lesson_of(with_card(ambiguous, protocol="thumos14"), TSP)
    expected = lesson_of(dataset, TSP)
    assert lesson.labels == ("even", "odd")
    assert lesson.training == [segment for segment in expected.training if segment.video != "v1"]
    assert lesson_of(ambiguous, TSP).labels == ("Ambiguous", "even", "odd")


def test_thumos_annotations_serve(dataset, tmp_path):
    for label, video, subset in (("Diving", "v0", "val"), ("HighJump", "v1", "val"), ("Diving", "v3", "test")):
        (tmp_path / f"{label}_{subset}.txt").write_text(f"{video} 1.0 2.5\n")
    card = {"annotations": str(tmp_path), "splits": {"training": "validation", "validation": "test"}}
    lesson = lesson_of(with_card(dataset, **card, protocol="thumos14"), TSP)
    assert lesson.labels == ("Diving", "HighJump")
    assert [s for s in lesson.validation if not s.region] == [LabelledSegment("v3", 1.0, 2.5, 0)]
    assert len(lesson.training) == 2 * 3


def test_a_duration_that_is_not_annotated_is_the_videos_own(dataset, tmp_path):
    content = json.loads(dataset.annotations.read_text())
    for entry in content["database"].values():
        del entry["duration"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert lesson_of(with_card(dataset, annotations=str(tmp_path / "a.json")), TSP).training == (
        lesson_of(dataset, TSP).training
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"method": "tps"}, ["'tps'", "did you mean 'tsp'?"]),
        ({"heads": ("regions",)}, ["'regions'", "did you mean 'region'?", "head of tsp"]),
        ({"method": "tac", "heads": ("region",)}, ["'region'", "head of tac"]),
        ({"loss_weights": {"regio": 2.0}}, ["'regio'", "did you mean 'region'?"]),
        ({"heads": ("action",), "loss_weights": {"region": 2.0}}, ["'region'", "known are action"]),
    ],
)
def test_what_does_not_fit_the_method_is_one_sentence(dataset, tmp_path, change, parts):
    settings = TSP.model_copy(update=change)
    with one_sentence(*parts):
        run(tmp_path, lesson_of(dataset, TSP), settings)


def test_global_features_are_pooled_over_the_video(tmp_path):
    rows = np.array([[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v"] = rows
    assert_array_equal(global_features([tmp_path / "f.h5"], "max")["v"], [3, 5])
    assert_array_equal(global_features([tmp_path / "f.h5"], "avg")["v"], [2, 2])


def test_released_vectors_are_taken_as_they_are_from_every_file(tmp_path):
    for name in "ab":
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[f"v_{name}"] = np.array([1.0, 2.0], dtype=np.float32)
    found = global_features([tmp_path / "a.h5", tmp_path / "b.h5"], "max")
    assert found.keys() == {"a", "b"}
    assert_array_equal(found["b"], [1, 2])


def test_the_published_recipe_is_that_of_the_paper():
    """FACTS 1.3, with the rates and the batch of two GPUs."""
    assert (PUBLISHED_FIT.epochs, PUBLISHED_FIT.optimizer, PUBLISHED_FIT.weight_decay) == (8, "sgd", 0.005)
    assert (PUBLISHED_FIT.warmup_epochs, PUBLISHED_FIT.warmup_factor) == (2, 1e-5)
    assert (PUBLISHED_FIT.milestones, PUBLISHED_FIT.gamma, PUBLISHED_FIT.select) == ((4, 6), 0.01, "best")
    assert PUBLISHED_FIT.learning_rates == {"stem": 0.0, "backbone": 2e-4, "heads": 4e-3}
    assert PUBLISHED_FIT.batch_size == 64


def test_videos_and_global_features_are_found_by_either_name(tmp_path):
    """Entries v_NAME and files v_NAME.mp4, as some folders have them: the name of a file lacks the prefix."""
    dataset = small_dataset(tmp_path)
    text = dataset.annotations.read_text()
    for k in range(5):
        text = text.replace(f'"v{k}"', f'"v_v{k}"')
    dataset.annotations.write_text(text)
    gvf = {f"v{k}": np.ones(4, dtype=np.float32) for k in range(5)}
    lesson = prepare_lesson(dataset, 0.5, PretrainSettings(method="tsp", shortest_gap_clips=1.0), gvf)
    assert set(lesson.videos) == {f"v_v{k}" for k in range(5)}
    assert set(lesson.gvf) == set(lesson.videos)


# Videos that cannot be read, and workers that die.


def with_videos(dataset, folder, **changes):
    """Return the data set with other files for some of its videos."""
    folder.mkdir()
    for path in dataset.videos.iterdir():
        change = changes.get(path.stem)
        if change is None:
            (folder / path.name).symlink_to(path)
        else:
            cut(path, folder / path.name, change)
    return with_card(dataset, videos=str(folder))


def test_training_goes_on_without_the_clips_of_bad_videos(dataset, tmp_path, capsys):
    """v1 is the only training video of its class, so that any other stands in; v4 is one of two to validate on."""
    bad = with_videos(dataset, tmp_path / "videos", v1=0.5, v4=0.5)
    figures = run(tmp_path / "run", lesson_of(bad, TSP), TSP)
    # Two epochs of 3 actions and 3 of the 6 gaps; v1's is one action in each, and some gaps.
    lost = figures["bad_videos"]["v1"]
    assert 2 <= lost["replaced_clips"] <= 6
    assert lost["left_out_clips"] == 0
    assert figures["bad_videos"]["v4"]["left_out_clips"] == 3  # the same in each epoch
    assert all("cannot be read as a video" in each["reason"] for each in figures["bad_videos"].values())
    assert len(figures["epochs"]) == 2
    said = capsys.readouterr().err
    assert said.count("A clip of v1 is replaced: ") == 1
    assert said.count("A clip of v4 is left out: ") == 1


def test_too_many_bad_videos_end_it(dataset, tmp_path):
    bad = with_videos(dataset, tmp_path / "videos", v1=0.5)
    settings = TSP.model_copy(update={"bad_videos": 0})
    with one_sentence("1 videos cannot be read (first v1)", "bad_videos = 0"):
        run(tmp_path / "run", lesson_of(bad, settings), settings)
    assert run(tmp_path / "good", lesson_of(dataset, settings), settings)["bad_videos"] == {}


def test_a_worker_that_the_system_kills_changes_nothing(dataset, tmp_path):
    settings = TSP.model_copy(update={"fit": FIT.model_copy(update={"workers": None})})  # one process on a CPU
    killed = []

    def kill(done, total, note=""):
        workers = [child for child in multiprocessing.active_children() if child.name.startswith("SpawnProcess")]
        if done == 1:
            assert len(workers) == 1
            os.kill(workers[0].pid, signal.SIGKILL)
            killed.append(workers[0].pid)

    lesson = lesson_of(dataset, settings)
    figures = run(tmp_path / "killed", lesson, settings, advance=kill)
    assert killed
    assert figures == run(tmp_path / "whole", lesson, TSP)
    first, second = ((tmp_path / name / ENCODER_FILE).read_bytes() for name in ("whole", "killed"))
    assert first == second
    assert not multiprocessing.active_children()


# Warnings when training cannot work.


def edited(dataset, folder, change):
    content = json.loads(dataset.annotations.read_text())
    change(content["database"])
    (folder / "a.json").write_text(json.dumps(content))
    return with_card(dataset, annotations=str(folder / "a.json"))


def test_a_class_without_a_training_segment_is_named(dataset, tmp_path, capsys):
    only_even = edited(dataset, tmp_path, lambda videos: videos.pop("v1"))
    run(tmp_path / "run", lesson_of(only_even, TAC), TAC)
    said = "1 of 2 classes have no training segment (first: 'odd'): the action head never sees them."
    assert capsys.readouterr().err.count(said) == 1
    run(tmp_path / "all", lesson_of(dataset, TAC), TAC)
    assert "no training segment" not in capsys.readouterr().err


def test_training_without_background_is_named(dataset, tmp_path, capsys):
    lesson = lesson_of(dataset, TSP)
    actions = replace(lesson, training=[segment for segment in lesson.training if not segment.region])
    run(tmp_path / "run", actions, TSP)
    assert capsys.readouterr().err.count("tsp finds no background to train on") == 1
    for name, settings in (("tac", TAC), ("action", TSP.model_copy(update={"heads": ("action",)})), ("tsp", TSP)):
        run(tmp_path / name, lesson if name == "tsp" else actions, settings)
    assert "finds no background" not in capsys.readouterr().err


def test_actions_that_no_clip_fits_into_are_counted(dataset, tmp_path, capsys):
    def shorten(videos):
        videos["v0"]["annotations"] += [
            {"segment": [3.0, 3.5], "label": "odd"},
            {"segment": [9.0, 19.0], "label": "odd"},
        ]

    lesson = lesson_of(edited(dataset, tmp_path, shorten), TSP)
    assert [s.action for s in lesson.training if not s.region] == [0, 1, 0]
    said = capsys.readouterr().err
    assert said == "small: 2 of 5 training actions are left out, because no clip of 0.67 s fits into them.\n"
    rows = [*ROWS["training"], ("v1", 1.0, 1.2, "odd")]
    lesson_of(with_card(dataset, segments=ground_truth(tmp_path, "training", *rows)), TSP)
    assert "2 of 4 training actions are left out" in capsys.readouterr().err  # the other lies behind the video's end
    lesson_of(dataset, TSP)
    assert not capsys.readouterr().err


def test_a_head_that_says_the_same_of_all_is_named_once(dataset, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "constant_heads", lambda answers: asked.append(answers) or {"region": 1, "action": 0})
    run(tmp_path, lesson_of(dataset, TSP), TSP)
    assert [{head: counts.total() for head, counts in each.items()} for each in asked] == [
        {"action": 2, "region": 6}
    ] * 2
    said = capsys.readouterr().err
    assert said.count("After epoch 0 the region head says 'background' of all 6 validation clips") == 1
    assert said.count("After epoch 0 the action head says 'even' of all 2 validation clips") == 1
    assert "After epoch 1" not in said
