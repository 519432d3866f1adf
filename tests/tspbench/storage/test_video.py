import struct
from dataclasses import replace

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import cut, number, numbered, numbered_video, numbers, one_sentence, timed_video
from tspbench.storage import video as storage
from tspbench.storage.video import DecordReader, PyavReader, open_video, scan_video, write_video

READERS = {"decord": open_video, "pyav": PyavReader}
IRREGULAR = [0, 40, 80, 200, 230, 600, 640, 700, 1500, 1540, 1580, 2000, 2033, 2066, 2100, 2900]


@pytest.fixture(scope="module")
def regular(tmp_path_factory):
    return numbered_video(tmp_path_factory.mktemp("videos") / "regular.mp4", 150)


@pytest.fixture(params=READERS)
def reader_of(request):
    def opened(path):
        reader = READERS[request.param](scan_video(path))
        assert request.param in reader.decoder.lower()
        return reader

    return opened


def test_written_frames_come_back(regular, reader_of):
    info = scan_video(regular)
    assert (info.frames, info.turns, info.frame_bytes) == (150, 0, 56 * 56 * 3)
    assert_allclose(info.timestamps, np.arange(150) / 12, atol=1e-9)
    assert info.duration == pytest.approx(150 / 12, abs=1e-9)
    frames = reader_of(regular).read(np.arange(150))
    assert frames.dtype == np.uint8
    assert frames.shape == (150, 56, 56, 3)
    assert numbers(frames) == list(range(150))
    assert np.abs(frames[37].astype(int) - numbered(37)).mean() < 4  # lossy, but the right colours


@pytest.mark.parametrize(
    "indices",
    [
        [0],
        [149],
        [3, 3, 3],
        [5, 6, 6, 6, 7],
        [0, 2, 4, 6],
        [11, 12, 13],  # across a key frame
        [10, 100, 101, 149],
        [149, 149],
    ],
)
def test_any_frames_of_a_fresh_reader(regular, reader_of, indices):
    assert numbers(reader_of(regular).read(np.array(indices))) == indices


def test_calls_may_go_back_and_forth(regular, reader_of):
    reader = reader_of(regular)
    for first in (0, 140, 70, 70, 3, 149, 0):
        chosen = np.minimum(np.arange(first, first + 3), 149)
        assert numbers(reader.read(chosen)) == chosen.tolist()


@pytest.mark.parametrize(
    "name",
    [
        "long_jump_original.mp4",  # 24.83 frames a second
        "nasa_13013.mp4",  # 29.97
        "flipping_a_pancake.mkv",  # times in whole milliseconds
        "test_non_zero_start.mp4",
        "video_90.mov",  # turned by a flag
        "testsrc2_vp9.webm",
    ],
)
def test_both_readers_agree_frame_for_frame(name):
    info = scan_video(shared(f"data/videos/{name}"))
    chosen = np.unique(np.linspace(0, info.frames - 1, 9).astype(np.int64))
    first = open_video(info)
    assert isinstance(first, DecordReader)
    assert_array_equal(first.read(chosen), PyavReader(info).read(chosen))


def test_both_readers_give_each_frame_of_a_run(regular):
    info = scan_video(regular)
    assert_array_equal(open_video(info).read(np.arange(150)), PyavReader(info).read(np.arange(150)))


def test_a_video_filmed_on_its_side_is_upright(reader_of):
    path = shared("data/videos/video_90.mov")
    assert scan_video(path).turns == 3
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert stored.shape == (320, 568, 3)
    assert_array_equal(reader_of(path).read(np.array([0]))[0], np.rot90(stored, 3))  # a quarter turn clockwise


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("start", [0, 5000])
def test_irregular_times_and_a_late_start(tmp_path, reader_of, suffix, start):
    path = timed_video(tmp_path / f"irregular{suffix}", [start + t for t in IRREGULAR])
    info = scan_video(path)
    assert_allclose(info.timestamps, np.array(IRREGULAR) / 1000, atol=6e-4)
    assert info.duration == pytest.approx((2900 + np.median(np.diff(IRREGULAR))) / 1000, abs=2e-3)
    reader = reader_of(path)
    assert numbers(reader.read(np.arange(16))) == list(range(16))
    assert numbers(reader.read(np.array([2, 9, 9, 15]))) == [2, 9, 9, 15]


