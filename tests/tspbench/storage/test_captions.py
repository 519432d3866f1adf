"""Reference files and submissions of captions."""

import gzip
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.captions import Captions
from tests.evaluation.helpers import shared
from tests.tspbench.helpers import full_disk, names, one_sentence
from tspbench.errors import UserError
from tspbench.storage.captions import read_caption_file, read_captions, read_references, write_captions

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
        (gzip.compress(b"{}" * 50, mtime=0)[:-9], "expected whole gzip data, found it cut off or damaged;"),
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


# Files to train on: the lengths of the videos, and captions within them.


def timed(*times, duration=9.0):
    entry = {"timestamps": [list(time) for time in times], "sentences": [f"Number {k}." for k in range(len(times))]}
    return entry if duration is None else {**entry, "duration": duration}


def test_captions_may_hardly_exceed_their_videos_and_stay_as_they_are(tmp_path):
    # To 0.5 s beyond; the fourth ends before it starts, the fifth starts beyond the end.
    entry = timed((0, 9), (8, 9.011), (1, 9.5), (3, 2), (9.2, 9.4))
    file = read_caption_file(written(tmp_path, {"v1": entry, "v2": timed((0, 70), duration=None), "v3": timed()}))
    assert file.path == tmp_path / "c.json"
    assert file.durations == {"v1": 9.0, "v2": None, "v3": 9.0}
    assert file.captions.videos == ("v1", "v2", "v3")
    assert file.captions.video.tolist() == [0, 0, 0, 0, 0, 1]
    assert file.captions.start.tolist() == [0, 8, 1, 3, 9.2, 0]
    assert file.captions.end.tolist() == [9, 9.011, 9.5, 3, 9.4, 70]
    assert file.captions.sentences[:2] == ("Number 0.", "Number 1.")


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        (timed((0, 1), (8, 9.51)), ["caption 2", 'a "timestamp" within [0, 9], the video, found [8, 9.51];']),
        (timed((0, 1), (9.6, 2)), ["caption 2", "within [0, 9], the video, found [9.6, 2];"]),
        (timed((0, 1), (-0.01, 2)), ["caption 2", "within [0, 9], the video, found [-0.01, 2];"]),
        (timed((-1, 2), duration=None), ["caption 1", "that begins at 0 or later, found [-1, 2];"]),
        (timed(duration=0), ['expected a "duration" in seconds above 0, found 0;']),
        (timed(duration=-3.5), ["above 0, found -3.5;"]),
        (timed(duration="9"), ["above 0, found '9';"]),
        (timed(duration=True), ["above 0, found True;"]),
        (timed(duration=float("nan")), ["above 0, found nan;"]),
        (timed(duration=float("inf")), ["above 0, found inf;"]),
        ([], ['an object with "timestamps" and "sentences", found []']),
        ({**timed((0, 1)), "sentences": []}, ["as many timestamps as sentences, found 1 and 0"]),
        ({**timed((0, 1)), "sentences": [["a"]]}, ["caption 1", "a \"sentence\" that is text, found ['a']"]),
    ],
)
def test_mistakes_in_a_file_to_train_on(tmp_path, entry, parts):
    path = written(tmp_path, {"v1": timed((0, 1)), "v2": entry})
    with one_sentence(f"{path}, video 'v2'", *parts):
        read_caption_file(path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\xff", "expected JSON, found something else at line 1 column 1;"),
        (b'{"v": {"timestamps": [], "sentences": ["\xff"]}}', "expected JSON, found something else at line 1"),
        (gzip.compress(b"{}" * 50, mtime=0)[:-9], "expected whole gzip data, found it cut off or damaged;"),
        (b"", "expected JSON"),
        ([1], "give a reference file of ActivityNet Captions."),
    ],
)
def test_files_that_are_no_captions(tmp_path, content, part):
    path = written(tmp_path, content)
    with one_sentence(path, part):
        read_caption_file(path)
    with one_sentence("does not exist"):
        read_caption_file(tmp_path / "none.json")


