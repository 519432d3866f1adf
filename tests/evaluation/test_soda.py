"""SODA_c by hand, and against every way there is."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.soda import highest_sum, soda_c

quick = settings(max_examples=150, deadline=None)
# Eighths, whose sums are exact.
VALUES = st.integers(0, 3).flatmap(
    lambda columns: st.lists(
        st.lists(st.integers(0, 8), min_size=columns, max_size=columns), min_size=0, max_size=3
    ).map(lambda rows: np.array(rows, dtype=np.float64).reshape(len(rows), columns) / 8)
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 0], [0, 1]], 2),
        # Pairs must not cross: one of both.
        ([[0, 1], [1, 0]], 1),
        ([[0, 2], [1, 0]], 2),
        # One column does not serve two rows.
        ([[1], [1]], 1),
        ([[1, 0, 0], [0, 0, 0], [0, 1, 1]], 2),
    ],
)
def test_the_highest_sum_by_hand(values, expected):
    assert highest_sum(np.array(values, dtype=np.float64)) == expected


@quick
@given(VALUES)
def test_no_way_has_a_higher_sum(values):
    rows, columns = values.shape
    sums = [
        values[list(some_rows), list(some_columns)].sum()
        for count in range(min(rows, columns) + 1)
        for some_rows in itertools.combinations(range(rows), count)
        for some_columns in itertools.combinations(range(columns), count)
    ]
    assert highest_sum(values) == max(sums)


def test_soda_c_by_hand():
    # Best: 1 × 1/2 + 1/2 × 1/2 = 3/4, for two references and three captions.
    iou = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.25]])
    meteor = np.array([[0.5, 1.0, 1.0], [1.0, 0.5, 0.5]])
    precision, recall = Fraction(3, 4) / 3, Fraction(3, 4) / 2
    expected = 2 * precision * recall / (precision + recall)
    assert soda_c(iou, meteor) == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (2, 2)])
def test_soda_c_of_nothing(shape):
    assert soda_c(np.zeros(shape), np.ones(shape)) == 0.0
