"""Parity with the official ActivityNet proposal evaluator on real annotations, as stored numbers."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from evaluation import PROPOSAL_PROTOCOLS, GroundTruth, Predictions, proposals
from tests.evaluation.helpers import shared
from tspbench.storage.annotations import read_annotations
from tspbench.storage.predictions import read_predictions

ACTIVITYNET = "predictions_activitynet.json.gz"
THUMOS14 = "predictions_thumos14.json.gz"
SAMPLE = "../data/activitynet/sample_detection_prediction.json"
NAMES = ["AR@1", "AR@10", "AR@100", "AUC"]


@cache
def inputs(case: str) -> tuple[GroundTruth, Predictions]:
    ground_truth = read_annotations(shared(f"golden/{golden(case)['ground_truth']}")).ground_truth(
        golden(case)["subset"]
    )
    return ground_truth, read_predictions(shared(f"golden/{case}"), ground_truth, keep_unknown=True, labelled=False)


def golden(case: str) -> dict:
    return json.loads(shared("golden/detection_and_proposal_scores.json").read_bytes())["cases"][case]


def evaluate(case: str, protocol: str, predictions: Predictions | None = None) -> dict[str, float]:
    ground_truth, found = inputs(case)
    rules = PROPOSAL_PROTOCOLS[protocol]
    return proposals.score(proposals.statistics(ground_truth, predictions or found, rules)).metrics()


# All three were scored at tIoU 0.5:0.05:0.95 and 100 proposals a video, THUMOS14 too.
@pytest.mark.parametrize(
    ("case", "protocol"),
    [
        (ACTIVITYNET, "activitynet"),
        (THUMOS14, "activitynet"),
        (ACTIVITYNET, "activitynet-file-order"),
        (SAMPLE, "activitynet-file-order"),
    ],
)
def test_average_recall_and_area(case, protocol):
    result = evaluate(case, protocol)
    assert list(result) == NAMES
    assert result == pytest.approx({name: golden(case)[name] for name in NAMES}, abs=1e-9)


def test_the_sample_has_equal_scores_unknown_videos_and_segments_that_nothing_can_find():
    ground_truth, found = inputs(SAMPLE)
    assert len(np.unique(found.score)) == 1
    unknown = found.video >= len(ground_truth.videos)
    assert (np.count_nonzero(unknown), len(np.unique(found.video[unknown]))) == (361, 198)
    # It repeats the annotations; all that it misses are those of length zero.
    assert np.count_nonzero(ground_truth.start == ground_truth.end) == 3
    assert golden(SAMPLE)["AR@100"] == pytest.approx(1 - 3 / len(ground_truth), abs=1e-15)


def test_equal_scores_in_the_fixed_order_give_a_score_that_no_order_of_the_file_changes():
    _, found = inputs(SAMPLE)
    shuffled = np.random.default_rng(0).permutation(len(found))
    columns = {name: getattr(found, name)[shuffled] for name in ("video", "start", "end", "score", "label")}
    result = evaluate(SAMPLE, "activitynet")
    assert result["AR@1"] == pytest.approx(0.2552584670231729, abs=1e-9)
    assert result["AUC"] == pytest.approx(0.985871109282874, abs=1e-9)
    assert evaluate(SAMPLE, "activitynet", replace(found, **columns)) == result
