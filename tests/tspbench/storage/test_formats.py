"""Which reader a file goes to, by its name and its columns."""

import gzip
import json

import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import one_sentence
from tspbench.storage.formats import read_ground_truth

TABLE = "video,start,end,label,split\na,0,1,x,train\n"
THUMOS = "video-name,t-init,t-end,label-idx\nvideo_test_0000004,1,2,7\n"
ACTIVITYNET = json.dumps(
    {"database": {"a": {"subset": "training", "annotations": [{"segment": [0, 1], "label": "x"}]}}}
)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", TABLE, ("a", "training", ("x",))),
        ("a.CSV", TABLE, ("a", "training", ("x",))),
        ("a.csv", THUMOS, ("video_test_0000004", "test", ("Diving",))),
        ("a.json", ACTIVITYNET, ("a", "training", ("x",))),
    ],
)
def test_a_file_goes_to_its_reader(tmp_path, name, text, found, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    (video,) = read_ground_truth([path]).videos
    assert (video.name, video.subset, video.labels) == found


def test_a_table_and_json_are_joined_and_may_not_share_a_video(tmp_path):
    (tmp_path / "a.json").write_text(ACTIVITYNET)
    (tmp_path / "b.csv").write_text(TABLE.replace("a,0", "b,0"))
    joined = read_ground_truth([tmp_path / "a.json", tmp_path / "b.csv"])
    assert [video.name for video in joined.videos] == ["a", "b"]
    (tmp_path / "b.csv").write_text(TABLE)
    with one_sentence("b.csv", "'a'", "a.json"):
        read_ground_truth([tmp_path / "a.json", tmp_path / "b.csv"])


def test_the_real_table_of_thumos_stays_one():
    annotations = read_ground_truth([shared("data/thumos14/test_groundtruth_with_ambiguous.csv")])
    assert (len(annotations.videos), len(annotations.labels)) == (213, 21)
