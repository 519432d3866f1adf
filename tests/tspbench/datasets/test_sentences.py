"""What is said of a scene: it is true, as people talk, and the same for the same draw."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tspbench.datasets.sentences import ANNOTATORS, describe, facts, sentence
from tspbench.datasets.sprites import Scene
from tspbench.datasets.synthetic import (
    FRAME_RATE,
    SIZE,
    UNTRIMMED_KINDS,
    VIDEO_FRAMES,
    draw_actions,
    draw_rates,
)

FIRST, SECOND = ANNOTATORS
DISC = UNTRIMMED_KINDS[0]


def scene(segments_seconds, rates, kind=DISC):
    actions = np.round(np.array(segments_seconds) * FRAME_RATE).astype(np.int64)
    return Scene(kind.shape, kind.hue, kind.motion, actions, np.array(rates), VIDEO_FRAMES, SIZE, FRAME_RATE)


def drawn(count):
    """Return scenes as the data set has them."""
    for k in range(count):
        kind, rng = UNTRIMMED_KINDS[k % len(UNTRIMMED_KINDS)], np.random.default_rng([7, k])
        actions = draw_actions(rng)
        rates = draw_rates(rng, len(actions))
        yield Scene(kind.shape, kind.hue, kind.motion, actions, rates, VIDEO_FRAMES, SIZE, FRAME_RATE)


def said(what, action, annotator, draws=2000):
    """Return all that an annotator may say of an action."""
    return {sentence(what, action, annotator, np.random.default_rng(k)) for k in range(draws)}


def test_a_scene_by_hand():
    # 3 s at 1 cycle a second, 1 s of rest, 4 s at 1.6 (6.4 cycles), 6 s of rest, 8 s at 1.5 until the end.
    what = scene([[2, 5], [6, 10], [16, 24]], [1.0, 1.6, 1.5])
    assert said(what, 0, FIRST) == {
        "At first a red disc bounces slowly three times and rests briefly.",
        "First a red disc bounces slowly three times and rests briefly.",
    }
    assert said(what, 1, FIRST) == {
        "Then the red disc bounces quickly many times and rests for a long time.",
        "After that the red disc bounces quickly many times and rests for a long time.",
    }
    assert said(what, 2, FIRST) == {"Finally the red disc bounces quickly over and over until the video ends."}
    full = said(what, 1, SECOND)
    assert "Next, the red ball rapidly hops many times before a long break." in full
    assert "Quickly, the red ball jumps up and down many times, then rests at length." in full


def test_one_action_is_neither_first_nor_last():
    assert said(scene([[2, 4]], [1.0]), 0, FIRST) == {"A red disc bounces slowly twice and rests until the video ends."}


@pytest.mark.parametrize(("rate", "pace"), [(1.1, "slow"), (1.25, "slow"), (1.45, "quick"), (1.6, "quick")])
def test_the_pace_is_that_of_the_rate(rate, pace):
    what = scene([[2, 5], [10, 13]], [rate, 2.7 - rate])
    assert facts(what, 0)["pace"] == pace
    words = {"slow": {"slowly", "calmly"}, "quick": {"quickly", "rapidly"}}
    for annotator in ANNOTATORS:
        told = {word for text in said(what, 0, annotator) for word in text.lower().replace(",", "").split()}
        assert told & words[pace]
        assert not told & (words["slow"] | words["quick"]) - words[pace]


@pytest.mark.parametrize(
    ("seconds", "rate", "count"),
    [
        (1, 0.95, "once"),
        (1, 1.75, "twice"),
        (2, 1.2, "twice"),  # 2.4
        (2, 1.5, "three times"),
        (4, 1.1, "a few times"),  # 4.4
        (3.5, 1.5, "a few times"),  # 5.25
        (4, 1.5, "many times"),
        (9, 1.0, "many times"),
        (6, 1.6, "over and over"),  # 9.6
        (12, 1.7, "over and over"),
    ],
)
def test_the_count_is_rate_times_length(seconds, rate, count):
    text, others = sentence(scene([[2, 2 + seconds]], [rate]), 0, FIRST, np.random.default_rng(0)), FIRST.words["count"]
    assert f" {count} " in text
    assert not any(f" {way} " in text for ways in others.values() for way in ways if way not in count)


@pytest.mark.parametrize(
    ("gap", "follows"),
    [
        (0.5, "and rests briefly."),
        (17 / 12, "and rests briefly."),
        (1.5, "and rests for a while."),
        (47 / 12, "and rests for a while."),
        (4, "and rests for a long time."),
        (17, "and rests for a long time."),
    ],
)
def test_what_follows_is_the_rest_between_actions(gap, follows):
    what = scene([[1, 3], [3 + gap, 5 + gap]], [1.0, 1.0])
    assert all(text.endswith(follows) for text in said(what, 0, FIRST))


@pytest.mark.parametrize(
    ("end", "follows"),
    [
        (24, "twice until the video ends."),
        (23.6, "twice until the video ends."),
        (23.5, "and rests until the video ends."),
    ],
)
def test_what_follows_the_last_action_is_the_end_of_the_video(end, follows):
    what = scene([[1, 3], [end - 2, end]], [1.0, 1.0])
    assert all(text.endswith(follows) for text in said(what, 1, FIRST))


def filled(annotator, template, choose):
    """Return a template filled with the shortest or longest words, whether or not they go together."""
    words = {slot: [way for some in facts.values() for way in some] for slot, facts in annotator.words.items()}
    return template.format(**{slot: choose(of, key=lambda way: len(way.split())) for slot, of in words.items()})


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_no_sentence_is_shorter_than_6_words_or_longer_than_16(annotator):
    for template in annotator.templates:
        assert len(filled(annotator, template, min).split()) >= 6
        assert len(filled(annotator, template, max).split()) <= 16


def test_sentences_are_well_formed_and_told_of_all_that_the_data_set_has():
    for what in drawn(60):
        for annotator in ANNOTATORS:
            for action in range(len(what.actions)):
                text = sentence(what, action, annotator, np.random.default_rng(action))
                assert text[0].isupper()
                assert text.endswith(".")
                assert "  " not in text
                assert " ," not in text
                assert "{" not in text


def test_annotators_know_the_same_facts_and_only_the_second_leaves_any_out():
    assert {slot: set(ways) for slot, ways in FIRST.words.items()} == {
        slot: set(ways) for slot, ways in SECOND.words.items()
    }
    complete = [all(f"{{{slot}}}" in template for slot in FIRST.words) for template in FIRST.templates]
    assert all(complete)
    left_out = [{slot for slot in SECOND.words if f"{{{slot}}}" not in template} for template in SECOND.templates]
    assert {len(slots) for slots in left_out} == {0, 1}
    assert set().union(*left_out) == {"opening", "pace", "count", "follows"}


def test_the_same_draw_says_the_same_and_another_something_else():
    what = next(drawn(1))
    entries = [describe(what, SECOND, np.random.default_rng(k)) for k in (1, 1, 2)]
    assert entries[0] == entries[1]
    assert entries[0] != entries[2]
    assert describe(what, FIRST, np.random.default_rng(1))["sentences"] != entries[0]["sentences"]


def test_boundaries_are_near_the_truth_inside_the_video_and_in_order():
    apart = []
    for k, what in enumerate(drawn(300)):
        truth = what.actions / FRAME_RATE
        one, other = (
            np.array(describe(what, annotator, np.random.default_rng([k, n]))["timestamps"])
            for n, annotator in enumerate(ANNOTATORS)
        )
        for seen in (one, other):
            assert_array_equal(seen, np.round(seen, 2))
            edges = seen.ravel()
            assert edges[0] >= 0.0
            assert edges[-1] <= 24.0
            assert (np.diff(edges) >= 0).all()
            assert (seen[:, 0] < seen[:, 1]).all()
        apart.append(np.abs(one - other) / np.diff(truth))
    shares = np.concatenate(apart)
    assert 0.07 < shares.max() <= 0.08 + 0.01  # rounding moves a boundary of 1 s by a hundredth
    assert shares.mean() == pytest.approx(0.08 / 3, rel=0.15)  # two uniform draws, each of half the width


def test_an_action_that_fills_the_video_keeps_its_boundaries():
    assert describe(scene([[0, 24]], [1.0]), FIRST, np.random.default_rng(0))["timestamps"] == [[0.0, 24.0]]
