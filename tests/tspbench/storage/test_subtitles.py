"""Subtitle files: what is in them, and where they lie."""

import html
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tspbench.helpers import full_disk, names, one_sentence
from tspbench.storage.subtitles import LONGEST_NAME, chosen_cues, file_name, write_subtitles


def written(folder, rows, video="v"):
    """Write captions (start, end, sentence, score); return the text of both files."""
    segments = np.array([row[:2] for row in rows], dtype=np.float64).reshape(-1, 2)
    scores = np.array([row[3] for row in rows], dtype=np.float64)
    paths = write_subtitles(folder, video, segments, [row[2] for row in rows], scores)
    return [path.read_bytes().decode() for path in paths]


def test_two_captions(tmp_path):
    srt, vtt = written(tmp_path, [(61.0004, 3661.25, "he runs", 0.1), (0, 1.5, "A man sits.", 0.9)])
    assert srt == ("1\n00:00:00,000 --> 00:00:01,500\nA man sits.\n\n2\n00:01:01,000 --> 01:01:01,250\nHe runs.\n\n")
    assert vtt == ("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nA man sits.\n\n00:01:01.000 --> 01:01:01.250\nHe runs.\n")
    assert names(tmp_path) == ["v.srt", "v.vtt"]


def test_no_captions(tmp_path):
    assert written(tmp_path / "new", []) == ["", "WEBVTT\n"]


def test_the_best_of_those_that_overlap(tmp_path):
    rows = [
        (0, 10, "worse than the second", 0.5),
        (8, 20, "the best", 0.9),
        (20, 30, "touches", 0.2),
        (25, 40, "as good as the one before, but later", 0.2),
        (0, 8, "overlaps only what is not kept", 0.1),
    ]
    srt, _ = written(tmp_path, rows)
    assert srt.split("\n")[2::4] == ["Overlaps only what is not kept.", "The best.", "Touches."]


def test_the_first_of_equal_scores():
    # Fifty seconds with two captions of one score each, 0 or 1.
    second = np.arange(100) // 2
    segments = np.stack([second, second + 1], axis=1).astype(np.float64)
    scores = (second % 2).astype(np.float64)
    cues = chosen_cues(segments, [f"Number {k}." for k in range(100)], scores)
    assert [text for *_, text in cues] == [f"Number {k}." for k in range(0, 100, 2)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0.0004, 0.0006), "00:00:00,000 --> 00:00:00,001"),
        ((1.9996, 2.9996), "00:00:02,000 --> 00:00:03,000"),
        ((59.9999, 3599.9996), "00:01:00,000 --> 01:00:00,000"),
        ((-3, 1), "00:00:00,000 --> 00:00:01,000"),
        ((360_000.5, 3_600_000.25), "100:00:00,500 --> 1000:00:00,250"),
        ((2, 2), None),
        ((2, 2.0004), None),  # no millisecond
        ((3, 2), None),
        ((-3, -1), None),
    ],
)
def test_times(tmp_path, times, expected):
    srt, vtt = written(tmp_path, [(*times, "A.", 0.0)])
    assert srt == ("" if expected is None else f"1\n{expected}\nA.\n\n")
    assert vtt == "WEBVTT\n" + ("" if expected is None else f"\n{expected.replace(',', '.')}\nA.\n")


@pytest.mark.parametrize(
    ("sentence", "srt", "vtt"),
    [
        ("a man\n\n2\r\n00:01 --> 00:02", "A man 2 00:01 --› 00:02.", "A man 2 00:01 --&gt; 00:02."),
        ("tom & <b>Jerry</b>", "Tom & ‹b›Jerry‹/b›.", "Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;."),
        (r"{\an8}up", r"(\an8)up.", r"{\an8}up."),
        ("&lt;i&gt;", "&lt;i&gt;.", "&amp;lt;i&amp;gt;."),
        (" a\u2028b\x85c\x00d\x1be\ud800 ", "A b c d e.", "A b c d e."),
        ("élan! ", "Élan!", "Élan!"),
        ('he says "stop."', 'He says "stop."', 'He says "stop."'),
        ("42", "42.", "42."),
    ],
)
def test_text(tmp_path, sentence, srt, vtt):
    found = written(tmp_path, [(0, 1, sentence, 0.0)])
    assert found[0] == f"1\n00:00:00,000 --> 00:00:01,000\n{srt}\n\n"
    assert found[1] == f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{vtt}\n"


@pytest.mark.parametrize("sentence", ["", "  ", "\n\t\u2028\x00"])
def test_empty_sentences_make_room_for_others(tmp_path, sentence):
    srt, _ = written(tmp_path, [(0, 9, sentence, 0.9), (1, 2, "a.", 0.1)])
    assert srt == "1\n00:00:01,000 --> 00:00:02,000\nA.\n\n"


@pytest.mark.parametrize(
    ("segments", "scores"),
    [
        (np.zeros((2, 2)), np.zeros(1)),
        (np.zeros((1, 3)), np.zeros(1)),
        (np.zeros((1, 2)), np.zeros(2)),
        (np.array([[0, np.nan]]), np.zeros(1)),
        (np.array([[0, np.inf]]), np.zeros(1)),
        (np.array([[0.0, 1.0]]), np.array([np.nan])),
    ],
)
def test_what_is_no_caption(segments, scores):
    with pytest.raises(ValueError, match=r"^expected "):
        chosen_cues(segments, ["a"], scores)


