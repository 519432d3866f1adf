from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import numbered_video, numbers, timed_video
from tspbench.storage.clip_frames import SkippingReader, open_for_clips, read_whole
from tspbench.storage.video import DecordReader, open_video, scan_video


def pieces(frames, count, seed=0):
    """Return ascending places of short clips at random, every second frame, some of them repeated at the end."""
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, max(1, frames - 8), count)
    return [np.minimum(np.arange(first, first + 24, 2), frames - 1) for first in firsts]


@pytest.mark.parametrize(
    ("name", "skips"),
    [
        ("arm_wrestling.mp4", True),
        ("flipping_a_pancake.mkv", True),
        ("nasa_13013.mp4", True),
        ("test_non_zero_start.mp4", True),
        ("video_90.mov", True),
        ("testsrc2_odd_height_and_width_vp9.mp4", False),
    ],
)
def test_frames_of_published_videos_are_the_same_to_the_bit(name, skips):
    info = scan_video(shared(f"data/videos/{name}"))
    reader = open_for_clips(info)
    assert isinstance(reader, SkippingReader if skips else DecordReader)
    for indices in pieces(info.frames, 4):
        assert_array_equal(reader.read(indices), open_video(info).read(indices))
    every = np.arange(0, info.frames, 2)
    assert_array_equal(read_whole(info, every), open_video(info).read(every))


def test_any_frames_in_any_order_of_clips(tmp_path):
    info = scan_video(numbered_video(tmp_path / "v.mp4", 90))
    reader = open_for_clips(info)
    for indices in ([0, 1, 2], [80, 89], [5, 5, 5, 40], [89], [0], list(range(90))):
        assert numbers(reader.read(np.array(indices))) == indices
    assert reader._fallback is None


def test_an_uneven_rhythm(tmp_path):
    info = scan_video(timed_video(tmp_path / "v.mp4", [700, 740, 780, 1000, 1600, 1640, 3000]))
    assert numbers(open_for_clips(info).read(np.array([1, 3, 6]))) == [1, 3, 6]


def test_where_a_frame_does_not_come_the_other_reader_takes_over(tmp_path):
    info = scan_video(numbered_video(tmp_path / "v.mp4", 40))
    shifted = replace(info, timestamps=info.timestamps + 1e-3)
    reader = open_for_clips(shifted)
    for indices in (np.array([3, 5]), np.array([30, 31])):
        assert numbers(reader.read(indices)) == indices.tolist()
    assert isinstance(reader._fallback, DecordReader)
