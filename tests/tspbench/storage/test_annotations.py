import gc
import gzip
import json
import re

import numpy as np
import pytest

from tspbench.errors import UserError
from tspbench.storage.annotations import read_annotations, read_labels

DATABASE = {
    "v2": {
        "subset": "training",
        "duration": 12.5,
        "url": "ignored",
        "annotations": [{"segment": [1, 2.5], "label": "run"}, {"segment": [4, 4], "label": "jump"}],
    },
    "v1": {"subset": "training", "annotations": []},
    "v3": {"subset": "validation", "duration": None, "annotations": [{"segment": [0, 9], "label": "swim"}]},
    "v4": {"subset": "testing", "annotations": []},
}


def written(folder, content, name="annotations.json"):
    """Write ``content``, as JSON unless it is bytes."""
    path = folder / name
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def with_annotation(annotation):
    return {"v": {"subset": "training", "annotations": [{"segment": [0, 1], "label": "run"}, annotation]}}


@pytest.mark.parametrize("name", ["annotations.json", "annotations.json.gz"])
def test_a_file_in_file_order(tmp_path, name):
    annotations = read_annotations(written(tmp_path, {"version": "1.3", "database": DATABASE}, name))
    assert [video.name for video in annotations.videos] == ["v2", "v1", "v3", "v4"]
    assert [video.duration_seconds for video in annotations.videos] == [12.5, None, None, None]
    assert annotations.labels == ("jump", "run", "swim")
    first, second = annotations.subset("training")
    assert (first.name, first.subset, first.labels) == ("v2", "training", ("run", "jump"))
    assert first.segments.tolist() == [[1.0, 2.5], [4.0, 4.0]]
    assert second.segments.shape == (0, 2)


def test_ground_truth_of_a_subset(tmp_path):
    ground_truth = read_annotations(written(tmp_path, {"database": DATABASE})).ground_truth("training")
    assert ground_truth.videos == ("v2", "v1")
    assert ground_truth.labels == ("jump", "run", "swim")
    assert ground_truth.video.tolist() == [0, 0]
    assert ground_truth.start.tolist() == [1.0, 4.0]
    assert ground_truth.end.tolist() == [2.5, 4.0]
    assert ground_truth.label.tolist() == [1, 0]


def test_a_given_list_of_labels_sets_their_indices(tmp_path):
    ground_truth = read_annotations(written(tmp_path, {"database": DATABASE})).ground_truth(
        "training", ("run", "walk", "jump")
    )
    assert ground_truth.labels == ("run", "walk", "jump")
    assert ground_truth.label.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("subset", "labels", "message"),
    [
        (
            "trainign",
            None,
            "'trainign' is not a known subset of PATH (did you mean 'training'?); known are testing, training, "
            "validation.",
        ),
        (
            "training",
            ("run", "jumping"),
            "PATH, video 'v2', annotation 2: expected a label of the given list, found 'jump' (did you mean "
            "'jumping'?); correct it or add it to the list.",
        ),
        (
            "testing",
            None,
            "PATH: expected annotated segments in subset 'testing', found none in 1 video(s); choose another "
            "subset or a file that annotates this one.",
        ),
    ],
)
def test_mistakes_about_a_subset(tmp_path, subset, labels, message):
    path = written(tmp_path, {"database": DATABASE})
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('PATH', str(path)))}$"):
        read_annotations(path).ground_truth(subset, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"{database",
            "PATH: expected JSON, found something else at line 1 column 2; give the annotation file as JSON.",
        ),
        (
            {"results": {}},
            "PATH: expected an object {\"database\": {video: …}}, found {'results': {}}; give an ActivityNet "
            "annotation file.",
        ),
        (
            {"database": ["v"]},
            "PATH: expected an object {\"database\": {video: …}}, found ['v']; give an ActivityNet annotation file.",
        ),
        (
            [1],
            'PATH: expected an object {"database": {video: …}}, found [1]; give an ActivityNet annotation file.',
        ),
        (
            {"database": {"v": 3}},
            'PATH, video \'v\': expected an object with "subset" and "annotations", found 3; mend it.',
        ),
        (
            {"database": {"v": {"annotations": []}}},
            'PATH, video \'v\': expected the name of a "subset", found nothing; name one, such as "test".',
        ),
        (
            {"database": {"v": {"subset": "test"}}},
            "PATH, video 'v': expected a list of \"annotations\", found nothing; give [] if there are none.",
        ),
        (
            {"database": {"v": {"subset": "test", "annotations": [], "duration": "9 s"}}},
            "PATH, video 'v': expected a \"duration\" in seconds, found '9 s'; correct it or leave it out.",
        ),
        (
            {"database": {"v": {"subset": "test", "annotations": [], "duration": -1}}},
            "PATH, video 'v': expected a \"duration\" in seconds, found -1; correct it or leave it out.",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('PATH', str(path)))}$"):
        read_annotations(path)


