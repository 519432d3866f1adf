from fractions import Fraction

import numpy as np
import pytest

from evaluation import temporal_iou


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 10), (0, 10), Fraction(1)),
        ((0, 10), (5, 15), Fraction(5, 15)),
        ((0, 10), (2, 4), Fraction(2, 10)),
        ((0, 4), (3, 5), Fraction(1, 5)),
        ((0, 5), (5, 10), Fraction(0)),  # [start, end): touching segments share nothing
        ((0, 5), (7, 10), Fraction(0)),
        ((3, 3), (0, 10), Fraction(0)),
        ((3, 3), (3, 3), Fraction(1)),  # 0 / 0, the same instant
        ((3, 3), (4, 4), Fraction(0)),  # 0 / 0, another instant
    ],
)
def test_by_hand(first, second, expected):
    a, b = np.array([first], dtype=float), np.array([second], dtype=float)
    assert temporal_iou(a, b) == temporal_iou(b, a) == float(expected)


def test_every_pair():
    table = temporal_iou(np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([[0.0, 2.0], [0.0, 4.0], [9.0, 9.0]]))
    assert table.tolist() == [[1.0, 0.5, 0.0], [1 / 3, 0.5, 0.0]]


def test_nothing_against_something():
    assert temporal_iou(np.zeros((0, 2)), np.zeros((3, 2))).shape == (0, 3)


def test_a_segment_with_itself_is_exactly_one():
    starts = np.random.default_rng(0).uniform(0, 1e4, 1000)
    segments = np.stack([starts, starts + np.random.default_rng(1).uniform(1e-6, 1e3, 1000)], axis=1)
    assert np.all(np.diag(temporal_iou(segments, segments)) == 1.0)


def test_it_says_what_it_received():
    with pytest.raises(ValueError, match=r"^second must be of shape \(·, 2\), received \(3,\)\.$"):
        temporal_iou(np.zeros((1, 2)), np.zeros(3))
