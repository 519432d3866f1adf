"""BMT: a transformer that describes a segment from what is seen and heard of it (Iashin and Rahtu, BMVC 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from baselines.attention import CrossAttention, FeedForward, KeyValues, Positions, SelfAttention, module_list
from baselines.caption_contract import PAD, SPECIAL_WORDS, Stream, Streams


class BMTConfig(BaseModel):
    """Settings of BMT; the defaults are those of the release, github.com/v-iashin/BMT, main.py."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    feature_dim: int = Field(gt=0, description="channels of the visual features")
    audio_dim: int = Field(default=0, ge=0, description="channels of the audio features; 0: there are none")
    words: int = Field(gt=SPECIAL_WORDS, description="size of the vocabulary, special words included")
    word_dim: int = Field(default=300, gt=0, description="channels of a word and of the decoder")
    d_model: int = Field(default=1024, gt=0, description="channels of all attention, whatever the streams have")
    heads: int = Field(default=4, gt=0, description="heads of attention")
    layers: int = Field(default=2, gt=0, description="of the encoder, and as many of the decoder")
    feed_forward: int = Field(default=4, gt=0, description="hidden channels of a perceptron over those of its stream")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations left out in training")
    label_smoothing: float = Field(default=0.7, ge=0, lt=1, description="probability of all words but the true one")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of the {self.heads} heads")
        return self

    @property
    def stream_dims(self) -> tuple[int, ...]:
        """Channels of each stream."""
        return (self.feature_dim, self.audio_dim) if self.audio_dim else (self.feature_dim,)


@dataclass(frozen=True)
class BMTState:
    """What is kept of B sentences that are being written.

    Attributes:
        masks: of each stream, ``(B, T)`` bool.
        streams: the keys of each stream, for each layer of the decoder.
        written: the keys of the words so far, for each layer.
    """

    masks: tuple[Tensor, ...]
    streams: tuple[tuple[KeyValues, ...], ...]
    written: tuple[KeyValues, ...]

    def select(self, rows: Tensor) -> Self:
        """Return the state of the sentences ``rows``, int64 ``(N,)``, each as often as it is named."""
        return type(self)(
            tuple(mask[rows] for mask in self.masks),
            tuple(tuple(keys.select(rows) for keys in layer) for layer in self.streams),
            tuple(keys.select(rows) for keys in self.written),
        )


