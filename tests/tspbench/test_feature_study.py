"""The AUC and the similarity of clip features, on cases worked by hand and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspbench.feature_study import (
    NO_ACTION,
    Ranking,
    StudyStatistics,
    auc,
    clip_actions,
    neighbour_similarity,
    score_study,
    similarity_matrix,
)

SCORES = np.array([0.1, 0.4, 0.35, 0.8])
POSITIVE = np.array([False, False, True, True])
scored_clips = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)


def test_clip_is_in_the_shortest_action_that_holds_its_middle():
    segments = np.array([[1.0, 3.0], [0.0, 10.0], [2.0, 3.0]])
    found = clip_actions(np.array([0.5, 1.0, 2.5, 3.0, 10.0]), segments, np.array([7, 8, 9]))
    assert found.tolist() == [8, 7, 9, 8, NO_ACTION]


def test_clips_of_a_video_without_actions_are_background():
    assert clip_actions(np.arange(3.0), np.empty((0, 2)), np.empty(0, dtype=np.int64)).tolist() == [NO_ACTION] * 3


def test_auc_by_hand():
    # Of the four pairs of a foreground and a background clip, 0.35 < 0.4 alone is lost.
    assert auc(SCORES, POSITIVE) == 3 / 4


def test_auc_counts_ties_one_half():
    # Pairs: 2 > 1 won, 2 = 2 half.
    assert auc(np.array([1.0, 2.0, 2.0]), np.array([False, False, True])) == 3 / 4


def test_auc_weighs_clips():
    # Weights 2 for the clip at 0.35 and 3 for that at 0.4: lost 2 * 3 of (2 + 1) * (1 + 3) pairs.
    assert auc(SCORES, POSITIVE, np.array([1.0, 3.0, 2.0, 1.0])) == 1 - 6 / 12


def test_auc_of_one_kind_is_undefined():
    assert math.isnan(auc(SCORES, np.ones(4, dtype=bool)))
    assert math.isnan(Ranking.of(SCORES, POSITIVE, np.arange(4)).auc(np.array([1, 1, 0, 0])))


@given(clips=scored_clips, data=st.data())
def test_auc_of_drawn_videos_is_that_of_their_clips_repeated(clips, data):
    scores, positive, video = (np.array(column) for column in zip(*clips, strict=True))
    scores, positive = scores.astype(np.float64), positive.astype(bool)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)))
    times = weights[video]
    repeated, truth = np.repeat(scores, times), np.repeat(positive, times)
    above = repeated[truth][:, None] - repeated[~truth][None, :]
    expected = (np.mean(above > 0) + np.mean(above == 0) / 2) if above.size else math.nan
    found = Ranking.of(scores, positive, video).auc(weights)
    assert found == pytest.approx(expected, nan_ok=True)
    assert auc(scores, positive, times.astype(np.float64)) == pytest.approx(expected, nan_ok=True)


@given(clips=scored_clips)
def test_auc_of_reversed_scores_is_the_rest(clips):
    scores, positive, _ = (np.array(column) for column in zip(*clips, strict=True))
    forwards = auc(scores.astype(np.float64), positive.astype(bool))
    assert auc(-scores.astype(np.float64), positive.astype(bool)) == pytest.approx(1 - forwards, nan_ok=True)


def test_neighbours_are_told_apart_by_where_they_lie():
    features = np.array([[1, 0], [1, 0], [0, 2], [0, 1], [-1, 0], [0, 3]], dtype=np.float32)
    found = neighbour_similarity(features, np.array([False, False, True, True, True, False]))
    assert found.background.tolist() == [1.0]
    assert found.across.tolist() == [0.0, 0.0]
    assert found.inside.tolist() == [1.0, 0.0]


def test_similarity_is_of_centred_features():
    features = np.array([[11.0, 10.0], [9.0, 10.0]], dtype=np.float32)
    assert neighbour_similarity(features, np.ones(2, dtype=bool)).inside[0] == pytest.approx(0.995, abs=0.001)
    found = neighbour_similarity(features, np.ones(2, dtype=bool), np.array([10.0, 10.0]))
    assert found.inside.tolist() == [-1.0]


def test_one_clip_has_no_neighbour():
    found = neighbour_similarity(np.ones((1, 2), dtype=np.float32), np.ones(1, dtype=bool))
    assert [len(found.inside), len(found.background), len(found.across)] == [0, 0, 0]


def test_a_clip_without_direction_is_similar_to_none():
    features = np.array([[0.1, 0.2], [0.1, 0.2], [1.0, 0.0]], dtype=np.float32)
    mean = features[0].astype(np.float64) + 1e-12  # what rounding leaves
    assert neighbour_similarity(features, np.ones(3, dtype=bool), mean).inside.tolist() == []
    matrix = similarity_matrix(features, mean)
    assert np.isnan(matrix[:2]).all()
    assert matrix[2, 2] == pytest.approx(1.0)


@given(seed=st.integers(0, 100), count=st.integers(2, 8))
def test_matrix_holds_the_neighbours_beside_its_diagonal(seed, count):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 4)).astype(np.float32)
    inside = generator.random(count) < 0.5
    matrix = similarity_matrix(features)
    assert np.array_equal(matrix, matrix.T)
    assert np.diag(matrix) == pytest.approx(np.ones(count))
    found = neighbour_similarity(features, inside)
    pairs = np.concatenate([found.inside, found.background, found.across])
    assert np.sort(pairs) == pytest.approx(np.sort(np.diag(matrix, 1)))
    assert len(found.across) == np.count_nonzero(inside[1:] != inside[:-1])


def test_a_study_is_scored_over_the_clips_of_the_drawn_videos():
    ranking = Ranking.of(SCORES, POSITIVE, np.array([0, 0, 0, 1]))
    similarity = np.array([[[1.0, 2.0], [0.5, 1.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0], [-0.25, 1.0]]])
    statistics = StudyStatistics(("a", "b"), ranking, np.array([[1.0, 3.0], [1.0, 1.0]]), similarity)
    assert score_study(statistics, None).metrics() == {
        "foreground_AUC": 3 / 4,
        "class_accuracy": 2 / 4,
        "similarity_inside": 3 / 4,
        "similarity_background": 1 / 2,
        "similarity_across": -1 / 4,
        "contrast": 1.0,
    }
    drawn = score_study(statistics, np.array([1, 3])).metrics()
    # The clips of the first video once, those of the second three times: 0.35 < 0.4 is 1 of 4 * 2 pairs.
    assert drawn["foreground_AUC"] == 7 / 8
    assert drawn["class_accuracy"] == 4 / 6
    assert drawn["similarity_inside"] == 7 / 8
    alone = score_study(statistics, np.array([2, 0])).metrics()
    assert math.isnan(alone["similarity_across"])
    assert math.isnan(alone["contrast"])


def test_videos_are_counted_in_which_something_is():
    # Foreground in videos 1 and 2, background in all three; class and pairs by hand.
    ranking = Ranking.of(np.arange(5.0), np.array([False, True, False, True, False]), np.array([0, 1, 1, 2, 2]))
    similarity = np.zeros((3, 3, 2))
    similarity[:, :, 1] = [[0, 2, 0], [1, 1, 1], [3, 0, 0]]
    classes = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert StudyStatistics(("a", "b", "c"), ranking, classes, similarity).counted() == {
        "foreground_AUC": 2,
        "class_accuracy": 2,
        "similarity_inside": 2,
        "similarity_background": 2,
        "similarity_across": 1,
        "contrast": 1,
    }


def test_one_class_has_no_accuracy():
    statistics = StudyStatistics(("a",), Ranking.of(SCORES, POSITIVE, np.zeros(4, np.int64)), None, np.ones((1, 3, 2)))
    assert "class_accuracy" not in score_study(statistics, None).metrics()
