"""Layers of a transformer whose streams differ in width, with keys that are kept from word to word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Facts of the released code of BMT, github.com/v-iashin/BMT, file in brackets.
ANGLE_BASE = 10000  # of the sinusoids [model/blocks.py, PositionalEncoder]

Layer = TypeVar("Layer", bound=nn.Module)


def module_list(layers: Iterable[Layer]) -> Sequence[Layer]:
    """Return a `torch.nn.ModuleList` that knows of what kind its modules are."""
    return cast("Sequence[Layer]", nn.ModuleList(layers))


def sinusoids(first: int, steps: int, width: int, device: torch.device | None = None) -> Tensor:
    """Encode the positions ``first``, ``first + 1``, ... [model/blocks.py, PositionalEncoder].

    Channel c turns by 10000^(-c / width) a step. (In the usual formula a sine and the cosine behind it turn alike.)

    Returns:
        ``(steps, width)`` float32; sines in even channels, cosines in odd ones.
    """
    channel = torch.arange(width, device=device, dtype=torch.float64)
    position = torch.arange(first, first + steps, device=device, dtype=torch.float64)
    angle = position[:, None] * ANGLE_BASE ** (-channel / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


class Positions(nn.Module):
    """Adds where each row stands, then drops out."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, first: int = 0) -> Tensor:
        """Add to ``(B, L, C)`` the positions from `first` on."""
        placed: Tensor = self.dropout(rows + sinusoids(first, rows.shape[1], rows.shape[2], rows.device))
        return placed


@dataclass(frozen=True)
class KeyValues:
    """What queries look at, of B sequences of S rows.

    Attributes:
        keys: ``(B, H, S, D)``, D channels for each of H heads.
        values: ``(B, H, S, D)``.
    """

    keys: Tensor
    values: Tensor

    def append(self, later: Self) -> Self:
        """Return these rows with those of ``later`` behind."""
        return type(self)(torch.cat([self.keys, later.keys], dim=2), torch.cat([self.values, later.values], dim=2))

    def select(self, rows: Tensor) -> Self:
        """Return the sequences ``rows``, int64 ``(N,)``, each as often as it is named."""
        return type(self)(self.keys[rows], self.values[rows])


class MultiHeadAttention(nn.Module):
    """Attention in `d_model` channels between sequences of any widths [model/multihead_attention.py].

    Queries, keys and values are mapped to `d_model` channels, split among the heads, and the result is mapped back to
    the width of the queries. Dropout is on what was attended to, not on the weights of attention.
    """

    def __init__(self, query_dim: int, key_dim: int, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_dim, d_model)
        self.key = nn.Linear(key_dim, d_model)
        self.value = nn.Linear(key_dim, d_model)
        self.output = nn.Linear(d_model, query_dim)
        self.dropout = nn.Dropout(dropout)

    def keys(self, rows: Tensor) -> KeyValues:
        """Return what queries need of ``(B, S, key_dim)``; it may be kept for later queries."""
        return KeyValues(self._split(self.key(rows)), self._split(self.value(rows)))

    def forward(self, rows: Tensor, seen: KeyValues, allowed: Tensor | None = None) -> Tensor:
        """Look up.

        Args:
            rows: ``(B, L, query_dim)``.
            seen: of B sequences of S rows, from `keys`.
            allowed: bool, of a shape that expands to ``(B, H, L, S)``: which rows a query may look at; None: all. A
                query that may look at none finds zeros.

        Returns:
            ``(B, L, query_dim)``.
        """
        query = self._split(self.query(rows))
        if allowed is None:
            found = F.scaled_dot_product_attention(query, seen.keys, seen.values)
        else:
            some = allowed.any(dim=-1, keepdim=True)  # what a softmax over nothing is differs from kernel to kernel
            found = F.scaled_dot_product_attention(query, seen.keys, seen.values, attn_mask=allowed | ~some) * some
        merged: Tensor = self.output(self.dropout(found).transpose(1, 2).flatten(2))
        return merged

    def _split(self, rows: Tensor) -> Tensor:
        return torch.unflatten(rows, 2, (self.heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """``rows + dropout(attention(norm(rows)))``, of a sequence to itself."""

    def __init__(self, width: int, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, width, d_model, heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Map ``(B, L, width)``; all look at the rows where `mask` ``(B, L)`` bool is True."""
        normal = self.norm(rows)
        attended = self.attention(normal, self.attention.keys(normal), mask[:, None, None])
        added: Tensor = rows + self.dropout(attended)
        return added

    def keys(self, rows: Tensor) -> KeyValues:
        """Return what later rows need of ``(B, S, width)``."""
        return self.attention.keys(self.norm(rows))

    def extend(self, rows: Tensor, past: KeyValues) -> tuple[Tensor, KeyValues]:
        """Map rows ``(B, L, width)`` that look at the `past`, at themselves and at rows before them, at none behind.

        Returns:
            ``(B, L, width)``, and the past of the rows that follow.
        """
        normal = self.norm(rows)
        past = past.append(self.attention.keys(normal))
        length, total = rows.shape[1], past.keys.shape[2]
        causal = torch.ones(length, total, dtype=torch.bool, device=rows.device).tril(total - length)
        return rows + self.dropout(self.attention(normal, past, causal if length > 1 else None)), past


class CrossAttention(nn.Module):
    """``rows + dropout(attention(norm(rows), others))``; the other sequence is not normalized."""

    def __init__(self, width: int, other_width: int, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, other_width, d_model, heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def keys(self, others: Tensor) -> KeyValues:
        """Return what is looked at of ``(B, S, other_width)``."""
        return self.attention.keys(others)

    def forward(self, rows: Tensor, others: KeyValues, mask: Tensor) -> Tensor:
        """Map ``(B, L, width)``; all look at the others where `mask` ``(B, S)`` bool is True."""
        added: Tensor = rows + self.dropout(self.attention(self.norm(rows), others, mask[:, None, None]))
        return added


class FeedForward(nn.Module):
    """``rows + dropout(perceptron(norm(rows)))``, each row by itself [model/blocks.py, PositionwiseFeedForward]."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``(B, L, width)``."""
        added: Tensor = rows + self.dropout(self.perceptron(self.norm(rows)))
        return added
