import pickle
from dataclasses import asdict

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import one_sentence, silent
from tspbench.storage.features import (
    FeatureFiles,
    RowMeaning,
    VideoFeatures,
    assemble,
    finished_videos,
    read_vectors,
    write_features,
    write_part,
)

MEANING = RowMeaning("tiny", "abc", clip_frames=8, stride_frames=6, frame_rate=12.0, feature_dim=3, precision="fp32")


def video(rows=4, dim=3, seed=0, duration=5.5):
    return VideoFeatures(
        np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32), duration, "decord 0"
    )


def plain(path, entries):
    """Write a file as others do: data sets and nothing else."""
    with h5py.File(path, "w") as file:
        for name, values in entries.items():
            file[name] = values
    return path


def test_a_whole_file_says_what_its_rows_are(tmp_path):
    videos = {"v1": video(4, seed=1), "v2": video(7, seed=2, duration=9.0)}
    write_features(tmp_path / "f.h5", videos, MEANING)
    files = FeatureFiles([tmp_path / "f.h5"])
    assert files.videos == {"v1", "v2"}
    assert files.feature_dim == 3
    assert not files.is_vectors()
    assert files.meaning() == {"format": "tspbench features 1", **asdict(MEANING)}
    for name, expected in videos.items():
        assert_array_equal(files.rows(name), expected.rows)
        assert files.rows(name).dtype == np.float32
        assert files.duration(name, None) == expected.duration
        assert files.duration(name, 8.25) == 8.25  # annotations have the last word
    # Clips of 8 frames every 6 frames at 12 a second: middles at 4, 10, 16 and 22 frames.
    assert_allclose(files.centres("v1", 4, 5.5), np.array([4, 10, 16, 22]) / 12)


def test_parts_join_into_the_same_as_one_piece(tmp_path):
    videos = {f"v{k}": video(k + 1, seed=k) for k in range(5)}
    stamps = {name: f"made from {name}" for name in videos}
    write_part(tmp_path / "a.h5", {name: videos[name] for name in ("v0", "v3")}, stamps)
    write_part(tmp_path / "b.h5", {name: videos[name] for name in ("v1", "v2", "v4")}, stamps)
    write_part(tmp_path / "none.h5", {}, stamps)
    parts = finished_videos(tmp_path, stamps)
    assert {name: part.stem for name, part in parts.items()} == {"v0": "a", "v3": "a", "v1": "b", "v2": "b", "v4": "b"}
    assemble(tmp_path / "joined.h5", parts, MEANING, {"v9": "it is broken", "v8": "it is gone"})
    joined = FeatureFiles([tmp_path / "joined.h5"])
    assert joined.videos == set(videos)
    assert joined.meaning() == {
        "format": "tspbench features 1",
        **asdict(MEANING),
        "skipped": ["v8: it is gone", "v9: it is broken"],
    }
    for name, expected in videos.items():
        assert_array_equal(joined.rows(name), expected.rows)
        assert joined.duration(name, None) == expected.duration


def test_a_video_that_was_exchanged_is_not_taken_from_a_part(tmp_path):
    write_part(tmp_path / "a.h5", {name: video(2, seed=1) for name in ("v0", "v1")}, {"v0": "old", "v1": "old"})
    assert finished_videos(tmp_path, {"v0": "new", "v1": "old"}) == {"v1": tmp_path / "a.h5"}
    write_part(tmp_path / "b.h5", {"v0": video(3, seed=2)}, {"v0": "new"})
    parts = finished_videos(tmp_path, {"v0": "new", "v1": "old"})
    assemble(tmp_path / "joined", parts, MEANING, {})
    joined = FeatureFiles([tmp_path / "joined"])
    assert (len(joined.rows("v0")), len(joined.rows("v1"))) == (3, 2)


def test_files_without_attributes_are_rows_spread_over_the_video(tmp_path):
    files = FeatureFiles([plain(tmp_path / "tsp.h5", {"v": np.ones((4, 512), dtype=np.float64)})])
    assert files.meaning() == {}
    assert files.rows("v").dtype == np.float32
    assert_allclose(files.centres("v", 4, 10.0), [1.25, 3.75, 6.25, 8.75])
    with one_sentence(tmp_path / "tsp.h5", "'v'", "duration"):
        files.duration("v", None)


def test_several_files_are_one_set(tmp_path):
    write_features(tmp_path / "train.h5", {"a": video(2, seed=1)}, MEANING)
    plain(tmp_path / "valid.h5", {"b": np.zeros((5, 3), dtype=np.float32)})
    files = FeatureFiles([tmp_path / "train.h5", tmp_path / "valid.h5"])
    assert files.videos == {"a", "b"}
    assert_allclose(files.centres("a", 2, 8.0), [4 / 12, 10 / 12])  # as this file says
    assert_allclose(files.centres("b", 2, 8.0), [2.0, 6.0])


