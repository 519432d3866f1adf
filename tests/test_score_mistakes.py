"""Bad files for `tspbench score`: one sentence with file and entry, exit code 2, whatever the task."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_cli import assert_one_sentence, run

SEGMENT = {"score": 0.5, "segment": [0.0, 1.0]}
ROWS = {
    "tal": {**SEGMENT, "label": "run"},
    "proposals": SEGMENT,
    "captioning": {"sentence": "A man runs.", "timestamp": [0.0, 1.0]},
}
ENTRY = {"tal": "prediction 2", "proposals": "prediction 2", "captioning": "caption 2"}
TIMES = {"tal": "segment", "proposals": "segment", "captioning": "timestamp"}
TASKS = list(ROWS)
SEGMENT_TASKS = TASKS[:2]


def ground_truth(folder: Path, task: str) -> Path:
    if task == "captioning":
        content: object = {"v1": {"duration": 9.0, "timestamps": [[0.0, 1.0]], "sentences": ["A man runs."]}}
    else:
        annotations = [{"segment": [0.0, 1.0], "label": "run"}]
        content = {"database": {"v1": {"subset": "validation", "duration": 9.0, "annotations": annotations}}}
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def scored(folder: Path, task: str, content: bytes | object, truth: Path | None = None):
    path = folder / "predictions.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    truth = truth or ground_truth(folder, task)
    return path, run("score", "--task", task, "--predictions", path, "--ground-truth", truth)


def changed(**values: object) -> Callable[[dict], dict]:
    return lambda row: {**row, **values}


def without(key: str) -> Callable[[dict], dict]:
    return lambda row: {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"label,score\n", "expected JSON, found something else at line 1"),
        (gzip.compress(b'{"results": {}}', mtime=0)[:-4], "expected whole gzip data"),
        (b"", "expected JSON"),
        ({"result": {}}, '"results"'),
        ({"results": {"v1": "run"}}, "video 'v1'"),
        ({"results": {}}, "found no video at all"),
    ],
)
def test_a_file_that_is_no_submission(tmp_path, task, content, part):
    path, result = scored(tmp_path, task, content)
    assert_one_sentence(result, path, part)


@pytest.mark.parametrize("task", TASKS)
def test_no_common_video(tmp_path, task):
    path, result = scored(tmp_path, task, {"results": {"v_v1": [ROWS[task]], "v_v2": []}})
    assert_one_sentence(result, path, "'v1'", "'v_v1'", "how the videos are named")


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_video(tmp_path, task):
    path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task]], "v2": [ROWS[task]]}})
    assert_one_sentence(result, path, "video 'v2'", "--unknown-videos")


@pytest.mark.parametrize("task", TASKS)
def test_a_segment_that_starts_after_its_end(tmp_path, task):
    row = {**ROWS[task], TIMES[task]: [2.0, 1.0]}
    path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task], row]}})
    assert_one_sentence(result, path, "video 'v1'", ENTRY[task], "[2.0, 1.0]", "not end before it starts")


@pytest.mark.parametrize("task", TASKS)
def test_times_that_are_not_numbers(tmp_path, task):
    row = {**ROWS[task], TIMES[task]: [0.0, float("nan")]}
    path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task], row]}})
    assert_one_sentence(result, path, "video 'v1'", ENTRY[task], "[0.0, nan]")


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_key(tmp_path, task):
    for key in ROWS[task]:
        path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task], without(key)(ROWS[task])]}})
        assert_one_sentence(result, path, "video 'v1'", ENTRY[task], f'"{key}"')


@pytest.mark.parametrize("task", SEGMENT_TASKS)
@pytest.mark.parametrize("score", [float("nan"), "0.5", None, True])
def test_a_score_that_is_no_number(tmp_path, task, score):
    path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task], changed(score=score)(ROWS[task])]}})
    assert_one_sentence(result, path, "video 'v1'", "prediction 2", 'a "score" that is a finite number')


def test_an_unknown_label(tmp_path):
    path, result = scored(tmp_path, "tal", {"results": {"v1": [ROWS["tal"], changed(label="runn")(ROWS["tal"])]}})
    assert_one_sentence(result, path, "video 'v1'", "prediction 2", "'runn' (did you mean 'run'?)")


def test_a_sentence_that_is_no_text(tmp_path):
    row = changed(sentence=7)(ROWS["captioning"])
    path, result = scored(tmp_path, "captioning", {"results": {"v1": [ROWS["captioning"], row]}})
    assert_one_sentence(result, path, "video 'v1'", "caption 2", "7")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("content", [b"no JSON", gzip.compress(b"{}" * 99, mtime=0)[:-9], b"[]", b'{"v1": 3}'])
def test_a_ground_truth_that_is_none(tmp_path, task, content):
    truth = tmp_path / "truth.json"
    truth.write_bytes(content)
    _, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task]]}}, truth)
    assert_one_sentence(result, truth)


def test_a_ground_truth_is_given_once(tmp_path):
    truth = ground_truth(tmp_path, "captioning")
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"results": {"v1": [ROWS["captioning"]]}}))
    arguments = ["--task", "captioning", "--predictions", predictions, "--ground-truth", truth]
    assert_one_sentence(run("score", *arguments, "--ground-truth", truth), truth, "found it twice")


def test_references_without_a_sentence(tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"v1": {"timestamps": [], "sentences": []}}))
    _, result = scored(tmp_path, "captioning", {"results": {"v1": []}}, truth)
    assert_one_sentence(result, truth, "expected sentences, found none")


def test_a_ground_truth_of_ignored_segments(tmp_path):
    annotations = [{"segment": [0.0, 1.0], "label": "Ambiguous"}]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"database": {"v1": {"subset": "test", "annotations": annotations}}}))
    arguments = ["--predictions", truth, "--ground-truth", truth, "--subset", "test", "--protocol", "thumos14"]
    assert_one_sentence(run("score", "--task", "tal", *arguments), truth, "thumos14, found none")


def test_what_is_read_is_not_written_over(tmp_path):
    truth = ground_truth(tmp_path, "tal")
    arguments = ["--task", "tal", "--predictions", tmp_path / "p.json", "--ground-truth", truth]
    assert_one_sentence(run("score", *arguments, "--json", truth), truth, "found one that is read")
    assert json.loads(truth.read_bytes())["database"]


@pytest.mark.parametrize("task", TASKS)
def test_times_beyond_any_video(tmp_path, task):
    row = {**ROWS[task], TIMES[task]: [0.0, 1e300]}
    path, result = scored(tmp_path, task, {"results": {"v1": [ROWS[task], row]}})
    assert_one_sentence(result, path, "video 'v1'", ENTRY[task], "[0.0, 1e+300]")


def test_json_that_is_too_deep(tmp_path):
    path, result = scored(tmp_path, "tal", b"[" * 100_000)
    assert_one_sentence(result, path, "expected JSON")


def test_names_are_printed_as_they_are(tmp_path):
    label = "x[/bold]\x1b[31m"
    annotations = [{"segment": [0.0, 1.0], "label": label}]
    truth, predictions = tmp_path / "truth.json", tmp_path / "p[red].json"
    truth.write_text(json.dumps({"database": {"v1": {"subset": "validation", "annotations": annotations}}}))
    predictions.write_text(json.dumps({"results": {"v1": [{**SEGMENT, "label": label}]}}))
    result = run("score", "--task", "tal", "--predictions", predictions, "--ground-truth", truth, "--per-class")
    assert result.exit_code == 0, result.stderr
    assert "x[/bold] [31m" in result.stdout
    result = run("compare", predictions, truth.with_name("p[red].json"), "--task", "tal", "--ground-truth", truth)
    assert f"A: {predictions}\nB: {predictions}\n" in result.stderr
