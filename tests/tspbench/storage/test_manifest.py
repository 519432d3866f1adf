import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tspbench.helpers import full_disk, names, one_sentence
from tspbench.storage import manifest as module
from tspbench.storage.manifest import (
    MANIFEST,
    Journal,
    Manifest,
    ScannedVideo,
    file_stamp,
    read_manifest,
    write_manifest,
)
from tspbench.storage.video import Problem
from tspbench.storage.video_check import VideoFacts

FACTS = VideoFacts(
    duration_seconds=2.5,
    frames=75,
    frame_rate=30.0,
    constant_rate=True,
    width=320,
    height=240,
    rotation=0,
    decoder="decord 0.6.0",
    promised_frames=75,
)
GOOD = ScannedVideo("a", "a.mp4", 5, 1000, FACTS)
BAD = ScannedVideo("b", "b.mp4", 3, 2000, problem=Problem.TRUNCATED, reason="b.mp4 is truncated: copy it again.")
GONE = ScannedVideo("c", "c.mp4", 0, 0, problem=Problem.MISSING, reason="c.mp4 is not a file: give a video.")
AGAIN = "run `tspbench data scan "
ANEW = "run tspbench data scan again"


@pytest.fixture
def manifest(tmp_path):
    return Manifest(tmp_path, {video.name: video for video in (GOOD, BAD, GONE)})


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"12345")
    (tmp_path / "b.mp4").write_bytes(b"123")
    return {name: tmp_path / f"{name}.mp4" for name in "cba"}


@pytest.fixture
def written(tmp_path, manifest):
    write_manifest(tmp_path / MANIFEST, manifest)
    return tmp_path / MANIFEST


def test_a_manifest_comes_back(tmp_path, written, manifest):
    assert read_manifest(written) == manifest
    assert read_manifest(written).digest == manifest.digest
    assert names(tmp_path) == ["manifest.json"]
    content = json.loads(written.read_text())
    assert content["format"] == "tspbench manifest 1"
    assert content["videos"]["b"]["problem"] == "truncated"


def test_a_manifest_of_nothing_comes_back(tmp_path):
    write_manifest(tmp_path / MANIFEST, Manifest(tmp_path, {}))
    assert read_manifest(tmp_path / MANIFEST).quarantined == {}


@pytest.mark.parametrize(
    "wrong",
    [{}, {"facts": FACTS, "problem": Problem.EMPTY, "reason": "empty."}, {"problem": Problem.EMPTY}, {"reason": "so."}],
    ids=["nothing", "both", "no reason", "no problem"],
)
def test_a_video_has_facts_or_a_problem_with_its_reason(wrong):
    with pytest.raises(ValueError, match="either facts, or a problem and its reason"):
        ScannedVideo("a", "a.mp4", 5, 1000, **wrong)


# Which videos can be used.


def test_the_quarantined_are_left_out_in_the_order_asked_for(manifest, videos):
    assert manifest.quarantined == {"b": BAD.reason, "c": GONE.reason}
    assert manifest.readable(videos) == {"a": videos["a"]}
    both = Manifest(manifest.folder, {**manifest.videos, "b": replace(GOOD, name="b", file="b.mp4", bytes=3)})
    assert list(both.readable(videos)) == ["b", "a"]
    assert manifest.readable({"b": videos["b"]}) == {}


def test_a_copy_of_the_folder_fits_the_manifest(tmp_path, manifest, videos):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.mp4").write_bytes(b"54321")
    assert manifest.readable({"a": copy / "a.mp4"}) == {"a": copy / "a.mp4"}


def test_a_video_that_the_manifest_does_not_know_is_one_sentence(manifest, videos, tmp_path):
    with one_sentence(tmp_path / "d.mp4", "is not in the manifest", AGAIN):
        manifest.readable({**videos, "d": tmp_path / "d.mp4"})


def test_a_video_of_another_size_is_one_sentence(manifest, videos):
    videos["a"].write_bytes(b"123456")
    with one_sentence(videos["a"], "5 bytes then, 6 now", AGAIN):
        manifest.check(videos)


def test_a_video_that_has_gone_or_come_is_one_sentence(manifest, videos):
    videos["c"].write_bytes(b"1")
    with one_sentence(videos["c"], "0 bytes then, 1 now", AGAIN):
        manifest.check(videos)
    videos["c"].unlink()
    videos["a"].unlink()
    with one_sentence(videos["a"], "5 bytes then, 0 now", AGAIN):
        manifest.check(videos)


# Its digest.


def test_the_digest_knows_neither_folder_nor_time_nor_order(manifest):
    moved = {name: replace(video, modified_ns=7) for name, video in reversed(manifest.videos.items())}
    assert Manifest(Path("/elsewhere"), moved).digest == manifest.digest


