"""Benchmarks are opened by name, from wherever their files lie, and say what is missing of them."""

import json
from dataclasses import replace

import pytest

from evaluation.protocols import DETECTION_PROTOCOLS
from evaluation.video_sets import VIDEO_SETS
from tests.tspbench.helpers import one_sentence, small_dataset
from tspbench.datasets import BENCHMARKS, open_dataset
from tspbench.datasets.inventory import dropped, inventory
from tspbench.storage.catalog import CATALOG, DATA_VARIABLE
from tspbench.storage.recipes import write_toml


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Make an empty data root."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def annotate(path, **videos):
    """Write annotations: name of a video → (subset, segments)."""
    database = {
        name: {"duration": 9.0, "subset": subset, "annotations": [{"segment": [*s], "label": "A"} for s in segments]}
        for name, (subset, segments) in videos.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"database": database}))


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_the_facts_of_a_benchmark_fit_together(benchmark):
    assert set(benchmark.splits) == {"training", "validation"}
    assert benchmark.protocol in DETECTION_PROTOCOLS
    assert set(benchmark.video_sets) <= set(VIDEO_SETS)
    assert benchmark.citation.endswith(".")
    assert all("{model}" in name for name in benchmark.feature_files)
    for source in (*benchmark.files, *([benchmark.annotations] if benchmark.annotations else [])):
        assert set(source.fetch) <= set(CATALOG)
    for split in benchmark.splits.values():
        if split.kept is not None:
            assert split.clips_per_epoch == 5 * sum(split.kept)
            assert split.kept[0] <= split.segments
            assert split.kept[1] <= split.background


@pytest.mark.parametrize("name", ["activitynet", "thumos14"])
def test_a_benchmark_without_annotations_says_how_to_get_them(name, data):
    with one_sentence(data / name, BENCHMARKS[name].annotations.official):
        open_dataset(name)


def test_a_benchmark_needs_no_card(data):
    annotate(data / "activitynet" / "activity_net.v1-3.min.json", a=("training", [(0, 3)]), b=("validation", [(1, 2)]))
    dataset = open_dataset("activitynet")
    assert (dataset.name, dataset.protocol, dataset.card.benchmark) == ("activitynet", "activitynet", "activitynet")
    assert [video.name for video in dataset.read().videos] == ["a", "b"]
    assert dataset.videos == data / "activitynet" / "videos"


def test_the_card_in_its_folder_counts_and_keeps_the_benchmark(data):
    annotate(data / "thumos14" / "mine.json", a=("validation", [(0, 3)]), b=("test", [(1, 2)]))
    card = {"name": "thumos14", "annotations": "mine.json", "protocol": "thumos14"}
    write_toml(data / "thumos14" / "dataset.toml", {**card, "splits": {"training": "validation", "validation": "test"}})
    dataset = open_dataset("thumos14")
    assert dataset.card.benchmark == "thumos14"
    assert dataset.annotations.name == "mine.json"


def test_files_may_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    annotate(tmp_path / "my.json", a=("training", [(0, 3)]))
    dataset = open_dataset("activitynet", elsewhere={"annotations": "my.json", "videos": "clips"})
    assert dataset.annotations == tmp_path / "my.json"
    assert dataset.videos == tmp_path / "clips"


def test_thumos_texts_serve_as_annotations(data):
    folder = data / "thumos14" / "annotation"
    folder.mkdir(parents=True)
    (folder / "BaseballPitch_val.txt").write_text("video_validation_0000001 1.0 2.0\n")
    (folder / "BaseballPitch_test.txt").write_text("video_test_0000001 1.0 2.0\nvideo_test_0000001 5.0 6.0\n")
    dataset = open_dataset("thumos14")
    assert [len(video.labels) for video in dataset.read().subset(dataset.subset("validation"))] == [2]
    before = dataset.annotations_hash()
    (folder / "BaseballPitch_test.txt").write_text("video_test_0000001 1.0 2.5\n")
    assert dataset.annotations_hash() != before


def test_an_unknown_name_lists_every_data_set():
    with one_sentence("did you mean 'activitynet'?", "thumos14", "synthetic"):
        open_dataset("activitnet")


def test_the_inventory_counts_kept_and_missing_videos_with_and_without_the_prefix(data):
    annotate(
        data / "activitynet" / "annotations.json",
        a=("training", [(0, 3)]),
        b=("validation", [(1, 2), (3, 4)]),
        c=("validation", [(1, 2)]),
        v_d=("testing", []),  # an ID may begin like the prefix
    )
    dataset = open_dataset("activitynet")
    training, validation = inventory(dataset, {"v_a", "b", "other"}, "features")
    assert (training.annotated, training.kept, training.missing, training.expected) == (1, 1, (), 10_024)
    assert (validation.annotated, validation.segments, validation.kept, validation.missing) == (2, 3, 1, ("c",))
    assert validation.told() == (
        "validation (validation): 2 annotated videos of 4,926 expected with 3 actions; features of 1, 1 missing (c)."
    )
    assert dropped(dataset, {"v_a", "b", "v_v_d", "other"}) == ["other"]


def test_the_inventory_recognises_a_conventional_video_set(data):
    # 211 videos with 15 actions and one with 193 are 212 videos with 3,358 actions.
    videos = {f"video_test_{k:07}": ("test", [(0, 1)] * (15 if k < 211 else 193)) for k in range(212)}
    annotate(data / "thumos14" / "annotations.json", x=("validation", [(0, 1)]), **videos)
    _, validation = inventory(open_dataset("thumos14"), videos, "features")
    assert validation.video_set == "thumos14-212"
    assert "the video set thumos14-212" in validation.told()


def test_a_trial_keeps_the_same_few_videos_and_has_a_hash_of_its_own(tmp_path):
    dataset = small_dataset(tmp_path, training=6, validation=4)
    trial = replace(dataset, trial={"training": 3, "validation": 2})
    assert chosen(trial) == chosen(trial)
    assert [len(names) for names in chosen(trial)] == [3, 2]
    assert [len(names) for names in chosen(replace(dataset, trial={"validation": 2}))] == [6, 2]
    assert all(few < every for few, every in zip(chosen(trial), chosen(dataset), strict=True))
    assert trial.annotations_hash() != dataset.annotations_hash()
    # Labels of videos that are left out are known: a trial has as many classes to choose from.
    assert replace(dataset, trial={"training": 1, "validation": 1}).read().labels == dataset.read().labels


def chosen(dataset):
    return [{video.name for video in dataset.read().subset(subset)} for subset in ("train", "val")]


def test_captions_that_are_not_there_are_named_with_where_they_come_from(data):
    with one_sentence("train.json", "tspbench fetch activitynet-captions-zip", "densevid"):
        open_dataset("activitynet-captions")
