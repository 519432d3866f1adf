"""Equal scores in the order in which the official evaluator leaves them.

The official ActivityNet evaluators sort the scores of a class (detection) or of a video (proposals), in the order of
the file, with ``numpy.argsort`` and read the result backwards. That sort is not stable: what it makes of equal scores
follows from their places in the file and from the steps of the algorithm. Its plain form (no vector instructions, as in
every NumPy before 1.25) is restated here, so that a published score of a file with ties is met to the last bit. Another
order of the file gives another score; that is why the protocols of this project use a fixed order instead, and this one
only where they say so.
"""

from typing import Final

import numpy as np

from evaluation.compiled import compiled
from evaluation.segments import Floats, Integers

SMALL: Final = 16  # parts of at most so many elements are sorted by insertion


def file_order(score: Floats, group: Integers) -> Integers:
    """Return the indices that sort rows by group, and within a group as the official evaluators, int64 (N,).

    Args:
        score: of each row, in the order of the file, float64 (N,).
        group: label or video of each row, int64 (N,).
    """
    by_group = np.argsort(group, kind="stable")
    parts = np.split(by_group, np.flatnonzero(np.diff(group[by_group])) + 1)
    sort = compiled(_quicksort)
    return np.concatenate([rows[sort(score[rows])[::-1]] for rows in parts])


def _quicksort(values: Floats) -> Integers:  # noqa: C901 - one algorithm, and compiled as one
    """Sort indices by ``values``, rising: median of three, the larger part put aside, insertion in small parts.

    The change to heapsort beyond a depth of 2 log2(N), which real scores do not reach, is left out.
    """
    order = np.arange(len(values))
    aside = [(0, len(values) - 1)]
    while aside:
        low, high = aside.pop()
        while high - low >= SMALL:
            middle = low + (high - low) // 2
            for a, b in ((middle, low), (high, middle), (middle, low)):
                if values[order[a]] < values[order[b]]:
                    order[a], order[b] = order[b], order[a]
            pivot = values[order[middle]]
            left, right = low, high - 1
            order[middle], order[right] = order[right], order[middle]
            while True:
                left += 1
                while values[order[left]] < pivot:
                    left += 1
                right -= 1
                while pivot < values[order[right]]:
                    right -= 1
                if left >= right:
                    break
                order[left], order[right] = order[right], order[left]
            order[left], order[high - 1] = order[high - 1], order[left]
            if left - low < high - left:
                aside.append((left + 1, high))
                high = left - 1
            else:
                aside.append((low, left - 1))
                low = left + 1
        for i in range(low + 1, high + 1):
            index = order[i]
            j = i
            while j > low and values[index] < values[order[j - 1]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = index
    return order
