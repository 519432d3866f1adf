"""Features into every format and back: numbers, names, attributes, lengths, and what an interruption leaves."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import names, one_sentence, silent
from tests.tspbench.storage.test_sound import folder_of, rows
from tspbench.stages.convert_features import Conversion, convert_features
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features

MEANING = RowMeaning("tiny", "w", clip_frames=16, stride_frames=16, frame_rate=15.0, feature_dim=6, precision="fp32")
COUNTS = {"v_a": 15, "v_b": 30, "c": 45}  # rows of 16/15 s: 16, 32 and 48 s
SECONDS = {"a": 16.0, "v_b": 32.0, "c": 48.5}
NPY = Conversion("npy", layout="time-first")
TSP = Conversion("tsp")
OURS = Conversion("tspbench")
NPY_TO_TSP = Conversion("tsp", layout="time-first")
NPY_TO_OURS = Conversion("tspbench", layout="time-first")


def arrays(counts=COUNTS, width=6):
    return {video: rows(count, width, seed=count) for video, count in counts.items()}


def ours(path, counts=COUNTS, meaning=MEANING):
    features = {
        video: VideoFeatures(content, len(content) * 16 / 15, "av 1") for video, content in arrays(counts).items()
    }
    write_features(path, features, meaning)
    return path


def plain(path, counts=COUNTS, width=6):
    with h5py.File(path, "w") as file:
        for video, content in arrays(counts, width).items():
            file[video] = content
    return path


def same(path, counts=COUNTS):
    files = FeatureFiles([path])
    assert files.videos == counts.keys()
    for video, content in arrays(counts).items():
        assert files.rows(video).tobytes() == content.tobytes()
    return files


def test_one_file_of_ours_becomes_a_plain_one_and_a_folder(tmp_path):
    source = ours(tmp_path / "ours.h5")
    assert convert_features([source], tmp_path / "plain.h5", TSP, SECONDS, silent) == []
    files = same(tmp_path / "plain.h5")
    assert files.meaning() == {}
    assert files.attributes("c") == {}
    assert convert_features([source], tmp_path / "new" / "npy", NPY, SECONDS, silent) == []
    assert names(tmp_path / "new" / "npy") == ["c.npy", "v_a.npy", "v_b.npy"]
    assert_array_equal(np.load(tmp_path / "new" / "npy" / "c.npy"), arrays()["c"])


def test_ours_stay_ours(tmp_path):
    first = ours(tmp_path / "train.h5", {"v_a": 15, "c": 45})
    second = ours(tmp_path / "valid.h5", {"v_b": 30})
    with h5py.File(second, "r+") as file:
        file.attrs["skipped"] = ["d: it is broken"]
    convert_features([first, second], tmp_path / "both.h5", Conversion("tspbench"), SECONDS, silent)
    files = same(tmp_path / "both.h5")
    assert files.meaning() == {"format": "tspbench features 1", **asdict(MEANING), "skipped": ["d: it is broken"]}
    assert files.attributes("v_b") == {"duration": 32.0, "decoder": "av 1"}


def test_files_of_different_rows_do_not_become_one(tmp_path):
    first = ours(tmp_path / "train.h5", {"v_a": 15})
    second = ours(tmp_path / "valid.h5", {"v_b": 30}, replace(MEANING, stride_frames=8))
    third = plain(tmp_path / "plain.h5", {"c": 45})
    with one_sentence(second, "attribute stride_frames 16 as in", first, "found 8"):
        convert_features([first, second], tmp_path / "both.h5", TSP, {}, silent)
    with one_sentence(third, "attribute", first, "found None"):
        convert_features([first, third], tmp_path / "both.h5", TSP, {}, silent)
    assert not (tmp_path / "both.h5").exists()


def test_a_folder_becomes_a_file_that_says_what_the_user_states(tmp_path):
    source = folder_of(tmp_path / "npy", **{video: content.T for video, content in arrays().items()})
    how = Conversion("tspbench", "channels-first", clip_frames=16, stride_frames=16, frame_rate=15.0)
    assert convert_features([source], tmp_path / "f.h5", how, SECONDS, silent) == []
    files = same(tmp_path / "f.h5")
    assert files.meaning() == {
        "format": "tspbench features 1",
        "feature_dim": 6,
        "clip_frames": 16,
        "stride_frames": 16,
        "frame_rate": 15.0,
    }
    assert files.check(dict.fromkeys(COUNTS, 16.0) | {"v_b": 32.0, "c": 48.0}, silent) == []
    assert_allclose(files.centres("v_a", 2, 16.0), [8 / 15, 24 / 15])
    convert_features([source], tmp_path / "g.h5", Conversion("tspbench", "channels-first"), SECONDS, silent)
    assert same(tmp_path / "g.h5").meaning() == {}


@pytest.mark.parametrize(
    ("stated", "parts"),
    [
        ({"clip_frames": 16}, ["the options", "stride_frames None"]),
        ({"clip_frames": 16, "stride_frames": 0, "frame_rate": 15.0}, ["stride_frames 0"]),
        ({"clip_frames": 16, "stride_frames": 8, "frame_rate": 15.0}, ["says that stride_frames is 16", "say 8"]),
        ({"row_seconds": 0.5}, ["stride_frames and frame_rate make a row each 1.067 s, --row-seconds says 0.5"]),
    ],
)
def test_what_is_stated_has_to_fit_the_attributes(tmp_path, stated, parts):
    source = ours(tmp_path / "f.h5")
    with one_sentence(*parts):
        convert_features([source], tmp_path / "o.h5", replace(OURS, **stated), SECONDS, silent)
    assert names(tmp_path) == ["f.h5"]


def test_names_with_and_without_prefix(tmp_path):
    source = ours(tmp_path / "f.h5")
    for prefixed, expected in ((True, ["v_a", "v_b", "v_c"]), (False, ["a", "b", "c"]), (None, ["c", "v_a", "v_b"])):
        for how in (NPY, TSP):
            out = tmp_path / f"{prefixed}-{how.to}"
            convert_features([source], out, replace(how, prefixed=prefixed), SECONDS, silent)
            if how.to == "npy":
                assert names(out) == [f"{name}.npy" for name in expected]
            else:
                assert FeatureFiles([out]).videos == set(expected)
    twice = plain(tmp_path / "twice.h5", {"v_a": 2, "a": 3})
    with one_sentence(twice, "'a' and 'v_a' would both be called 'a'"):
        convert_features([twice], tmp_path / "o", replace(NPY, prefixed=False), {}, silent)


def test_lengths_are_found_by_either_name(tmp_path):
    source = plain(tmp_path / "f.h5")
    (sentence,) = convert_features([source], tmp_path / "o.h5", TSP, {"a": 16.0, "b": 32.0, "v_c": None}, silent)
    assert "no length is known of 1 of 3 videos (such as 'c')" in sentence


def test_no_video_of_the_data_set_is_an_error(tmp_path):
    source = plain(tmp_path / "f.h5")
    with one_sentence(source, "such as 'x', found none of them but 'c' and others", "name the data set"):
        convert_features([source], tmp_path / "o.h5", TSP, {"x": None, "y": 3.0}, silent)
    assert names(tmp_path) == ["f.h5"]
    (sentence,) = convert_features([source], tmp_path / "o.h5", TSP, {}, silent)
    assert "no length is known of 3 of 3 videos" in sentence
    (sentence,) = convert_features([source], tmp_path / "o.h5", TSP, {"b": None}, silent)
    assert "no length is known of 3 of 3 videos" in sentence


# 100 videos of 10 to 109 rows, each 2 s.


def many(tmp_path, change=None, by=1.0):
    counts = {f"x{k:03}": 10 + k for k in range(100)}
    seconds = {video: 2.0 * count for video, count in counts.items()}
    for video in change or ():
        seconds[video] *= by
    return folder_of(tmp_path / "npy", **arrays(counts, width=1)), seconds


def test_one_wrong_length_in_a_hundred_is_said(tmp_path):
    source, seconds = many(tmp_path, ["x040"], by=1.5)
    (sentence,) = convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, seconds, silent)
    assert (
        "a row each 2 s, found otherwise in 1 of 100 videos, such as 50 rows of 'x040' instead of about 75" in sentence
    )
    assert (tmp_path / "o.h5").exists()


def test_two_wrong_lengths_in_a_hundred_are_one_sentence(tmp_path):
    source, seconds = many(tmp_path, ["x040", "x060"], by=1.5)
    with one_sentence(source, "a row each 2 s", "2 of 100 videos", "'x040'", "correct the layout"):
        convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, seconds, silent)
    assert names(tmp_path) == ["npy"]


@pytest.mark.parametrize(("row_seconds", "fits"), [(2.0, True), (2.15, True), (1.8, False), (2.3, False), (1.0, False)])
def test_a_stated_distance_is_compared(tmp_path, row_seconds, fits):
    source, seconds = many(tmp_path)
    how = replace(NPY_TO_TSP, row_seconds=row_seconds)
    if fits:
        assert convert_features([source], tmp_path / "o.h5", how, seconds, silent) == []
        return
    with one_sentence(source, f"a row each {row_seconds:g} s", "half of all videos have a row each 2 s or less"):
        convert_features([source], tmp_path / "o.h5", how, seconds, silent)


def test_clips_longer_than_their_stride_leave_rows_out(tmp_path):
    # Clips of 64 frames every 8 at 25 a second, as of I3D: 10 s make 1 + (250 - 64) // 8 = 24 rows, 60 s 180.
    source = folder_of(tmp_path / "npy", **arrays({"a": 24, "b": 180, "c": 180}))
    seconds = {"a": 10.0, "b": 60.0, "c": 60.0}
    how = Conversion("tspbench", "time-first", clip_frames=64, stride_frames=8, frame_rate=25.0)
    assert convert_features([source], tmp_path / "o.h5", how, seconds, silent) == []
    assert convert_features([source], tmp_path / "o.h5", NPY_TO_OURS, seconds, silent) == []
    with one_sentence(source, "3 of 3 videos", "24 rows of 'a' instead of about 47"):
        convert_features([source], tmp_path / "o.h5", replace(how, stride_frames=4), seconds, silent)


def test_rescaled_features_have_no_distance(tmp_path):
    source = folder_of(tmp_path / "npy", **arrays({"a": 100, "b": 100}))
    seconds = {"a": 30.0, "b": 60.0}
    (sentence,) = convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, seconds, silent)
    assert "all videos have 100 rows, whatever their length" in sentence
    assert convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, {"a": 50.0, "b": 51.0}, silent) == []
    with one_sentence(source, "2 of 2 videos"):
        convert_features([source], tmp_path / "o.h5", replace(NPY_TO_TSP, row_seconds=16 / 15), seconds, silent)


@pytest.mark.parametrize(
    ("make", "how", "parts"),
    [
        (
            lambda folder: [folder_of(folder / "npy", a=rows())],
            Conversion("tsp"),
            ["give --layout time-first for (T, C)"],
        ),
        (lambda folder: [ours(folder / "f.h5")], Conversion("npy"), ["f.h5", "--layout"]),
        (lambda folder: [folder_of(folder / "npy", a=rows())], NPY, ["converted alone, and to an H5 file"]),
        (lambda folder: [folder_of(folder / "npy", a=rows()), ours(folder / "f.h5")], NPY_TO_TSP, ["converted alone"]),
        (
            lambda folder: [folder_of(folder / "npy", a=rows()) / "a.npy"],
            NPY_TO_TSP,
            ["one .npy file; give its folder"],
        ),
        (lambda folder: [folder / "none.h5"], TSP, ["none.h5 does not exist"]),
        (lambda folder: [folder / "gvf.h5"], TSP, ["gvf.h5", "one vector a video"]),
        (lambda folder: [folder / "o.h5"], TSP, ["is what is read"]),
        (lambda folder: [folder / "o.h5"], NPY_TO_TSP, ["o.h5", "--layout is for .npy files", "--format npy"]),
    ],
)
def test_a_source_that_does_not_fit_is_one_sentence(tmp_path, make, how, parts):
    with h5py.File(tmp_path / "gvf.h5", "w") as file:
        file["a"] = np.zeros(4, dtype=np.float32)
    before = ours(tmp_path / "o.h5").read_bytes()
    with one_sentence(*parts):
        convert_features(make(tmp_path), tmp_path / "o.h5", how, {}, silent)
    assert (tmp_path / "o.h5").read_bytes() == before


class Killed(BaseException):
    pass


def kill_after(count):
    def advance(done, _total, _note=""):
        if done == count:
            raise Killed

    return advance


def test_an_interrupted_folder_goes_on(tmp_path):
    source = ours(tmp_path / "f.h5")
    with pytest.raises(Killed):
        convert_features([source], tmp_path / "npy", NPY, {}, kill_after(2))
    assert names(tmp_path / "npy") == ["c.npy", "v_a.npy"]
    before = (tmp_path / "npy" / "c.npy").stat()
    heard = []
    convert_features([source], tmp_path / "npy", NPY, {}, lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert names(tmp_path / "npy") == ["c.npy", "v_a.npy", "v_b.npy"]
    assert (tmp_path / "npy" / "c.npy").stat() == before


def test_an_interrupted_file_leaves_nothing(tmp_path):
    source = folder_of(tmp_path / "npy", **arrays())
    with pytest.raises(Killed):
        convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, {}, kill_after(2))
    folder_of(source, z=np.full((4, 6), np.nan))
    with one_sentence(source / "z.npy", "NaN"):
        convert_features([source], tmp_path / "o.h5", NPY_TO_TSP, {}, silent)
    assert names(tmp_path) == ["npy"]


def test_a_folder_of_something_else_is_one_sentence(tmp_path):
    source = ours(tmp_path / "f.h5")
    out = folder_of(tmp_path / "npy", other=rows(), another=rows())
    with one_sentence(out, "found 2 others such as another.npy"):
        convert_features([source], out, NPY, {}, silent)
    out = folder_of(tmp_path / "more", c=rows(45, 6, seed=0))
    with one_sentence(out / "c.npy", "found other features"):
        convert_features([source], out, NPY, {}, silent)
    assert names(out) == ["c.npy"]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text("abü.- ", min_size=1, max_size=4), st.integers(1, 6), min_size=1, max_size=5),
    st.sampled_from(["time-first", "channels-first"]),
    st.sampled_from([True, False, None]),
    st.sampled_from(["tsp", "tspbench"]),
)
def test_there_and_back_is_the_same_bit_by_bit(counts, layout, prefixed, target):
    counts = {f"x{video}": count for video, count in counts.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = plain(folder / "f.h5", counts)
        convert_features([source], folder / "npy", Conversion("npy", layout, prefixed), {}, silent)
        back = Conversion(target, layout, prefixed=False if prefixed else None)
        convert_features([folder / "npy"], folder / "back.h5", back, {}, silent)
        assert same(folder / "back.h5", counts).meaning() == {}
