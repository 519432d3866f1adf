"""Features of sound: folders of .npy files, and how many rows a video has."""

import pickle
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import names, one_sentence
from tspbench.storage.features import FeatureFiles
from tspbench.storage.sound import check_sound_lengths, sound_h5


def rows(count=4, width=128, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def folder_of(path, **files):
    """Write a folder of arrays, or of bytes."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / f"{name}.npy").write_bytes(content)
        else:
            np.save(path / f"{name}.npy", content)
    return path


def test_a_folder_becomes_one_file(tmp_path):
    source = folder_of(tmp_path / "s", a=rows(3), v_b=rows(5, seed=1), c_vggish=rows(7, seed=2), v_d_vggish=rows(2))
    folder_of(source, other=rows(9, width=4), e=np.ones((2, 128), dtype=np.int16))  # nobody asks for "other"
    (source / "notes.txt").write_text("VGGish")
    videos = ["d", "c", "b", "a", "e", "silent"]
    out = sound_h5(source, tmp_path / "new" / "sound.h5", videos)
    assert out == tmp_path / "new" / "sound.h5"
    assert names(out.parent) == ["sound.h5"]
    sound = FeatureFiles([out])
    assert sound.videos == {"a", "b", "c", "d", "e"}
    assert (sound.feature_dim, sound.meaning()) == (128, {})
    assert_array_equal(sound.rows("b"), rows(5, seed=1))
    assert_array_equal(sound.rows("c"), rows(7, seed=2))
    assert sound.rows("e").dtype == np.float32
    # Two rows are two halves of the video.
    assert_allclose(sound.centres("d", 2, 10.0), [2.5, 7.5])


@pytest.mark.parametrize("stem", ["v_x", "x", "v_x_vggish", "x_vggish"])
@pytest.mark.parametrize("video", ["v_x", "x"])
def test_names_with_and_without_prefix(tmp_path, stem, video):
    out = sound_h5(folder_of(tmp_path / "s", **{stem: rows()}), tmp_path / "o.h5", [video])
    assert FeatureFiles([out]).videos == {video}


def test_an_h5_file_stays(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["a"] = rows()
    before = (tmp_path / "s.h5").read_bytes()
    assert sound_h5(tmp_path / "s.h5", tmp_path / "o.h5", ["a"]) == tmp_path / "s.h5"
    assert names(tmp_path) == ["s.h5"]
    assert (tmp_path / "s.h5").read_bytes() == before


def saved(array):
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "a.npy", array)
        return (Path(folder) / "a.npy").read_bytes()


def archive():
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "a.npz", rows=rows())
        return (Path(folder) / "a.npz").read_bytes()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (np.array([[None, "a"]], dtype=object), ["expected an .npy file of (S, D) numbers, found Python objects"]),
        (pickle.dumps(rows()), ["found Python objects"]),
        (saved(rows())[:-1], ["cut off"]),
        (saved(rows())[:40], ["cut off"]),
        (b"", ["cut off"]),
        (archive(), ["another format"]),
        (rows()[0], ["found float32 (128,)"]),
        (rows()[None], ["found float32 (1, 4, 128)"]),
        (np.float32(1), ["found float32 ()"]),
        (rows(0), ["neither axis empty, found float32 (0, 128)"]),
        (np.array([["a"]]), ["found <U1 (1, 1)"]),
        (rows().astype(complex), ["found complex128 (4, 128)"]),
        (np.full((4, 128), np.nan), ["holds NaN or infinity"]),
        (np.full((4, 128), 1e39), ["holds NaN or infinity"]),  # more than float32 holds
        (rows(width=64), ["expected rows of 128 numbers as in", "a.npy, found 64;"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, content, parts):
    source = folder_of(tmp_path / "s", a=rows(), b=content)
    with one_sentence(f"{source / 'b.npy'}", *parts):
        sound_h5(source, tmp_path / "o.h5", ["a", "b"])
    assert names(tmp_path) == ["s"]


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "s" / "a.npy").mkdir(parents=True)
    with one_sentence(tmp_path / "s" / "a.npy", "cannot be read (Is a directory)"):
        sound_h5(tmp_path / "s", tmp_path / "o.h5", ["a"])


@pytest.mark.parametrize("stem", ["v_x", "x_vggish", "v_x_vggish"])
def test_two_files_of_one_video_are_one_sentence(tmp_path, stem):
    source = folder_of(tmp_path / "s", x=rows(), **{stem: rows()})
    for video in ("x", "v_x"):
        with one_sentence(source, f"expected one file of the video {video!r}", "x.npy", f"{stem}.npy"):
            sound_h5(source, tmp_path / "o.h5", [video])


def test_a_source_that_does_not_fit_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with one_sentence(tmp_path / "empty", "expected .npy files of sound features", "found none"):
        sound_h5(tmp_path / "empty", tmp_path / "o.h5", ["a"])
    source = folder_of(tmp_path / "s", a=rows())
    with one_sentence(source, "a file of one of 2 videos (such as b.npy), found none, but a.npy;"):
        sound_h5(source, tmp_path / "o.h5", ["c", "b"])
    with one_sentence(source, "a file of one of 0 videos, found none"):
        sound_h5(source, tmp_path / "o.h5", [])
    with one_sentence(source / "a.npy", "found a single .npy file; give the folder"):
        sound_h5(source / "a.npy", tmp_path / "o.h5", ["a"])
    with one_sentence(tmp_path / "none", "does not exist"):
        sound_h5(tmp_path / "none", tmp_path / "o.h5", ["a"])
    assert names(tmp_path) == ["empty", "s"]


def test_a_failure_leaves_the_old_file(tmp_path):
    source = folder_of(tmp_path / "s", a=rows(), b=rows())
    out = sound_h5(source, tmp_path / "o.h5", ["a"])
    before = out.read_bytes()
    folder_of(source, b=saved(rows())[:-1])
    with one_sentence(source / "b.npy"):
        sound_h5(source, out, ["a", "b"])
    assert (out.read_bytes(), names(tmp_path)) == (before, ["o.h5", "s"])


stems = st.tuples(st.sampled_from(["", "v_"]), st.sampled_from(["", "_vggish"]), st.integers(1, 5))
videos = st.text("abv-", min_size=1, max_size=4)  # without "_": none has the prefix


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(videos, stems, min_size=1, max_size=5), st.booleans())
def test_every_row_arrives(files, prefixed):
    wanted = {f"v_{video}" if prefixed else video: count for video, (*_, count) in files.items()}
    arrays = {f"{begin}{video}{end}": rows(count, 3, seed=count) for video, (begin, end, count) in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = sound_h5(folder_of(Path(folder) / "s", **arrays), Path(folder) / "o.h5", wanted)
        sound = FeatureFiles([out])
        assert sound.videos == wanted.keys()
        for video, count in wanted.items():
            assert_array_equal(sound.rows(video), rows(count, 3, seed=count))


# How many rows a video has: one each 0.96 s; 96 s make 100 rows, 9.6 s make 10.


def sound_of(folder, **counts):
    with h5py.File(folder / "s.h5", "w") as file:
        for name, count in counts.items():
            file[name] = np.zeros((count, 4), dtype=np.float32)
    return FeatureFiles([folder / "s.h5"])


@pytest.mark.parametrize(
    ("seconds", "count"), [(96, 100), (96, 90), (96, 110), (9.6, 7), (9.6, 13), (0.5, 1), (0.5, 3), (2.88, 6)]
)
def test_lengths_that_fit(tmp_path, seconds, count):
    check_sound_lengths(sound_of(tmp_path, a=count), {"a": seconds, "silent": 1000.0})


@pytest.mark.parametrize(
    ("seconds", "count", "expected"),
    [(96, 89, 100), (96, 111, 100), (9.6, 6, 10), (9.6, 14, 10), (0.48, 4, 1), (2.88, 7, 3), (0.1, 4, 1)],
)
def test_lengths_that_do_not_fit_are_one_sentence(tmp_path, seconds, count, expected):
    sound = sound_of(tmp_path, a=100, b=count, c=1)
    with one_sentence(
        f"{tmp_path / 's.h5'}, entry 'b': expected about {expected} rows",
        f"one each 0.96 s of {seconds:g} s, found {count};",
    ):
        check_sound_lengths(sound, {"a": 96.0, "b": seconds, "c": 96.0})


def test_rows_of_other_lengths(tmp_path):
    sound = sound_of(tmp_path, a=50)
    check_sound_lengths(sound, {"a": 100.0}, row_seconds=2.0)
    with one_sentence("about 100 rows, one each 1 s"):
        check_sound_lengths(sound, {"a": 100.0}, row_seconds=1.0)


def test_sound_of_other_videos_is_one_sentence(tmp_path):
    sound = sound_of(tmp_path, v_a=5)
    with one_sentence("of 1 videos (such as 'a'), found none of them, but 'v_a'"):
        check_sound_lengths(sound, {"a": 5.0})
    check_sound_lengths(sound, {})
