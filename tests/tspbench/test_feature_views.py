import math

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tests.tspbench.helpers import one_sentence
from tspbench.config import validated
from tspbench.feature_views import FeatureViews, TimeSettings
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.features import FeatureFiles, RowMeaning, VideoFeatures, write_features
from tspbench.timeline import Timeline

# Clips of 8 frames every 12 at 12 a second: row k stands for second 1/3 + k, its step begins at k - 1/6.
MEANING = RowMeaning("tiny", "w", clip_frames=8, stride_frames=12, frame_rate=12.0, feature_dim=3, precision="fp32")


def plain(path, **rows):
    """Write (T, 3) rows without attributes, spread over their videos; the number of a row stands in its first column.

    Args:
        path: the file.
        rows: video → T.
    """
    with h5py.File(path, "w") as file:
        for name, count in rows.items():
            file[name] = np.stack([np.arange(count), np.full(count, 7), -np.arange(count)], axis=1).astype(np.float32)
    return FeatureFiles([path])


def annotated(name, duration, *segments):
    """Return a video with segments in seconds, of the classes "a", "b", "a", …"""
    labels = tuple("ab"[k % 2] for k in range(len(segments)))
    return VideoAnnotations(name, "train", duration, np.array(segments, dtype=np.float64).reshape(-1, 2), labels)


def view(views, k):
    """Return one view as arrays: first row of features, mask, segments, labels."""
    batch = views.batch([k])
    return batch.features[0, 0].tolist(), batch.mask[0].tolist(), batch.segments[0].tolist(), batch.labels[0].tolist()


def make(files, videos, steps, training, **time):
    return FeatureViews(files, videos, ["a", "b"], steps, TimeSettings(**time), training=training)


# Rescaled


@pytest.fixture
def rescaled(tmp_path):
    rng = np.random.default_rng(0)
    features = {f"v{k}": VideoFeatures(rng.random((4 + k, 3), dtype=np.float32), 5.0 + k, "d") for k in range(3)}
    write_features(tmp_path / "f.h5", features, MEANING)
    videos = [annotated("v0", None), annotated("v1", None, [0.0, 6.0]), annotated("v2", None, [1.0, 4.0], [3.0, 3.0])]
    return make(FeatureFiles([tmp_path / "f.h5"]), videos, 10, True), features


def test_segments_are_in_steps_and_features_resampled(rescaled):
    views, features = rescaled
    batch = views.batch([2, 0])
    assert batch.features.shape == (2, 3, 10)
    assert batch.mask.all()
    # v2 lasts 7 s: 1 s to 4 s are steps 10/7 to 40/7. Segments of no length are kept.
    assert_allclose(batch.segments[0], [[10 / 7, 40 / 7], [30 / 7, 30 / 7]], rtol=1e-6)
    assert batch.labels[0].tolist() == [0, 1]
    assert batch.segments[1].shape == (0, 2)
    # Rows of v2 stand for 1/3 + k s. Step 0 is asked at 0.35 s: 1/60 of the way from row 0 to row 1.
    rows = features["v2"].rows
    assert_allclose(batch.features[0, :, 0], rows[0] * 59 / 60 + rows[1] / 60, rtol=1e-5)
    assert_allclose(batch.features[0, :, 9], rows[5], rtol=1e-6)  # beyond the last row: held
    assert views.names == ["v0", "v1", "v2"]
    assert views.durations == [5, 6, 7]
    assert views.timelines == [Timeline.whole(duration, 10) for duration in (5, 6, 7)]
    assert [(each.video, each.offset, each.timeline) for each in views.views] == [
        (k, 0, timeline) for k, timeline in enumerate(views.timelines)
    ]


def test_a_single_row_fills_a_video(tmp_path):
    views = make(plain(tmp_path / "f.h5", v=1), [annotated("v", 9.0)], 5, True)
    assert view(views, 0) == ([0] * 5, [True] * 5, [], [])


# Windows: videos of 2 seconds a row, so that second 2k is where step k begins.


