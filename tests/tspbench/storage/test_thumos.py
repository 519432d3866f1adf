"""THUMOS14 files: folders of texts, CSV, detections."""

import re

import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS, VIDEO_SETS
from tests.evaluation.helpers import shared, truth
from tspbench.errors import UserError
from tspbench.storage.formats import read_any_predictions, read_ground_truth
from tspbench.storage.thumos import CLASS_NUMBERS

HEAD = "video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx\n"
TRUTH = truth([("video_test_0000004", "Diving", 1.0, 2.0)], labels=["Ambiguous", "Diving", "HighJump"])


def described(annotations):
    return {
        video.name: (video.subset, video.duration_seconds, video.segments.tolist(), video.labels)
        for video in annotations.videos
    }


def test_a_folder_of_texts(tmp_path):
    (tmp_path / "Diving_test.txt").write_text("video_test_0000004  1.0 2.5\nvideo_test_0000006 3.0 4.0\n\n")
    (tmp_path / "Ambiguous_test.txt").write_text("video_test_0000004 7.0 8.0\n")
    (tmp_path / "HighJump_val.txt").write_text("video_validation_0000001 0.5 0.5\n")
    (tmp_path / "readme.txt").write_text("not annotations\n")
    assert described(read_ground_truth([tmp_path])) == {
        "video_test_0000004": ("test", None, [[7.0, 8.0], [1.0, 2.5]], ("Ambiguous", "Diving")),
        "video_test_0000006": ("test", None, [[3.0, 4.0]], ("Diving",)),
        "video_validation_0000001": ("validation", None, [[0.5, 0.5]], ("HighJump",)),
    }


def test_a_csv(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(
        HEAD + "video_test_0000004,1.0,2.5,30,75,33.5,30.0,1012,7\nvideo_test_0000004,7,8,210,240,33.5,30,1012,-1\n"
    )
    assert described(read_ground_truth([path])) == {
        "video_test_0000004": ("test", 33.5, [[1.0, 2.5], [7.0, 8.0]], ("Diving", "Ambiguous"))
    }


def test_the_real_ground_truth_is_the_published_video_sets():
    annotations = read_ground_truth([shared("data/thumos14/test_groundtruth_with_ambiguous.csv")])
    ground_truth = annotations.ground_truth("test")
    assert (len(ground_truth.videos), len(ground_truth)) == (213, 3457)
    protocol = DETECTION_PROTOCOLS["thumos14-official"]
    assert (len(protocol.scoped(ground_truth)), len(protocol.ignored(ground_truth))) == (3358, 99)
    for name in ("thumos14-212", "thumos14-211", "thumos14-210"):
        assert VIDEO_SETS[name].problem(DETECTION_PROTOCOLS[name].scoped(ground_truth)) is None
    assert set(ground_truth.labels) == {*CLASS_NUMBERS, "Ambiguous"}


def test_detections(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("video_test_0000004 1.0 2.5 26 0.75\nvideo_test_0000009 3 4 40 -1e3\n\n")
    predictions = read_any_predictions(path, TRUTH, keep_unknown=True)
    assert predictions.videos == ("video_test_0000004", "video_test_0000009")
    np.testing.assert_array_equal(predictions.video, [0, 1])
    np.testing.assert_array_equal(predictions.start, [1.0, 3.0])
    np.testing.assert_array_equal(predictions.end, [2.5, 4.0])
    np.testing.assert_array_equal(predictions.score, [0.75, -1000.0])
    np.testing.assert_array_equal(predictions.label, [1, 2])
    with pytest.raises(UserError, match="video 'video_test_0000009': expected a video of the ground truth, found 1 "):
        read_any_predictions(path, TRUTH)


def test_proposals_need_no_known_class(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("video_test_0000004 1.0 2.5 0 0.75\n")
    assert read_any_predictions(path, TRUTH, labelled=False).label.tolist() == [-1]


LINE = "expected a video, a start and an end in seconds, a class number and a score, found "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("video_test_0000004 1 2 26", LINE + "'video_test_0000004 1 2 26'; mend it."),
        ("v 1 2 26 nan", LINE + "'v 1 2 26 nan'; mend it."),
        ("v 1 inf 26 0.5", LINE + "'v 1 inf 26 0.5'; mend it."),
        ("v 1 2 7 0.5", "expected a class number of the ground truth such as 26, found 7; mend it."),
        ("v 1 2 Diving 0.5", "expected a class number of the ground truth such as 26, found Diving; mend it."),
        ("v 2 1 26 0.5", "expected a segment that does not end before it starts, found 2.0 to 1.0; mend it."),
    ],
)
def test_mistakes_in_detections(tmp_path, line, message):
    path = tmp_path / "run.txt"
    path.write_text(f"video_test_0000004 1.0 2.5 26 0.75\n{line}\n")
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}, line 2: {message}')}$"):
        read_any_predictions(path, TRUTH)


@pytest.mark.parametrize("line", ["video_test_0000004 1.0", "video_test_0000004 one two", "a b c d"])
def test_mistakes_in_a_text_of_annotations(tmp_path, line):
    (tmp_path / "Diving_test.txt").write_text(f"\n{line}\n")
    message = (
        f"{tmp_path / 'Diving_test.txt'}, line 2: expected a video, a start and an end in seconds, found {line!r}; "
        "mend it."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_ground_truth([tmp_path])


def test_a_folder_without_annotations(tmp_path):
    with pytest.raises(
        UserError, match=r": expected THUMOS14 annotations such as BaseballPitch_test\.txt, found none;"
    ):
        read_ground_truth([tmp_path])


@pytest.mark.parametrize("row", ["video_test_0000004,1,x,7", "video,1,2,7", "video_test_1,1,2,20", "video_test_1,1,2"])
def test_mistakes_in_a_csv(tmp_path, row):
    path = tmp_path / "truth.csv"
    path.write_text(f"video-name,t-init,t-end,label-idx\n{row}\n")
    with pytest.raises(UserError, match=r"truth\.csv, line 2: expected a video such as video_test_0000004, two times "):
        read_ground_truth([path])


def test_a_csv_without_a_column(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("video-name,t-init,t-end\n")
    with pytest.raises(UserError, match=r"line 1: expected the columns .*, found no 'label-idx'; give a CSV that "):
        read_ground_truth([path])


def test_what_is_no_csv(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("video-name,t-init,t-end,label-idx\nv,1,2,3\n" + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"truth\.csv, line \d: expected CSV, found what is none \(field larger than "):
        read_ground_truth([path])
    path.write_text("video-name,t-init,t-end,label-idx\n")
    with pytest.raises(UserError, match=r"truth\.csv: expected annotated segments, found none;"):
        read_ground_truth([path])


def test_a_line_is_called_by_its_place_in_the_file(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("\ufeffvideo-name,t-init,t-end,label-idx\n\n\nvideo_test_1,1,2,20\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"truth\.csv, line 4: expected a video"):
        read_ground_truth([path])
    path.write_text("t-init,t-end,label-idx,video-name\n1,2,3\n")
    with pytest.raises(UserError, match=r"truth\.csv, line 2: expected a video"):
        read_ground_truth([path])