TWO_NUMBERS = 'a "segment" of two finite numbers [start, end] in seconds'


@pytest.mark.parametrize(
    ("annotation", "expected", "found"),
    [
        ("run", 'an object with "segment" and "label"', "'run'"),
        ({"label": "run"}, TWO_NUMBERS, "nothing"),
        ({"label": "run", "segment": [1]}, TWO_NUMBERS, "[1]"),
        ({"label": "run", "segment": [1, "2"]}, TWO_NUMBERS, "[1, '2']"),
        ({"label": "run", "segment": [False, 2]}, TWO_NUMBERS, "[False, 2]"),
        ({"label": "run", "segment": [1, float("nan")]}, TWO_NUMBERS, "[1, nan]"),
        ({"label": "run", "segment": [1, float("inf")]}, TWO_NUMBERS, "[1, inf]"),
        (
            {"label": "run", "segment": [5, 3.5]},
            'a "segment" [start, end] that does not end before it starts',
            "[5, 3.5]",
        ),
        ({"segment": [1, 2]}, 'the name of a "label"', "nothing"),
        ({"label": 7, "segment": [1, 2]}, 'the name of a "label"', "7"),
    ],
)
def test_mistakes_in_an_annotation(tmp_path, annotation, expected, found):
    path = written(tmp_path, {"database": with_annotation(annotation)})
    message = f"{path}, video 'v', annotation 2: expected {expected}, found {found}; correct or remove this annotation."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_annotations(path)


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(
        UserError, match=f"^{re.escape(f'{path} does not exist; give the path of the annotation file.')}$"
    ):
        read_annotations(path)


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} cannot be read (Is a directory); give the path of")):
        read_annotations(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:30] + b"\xff" * 9 + data[39:]])
def test_damaged_gzip_data(tmp_path, damage):
    path = tmp_path / "annotations.json.gz"
    path.write_bytes(damage(gzip.compress(np.random.default_rng(0).bytes(500))))
    message = f"{path}: expected whole gzip data, found it cut off or damaged; copy the file again."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("name", "content"), [("labels.json", b'["run", "long jump"]'), ("labels.txt", b"run\n\nlong jump \n")]
)
def test_a_list_of_labels(tmp_path, name, content):
    assert read_labels(written(tmp_path, content, name)) == ("run", "long jump")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", b"{}", "PATH: expected a list of labels, found {}; give a JSON list of strings."),
        (
            "labels.json",
            b'["run", 3]',
            "PATH: expected a list of labels, found ['run', 3]; give a JSON list of strings.",
        ),
        ("labels.txt", b"\n", "PATH: expected a list of labels, found []; give a JSON list of strings."),
        ("labels.txt", b"run\nrun\n", "PATH: expected each label once, found 'run' twice; remove one."),
    ],
)
def test_mistakes_in_a_list_of_labels(tmp_path, name, content, message):
    path = written(tmp_path, content, name)
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('PATH', str(path)))}$"):
        read_labels(path)


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_garbage_collection_as_it_was(tmp_path, enabled):
    (tmp_path / "a.json").write_text('{"database": {}}')
    (gc.enable if enabled else gc.disable)()
    try:
        read_annotations(tmp_path / "a.json")
        assert gc.isenabled() is enabled
        with pytest.raises(UserError):
            read_annotations(tmp_path / "nowhere.json")
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