def test_windows_by_hand(tmp_path):
    files = plain(tmp_path / "f.h5", v=10, w=11)
    # In steps: [1.5, 3.5] and [5, 7.5]; and 11 rows of the second video.
    videos = [annotated("v", 20.0, [3.0, 7.0], [10.0, 15.0]), annotated("w", 22.0)]
    views = make(files, videos, 4, False, mode="windows", window_stride=2)
    assert [(each.video, each.offset) for each in views.views] == [
        *[(0, offset) for offset in (0, 2, 4, 6)],
        *[(1, offset) for offset in (0, 2, 4, 6, 7)],  # the last window ends with the video
    ]
    assert views.timelines == [Timeline(0.0, 2.0, 10), Timeline(0.0, 2.0, 11)]
    assert views.views[2].timeline == Timeline(8.0, 2.0, 4)
    assert view(views, 0) == ([0, 1, 2, 3], [True] * 4, [[1.5, 3.5]], [0])
    assert view(views, 1) == ([2, 3, 4, 5], [True] * 4, [[0, 1.5], [3, 4]], [0, 1])
    assert view(views, 2) == ([4, 5, 6, 7], [True] * 4, [[1, 3.5]], [1])
    assert view(views, 3) == ([6, 7, 8, 9], [True] * 4, [[0, 1.5]], [1])
    assert view(views, 8) == ([7, 8, 9, 10], [True] * 4, [], [])
    assert views.batch([1, 8]).features.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (0.9, [0, 4]),  # all of the first segment, all of the second
        (0.75, [0, 4]),  # [2, 6) has exactly three quarters of the first: not more
        (0.74, [0, 2, 4]),
        (0.5, [0, 2, 4, 6]),  # [6, 10) has 1.5 of 2.5 steps of the second
    ],
)
def test_training_windows_by_hand(tmp_path, inside, expected):
    videos = [annotated("v", 20.0, [3.0, 7.0], [10.0, 15.0])]
    files = plain(tmp_path / "f.h5", v=10)
    views = make(files, videos, 4, True, mode="windows", window_stride=2, inside=inside)
    assert [each.offset for each in views.views] == expected


def test_a_training_window_holds_every_segment_that_reaches_into_it(tmp_path):
    videos = [annotated("v", 20.0, [3.0, 7.0], [0.0, 20.0], [8.0, 9.0], [4.0, 4.0], [7.5, 30.0])]
    views = make(plain(tmp_path / "f.h5", v=10), videos, 4, True, mode="windows")
    # Left out: what begins where the window ends, and what has no length.
    assert view(views, 0) == ([0, 1, 2, 3], [True] * 4, [[1.5, 3.5], [0, 4], [3.75, 4]], [0, 1, 0])


def test_half_a_window_is_the_stride_that_nobody_chose(tmp_path):
    files = plain(tmp_path / "f.h5", v=30)
    for steps, offsets in ((8, [0, 4, 8, 12, 16, 20, 22]), (5, [*range(0, 25, 2), 25]), (1, list(range(30)))):
        views = make(files, [annotated("v", 60.0)], steps, False, mode="windows")
        assert [each.offset for each in views.views] == offsets


def test_a_video_shorter_than_a_window_is_continued_with_its_last_row(tmp_path):
    files = plain(tmp_path / "f.h5", v=3)
    for training in (False, True):
        views = make(files, [annotated("v", 6.0, [1.0, 9.0])], 5, training, mode="windows")
        assert view(views, 0) == ([0, 1, 2, 2, 2], [True] * 5, [[0.5, 3]], [0])
        assert views.views[0].timeline == Timeline(0.0, 2.0, 5)
        assert views.timelines == [Timeline(0.0, 2.0, 3)]


def test_steps_of_chosen_length_by_hand(tmp_path):
    # Rows stand for seconds 1, 3, 5, …; steps of 4 s are asked at 2, 6, 10, …: half way between two rows.
    files = plain(tmp_path / "f.h5", v=10)
    views = make(files, [annotated("v", 20.0, [4.0, 10.0])], 3, False, mode="windows", step_seconds=4.0)
    assert views.timelines == [Timeline(0.0, 4.0, 5)]
    assert [view(views, k) for k in range(3)] == [
        ([0.5, 2.5, 4.5], [True] * 3, [[1, 2.5]], [0]),
        ([2.5, 4.5, 6.5], [True] * 3, [[0, 1.5]], [0]),
        ([4.5, 6.5, 8.5], [True] * 3, [[0, 0.5]], [0]),
    ]
    for duration, steps in ((20.1, 6), (0.3 * 10, 1), (19.9, 5)):  # the last step may be filled in part
        assert make(files, [annotated("v", duration)], 3, False, mode="padded", step_seconds=4.0).timelines == [
            Timeline(0.0, 4.0, steps)
        ]
    assert 2.1 / 0.7 > 3  # in binary
    assert make(files, [annotated("v", 2.1)], 3, False, mode="padded", step_seconds=0.7).timelines[0].steps == 3


