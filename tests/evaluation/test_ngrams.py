"""BLEU, ROUGE-L and CIDEr by hand, and as pycocoevalcap computes them."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from evaluation.ngrams import Sentence, bleu, bleu_counts, cider, rouge_l

# Few words, so that n-grams recur; the last is what the tokenizer makes of "1 1/2".
TOKENS = st.lists(st.sampled_from(("a", "b", "c", "1\u00a01/2")), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5)
quick = settings(max_examples=300, deadline=None)


def taken_apart(pairs):
    return [(Sentence.of(candidate), Sentence.of(reference)) for candidate, reference in pairs]


def bleu_of(pairs):
    return bleu([sum(column) for column in zip(*map(bleu_counts, taken_apart(pairs)), strict=True)])


def cider_of(pairs):
    return cider(taken_apart(pairs))


def rouge_of(candidate, reference):
    return rouge_l(*taken_apart([(candidate, reference)]))


def of_pycocoevalcap(scorer, pairs, **options):
    references = {number: [reference] for number, (_, reference) in enumerate(pairs)}
    candidates = {number: [candidate] for number, (candidate, _) in enumerate(pairs)}
    return scorer.compute_score(references, candidates, **options)[0]


def test_bleu_by_hand():
    # 4 of 5 words, 2 of 4 pairs of words, 1 of 3 triples, no four; nothing is too short.
    scores = bleu_of([("a b c x d", "a b c d")])
    precisions = [Fraction(4, 5), Fraction(2, 4), Fraction(1, 3)]
    for n in (1, 2, 3):
        assert scores[n - 1] == pytest.approx(float(math.prod(precisions[:n])) ** (1 / n), abs=1e-8)
    assert 0 < scores[3] < 1e-3


def test_a_word_matches_as_often_as_the_reference_has_it():
    assert bleu_of([("a a a a", "a b c d")])[0] == pytest.approx(1 / 4, abs=1e-8)


def test_bleu_adds_up_counts_of_pairs():
    # 1 of 1 word and 1 of 3; candidates of 4 words in all for references of 6.
    expected = Fraction(2, 4) * Fraction(math.exp(1 - 6 / 4))
    assert bleu_of([("a", "a b c"), ("a x y", "a b c")])[0] == pytest.approx(float(expected), abs=1e-8)


def test_bleu_of_nothing():
    assert bleu_of([("", "a b")]) == [0.0] * 4
    assert max(bleu_of([("", "")])) == 0.0


@pytest.mark.parametrize(
    ("candidate", "reference", "common"),
    [("a b c", "a b c", 3), ("a c b d", "a b c d", 3), ("d c b a", "a b c d", 1), ("a a", "a", 1), ("a", "b", 0)],
)
def test_rouge_l_by_hand(candidate, reference, common):
    precision, recall = Fraction(common, len(candidate.split())), Fraction(common, len(reference.split()))
    square = Fraction(144, 100)
    expected = (1 + square) * precision * recall / (recall + square * precision) if common else Fraction(0)
    assert rouge_of(candidate, reference) == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize(("pair", "expected"), [(("", ""), 1.0), (("", "a"), 0.0), (("a", ""), 0.0)])
def test_rouge_l_of_nothing(pair, expected):
    assert rouge_of(*pair) == expected


def test_cider_by_hand():
    # Two documents without a common n-gram: each weighs log 2 - log 1, and both candidates have all of them.
    assert cider_of([("a b c d", "a b c d"), ("e f g h", "e f g h")]) == pytest.approx(10.0, abs=1e-12)
    # One word of two matches, and no pair of words: cosine 1/2, of one of four orders, in one of two pairs.
    assert cider_of([("a x", "a b"), ("", "c d")]) == pytest.approx(10 * (1 / 2) / 4 / 2, abs=1e-12)
    # A bigram more, on sides of length 1 and 2: exp(-1 / 72).
    three = (1 / math.sqrt(2 * 3)) / 4 * math.exp(-1 / 72)
    assert cider_of([("a x y", "a b"), ("", "c d")]) == pytest.approx(10 * three / 2, abs=1e-12)


def test_what_every_reference_has_counts_nothing_in_cider():
    assert cider_of([("a", "a b"), ("a", "a c")]) == 0.0
    assert cider_of([("a b c d", "a b c d")]) == 0.0


def test_cider_of_nothing():
    assert cider_of([("", "")]) == 0.0
    assert cider_of([("a", ""), ("", "")]) == 0.0


@quick
@given(PAIRS)
def test_they_are_those_of_pycocoevalcap(pairs):
    assert bleu_of(pairs) == pytest.approx(of_pycocoevalcap(Bleu(4), pairs, verbose=0), rel=0, abs=1e-12)
    mean = math.fsum(rouge_of(*pair) for pair in pairs) / len(pairs)
    assert mean == pytest.approx(of_pycocoevalcap(Rouge(), pairs), rel=0, abs=1e-12)
    if any(reference for _, reference in pairs):
        assert cider_of(pairs) == pytest.approx(of_pycocoevalcap(Cider(), pairs), rel=0, abs=1e-12)
    else:
        with pytest.raises(ValueError, match="max"):  # it does not do without an n-gram
            of_pycocoevalcap(Cider(), pairs)


@quick
@given(PAIRS, st.randoms(use_true_random=False))
def test_order_changes_nothing_to_the_last_bit(pairs, random):
    for _ in range(3):
        shuffled = random.sample(pairs, len(pairs))
        assert bleu_of(shuffled) == bleu_of(pairs)
        assert cider_of(shuffled) == cider_of(pairs)
