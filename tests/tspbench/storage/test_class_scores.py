import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import one_sentence
from tspbench.storage.class_scores import ClassScores, read_class_scores, write_class_scores
from tspbench.storage.thumos import read_thumos_csv


@pytest.fixture
def scores():
    return ClassScores(("run", "jump", "swim"), {"v1": np.array([0.5, 0.25, 0.25]), "v2": np.array([0.0, 1.0, 0.1])})


def test_scores_come_back(tmp_path, scores):
    write_class_scores(tmp_path / "s.json", scores)
    back = read_class_scores(tmp_path / "s.json")
    assert back.labels == scores.labels
    assert back.scores.keys() == {"v1", "v2"}
    for video in ("v1", "v2"):
        assert_array_equal(back.scores[video], scores.scores[video])


def test_the_format_is_that_of_the_challenge_classifier(tmp_path, scores):
    write_class_scores(tmp_path / "s.json", scores)
    content = json.loads((tmp_path / "s.json").read_text())
    assert content == {
        "class": ["run", "jump", "swim"],
        "results": {"v1": [0.5, 0.25, 0.25], "v2": [0.0, 1.0, 0.1]},
    }


def test_scores_are_given_in_the_order_that_is_asked_for(scores):
    assert_array_equal(scores.of("v2", ["swim", "run"]), [0.1, 0.0])


def test_a_missing_class_or_video_is_one_sentence(scores):
    with one_sentence("class", "'fly'", "2 such"):
        scores.of("v1", ["run", "fly", "dive"])
    with one_sentence("video", "'v3'"):
        scores.of("v3", ["run"])


@pytest.mark.parametrize(
    "values", [[0.5], [0.5, 0.5, 0.5, 0.5], [0.1, -0.1, 0.5], [0.1, None, 0.5], ["a", "b", "c"], 3, {}, [[1, 2, 3]]]
)
def test_scores_that_do_not_fit_name_their_video(tmp_path, values):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"class": ["a", "b", "c"], "results": {"good": [1, 2, 3], "bad": values}}))
    with one_sentence(path, "'bad'", "expected 3 finite scores"):
        read_class_scores(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"class": ["a"]}', '{"class": 3, "results": {}}', "NaN", "null"])
def test_another_file_is_one_sentence(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with one_sentence(tmp_path / "s.json", "not a file of class scores", '"results"'):
        read_class_scores(tmp_path / "s.json")


def test_a_missing_file_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / "s.json", "cannot be read"):
        read_class_scores(tmp_path / "s.json")


UNTRIMMEDNET = Path(__file__).resolve().parents[4] / "shared" / "data" / "thumos14" / "untrimmednet_test_scores.npy"


def test_untrimmednet_scores_by_hand(tmp_path):
    """Video 4 is row 3; LongJump is class 51 of 101, hence column 50."""
    array = np.zeros((1574, 101), dtype=np.float32)
    array[3, 50], array[3, 6], array[1573, 96] = 0.75, 0.25, 1.0
    np.save(tmp_path / "s.npy", array)
    scores = read_class_scores(tmp_path / "s.npy")
    assert len(scores.labels) == 20
    assert_array_equal(scores.of("video_test_0000004", ["LongJump", "BaseballPitch", "Shotput"]), [0.75, 0.25, 0.0])
    assert_array_equal(scores.of("video_test_0001574", ["VolleyballSpiking"]), [1.0])


def test_untrimmednet_scores_know_most_videos():
    if not UNTRIMMEDNET.is_file():
        pytest.skip(f"no UntrimmedNet scores: {UNTRIMMEDNET} is absent")
    scores = read_class_scores(UNTRIMMEDNET)
    csv = UNTRIMMEDNET.with_name("test_groundtruth_with_ambiguous.csv")
    right = []
    for video in read_thumos_csv(csv).videos:
        labels = set(video.labels) - {"Ambiguous"}
        if labels:
            right.append(scores.labels[int(scores.scores[video.name].argmax())] in labels)
    assert np.mean(right) > 0.85


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((213, 101)), "1574 videos by 101 classes"),
        (np.zeros((1574, 101), dtype=np.int64), "int64"),
        (np.full((1574, 101), np.nan), "row 0"),
        (np.full((1574, 101), -1.0), "row 0"),
    ],
)
def test_another_array_is_one_sentence(tmp_path, array, part):
    np.save(tmp_path / "s.npy", array)
    with one_sentence(tmp_path / "s.npy", part):
        read_class_scores(tmp_path / "s.npy")


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_array_is_one_sentence(tmp_path, content):
    (tmp_path / "s.npy").write_bytes(content)
    with one_sentence(tmp_path / "s.npy", "not a readable array"):
        read_class_scores(tmp_path / "s.npy")


def test_what_is_missing_is_counted_before_any_work(tmp_path, scores):
    scores.check(tmp_path / "s.json", ["v1", "v2"], ["run", "swim"])
    with one_sentence(tmp_path / "s.json", "2 are missing", "'v3'"):
        scores.check(tmp_path / "s.json", ["v1", "v3", "v4"], ["run"])
    with one_sentence(tmp_path / "s.json", "class", "'fly'"):
        scores.check(tmp_path / "s.json", ["v1"], ["run", "fly"])
