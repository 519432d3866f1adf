from dataclasses import dataclass
from itertools import product
from math import inf, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.caption_contract import END, PAD, START, UNKNOWN, Stream
from baselines.decoding import decode

A, B, C = 4, 5, 6  # the real words of the toys
VOCABULARY = 7


def segments(numbers):
    """A stream whose only feature is the number of the segment."""
    count = len(numbers)
    features = torch.tensor(numbers, dtype=torch.float64).view(count, 1, 1)
    return (Stream(features, torch.ones(count, 1, dtype=torch.bool), torch.ones(count)),)


@dataclass
class ToyState:
    numbers: list
    sentences: list

    def select(self, rows):
        rows = rows.tolist()
        return ToyState([self.numbers[row] for row in rows], [self.sentences[row] for row in rows])


class Toy:
    """Asks ``say(segment, words so far)`` for the log-probabilities of the next word and counts what it was asked."""

    def __init__(self, say):
        self.say = say
        self.asked = []

    def begin(self, streams):
        numbers = [int(number) for number in streams[0].features[:, 0, 0]]
        return ToyState(numbers, [()] * len(numbers))

    def step(self, words, state):
        assert torch.is_inference_mode_enabled()
        assert words.shape == (len(state.numbers),)
        before = state.sentences
        assert all((word == START) == (not sentence) for word, sentence in zip(words, before, strict=True))
        sentences = [(*sentence, word) for sentence, word in zip(before, words.tolist(), strict=True)]
        self.asked.append(list(zip(state.numbers, sentences, strict=True)))
        # A place of the beam whose beginning is finished, or never was, is asked as well; the answer has no effect.
        real = [set(sentence[1:]) <= {A, B, C} for sentence in sentences]
        rows = [
            self.say(number, sentence[1:]) if sensible else [0.0] * VOCABULARY
            for (number, sentence), sensible in zip(self.asked[-1], real, strict=True)
        ]
        return torch.tensor(rows), ToyState(state.numbers, sentences)


def row(**probabilities):
    """Log-probabilities by name; of the words that are not named they are very low."""
    places = {"end": END, "a": A, "b": B, "c": C, "pad": PAD, "start": START, "unknown": UNKNOWN}
    values = [-100.0] * VOCABULARY
    for name, probability in probabilities.items():
        values[places[name]] = log(probability) if probability else -inf
    return values


def tree(table):
    """A toy that says what a table from words to rows holds, whatever the segment, and END elsewhere."""
    return Toy(lambda number, words: table.get(words, row(end=1.0)))


def test_a_beam_finds_a_better_sentence_than_greedy_search():
    # Greedy: a, 0.6, and then each way on is poor. A beam of 2 keeps b, too: (b, END) has 0.4 * 0.9.
    table = {
        (): row(a=0.6, b=0.4),
        (A,): row(a=0.4, b=0.3, end=0.3),
        (A, A): row(end=0.5, c=0.5),
        (B,): row(end=0.9, c=0.1),
    }
    # Of (a, a) END and c are equally likely: the smaller word, END, is taken. Its mean is log(0.6 * 0.4 * 0.5) / 3.
    assert decode(tree(table), segments([0])) == [[A, A]]
    # log(0.4 * 0.9) / 2 = -0.51 is above log(0.12) / 3 = -0.71.
    assert decode(tree(table), segments([0]), beam=2) == [[B]]


def test_the_mean_decides_and_not_the_sum():
    # The sums: (END) log 0.5, (a, b, END) log 0.4. The means: -0.69 and -0.31.
    table = {
        (): row(end=0.5, a=0.5),
        (A,): row(b=0.9, end=0.1),
        (A, B): row(end=0.4 / 0.45, c=0.1),
    }
    assert decode(tree(table), segments([0]), beam=2) == [[A, B]]
    assert decode(tree(table), segments([0]), beam=1) == [[]]  # END is the smaller of two equal words


def test_of_equal_sentences_the_one_that_is_finished_first_wins():
    # (END), (a, END) and (a, b, END) all have the mean log 0.5.
    table = {(): row(end=0.5, a=0.5), (A,): row(b=0.5, end=0.5), (A, B): row(end=0.5)}
    assert decode(tree(table), segments([0]), beam=3) == [[]]
    table[()] = row(a=0.5, end=0.25)
    assert decode(tree(table), segments([0]), beam=3) == [[A]]


def test_a_segment_is_left_when_nothing_better_can_come():
    # Within 3 words a beginning of log 0.1 comes to log(0.1) / 3 = -0.77 at most, (END) has log 0.9 = -0.11.
    table = {(): row(end=0.9, a=0.1), (A,): row(a=1.0), (A, A): row(a=1.0)}
    toy = tree(table)
    assert decode(toy, segments([0]), beam=2, max_words=3) == [[]]
    assert len(toy.asked) == 1
    # Within 30 words it may come to -0.077, and does.
    toy = Toy(lambda number, words: table[()] if not words else row(a=1.0))
    assert decode(toy, segments([0]), beam=2, max_words=30) == [[A] * 30]
    assert len(toy.asked) == 30


def test_a_sentence_has_at_most_so_many_words():
    toy = Toy(lambda number, words: row(a=0.9, end=0.1))
    for beam, words in product((1, 2, 3), (1, 2, 5)):
        assert decode(toy, segments([0, 1]), max_words=words, beam=beam) == [[A] * words] * 2


