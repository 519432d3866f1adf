"""The functions at the top are examined with in processes of their own, which import this module by its name."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.helpers import SHARED, shared
from tests.tspbench.helpers import cut, names, numbered_video, one_sentence, silent, timed_video
from tspbench.errors import UserError
from tspbench.stages import scan as module
from tspbench.stages.scan import scan, summary
from tspbench.storage.manifest import MANIFEST, Manifest, ScannedVideo, read_manifest
from tspbench.storage.video import Problem, VideoError
from tspbench.storage.video_check import VideoFacts

ROOT = Path(__file__).parents[3]
FACTS = VideoFacts(60.0, 1800, 30.0, True, 320, 240, 0, "none", 1800)


def note(path):
    """Find nothing wrong, and write down by whom which file was examined."""
    with (path.parent / "examined.log").open("a") as log:
        log.write(f"{path.stem} {os.getpid()}\n")
    return FACTS


def note_slowly(path):
    note(path)
    time.sleep(0.1)
    return FACTS


def note_and_hang(path):
    note(path)
    return hang(path)


def hang(path):
    """Wait for ever, as decord does: in C, holding the lock that every thread of Python needs."""
    ctypes.PyDLL(None).pause()


def misbehave(path):
    """Do what the file's name says."""
    kinds = {
        "hang": hang,
        "segfault": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda _: os._exit(3),
        "bug": lambda _: np.zeros(3)[4],
        "broken": lambda _: _raise(VideoError(f"{path} breaks off: copy it again.", Problem.BROKEN_FRAMES)),
        "memory": lambda _: _raise(MemoryError()),
    }
    note(path)
    return kinds.get(path.stem.partition("-")[0], lambda _: FACTS)(path)


def _raise(error):
    raise error


def modules_loaded(path):
    return replace(FACTS, decoder=" ".join(sorted(sys.modules)))


def files(folder, *stems):
    """Write files that are told apart by their names alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        (folder / f"{stem}.mp4").write_text(stem)
    return {stem: folder / f"{stem}.mp4" for stem in stems}


def examined(folder):
    return [line.split()[0] for line in (folder / "examined.log").read_text().splitlines()]


def alive(pid):
    """Whether a process still does something; one that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


# Real and made-up files.


