import decord
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import cut, numbered_video, numbers, one_sentence, timed_video
from tspbench import clip_reading as module
from tspbench.clip_reading import ClipReader, clip_reader
from tspbench.clips import Clip
from tspbench.encoders.contract import KINETICS_112, Preprocessing
from tspbench.storage.video import open_video, scan_video
from tspbench.streaming import padded_grid

SPEC = Preprocessing(4, 12.0, (56, 56), 56, (0.0,) * 3, (1.0,) * 3)
FRAME_BYTES = 56 * 56 * 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: numbered_video(folder / f"{name}.mp4", 60, first=100 * k) for k, name in enumerate("abc")}


@pytest.fixture
def opened(monkeypatch):
    """Note which files are opened."""
    seen = []
    for name in ("read_whole", "open_for_clips"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda info, *more, real=real: seen.append(info.path.stem) or real(info, *more)
        )
    return seen


def test_clips_are_the_same_however_they_are_read(videos):
    whole, one_by_one = ClipReader(videos, SPEC), ClipReader(videos, SPEC, cache_bytes=0)
    for name, start in (("a", 0.0), ("a", 1.7), ("b", 2.04), ("a", 4.9), ("b", 0.0), ("a", 0.3)):
        assert_array_equal(whole.read(name, start), one_by_one.read(name, start))
    assert numbers(whole.read("a", 1.7)) == [20, 21, 22, 23]  # 20.4 frames
    assert numbers(whole.read("a", 4.9)) == [56, 57, 58, 59]  # the last whole clip


@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "flipping_a_pancake.mkv"])
def test_clips_of_published_videos_are_those_of_a_fresh_reader(name):
    path = shared(f"data/videos/{name}")
    kept = {bound: ClipReader({"v": path}, KINETICS_112, bound) for bound in (0, 1 << 30)}
    info = scan_video(path)
    grid = padded_grid(info, KINETICS_112)
    for start in np.random.default_rng(0).uniform(0, info.duration, 4):
        first = min(round(start * 15), max(0, len(grid) - 16))
        expected = open_video(info).read(grid[first : first + 16])
        for reader in kept.values():
            assert_array_equal(reader.read("v", start), expected)


def test_videos_stay_decoded_as_far_as_they_fit(videos, opened):
    many = videos | {f"{k}": videos["a"] for k in range(3)}
    reader = ClipReader(many, SPEC, 3 * 60 * FRAME_BYTES)
    for name in "012012":
        reader.read(name, 1.0)
    assert opened == ["a", "a", "a"]
    del opened[:]
    for name in "bcbc":  # there is no room for them any more
        reader.read(name, 1.0)
    assert opened == list("bcbc")
    del opened[:]
    for name in "012":  # the first ones stay
        reader.read(name, 1.0)
    assert not opened


def test_no_video_is_decoded_as_a_whole_that_takes_too_long(videos, opened, monkeypatch):
    monkeypatch.setattr(module, "WHOLE_BYTES", 60 * FRAME_BYTES - 1)  # one frame is too many
    reader = ClipReader(videos, SPEC)
    for _ in range(2):
        assert numbers(reader.read("a", 1.0)) == [12, 13, 14, 15]
    assert not reader._whole
    assert opened == ["a"]  # it stays open


def test_the_last_file_stays_open(videos, opened):
    reader = ClipReader(videos, SPEC, 0)
    for name in "aabbba":
        reader.read(name, 1.0)
    assert "".join(opened) == "aba"


def test_a_video_is_scanned_once_also_if_it_is_bad(videos, tmp_path, monkeypatch):
    scanned = []
    real = module.scan_video
    monkeypatch.setattr(module, "scan_video", lambda path: scanned.append(path.stem) or real(path))
    reader = ClipReader(videos | {"bad": cut(videos["a"], tmp_path / "bad.mp4", 0.6)}, SPEC, 0)
    for name in ("a", "bad", "a", "bad"):
        if name == "bad":
            with one_sentence(tmp_path / "bad.mp4", "cannot be read"):
                reader.read(name, 1.0)
        else:
            reader.read(name, 1.0)
    assert scanned == ["a", "bad"]


def test_what_a_decoder_raises_is_about_the_file(videos, monkeypatch):
    reader = ClipReader(videos, SPEC)

    def broken(info, indices):
        raise decord.DECORDError("line one\nline two")

    monkeypatch.setattr(module, "read_whole", broken)
    with one_sentence(videos["a"], "crashed what decodes it (DECORDError: ", "line one"):
        reader.read("a", 1.0)
    monkeypatch.undo()
    assert numbers(reader.read("a", 1.0)) == [12, 13, 14, 15]


def test_a_published_video_that_breaks_off_says_so():
    reader = ClipReader({"v": shared("data/videos/corrupted.mp4")}, KINETICS_112)
    with one_sentence("corrupted.mp4", "breaks off"):
        reader.read("v", 9.0)


def test_no_frame_past_the_last_is_asked_for(tmp_path, monkeypatch):
    """A video of uneven rhythm, shorter than a clip: the last frame is repeated."""
    path = timed_video(tmp_path / "v.mp4", [0, 40, 80, 120, 130])
    asked = []

    class Noting:
        def __init__(self, info):
            self._reader = open_video(info)

        def read(self, indices):
            asked.extend(indices.tolist())
            return self._reader.read(indices)

    monkeypatch.setattr(module, "open_for_clips", Noting)
    monkeypatch.setattr(module, "read_whole", lambda info, indices: Noting(info).read(indices))
    for bound in (0, 1 << 20):
        frames = ClipReader({"v": path}, SPEC, bound).read("v", 9.0)
        assert numbers(frames)[-1] == 4
        assert len(frames) == 4
    assert max(asked) == 4


def test_a_clip_is_prepared_as_its_seed_says(videos):
    spec = Preprocessing(4, 12.0, (64, 64), 48, (0.5,) * 3, (0.5,) * 3)
    read = clip_reader(videos, spec, 1 << 28)
    central, first, again, other = (read(Clip("a", 1.0, seed)) for seed in (None, 1, 1, 2))
    assert central.shape == (3, 4, 48, 48)
    assert central.dtype == np.float32
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, central)
