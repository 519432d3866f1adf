"""Ground-truth CSVs of TSP: read, written, and what is wrong in them."""

import gzip

import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import full_disk, names, one_sentence
from tspbench.storage.tsp_segments import (
    COLUMNS,
    SegmentRow,
    VideoMetadata,
    read_metadata,
    read_segments,
    write_segments,
)

HEAD = ",".join(COLUMNS) + "\n"
FILE = VideoMetadata("v_a b.mp4", 100 / 3, 30.0, 1000)
ROWS = [
    SegmentRow("a b", 0.1, 1.1, "Jump, high", FILE),
    SegmentRow("a b", 1.1, 1.1, 'The "twist"', FILE),
    SegmentRow("a b", 1.1, 100 / 3, None, FILE),
]
LINES = (
    'a b,0.1,1.1,"Jump, high",33.333333333333336,v_a b.mp4,30.0,1000,Action\n'
    'a b,1.1,1.1,"The ""twist""",33.333333333333336,v_a b.mp4,30.0,1000,Action\n'
    "a b,1.1,33.333333333333336,,33.333333333333336,v_a b.mp4,30.0,1000,No action\n"
)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_rows_are_written_as_in_the_released_files_and_read_again(tmp_path, name):
    write_segments(tmp_path / name, ROWS)
    content = (tmp_path / name).read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content).decode() == HEAD + LINES
    assert read_segments(tmp_path / name) == ROWS
    assert not name.endswith(".gz") or content[4:8] == bytes(4)  # no time: equal rows give equal bytes


@pytest.mark.parametrize("name", ["activitynet/train", "activitynet/valid", "thumos14/valid", "thumos14/test"])
def test_the_released_files_come_out_byte_for_byte(tmp_path, name):
    source = shared(f"data/{name}_tsp_groundtruth.csv.gz")
    write_segments(tmp_path / "rows.csv", read_segments(source))
    assert (tmp_path / "rows.csv").read_bytes() == gzip.decompress(source.read_bytes())


@pytest.mark.parametrize(
    ("name", "videos"),
    [("activitynet/train", 10_024), ("activitynet/valid", 4_926), ("thumos14/valid", 200), ("thumos14/test", 213)],
)
def test_the_released_metadata_is_that_of_the_ground_truth(name, videos):
    packed = ".gz" if name.startswith("activitynet") else ""
    metadata = read_metadata(shared(f"data/{name}_metadata.csv{packed}"))
    assert len(metadata) == videos
    files = {row.video: row.file for row in read_segments(shared(f"data/{name}_tsp_groundtruth.csv.gz"))}
    assert set(metadata) - set(files) == ({"video_test_0001292"} if name == "thumos14/test" else set())
    for video, file in files.items():
        assert metadata[video]._replace(duration_seconds=file.duration_seconds) == file
        assert metadata[video].duration_seconds == pytest.approx(file.duration_seconds, abs=1e-11)


def test_metadata_by_video(tmp_path):
    (tmp_path / "m.csv").write_text("filename,video-duration,fps,video-frames\nv_--a_b.mp4,1.5,30,45\nc.mkv,0,25,0\n")
    assert read_metadata(tmp_path / "m.csv") == {
        "--a_b": VideoMetadata("v_--a_b.mp4", 1.5, 30.0, 45),
        "c": VideoMetadata("c.mkv", 0.0, 25.0, 0),
    }


def test_columns_may_come_in_another_order_and_beside_others(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffnote," + ",".join(reversed(COLUMNS)) + "\nx,No action,300,30,a.mp4,10.0,,4.5,0.0,a\n")
    assert read_segments(path) == [SegmentRow("a", 0.0, 4.5, None, VideoMetadata("a.mp4", 10.0, 30.0, 300))]


GOOD = "a,0.0,4.5,Jump,10.0,a.mp4,30.0,300,Action\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["line 1", "no 'video-name'"]),
        ("video-name,t-start\n", ["line 1", "no 't-end'"]),
        (HEAD, ["found none", "below the head"]),
        (HEAD + GOOD + "a,0.0\n", ["line 3", "expected 9 values, found 2"]),
        (HEAD + GOOD.replace("0.0,", "zero,", 1), ["line 2", "'t-start'", "'zero'"]),
        (HEAD + GOOD.replace("4.5", "nan"), ["line 2", "'t-end'", "'nan'"]),
        (HEAD + GOOD.replace("4.5", "1e300"), ["line 2", "'t-end'", "'1e300'"]),
        (HEAD + GOOD.replace("0.0,", "5,", 1), ["line 2", "5.0 to 4.5"]),
        (HEAD + GOOD.replace("10.0", "-1"), ["line 2", "'video-duration'", "'-1'", "not negative"]),
        (HEAD + GOOD.replace("300", "300.5"), ["line 2", "'video-frames'", "300.5"]),
        (HEAD + GOOD.replace("a.mp4", ""), ["line 2", "'filename'"]),
        (HEAD + GOOD.replace("a,", ",", 1), ["line 2", "'video-name'"]),
        (HEAD + GOOD.replace("Action", "action"), ["line 2", "'Action'", "found 'action' with 'Jump'"]),
        (HEAD + GOOD.replace("Action", "No action"), ["line 2", "found 'No action' with 'Jump'"]),
        (HEAD + GOOD.replace("Jump", ""), ["line 2", "found 'Action' with ''"]),
        (HEAD + GOOD + GOOD.replace("10.0", "11.0"), ["line 3", "'a'", "10.0", "11.0"]),
        (HEAD + GOOD.replace("Jump", '"Jump'), ["line 2", "expected CSV"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, content, parts):
    (tmp_path / "rows.csv").write_text(content)
    with one_sentence(tmp_path / "rows.csv", *parts):
        read_segments(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("a.mp4,ten,30,300\n", ["line 2", "'video-duration'", "'ten'"]),
        ("a.mp4,10,,300\n", ["line 2", "'fps'", "''"]),
        ("a.mp4,10,30,300\nv_a.mp4,10,30,300\n", ["line 3", "'a' again"]),
    ],
)
def test_metadata_that_does_not_fit_is_one_sentence(tmp_path, line, parts):
    (tmp_path / "m.csv").write_text("filename,video-duration,fps,video-frames\n" + line)
    with one_sentence(tmp_path / "m.csv", *parts):
        read_metadata(tmp_path / "m.csv")


def test_missing_and_damaged_files_are_one_sentence(tmp_path):
    with one_sentence(tmp_path / "none.csv", "ground-truth"):
        read_segments(tmp_path / "none.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((HEAD + GOOD).encode())[:-9])
    with one_sentence(tmp_path / "cut.csv.gz", "gzip"):
        read_segments(tmp_path / "cut.csv.gz")


def test_a_full_disk_leaves_no_half_file(tmp_path):
    with full_disk(), one_sentence(tmp_path / "rows.csv"):
        write_segments(tmp_path / "rows.csv", ROWS * 1000)
    assert names(tmp_path) == []
