import os
import threading

import av
import numpy as np
import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import (
    cut,
    full_disk,
    names,
    number,
    numbered_video,
    numbers,
    one_sentence,
    silent,
    timed_video,
)
from tspbench.clips import frame_grid
from tspbench.stages import standardize as module
from tspbench.stages.standardize import standardize
from tspbench.storage.video import PyavReader, open_video, scan_video
from tspbench.storage.video_check import check_video


def made(folder, **videos):
    return standardize(videos, folder, workers=2, advance=silent)


def content(path):
    return open_video(scan_video(path)).read(np.arange(scan_video(path).frames))


def test_frames_are_those_shown_at_each_thirtieth_of_a_second(tmp_path):
    source = numbered_video(tmp_path / "source.mp4", 24)  # 12 fps: two seconds
    assert made(tmp_path / "out", v=source) == {}
    facts = check_video(tmp_path / "out" / "v.mp4")
    assert (facts.frames, facts.constant_rate, facts.duration_seconds) == (60, True, pytest.approx(2.0))
    # The frame nearest to k/30 s lies at 12 k/30 of the source; halves (k = 5, 15, …) go to the earlier one.
    assert numbers(content(tmp_path / "out" / "v.mp4")) == [min(23, int(np.ceil(k * 12 / 30 - 0.5))) for k in range(60)]


def test_a_variable_rate_becomes_constant_and_keeps_its_times(tmp_path):
    times = [5000, 5040, 5080, 5200, 5610, 6500, 6540, 7000]
    source = timed_video(tmp_path / "variable.mp4", times)
    made(tmp_path / "out", v=source)
    info = scan_video(tmp_path / "out" / "v.mp4")
    assert check_video(info.path).constant_rate
    shown = numbers(content(info.path))
    assert shown == [int(np.argmin(np.abs(np.array(times) - 5000 - k * 1000 / 30))) for k in range(len(shown))]
    assert info.duration == pytest.approx(scan_video(source).duration, abs=1 / 30)


def test_another_rate(tmp_path):
    source = numbered_video(tmp_path / "source.mp4", 24)
    standardize({"v": source}, tmp_path / "out", workers=1, advance=silent, frame_rate=6)
    assert numbers(content(tmp_path / "out" / "v.mp4")) == list(range(0, 24, 2))


@pytest.mark.parametrize(
    ("name", "size", "frames"),
    [
        ("video_90.mov", (568, 320), 3),  # turned upright
        ("testsrc2_odd_height_and_width_vp9.mp4", (240, 320), 30),  # of 241 × 321, a second
        ("test_non_zero_start.mp4", (112, 200), 12),
        ("arm_wrestling.mp4", (256, 340), 300),  # 10 s of 28 fps
    ],
)
def test_published_videos(tmp_path, name, size, frames):
    source = scan_video(shared(f"data/videos/{name}"))
    assert made(tmp_path, v=source.path) == {}
    result = scan_video(tmp_path / "v.mp4")
    assert (result.frames, result.turns) == (frames, 0)
    pictures = content(tmp_path / "v.mp4")
    assert pictures.shape[1:] == (*size, 3)
    first = open_video(source).read(frame_grid(source.timestamps, source.duration, 30)[:1])[0][: size[0], : size[1]]
    assert np.abs(pictures[0].astype(int) - first).mean() < 8  # lossy, but the same picture the same way up
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path):
    good = numbered_video(tmp_path / "good.mp4", 12)
    (tmp_path / "text.mp4").write_text("Dear user")
    bad = {"text": tmp_path / "text.mp4", "gone": tmp_path / "gone.mp4", "cut": cut(good, tmp_path / "cut.mp4", 0.6)}
    left_out = made(tmp_path / "out", good=good, **bad)
    assert list(left_out) == ["cut", "gone", "text"]
    assert "cannot be read as a video" in left_out["text"]
    assert names(tmp_path / "out") == ["good.mp4"]


