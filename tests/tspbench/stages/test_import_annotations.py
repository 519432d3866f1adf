"""Annotation files as they are published become a data set folder."""

import gzip
import json

import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import names, one_sentence
from tspbench.datasets import open_dataset
from tspbench.stages.import_annotations import import_annotations
from tspbench.stages.lint import kept_report
from tspbench.storage.recipes import read_toml

TSP_HEAD = "video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label\n"
CAPTIONS = {"v_a": {"duration": 9.0, "timestamps": [[0, 4]], "sentences": ["One."]}}


def table(path, *videos, label="Jump"):
    """Write ground truth of TSP: an action from 1 to 3 s in videos of 9 s, and background; a "-" has no action."""
    rows = [f"{v},1.0,3.0,{label},9.0,{v}.mp4,30.0,270,Action" for v in videos if not v.startswith("-")]
    rows += [f"{v.strip('-')},3.0,9.0,,9.0,{v.strip('-')}.mp4,30.0,270,No action" for v in videos]
    path.write_text(TSP_HEAD + "\n".join(rows) + "\n")
    return str(path)


def activitynet(path, subsets, **entry):
    """Write ActivityNet JSON of video → subset."""
    annotations = [{"segment": [2.0, 4.0], "label": "Run"}]
    content = {name: {"subset": subset, "annotations": annotations, **entry} for name, subset in subsets.items()}
    path.write_text(json.dumps({"version": "mine", "database": content}))
    return str(path)


def described(folder):
    return {
        video.name: (video.subset, video.duration_seconds, video.segments.tolist(), video.labels)
        for video in open_dataset(str(folder)).read().videos
    }


