"""Reference files and submissions of captions."""

import gzip
import json
import re

import pytest

from tests.evaluation.helpers import shared
from tspbench.errors import UserError
from tspbench.storage.captions import read_captions, read_references

GOOD = {"sentence": "A man runs.", "timestamp": [0.5, 2]}


def written(folder, content, name="c.json"):
    path = folder / name
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["c.json", "c.json.gz"])
def test_a_submission(tmp_path, name):
    captions = read_captions(
        written(tmp_path, {"results": {"v1": [GOOD, {**GOOD, "sentence": "", "proposal_score": 1}], "v2": []}}, name)
    )
    assert captions.videos == ("v1", "v2")
    assert captions.sentences == ("A man runs.", "")
    assert (captions.video.tolist(), captions.start.tolist(), captions.end.tolist()) == ([0, 0], [0.5, 0.5], [2.0, 2.0])


def test_references(tmp_path):
    entry = {"duration": 9, "timestamps": [[0, 1.5], [3, 2]], "sentences": ["One.", "Zwei: ü\n"]}
    references = read_references(written(tmp_path, {"v1": entry, "v2": {"timestamps": [], "sentences": []}}))
    assert references.videos == ("v1", "v2")
    assert references.sentences == ("One.", "Zwei: ü\n")
    # The second segment ends before it starts: it stays, with length zero.
    assert (references.start.tolist(), references.end.tolist()) == ([0.0, 3.0], [1.5, 3.0])


def test_published_files_are_read():
    assert len(read_references(shared("data/captions/val_1_no_missings.json"))) == 15921
    assert len(read_references(shared("data/captions/train_800.json"))) == 3055
    submission = read_captions(shared("data/captions/bmt_ground_truth_proposals_val_1.json"))
    assert (len(submission), len(submission.videos)) == (15921, 4483)


MEND = "; correct or remove this caption."


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        (7, 'expected an object with "sentence" and "timestamp", found 7' + MEND),
        ({"timestamp": [0, 1]}, "expected the key \"sentence\", found {'timestamp': [0, 1]}" + MEND),
        ({"sentence": "A"}, "expected the key \"timestamp\", found {'sentence': 'A'}" + MEND),
        ({**GOOD, "sentence": 7}, 'expected a "sentence" that is text, found 7' + MEND),
        ({**GOOD, "sentence": None}, 'expected a "sentence" that is text, found nothing' + MEND),
        (
            {**GOOD, "sentence": "A \ud83d."},
            "expected a \"sentence\" of whole characters, not half a surrogate pair, found 'A \\ud83d.'" + MEND,
        ),
        (
            {**GOOD, "timestamp": [1]},
            'expected a "timestamp" of two finite numbers [start, end] in seconds, found [1]' + MEND,
        ),
        (
            {**GOOD, "timestamp": [0, float("nan")]},
            'expected a "timestamp" of two finite numbers [start, end] in seconds, found [0, nan]' + MEND,
        ),
        (
            {**GOOD, "timestamp": [2, 1]},
            'expected a "timestamp" [start, end] that does not end before it starts, found [2, 1]' + MEND,
        ),
    ],
)
def test_mistakes_in_a_caption(tmp_path, caption, message):
    path = written(tmp_path, {"results": {"v1": [GOOD], "v2": [GOOD, caption]}})
    with pytest.raises(UserError, match=f"^{re.escape(path.as_posix() + ', video ' + repr('v2') + ', caption 2: ')}"):
        read_captions(path)
    with pytest.raises(UserError, match=f"{re.escape(message)}$"):
        read_captions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "expected JSON, found something else at line 1 column 1;"),
        (gzip.compress(b"{}" * 50)[:-9], "expected whole gzip data, found it cut off or damaged;"),
        ({"v1": []}, 'expected an object {"results": {video: …}}'),
        ({"results": {"v1": {}}}, "video 'v1': expected a list of captions, found {}; give [] if there are none."),
    ],
)
def test_files_that_are_no_submission(tmp_path, content, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, 'expected an object with "timestamps" and "sentences", found 3; mend it.'),
        ({"timestamps": []}, 'expected the lists "timestamps" and "sentences", found [] and nothing; give [] if '),
        (
            {"timestamps": [[0, 1]], "sentences": []},
            "expected as many timestamps as sentences, found 1 and 0; mend it.",
        ),
        ({"timestamps": [[0, 1]], "sentences": [3]}, 'caption 1: expected a "sentence" that is text, found 3; '),
        ({"timestamps": [[0, "1"]], "sentences": ["a"]}, 'caption 1: expected a "timestamp" of two finite numbers '),
    ],
)
def test_mistakes_in_references(tmp_path, entry, message):
    path = written(tmp_path, {"v1": entry})
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}, video 'v1'.*{re.escape(message)}"):
        read_references(path)


@pytest.mark.parametrize("content", [[], {}, "text"])
def test_files_that_are_no_references(tmp_path, content):
    with pytest.raises(UserError, match="give a reference file of ActivityNet Captions"):
        read_references(written(tmp_path, content))