def test_published_files_to_train_on():
    for name, videos, beyond in (("val_1_no_missings.json", 4483, 122), ("train_800.json", 800, 24)):
        path = shared(f"data/captions/{name}")
        file, plain = read_caption_file(path), read_references(path)
        assert len(file.durations) == len(file.captions.videos) == videos
        assert (file.captions.videos, file.captions.sentences) == (plain.videos, plain.sentences)
        lengths = np.array([file.durations[file.captions.videos[k]] for k in file.captions.video])
        assert int(np.count_nonzero(plain.end > lengths)) == beyond
        assert (file.captions.end == plain.end).all()
        assert (file.captions.start == plain.start).all()


# Submissions that are written.

seconds = st.floats(0, 1e12, allow_subnormal=True)
texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.lists(st.tuples(seconds, seconds, texts, st.floats(allow_nan=False, allow_infinity=False)), max_size=4)


def built(content):
    every = [row for part in content.values() for row in part]
    return Captions(
        videos=tuple(content),
        video=np.repeat(np.arange(len(content)), [len(part) for part in content.values()]),
        start=np.array([min(row[:2]) for row in every], dtype=np.float64),
        end=np.array([max(row[:2]) for row in every], dtype=np.float64),
        sentences=tuple(row[2] for row in every),
    ), np.array([row[3] for row in every], dtype=np.float64)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(texts, rows, max_size=4), st.booleans(), st.sampled_from(["c.json", "c.json.gz"]))
def test_a_submission_comes_back(content, scored, name):
    captions, scores = built(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_captions(path, captions, scores if scored else None)
        if name.endswith(".gz"):
            assert path.read_bytes()[:8] == b"\x1f\x8b\x08\x00" + bytes(4)  # gzipped, and no time stamp
        found = read_captions(path)
        raw = json.loads(gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_text("utf-8"))
    assert (found.videos, found.sentences) == (captions.videos, captions.sentences)
    for part in ("video", "start", "end"):
        assert getattr(found, part).tobytes() == getattr(captions, part).tobytes()
    written_scores = [entry.get("proposal_score") for part in raw["results"].values() for entry in part]
    assert written_scores == (scores.tolist() if scored else [None] * len(scores))


def test_what_the_official_evaluator_asks_for(tmp_path):
    # Rows of two videos in turn; each keeps its own order.
    captions = Captions(
        videos=("b", "a"),
        video=np.array([1, 0, 1], dtype=np.int64),
        start=np.array([5.0, 0.1, 1.0]),
        end=np.array([6.0, 0.3, 2.0]),
        sentences=("one", "two", "ü"),
    )
    write_captions(tmp_path / "c.json", captions, np.array([0.5, 0.25, 1.0]))
    content = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert content.keys() == {"version", "results", "external_data"}
    assert list(content["results"].items()) == [
        ("b", [{"sentence": "two", "timestamp": [0.1, 0.3], "proposal_score": 0.25}]),
        (
            "a",
            [
                {"sentence": "one", "timestamp": [5.0, 6.0], "proposal_score": 0.5},
                {"sentence": "ü", "timestamp": [1.0, 2.0], "proposal_score": 1.0},
            ],
        ),
    ]


@pytest.mark.parametrize("scores", [np.array([0.5]), np.array([0.5, np.nan]), np.array([[0.5, 1.0]])])
def test_scores_that_are_none(tmp_path, scores):
    captions, _ = built({"v": [(0.0, 1.0, "a", 0.0)] * 2})
    with pytest.raises(ValueError, match="expected 2 finite scores"):
        write_captions(tmp_path / "c.json", captions, scores)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.json"
    write_captions(path, built({"v": []})[0])
    before = path.read_bytes()
    with full_disk(), one_sentence(path, "make room"):
        write_captions(path, built({"v": [(0.0, 1.0, "a" * 10_000, 0.0)]})[0])
    assert (path.read_bytes(), names(tmp_path)) == (before, ["c.json"])
