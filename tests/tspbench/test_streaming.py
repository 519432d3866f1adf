import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import cut, number, numbered, numbered_video, timed_video
from tspbench import streaming
from tspbench.encoders.contract import Preprocessing
from tspbench.errors import UserError
from tspbench.storage.video import Problem, open_video, scan_video
from tspbench.streaming import clip_batches, clip_windows, decoding, padded_grid

SPEC = Preprocessing(4, 12.0, (56, 56), 56, (0.0,) * 3, (1.0,) * 3)
CPU = torch.device("cpu")


def frame_numbers(clips):
    """Return the numbers that the frames of (B, 3, F, H, W) clips show."""
    frames = (clips * 255).permute(0, 2, 3, 4, 1).numpy()
    return [[number(frame) for frame in clip] for clip in frames]


def collect(videos, stride=4, batch_size=5, decoders=2, unreadable=None, spec=SPEC):
    """Return video → the numbers of each clip's frames, the batch sizes, and the decoded videos."""
    found, sizes = {name: [] for name in videos}, []
    with decoding(videos, spec, decoders) as decoded:
        for batch in clip_batches(decoded, spec, stride, batch_size, CPU, {} if unreadable is None else unreadable):
            sizes.append(len(batch.clips))
            shown = iter(frame_numbers(batch.clips))
            for name, count in batch.owners:
                found[name] += [next(shown) for _ in range(count)]
            assert next(shown, None) is None
    return found, sizes, decoded


def sliced(grid, clip, stride):
    return [grid[first : first + clip].tolist() for first in range(0, len(grid) - clip + 1, stride)]


@given(
    frames=st.integers(0, 120),
    cuts=st.lists(st.integers(0, 120), max_size=12),
    clip=st.integers(1, 20),
    stride=st.integers(1, 45),
)
def test_windows_are_plain_slices_however_the_frames_come(frames, cuts, clip, stride):
    video = torch.arange(frames, dtype=torch.float32).expand(3, frames)[..., None, None] * torch.ones(1, 1, 2, 2)
    edges = sorted({0, frames, *(c for c in cuts if c < frames)})
    chunks = (video[:, a:b] for a, b in pairwise(edges))
    windows = [clip for batch in clip_windows(chunks, clip, stride) for clip in batch]
    expected = [video[:, first : first + clip] for first in range(0, frames - clip + 1, stride)]
    assert len(windows) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(windows, expected, strict=True))


def test_windows_hold_back_no_more_than_a_clip():
    held = []

    def chunks():
        for k in range(50):
            held.append(k)
            yield torch.full((3, 10, 1, 1), float(k))

    first = next(clip_windows(chunks(), 16, 16))
    assert first.shape == (1, 3, 16, 1, 1)
    assert held == [0, 1]


@pytest.mark.parametrize("stride", [1, 3, 4, 9])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_clips_of_several_videos_in_order(tmp_path, monkeypatch, stride, batch_size):
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 7)
    lengths = {"a": 30, "b": 4, "c": 17}
    videos = {n: numbered_video(tmp_path / f"{n}.mp4", f, first=100 * k) for k, (n, f) in enumerate(lengths.items())}
    found, sizes, decoded = collect(videos, stride, batch_size)
    for k, (name, frames) in enumerate(lengths.items()):
        assert found[name] == sliced(100 * k + np.arange(frames), 4, stride)
        assert len(found[name]) == max(1, (frames - 4) // stride + 1)
        assert decoded[name].duration == pytest.approx(frames / 12)
        assert decoded[name].decoder.startswith("decord")
    assert set(sizes[:-1]) <= {batch_size}
    assert sizes[-1] <= batch_size


def test_a_video_shorter_than_a_clip_holds_its_last_frame(tmp_path):
    found, _, _ = collect({"short": numbered_video(tmp_path / "short.mp4", 3)})
    assert found == {"short": [[0, 1, 2, 2]]}


def test_frames_are_chosen_by_time(tmp_path):
    # 24 frames a second to 12, then a standstill of half a second, on which six instants fall.
    times = [1000 * k / 24 for k in range(12)] + [1000.0, 1041.7]
    info = scan_video(timed_video(tmp_path / "v.mkv", [round(t) for t in times]))
    assert_array_equal(padded_grid(info, SPEC), [0, 2, 4, 6, 8, 10, 11, 11, 11, 12, 12, 12, 12])
    found, _, _ = collect({"v": info.path})
    assert found["v"] == [[0, 2, 4, 6], [8, 10, 11, 11], [11, 12, 12, 12]]


def test_each_frame_is_decoded_once_whatever_the_stride(tmp_path, monkeypatch):
    asked = []

    class Counting:
        decoder = "counting"

        def __init__(self, info):
            self._reader = open_video(info)

        def read(self, indices):
            asked.extend(indices.tolist())
            return self._reader.read(indices)

    monkeypatch.setattr(streaming, "open_video", Counting)
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 9)
    found, _, _ = collect({"v": numbered_video(tmp_path / "v.mp4", 40)}, stride=1)
    assert len(found["v"]) == 37
    assert asked == list(range(40))


