"""From annotations to TSP's ground truth: by hand, and against the released files."""

import gzip
from collections import defaultdict
from dataclasses import astuple

import numpy as np
import pytest

from tests.evaluation.helpers import shared
from tests.tspbench.helpers import names, one_sentence
from tspbench.pretraining.contract import BACKGROUND
from tspbench.pretraining.segments import LabelledSegment
from tspbench.stages.segments import annotated_actions, count_segments, cut, labelled_segments, write_ground_truth
from tspbench.storage.annotations import VideoAnnotations
from tspbench.storage.formats import read_ground_truth
from tspbench.storage.tsp_segments import SegmentRow, VideoMetadata, read_metadata, read_segments

CLIP = 16 / 15
GAP = {"activitynet": 5 * CLIP, "thumos14": CLIP}
SPLITS = ("activitynet/train", "activitynet/valid", "thumos14/valid", "thumos14/test")
A, B = VideoMetadata("a.mp4", 20.0, 30.0, 600), VideoMetadata("b.mp4", 30.0, 30.0, 900)


def video(name, *actions):
    """Return annotations from (start, end, label)."""
    segments = np.array([action[:2] for action in actions], dtype=np.float64).reshape(-1, 2)
    return VideoAnnotations(name, "train", 99.0, segments, tuple(action[2] for action in actions))


VIDEOS = [
    video("b", (5, 8, "Run"), (1, 2, "Ambiguous"), (20, 29.5, "Jump")),
    video("c", (1, 2, "Run")),
    video("a", (0, 4, "Jump"), (2, 10, "Jump")),
]


def test_cutting_by_hand():
    """Actions in the order of the metadata, background in that of the names; 99 s is not the duration; no c there."""
    rows = cut(VIDEOS, {"b": B, "z": A, "a": A}, 4.0, ignored_label="Ambiguous")
    assert rows == [
        SegmentRow("b", 5.0, 8.0, "Run", B),
        SegmentRow("b", 20.0, 29.5, "Jump", B),
        SegmentRow("a", 0.0, 4.0, "Jump", A),
        SegmentRow("a", 2.0, 10.0, "Jump", A),
        SegmentRow("a", 10.0, 20.0, None, A),
        SegmentRow("b", 0.0, 5.0, None, B),
        SegmentRow("b", 8.0, 20.0, None, B),
    ]
    # Unless they are ignored, ambiguous stretches are actions like others: 0 to 1 and 2 to 5 are too short a gap.
    assert SegmentRow("b", 0.0, 5.0, None, B) not in cut(VIDEOS, {"b": B}, 4.0)


def test_videos_of_which_nothing_is_left_are_left_out_and_empty_ones_are_background():
    nothing = video("a", (1, 2, "Ambiguous"), (3, 4, "Ambiguous"))
    assert annotated_actions(nothing, "Ambiguous") is None
    assert cut([nothing], {"a": A}, 1.0, ignored_label="Ambiguous") == []
    assert cut([video("a")], {"a": A}, 1.0, ignored_label="Ambiguous") == [SegmentRow("a", 0.0, 20.0, None, A)]


def test_labelled_segments_by_hand():
    rows = [
        SegmentRow("a", 18.0, 25.0, "Run", A),
        SegmentRow("a", 19.5, 25.0, "Run", A),
        SegmentRow("a", 0.0, 18.0, None, A),
        SegmentRow("b", 19.5, 25.0, "Jump", B),
    ]
    assert labelled_segments(rows, ["Jump", "Run"], 1.0, "rows.csv") == [
        LabelledSegment("a", 18.0, 20.0, 1),
        LabelledSegment("a", 0.0, 18.0, BACKGROUND),
        LabelledSegment("b", 19.5, 25.0, 0),
    ]
    with one_sentence("rows.csv", "'a'", "'Run'", "did you mean 'Ruin'?"):
        labelled_segments(rows, ["Jump", "Ruin"], 1.0, "rows.csv")
    assert astuple(count_segments(rows, 1.0, 5)) == (2, 3, 1, 2, 1, 15)


def test_a_ground_truth_is_written_for_a_split(tmp_path):
    rows = write_ground_truth(tmp_path / "train.csv", VIDEOS, {"a": A, "b": B}, 4.0, ignored_label="Ambiguous")
    assert (
        read_segments(tmp_path / "train.csv") == rows == cut(VIDEOS, {"a": A, "b": B}, 4.0, ignored_label="Ambiguous")
    )


def test_a_split_without_actions_is_one_sentence(tmp_path):
    for videos, metadata in ((VIDEOS, {"v_b": B}), ([video("a")], {"a": A}), ([], {})):
        with one_sentence(tmp_path / "train.csv", f"{len(videos)} annotated videos"):
            write_ground_truth(tmp_path / "train.csv", videos, metadata, 4.0)
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def released():
    """Return the rows of each released file, read once."""
    return {name: read_segments(shared(f"data/{name}_tsp_groundtruth.csv.gz")) for name in SPLITS}


