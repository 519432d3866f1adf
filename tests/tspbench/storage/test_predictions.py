import gzip
import json
import re

import numpy as np
import pytest

from tests.evaluation.helpers import predicted, truth
from tspbench.errors import UserError
from tspbench.storage.predictions import read_predictions, write_predictions

TRUTH = truth([("v1", "run", 0.0, 1.0), ("v2", "long jump", 2.0, 3.0)], labels=("run", "long jump", "swim"))
GOOD = {"label": "run", "score": 0.5, "segment": [0, 1.5]}


def written(folder, content, name="predictions.json"):
    path = folder / name
    content = json.dumps(content).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["predictions.json", "predictions.json.gz"])
def test_a_file_is_aligned_to_the_ground_truth(tmp_path, name):
    results = {
        "x": [{**GOOD, "label": "swim"}],
        "v2": [{"label": "long jump", "score": 1, "segment": [2.0, 2.0]}, GOOD],
        "v1": [],
    }
    predictions = read_predictions(written(tmp_path, {"results": results}, name), TRUTH, keep_unknown=True)
    assert predictions.videos == ("v1", "v2", "x")
    assert predictions.labels == TRUTH.labels
    assert predictions.video.tolist() == [2, 1, 1]
    assert predictions.label.tolist() == [2, 1, 0]
    assert predictions.score.tolist() == [0.5, 1.0, 0.5]
    assert predictions.start.tolist() == [0.0, 2.0, 0.0]
    assert predictions.end.tolist() == [1.5, 2.0, 1.5]
    assert predictions.aligned_to(TRUTH) is predictions


@pytest.mark.parametrize("name", ["deep/predictions.json", "predictions.json.gz"])
def test_what_is_written_is_read_to_the_last_bit(tmp_path, name):
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 100, (50, 2)), axis=1)
    rows = [("v2" if row % 2 else "v1", "run", *times[row], rng.normal()) for row in range(50)]
    rows.sort(key=lambda row: row[0])
    predictions = predicted(rows, videos=("v1", "v2", "unused")).aligned_to(TRUTH)
    write_predictions(tmp_path / name, predictions)
    again = read_predictions(tmp_path / name, TRUTH)
    for column in ("video", "start", "end", "score", "label"):
        np.testing.assert_array_equal(getattr(again, column), getattr(predictions, column))
    assert again.videos == ("v1", "v2")


def test_a_written_file_has_the_official_keys(tmp_path):
    write_predictions(tmp_path / "p.json", predicted([("v1", "run", 0.0, 1.5, 0.5)]))
    assert json.loads((tmp_path / "p.json").read_bytes()) == {
        "version": "VERSION 1.3",
        "results": {"v1": [GOOD]},
        "external_data": {},
    }


def test_equal_predictions_give_equal_files(tmp_path):
    predictions = predicted([("v1", "run", 0.0, 1.5, 0.5)])
    for name in ("a.json.gz", "b.json.gz"):
        write_predictions(tmp_path / name, predictions)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_class_agnostic_predictions_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="a submission needs labels, received class-agnostic predictions"):
        write_predictions(tmp_path / "p.json", predicted([("v1", "", 0.0, 1.0, 0.5)]))
    assert not (tmp_path / "p.json").exists()


TWO_NUMBERS = 'a "segment" of two finite numbers [start, end] in seconds'
A_SCORE = 'a "score" that is a finite number'


