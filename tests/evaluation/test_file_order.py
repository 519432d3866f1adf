"""The official evaluator's order of equal scores."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import DETECTION_PROTOCOLS, PROPOSAL_PROTOCOLS
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


def order(scores, groups):
    return file_order(np.array(scores, dtype=float), np.array(groups, dtype=np.int64)).tolist()


def test_groups_come_one_after_the_other_and_the_last_of_equals_first():
    # Group 0 is rows 1, 3, 4 with scores 5, 5, 7; group 1 rows 0 and 2 with equal scores. Few rows sort stably, and
    # the result is read backwards: 7 first, then of the two 5 the later row.
    assert order([1, 5, 1, 5, 7], [1, 0, 1, 0, 0]) == [4, 3, 1, 2, 0]


def test_a_group_is_sorted_as_if_alone():
    # Group 3 is every other row of the file; numbers between the groups are not used.
    groups = [3, 8] * 100
    rows = [2 * place for place in order_of_equals(100)[::-1]]
    assert order([0.5, 0.25] * 100, groups)[:100] == rows


def test_no_prediction_has_an_empty_order():
    assert order([], []) == []


@pytest.mark.parametrize("table", [DETECTION_PROTOCOLS, PROPOSAL_PROTOCOLS], ids=["detection", "proposals"])
def test_protocols_differ_in_nothing_but_ties(table):
    fixed, by_file = table["activitynet"], table["activitynet-file-order"]
    assert replace(by_file, name=fixed.name, source=fixed.source, ties="fixed") == fixed