def test_ground_truth_of_tsp_alone(tmp_path):
    sources = [table(tmp_path / "x.csv", "a", "-b"), table(tmp_path / "y.csv", "c")]
    told = import_annotations(sources, tmp_path / "out")
    assert told[:2] == [f"{sources[0]} is taken for training.", f"{sources[1]} is taken for validation."]
    assert described(tmp_path / "out") == {
        "a": ("training", 9.0, [[1.0, 3.0]], ("Jump",)),
        "b": ("training", 9.0, [], ()),
        "c": ("validation", 9.0, [[1.0, 3.0]], ("Jump",)),
    }
    assert read_toml(tmp_path / "out" / "dataset.toml") == {
        "name": "out",
        "annotations": "annotations.json",
        "videos": "videos",
        "protocol": "activitynet",
        "splits": {"training": "training", "validation": "validation"},
        "segments": {"training": "x.csv", "validation": "y.csv"},
    }
    assert (tmp_path / "out" / "x.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()


@pytest.mark.parametrize(
    ("sources", "training", "validation"),
    [
        (["one.csv", "two.csv"], "one.csv", "two.csv"),  # by order
        (["validation=one.csv", "training=two.csv"], "two.csv", "one.csv"),  # by the user's word
        (["valid.csv", "train.csv"], "train.csv", "valid.csv"),  # by the names
        (["test.csv", "valid.csv"], "valid.csv", "test.csv"),  # as THUMOS14
        (["test=train.csv", "validation=valid.csv"], "valid.csv", "train.csv"),
    ],
)
def test_what_a_table_is_for(tmp_path, monkeypatch, sources, training, validation):
    monkeypatch.chdir(tmp_path)
    for source in sources:
        name = source.rpartition("=")[2]
        table(tmp_path / name, f"video of {name}")
    import_annotations(sources, tmp_path / "out")
    dataset = open_dataset("out")
    assert dataset.card.segments == {"training": training, "validation": validation}
    for role, name in dataset.card.segments.items():
        (video,) = dataset.read().subset(dataset.subset(role))
        assert video.name == f"video of {name}"


def test_three_tables_want_a_word(tmp_path):
    sources = [table(tmp_path / f"{name}.csv", name) for name in "abc"]
    with one_sentence(sources[2], "beside them", f"training={sources[2]}"):
        import_annotations(sources, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.toml").exists()
    with one_sentence("b.csv, video 'a'", "another ground truth file"):
        import_annotations([sources[0], table(tmp_path / "b.csv", "a")], tmp_path / "out")


def test_annotations_come_before_the_tables_which_add_lengths_and_videos(tmp_path):
    sources = [
        activitynet(tmp_path / "a.json", {"a": "train", "c": "test"}),
        table(tmp_path / "one.csv", "a", "b"),
        table(tmp_path / "two.csv", "c"),
    ]
    import_annotations(sources, tmp_path / "out", name="joined", protocol="thumos14-210")
    assert described(tmp_path / "out") == {
        "a": ("train", 9.0, [[2.0, 4.0]], ("Run",)),
        "b": ("train", 9.0, [[1.0, 3.0]], ("Jump",)),
        "c": ("test", 9.0, [[2.0, 4.0]], ("Run",)),
    }
    card = open_dataset(str(tmp_path / "out")).card
    assert (card.name, card.protocol) == ("joined", "thumos14-210")
    assert card.splits == {"training": "train", "validation": "test"}
    assert card.segments == {"training": "one.csv", "validation": "two.csv"}


def test_a_length_that_is_annotated_stays(tmp_path):
    source = activitynet(tmp_path / "a.json", {"a": "training"}, duration=8.5)
    import_annotations([source, table(tmp_path / "one.csv", "a")], tmp_path / "out")
    assert described(tmp_path / "out")["a"][1] == 8.5


def test_a_single_activitynet_file_is_copied(tmp_path):
    source = activitynet(tmp_path / "a.json", {"a": "training", "b": "validation"}, url="https://example.org")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    for number, path in enumerate((source, f"{source}.gz")):
        folder = tmp_path / f"out{number}"
        import_annotations([path], folder)
        assert (folder / "annotations.json").read_bytes() == (tmp_path / "a.json").read_bytes()
        assert names(folder) == ["annotations.json", "dataset.toml"]


def test_thumos_texts_keep_what_is_ambiguous(tmp_path):
    for part, short in (("validation", "val"), ("test", "test")):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"Diving_{short}.txt").write_text(f"video_{part}_0000001 1.0 2.5\n")
        (tmp_path / part / f"Ambiguous_{short}.txt").write_text(f"video_{part}_0000001 7 8\n")
    told = import_annotations([str(tmp_path / "test"), str(tmp_path / "validation")], tmp_path / "out")
    assert described(tmp_path / "out") == {
        f"video_{part}_0000001": (part, None, [[7.0, 8.0], [1.0, 2.5]], ("Ambiguous", "Diving"))
        for part in ("validation", "test")
    }
    dataset = open_dataset(str(tmp_path / "out"))
    assert (dataset.protocol, dataset.card.splits) == ("thumos14", {"training": "validation", "validation": "test"})
    assert "2 videos, 1 class;" in told[0]
    assert "1 with 1 action for training (subset 'validation')" in told[0]


def test_captions(tmp_path):
    for name in ("val_1.json", "val_2.json", "train.json"):
        (tmp_path / name).write_text(json.dumps(CAPTIONS))
    sources = [str(tmp_path / name) for name in ("val_1.json", "val_2.json", "train.json")]
    import_annotations(sources, tmp_path / "out")
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.card.annotations is None
    assert dataset.captions("training") == (tmp_path / "out" / "train.json",)
    assert dataset.captions("validation") == (tmp_path / "out" / "val_1.json", tmp_path / "out" / "val_2.json")
    import_annotations([f"validation={sources[2]}"], tmp_path / "other")
    assert open_dataset(str(tmp_path / "other")).card.captions == {"validation": ["train.json"]}


def test_the_users_own_table_and_videos(tmp_path):
    (tmp_path / "labels.csv").write_text("video,start,end,label,split\na,0,1,x,train\nb,0,1,x,val\n")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    told = import_annotations([str(tmp_path / "labels.csv")], tmp_path / "out", videos=tmp_path / "clips")
    assert any(sentence.startswith("1 of 2 annotated videos have a file") for sentence in told)
    assert sorted(open_dataset(str(tmp_path / "out")).video_files()) == ["a"]
    assert described(tmp_path / "out")["b"] == ("validation", None, [[0.0, 1.0]], ("x",))


def test_an_import_that_broke_off_is_done_again(tmp_path):
    sources = [table(tmp_path / "x.csv", "a"), table(tmp_path / "y.csv", "c")]
    import_annotations(sources, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "dataset.toml").unlink()
    (tmp_path / "out" / "y.csv").unlink()
    import_annotations(sources, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    with one_sentence("dataset.toml", "there already"):
        import_annotations(sources, tmp_path / "out")


@pytest.mark.parametrize("name", ["annotations.json", "x.csv"])
def test_files_of_others_stay(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"mine": 1}')
    with one_sentence(tmp_path / "out" / name, "there already"):
        import_annotations([table(tmp_path / "x.csv", "a"), table(tmp_path / "y.csv", "b")], tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == '{"mine": 1}'
    assert not (tmp_path / "out" / "dataset.toml").exists()


def test_a_folder_may_hold_its_sources(tmp_path):
    source = activitynet(tmp_path / "annotations.json", {"a": "training"})
    before = (tmp_path / "annotations.json").read_bytes()
    import_annotations([source], tmp_path)
    assert (tmp_path / "annotations.json").read_bytes() == before
    assert names(tmp_path) == ["annotations.json", "dataset.toml"]


def test_mistakes(tmp_path):
    with one_sentence("Expected annotation files"):
        import_annotations([], tmp_path / "out")
    with one_sentence("nothing.json does not exist"):
        import_annotations([str(tmp_path / "nothing.json")], tmp_path / "out")
    (tmp_path / "results.json").write_text('{"results": {"a": []}}')
    with one_sentence("results.json", "found neither"):
        import_annotations([str(tmp_path / "results.json")], tmp_path / "out")
    source = activitynet(tmp_path / "a.json", {"a": "fold1"})
    with one_sentence("a.json", "says itself", "without training="):
        import_annotations([f"training={source}"], tmp_path / "out")
    with one_sentence("a.json", "'fold1'", "[splits]"):
        import_annotations([source], tmp_path / "out")
    with one_sentence("known protocol"):
        import_annotations([source], tmp_path / "out", protocol="thumos")
    (tmp_path / "sub").mkdir()
    tables = [table(tmp_path / "x.csv", "a"), table(tmp_path / "sub" / "x.csv", "b")]
    with one_sentence("sub/x.csv", "different names"):
        import_annotations(tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


REAL = "thumos14/{}_tsp_groundtruth.csv.gz"


@pytest.mark.parametrize(
    ("sources", "protocol", "expected"),
    [
        # FACTS 1.3: videos, actions, and those that a clip of 16 frames at 15 a second fits into.
        (
            ["activitynet/train_tsp_groundtruth.csv.gz", "activitynet/valid_tsp_groundtruth.csv.gz"],
            "activitynet",
            [(10_024, 15_410, 15_231), (4_926, 7_654, 7_558)],
        ),
        ([REAL.format("valid"), REAL.format("test")], "thumos14", [(200, 3_007, 2_617), (212, 3_358, 3_018)]),
        (
            ["thumos14/test_groundtruth_with_ambiguous.csv", REAL.format("test"), REAL.format("valid")],
            "thumos14",
            [(200, 3_007, 2_617), (213, 3_358, 3_018)],
        ),
    ],
    ids=["activitynet", "thumos14", "thumos14 with Ambiguous"],
)
def test_the_published_files(tmp_path, sources, protocol, expected):
    import_annotations([str(shared(f"data/{source}")) for source in sources], tmp_path / "out")
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.protocol == protocol
    assert sorted(dataset.card.segments) == ["training", "validation"]
    assert [(each.videos, each.actions, each.kept) for each in kept_report(dataset, {})] == expected


def test_the_published_annotations_and_captions(tmp_path):
    sources = ["activitynet/annotations_19228.json", "captions/train_800.json", "captions/val_1_no_missings.json"]
    paths = [shared(f"data/{source}") for source in sources]
    told = import_annotations([str(path) for path in paths], tmp_path / "out")
    assert (tmp_path / "out" / "annotations.json").read_bytes() == paths[0].read_bytes()
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.card.captions == {"training": ["train_800.json"], "validation": ["val_1_no_missings.json"]}
    assert (
        f"{tmp_path / 'out' / 'annotations.json'}: 19,228 videos, 200 classes; videos: 9,649 with 14,859 actions for "
        "training, 4,728 with 7,293 actions for validation."
    ) in told
