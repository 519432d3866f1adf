"""The official evaluator's order of equal scores."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, Predictions
from evaluation.file_order import _quicksort, file_order
from tests.evaluation.oracle import order_of_equals


@given(st.integers(0, 400))
def test_equal_numbers_end_where_the_plain_quicksort_leaves_them(count):
    assert _quicksort(np.zeros(count)).tolist() == order_of_equals(count)


@given(st.lists(st.floats(0, 1, allow_nan=False), max_size=200, unique=True))
def test_distinct_numbers_are_sorted(values):
    array = np.array(values)
    assert _quicksort(array).tolist() == np.argsort(array, kind="stable").tolist()


@given(st.lists(st.integers(0, 4), max_size=300))
def test_numbers_with_ties_come_out_rising_and_complete(values):
    order = _quicksort(np.array(values, dtype=float))
    assert sorted(order.tolist()) == list(range(len(values)))
    assert [values[k] for k in order] == sorted(values)


def predictions(scores, labels):
    count = len(scores)
    return Predictions(
        video=np.zeros(count, dtype=np.int64),
        start=np.arange(count, dtype=np.float64),
        end=np.arange(count, dtype=np.float64) + 1,
        score=np.array(scores, dtype=np.float64),
        label=np.array(labels, dtype=np.int64),
        videos=("v",),
        labels=("a", "b"),
    )


def test_labels_come_one_after_the_other_and_the_last_of_equals_first():
    # Label 0 is rows 1, 3, 4 with scores 5, 5, 7; label 1 rows 0 and 2 with equal scores. Few rows sort stably, and
    # the result is read backwards: 7 first, then of the two 5 the later row.
    assert file_order(predictions([1, 5, 1, 5, 7], [1, 0, 1, 0, 0])).tolist() == [4, 3, 1, 2, 0]


def test_no_prediction_has_an_empty_order():
    assert file_order(predictions([], [])).tolist() == []


def test_protocols_differ_in_nothing_but_ties():
    fixed, by_file = DETECTION_PROTOCOLS["activitynet"], DETECTION_PROTOCOLS["activitynet-file-order"]
    assert replace(by_file, name=fixed.name, source=fixed.source, ties="fixed") == fixed