def test_a_video_of_one_frame(tmp_path, reader_of):
    path = numbered_video(tmp_path / "one.mp4", 1, first=9)
    info = scan_video(path)
    assert (info.frames, info.duration) == (1, pytest.approx(1 / 12))
    assert numbers(reader_of(path).read(np.array([0, 0]))) == [9, 9]


def test_decord_hands_over_where_it_gives_up(regular, monkeypatch):
    info = scan_video(regular)
    reader = open_video(info)
    assert numbers(reader.read(np.array([1]))) == [1]

    class Failing:
        def get_batch(self, indices):
            raise storage.decord.DECORDError("cannot")

    reader._reader = Failing()
    assert numbers(reader.read(np.array([7, 8]))) == [7, 8]
    assert reader.decoder.startswith("PyAV")


def test_pyav_reads_what_decord_cannot_open_or_counts_differently(regular, monkeypatch):
    info = scan_video(regular)
    for stand_in in (lambda *_, **__: 1 / 0, lambda *_, **__: range(149)):
        monkeypatch.setattr(storage.decord, "VideoReader", stand_in)
        reader = open_video(info)
        assert isinstance(reader, PyavReader)
        assert number(reader.read(np.array([149]))[0]) == 149


def test_writing_is_a_function_of_the_frames(tmp_path):
    first, second = numbered_video(tmp_path / "a.mp4", 30), numbered_video(tmp_path / "b.mp4", 30)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != numbered_video(tmp_path / "c.mp4", 30, first=1).read_bytes()


def test_key_frames_come_each_second_and_never_at_a_cut(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2, 56, 56, 3), dtype=np.uint8)
    write_video(tmp_path / "cut.mp4", [noise[int(k >= 17)] for k in range(40)], 12)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        keys = sorted(round(p.pts * p.time_base * 12) for p in packets if p.is_keyframe)
        first = min(round(p.pts * p.time_base * 12) for p in packets)
    assert [key - first for key in keys] == [0, 12, 24, 36]


# What users bring that is no whole video.


def _noisy_video(path, options=None):
    rng = np.random.default_rng(1)
    with av.open(str(path), "w", format="mp4", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "10", "threads": "1"})
        stream.width = stream.height = 56
        stream.pix_fmt = "yuv420p"
        for _ in range(120):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _boxes(path):
    content, position, names = path.read_bytes(), 0, []
    while position + 8 <= len(content):
        size, name = struct.unpack(">I4s", content[position : position + 8])
        names.append(name.decode())
        position += size
    return names


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["index at the end", "index first"])
def test_a_file_cut_off_is_one_sentence(tmp_path, options):
    whole = _noisy_video(tmp_path / "whole.mp4", options)
    index_first = _boxes(whole).index("moov") < _boxes(whole).index("mdat")
    assert index_first == bool(options)
    assert scan_video(whole).frames == 120
    path = cut(whole, tmp_path / "cut.mp4", 0.6)
    with one_sentence(path, "truncated" if index_first else "cannot be read as a video", "copy or download it again"):
        scan_video(path)


def test_a_published_file_that_breaks_off_inside_is_one_sentence(reader_of):
    info = scan_video(shared("data/videos/corrupted.mp4"))
    with one_sentence(info.path, "breaks off at frame 28", "Invalid data"):
        reader_of(info.path).read(np.arange(info.frames))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "cannot be read as a video"), (b"Dear user,\n" * 99, "cannot be read as a video"), (None, "is not a file")],
    ids=["empty", "text", "missing"],
)
def test_what_is_no_video_is_one_sentence(tmp_path, content, expected):
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with one_sentence(path, expected):
        scan_video(path)


def test_a_folder_is_no_video(tmp_path):
    with one_sentence(tmp_path, "is not a file"):
        scan_video(tmp_path)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with one_sentence(path, "no video stream"):
        scan_video(path)


def test_a_file_exchanged_for_a_shorter_one_is_one_sentence(regular, tmp_path):
    path = numbered_video(tmp_path / "shorter.mp4", 20)
    with one_sentence(path, "frame 30", "the file ends before it"):
        PyavReader(replace(scan_video(regular), path=path)).read(np.array([30]))