def test_finished_sentences_leave_the_batch():
    # Segment n writes n words.
    toy = Toy(lambda number, words: row(a=0.9) if len(words) < number else row(end=0.9))
    assert decode(toy, segments([2, 0, 3, 1])) == [[A, A], [], [A, A, A], [A]]
    assert [[number for number, _ in asked] for asked in toy.asked] == [[2, 0, 3, 1], [2, 3, 1], [2, 3], [3]]


def test_words_without_a_meaning_are_not_written():
    toy = Toy(lambda number, words: row(pad=0.3, start=0.3, unknown=0.3, a=0.06, end=0.04))
    assert decode(toy, segments([0]), max_words=3) == [[A] * 3]
    assert decode(toy, segments([0]), max_words=3, beam=4) == [[A] * 3]


def test_no_trigram_is_written_twice():
    # a b c a b c …, with b as the second choice everywhere.
    circle = {A: row(b=0.8, c=0.1, end=0.05), B: row(c=0.8, b=0.1, end=0.05), C: row(a=0.8, b=0.1, end=0.05)}
    toy = Toy(lambda number, words: circle[words[-1]] if words else row(a=1.0))
    assert decode(toy, segments([0]), max_words=7) == [[A, B, C, A, B, C, A]]
    # Behind a b c a b the word c would be the second (a, b, c): b. Behind (b, b) then c, and so on.
    assert decode(toy, segments([0]), max_words=7, no_repeated_trigram=True) == [[A, B, C, A, B, B, C]]


def test_a_sentence_ends_where_nothing_else_may_be_written():
    toy = Toy(lambda number, words: [-inf if word != A else 0.0 for word in range(VOCABULARY)])
    # a a a, of which one more a would be the trigram again; END is impossible and is written all the same.
    for beam in (1, 3):
        assert decode(toy, segments([0]), max_words=9, beam=beam, no_repeated_trigram=True) == [[A, A, A]]


def test_of_equal_words_the_smallest_is_written():
    toy = Toy(lambda number, words: row(a=0.25, b=0.25, c=0.25) if len(words) < 2 else row(end=1.0))
    for beam in (1, 2, 3, 8):
        assert decode(toy, segments([0, 1]), beam=beam) == [[A, A]] * 2


def test_nothing_to_describe():
    assert decode(Toy(None), segments([])) == []


@pytest.mark.parametrize("wrong", [{"max_words": 0}, {"beam": 0}])
def test_senseless_limits_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        decode(Toy(None), segments([0]), **wrong)


@st.composite
def toys(draw):
    """Log-probabilities that depend on the segment and all words before; coarse ones have ties."""
    seed, grain = draw(st.integers(0, 10**6)), draw(st.sampled_from([0, 4]))

    def say(number, words):
        generator = torch.Generator().manual_seed(hash((seed, number, words)) % 2**31)
        logits = 3 * torch.randn(VOCABULARY, generator=generator)
        # Multiples of 1/4 are summed without rounding, so that ties stay ties.
        return (logits.log_softmax(0) if not grain else -(logits.abs() * grain).round() / grain).tolist()

    return Toy(say)


def repeats(words):
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) < len(trigrams)


def plain_greedy(say, number, max_words, no_repeated_trigram):
    words = ()
    while len(words) < max_words:
        values = say(number, words)
        possible = [END] + [
            word for word in (A, B, C) if not (no_repeated_trigram and repeats((*words, word)) and not repeats(words))
        ]
        word = max(possible, key=lambda each: (values[each], -each))
        if word == END:
            break
        words = (*words, word)
    return list(words)


def every_sentence(say, number, max_words, no_repeated_trigram):
    """All sentences with their mean log-probability, shortest first."""
    for count in range(max_words + 1):
        for words in product((A, B, C), repeat=count):
            if no_repeated_trigram and repeats(words):
                continue
            terms = [say(number, words[:place])[word] for place, word in enumerate(words)]
            if count < max_words:
                terms.append(say(number, words)[END])
            total = torch.zeros(())
            for term in terms:
                total = total + term
            yield (total / len(terms)).item(), list(words)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(toy=toys(), limit=st.integers(1, 9), ban=st.booleans(), count=st.integers(1, 4))
def test_a_beam_of_one_is_greedy_search(toy, limit, ban, count):
    expected = [plain_greedy(toy.say, number, limit, ban) for number in range(count)]
    assert decode(toy, segments(list(range(count))), max_words=limit, no_repeated_trigram=ban) == expected


@settings(deadline=None, max_examples=40, derandomize=True)
@given(toy=toys(), limit=st.integers(1, 4), ban=st.booleans())
def test_a_beam_of_all_sentences_finds_the_best(toy, limit, ban):
    beam = 4**limit  # three words and END at each place
    found = decode(toy, segments([0, 1]), max_words=limit, beam=beam, no_repeated_trigram=ban)
    for number, words in enumerate(found):
        scores = {tuple(each): score for score, each in every_sentence(toy.say, number, limit, ban)}
        assert scores[tuple(words)] == max(scores.values())


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    toy=toys(),
    numbers=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    limit=st.integers(1, 8),
    beam=st.integers(1, 5),
    ban=st.booleans(),
)
def test_other_segments_change_nothing(toy, numbers, limit, beam, ban):
    rule = {"max_words": limit, "beam": beam, "no_repeated_trigram": ban}
    together = decode(toy, segments(numbers), **rule)
    assert together == [decode(toy, segments([number]), **rule)[0] for number in numbers]
    assert all(len(words) <= limit and set(words) <= {A, B, C} for words in together)
    assert not (ban and any(repeats(words) for words in together))
