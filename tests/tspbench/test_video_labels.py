import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import one_sentence
from tspbench.storage.class_scores import ClassScores
from tspbench.video_labels import ANY_ACTION, Labelling, label_proposals, mean_clip_probabilities


def test_every_proposal_gets_the_best_classes_by_hand():
    segments = np.array([[0.0, 1.0], [2.0, 5.0]])
    found = label_proposals(segments, np.array([0.8, 0.5]), np.array([0.1, 0.6, 0.0, 0.3]), top=2)
    assert_array_equal(found.labels, [1, 3, 1, 3])
    assert_array_equal(found.segments, [[0, 1], [0, 1], [2, 5], [2, 5]])
    assert_allclose(found.scores, [0.48, 0.24, 0.30, 0.15])


def test_equal_classes_are_taken_in_their_order():
    found = label_proposals(np.zeros((1, 2)), np.ones(1), np.array([0.2, 0.4, 0.2, 0.4, 0.4]), top=2)
    assert_array_equal(found.labels, [1, 3])


@pytest.mark.parametrize("top", [3, 9])
def test_no_more_classes_than_there_are(top):
    assert len(label_proposals(np.zeros((2, 2)), np.ones(2), np.array([0.1, 0.2, 0.3]), top).labels) == 6


def test_no_proposal_is_no_detection():
    found = label_proposals(np.empty((0, 2)), np.empty(0), np.array([0.1, 0.9]), top=2)
    assert (found.segments.shape, found.scores.shape, found.labels.shape) == ((0, 2), (0,), (0,))
    assert found.labels.dtype == np.int64


def test_mean_probabilities_by_hand():
    # Logits (ln 3, 0) and (0, ln 4): probabilities (3/4, 1/4) and (1/5, 4/5).
    rows = np.log(np.array([[3, 1, 1], [1, 4, 1]], dtype=np.float32))
    weight = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    probabilities = mean_clip_probabilities(rows, weight, np.zeros(2, dtype=np.float32))
    assert_allclose(probabilities, [(3 / 4 + 1 / 5) / 2, (1 / 4 + 4 / 5) / 2], rtol=1e-6)
    shifted = mean_clip_probabilities(rows, weight, np.log(np.array([1, 3], dtype=np.float32)))
    assert_allclose(shifted, [(1 / 2 + 1 / 13) / 2, (1 / 2 + 12 / 13) / 2], rtol=1e-6)


SEGMENTS, SCORES = np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([0.8, 0.5])


def test_labels_come_from_the_chosen_source():
    given = ClassScores(("run", "jump"), {"v": np.array([0.1, 0.6])})
    agnostic, own = np.array([-1, -1]), np.array([1, 0])
    of_video = Labelling(("jump", "run"), given, 1, "labels:x", "").label("v", SEGMENTS, SCORES, agnostic)
    assert_array_equal(of_video.labels, [0, 0])
    assert_allclose(of_video.scores, [0.48, 0.30])
    of_localizer = Labelling(("jump", "run"), None, 2, "labels:localizer", "").label("v", SEGMENTS, SCORES, own)
    assert_array_equal(of_localizer.labels, own)
    assert_array_equal(of_localizer.scores, SCORES)
    nobody = Labelling((ANY_ACTION,), None, 2, "labels:none", "")
    assert nobody.agnostic
    assert_array_equal(nobody.label("v", SEGMENTS, SCORES, agnostic).labels, [0, 0])


def test_a_video_without_class_scores_is_one_sentence():
    with one_sentence("'w'"):
        Labelling(("a",), ClassScores(("a",), {"v": np.ones(1)}), 1, "", "").label("w", SEGMENTS, SCORES, -np.ones(2))