@pytest.mark.parametrize(
    ("row", "expected", "found"),
    [
        ("run", 'an object with "label", "score" and "segment"', "'run'"),
        ({"label": "run", "segment": [0, 1]}, 'the key "score"', "{'label': 'run', 'segment': [0, 1]}"),
        ({}, 'the key "label"', "{}"),
        (
            {**GOOD, "label": "long jumps"},
            "one of the 3 labels of the ground truth",
            "'long jumps' (did you mean 'long jump'?)",
        ),
        ({**GOOD, "label": ["run"]}, "one of the 3 labels of the ground truth", "['run']"),
        ({**GOOD, "score": "0.5"}, A_SCORE, "'0.5'"),
        ({**GOOD, "score": True}, A_SCORE, "True"),
        ({**GOOD, "score": None}, A_SCORE, "nothing"),
        ({**GOOD, "score": float("nan")}, A_SCORE, "nan"),
        ({**GOOD, "score": float("-inf")}, A_SCORE, "-inf"),
        ({**GOOD, "segment": [3, 2]}, 'a "segment" [start, end] that does not end before it starts', "[3, 2]"),
        ({**GOOD, "segment": [3]}, TWO_NUMBERS, "[3]"),
        ({**GOOD, "segment": "12"}, TWO_NUMBERS, "'12'"),
        ({**GOOD, "segment": {"0": 1, "1": 2}}, TWO_NUMBERS, "{'0': 1, '1': 2}"),
        ({**GOOD, "segment": [0, float("nan")]}, TWO_NUMBERS, "[0, nan]"),
    ],
)
def test_mistakes_in_a_prediction(tmp_path, row, expected, found):
    path = written(tmp_path, {"results": {"v1": [GOOD], "v2": [GOOD, row]}})
    message = (
        f"{path}, video 'v2', prediction 2: expected {expected}, found {found}; correct or remove this prediction."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_predictions(path, TRUTH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"database": {}},
            "PATH: expected an object {\"results\": {video: …}}, found {'database': {}}; give an ActivityNet "
            "prediction file.",
        ),
        (
            {"results": {"v1": 3}},
            "PATH, video 'v1': expected a list of predictions, found 3; give [] if there are none.",
        ),
        (
            {"results": {"v_v1": [GOOD], "v_v2": [GOOD]}},
            "PATH: expected predictions for videos of the ground truth such as 'v1', found 2 others such as 'v_v1'; "
            "check the subset and how the videos are named.",
        ),
        (
            {"results": {}},
            "PATH: expected predictions for videos of the ground truth such as 'v1', found no video at all; check the "
            "subset and how the videos are named.",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=f"^{re.escape(message.replace('PATH', str(path)))}$"):
        read_predictions(path, TRUTH)


def test_a_video_that_the_ground_truth_lacks(tmp_path):
    path = written(tmp_path, {"results": {"v9": [GOOD], "v1": [GOOD], "v8": []}})
    message = (
        f"{path}, video 'v9': expected a video of the ground truth, found 2 video(s) that it lacks; remove them, or "
        "say with --unknown-videos whether to drop them or to count them as wrong."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_predictions(path, TRUTH)
    assert read_predictions(path, TRUTH, keep_unknown=True).videos == (*TRUTH.videos, "v9", "v8")


def test_proposals_need_no_label(tmp_path):
    row = {"score": 0.5, "segment": [0, 1]}
    path = written(tmp_path, {"results": {"v1": [row, {**row, "label": "anything"}]}})
    assert read_predictions(path, TRUTH, labelled=False).label.tolist() == [-1, -1]
    path = written(tmp_path, {"results": {"v1": [{"score": 0.5}]}})
    with pytest.raises(UserError, match='prediction 1: expected the key "segment", found '):
        read_predictions(path, TRUTH, labelled=False)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "p.json.gz"
    with pytest.raises(
        UserError, match=f"^{re.escape(f'{path} does not exist; give the path of the prediction file.')}$"
    ):
        read_predictions(path, TRUTH)
    path.write_bytes(gzip.compress(b'{"results": {}}')[:-4])
    with pytest.raises(UserError, match=re.escape(f"{path}: expected whole gzip data, found it cut off or damaged;")):
        read_predictions(path, TRUTH)
    path.write_bytes(b"label,score\n")
    with pytest.raises(UserError, match=re.escape(f"{path}: expected JSON, found something else at line 1 column 1;")):
        read_predictions(path, TRUTH)