def test_large_frames_come_in_smaller_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 3 * 56 * 56 * 3 + 1)
    video = numbered_video(tmp_path / "v.mp4", 10)
    with decoding({"v": video}, SPEC, 1) as decoded:
        assert [len(chunk) for chunk in decoded["v"].chunks()] == [3, 3, 3, 1]


def test_unreadable_videos_harm_no_other(tmp_path):
    whole = numbered_video(tmp_path / "whole.mp4", 40)
    (tmp_path / "text.mp4").write_text("no video")
    videos = {
        "a": numbered_video(tmp_path / "a.mp4", 12),
        "b": cut(whole, tmp_path / "b.mp4", 0.6),
        "c": numbered_video(tmp_path / "c.mp4", 12, first=200),
        "d": tmp_path / "text.mp4",
        "e": tmp_path / "missing.mp4",
        "f": numbered_video(tmp_path / "f.mp4", 5, first=500),
    }
    unreadable = {}
    found, _, _ = collect(videos, unreadable=unreadable)
    assert sorted(unreadable) == ["b", "d", "e"]
    assert all(isinstance(error, UserError) and str(videos[n]) in str(error) for n, error in unreadable.items())
    alone, _, _ = collect({name: videos[name] for name in "acf"})
    assert {name: found[name] for name in "acf"} == alone


def test_a_video_that_breaks_off_inside_is_unreadable_too(tmp_path, monkeypatch):
    class Breaking:
        decoder = "breaking"

        def __init__(self, info):
            self._reader, self._breaks = open_video(info), info.path.stem == "b"

        def read(self, indices):
            if self._breaks and 20 in indices:
                raise UserError("b breaks off at frame 20.")
            return self._reader.read(indices)

    monkeypatch.setattr(streaming, "open_video", Breaking)
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 8)
    videos = {n: numbered_video(tmp_path / f"{n}.mp4", 30, first=100 * k) for k, n in enumerate("abc")}
    unreadable = {}
    found, _, _ = collect(videos, unreadable=unreadable)
    assert list(unreadable) == ["b"]
    assert found["a"] == sliced(np.arange(30), 4, 4)
    assert found["c"] == sliced(200 + np.arange(30), 4, 4)
    assert found["b"] == sliced(100 + np.arange(16), 4, 4)  # handed out before: it is for the caller to drop them


def test_a_bug_is_not_taken_for_an_unreadable_video(tmp_path, monkeypatch):
    def broken(info):
        raise ZeroDivisionError

    monkeypatch.setattr(streaming, "open_video", broken)
    with pytest.raises(ZeroDivisionError):
        collect({"v": numbered_video(tmp_path / "v.mp4", 8)})


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("decoders", [1, 3])
def test_threads_end_when_the_consumer_stops_early(tmp_path, monkeypatch, decoders):
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 2)
    videos = {f"v{k}": numbered_video(tmp_path / f"{k}.mp4", 60) for k in range(5)}

    def stop_early():
        with decoding(videos, SPEC, decoders) as decoded:
            for batch in clip_batches(decoded, SPEC, 4, 2, CPU, {}):
                assert decoding_threads()
                assert len(batch.clips) == 2
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_early()
    assert decoding_threads() == []


def test_no_more_is_decoded_ahead_than_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 2)
    read, full = [], threading.Event()

    class Counting:
        decoder = "counting"

        def __init__(self, info):
            pass

        def read(self, indices):
            read.append(len(indices))
            if len(read) == streaming.CHUNKS_AHEAD + 1:  # two wait, the third cannot be handed over
                full.set()
            assert len(read) <= streaming.CHUNKS_AHEAD + 1
            return np.stack([numbered(0)] * len(indices))

    monkeypatch.setattr(streaming, "open_video", Counting)
    with decoding({"v": numbered_video(tmp_path / "v.mp4", 60)}, SPEC, 1):
        assert full.wait(10)
    assert read == [2, 2, 2]


@pytest.mark.parametrize("decoders", [1, 2])
def test_a_decoder_that_hangs_costs_its_video_alone(tmp_path, monkeypatch, decoders):
    released = threading.Event()

    class Hanging:
        decoder = "hanging"

        def __init__(self, info):
            self._reader, self._hangs = open_video(info), info.path.stem in "bc"

        def read(self, indices):
            if self._hangs and 8 in indices:
                released.wait(60)
            return self._reader.read(indices)

    monkeypatch.setattr(streaming, "open_video", Hanging)
    monkeypatch.setattr(streaming, "FRAMES_PER_CHUNK", 8)
    monkeypatch.setattr(streaming, "DECODER_SECONDS", 0.3)
    videos = {n: numbered_video(tmp_path / f"{n}.mp4", 20, first=100 * k) for k, n in enumerate("abcd")}
    unreadable = {}
    found, _, _ = collect(videos, decoders=decoders, unreadable=unreadable)
    assert {name: error.problem for name, error in unreadable.items()} == dict.fromkeys("bc", Problem.TIMEOUT)
    assert all(str(videos[name]) in str(error) for name, error in unreadable.items())
    assert found["a"] == sliced(np.arange(20), 4, 4)
    assert found["d"] == sliced(300 + np.arange(20), 4, 4)
    left = decoding_threads()
    assert len(left) == 2
    assert all(thread.daemon for thread in left)
    released.set()
    for thread in left:
        thread.join(10)
    assert decoding_threads() == []