@pytest.mark.parametrize("mode", ["windows", "padded"])
def test_rows_as_they_are_are_not_touched(tmp_path, mode):
    rows = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    write_features(tmp_path / "f.h5", {"v": VideoFeatures(rows, 7.0, "d")}, MEANING)
    files = FeatureFiles([tmp_path / "f.h5"])
    views = make(files, [annotated("v", 7.25, [1.0, 2.0])], 7, False, mode=mode)
    batch = views.batch([0])
    assert_array_equal(batch.features[0].T, rows)
    timeline = views.timelines[0]
    assert (timeline.start_seconds, timeline.step_seconds, timeline.steps) == (pytest.approx(-1 / 6), 1, 7)
    centres = timeline.start_seconds + (np.arange(7) + 0.5) * timeline.step_seconds
    assert_allclose(centres, files.centres("v", 7, 7.25), rtol=1e-12)
    assert_allclose(batch.segments[0], [[7 / 6, 13 / 6]], rtol=1e-6)


# Padded


def test_padded_training_by_hand(tmp_path):
    files = plain(tmp_path / "f.h5", v=10, w=3, x=4)
    videos = [annotated("v", 20.0, [3.0, 7.0], [10.0, 15.0]), annotated("w", 6.0, [1.0, 9.0]), annotated("x", 8.0)]
    views = make(files, videos, 4, True, mode="padded")
    assert [(each.video, each.offset, each.timeline.steps) for each in views.views] == [
        (0, 0, 4),  # too long: cut like windows
        (0, 4, 4),
        (1, 0, 3),
        (2, 0, 4),  # a video that fits is taken with or without segments
    ]
    assert view(views, 1) == ([4, 5, 6, 7], [True] * 4, [[1, 3.5]], [1])
    assert view(views, 2) == ([0, 1, 2, 0], [True, True, True, False], [[0.5, 3]], [0])
    assert view(views, 3) == ([0, 1, 2, 3], [True] * 4, [], [])
    assert (views.batch([2]).features[0, :, 3] == 0).all()


def test_padded_prediction_by_hand(tmp_path):
    files = plain(tmp_path / "f.h5", v=10, w=3)
    videos = [annotated("v", 20.0, [3.0, 7.0], [10.0, 20.0]), annotated("w", 6.0)]
    views = make(files, videos, 4, False, mode="padded")
    assert [(each.video, each.offset, each.timeline) for each in views.views] == [
        (0, 0, Timeline(0.0, 2.0, 10)),
        (1, 0, Timeline(0.0, 2.0, 3)),
    ]
    both = views.batch([1, 0])
    assert both.features.shape == (2, 3, 10)  # as long as the longest
    assert both.mask.sum(1).tolist() == [3, 10]
    assert (both.features[0, :, 3:] == 0).all()
    assert both.features[1, 0].tolist() == list(range(10))
    assert both.segments[1].tolist() == [[1.5, 3.5], [5, 10]]
    assert views.batch([1]).features.shape == (1, 3, 3)


# All modes

