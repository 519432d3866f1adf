"""BLEU, ROUGE-L and CIDEr of sets of pairs, as pycocoevalcap computes them, from counts made once.

A pair is a candidate and one reference. pycocoevalcap 1.2 counts the n-grams of a sentence anew for each set that it is
part of, and dense captioning asks for the same sentences at each temporal IoU.

- BLEU (Papineni et al., 2002) adds up the counts of all pairs. The constants 1e-15 and 1e-9 keep it above 0, by next to
  nothing, where no n-gram matches.
- ROUGE-L (Lin, 2004), with beta 1.2, is the mean over the pairs. An empty side counts as one word, the empty one: two
  empty sides have ROUGE-L 1, an empty side and another one 0.
- CIDEr-D (Vedantam et al., 2015) takes each pair for a document, whose reference says how rare an n-gram is. What all
  references of the set have counts nothing; so a set of one pair has CIDEr 0, whatever its sentences. The highest value
  is 10.

The order of the pairs changes nothing, to the last bit: whole numbers are added, and sums of fractions rounded once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ORDERS: Final = 4
_TINY, _SMALL = 1e-15, 1e-9  # of BLEU
_BETA: Final = 1.2  # of ROUGE-L
_SIGMA: Final = 6.0  # of CIDEr

Counts = dict[tuple[str, ...], int]


@dataclass(frozen=True, eq=False)
class Sentence:
    """The words and n-grams of a sentence.

    Attributes:
        words: its parts between any white space; a no-break space, which the tokenizer leaves in numbers, is some.
        columns: its parts between spaces, as ROUGE-L takes them; one empty part if there is nothing.
        counts: how often each n-gram occurs, for n from 1 to 4.
    """

    words: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[Counts, ...]

    @classmethod
    def of(cls, tokens: str) -> "Sentence":
        """Take a sentence apart whose tokens are separated by spaces."""
        words = tuple(tokens.split())
        counts: tuple[Counts, ...] = tuple({} for _ in range(_ORDERS))
        for n, found in enumerate(counts, start=1):
            for start in range(len(words) - n + 1):
                gram = words[start : start + n]
                found[gram] = found.get(gram, 0) + 1
        return cls(words, tuple(tokens.split(" ")), counts)


Pair = tuple[Sentence, Sentence]


def bleu_counts(pair: Pair) -> list[int]:
    """Return what BLEU adds up over pairs: both lengths, then for n from 1 to 4 the n-grams and the right ones."""
    candidate, reference = pair
    numbers = [len(candidate.words), len(reference.words)]
    for n, (found, known) in enumerate(zip(candidate.counts, reference.counts, strict=True)):
        right = sum(min(count, known.get(gram, 0)) for gram, count in found.items())
        numbers += [max(len(candidate.words) - n, 0), right]
    return numbers


def bleu(counts: Sequence[int]) -> list[float]:
    """Return BLEU@1 to BLEU@4 of a set of pairs, from the sum of their ``bleu_counts``."""
    candidate, reference, *grams = counts
    ratio = (candidate + _TINY) / (reference + _SMALL)
    penalty = math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0
    product, scores = 1.0, []
    for n, (all_, right) in enumerate(zip(grams[::2], grams[1::2], strict=True), start=1):
        product *= (right + _TINY) / (all_ + _SMALL)
        scores.append(product ** (1.0 / n) * penalty)
    return scores


def rouge_l(pair: Pair) -> float:
    """Return ROUGE-L of one pair."""
    candidate, reference = pair[0].columns, pair[1].columns
    common = _longest_common_subsequence(candidate, reference)
    if not common:
        return 0.0
    precision, recall = common / len(candidate), common / len(reference)
    return (1.0 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length, by the rows of the usual table as the bits of whole numbers (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    row = every
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & every
    return len(first) - row.bit_count()


def cider(pairs: Sequence[Pair]) -> float:
    """Return CIDEr of a set of at least one pair; a pair that is in it twice counts twice."""
    documents: Counts = {}
    for _, reference in pairs:
        for counts in reference.counts:
            for gram in counts:
                documents[gram] = documents.get(gram, 0) + 1
    most = math.log(len(pairs))
    weights = {gram: most - math.log(number) for gram, number in documents.items()}
    vectors = {id(side): _Vector.of(side, weights, most) for pair in pairs for side in pair}
    return math.fsum(vectors[id(one)].similarity(vectors[id(other)]) for one, other in pairs) / len(pairs)


@dataclass(frozen=True, eq=False)
class _Vector:
    """A sentence in a set of pairs.

    Attributes:
        length: number of its bigrams, as pycocoevalcap measures length.
        weights: of each n-gram, its count times its rarity, for n from 1 to 4.
        norms: of ``weights``, for n from 1 to 4.
    """

    length: int
    weights: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]

    @classmethod
    def of(cls, sentence: Sentence, rarity: dict[tuple[str, ...], float], highest: float) -> "_Vector":
        weights = tuple(
            {gram: count * rarity.get(gram, highest) for gram, count in counts.items()} for counts in sentence.counts
        )
        norms = tuple(math.sqrt(sum(value * value for value in part.values())) for part in weights)
        return cls(max(len(sentence.words) - 1, 0), weights, norms)

    def similarity(self, reference: "_Vector") -> float:
        total = 0.0
        for mine, others, norm, other_norm in zip(
            self.weights, reference.weights, self.norms, reference.norms, strict=True
        ):
            if norm and other_norm:
                shared = sum(min(value, others[gram]) * others[gram] for gram, value in mine.items() if gram in others)
                total += shared / (norm * other_norm)
        penalty = math.exp(-((self.length - reference.length) ** 2) / (2 * _SIGMA**2))
        return 10.0 * total * penalty / len(self.weights)