def test_another_process_opens_its_own_file(tmp_path):
    write_features(tmp_path / "f.h5", {"v": video()}, MEANING)
    files = FeatureFiles([tmp_path / "f.h5"])
    files.rows("v")
    copied = pickle.loads(pickle.dumps(files))
    assert_array_equal(copied.rows("v"), files.rows("v"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.full((4, 3), np.nan, dtype=np.float32), "NaN or infinity"),
        (np.array([[1, 2, np.inf]], dtype=np.float32), "NaN or infinity"),
        (np.zeros((0, 3), dtype=np.float32), "(0, 3)"),
        (np.zeros((4, 5), dtype=np.float32), "(4, 5)"),
        (np.zeros((4, 3, 1), dtype=np.float32), "(4, 3, 1)"),
        (np.zeros(3, dtype=np.float32), "(3,)"),
        (np.float32(1), "()"),
    ],
    ids=["nan", "infinity", "no row", "other dimension", "three axes", "a vector", "a number"],
)
def test_an_entry_that_does_not_fit_is_one_sentence(tmp_path, rows, expected):
    path = plain(tmp_path / "f.h5", {"a_good_one": np.zeros((4, 3), dtype=np.float32), "bad": rows})
    files = FeatureFiles([path])
    assert_array_equal(files.rows("a_good_one"), np.zeros((4, 3)))
    with one_sentence(path, "'bad'", expected):
        files.rows("bad")


@pytest.mark.parametrize("entry", ["group", "number", "words"])
def test_a_file_of_other_things_is_one_sentence(tmp_path, entry):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        if entry == "group":  # as in the C3D features of ActivityNet
            file["v/c3d_features"] = np.zeros((4, 3), dtype=np.float32)
        else:
            file["v"] = {"number": 1.0, "words": "a video"}[entry]
    for ask in (lambda files: files.feature_dim, lambda files: files.rows("v"), lambda files: files.is_vectors()):
        with one_sentence(path, "'v'", "expected (T, D) numbers"):
            ask(FeatureFiles([path]))


def test_a_damaged_entry_is_one_sentence(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        rows = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
        file.create_dataset("v", data=rows, compression="gzip")
        where = file["v"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 64] = bytes(64)
    path.write_bytes(content)
    with one_sentence(path, "'v'", "cannot be read", "copy the file again"):
        FeatureFiles([path]).rows("v")


def test_some_of_the_rows(tmp_path):
    write_features(tmp_path / "f.h5", {"v": video(7, seed=2)}, MEANING)
    files = FeatureFiles([tmp_path / "f.h5"])
    assert files.count("v") == 7
    whole = files.rows("v")
    for first, end in ((0, 7), (2, 5), (6, 7), (5, 9)):
        assert_array_equal(files.rows("v", first, end), whole[first:end])


def test_files_of_other_dimensions_are_one_sentence(tmp_path):
    plain(tmp_path / "train.h5", {"a": np.zeros((5, 3)), "c": np.zeros((5, 3))})
    plain(tmp_path / "valid.h5", {"b": np.zeros((5, 4))})
    for ask in (lambda files: files.feature_dim, lambda files: files.rows("a"), lambda files: files.check(ALL, silent)):
        with one_sentence(tmp_path / "valid.h5", tmp_path / "train.h5", "'b'", "3 numbers", "found 4"):
            ask(FeatureFiles([tmp_path / "train.h5", tmp_path / "valid.h5"]))


def test_attributes_that_make_no_clips_are_one_sentence(tmp_path):
    path = tmp_path / "f.h5"
    for attributes, parts in (
        ({"stride_frames": 0}, ["stride_frames 0"]),
        ({"clip_frames": None}, ["clip_frames None"]),
        ({"frame_rate": "15"}, ["frame_rate '15'"]),
    ):
        write_features(path, {"v": video()}, MEANING)
        with h5py.File(path, "r+") as file:
            for name, value in attributes.items():
                del file.attrs[name]
                if value is not None:
                    file.attrs[name] = value
        with one_sentence(path, *parts):
            FeatureFiles([path]).centres("v", 4, 5.5)


# A look at everything before anything is trained. Clips of 8 frames every 6 at 12 a second: 5.5 s make 10 rows.

ALL = {"a": None, "b": 5.4, "c": 5.6}


def whole_set(path, **changes):
    """Write three videos of 10 rows and 5.5 s, but for the changes."""
    write_features(path, {**{name: video(10, seed=3) for name in ALL}, **changes}, MEANING)
    return FeatureFiles([path])


def test_a_set_that_fits_is_read_once(tmp_path, monkeypatch):
    files = whole_set(tmp_path / "f.h5", d=video(3, dim=7))  # nobody asks for "d"
    told, read = [], []
    real = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: read.append(self.name) or real(self, key))
    assert files.check(ALL, lambda done, total, note="": told.append((done, total))) == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert read == ["/a", "/b", "/c"]


