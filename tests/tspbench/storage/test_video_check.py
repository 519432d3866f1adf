from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imsave

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import cut, numbered, numbered_video, timed_video
from tspbench.storage import video_check
from tspbench.storage.video import PyavReader, VideoError, open_video, scan_video
from tspbench.storage.video_check import Problem, check_video, is_constant, probed_frames

FASTSTART = {"movflags": "faststart"}  # the index first, as for the web
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def noise(path, frames=120, options=None):
    """Write a video in which each frame takes as much room as any other."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w", format="mp4", container_options=options or {}) as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "10", "threads": "1", "bf": "0"})
        stream.width = stream.height = 56
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def problem(path):
    with pytest.raises(VideoError) as caught:
        check_video(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.endswith(".")
    assert "\n" not in text
    return caught.value.problem


# Which frames, and whether their rate is constant.


def test_three_seconds_of_a_long_video_are_decoded():
    # 10 s at 10 fps: frames of [0, 1), [4.5, 5.5] and [9, 10).
    assert probed_frames(np.arange(100) / 10, 10.0).tolist() == [*range(10), *range(45, 56), *range(90, 100)]


def test_all_of_a_short_video_and_the_ends_of_a_slow_one():
    assert probed_frames(np.arange(12) / 12, 1.0).tolist() == list(range(12))
    assert probed_frames(np.array([0.0]), 0.04).tolist() == [0]
    # A picture each 4 s: none lies in the middle or the last second.
    assert probed_frames(np.arange(4) * 4.0, 16.0).tolist() == [0, 2, 3]
    assert probed_frames(np.arange(3) * 4.0, 12.0).tolist() == [0, 2]


@given(
    gaps=st.lists(st.floats(0.001, 5), max_size=60),
    tail=st.floats(0.001, 5),
)
def test_first_and_last_are_always_among_them(gaps, tail):
    timestamps = np.concatenate([[0.0], np.cumsum(gaps)])
    chosen = probed_frames(timestamps, float(timestamps[-1] + tail))
    assert chosen[0] == 0
    assert chosen[-1] == len(timestamps) - 1
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize("rate", [Fraction(10900, 439), Fraction(30000, 1001), Fraction(30), Fraction(25), Fraction(8)])
@pytest.mark.parametrize("ticks", [90000, 1000, 600])
def test_rounded_times_are_a_constant_rate(rate, ticks):
    times = np.array([round(k / rate * ticks) / ticks for k in range(1000)])
    assert is_constant(times, 1 / ticks)
    # One frame dropped, one shown twice as long: what comes after is late by a frame.
    assert not is_constant(np.delete(times, 300), 1 / ticks)


def test_a_frame_left_out_of_ticks_of_a_frame_is_no_rounding():
    assert is_constant(np.arange(100) / 25, 1 / 25)
    assert not is_constant(np.delete(np.arange(101), 50) / 25, 1 / 25)


def test_one_frame_has_no_rhythm_to_miss():
    assert is_constant(np.array([0.0]), 0.001)


# Videos that can be used.


@pytest.mark.parametrize(
    ("name", "frames", "rate", "size", "rotation", "promised"),
    [
        ("arm_wrestling.mp4", 280, 28, (340, 256), 0, 280),
        ("flipping_a_pancake.mkv", 310, 30, (426, 240), 0, 0),  # Matroska does not say
        ("long_jump_30fps.mp4", 1052, 30, (480, 360), 0, 1052),
        ("long_jump_original.mp4", 871, 10900 / 439, (480, 360), 0, 871),
        ("nasa_13013.mp4", 390, 30000 / 1001, (480, 270), 0, 390),
        ("test_non_zero_start.mp4", 12, 30, (200, 112), 0, 12),
        ("testsrc2_odd_height_and_width_vp9.mp4", 25, 25, (321, 241), 0, 25),
        ("testsrc2_vp9.webm", 30, 30, (1280, 720), 0, 0),
        ("video_90.mov", 3, 30, (320, 568), 90, 3),
    ],
)
def test_published_videos(name, frames, rate, size, rotation, promised):
    facts = check_video(shared(f"data/videos/{name}"))
    assert (facts.frames, facts.promised_frames, facts.rotation) == (frames, promised, rotation)
    assert (facts.width, facts.height) == size
    assert facts.frame_rate == pytest.approx(rate, rel=1e-4)
    assert facts.duration_seconds == pytest.approx(frames / rate, rel=1e-4)
    assert facts.constant_rate
    assert facts.decoder.startswith("decord")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_is_a_fact(tmp_path, suffix):
    path = timed_video(tmp_path / f"variable{suffix}", [0, 40, 80, 200, 600, 1500, 1540, 2000])
    facts = check_video(path)
    assert not facts.constant_rate
    assert facts.frames == 8
    # From 0 to 2 s, and the median of the gaps 40, 40, 120, 400, 900, 40, 460 ms for the last frame.
    assert facts.duration_seconds == pytest.approx(2.12, abs=2e-3)
    assert facts.frame_rate == pytest.approx(8 / 2.12, rel=1e-3)


def test_the_name_does_not_matter(tmp_path):
    path = numbered_video(tmp_path / "video.mp4", 24)
    expected = check_video(path)
    for name in ("video.txt", "video.mkv", "video"):
        assert check_video(path.rename(tmp_path / name)) == expected
        path = tmp_path / name


def _without_last(path, target, packets):
    with av.open(str(path)) as container:
        starts = [p.pos for p in container.demux(video=0) if p.size]
    target.write_bytes(path.read_bytes()[: starts[-packets]])
    return target


def test_two_frames_fewer_than_promised_are_a_fact(tmp_path):
    whole = noise(tmp_path / "whole.mp4", 300, FASTSTART)
    facts = check_video(_without_last(whole, tmp_path / "short.mp4", 2))
    assert (facts.frames, facts.promised_frames) == (298, 300)


def test_large_frames_come_a_few_at_a_time(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "video.mp4", 40)
    asked = []

    class Watched(PyavReader):
        def read(self, indices):
            asked.append(indices.tolist())
            return super().read(indices)

    monkeypatch.setattr(video_check, "open_video", Watched)
    monkeypatch.setattr(video_check, "CHUNK_BYTES", 7 * 56 * 56 * 3)
    check_video(path)
    assert len(asked) > 3
    assert all(len(chunk) <= 7 for chunk in asked)
    assert {0, 11, 16, 24, 29, 39} < {k for chunk in asked for k in chunk}


# Files that cannot be used.


def test_a_published_file_that_breaks_off_inside():
    assert problem(shared("data/videos/corrupted.mp4")) == Problem.BROKEN_FRAMES


@pytest.mark.parametrize("name", ["long_jump_30fps.mp4", "flipping_a_pancake.mkv", "testsrc2_vp9.webm", "video_90.mov"])
def test_published_videos_cut_off(tmp_path, name):
    source = shared(f"data/videos/{name}")
    assert problem(cut(source, tmp_path / name, 0.6)) == Problem.TRUNCATED


@pytest.mark.parametrize("share", [0.6, 0.9])
@pytest.mark.parametrize("options", [{}, FASTSTART], ids=["index last", "index first"])
def test_written_videos_cut_off(tmp_path, options, share):
    assert problem(cut(noise(tmp_path / "whole.mp4", options=options), tmp_path / "cut.mp4", share)) == (
        Problem.TRUNCATED
    )


def _boxes(path):
    """Return name → (place, length) of the boxes of an mp4 file."""
    content, place, boxes = path.read_bytes(), 0, {}
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        boxes[content[place + 4 : place + 8]] = place, length
        place += length
    return boxes


def test_a_file_whose_writer_was_killed_has_no_index(tmp_path):
    path = noise(tmp_path / "video.mp4")
    content, boxes = bytearray(path.read_bytes()), _boxes(path)
    assert list(boxes) == [b"ftyp", b"free", b"mdat", b"moov"]
    path.write_bytes(content[: boxes[b"moov"][0]])
    assert problem(path) == Problem.TRUNCATED
    start = boxes[b"mdat"][0]
    content[start : start + 4] = bytes(4)  # a length that is written last: up to the end of the file
    path.write_bytes(content[: boxes[b"moov"][0]])
    assert problem(path) == Problem.TRUNCATED


def test_a_length_of_eight_bytes(tmp_path):
    path = noise(tmp_path / "video.mp4")
    expected = check_video(path)
    content, (start, length) = bytearray(path.read_bytes()), _boxes(path)[b"mdat"]
    # The empty box in front is there to make room for it.
    content[start - 8 : start + 8] = b"\0\0\0\1mdat" + (length + 8).to_bytes(8)
    path.write_bytes(content)
    assert check_video(path) == expected
    assert problem(cut(path, tmp_path / "cut.mp4", 0.6)) == Problem.TRUNCATED


def test_matroska_cut_off_says_so_though_it_plays(tmp_path):
    path = cut(timed_video(tmp_path / "whole.mkv", range(0, 4000, 40)), tmp_path / "cut.mkv", 0.6)
    assert open_video(scan_video(path)).read(np.array([0])).shape == (1, 56, 56, 3)
    assert problem(path) == Problem.TRUNCATED


def test_a_live_recording_in_matroska_says_no_size(tmp_path):
    path = timed_video(tmp_path / "live.mkv", range(0, 2000, 40), {"live": "1"})
    assert check_video(path).frames == 50


def test_a_header_that_promises_more_frames_than_exist(tmp_path):
    whole = noise(tmp_path / "whole.mp4", 300, FASTSTART)
    assert problem(_without_last(whole, tmp_path / "four.mp4", 4)) == Problem.TRUNCATED  # more than 1 % of 300


def _broken(path, packets):
    """Overwrite the content of some packets."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for k in packets:
        position, size = places[k]
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)


