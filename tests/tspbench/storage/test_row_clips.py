import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tests.tspbench.helpers import one_sentence
from tspbench.clips import frame_grid
from tspbench.storage.row_clips import RowClips, read_row_clips
from tspbench.timeline import Timeline

ATTRIBUTES = {"clip_frames": 8, "stride_frames": 6, "frame_rate": 12.0}


def test_clips_by_hand():
    # Clips of 8 frames every 6 frames at 12 a second: middles at 4, 10, 16 and 22 frames, steps from 1 to 25 frames.
    clips = RowClips(8, 6, 12.0)
    assert_allclose(clips.centres(4), np.array([4, 10, 16, 22]) / 12)
    timeline = clips.timeline(4)
    assert timeline == Timeline(1 / 12, 0.5, 4)
    # 2 s are 24 frames: clips begin at 0, 6 and 12, the last one ends at 20. 26 frames make room for one more.
    assert [clips.count(frames / 12) for frames in (24, 25.9, 26, 13, 14, 8, 3)] == [3, 3, 4, 1, 2, 1, 1]


def test_a_step_is_half_a_stride_on_either_side_of_its_clips_middle():
    for clip, stride in ((16, 16), (16, 1), (8, 12)):
        clips = RowClips(clip, stride, 15.0)
        timeline = clips.timeline(9)
        middles = timeline.start_seconds + (np.arange(9) + 0.5) * timeline.step_seconds
        assert_allclose(middles, clips.centres(9), rtol=1e-12, atol=1e-12)


@given(
    frames=st.integers(1, 5000),
    rate=st.sampled_from([12.0, 24.0, 25.0, 30000 / 1001, 30.0, 59.94]),
    target=st.sampled_from([8.0, 12.0, 15.0, 25.0, 30.0]),
    clip=st.integers(1, 64),
    stride=st.integers(1, 64),
    late=st.floats(0, 0.5),
)
def test_what_is_extracted_is_never_refused(frames, rate, target, clip, stride, late):
    """The rows that `tspbench.stages.extract` makes: clips of the padded frame grid; the last frame may last longer."""
    duration = frames / rate + late / rate
    grid = max(clip, len(frame_grid(np.arange(frames) / rate, duration, target)))
    rows = (grid - clip) // stride + 1
    clips = RowClips(clip, stride, target)
    assert abs(clips.count(duration) - rows) <= 1
    assert clips.explain(rows, duration)


@pytest.mark.parametrize(
    ("count", "duration", "believed"),
    [
        # 8 + 6 * 9 = 62 frames make 10 rows.
        *[(rows, 62 / 12, 8 <= rows <= 12) for rows in range(6, 15)],
        # 8 + 6 * 499 frames make 500 rows: 2 % are 10.
        *[(rows, 3002 / 12, 490 <= rows <= 510) for rows in (250, 489, 490, 500, 510, 511, 1000)],
    ],
)
def test_two_rows_or_two_percent_are_forgiven(count, duration, believed):
    assert RowClips(8, 6, 12.0).explain(count, duration) == believed


def test_attributes_are_all_there_or_none():
    assert read_row_clips("f.h5", ATTRIBUTES | {"encoder": "tiny"}) == RowClips(8, 6, 12.0)
    assert read_row_clips("f.h5", ATTRIBUTES | {"stride_frames": 6.0}) == RowClips(8, 6, 12.0)
    assert read_row_clips("f.h5", {"encoder": "tiny"}) is None
    for name in ATTRIBUTES:
        with one_sentence("f.h5", f"found {name} None"):
            read_row_clips("f.h5", {key: value for key, value in ATTRIBUTES.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stride_frames", 0),
        ("stride_frames", -6),
        ("stride_frames", 2.5),
        ("stride_frames", [6]),
        ("stride_frames", float("nan")),
        ("clip_frames", 0),
        ("clip_frames", "8"),
        ("clip_frames", True),
        ("frame_rate", 0.0),
        ("frame_rate", float("inf")),
    ],
)
def test_attributes_that_make_no_clips_are_one_sentence(name, value):
    with one_sentence("f.h5", f"found {name} {value!r}", "correct the attributes"):
        read_row_clips("f.h5", ATTRIBUTES | {name: value})