class EncoderLayer(nn.Module):
    """Each stream looks at itself, then at the other if there is one [model/encoders.py, BiModalEncoderLayer]."""

    def __init__(self, config: BMTConfig) -> None:
        super().__init__()
        dims, attention = config.stream_dims, (config.d_model, config.heads, config.dropout)
        self.self_attentions = module_list(SelfAttention(dim, *attention) for dim in dims)
        pairs = list(zip(dims, dims[::-1], strict=True)) if len(dims) > 1 else []
        self.cross_attentions = module_list(CrossAttention(dim, other, *attention) for dim, other in pairs)
        self.feed_forwards = module_list(FeedForward(dim, config.feed_forward * dim, config.dropout) for dim in dims)

    def forward(self, streams: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Map ``(B, T, C)`` of each stream, of which `masks` ``(B, T)`` tell the rows that may be looked at."""
        rows = [attend(each, mask) for attend, each, mask in zip(self.self_attentions, streams, masks, strict=True)]
        if self.cross_attentions:
            keys = [attend.keys(other) for attend, other in zip(self.cross_attentions, rows[::-1], strict=True)]
            looks = zip(self.cross_attentions, rows, keys, masks[::-1], strict=True)
            rows = [attend(each, others, mask) for attend, each, others, mask in looks]
        return [feed_forward(each) for feed_forward, each in zip(self.feed_forwards, rows, strict=True)]


class DecoderLayer(nn.Module):
    """Words look at the words before, then at each stream; a bridge joins the two [model/decoders.py, blocks.py]."""

    def __init__(self, config: BMTConfig) -> None:
        super().__init__()
        width, attention = config.word_dim, (config.d_model, config.heads, config.dropout)
        self.self_attention = SelfAttention(width, *attention)
        self.stream_attentions = module_list(CrossAttention(width, dim, *attention) for dim in config.stream_dims)
        joined = width * len(config.stream_dims)
        bridge = (nn.LayerNorm(joined), nn.Linear(joined, width), nn.Dropout(config.dropout), nn.ReLU())
        self.bridge = nn.Sequential(*bridge) if len(config.stream_dims) > 1 else nn.Identity()
        self.feed_forward = FeedForward(width, config.feed_forward * width, config.dropout)

    def forward(
        self, rows: Tensor, written: KeyValues, streams: Sequence[KeyValues], masks: Sequence[Tensor]
    ) -> tuple[Tensor, KeyValues]:
        """Map words ``(B, L, word_dim)`` behind those `written`; return what is written then, too."""
        rows, written = self.self_attention.extend(rows, written)
        looks = zip(self.stream_attentions, streams, masks, strict=True)
        rows = self.bridge(torch.cat([attend(rows, keys, mask) for attend, keys, mask in looks], dim=2))
        return self.feed_forward(rows), written


class BMT(nn.Module):
    """The captioning network of BMT; follows `baselines.caption_contract.Captioner`.

    With audio, its layers are those of the release [model/captioning_module.py, BiModalTransformer], where neither the
    encoder nor the decoder ends with a normalization. Without audio it is what remains when all that touches audio is
    left out. (The release's `--modality video` is another network: as wide as the features throughout, its words
    mapped to that width, without dropout inside attention and perceptrons.)

    Parameters at the published sizes, for 1024 and 128 channels and 10,172 words: 35,968,256 of the encoder,
    11,464,824 of the decoder and 3,061,772 of the generator, that is 50,494,852 that are trained, and 3,051,600 of the
    word vectors, which are frozen. The release counts what is trained and says 51 M, 1 % more. That is no other
    network: its checkpoint best_cap_model.pt, 618,251,043 bytes of all weights and of Adam's two moments of the
    trained ones, has room for 10,172 words, give or take two, and 51 M would take at least 10,190.
    """

    Config: ClassVar[type[BMTConfig]] = BMTConfig

    def __init__(self, config: BMTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.words, config.word_dim)
        self.positions = Positions(config.dropout)
        self.encoder = module_list(EncoderLayer(config) for _ in range(config.layers))
        self.decoder = module_list(DecoderLayer(config) for _ in range(config.layers))
        self.generator = nn.Linear(config.word_dim, config.words)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def set_word_vectors(self, vectors: Tensor, frozen: bool) -> None:
        """Start from the ``(words, word_dim)`` vectors of the vocabulary; ``frozen`` ones are not trained.

        Raises:
            ValueError: another shape.
        """
        if vectors.shape != self.embedding.weight.shape:
            raise ValueError(f"expected word vectors {tuple(self.embedding.weight.shape)}, got {tuple(vectors.shape)}")
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)
        self.embedding.weight.requires_grad_(not frozen)

    def encode(self, streams: Streams) -> Streams:
        """Return what is known of each row of each stream in the light of all others.

        Args:
            streams: of B segments; what padding holds changes nothing.

        Returns:
            Streams of the same shapes, masks and `row_steps`; the features are float32, and 0 at padding.

        Raises:
            ValueError: if the streams are not those of the settings.
        """
        channels = tuple(stream.features.shape[1] for stream in streams)
        if channels != self.config.stream_dims:
            raise ValueError(f"expected streams of {self.config.stream_dims} channels, got {channels}")
        masks = [stream.mask for stream in streams]
        # Padding has no weight in attention, but infinity times 0 would be NaN.
        rows = [self.positions(_zero_padding(stream.features, stream.mask).mT) for stream in streams]
        for layer in self.encoder:
            rows = layer(rows, masks)
        return tuple(
            Stream(_zero_padding(each.mT, stream.mask), stream.mask, stream.row_steps)
            for each, stream in zip(rows, streams, strict=True)
        )

    def forward(self, streams: Streams, words: Tensor) -> Tensor:
        """Return log-probabilities ``(B, L, words)``, float32: entry l is of the word behind ``words[:, : l + 1]``.

        No word sees one behind it, so that padding, which comes last, is seen by padding alone.

        Args:
            streams: of B segments.
            words: ``(B, L)`` int64, from `START` on.

        Raises:
            ValueError: if the streams are not those of the settings.
        """
        return self._extend(words, self.begin(streams))[0]

    def loss(self, log_probabilities: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Compute the divergence from smoothed labels, the mean of all words but padding [loss/label_smoothing.py].

        A label gives the true word ``1 - label_smoothing``, padding nothing, and the rest in equal shares to the V - 2
        other words. The sum over words is divided by their number [epoch_loops/captioning_epoch_loops.py].

        Args:
            log_probabilities: ``(B, L - 1, words)``, what the network said of ``words[:, :-1]``.
            words: ``(B, L)`` int64 of a `CaptionBatch`.

        Returns:
            Scalars ``total`` and ``cross_entropy``, that of the true words alone, in nats.
        """
        true, smoothing = words[:, 1:], self.config.label_smoothing
        real = true != PAD
        of_true = log_probabilities.gather(2, true[:, :, None]).squeeze(2)
        of_others = log_probabilities.sum(dim=2) - log_probabilities[:, :, PAD] - of_true
        share = smoothing / (self.config.words - 2)
        entropy = -(1 - smoothing) * math.log(1 - smoothing) - (smoothing * math.log(share) if share else 0)
        divergence = -(1 - smoothing) * of_true - share * of_others - entropy
        return {"total": divergence[real].mean(), "cross_entropy": -of_true[real].mean()}

    def begin(self, streams: Streams) -> BMTState:
        """Return the state of sentences about B segments of which no word is written.

        Raises:
            ValueError: if the streams are not those of the settings.
        """
        known = [stream.features.mT for stream in self.encode(streams)]
        nothing = known[0].new_zeros(len(known[0]), 0, self.config.word_dim)
        keys = [
            tuple(attend.keys(rows) for attend, rows in zip(layer.stream_attentions, known, strict=True))
            for layer in self.decoder
        ]
        written = tuple(layer.self_attention.keys(nothing) for layer in self.decoder)
        return BMTState(tuple(stream.mask for stream in streams), tuple(keys), written)

    def step(self, words: Tensor, state: BMTState) -> tuple[Tensor, BMTState]:
        """Write one word: the last entry of what the full pass would say, from keys that are kept.

        Args:
            words: ``(B,)`` int64, the word that was written last, at first `START`.
            state: from `begin` or the step before.

        Returns:
            Log-probabilities ``(B, words)`` of the next word, and the state behind ``words``.
        """
        log_probabilities, state = self._extend(words[:, None], state)
        return log_probabilities.squeeze(1), state

    def _extend(self, words: Tensor, state: BMTState) -> tuple[Tensor, BMTState]:
        """Read words ``(B, L)`` behind those of the state; return log-probabilities ``(B, L, words)`` too."""
        first = state.written[0].keys.shape[2]
        rows = self.positions(self.embedding(words) * math.sqrt(self.config.word_dim), first)
        written = []
        for layer, past, streams in zip(self.decoder, state.written, state.streams, strict=True):
            rows, later = layer(rows, past, streams, state.masks)
            written.append(later)
        log_probabilities = self.generator(rows).float().log_softmax(dim=2)
        return log_probabilities, BMTState(state.masks, state.streams, tuple(written))


def _zero_padding(features: Tensor, mask: Tensor) -> Tensor:
    """Return ``(B, C, T)`` with zeros where `mask` ``(B, T)`` is False."""
    return features.masked_fill(~mask[:, None], 0)
