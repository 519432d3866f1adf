"""Parity with the official ActivityNet evaluator on real annotations, as stored numbers."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS, GroundTruth, Predictions, detection
from evaluation.segments import Booleans
from tests.evaluation import oracle
from tests.evaluation.helpers import shared
from tspbench.storage.annotations import read_annotations
from tspbench.storage.formats import read_ground_truth
from tspbench.storage.predictions import read_predictions

ACTIVITYNET = "predictions_activitynet.json.gz"
THUMOS14 = "predictions_thumos14.json.gz"
SAMPLE = "../data/activitynet/sample_detection_prediction.json"
PROTOCOL_OF = {ACTIVITYNET: "activitynet", THUMOS14: "thumos14", SAMPLE: "activitynet"}


@cache
def inputs(case: str) -> tuple[GroundTruth, Predictions]:
    annotations = read_annotations(shared(f"golden/{golden(case)['ground_truth']}"))
    ground_truth = annotations.ground_truth(golden(case)["subset"])
    return ground_truth, read_predictions(shared(f"golden/{case}"), ground_truth, keep_unknown=case == SAMPLE)


def golden(case: str) -> dict:
    return json.loads(shared("golden/detection_and_proposal_scores.json").read_bytes())["cases"][case]


def rows(segments: GroundTruth | Predictions, kept: Booleans) -> list[tuple[str, str, float, float]]:
    columns = (array[kept].tolist() for array in (segments.video, segments.label, segments.start, segments.end))
    return [(segments.videos[v], segments.labels[c], start, end) for v, c, start, end in zip(*columns, strict=True)]


def evaluate(case: str, predictions: Predictions) -> detection.DetectionResult:
    return detection.score(detection.statistics(inputs(case)[0], predictions, DETECTION_PROTOCOLS[PROTOCOL_OF[case]]))


@pytest.mark.parametrize("case", [ACTIVITYNET, THUMOS14])
def test_map_and_average_precision_of_every_class(case):
    result = evaluate(case, inputs(case)[1])
    assert result.mean_average_precision == pytest.approx(golden(case)["mAP"], abs=1e-9)
    assert result.average_map == pytest.approx(golden(case)["average_mAP"], abs=1e-9)
    per_class = json.loads(shared("golden/per_class_average_precision.json").read_bytes())["cases"][case]
    columns = [per_class["labels"][label] for label in result.labels]
    np.testing.assert_allclose(result.average_precision, np.array(per_class["ap"])[:, columns].T, rtol=0, atol=1e-9)


def test_map_of_a_file_whose_scores_are_all_equal():
    """The official score then depends on where an unstable sort leaves equals: it is met in that same order."""
    ground_truth, predictions = inputs(SAMPLE)
    assert len(np.unique(predictions.score)) == 1
    score = np.empty(len(predictions))
    for label in range(len(ground_truth.labels)):
        rows = np.flatnonzero(predictions.label == label)
        # The official evaluator reverses argsort's result, so that the last comes first.
        score[rows[oracle.order_of_equals(len(rows))]] = np.arange(len(rows))
    result = evaluate(SAMPLE, replace(predictions, score=score))
    assert result.mean_average_precision == pytest.approx(golden(SAMPLE)["mAP"], abs=1e-9)
    assert result.average_map == pytest.approx(golden(SAMPLE)["average_mAP"], abs=1e-9)


def test_file_order_protocol_meets_the_official_score_of_tied_predictions():
    ground_truth, predictions = inputs(SAMPLE)
    protocol = DETECTION_PROTOCOLS["activitynet-file-order"]
    result = detection.score(detection.statistics(ground_truth, predictions, protocol))
    assert result.mean_average_precision == pytest.approx(golden(SAMPLE)["mAP"], abs=1e-9)
    assert result.average_map == pytest.approx(golden(SAMPLE)["average_mAP"], abs=1e-9)


def test_equal_scores_are_ordered_by_the_tie_rule():
    """The score of the same file under the project's own rule, whatever the order of the file."""
    ground_truth, predictions = inputs(SAMPLE)
    shuffled = np.random.default_rng(0).permutation(len(predictions))
    columns = {name: getattr(predictions, name)[shuffled] for name in ("video", "start", "end", "score", "label")}
    result = evaluate(SAMPLE, predictions)
    assert result.average_map == pytest.approx(0.9745681705106145, abs=1e-9)
    assert evaluate(SAMPLE, replace(predictions, **columns)).average_map == result.average_map
    assert np.count_nonzero(predictions.video >= len(ground_truth.videos)) == 361


def test_the_official_thumos14_rules_on_real_annotations():
    """No score of the MATLAB code is at hand: the rules restated in ``oracle`` stand in for it, on one class."""
    ground_truth = read_ground_truth([shared("data/thumos14/test_groundtruth_with_ambiguous.csv")]).ground_truth("test")
    predictions = read_predictions(shared(f"golden/{THUMOS14}"), ground_truth)
    protocol = DETECTION_PROTOCOLS["thumos14-official"]
    result = detection.score(detection.statistics(ground_truth, predictions, protocol))
    label = ground_truth.labels.index("Billiards")
    annotated = rows(ground_truth, ground_truth.label == label)
    ambiguous = rows(ground_truth, ground_truth.label == ground_truth.labels.index("Ambiguous"))
    scores = predictions.score[predictions.label == label].tolist()
    found = [(*row, score) for row, score in zip(rows(predictions, predictions.label == label), scores, strict=True)]
    for threshold, value in zip(protocol.thresholds[::4], result.average_precision[label, ::4], strict=True):
        expected = oracle.official_thumos14_average_precision(annotated, ambiguous, found, threshold)
        assert value == pytest.approx(expected, abs=1e-12)
