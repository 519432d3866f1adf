"""Folders of .npy files: both layouts, what is refused, and what a folder to write keeps."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.tspbench.helpers import full_disk, names, one_sentence
from tests.tspbench.storage.test_sound import folder_of, rows, saved
from tspbench.errors import UserError
from tspbench.storage.feature_folders import FeatureFolder, write_npy
from tspbench.video_names import other_name

ROWS = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)  # T = 2, C = 3


def test_two_layouts_of_the_same_rows_by_hand(tmp_path):
    time_first = FeatureFolder(folder_of(tmp_path / "a", v=ROWS, v_w=ROWS[:1]), "time-first")
    channels_first = FeatureFolder(folder_of(tmp_path / "b", v=ROWS.T, v_w=ROWS[:1].T), "channels-first")
    for folder in (time_first, channels_first):
        assert folder.videos == {"v", "v_w"}
        assert (folder.feature_dim, folder.count("v"), folder.count("v_w")) == (3, 2, 1)
        assert_array_equal(folder.rows("v"), ROWS)
        assert_array_equal(folder.rows("v_w"), [[1, 2, 3]])
        assert folder.rows("v").flags.c_contiguous


@pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4", "i2", "u1"])
def test_rows_are_float32(tmp_path, kind):
    folder = FeatureFolder(folder_of(tmp_path / "s", v=ROWS.astype(kind)), "time-first")
    assert folder.rows("v").dtype == np.float32
    assert_array_equal(folder.rows("v"), ROWS)


def test_other_files_do_not_count(tmp_path):
    source = folder_of(tmp_path / "s", v=ROWS)
    (source / "readme.txt").write_text("(T, C)")
    assert FeatureFolder(source, "time-first").videos == {"v"}


def test_the_other_layout_is_named_where_it_is_meant(tmp_path):
    lengths = {"a": 5, "b": 7, "c": 5}
    time_first = folder_of(tmp_path / "s", **{video: rows(count, 16) for video, count in lengths.items()})
    with one_sentence(
        time_first / "b.npy",
        "expected rows of 5 numbers as in a.npy, found 7, read as (C, T)",
        "the other axis is 16 long in all 3 files",
        "give --layout time-first",
    ):
        FeatureFolder(time_first, "channels-first")
    channels_first = folder_of(tmp_path / "t", **{video: rows(count, 16).T for video, count in lengths.items()})
    with one_sentence(channels_first / "b.npy", "read as (T, C)", "16 long", "give --layout channels-first"):
        FeatureFolder(channels_first, "time-first")


def test_rows_of_several_networks_name_no_layout(tmp_path):
    source = folder_of(tmp_path / "s", a=rows(5, 16), b=rows(6, 16), c=rows(6, 32))
    with pytest.raises(UserError, match=r"rows of 16 numbers as in a.npy, found 32, .*of one network") as caught:
        FeatureFolder(source, "time-first")
    assert "--layout" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (np.array([[None, "a"]], dtype=object), ["expected an .npy file of (T, C) numbers, found Python objects"]),
        (pickle.dumps(ROWS), ["found Python objects"]),
        (saved(ROWS)[:-1], ["cut off"]),
        (b"", ["cut off"]),
        (ROWS[0], ["found float32 (3,)"]),
        (ROWS[None], ["found float32 (1, 2, 3)"]),
        (ROWS[:0], ["neither axis empty, found float32 (0, 3)"]),
        (np.array([["a"]]), ["found <U1 (1, 1)"]),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence_before_any_row_is_read(tmp_path, content, parts):
    source = folder_of(tmp_path / "s", a=ROWS, b=content)
    with one_sentence(source / "b.npy", *parts):
        FeatureFolder(source, "time-first")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_one_sentence(tmp_path, value):
    folder = FeatureFolder(folder_of(tmp_path / "s", a=np.array([[0.0], [value]])), "time-first")
    with one_sentence(tmp_path / "s" / "a.npy", "NaN or infinity"):
        folder.rows("a")


def test_a_folder_that_does_not_fit_is_one_sentence(tmp_path):
    with one_sentence(tmp_path / "none", "does not exist"):
        FeatureFolder(tmp_path / "none", "time-first")
    with one_sentence(tmp_path, "expected .npy files of features", "found none"):
        FeatureFolder(tmp_path, "time-first")
    source = folder_of(tmp_path / "s", x=ROWS, v_x=ROWS)
    with one_sentence(source, "one file of the video 'x'", "x.npy and v_x.npy"):
        FeatureFolder(source, "time-first")


def test_a_file_is_written_in_either_layout(tmp_path):
    write_npy(tmp_path / "new" / "a", "v", ROWS, "time-first")
    write_npy(tmp_path / "new" / "b", "v", ROWS, "channels-first")
    assert names(tmp_path / "new" / "a") == ["v.npy"]
    assert_array_equal(np.load(tmp_path / "new" / "a" / "v.npy"), ROWS)
    turned = np.load(tmp_path / "new" / "b" / "v.npy")
    assert_array_equal(turned, ROWS.T)
    assert turned.flags.c_contiguous


def test_what_is_there_stays_if_it_is_the_same(tmp_path):
    write_npy(tmp_path, "v", ROWS, "time-first")
    before = (tmp_path / "v.npy").stat()
    write_npy(tmp_path, "v", ROWS, "time-first")
    assert (tmp_path / "v.npy").stat() == before
    for others, layout in ((ROWS + 1, "time-first"), (ROWS, "channels-first"), (ROWS.astype("f8"), "time-first")):
        with one_sentence(tmp_path / "v.npy", "from an interrupted run, found other features", "another folder"):
            write_npy(tmp_path, "v", others, layout)
    assert_array_equal(np.load(tmp_path / "v.npy"), ROWS)
    write_npy(tmp_path, "zeros", 0 * ROWS, "time-first")
    with one_sentence(tmp_path / "zeros.npy", "float32 (3, 2) from an interrupted run", "(float32 (2, 3))"):
        write_npy(tmp_path, "zeros", 0 * ROWS, "channels-first")


def test_a_full_disk_leaves_nothing(tmp_path):
    with full_disk(256), one_sentence(tmp_path / "v.npy", "cannot be written"):
        write_npy(tmp_path, "v", rows(100), "time-first")
    assert names(tmp_path) == []


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text("abv_", min_size=1, max_size=4), st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["time-first", "channels-first"]),
    st.integers(0, 99),
)
def test_what_is_written_comes_back_bit_by_bit(counts, layout, seed):
    counts = {video: count for video, count in counts.items() if not video.startswith("v_")} or {"a": 1}
    arrays = {video: rows(count, 3, seed=seed) for video, count in counts.items()}
    with tempfile.TemporaryDirectory() as folder:
        for video, content in arrays.items():
            write_npy(Path(folder), video, content, layout)
        there = FeatureFolder(Path(folder), layout)
        assert there.videos == arrays.keys()
        for video, content in arrays.items():
            assert there.rows(video).tobytes() == content.tobytes()


def test_names_with_and_without_prefix():
    assert (other_name("v_x"), other_name("x"), other_name("v_v_x")) == ("x", "v_x", "v_x")
