"""SODA_c: how well the captions of a video tell its story in order.

Fujita et al., "SODA: Story Oriented Dense Video Captioning Evaluation Framework", ECCV 2020. Captions and references
come in the order of their starts; of the ways to pair them without crossings and without using one twice, the one with
the highest sum of temporal IoU × METEOR is taken. That sum over the number of captions is the precision, over the
number of references the recall, and SODA_c is their F-measure.

As the authors' tool has it (soda.py, its version 1.1 with --multi_reference): METEOR of each pair on its own, with the
reference in the place of the candidate and the caption in that of the reference, which changes METEOR, because it
weighs recall more than precision; a caption may end up without a reference; the reference file with the higher SODA_c
counts in each video; the mean is over videos.

Decided here:

- a video without captions scores 0 (the tool leaves it out of the mean);
- captions that start at the same time come in the order of their ends, then of their sentences (the tool: of the file);
- captions beyond the protocol's number are left out, as for the other metrics (the tool has no such number).
"""

import numpy as np

from evaluation.segments import Floats


def soda_c(iou: Floats, meteor: Floats) -> float:
    """Return SODA_c of one video against one reference file, 0 where a side is empty.

    Args:
        iou: temporal IoU of each reference and caption, both in the order of time, float64 (M, N).
        meteor: METEOR of the same pairs, float64 (M, N).
    """
    references, captions = iou.shape
    best = highest_sum(iou * meteor)
    if not best:
        return 0.0
    precision, recall = best / captions, best / references
    f_measure: float = 2.0 * precision * recall / (precision + recall)
    return f_measure


def highest_sum(values: Floats) -> float:
    """Return the highest sum of ``values``, 0 or more, (M, N), along any way that only goes down and right.

    No row and no column is used twice, and those left out count nothing.
    """
    best = np.zeros(values.shape[1] + 1)
    for row in values:
        # The best with the columns up to each one: without this row, or with it at the end of a shorter way.
        best[1:] = np.maximum(best[1:], best[:-1] + row)
        best = np.maximum.accumulate(best)
    return float(best[-1])
