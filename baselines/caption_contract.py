"""The protocol that every captioner follows, and its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self

import torch
from torch import Tensor

from baselines.contract import check_features

PAD: Final = 0
"""The word behind the end of a sentence that is shorter than others of its batch."""
START: Final = 1
END: Final = 2
UNKNOWN: Final = 3
"""A word that the vocabulary lacks; it is read, and never written."""
SPECIAL_WORDS: Final = 4
"""The numbers of real words begin here."""


@dataclass(frozen=True)
class Stream:
    """What one sense says of several segments or videos.

    Attributes:
        features: ``(B, C, T)`` floating point.
        mask: ``(B, T)`` bool, True on the rows of a segment, which come first, and False on padding. Each segment has
            a row.
        row_steps: ``(B,)`` float, above 0: how long a row is in feature steps, the unit of time of all streams; 1 in
            the first stream.

    Raises:
        ValueError: if the shapes do not belong together.
    """

    features: Tensor
    mask: Tensor
    row_steps: Tensor

    def __post_init__(self) -> None:
        check_features(self.features, self.mask)
        if self.row_steps.shape != (len(self.features),):
            raise ValueError(f"expected row_steps ({len(self.features)},), got {tuple(self.row_steps.shape)}")

    def to(self, device: torch.device | str) -> Self:
        """Return the same stream on `device`."""
        return type(self)(self.features.to(device), self.mask.to(device), self.row_steps.to(device))


Streams = tuple[Stream, ...]
"""The visual stream, and behind it that of the sound where there is one."""


@dataclass(frozen=True)
class CaptionBatch:
    """Segments with a sentence each.

    Attributes:
        streams: of B segments.
        words: ``(B, L)`` int64: `START`, the words of the sentence, `END`, then `PAD`.

    Raises:
        ValueError: if the shapes do not belong together.
    """

    streams: Streams
    words: Tensor

    def __post_init__(self) -> None:
        counts = [len(stream.features) for stream in self.streams]
        if self.words.ndim != 2 or self.words.dtype != torch.int64 or set(counts) != {len(self.words)}:
            raise ValueError(
                f"expected int64 words (B, L) and streams of as many segments, got {self.words.dtype}"
                f" {tuple(self.words.shape)} and streams of {counts}"
            )

    def to(self, device: torch.device | str) -> Self:
        """Return the same batch on `device`."""
        return type(self)(tuple(stream.to(device) for stream in self.streams), self.words.to(device))


class DecodingState(Protocol):
    """What a captioner remembers of B sentences that it is writing."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of the sentences ``rows``, int64 ``(N,)``, each as often as it is named."""


class Captioner(Protocol):
    """Describes segments in words. Every captioner is a `torch.nn.Module` as well."""

    Config: ClassVar[type[Any]]
    """A strict, frozen pydantic model. It has `feature_dim` (C of the visual stream), `audio_dim` (C of the second
    stream, 0: there is none) and `words` (size of the vocabulary, special words included); every other setting has a
    default, the paper's or its release's."""

    def __init__(self, config: Any) -> None: ...

    def set_word_vectors(self, vectors: Tensor, frozen: bool) -> None:
        """Start from the ``(words, word_dim)`` vectors of the vocabulary; ``frozen`` ones are not trained.

        Raises:
            ValueError: another shape.
        """

    def encode(self, streams: Streams) -> Streams:
        """Return what is known of each row of each stream in the light of all others; the same lengths and masks."""

    def __call__(self, streams: Streams, words: Tensor) -> Tensor:
        """Return log-probabilities ``(B, L, words)``: entry l is of the word behind ``words[:, : l + 1]``.

        In training the random layers draw from torch's global generator: whoever trains seeds it.

        Args:
            streams: of B segments.
            words: ``(B, L)`` int64, from `START` on.
        """

    def loss(self, log_probabilities: Tensor, words: Tensor) -> Mapping[str, Tensor]:
        """Compare what the network said of ``words[:, :-1]`` with the words that follow.

        Args:
            log_probabilities: ``(B, L - 1, words)``.
            words: ``(B, L)`` int64 of a `CaptionBatch`.

        Returns:
            Scalars by name: ``"total"``, to be minimised, and what is worth knowing beside it.
        """

    def begin(self, streams: Streams) -> DecodingState:
        """Return the state of sentences about B segments of which no word is written."""

    def step(self, words: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Write one word: the last entry of what the full pass would say, from keys that are kept.

        Args:
            words: ``(B,)`` int64, the word that was written last, at first `START`.
            state: from `begin` or the step before.

        Returns:
            Log-probabilities ``(B, words)`` of the next word, and the state behind ``words``.
        """


def padded_words(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Return sentences as the ``words`` of a `CaptionBatch`, int64 ``(B, L)``, with their start, end and padding."""
    length = max((len(sentence) for sentence in sentences), default=0) + 2
    rows = [[START, *sentence, END, *[PAD] * (length - 2 - len(sentence))] for sentence in sentences]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(sentences), length)