def cut_again(name, rows, *, as_released):
    """Cut a released file from its own actions and durations."""
    actions = defaultdict(list)
    for row in rows:
        if row.label is not None:
            actions[row.video].append((row.start, row.end, row.label))
    videos = [video(each, *found) for each, found in actions.items()]
    return cut(videos, {row.video: row.file for row in rows}, GAP[name.split("/")[0]], as_released=as_released)


def gaps(rows):
    """Return video → its background, (n, 2) in the order of time."""
    found = {row.video: [] for row in rows}
    for row in rows:
        if row.label is None:
            found[row.video].append((row.start, row.end))
    return {each: np.array(sorted(times)).reshape(-1, 2) for each, times in found.items()}


@pytest.mark.parametrize(
    ("name", "same_number", "there", "identical"),
    [
        ("activitynet/train", 9_989, 15_860, 15_838),
        ("activitynet/valid", 4_900, 7_668, 7_662),
        ("thumos14/valid", 200, 2_178, 2_177),
        ("thumos14/test", 212, 2_573, 2_571),
    ],
)
def test_the_union_of_actions_leaves_what_is_released(released, name, same_number, there, identical):
    """FACTS 10.2: 4,748 of the 4,751 gaps of THUMOS14, and 23,500 of the 23,528 of agreeing ActivityNet videos."""
    ours, theirs = gaps(cut_again(name, released[name], as_released=False)), gaps(released[name])
    assert set(ours) == set(theirs)
    agreeing = [each for each in ours if len(ours[each]) == len(theirs[each])]
    assert len(agreeing) == same_number
    assert sum(len(ours[each]) for each in agreeing) == there
    equal = sum(int((np.abs(ours[each] - theirs[each]) < 1e-6).all(axis=1).sum()) for each in agreeing)
    assert equal == identical


@pytest.mark.parametrize("name", SPLITS)
def test_the_released_files_are_cut_behind_the_action_that_began_last(released, name):
    """Every row in its place, but one: two actions begin together, and the order of the file is not theirs."""
    ours, theirs = cut_again(name, released[name], as_released=True), released[name]
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert [(a.video, a.start, b.start, a.end - b.end) for a, b in differing] == (
        [("video_validation_0000184", 85.2, 85.8, 0.0)] if name == "thumos14/valid" else []
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("activitynet/train", (10_024, 15_410, 15_956, 15_231, 15_956, 155_935)),
        ("activitynet/valid", (4_926, 7_654, 7_747, 7_558, 7_747, 76_525)),
        ("thumos14/valid", (200, 3_007, 2_178, 2_617, 2_177, 23_970)),
        ("thumos14/test", (212, 3_358, 2_573, 3_018, 2_550, 27_840)),
    ],
)
def test_the_counts_of_the_released_files(released, name, expected):
    """FACTS 1.3: videos, actions, background, those of either that last a clip inside the video, clips an epoch."""
    assert astuple(count_segments(released[name], CLIP, 5)) == expected


@pytest.mark.parametrize(
    ("name", "annotations", "subset", "videos"),
    [
        ("activitynet/train", "activitynet/annotations_19228.json", "training", 9_649),
        ("activitynet/valid", "activitynet/annotations_19228.json", "validation", 4_728),
        ("thumos14/valid", "thumos14/annotations_410.json", "train", 200),
        ("thumos14/test", "thumos14/test_groundtruth_with_ambiguous.csv", "test", 212),
    ],
)
def test_the_released_files_follow_from_annotations_and_metadata(tmp_path, released, name, annotations, subset, videos):
    """Ambiguous stretches are background in them, and a video in which all is ambiguous is in none."""
    packed = ".gz" if name.startswith("activitynet") else ""
    metadata = read_metadata(shared(f"data/{name}_metadata.csv{packed}"))
    annotated = read_ground_truth([shared(f"data/{annotations}")]).subset(subset)
    rows = write_ground_truth(
        tmp_path / "rows.csv.gz",
        annotated,
        metadata,
        GAP[name.split("/")[0]],
        ignored_label="Ambiguous",
        as_released=True,
    )
    assert gzip.decompress((tmp_path / "rows.csv.gz").read_bytes()).count(b"\n") == len(rows) + 1
    there = {row.video for row in rows}
    assert len(there) == videos

    def ordered(some):
        """Annotations come in another order than the released actions."""
        kept = [row for row in some if row.video in there]
        return sorted(kept, key=lambda row: (row.video, row.label or "", round(row.start, 4), round(row.end, 4)))

    pairs = list(zip(ordered(rows), ordered(released[name]), strict=True))
    assert all((a.video, a.label) == (b.video, b.label) for a, b in pairs)
    # Metadata has durations of 15 digits.
    differing = {a.video for a, b in pairs if max(abs(a.start - b.start), abs(a.end - b.end)) > 1e-6}
    assert differing == ({"video_validation_0000176"} if name == "thumos14/valid" else set())
