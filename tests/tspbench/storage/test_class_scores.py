import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import one_sentence
from tspbench.storage.class_scores import ClassScores, read_class_scores, write_class_scores


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