def test_a_folder_of_good_and_bad_files(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    good = numbered_video(folder / "good.mp4", 60)
    numbered_video(folder / "named.mp4", 24).rename(folder / "named.txt")
    timed_video(folder / "variable.mp4", [0, 40, 80, 200, 600, 1500, 1540, 2000])
    cut(good, folder / "cut.mp4", 0.6)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("Dear user,\n" * 99)
    videos = {path.stem: path for path in folder.iterdir()} | {"missing": folder / "missing.mp4"}
    for path in sorted((SHARED / "data/videos").glob("*.*")):
        videos[path.stem] = folder / path.name
        videos[path.stem].symlink_to(path)
    steps = []
    manifest = scan(videos, tmp_path / MANIFEST, workers=2, advance=lambda done, total: steps.append((done, total)))
    assert steps == [(k, len(videos)) for k in range(len(videos) + 1)]
    assert list(manifest.videos) == sorted(videos)
    problems = {name: video.problem.value for name, video in manifest.videos.items() if video.problem}
    published = {"corrupted": "broken frames"} if SHARED.exists() else {}
    assert problems == {
        **{"cut": "truncated", "empty": "empty", "text": "not a video", "missing": "missing"},
        **published,
    }
    assert set(manifest.readable(videos)) == set(videos) - set(problems)
    assert [name for name, video in manifest.videos.items() if video.facts and not video.facts.constant_rate] == [
        "variable"
    ]
    assert manifest.quarantined["cut"].startswith("cut.mp4 is truncated")  # wherever the folder lies
    assert read_manifest(tmp_path / MANIFEST) == manifest
    assert names(tmp_path) == ["manifest.json", "videos"]


def test_published_videos_cut_off_are_classified(tmp_path):
    path = cut(shared("data/videos/long_jump_30fps.mp4"), tmp_path / "long_jump.mp4", 0.6)
    manifest = scan({"long_jump": path}, tmp_path / MANIFEST, workers=1, advance=silent)
    assert manifest.videos["long_jump"].problem == Problem.TRUNCATED


def test_a_copy_of_the_folder_has_the_same_digest(tmp_path):
    digests = set()
    for place in ("here", "over/there"):
        numbered_video(tmp_path / place / "good.mp4", 24)
        videos = {"good": tmp_path / place / "good.mp4"} | files(tmp_path / place, "bad", "worse")
        digests.add(scan(videos, tmp_path / place / MANIFEST, workers=1, advance=silent).digest)
    assert len(digests) == 1


def test_videos_of_several_folders_are_named_from_the_one_above(tmp_path):
    videos = files(tmp_path / "x", "a") | files(tmp_path / "y" / "z", "b")
    manifest = scan(videos, tmp_path / MANIFEST, workers=1, advance=silent, check=note)
    assert manifest.folder == tmp_path
    assert [video.file for video in manifest.videos.values()] == ["x/a.mp4", "y/z/b.mp4"]


def test_no_videos_are_an_empty_manifest(tmp_path):
    assert scan({}, tmp_path / MANIFEST, workers=2, advance=silent).videos == {}
    assert summary(read_manifest(tmp_path / MANIFEST)) == ["0 of 0 videos can be used: 0.00 hours."]


# Decoders that hang and crash.


def test_what_hangs_or_dies_costs_no_other(tmp_path):
    bad = ["hang", "segfault", "exit", "bug", "broken", "memory", "hang-again"]
    videos = files(tmp_path, "a", *bad[:3], "b", *bad[3:], "c", "d")
    manifest = scan(videos, tmp_path / MANIFEST, workers=2, advance=silent, check=misbehave, deadline_seconds=0.5)
    assert sorted(examined(tmp_path)) == sorted(videos)
    assert list(manifest.readable(videos)) == ["a", "b", "c", "d"]
    assert {name: str(manifest.videos[name].problem) for name in bad} == {
        "hang": "timeout",
        "hang-again": "timeout",
        "segfault": "crashed",
        "exit": "crashed",
        "bug": "crashed",
        "memory": "crashed",
        "broken": "broken frames",
    }
    reasons = manifest.quarantined
    assert reasons["hang"].startswith("hang.mp4 gave no answer within 0.5 s")
    assert reasons["broken"] == "broken.mp4 breaks off: copy it again."
    for name, part in {"segfault": "SIGSEGV", "exit": "exit code 3", "bug": "IndexError", "memory": "Memory"}.items():
        assert part in reasons[name]
    pids = {int(line.split()[1]) for line in (tmp_path / "examined.log").read_text().splitlines()}
    assert not any(alive(pid) for pid in pids)


def test_the_start_of_a_worker_does_not_count(tmp_path):
    videos = files(tmp_path, "a", "b")
    manifest = scan(videos, tmp_path / MANIFEST, workers=2, advance=silent, check=note, deadline_seconds=0.2)
    assert not manifest.quarantined  # to start takes longer than that


def test_an_answer_in_time_counts_however_late_it_is_read(tmp_path):
    videos = files(tmp_path, *"abcd")
    slow = lambda done, total: time.sleep(0.5)  # noqa: E731 - as a disk that keeps the journal may be
    manifest = scan(videos, tmp_path / MANIFEST, workers=2, advance=slow, check=note, deadline_seconds=0.4)
    assert not manifest.quarantined


def test_workers_load_no_torch_and_few_are_started(tmp_path):
    videos = files(tmp_path, "a")
    manifest = scan(videos, tmp_path / MANIFEST, workers=9, advance=silent, check=modules_loaded)
    loaded = manifest.videos["a"].facts.decoder.split()
    assert "decord" in loaded
    assert "torch" not in loaded


def test_workers_that_cannot_start_are_a_bug_not_a_video(tmp_path):
    with pytest.raises(RuntimeError, match="ended before its first file"):
        scan(files(tmp_path, "a"), tmp_path / MANIFEST, workers=1, advance=silent, check=_Unknown())
    assert not (tmp_path / MANIFEST).exists()


class _Unknown:
    def __reduce__(self):
        return os._exit, (7,)  # what a process does that tries to read it


# Again, and after an interruption.


def test_only_what_has_changed_is_examined_again(tmp_path):
    videos = files(tmp_path, "a", "b", "c", "broken")
    do = {"workers": 1, "advance": silent, "check": misbehave}
    first = scan(videos, tmp_path / MANIFEST, **do)
    (tmp_path / "examined.log").unlink()
    steps = []
    assert scan(videos, tmp_path / MANIFEST, **do | {"advance": lambda *step: steps.append(step)}) == first
    assert steps == [(4, 4)]
    assert not (tmp_path / "examined.log").exists()
    (tmp_path / "a.mp4").write_text("longer")
    os.utime(tmp_path / "b.mp4", ns=(1, 1))
    (tmp_path / "c.mp4").unlink()
    videos |= files(tmp_path, "d")
    again = scan(videos, tmp_path / MANIFEST, **do)
    assert examined(tmp_path) == ["a", "b", "c", "d"]
    assert again.videos["a"].bytes == 6
    again.check(videos)


def test_a_video_that_left_the_folder_leaves_the_manifest(tmp_path):
    videos = files(tmp_path, "a", "b")
    scan(videos, tmp_path / MANIFEST, workers=1, advance=silent, check=note)
    left = scan({"b": videos["b"]}, tmp_path / MANIFEST, workers=1, advance=silent, check=note)
    assert list(left.videos) == ["b"]


def test_what_may_have_been_the_machine_s_fault_is_examined_again(tmp_path):
    videos = files(tmp_path, "a", "hang", "exit", "broken")
    scan(videos, tmp_path / MANIFEST, workers=1, advance=silent, check=misbehave, deadline_seconds=0.3)
    (tmp_path / "examined.log").unlink()
    manifest = scan(videos, tmp_path / MANIFEST, workers=1, advance=silent, check=note)
    assert sorted(examined(tmp_path)) == ["exit", "hang"]
    assert list(manifest.quarantined) == ["broken"]


def started(tmp_path, check, count, deadline=10.0):
    """Start a scan of many files in a process of its own, and return it when ``count`` of them are in work or done."""
    videos = files(tmp_path / "videos", *(f"v{k:03d}" for k in range(200)))
    program = (
        "import sys; from pathlib import Path; from tests.tspbench.stages.test_scan import *\n"
        "videos = {path.stem: path for path in sorted(Path(sys.argv[1]).glob('*.mp4'))}\n"
        f"scan(videos, Path(sys.argv[2]), workers=2, advance=silent, check={check}, deadline_seconds={deadline})\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "videos"), str(tmp_path / MANIFEST)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "videos" / "examined.log"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= count)
    return process, videos


def pids_in(log):
    return {int(line.split()[1]) for line in log.read_text().splitlines()}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_scan_that_is_ended_goes_on_where_it_was(tmp_path, how):
    process, videos = started(tmp_path, "note_slowly", 9)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C in a terminal is for the children, too
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=20)
    log = tmp_path / "videos" / "examined.log"
    wait_until(lambda: not any(alive(pid) for pid in pids_in(log)))
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1  # that of the parent, none of a child
        assert said.rstrip().endswith("KeyboardInterrupt")
    else:
        assert not said
    before = examined(tmp_path / "videos")
    assert 9 <= len(before) < len(videos)
    assert names(tmp_path) == ["manifest.json.journal", "videos"]
    manifest = scan(videos, tmp_path / MANIFEST, workers=2, advance=silent, check=note)
    assert list(manifest.readable(videos)) == list(videos)
    after = examined(tmp_path / "videos")
    # The two in work are examined again, and a third at most: done, but not written down yet.
    assert len(after) <= len(videos) + 3
    assert set(after) == set(videos)
    assert names(tmp_path) == ["manifest.json", "videos"]


def test_a_worker_that_hangs_ends_though_its_parent_is_gone(tmp_path):
    process, _ = started(tmp_path, "note_and_hang", 2, deadline=1.0)
    process.kill()
    process.communicate(timeout=20)
    pids = pids_in(tmp_path / "videos" / "examined.log")
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_failure_of_the_caller_ends_the_workers(tmp_path):
    def fail(done, total):
        if done == 2:
            raise UserError("enough.")

    videos = files(tmp_path, *"abcdef")
    with one_sentence("enough"):
        scan(videos, tmp_path / MANIFEST, workers=2, advance=fail, check=note)
    assert not any(alive(pid) for pid in pids_in(tmp_path / "examined.log"))
    scan(videos, tmp_path / MANIFEST, workers=2, advance=silent, check=note)
    assert len(examined(tmp_path)) <= 6 + 1  # the one in work at the time


def break_off(text):
    return text[: len(text) // 2]


def release(text):
    return text.replace('"empty"', '"crashed"')


def misspell(text):
    return text.replace('"bytes"', '"byte"')


@pytest.mark.parametrize("change", [break_off, release, misspell, lambda _: ""])
def test_a_damaged_manifest_is_made_anew(tmp_path, capsys, change):
    videos = files(tmp_path, "a", "b")
    (tmp_path / "a.mp4").write_text("")
    whole = scan(videos, tmp_path / MANIFEST, workers=1, advance=silent)
    assert str(whole.videos["a"].problem) == "empty"
    assert not capsys.readouterr().err
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(change(text))
    with pytest.raises(UserError):
        read_manifest(tmp_path / MANIFEST)
    assert scan(videos, tmp_path / MANIFEST, workers=1, advance=silent) == whole
    assert read_manifest(tmp_path / MANIFEST) == whole
    said = capsys.readouterr().err
    assert said == f"{tmp_path / MANIFEST} is damaged or was changed by hand: it is made anew.\n"


@pytest.mark.parametrize("content", ["{}", "[1]", '{"format": "mine"}'])
def test_what_is_no_manifest_is_not_overwritten(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with one_sentence(tmp_path / MANIFEST, "is not a manifest"):
        scan(files(tmp_path, "a"), tmp_path / MANIFEST, workers=1, advance=silent, check=note)
    assert (tmp_path / MANIFEST).read_text() == content


def test_a_name_that_cannot_be_written_down_is_one_sentence(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4"))
    with one_sentence("not UTF-8"):
        scan({"cafe": path}, tmp_path / MANIFEST, workers=1, advance=silent, check=note)


# What is said about it.


def test_the_summary_counts_and_names():
    def bad(name, kind):
        return ScannedVideo(name, f"{name}.mp4", 1, 1, problem=kind, reason=f"{name}.mp4 is {kind}.")

    good = [
        FACTS,
        replace(FACTS, constant_rate=False, duration_seconds=3480.0),
        replace(FACTS, rotation=90, constant_rate=False),
    ]
    videos = [ScannedVideo(f"g{k}", f"g{k}.mp4", 1, 1, facts) for k, facts in enumerate(good)]
    videos += [bad(f"b{k}", Problem.EMPTY) for k in range(2)] + [bad(f"t{k}", Problem.TRUNCATED) for k in range(4)]
    assert summary(Manifest(Path("/videos"), {video.name: video for video in videos})) == [
        "3 of 9 videos can be used: 1.00 hours.",  # 60 + 3480 + 60 s
        "2 of them have a variable frame rate: clips are cut by time.",
        "1 of them is stored on its side: frames are turned upright.",
        "6 are quarantined: 4 truncated, 2 empty.",
        "b0: b0.mp4 is empty.",
        "b1: b1.mp4 is empty.",
        "t0: t0.mp4 is truncated.",
        "t1: t1.mp4 is truncated.",
        "t2: t2.mp4 is truncated.",
        "… and 1 more, each with its reason in the manifest.",
    ]
    assert module.NAMED == 5


def test_one_video_is_no_videos():
    bad = ScannedVideo("b", "b.mp4", 1, 1, problem=Problem.EMPTY, reason="b.mp4 is empty.")
    good = ScannedVideo("g", "g.mp4", 1, 1, replace(FACTS, constant_rate=False))
    assert summary(Manifest(Path("/videos"), {"b": bad}))[:2] == [
        "0 of 1 video can be used: 0.00 hours.",
        "1 is quarantined: 1 empty.",
    ]
    assert summary(Manifest(Path("/videos"), {"g": good}))[1].startswith("1 of them has a variable frame rate")