@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("v_---9CpRcKoU", "v_---9CpRcKoU"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("/absolute", "%2Fabsolute"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("", "%"),
        ("50%", "50%25"),
        ("a b\n\x00:é", "a%20b%0A%00%3A%C3%A9"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_files_are_called_after_their_video(tmp_path, video, name):
    assert file_name(video) == name
    written(tmp_path / "in", [], video)
    assert names(tmp_path / "in") == [f"{name}.srt", f"{name}.vtt"]
    assert names(tmp_path) == ["in"]


def test_long_names_do_not_meet(tmp_path):
    videos = ["x" * k for k in (199, 200, 201, 5000, 5001)] + ["x" * 5000 + "/", "é" * 34, "é" * 33 + "è", "é" * 99]
    for video in videos:
        written(tmp_path, [], video)
    assert len(names(tmp_path)) == 2 * len(videos)
    # Nor does a video that is called after the file of another.
    name = file_name("x" * 201)
    assert file_name(name) != name
    assert file_name(name.replace("%", "")) != name
    assert names(tmp_path)[-2:] == ["x" * 200 + ".srt", "x" * 200 + ".vtt"]


@given(st.lists(st.text(st.sampled_from("./\\%-aA\x00\né x\ud800"), max_size=LONGEST_NAME), unique=True, max_size=20))
def test_every_name_has_a_file_of_its_own(videos):
    found = [file_name(video) for video in videos]
    assert len(set(found)) == len(videos)
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]*", name)
        assert len(name) <= LONGEST_NAME


def read(text, mark):
    """Read cues as a player does: a line with an arrow begins one, an empty line ends it."""
    lines, cues = text.split("\n"), []
    for place, line in enumerate(lines):
        if "-->" not in line:
            continue
        start, end = (
            3_600_000 * int(h) + 60_000 * int(m) + 1000 * int(s) + int(ms)
            for h, m, s, ms in re.findall(rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(mark)}(\d{{3}})", line)
        )
        assert lines[place + 2] == ""
        cues.append((start, end, lines[place + 1]))
    return cues


seconds = st.floats(-10, 1e12) | st.integers(0, 20).map(lambda k: k / 2)
texts = st.text() | st.text(st.sampled_from("->< &{}\n\r\x0b\x85\u2028\u2029a.1:"))
rows = st.lists(st.tuples(seconds, seconds, texts, st.sampled_from([0.0, 0.5, 1.0])), max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows, st.text())
def test_cues_never_overlap_and_hold_what_was_said(captions, video):
    with tempfile.TemporaryDirectory() as folder:
        srt, vtt = written(Path(folder) / "in", captions, video)
        assert len(names(Path(folder) / "in")) == 2
        assert names(Path(folder)) == ["in"]
    cues, others = read(srt, ","), read(vtt, ".")
    assert [cue[:2] for cue in cues] == [cue[:2] for cue in others]
    assert len(cues) == srt.count("\n\n")
    assert [int(block.split("\n")[0]) for block in srt.split("\n\n")[:-1]] == list(range(1, len(cues) + 1))
    assert all(start < end for start, end, _ in cues)
    assert all(first[1] <= second[0] for first, second in pairwise(cues))
    assert not set("<>{}") & set("".join(text for *_, text in cues))
    segments = np.array([row[:2] for row in captions]).reshape(-1, 2)
    chosen = chosen_cues(segments, [row[2] for row in captions], np.array([row[3] for row in captions]))
    assert [(start, end, html.unescape(text)) for start, end, text in others] == chosen
    assert not set("<>") & set("".join(text for *_, text in others))
    # What is left out is empty, or overlaps something kept.
    for start, end, sentence, _ in captions:
        first, last = (round(max(0.0, time) * 1000) for time in (start, end))
        if first < last and re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", sentence).split():
            assert any(first < cue[1] and cue[0] < last for cue in cues)


def test_a_player_reads_both(tmp_path):
    rows = [(0.5, 2, "tom & <b>Jerry</b> --> run", 0.9), (3600.25, 3601, "He\n\nsits", 0.5), (1, 3, "no", 0.1)]
    written(tmp_path, rows)
    for name, expected in (("v.srt", "Tom & ‹b›Jerry‹/b› --› run."), ("v.vtt", "Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;")):
        with av.open(str(tmp_path / name)) as container:
            packets = [packet for packet in container.demux() if packet.pts is not None]
        times = [(packet.pts * packet.time_base, packet.duration * packet.time_base) for packet in packets]
        assert times == [(0.5, 1.5), (3600.25, 0.75)]
        assert bytes(packets[0]).decode().startswith(expected)
        assert bytes(packets[1]).decode() == "He sits."


def test_a_full_disk_is_one_sentence(tmp_path):
    with full_disk(), one_sentence(tmp_path, "make room"):
        written(tmp_path, [(0, 1, "a" * 10_000, 0.0)])
    assert names(tmp_path) == []