@pytest.mark.parametrize(
    "other",
    [
        replace(GOOD, bytes=6),
        replace(GOOD, file="a.mkv"),
        replace(GOOD, facts=replace(FACTS, frames=74)),
        replace(GOOD, facts=replace(FACTS, constant_rate=False)),
        replace(GOOD, facts=None, problem=Problem.EMPTY, reason="a.mp4 is empty."),
    ],
    ids=["size", "file", "frames", "rate", "problem"],
)
def test_the_digest_knows_everything_else(manifest, other):
    assert Manifest(manifest.folder, {**manifest.videos, "a": other}).digest != manifest.digest
    assert Manifest(manifest.folder, {**manifest.videos, "d": replace(other, name="d")}).digest != manifest.digest


def test_the_digest_knows_reasons(manifest):
    other = replace(BAD, reason="b.mp4 is truncated.")
    assert Manifest(manifest.folder, {**manifest.videos, "b": other}).digest != manifest.digest


# Files that are no manifest, or another than was written.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "expected JSON"),
        ("[]", "is not a manifest"),
        ('{"format": "tspbench manifest 0", "folder": "/", "videos": {}}', "is not a manifest"),
        ('{"format": "tspbench manifest 1", "videos": {}}', "is not a manifest"),
        ('{"format": "tspbench manifest 1", "folder": "/", "videos": []}', "found []"),
    ],
)
def test_what_is_no_manifest_is_one_sentence(tmp_path, content, expected):
    path = tmp_path / MANIFEST
    path.write_text(content)
    with one_sentence(path, expected):
        read_manifest(path)


def test_no_manifest_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / MANIFEST, "does not exist"):
        read_manifest(tmp_path / MANIFEST)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.pop("bytes"), "bytes: field required"),
        (lambda a: a.update(bytes="5"), "bytes: input should be a valid integer"),
        (lambda a: a.update(more=1), "more: unexpected keyword argument"),
        (lambda a: a["facts"].update(frames=1.5), "facts.frames: input should be a valid integer"),
        (lambda a: a["facts"].update(more=1), "facts.more: unexpected keyword argument"),
        (lambda a: a.update(problem="ugly"), "problem: input should be"),
        (lambda a: a.update(facts=None), "the entry: expected either facts, or a problem and its reason"),
        (lambda a: a.update(name="x"), "its name is 'x'"),
    ],
)
def test_a_wrong_entry_is_one_sentence_that_names_it(written, change, expected):
    content = json.loads(written.read_text())
    change(content["videos"]["a"])
    written.write_text(json.dumps(content))
    with one_sentence(written, "video 'a'", expected, ANEW):
        read_manifest(written)


def test_an_entry_that_is_not_what_was_found_is_one_sentence(written):
    content = json.loads(written.read_text())
    content["videos"]["a"]["facts"]["frames"] = 76
    written.write_text(json.dumps(content))
    with one_sentence(written, "digest", ANEW):
        read_manifest(written)


# What an unfinished scan leaves.


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "new" / "journal")


def test_a_journal_comes_back_and_goes_on(tmp_path, journal):
    assert journal.read() == {}
    with journal:
        journal.add(GOOD)
        assert Journal(tmp_path / "new" / "journal").read() == {"a": GOOD}  # at once, for whoever comes after a kill
    with journal:
        journal.add(BAD)
    assert journal.read() == {"a": GOOD, "b": BAD}
    journal.remove()
    assert names(tmp_path / "new") == []


def test_a_later_line_counts(journal):
    with journal:
        journal.add(GOOD)
        journal.add(replace(GOOD, bytes=6))
    assert journal.read() == {"a": replace(GOOD, bytes=6)}


def test_a_line_cut_off_does_not_count_and_costs_no_other(tmp_path, journal):
    with journal:
        journal.add(GOOD)
        journal.add(BAD)
    path = tmp_path / "new" / "journal"
    for length in range(path.stat().st_size):
        other = Journal(tmp_path / "cut")
        (tmp_path / "cut").write_bytes(path.read_bytes()[:length])
        before = other.read()
        with other:
            other.add(GONE)
        assert other.read() == {**before, "c": GONE}
    assert before == {"a": GOOD, "b": BAD}  # all but the last line's end was there


def test_every_few_lines_reach_the_disk(journal, monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", synced.append)
    with journal:
        for _ in range(200):
            journal.add(GOOD)
    assert len(synced) == 3


def test_a_full_disk_is_one_sentence(journal):
    with full_disk(), one_sentence("cannot be written", "what is finished is kept"), journal:
        for _ in range(100):
            journal.add(GOOD)
    assert journal.read() == {"a": GOOD}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with one_sentence("file", "cannot be written"), Journal(tmp_path / "file" / "journal"):
        pass


def test_no_file_has_no_stamp(tmp_path):
    assert file_stamp(tmp_path / "nowhere") == (0, 0)
    (tmp_path / "file").write_bytes(b"123")
    assert file_stamp(tmp_path / "file") == (3, (tmp_path / "file").stat().st_mtime_ns)
