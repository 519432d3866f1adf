import numpy as np

from tests.tspbench.helpers import number, numbered_video, one_sentence, timed_video
from tspbench.storage.thumbnails import read_thumbnails


def test_thumbnails_are_the_frames_in_the_middle_of_equal_parts(tmp_path):
    frames = read_thumbnails(numbered_video(tmp_path / "v.mp4", 40), 4, 1000)
    assert [number(frame) for frame in frames] == [5, 15, 25, 35]


def test_frames_are_chosen_by_the_time_at_which_they_are_shown(tmp_path):
    # Frames 0 to 9 in the first second, frame 10 from then on for about as long as nine more.
    path = timed_video(tmp_path / "v.mkv", [*range(0, 1000, 100), 1000, 9900])
    assert [number(frame) for frame in read_thumbnails(path, 5, 1000)] == [10] * 5


def test_large_frames_are_thinned_and_small_ones_are_not(tmp_path):
    path = numbered_video(tmp_path / "v.mp4", 3)
    assert [frame.shape for frame in read_thumbnails(path, 1, 20)] == [(28, 28, 3)]
    assert [frame.shape for frame in read_thumbnails(path, 2, 57)] == [(56, 56, 3)] * 2


def test_a_video_of_one_frame(tmp_path):
    frames = read_thumbnails(numbered_video(tmp_path / "v.mp4", 1), 3, 56)
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


def test_what_is_no_video_is_one_sentence(tmp_path):
    (tmp_path / "v.mp4").write_text("no video")
    with one_sentence(tmp_path / "v.mp4"):
        read_thumbnails(tmp_path / "v.mp4", 3, 56)
