import re
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.helpers import predicted, truth

TRUTH = truth([("a", "run", 1.0, 2.0), ("b", "jump", 3.0, 3.0)])
PREDICTIONS = predicted([("a", "run", 1.0, 2.0, 0.5), ("b", "", 3.0, 3.0, 0.25)])


def test_they_know_their_length():
    assert (len(TRUTH), len(PREDICTIONS)) == (2, 2)
    assert len(truth([])) == len(predicted([])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": ("a", "a")}, "GroundTruth.videos must name each entry once, received 'a' twice."),
        ({"labels": ("run", "run")}, "GroundTruth.labels must name each entry once, received 'run' twice."),
        (
            {"video": np.array([0.0, 1.0])},
            "GroundTruth.video must be int64 of shape (2,), received float64 of shape (2,).",
        ),
        ({"video": np.array([0, 2])}, "GroundTruth.video must lie in [0, 2), received 2 in row 1."),
        ({"label": np.array([-1, 0])}, "GroundTruth.label must lie in [0, 2), received -1 in row 0."),
        ({"label": np.array([0])}, "GroundTruth.label must be int64 of shape (2,), received int64 of shape (1,)."),
        (
            {"start": np.zeros((2, 1))},
            "GroundTruth.start must be float64 of shape (2,), received float64 of shape (2, 1).",
        ),
        ({"start": np.array([0.0, np.nan])}, "GroundTruth.start must be finite, received nan in row 1."),
        ({"end": np.array([np.inf, 3.0])}, "GroundTruth.end must be finite, received inf in row 0."),
        ({"end": np.array([2.0, 2.5])}, "GroundTruth must not end before it starts, received [3.0, 2.5) in row 1."),
    ],
)
def test_ground_truth_says_what_it_received(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(TRUTH, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": ("a", "a")}, "Predictions.videos must name each entry once, received 'a' twice."),
        ({"score": np.array([0.5, np.nan])}, "Predictions.score must be finite, received nan in row 1."),
        (
            {"score": np.array([0.5, 0.1], dtype=np.float32)},
            "Predictions.score must be float64 of shape (2,), received float32 of shape (2,).",
        ),
        ({"label": np.array([0, -2])}, "Predictions.label must lie in [-1, 1), received -2 in row 1."),
        ({"end": np.array([0.5, 3.0])}, "Predictions must not end before it starts, received [1.0, 0.5) in row 0."),
    ],
)
def test_predictions_say_what_they_received(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(PREDICTIONS, **change)


def test_alignment_points_into_the_names_of_the_ground_truth():
    rows = [("x", "jump", 0.0, 1.0, 0.5), ("b", "run", 1.0, 2.0, 0.25), ("a", "", 2.0, 3.0, 0.125)]
    aligned = predicted(rows).aligned_to(TRUTH)
    assert aligned.videos == ("a", "b", "x")
    assert aligned.labels == ("run", "jump")
    assert aligned.video.tolist() == [2, 1, 0]
    assert aligned.label.tolist() == [1, 0, -1]
    assert aligned.aligned_to(TRUTH) is aligned


def test_alignment_refuses_a_label_that_the_ground_truth_does_not_know():
    with pytest.raises(ValueError, match=re.escape("labels that the ground truth does not know: ['swim'].")):
        predicted([("a", "swim", 0.0, 1.0, 0.5)]).aligned_to(TRUTH)


def test_alignment_does_not_mind_an_unknown_label_that_no_prediction_has():
    aligned = predicted([("a", "run", 0.0, 1.0, 0.5)], labels=("swim", "run")).aligned_to(TRUTH)
    assert aligned.label.tolist() == [0]
