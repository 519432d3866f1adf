"""The rules of dense captioning, with METEOR and tokens that a reader can count."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import CAPTIONING_PROTOCOLS, captioning
from evaluation.meteor import FIELDS, MeteorError, meteor_score
from tests.evaluation import captions_oracle as oracle
from tests.evaluation.helpers import captions_of

RULES = replace(CAPTIONING_PROTOCOLS["densevid"], name="half", thresholds=(0.5,))
DENSEVID = CAPTIONING_PROTOCOLS["densevid"]
VIDEOS = ("v1", "v2", "v3")
quick = settings(max_examples=60, deadline=None)


class Counting:
    """A stand-in for Java: tokens are lower-case words, and METEOR matches equal words, in one chunk."""

    def __init__(self, tokenizer=None, meteor=None):
        self.tokenizer, self.meteor, self.closed, self.asked = tokenizer, meteor, False, []

    def tokenize(self, sentences):
        if self.tokenizer:
            raise self.tokenizer
        return [" ".join(re.findall("[a-z0-9]+", sentence.lower())) for sentence in sentences]

    def alignments(self, pairs):
        if self.meteor:
            raise self.meteor
        self.asked += pairs
        rows = np.zeros((len(pairs), FIELDS), dtype=np.int64)
        for row, (candidate, reference) in zip(rows, pairs, strict=True):
            one, other = candidate.split(), reference.split()
            matched = sum((Counter(one) & Counter(other)).values())
            row[:2] = len(one), len(other)
            row[4:6] = row[21:23] = matched
            row[20] = matched > 0
        return rows

    def close(self):
        self.closed = True


def evaluate(files, rows, protocol=RULES, weights=None, scorer=None, videos=None):
    references = [captions_of(file, videos) for file in files]
    statistics = captioning.statistics(references, captions_of(rows), protocol, scorer or Counting())
    return captioning.score(statistics, weights).metrics()


def of_each(files, rows_of_files, protocol):
    """Score captions of which each file has its own."""
    own = [captions_of(rows) for rows in rows_of_files]
    statistics = captioning.statistics([captions_of(file) for file in files], own, protocol, Counting())
    return captioning.score(statistics).metrics()


def bleu_1(files, rows, protocol=RULES, **more):
    return evaluate(files, rows, protocol, **more)["BLEU@1"]


def near(fraction):
    return pytest.approx(float(fraction), abs=1e-8)


FILE = [("v1", 0, 10, "a b"), ("v1", 10, 20, "c d")]


def test_a_caption_is_paired_with_every_reference_that_it_overlaps_enough():
    # [0, 20) has nearly half of each: 2 words, of which 1 is in the one and 1 in the other.
    enough = replace(RULES, thresholds=(0.4,))
    assert bleu_1([FILE], [("v1", 0, 20, "a c")], enough) == near(Fraction(2, 4))
    assert bleu_1([FILE], [("v1", 0, 10, "a d")], enough) == near(Fraction(1, 2))


def test_pairs_reach_the_threshold_and_precision_is_above_it():
    # With 1e-8 in the union, temporal IoU is 10 / (20 + 1e-8) and just below one half.
    half = replace(RULES, thresholds=(10 / (20 + 1e-8),))
    found = evaluate([FILE], [("v1", 0, 20, "a c")], half)
    assert found["BLEU@1"] == near(Fraction(2, 4))
    assert found["precision"] == found["recall"] == 0.0
    above = replace(RULES, thresholds=(0.5,))
    assert bleu_1([[("v1", 0, 10, "a b")]], [("v1", 0, 20, "a b")], above) == near(0)


def test_what_overlaps_nothing_is_paired_with_garbage():
    # 2 of 2 words, and none of 2.
    rows = [("v1", 0, 10, "a b"), ("v1", 50, 60, "a b")]
    assert bleu_1([FILE], rows) == near(Fraction(2, 4))
    assert captioning.FIXED_GARBAGE == "abc123!@#"


def pairs_with_garbage(protocol, rows):
    scorer = Counting()
    evaluate([FILE], rows, protocol, scorer=scorer)
    return {candidate: reference for candidate, reference in scorer.asked if candidate in {"x", "y"}}


def test_garbage_is_fixed_or_drawn():
    rows = [("v1", 50, 60, "x"), ("v1", 50, 60, "y")]
    fixed = replace(RULES, garbage="fixed")
    assert pairs_with_garbage(fixed, rows) == {"x": "abc123", "y": "abc123"}
    drawn = pairs_with_garbage(RULES, rows)
    assert drawn["x"] != drawn["y"]
    assert all(re.fullmatch("[a-z]{10,20}", word) for word in drawn.values())
    # It knows neither order nor time, but the video.
    assert pairs_with_garbage(RULES, [("v1", 70, 80, "y"), *rows[:1]]) == drawn
    assert pairs_with_garbage(RULES, rows) == drawn


def test_a_score_is_of_a_video_and_then_a_mean():
    # Video 1: 3 of 4 words of its two pairs together; video 2 has no caption.
    files = [[*FILE, ("v2", 0, 1, "a")]]
    rows = [("v1", 0, 10, "a b"), ("v1", 10, 20, "c x")]
    found = evaluate(files, rows)
    assert found["BLEU@1"] == near(Fraction(3, 4) / 2)
    assert found["ROUGE_L"] == near((1 + Fraction(1, 2)) / 2 / 2)
    assert (found["precision"], found["recall"]) == (0.5, 0.5)


def test_meteor_is_of_a_corpus():
    rows = [("v1", 0, 10, "a b"), ("v1", 10, 20, "c x y")]
    found = evaluate([FILE], rows)
    # 3 of 5 words, 3 of 4; two chunks for the three words matched. All words are content words.
    mean = 1 / (Fraction(15, 100) / Fraction(3, 5) + Fraction(85, 100) / Fraction(3, 4))
    assert found["METEOR"] == found["METEOR@0.5"] == pytest.approx(float(mean) * (1 - 0.6 * (2 / 3) ** 0.2), abs=1e-15)


def test_precision_and_recall_by_hand():
    rows = [("v1", 0, 10, "a"), ("v1", 0, 9, "a"), ("v1", 50, 60, "a")]
    found = evaluate([FILE], rows)
    assert found["precision"] == float(Fraction(2, 3))
    assert found["recall"] == float(Fraction(1, 2))


def test_precision_and_recall_take_the_better_file_each():
    # Against the second file precision is 1/2 and recall 1; against the first 1 and 1/3.
    files = [[*FILE, ("v1", 30, 40, "a")], [("v1", 0, 5, "a")]]
    rows = [("v1", 0, 10, "a"), ("v1", 0, 5.5, "a")]
    found = evaluate(files, rows)
    assert found["precision"] == 1.0
    assert found["recall"] == 1.0


def test_files_are_pooled_or_averaged():
    files = [[("v1", 0, 10, "a b"), ("v2", 0, 10, "a b")], [("v1", 0, 10, "a x")]]
    rows = [("v1", 0, 10, "a b")]
    # 3 of 4 words in video 1, nothing in video 2.
    assert bleu_1(files, rows) == near(Fraction(3, 4) / 2)
    # The second file knows of video 1 alone.
    averaged = replace(RULES, references="averaged")
    assert bleu_1(files, rows, averaged) == near((Fraction(1, 2) + Fraction(1, 2)) / 2)
    assert evaluate(files, rows, averaged)["precision"] == float((Fraction(1, 2) + 1) / 2)


AVERAGED = replace(RULES, references="averaged")


def test_captions_of_each_file_are_scored_against_it_alone():
    # 1 of 2 words against the first file, 2 of 3 against the second.
    files = [[("v1", 0, 10, "a b")], [("v1", 0, 20, "a c d")]]
    first, second = [("v1", 0, 10, "a x")], [("v1", 0, 20, "a c x")]
    each = of_each(files, [first, second], AVERAGED)
    assert each["BLEU@1"] == near((Fraction(1, 2) + Fraction(2, 3)) / 2)
    assert (each["precision"], each["recall"]) == (1.0, 1.0)
    # The other way round each is paired with garbage: [0, 10) has a hair less than half of [0, 20).
    assert of_each(files, [second, first], AVERAGED)["BLEU@1"] == near(0)


def test_precision_recall_and_soda_of_each_file():
    files = [FILE, [("v1", 0, 10, "a b")]]
    # One of two against the first file and one of two for it; all of one against the second.
    each = of_each(files, [[("v1", 0, 10, "a b"), ("v1", 50, 60, "c d")], [("v1", 0, 10, "a b")]], AVERAGED)
    assert each["precision"] == each["recall"] == float((Fraction(1, 2) + 1) / 2)
    alone = [evaluate([FILE], [("v1", 0, 10, "a b"), ("v1", 50, 60, "c d")]), evaluate(files[1:], files[1])]
    assert 0.0 < alone[0]["SODA_c"] < alone[1]["SODA_c"]
    assert each["SODA_c"] == (alone[0]["SODA_c"] + alone[1]["SODA_c"]) / 2
    assert each["METEOR"] == (alone[0]["METEOR"] + alone[1]["METEOR"]) / 2


def test_captions_of_each_file_want_a_protocol_that_averages_and_one_for_each():
    one = captions_of([("v1", 0, 10, "a b")])
    message = "captions of each reference file need a protocol that averages, received half."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        captioning.statistics([one], [one], RULES, Counting())
    message = "captions must be as many as reference files, received 1 for 2."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        captioning.statistics([one, one], [one], AVERAGED, Counting())


def test_precision_and_recall_of_segments_alone():
    # Video 1: 2 of 3 proposals, 1 of 2 references; video 2: 1 of 1 and 1 of 1; video 3 has no proposal.
    files = [captions_of([*FILE, ("v2", 0, 10, "a"), ("v3", 0, 10, "a")])]
    proposals = captions_of([("v1", 0, 10, ""), ("v1", 0, 9, ""), ("v1", 50, 60, ""), ("v2", 0, 10, "")])
    found = captioning.precision_recall(files, proposals, RULES)
    assert found == pytest.approx((float(Fraction(2 + 3, 3 * 3)), float(Fraction(1 + 2, 2 * 3))))
    # [0, 9) of video 1 is right at 0.3, 0.5 and 0.7, and not at 0.9, which it does not exceed.
    precision, recall = captioning.precision_recall(files, proposals, DENSEVID)
    assert precision == pytest.approx(float(Fraction(3 * 5 + 4, 4 * 9)))
    assert recall == found[1]


def test_only_the_first_captions_of_a_video_count():
    rows = [("v1", 0, 10, "a x"), ("v2", 0, 10, "a b"), ("v1", 0, 10, "a b")]
    files = [[*FILE, ("v2", 0, 10, "a b")]]
    assert bleu_1(files, rows, replace(RULES, max_captions=1)) == near((Fraction(1, 2) + 1) / 2)
    assert bleu_1(files, rows) == near((Fraction(3, 4) + 1) / 2)


def test_videos_without_a_reference_are_not_looked_at():
    before = evaluate([FILE], [("v1", 0, 10, "a b")])
    assert evaluate([FILE], [("v9", 0, 10, "a b"), ("v1", 0, 10, "a b"), ("v9", 0, 10, "a b")]) == before


def test_a_file_that_has_a_video_without_a_sentence_is_as_one_that_lacks_it():
    empty = captions_of([], videos=["v1"])
    for protocol in (RULES, replace(RULES, references="averaged")):
        rows = captions_of([("v1", 0, 10, "a b")])
        statistics = captioning.statistics([captions_of(FILE), empty], rows, protocol, Counting())
        assert captioning.score(statistics).metrics() == evaluate([FILE], [("v1", 0, 10, "a b")])


def test_without_any_sentence_nothing_has_a_value():
    assert all(map(math.isnan, evaluate([[]], [("v1", 0, 10, "a")], videos=["v1"]).values()))


def test_captions_at_the_same_time_and_of_no_length():
    found = evaluate([[("v1", 5, 5, "a b")]], [("v1", 5, 5, "a b")])
    # A segment of length zero overlaps nothing, not even itself.
    assert found["BLEU@1"] == near(0)
    assert (found["precision"], found["recall"], found["SODA_c"]) == (0.0, 0.0, 0.0)


def test_soda_by_hand():
    # The right words at the wrong times.
    rows = [("v1", 10, 20, "a b"), ("v1", 0, 10, "c d")]
    assert evaluate([FILE], rows)["SODA_c"] == 0.0
    one = meteor_score(Counting().alignments([("a b", "a b")])[0])
    found = evaluate([FILE], [("v1", 0, 10, "a b")])["SODA_c"]
    share = 10 / (10 + 1e-8)
    precision, recall = share * one, share * one / 2
    assert found == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def test_soda_asks_meteor_for_the_reference_as_the_candidate():
    scorer = Counting()
    # Overlap is below every threshold: the pair is asked for on behalf of SODA_c alone.
    evaluate([[("v1", 0, 10, "r")]], [("v1", 9, 30, "c")], scorer=scorer)
    assert ("r", "c") in scorer.asked
    assert ("c", "r") not in scorer.asked


def test_soda_takes_the_better_file():
    files = [[("v1", 0, 10, "x y")], [("v1", 0, 10, "a b")]]
    rows = [("v1", 0, 10, "a b")]
    assert evaluate(files, rows)["SODA_c"] == evaluate(files[1:], rows)["SODA_c"] > 0.0
    averaged = replace(RULES, references="averaged")
    assert evaluate(files, rows, averaged)["SODA_c"] == evaluate(files[1:], rows)["SODA_c"] / 2


def test_names_and_means_over_the_thresholds():
    # Temporal IoU 0.6: right at 0.3 and 0.5, garbage at 0.7 and 0.9.
    found = evaluate([[("v1", 0, 10, "a b")]], [("v1", 0, 6, "a b")], DENSEVID)
    assert list(found) == [
        *("METEOR", "METEOR@0.3", "METEOR@0.5", "METEOR@0.7", "METEOR@0.9"),
        *("BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "ROUGE_L", "CIDEr", "SODA_c", "precision", "recall"),
    ]
    assert found["METEOR@0.3"] == found["METEOR@0.5"] > found["METEOR@0.7"] == found["METEOR@0.9"] == 0.0
    assert found["METEOR"] == found["METEOR@0.3"] / 2
    assert found["BLEU@1"] == near(Fraction(1, 2))
    assert found["precision"] == found["recall"] == 0.5


def test_arrays_by_threshold():
    statistics = captioning.statistics([captions_of(FILE)], captions_of([("v1", 0, 6, "a b")]), DENSEVID, Counting())
    assert statistics.videos == ("v1",)
    assert (statistics.values.shape, statistics.soda_c.shape) == ((1, 1, 4, 9), (1, 1))
    result = captioning.score(statistics)
    assert result.thresholds == DENSEVID.thresholds
    assert set(result.by_threshold) == set(captioning.METRICS)
    assert result.by_threshold["precision"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert result.by_threshold["recall"].tolist() == [0.5, 0.5, 0.0, 0.0]


METEOR_NAMES = {"METEOR", "METEOR@0.5", "SODA_c"}
TEXT_NAMES = METEOR_NAMES | {"BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "ROUGE_L", "CIDEr"}


@pytest.mark.parametrize(("part", "names"), [("meteor", METEOR_NAMES), ("tokenizer", TEXT_NAMES)])
def test_what_fails_is_named_and_the_rest_stands(part, names):
    arguments = [captions_of(FILE)], captions_of([("v1", 0, 10, "a b")]), RULES
    whole = captioning.score(captioning.statistics(*arguments, Counting())).metrics()
    statistics = captioning.statistics(*arguments, Counting(**{part: MeteorError("It broke.")}))
    assert statistics.problems == dict.fromkeys(names, "It broke.")
    found = captioning.score(statistics).metrics()
    assert {name for name, value in found.items() if math.isnan(value)} == names
    assert all(found[name] == whole[name] for name in whole.keys() - names)


def test_an_error_elsewhere_closes_the_scorer(monkeypatch):
    def broken(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(captioning, "cider", broken)
    scorer = Counting()
    with pytest.raises(KeyboardInterrupt):
        evaluate([FILE], [("v1", 0, 10, "a b")], scorer=scorer)
    assert scorer.closed


def test_nothing_at_all():
    assert all(math.isnan(value) for value in evaluate([], []).values())
    assert all(math.isnan(value) for value in evaluate([FILE], [("v1", 0, 10, "a b")], weights=np.array([0])).values())
    # No sentence is asked for, so that no scorer can fail.
    failing = Counting(MeteorError("It broke."), MeteorError("It broke."))
    assert set(evaluate([FILE], [], scorer=failing).values()) == {0.0}


def test_weights_are_multiplicities():
    files = [[("v1", 0, 10, "a b"), ("v2", 0, 10, "a b")]]
    rows = [("v1", 0, 10, "a b"), ("v2", 0, 10, "a x")]
    # Twice the first video, three times the second.
    assert bleu_1(files, rows, weights=np.array([2, 3])) == near((2 * 1 + 3 * Fraction(1, 2)) / 5)
    message = "video_weights must be integers of shape (2,), received float64 of shape (2,)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bleu_1(files, rows, weights=np.ones(2))


def test_a_file_none_of_whose_videos_counts_is_left_out():
    files = [[("v1", 0, 10, "a b")], [("v2", 0, 10, "a b")]]
    averaged = replace(RULES, references="averaged")
    rows = [("v1", 0, 10, "a b"), ("v2", 0, 10, "x")]
    assert bleu_1(files, rows, averaged) == near(Fraction(1, 2))
    assert bleu_1(files, rows, averaged, weights=np.array([1, 0])) == near(1)


def test_another_process_gives_the_same_bits():
    code = (
        "import json; from tests.evaluation.test_captioning import *;"
        "rows = [('v1', 50, 60, 'b a c d'), ('v1', 0, 9, 'a b d x'), ('v1', 9, 21, 'c d a b')];"
        "print(json.dumps(evaluate([FILE, FILE[:1]], rows, DENSEVID)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["METEOR"] > 0.0


# Few times and words, so that equal overlaps, equal sentences and missing ones are common.
TIMES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (min(pair), max(pair)))
SENTENCES = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)
ROWS = st.lists(st.builds(lambda v, t, s: (v, *t, s), st.sampled_from(VIDEOS), TIMES, SENTENCES), max_size=7)
# A file that says something about every video: those that no file has a sentence about do not count.
WHOLE = ROWS.map(lambda rows: [*rows, *((video, 1, 4, "a b") for video in VIDEOS)])
FILES = st.tuples(WHOLE, st.lists(ROWS, max_size=1)).map(lambda files: [files[0], *files[1]])


def plainly(files, rows, protocol):
    """Return the scores by name, one video and threshold at a time."""
    scorer, tables, sodas = Counting(), [], []

    def meteor(pairs):
        return meteor_score(scorer.alignments(pairs).sum(axis=0))

    for some in [files] if protocol.references == "pooled" else [[file] for file in files]:
        table, soda = [], []
        for video in sorted({row[0] for file in some for row in file}):
            mine = [row for row in rows if row[0] == video]
            theirs = [[row for row in file if row[0] == video] for file in some]
            soda.append(oracle.soda_c(mine, theirs, meteor))
            table.append(
                [
                    [
                        *oracle.text_scores(oracle.pairs_of(mine, theirs, threshold, "abc123"), meteor),
                        *oracle.precision_and_recall(mine, theirs, threshold),
                    ]
                    for threshold in protocol.thresholds
                ]
            )
        if table:
            tables.append(np.mean(table, axis=(0, 1)))
            sodas.append(np.mean(soda))
    return {**dict(zip(captioning.METRICS, np.mean(tables, axis=0), strict=True)), "SODA_c": np.mean(sodas)}


@pytest.mark.parametrize("name", ["densevid-2018", "densevid-averaged-2018"])
@quick
@given(files=FILES, rows=ROWS)
def test_it_is_the_official_algorithm(name, files, rows):
    protocol = CAPTIONING_PROTOCOLS[name]
    found = evaluate(files, rows, protocol, videos=VIDEOS)
    expected = plainly(files, rows, protocol)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", ["densevid", "densevid-averaged"])
@quick
@given(files=FILES, rows=ROWS, random=st.randoms(use_true_random=False))
def test_order_changes_nothing_to_the_last_bit(name, files, rows, random):
    def shuffled(items):
        return random.sample(list(items), len(items))

    protocol = CAPTIONING_PROTOCOLS[name]
    before = evaluate(files, rows, protocol, videos=VIDEOS)
    for _ in range(10):
        after = evaluate(
            [shuffled(file) for file in shuffled(files)], shuffled(rows), protocol, videos=shuffled(VIDEOS)
        )
        assert after == before


@quick
@given(files=st.lists(WHOLE, min_size=1, max_size=2), rows=ROWS, others=ROWS)
def test_captions_of_each_file_are_a_mean_of_files_in_any_order(files, rows, others):
    protocol = CAPTIONING_PROTOCOLS["densevid-averaged"]
    own = [rows, others][: len(files)]
    found = of_each(files, own, protocol)
    assert found == of_each(files[::-1], own[::-1], protocol)
    alone = [evaluate([file], mine, DENSEVID) for file, mine in zip(files, own, strict=True)]
    assert found == pytest.approx({name: np.mean([each[name] for each in alone]) for name in found}, rel=0, abs=1e-12)
    # The same captions for every file are as one.
    assert of_each(files, [rows] * len(files), protocol) == evaluate(files, rows, protocol)


@pytest.mark.parametrize("name", ["densevid", "densevid-averaged"])
@quick
@given(files=FILES, rows=ROWS)
def test_precision_and_recall_are_those_of_the_score(name, files, rows):
    protocol = CAPTIONING_PROTOCOLS[name]
    found = evaluate(files, rows, protocol)
    references = [captions_of(file) for file in files]
    assert captioning.precision_recall(references, captions_of(rows), protocol) == (
        found["precision"],
        found["recall"],
    )


@quick
@given(WHOLE, ROWS, st.tuples(*[st.integers(0, 3)] * 3).filter(any))
def test_a_weight_is_a_number_of_copies(file, rows, weights):
    def copied(rows):
        times = dict(zip(VIDEOS, weights, strict=True))
        return [(f"{row[0]}{copy}", *row[1:]) for row in rows for copy in range(times[row[0]])]

    # Garbage knows the name of its video.
    fixed = CAPTIONING_PROTOCOLS["densevid-2018"]
    names = [f"{video}{copy}" for video, weight in zip(VIDEOS, weights, strict=True) for copy in range(weight)]
    weighted = evaluate([file], rows, fixed, np.array(weights), videos=VIDEOS)
    repeated = evaluate([copied(file)], copied(rows), fixed, videos=names)
    assert weighted == pytest.approx(repeated, rel=0, abs=1e-12)


@quick
@given(WHOLE, ROWS, st.integers(0, 20))
def test_longer_units_change_little(file, rows, power):
    # But for the 1e-8 of the union, the unit of time does not matter.
    def scaled(rows):
        return [(row[0], row[1] * 2.0**power, row[2] * 2.0**power, row[3]) for row in rows]

    before = evaluate([file], rows, DENSEVID, videos=VIDEOS)
    assert evaluate([scaled(file)], scaled(rows), DENSEVID, videos=VIDEOS) == pytest.approx(before, rel=0, abs=1e-7)