@pytest.mark.parametrize("packets", [range(120), [3], [60], [118]], ids=["all", "first", "middle", "last"])
def test_frames_that_cannot_be_decoded(tmp_path, packets):
    path = noise(tmp_path / "broken.mp4")
    _broken(path, packets)
    assert problem(path) == Problem.BROKEN_FRAMES


def test_a_frame_between_the_probed_seconds_is_not_seen(tmp_path):
    path = noise(tmp_path / "broken.mp4")  # a key frame each 12, so that the damage ends before the middle
    _broken(path, [25])
    assert check_video(path).frames == 120


def _sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _header_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 56
        stream.pix_fmt = "yuv420p"
        container.start_encoding()


def _fragments_alone(path):
    content = noise(path, 24, FRAGMENTS).read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("missing.mp4", lambda path: None, Problem.MISSING),
        ("folder.mp4", Path.mkdir, Problem.MISSING),
        ("empty.mp4", Path.touch, Problem.EMPTY),
        ("text.mp4", lambda path: path.write_text("Dear user,\n" * 99), Problem.NOT_A_VIDEO),
        ("text.txt", lambda path: path.write_text("Dear user,\n" * 99), Problem.NOT_A_VIDEO),  # FFmpeg films texts
        ("page.mkv", lambda path: path.write_text("<html>not found</html>"), Problem.NOT_A_VIDEO),
        ("short.mp4", lambda path: path.write_bytes(b"\0"), Problem.NOT_A_VIDEO),
        ("ebml.mkv", lambda path: path.write_bytes(b"\x1a\x45\xdf\xa3"), Problem.NOT_A_VIDEO),
        ("picture.mp4", lambda path: imsave(path, numbered(3), format="png"), Problem.NOT_A_VIDEO),
        ("photo.mp4", lambda path: imsave(path, numbered(3), format="jpg"), Problem.NOT_A_VIDEO),
        ("sound.mp4", _sound, Problem.NO_VIDEO_STREAM),
        ("header.mp4", _header_alone, Problem.NO_VIDEO_STREAM),  # mp4 lists no stream that has no frame
        ("header.mkv", _header_alone, Problem.NO_FRAMES),
        ("fragments.mp4", _fragments_alone, Problem.NO_FRAMES),
    ],
)
def test_what_is_no_video(tmp_path, name, make, expected):
    make(tmp_path / name)
    assert problem(tmp_path / name) == expected


def test_what_the_system_does_not_give_away(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "video.mp4", 12)
    monkeypatch.setattr(Path, "open", _refuse)  # the rights of a file do not bind root, who may run this
    assert problem(path) == Problem.UNREADABLE


def _refuse(*_, **__):
    raise PermissionError(13, "Permission denied")
