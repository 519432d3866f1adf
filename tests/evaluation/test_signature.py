import pytest

from evaluation import DETECTION_PROTOCOLS, ground_truth_hash, references_hash, score_signature
from tests.evaluation.helpers import captions_of, truth

ROWS = [("a", "run", 0.0, 1.0), ("b", "jump", 2.0, 3.0)]


def test_one_readable_line():
    assert score_signature("mAP", DETECTION_PROTOCOLS["thumos14"], truth(ROWS, videos=("a", "b", "c")), "1.2.3") == (
        "mAP|protocol:thumos14|tIoU:0.30,0.40,0.50,0.60,0.70|ties:score,video,start,end,label|matching:detection|"
        "AP:all-point|"
        f"videos:3|segments:2|truth:{ground_truth_hash(truth(ROWS, videos=('a', 'b', 'c')))}|tspbench:1.2.3"
    )


@pytest.mark.parametrize(
    "same",
    [
        truth(ROWS[::-1]),
        truth(ROWS, videos=("b", "a"), labels=("jump", "run")),
        truth(ROWS, labels=("run", "jump", "swim")),
        truth([("a", "run", -0.0, 1.0), ROWS[1]]),
    ],
)
def test_the_hash_ignores_order_and_classes_without_a_segment(same):
    assert ground_truth_hash(same) == ground_truth_hash(truth(ROWS))


@pytest.mark.parametrize(
    "other",
    [
        truth(ROWS[:1]),
        truth(ROWS, videos=("a", "b", "c")),
        truth([*ROWS, ROWS[0]]),
        truth([("a", "jump", 0.0, 1.0), ROWS[1]]),
        truth([("a", "run", 0.0, 1.0000000000000002), ROWS[1]]),
    ],
)
def test_the_hash_sees_every_video_and_segment(other):
    assert ground_truth_hash(other) != ground_truth_hash(truth(ROWS))
    assert len(ground_truth_hash(other)) == 8


def test_forgiving_segments_are_signed_where_they_decide():
    rows = [*ROWS, ("a", "Ambiguous", 4.0, 5.0)]
    official, plain = DETECTION_PROTOCOLS["thumos14-official"], DETECTION_PROTOCOLS["thumos14"]
    assert score_signature("mAP", official, truth(rows), "1") != score_signature("mAP", official, truth(ROWS), "1")
    assert score_signature("mAP", plain, truth(rows), "1") == score_signature("mAP", plain, truth(ROWS), "1")


def test_the_hash_of_references_ignores_order_and_sees_every_sentence():
    one, other = [("v1", 0, 1, "a"), ("v2", 0, 1, "b")], [("v1", 0, 2, "c")]
    expected = references_hash([captions_of(one), captions_of(other)])
    assert references_hash([captions_of(other), captions_of(one[::-1], ("v2", "v1"))]) == expected
    # The second file says nothing about v2, whether it names it or not.
    assert references_hash([captions_of(one), captions_of(other, ("v1", "v2"))]) == expected
    assert references_hash([captions_of(one), captions_of([("v1", 0, 2, "d")])]) != expected
    assert references_hash([captions_of([*one, *other])]) != expected