def test_a_video_that_breaks_off_leaves_nothing(tmp_path):
    left_out = made(tmp_path / "out", v=shared("data/videos/corrupted.mp4"))
    assert "breaks off at frame 28" in left_out["v"]
    assert names(tmp_path / "out") == []


def test_finished_videos_are_not_made_again(tmp_path):
    videos = {k: numbered_video(tmp_path / f"{k}.mp4", 12) for k in "abc"}
    steps = []
    standardize(videos, tmp_path / "out", workers=1, advance=lambda *step: steps.append(step))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    times = {k: (tmp_path / "out" / f"{k}.mp4").stat().st_mtime_ns for k in "abc"}
    made(tmp_path / "out", **videos)
    assert times == {k: (tmp_path / "out" / f"{k}.mp4").stat().st_mtime_ns for k in "abc"}
    numbered_video(videos["a"], 12, first=70)
    os.utime(videos["b"], ns=(1, 1))
    made(tmp_path / "out", **videos)
    again = {k: (tmp_path / "out" / f"{k}.mp4").stat().st_mtime_ns for k in "abc"}
    assert [k for k in "abc" if times[k] != again[k]] == ["a", "b"]
    assert number(content(tmp_path / "out" / "a.mp4")[0]) == 70
    standardize(videos, tmp_path / "out", workers=1, advance=silent, frame_rate=6)
    assert scan_video(tmp_path / "out" / "c.mp4").frames == 6


def test_a_video_that_was_good_once_is_left_out_too(tmp_path):
    source = numbered_video(tmp_path / "v.mp4", 12)
    made(tmp_path / "out", v=source)
    source.write_text("Dear user")
    assert list(made(tmp_path / "out", v=source)) == ["v"]
    assert names(tmp_path / "out") == []


def test_nothing_of_the_user_s_is_overwritten(tmp_path):
    source = numbered_video(tmp_path / "v.mp4", 12)
    with one_sentence(tmp_path, "choose another folder"):
        made(tmp_path / "nowhere" / "..", v=source)
    other = numbered_video(tmp_path / "out" / "v.mp4", 3)
    before = other.read_bytes()
    with one_sentence(other, "choose another folder"):
        made(tmp_path / "out", v=source)
    assert other.read_bytes() == before


def test_a_full_disk_is_no_fault_of_the_video(tmp_path):
    source = numbered_video(tmp_path / "v.mp4", 240)
    with full_disk(), one_sentence("cannot be written", "what is finished is kept"):
        made(tmp_path / "out", v=source)
    assert names(tmp_path / "out") == []


def test_an_interruption_ends_at_once_and_leaves_whole_files(tmp_path, monkeypatch):
    videos = {f"v{k}": numbered_video(tmp_path / f"v{k}.mp4", 24) for k in range(6)}
    frames = module._frames

    def endless(source, *rest):
        yield from frames(source, *rest)
        while source.stem == "v2":
            yield from frames(source, *rest)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_frames", endless)
    with pytest.raises(KeyboardInterrupt):
        standardize(videos, tmp_path / "out", workers=1, advance=interrupt)
    monkeypatch.undo()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("standardize")]
    assert names(tmp_path / "out") == ["v0.mp4", "v1.mp4"]
    made(tmp_path / "out", **videos)
    assert [scan_video(tmp_path / "out" / f"{name}.mp4").frames for name in videos] == [60] * 6


def test_a_long_video_is_read_a_few_frames_at_a_time(tmp_path, monkeypatch):
    source = numbered_video(tmp_path / "v.mp4", 48)
    asked = []

    class Watched(PyavReader):
        def read(self, indices):
            asked.append(len(indices))
            return super().read(indices)

    monkeypatch.setattr(module, "open_video", Watched)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 56 * 56 * 3)
    made(tmp_path / "out", v=source)
    assert asked == [7] * 17 + [1]  # 4 s at 30 fps
