"""A folder of videos and a table becomes a data set."""

import json

import pytest

from tests.tspbench.helpers import numbered_video, one_sentence
from tspbench.datasets import open_dataset
from tspbench.stages.init_dataset import init_dataset, split_roles, subset_in_name
from tspbench.stages.lint import kept_report, lint
from tspbench.storage.recipes import read_toml
from tspbench.storage.video import scan_video

HEAD = "video,start,end,label\n"
TSP_HEAD = "video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label\n"


def folder_of(tmp_path, videos=("a", "b"), where="videos", table=None):
    """Write a folder with empty video files and a table."""
    folder = tmp_path / "mine"
    (folder / where).mkdir(parents=True)
    for name in videos:
        (folder / where / f"{name}.mp4").touch()
    text = table or HEAD + "".join(f"{name},0,1,x\n" for name in videos)
    (folder / "labels.csv").write_text(text)
    return folder


def test_a_new_users_folder_is_initialised_linted_and_opened(tmp_path):
    folder = tmp_path / "my-videos"
    rows = ["File;Video;Start;End;Label"]
    for k in range(6):
        name = f"clip{k}.mp4"
        numbered_video(folder / "videos" / name, 12 * 12, first=100 * k)
        label = ("Jump", "Run")[k % 2]
        rows += [f"{k};{name};1,5;0:03;{label}", f"{k};{name};9;11;{label}"]
    (folder / "labels.csv").write_text("\n".join(rows))
    card, told = init_dataset(folder)
    assert card == folder / "dataset.toml"
    assert told == [
        f"{folder / 'labels.csv'}: 6 videos, 2 classes; videos: 4 with 8 actions for training, 2 with 4 actions for "
        "validation.",
        f"{folder / 'labels.csv'} has no column split: a quarter of the videos was chosen for validation by their "
        "names; add the column to choose yourself.",
        f"6 of 6 annotated videos have a file in {folder / 'videos'}.",
        f"Wrote {card}.",
    ]
    dataset = open_dataset(str(folder))
    assert (dataset.name, dataset.protocol) == ("my-videos", "activitynet")
    durations = {name: scan_video(path).duration for name, path in dataset.video_files().items()}
    assert lint(dataset, durations) == []
    assert [(c.role, c.videos, c.with_file, c.actions, c.kept) for c in kept_report(dataset, durations)] == [
        ("training", 4, 4, 8, 8),
        ("validation", 2, 2, 4, 4),
    ]


