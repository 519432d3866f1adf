import numpy as np
import pytest

from evaluation import DETECTION_PROTOCOLS, PROPOSAL_PROTOCOLS, PROTOCOLS, VIDEO_SETS, ProposalProtocol, Protocol
from tests.evaluation.helpers import predicted, truth

ROWS = [
    ("video_test_0000004", "run", 0.0, 1.0),
    ("video_test_0000270", "run", 0.0, 1.0),
    ("video_test_0000004", "Ambiguous", 2.0, 3.0),
    ("video_test_0001292", "Ambiguous", 2.0, 3.0),
]


@pytest.mark.parametrize("task", PROTOCOLS)
def test_the_key_is_the_name(task):
    assert all(name == protocol.name for name, protocol in PROTOCOLS[task].items())
    assert all(protocol.source for protocol in PROTOCOLS[task].values())


def test_video_sets_are_rows_of_detection_and_proposals():
    assert all(name == chosen.name for name, chosen in VIDEO_SETS.items())
    for table in (DETECTION_PROTOCOLS, PROPOSAL_PROTOCOLS):
        assert {name: row.video_set for name, row in table.items() if name in VIDEO_SETS} == VIDEO_SETS


def test_thresholds_are_those_of_the_official_evaluator_to_the_last_bit():
    assert DETECTION_PROTOCOLS["activitynet"].thresholds == tuple(np.linspace(0.5, 0.95, 10))
    assert DETECTION_PROTOCOLS["thumos14"].thresholds == tuple(np.linspace(0.3, 0.7, 5))
    assert DETECTION_PROTOCOLS["activitynet"].thresholds[8] < 0.9


@pytest.mark.parametrize("thresholds", [(), (0.0, 0.5), (0.5, 0.5), (0.7, 0.5), (0.5, 1.5), (float("nan"),)])
def test_thresholds_must_rise_within_bounds(thresholds):
    with pytest.raises(ValueError, match=r"^thresholds must rise within \(0, 1\], received "):
        Protocol(name="mine", thresholds=thresholds, source="here")


@pytest.mark.parametrize("shown", [(7,), (2000,)])
def test_a_shown_number_must_be_a_point_of_the_curve(shown):
    with pytest.raises(ValueError, match=r"^shown must be among the 100 points up to 1000, received "):
        ProposalProtocol(name="mine", thresholds=(0.5,), source="here", budget=1000, shown=shown)


def test_excluded_videos_and_ignored_segments_leave_ground_truth_and_predictions():
    protocol = DETECTION_PROTOCOLS["thumos14-211"]
    scoped = protocol.scoped(truth(ROWS))
    assert scoped.videos == ("video_test_0000004",)
    assert scoped.labels == ("run", "Ambiguous")
    assert (len(scoped), len(protocol.ignored(truth(ROWS)))) == (1, 1)
    predictions = predicted([(row[0], row[1], row[2], row[3], 0.5) for row in ROWS])
    assert protocol.scoped_predictions(predictions).video.tolist() == [0, 0]
    assert protocol.scoped(scoped) is not scoped or len(protocol.scoped(scoped)) == 1


def test_a_ground_truth_that_is_not_the_named_video_set_is_told():
    assert VIDEO_SETS["thumos14-211"].problem(truth(ROWS)) == (
        "expected the 211 videos with 3,329 segments of thumos14-211, found 1 with 2"
    )
    rows = [(f"v{i}", "run", 0.0, 1.0) for i in range(4895)]
    assert VIDEO_SETS["activitynet-4895"].problem(truth(rows)) is None