def test_released_features_without_attributes_pass(tmp_path):
    files = FeatureFiles([plain(tmp_path / "tsp.h5", {"v": np.ones((4, 512), dtype=np.float32)})])
    assert files.check({"v": 100.0}, silent) == []


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (video(10, dim=4), ["(T, 3)", "(10, 4)"]),
        (VideoFeatures(np.zeros((0, 3), np.float32), 5.5, "d"), ["(0, 3)"]),
        (VideoFeatures(np.full((10, 3), np.nan, np.float32), 5.5, "d"), ["NaN"]),
        (video(5), ["about 10 rows", "8 frames every 6 at 12 frames a second", "5.5 s", "found 5", "attributes"]),
        (video(20), ["about 10 rows", "found 20"]),
        (video(10, duration=55.0), ["about 109 rows", "found 10"]),
        (video(10, duration=0.0), ['"duration"', "above 0", "0.0"]),
        (video(10, duration=np.nan), ['"duration"', "nan"]),
    ],
)
def test_what_does_not_fit_is_named_before_training(tmp_path, bad, parts):
    path = tmp_path / "f.h5"
    with one_sentence(path, "'c'", *parts):
        whole_set(path, c=bad).check(ALL, silent)


def test_a_length_that_nobody_knows_is_named_before_training(tmp_path):
    files = FeatureFiles([plain(tmp_path / "f.h5", {"v": np.ones((4, 3)), "w": np.ones((4, 3))})])
    with one_sentence(tmp_path / "f.h5", "'w'", '"duration"'):
        files.check({"v": 4.0, "w": None}, silent)


def test_a_missing_video_is_named_before_training(tmp_path):
    with one_sentence(tmp_path / "f.h5", "'d'", "extract it"):
        whole_set(tmp_path / "f.h5").check(ALL | {"d": 5.0}, silent)


def test_annotated_lengths_far_from_the_decoded_ones_are_said(tmp_path):
    files = whole_set(tmp_path / "f.h5")
    # More than 2 s and more than a tenth of the longer one.
    for annotated, far in ((5.5, False), (3.6, False), (3.4, True), (7.4, False), (7.6, True), (0.0, False)):
        assert bool(files.check({"a": annotated}, silent)) == far
    long = whole_set(tmp_path / "g.h5", a=video(409, duration=205.0))
    for annotated, far in ((220.0, False), (227.0, False), (229.0, True), (186.0, False), (183.0, True)):
        assert bool(long.check({"a": annotated}, silent)) == far
    (sentence,) = files.check({"a": None, "b": 9.5, "c": 1.0}, silent)
    for part in (str(tmp_path / "f.h5"), "2 of 3 videos", "'b'", "9.5 s", "5.5 s"):
        assert part in sentence
    assert "\n" not in sentence


def test_a_missing_video_is_one_sentence(tmp_path):
    path = plain(tmp_path / "f.h5", {"v": np.zeros((4, 3), dtype=np.float32)})
    for ask in (lambda files: files.rows("w"), lambda files: files.duration("w", None)):
        with one_sentence(path, "'w'", "extract it"):
            ask(FeatureFiles([path]))


@pytest.mark.parametrize("content", [None, b"", b"not HDF5, but long enough to look for a signature" * 50])
def test_no_h5_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "f.h5"
    if content is not None:
        path.write_bytes(content)
    with one_sentence(path, "does not exist" if content is None else "not a readable H5 file"):
        _ = FeatureFiles([path]).videos


def test_an_empty_h5_file_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / "f.h5", "holds no features"):
        _ = FeatureFiles([plain(tmp_path / "f.h5", {})]).videos


def test_vectors_of_whole_videos(tmp_path):
    path = plain(tmp_path / "gvf.h5", {"v1": np.arange(3.0), "v2": np.arange(3.0) + 1})
    assert FeatureFiles([path]).is_vectors()
    assert FeatureFiles([path]).feature_dim == 3
    vectors = read_vectors(path)
    assert_array_equal(vectors["v2"], [1, 2, 3])
    assert vectors["v2"].dtype == np.float32
    plain(tmp_path / "rows.h5", {"v1": np.arange(3.0), "v2": np.zeros((4, 3))})
    with one_sentence(tmp_path / "rows.h5", "'v2'", "(4, 3)"):
        read_vectors(tmp_path / "rows.h5")


def test_the_released_global_features_are_vectors():
    path = shared("data/thumos14/r2plus1d_34-max_gvf.h5")
    vectors = read_vectors(path)
    assert FeatureFiles([path]).is_vectors()
    assert {vector.shape for vector in vectors.values()} == {(512,)}
    assert len(vectors) == 413  # 200 + 213
