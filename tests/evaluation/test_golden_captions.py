"""Parity with the official captioning evaluator on published captions, as stored numbers, with Java and all."""

import json

import numpy as np
import pytest

from evaluation import CAPTIONING_PROTOCOLS, captioning
from tests.evaluation.helpers import shared
from tspbench.storage.captions import read_captions, read_references

TOLERANCE = {"METEOR": 2e-5, "ROUGE_L": 1e-6, "CIDEr": 1e-6, **{f"Bleu_{n}": 1e-6 for n in (1, 2, 3, 4)}}


@pytest.fixture(scope="module")
def statistics():
    references = read_references(shared("data/captions/val_1_no_missings.json"))
    captions = read_captions(shared("data/captions/bmt_ground_truth_proposals_val_1.json"))
    return captioning.statistics([references], captions, CAPTIONING_PROTOCOLS["densevid"])


def test_every_score_at_every_threshold_is_that_of_the_official_evaluator(statistics):
    golden = json.loads(shared("golden/caption_scores_val_1.json").read_text())
    found = captioning.score(statistics).by_threshold
    assert golden["scores"].keys() == TOLERANCE.keys()
    for name, values in golden["scores"].items():
        here = found[name.replace("Bleu_", "BLEU@")]
        np.testing.assert_allclose(here, values, rtol=0, atol=TOLERANCE[name], err_msg=name)


def test_nothing_failed_and_every_caption_has_its_reference(statistics):
    assert statistics.problems == {}
    assert len(statistics.videos) == 4483
    found = captioning.score(statistics).metrics()
    # The segments are those of the ground truth.
    assert found["precision"] == found["recall"] == 1.0
    assert 0.0 < found["SODA_c"] < 1.0