MODES = [
    {"mode": "rescale"},
    {"mode": "windows"},
    {"mode": "windows", "step_seconds": 0.7, "window_stride": 3, "inside": 0.5},
    {"mode": "padded"},
    {"mode": "padded", "step_seconds": 1.3, "inside": 0.0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("views")


@st.composite
def feature_sets(draw):
    """Return (rows, duration, segments in shares of the video) of each video, and the seed of the rows."""
    shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
    video = st.tuples(st.integers(1, 40), st.floats(3.0, 60.0), st.lists(shares, max_size=4))
    return draw(st.lists(video, min_size=1, max_size=4)), draw(st.integers(0, 99))


def written(folder, drawn, seed, with_attributes):
    rng = np.random.default_rng(seed)
    features, videos = {}, []
    for k, (rows, duration, shares) in enumerate(drawn):
        values = rng.standard_normal((rows, 3)).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = -0.0  # a bit of its own
        features[f"v{k}"] = VideoFeatures(values, duration, "d")
        videos.append(annotated(f"v{k}", duration, *(np.array(shares).reshape(-1, 2) * duration)))
    if with_attributes:
        write_features(folder / "f.h5", features, MEANING)
    else:
        (folder / "f.h5").unlink(missing_ok=True)  # an earlier example may still hold it open
        with h5py.File(folder / "f.h5", "w") as file:
            for name, video in features.items():
                file[name] = video.rows
    return FeatureFiles([folder / "f.h5"]), videos


@settings(max_examples=60)
@given(drawn=feature_sets(), mode=st.sampled_from(MODES), steps=st.integers(3, 20), with_attributes=st.booleans())
def test_prediction_sees_every_step_and_segments_come_back(folder, drawn, mode, steps, with_attributes):
    files, videos = written(folder, *drawn, with_attributes)
    views = make(files, videos, steps, False, **mode)
    seen = [np.zeros(timeline.steps, dtype=bool) for timeline in views.timelines]
    for k, each in enumerate(views.views):
        seen[each.video][each.offset : each.offset + each.timeline.steps] = True
        whole, video = views.timelines[each.video], videos[each.video]
        batch = views.batch([k])
        valid = each.timeline.steps
        assert batch.mask[0].tolist() == [True] * valid + [False] * (batch.features.shape[2] - valid)
        assert (batch.features[0, :, valid:] == 0).all()
        assert each.timeline.start_seconds == whole.start_seconds + each.offset * whole.step_seconds
        assert each.offset + valid <= max(whole.steps, steps)
        # Segments that lie inside the view come back from its steps, and from the whole video's.
        end = each.timeline.start_seconds + min(valid, whole.steps - each.offset) * each.timeline.step_seconds
        first, last = video.segments[:, 0], video.segments[:, 1]
        inside = (
            (first >= each.timeline.start_seconds) & (last <= end) & (last - first > 1e-6 * each.timeline.step_seconds)
        )
        found = batch.segments[0].double().numpy()
        for converted in (each.timeline.to_seconds(found), whole.to_seconds(found + each.offset)):
            for segment in video.segments[inside]:
                assert np.isclose(converted, segment, rtol=0, atol=1e-5 * whole.step_seconds * steps).all(1).any()
    assert all(steps_seen.all() for steps_seen in seen)


@settings(max_examples=60)
@given(drawn=feature_sets(), stride=st.integers(1, 6), inside=st.sampled_from([0.0, 0.5, 0.9]))
def test_training_windows_are_those_with_enough_of_a_segment(folder, drawn, stride, inside):
    files, videos = written(folder, *drawn, False)
    every = make(files, videos, 6, False, mode="windows", window_stride=stride)
    expected = []
    for each in every.views:
        whole, name = every.timelines[each.video], videos[each.video]
        for start, end in name.segments / whole.step_seconds - each.offset:
            share = (min(end, 6) - max(start, 0)) / (end - start) if end > start else 0
            if share > 0 and math.isclose(share, inside, abs_tol=1e-9):
                return  # decided by rounding
            if share > inside:
                expected.append((each.video, each.offset))
                break
    if not expected:
        with one_sentence(files.paths[0], "time.inside"):
            make(files, videos, 6, True, mode="windows", window_stride=stride, inside=inside)
        return
    views = make(files, videos, 6, True, mode="windows", window_stride=stride, inside=inside)
    assert [(each.video, each.offset) for each in views.views] == expected
    for k in range(len(views)):
        segments = views.batch([k]).segments[0]
        assert (segments[:, 1] >= segments[:, 0]).all()
        assert len(segments)


@settings(max_examples=60)
@given(drawn=feature_sets(), mode=st.sampled_from(MODES), training=st.booleans(), with_attributes=st.booleans())
def test_streamed_and_kept_features_are_the_same_bits(folder, drawn, mode, training, with_attributes):
    drawn[0].append((9, 10.0, [(0.0, 0.5)]))  # so that there is something to train on
    files, videos = written(folder, *drawn, with_attributes)
    kept, streamed = (
        FeatureViews(files, videos, ["a", "b"], 7, TimeSettings(**mode), training=training, memory_bytes=limit)
        for limit in (1 << 20, 0)
    )
    assert (kept.in_memory, streamed.in_memory) == (True, False)
    for _ in range(2):
        one, other = (views.batch(range(len(views))) for views in (kept, streamed))
        assert one.features.numpy().tobytes() == other.features.numpy().tobytes()
        assert torch.equal(one.mask, other.mask)
        assert all(map(torch.equal, one.segments, other.segments))
        assert all(map(torch.equal, one.labels, other.labels))


def test_a_window_behind_the_last_row_is_the_same_bits_too(tmp_path):
    rows = np.array([[1.0, 1.0, 1.0], [-0.0, 2.0, 0.0]], dtype=np.float32)
    write_features(tmp_path / "f.h5", {"v": VideoFeatures(rows, 2.0, "d")}, MEANING)
    time, files = TimeSettings(mode="windows", step_seconds=1.0), FeatureFiles([tmp_path / "f.h5"])
    kept, streamed = (
        FeatureViews(files, [annotated("v", 20.0)], [], 4, time, training=False, memory_bytes=limit).batch([4])
        for limit in (1000, 0)
    )
    assert kept.features[0].tolist() == [[0] * 4, [2] * 4, [0] * 4]
    assert kept.features.numpy().tobytes() == streamed.features.numpy().tobytes()


def test_what_fits_is_read_once_and_what_does_not_is_not_kept(tmp_path, monkeypatch):
    files = plain(tmp_path / "f.h5", v=10, w=3)
    videos = [annotated("v", 20.0), annotated("w", 6.0)]
    read = []
    real = FeatureFiles.rows
    monkeypatch.setattr(FeatureFiles, "rows", lambda self, *args: read.append(args) or real(self, *args))
    needed = (10 + 3) * 3 * 4
    time = TimeSettings(mode="windows")
    for limit, expected in (
        (needed, [("v", 0, 10), ("w", 0, 3)]),
        (needed - 1, 2 * [("v", 0, 6), ("v", 3, 9), ("v", 4, 10), ("w", 0, 3)]),
    ):
        read.clear()
        views = FeatureViews(files, videos, [], 6, time, training=False, memory_bytes=limit)
        assert read == []
        for _ in range(2):
            views.batch(range(len(views)))
        assert read == expected


# Settings


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"step_seconds": 1.0}, ["step_seconds", '"rescale"']),
        ({"window_stride": 4}, ["window_stride", '"rescale"']),
        ({"inside": 0.5}, ["inside", '"rescale"']),
        ({"mode": "padded", "window_stride": 4}, ["window_stride", '"padded"']),
        ({"mode": "windows", "step_seconds": 0.0}, ["step_seconds", "greater than 0"]),
        ({"mode": "windows", "step_seconds": math.inf}, ["step_seconds"]),
        ({"mode": "windows", "window_stride": 0}, ["window_stride"]),
        ({"mode": "windows", "inside": 1.0}, ["inside", "less than 1"]),
        ({"mode": "window"}, ["'mode'", "'windows'"]),
        ({"window_strid": 3}, ["'window_strid'", "did you mean 'window_stride'?"]),
    ],
)
def test_settings_that_mean_nothing_are_one_sentence(values, parts):
    with one_sentence("a.toml", *parts):
        validated(TimeSettings, values, "a.toml")


@pytest.mark.parametrize("mode", MODES)
def test_settings_that_were_written_out_are_read_back(mode):
    time = TimeSettings(**mode)
    assert validated(TimeSettings, time.model_dump(mode="json"), "a.toml") == time


def test_a_stride_longer_than_a_window_is_one_sentence(tmp_path):
    files = plain(tmp_path / "f.h5", v=10)
    with one_sentence("time.window_stride", "4 steps", "found 5"):
        make(files, [annotated("v", 20.0)], 4, False, mode="windows", window_stride=5)
    make(files, [annotated("v", 20.0)], 4, False, mode="windows", window_stride=4)


def test_no_window_to_train_on_is_one_sentence(tmp_path):
    files = plain(tmp_path / "f.h5", v=10)
    with one_sentence(files.paths[0], "window of 4 steps", "1 video(s)", "time.inside"):
        make(files, [annotated("v", 20.0, [0.0, 20.0])], 4, True, mode="windows")