def test_the_card_names_files_relative_to_its_folder_or_absolutely(tmp_path):
    folder = folder_of(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (folder / "videos").rename(elsewhere)
    (folder / "sub").mkdir()
    (folder / "labels.csv").rename(folder / "sub" / "mine.csv")
    init_dataset(folder, folder / "sub" / "mine.csv", elsewhere, "other name", "thumos14")
    assert read_toml(folder / "dataset.toml") == {
        "name": "other name",
        "annotations": "sub/mine.csv",
        "videos": str(elsewhere),
        "protocol": "thumos14",
        "splits": {"training": "training", "validation": "validation"},
    }
    assert sorted(open_dataset(str(folder)).video_files()) == ["a", "b"]


@pytest.mark.parametrize(("where", "entry"), [("videos", "videos"), (".", "."), ("raw", "raw")])
def test_the_videos_are_found(tmp_path, where, entry):
    folder = folder_of(tmp_path, where=where)
    (folder / "notes").mkdir()
    init_dataset(folder)
    assert open_dataset(str(folder)).card.videos == entry
    assert sorted(open_dataset(str(folder)).video_files()) == ["a", "b"]


def test_the_folder_called_videos_comes_first(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "preview.mp4").touch()
    init_dataset(folder)
    assert open_dataset(str(folder)).card.videos == "videos"


def test_several_folders_of_videos_want_a_word(tmp_path):
    folder = folder_of(tmp_path, where="one")
    (folder / "two").mkdir()
    (folder / "two" / "c.mkv").touch()
    with one_sentence(folder, "one, two", "--videos"):
        init_dataset(folder)


def test_a_set_without_videos_is_one_for_features(tmp_path):
    folder = folder_of(tmp_path, videos=())
    (folder / "labels.csv").write_text(f"{HEAD}a,0,1,x\nb,0,1,x\n")
    _, told = init_dataset(folder)
    assert any("No video was found" in sentence and str(folder / "videos") in sentence for sentence in told)
    assert open_dataset(str(folder)).card.videos == "videos"


def test_how_many_names_fit_is_said(tmp_path):
    folder = folder_of(tmp_path, videos=("a", "b", "d"), table=f"{HEAD}a,0,1,x\nv_b.mp4,0,1,x\nc,0,1,x\n")
    _, told = init_dataset(folder)
    expected = (
        "2 of 3 annotated videos have a file in {}, first without: c; 1 of 3 files without annotations, first: d.mp4."
    )
    assert expected.format(folder / "videos") in told


def test_names_that_all_differ_are_an_error(tmp_path):
    folder = folder_of(tmp_path, table=f"{HEAD}x,0,1,l\ny,0,1,l\n")
    with one_sentence(folder / "videos", "'x'", "'a.mp4'"):
        init_dataset(folder)
    assert not (folder / "dataset.toml").exists()


@pytest.mark.parametrize("file", ["v_a", "a"])
@pytest.mark.parametrize("entry", ["v_a", "a"])
def test_a_leading_v_does_not_count(tmp_path, file, entry):
    folder = folder_of(tmp_path, videos=(file, "other"))
    (folder / "labels.csv").unlink()
    content = {entry: {"subset": "training", "annotations": [{"segment": [0, 1], "label": "x"}]}}
    (folder / "labels.json").write_text(json.dumps({"database": content}))
    _, told = init_dataset(folder)
    where = folder / "videos"
    assert told[0].startswith(f"{folder / 'labels.json'}: 1 video, 1 class; videos: 1 with 1 action for training.")
    assert f"1 of 1 annotated video has a file in {where}; 1 of 2 files without annotations, first: other.mp4." in told
    dataset = open_dataset(str(folder))
    assert [counts.with_file for counts in kept_report(dataset, {})] == [1]
    assert not any("without a file" in finding.sentence for finding in lint(dataset, {}))


def thumos_texts(folder):
    folder.mkdir(parents=True)
    for part, short in (("validation", "val"), ("test", "test")):
        (folder / f"BaseballPitch_{short}.txt").write_text(f"video_{part}_0000001 1.0 2.5\n")
    return folder


def test_a_folder_of_thumos_texts_is_the_annotations(tmp_path):
    folder = tmp_path / "thumos"
    thumos_texts(folder / "annotation")
    (folder / "notes").mkdir()
    (folder / "notes" / "first_val.txt").write_text("Dear user,\n")
    _, told = init_dataset(folder)
    assert any("All classes are of THUMOS14" in sentence for sentence in told)
    card = open_dataset(str(folder)).card
    assert (card.annotations, card.protocol) == ("annotation", "thumos14")
    assert card.splits == {"training": "validation", "validation": "test"}
    (folder / "dataset.toml").unlink()
    init_dataset(folder, protocol="activitynet")
    assert open_dataset(str(folder)).protocol == "activitynet"
    (folder / "dataset.toml").unlink()
    thumos_texts(folder / "more")
    with one_sentence(folder, "annotation, more", "--annotations", "tspbench data import"):
        init_dataset(folder)
    (folder / "more" / "BaseballPitch_val.txt").write_text("video 1\n")
    (folder / "annotation").rename(tmp_path / "annotation")
    with one_sentence("BaseballPitch_val.txt, line 1"):
        init_dataset(folder)


def test_of_a_single_video_none_is_for_validation(tmp_path):
    folder = folder_of(tmp_path, videos=("a",))
    _, told = init_dataset(folder)
    assert any("no subset for validation" in sentence for sentence in told)
    assert not any("quarter" in sentence for sentence in told)


def test_a_card_stays(tmp_path):
    folder = folder_of(tmp_path)
    init_dataset(folder)
    before = (folder / "dataset.toml").read_bytes()
    with one_sentence(folder / "dataset.toml", "there already"):
        init_dataset(folder)
    assert (folder / "dataset.toml").read_bytes() == before


def test_one_annotation_file_is_meant(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "notes.json").write_text("[1, 2]")
    (folder / "captions.json").write_text('{"a": {"timestamps": [], "sentences": []}}')
    (folder / "sizes.csv").write_text("filename,bytes\na.mp4,3\n")
    (folder / ".hidden.csv").write_text(HEAD)
    init_dataset(folder)
    assert open_dataset(str(folder)).card.annotations == "labels.csv"
    (folder / "dataset.toml").unlink()
    (folder / "more.json").write_text('{"database": {}}')
    with one_sentence(folder, "labels.csv, more.json", "--annotations"):
        init_dataset(folder)


def test_no_annotation_file(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "labels.csv").unlink()
    with one_sentence(folder, "found none", "video, start, end, label"):
        init_dataset(folder)
    (folder / "labels.csv").write_text("clip,begin,end,class\na,0,1,x\n")
    with one_sentence("labels.csv, line 1", "'video'"):  # the only table may well be the one that is meant
        init_dataset(folder)
    with one_sentence(folder / "nothing", "is not a folder"):
        init_dataset(folder / "nothing")
    with one_sentence("did you mean 'thumos14'"):
        init_dataset(folder, protocol="thumos")


def test_ground_truth_of_tsp_beside_annotations_is_named(tmp_path):
    folder = folder_of(tmp_path)
    for name in ("my_train.csv", "my_valid.csv", "more.csv"):
        (folder / name).write_text(f"{TSP_HEAD}a,0,1,x,9,a.mp4,30,270,Action\n")
    _, told = init_dataset(folder)
    assert open_dataset(str(folder)).card.segments == {"training": "my_train.csv", "validation": "my_valid.csv"}
    assert any(sentence.startswith(f"{folder / 'more.csv'} is ground truth of TSP") for sentence in told)
    (folder / "dataset.toml").unlink()
    (folder / "labels.csv").unlink()
    with one_sentence("ground truth of TSP alone (more.csv)", "tspbench data import"):
        init_dataset(folder)


def test_subsets_that_say_nothing(tmp_path):
    folder = folder_of(tmp_path, table="video,start,end,label,split\na,0,1,x,one\nb,0,1,x,two\n")
    with one_sentence("labels.csv", "'one', 'two'", "[splits]"):
        init_dataset(folder)


def test_nothing_to_score_on_is_said(tmp_path):
    folder = folder_of(tmp_path, table="video,start,end,label,split\na,0,1,x,train\nb,0,1,x,train\n")
    _, told = init_dataset(folder)
    assert any("no subset for validation" in sentence for sentence in told)
    assert open_dataset(str(folder)).card.splits == {"training": "training"}


@pytest.mark.parametrize(
    ("subsets", "training", "validation"),
    [
        (["training", "validation", "testing"], "training", "validation"),
        (["Train", "val"], "Train", "val"),
        (["train", "test"], "train", "test"),
        (["validation", "test"], "validation", "test"),  # THUMOS14
        (["training", "other"], "training", None),
        (["validation"], None, None),
        (["test"], None, None),
        (["one", "two"], None, None),
    ],
)
def test_roles(subsets, training, validation):
    roles = split_roles(subsets)
    assert (roles.get("training"), roles.get("validation")) == (training, validation)


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("train_tsp_groundtruth.csv.gz", "training"),
        ("val_1.json", "validation"),
        ("valid_tsp_groundtruth.csv", "validation"),
        ("TEST-set.csv", "testing"),
        ("trains.csv", None),
        ("latest.csv", None),
    ],
)
def test_what_a_files_name_says(tmp_path, name, subset):
    assert subset_in_name(tmp_path / "train" / name) == subset
