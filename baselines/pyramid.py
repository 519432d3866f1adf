"""A pyramid of transformer blocks over time, each level half as long as the one before, and heads over its levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Constants of the released code of ActionFormer, github.com/happyharrycn/actionformer_release, file in brackets.
EMBEDDING_CONVS, STEM_BLOCKS = 2, 2  # arch (2, 2, 5): the 5 are one level less than there are [libs/core/config.py]
HEAD_CONVS = 2  # before the last one [libs/core/config.py, head_num_layers]
MLP_EXPANSION = 4  # [libs/modeling/blocks.py, TransformerBlock]
BRANCH_SCALE = 1e-4  # of each channel of a residual branch, at first [libs/modeling/blocks.py, AffineDropPath]
ANGLE_BASE = 10000  # of the sinusoids [libs/modeling/blocks.py, get_sinusoid_encoding]

BLOCK = 32  # queries that local attention takes at once; of 16, 32 and 64 the fastest
EXCLUDED = -1e4  # added to the score of a key that has no weight: exp(-1e4) is 0


@dataclass(frozen=True)
class Level:
    """Which rows of a level of the pyramid count.

    Attributes:
        valid: ``(B, T)`` bool, rows of the video.
        seen: ``(B, T)`` bool, rows that convolutions read; all others are zeros to them. See `TransformerPyramid`.
    """

    valid: Tensor
    seen: Tensor


def convolve(conv: nn.Module, rows: Tensor) -> Tensor:
    """Apply a convolution along time to ``(B, T, C)``."""
    convolved: Tensor = conv(rows.mT)
    return convolved.mT


def halve(rows: Tensor) -> Tensor:
    """Take the highest of the rows 2i - 1, 2i and 2i + 1 of ``(B, T, C)``, T even: ``(B, T / 2, C)``.

    The slices of max pooling, because its gradient has no fixed order of summation on CUDA.
    """
    even, odd = rows[:, ::2], rows[:, 1::2]
    before = F.pad(odd[:, :-1], (0, 0, 1, 0), value=-math.inf)
    return torch.maximum(torch.maximum(before, even), odd)


def sinusoids(steps: int, width: int) -> Tensor:
    """Encode positions [libs/modeling/blocks.py, get_sinusoid_encoding].

    Returns:
        ``(steps, width)`` float32; sines in even channels, cosines in odd ones, divided by the root of `width`.
    """
    channel = torch.arange(width)
    rate = torch.pow(torch.tensor(ANGLE_BASE, dtype=torch.float64), 2 * (channel // 2) / width)
    angle = torch.arange(steps)[:, None] / rate
    return (torch.where(channel % 2 == 0, angle.sin(), angle.cos()) / math.sqrt(width)).float()


def attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor, window: int) -> Tensor:
    """Attend to valid keys, in a window around the query or everywhere.

    In a window, a block of queries meets its own keys and those within reach at either side, so that time and memory
    grow with T and not with its square. Plain products and a softmax: of those that torch has fused, the one for
    masked keys has a gradient that varies from run to run on CUDA.

    Args:
        query: ``(B, H, T, D)``, as are `key` and `value`.
        key: as above.
        value: as above.
        valid: ``(B, T)`` bool, which keys have weight.
        window: how many keys, the query's own in the middle; -1: all of them.

    Returns:
        ``(B, H, T, D)``; without meaning where no key of the window is valid, but finite.
    """
    if window < 0:
        return _attend(query, key, value, valid[:, None, None, :])
    reach, steps = window // 2, query.shape[2]
    block = max(BLOCK, reach)
    missing = -steps % block
    query = torch.unflatten(F.pad(query, (0, 0, 0, missing)), 2, (-1, block))
    key, value = (_surroundings(rows, block, reach) for rows in (key, value))
    near = _surroundings(valid[:, None, :, None], block, reach).mT  # (B, 1, blocks, 1, block + 2 * reach)
    row = torch.arange(block, device=valid.device)[:, None]
    column = torch.arange(block + 2 * reach, device=valid.device)
    in_window = (column >= row) & (column <= row + 2 * reach)
    return _attend(query, key, value, near & in_window).flatten(2, 3)[:, :, :steps]


def _attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    bias = torch.where(allowed, 0.0, EXCLUDED)
    scores = (query * query.shape[-1] ** -0.5) @ key.mT + bias
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended


def _surroundings(rows: Tensor, block: int, reach: int) -> Tensor:
    """Cut ``(B, H, T, D)`` into blocks with `reach` rows more at either side, zeros beyond the ends.

    Returns:
        ``(B, H, T / block, block + 2 * reach, D)``.
    """
    padded = F.pad(rows, (0, 0, block, block + -rows.shape[2] % block))
    blocks = torch.unflatten(padded, 2, (-1, block))
    before, after = blocks[:, :, :-2, block - reach :], blocks[:, :, 2:, :reach]
    return torch.cat([before, blocks[:, :, 1:-1], after], dim=3)


class ConvAttention(nn.Module):
    """Attention of which queries, keys and values are first convolved, each channel by itself.

    [libs/modeling/blocks.py, MaskedMHCA and LocalMaskedMHCA]
    """

    def __init__(self, width: int, heads: int, window: int, stride: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window

        def conv() -> nn.Conv1d:
            return nn.Conv1d(width, width, 3, stride, padding=1, groups=width, bias=False)

        self.query_conv, self.query_norm = conv(), nn.LayerNorm(width)
        self.key_conv, self.key_norm = conv(), nn.LayerNorm(width)
        self.value_conv, self.value_norm = conv(), nn.LayerNorm(width)
        self.key, self.query, self.value = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor, valid: Tensor) -> Tensor:
        """Map ``(B, T, C)`` to ``(B, T / stride, C)``, of which `valid` ``(B, T / stride)`` tells the video's rows."""
        query = self.query(self.query_norm(convolve(self.query_conv, rows)))
        key = self.key(self.key_norm(convolve(self.key_conv, rows)))
        value = self.value(self.value_norm(convolve(self.value_conv, rows)))
        query, key, value = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (query, key, value))
        attended = attention(query, key, value, valid, self.window)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class DropPath(nn.Module):
    """Scale each channel of a residual branch; in training, leave it out for some videos.

    [libs/modeling/blocks.py, AffineDropPath]
    """

    def __init__(self, width: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((width,), BRANCH_SCALE))

    def forward(self, branch: Tensor) -> Tensor:
        """Scale ``(B, T, C)``."""
        branch = branch * self.scale
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        kept = torch.rand(len(branch), 1, 1, device=branch.device) < keep
        return branch * (kept / keep)


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, both normalized before [libs/modeling/blocks.py, TransformerBlock]."""

    def __init__(self, width: int, heads: int, window: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.stride = stride
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = ConvAttention(width, heads, window, stride)
        hidden = MLP_EXPANSION * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.attention_path, self.mlp_path = DropPath(width, drop_path), DropPath(width, drop_path)

    def forward(self, rows: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        """Map ``(B, T, C)`` to ``(B, T / stride, C)``, zero where not valid.

        Args:
            rows: the input.
            seen: ``(B, T)``, of the input's level.
            valid: ``(B, T / stride)``, of the output's level.
        """
        attended = self.attention(self.attention_norm(rows) * seen[:, :, None], valid)
        kept = rows if self.stride == 1 else halve(rows)
        rows = kept + self.attention_path(attended)
        rows = rows + self.mlp_path(self.mlp(self.mlp_norm(rows)))
        return rows * valid[:, :, None]


class TransformerPyramid(nn.Module):
    """Convolutions, transformer blocks and blocks that halve the length [libs/modeling/backbones.py, necks.py].

    Parameters come in the release's order. What a video becomes depends on it alone, not on how far a batch is padded.
    Yet the release's result depends on its padding: to `steps`, or if the video is longer, to the next multiple of all
    windows. The step after the video is a zero that the normalizations turn into their bias, which the convolutions
    then read; in a level that the video fills there is no such step, and they read zero. Both are kept (`Level.seen`).
    """

    positions: Tensor | None

    def __init__(
        self,
        channels: int,
        width: int,
        heads: int,
        windows: Sequence[int],
        steps: int,
        *,
        position_encoding: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.steps, self.levels = steps, len(windows)
        # The length that the release pads a video longer than `steps` to is a multiple of this [meta_archs.py].
        self.multiple = math.lcm(
            *((1 << level) * (max(window // 2, 0) * 2 or 1) for level, window in enumerate(windows))
        )

        self.embedding = nn.ModuleList(
            nn.Conv1d(channels if index == 0 else width, width, 3, padding=1, bias=False)
            for index in range(EMBEDDING_CONVS)
        )
        self.embedding_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(EMBEDDING_CONVS))
        self.register_buffer("positions", sinusoids(steps, width) if position_encoding else None, persistent=False)
        self.stem = nn.ModuleList(TransformerBlock(width, heads, windows[0], 1, drop_path) for _ in range(STEM_BLOCKS))
        self.branch = nn.ModuleList(TransformerBlock(width, heads, window, 2, drop_path) for window in windows[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in windows)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Level]]:
        """Compute the levels.

        Args:
            features: ``(B, C, T)``, any T.
            mask: ``(B, T)`` bool, the steps of each video, which come first.

        Returns:
            For each level l its rows ``(B, T_l, width)`` and which of them count; T_l is at least T / 2^l.
        """
        missing = self._computed_steps(mask.shape[1]) - mask.shape[1]
        features, mask = F.pad(features, (0, missing)), F.pad(mask, (0, missing))
        padded_steps = self._padded_steps(mask.sum(dim=1))
        levels = list(self._levels(mask, padded_steps))

        first = levels[0]
        rows = features.masked_fill(~mask[:, None], 0).mT
        for conv, norm in zip(self.embedding, self.embedding_norms, strict=True):
            rows = F.relu(norm(convolve(conv, rows * first.seen[:, :, None]) * mask[:, :, None]))
        if self.positions is not None:
            rows = rows + self._position_encoding(self.positions, mask.shape[1], padded_steps) * mask[:, :, None]
        for block in self.stem:
            rows = block(rows, first.seen, first.valid)
        pyramid = [rows]
        for block, above, level in zip(self.branch, levels[:-1], levels[1:], strict=True):
            pyramid.append(block(pyramid[-1], above.seen, level.valid))
        return [norm(rows) for norm, rows in zip(self.norms, pyramid, strict=True)], levels

    def _computed_steps(self, steps: int) -> int:
        """Return how many steps to compute: what the release pads to, or less where the rest would change nothing."""
        stride = 1 << (self.levels - 1)
        padded = self.steps if steps <= self.steps else -(-steps // self.multiple) * self.multiple
        # Each level has the step after the video, or ends where the release's does.
        return min(padded, (-(-steps // stride) + 1) * stride)

    def _padded_steps(self, lengths: Tensor) -> Tensor:
        """Return the length that the release pads each video to, from the videos' ``(B,)``."""
        longer = (lengths + self.multiple - 1) // self.multiple * self.multiple
        return torch.where(lengths <= self.steps, self.steps, longer)

    def _levels(self, valid: Tensor, padded_steps: Tensor) -> Iterator[Level]:
        for level in range(self.levels):
            filled = valid.sum(dim=1) == padded_steps >> level
            yield Level(valid, valid | ~filled[:, None])
            valid = valid[:, ::2]

    def _position_encoding(self, positions: Tensor, steps: int, padded_steps: Tensor) -> Tensor:
        """Return the encoding of each step, ``(steps, width)`` or ``(B, steps, width)``.

        That of a video longer than `self.steps` is stretched, linearly interpolated [libs/modeling/backbones.py].
        """
        if steps <= self.steps:
            return positions[:steps]
        centre = torch.arange(steps, dtype=positions.dtype, device=positions.device) + 0.5
        place = (centre * self.steps / padded_steps[:, None] - 0.5).clamp(0, self.steps - 1)
        before = place.long()
        after = (before + 1).clamp(max=self.steps - 1)
        return torch.lerp(positions[before], positions[after], (place - before)[:, :, None])


class PyramidHead(nn.Module):
    """Convolutions that all levels share [libs/modeling/meta_archs.py, PtTransformerClsHead, PtTransformerRegHead].

    The levels lie behind one another with a row of zeros between, so that a convolution is one call.
    """

    def __init__(self, width: int, outputs: int, scales: int = 0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1, bias=False) for _ in range(HEAD_CONVS))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(HEAD_CONVS))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(scales))
        self.output = nn.Conv1d(width, outputs, 3, padding=1)

    def forward(self, rows: Tensor, joined: Level) -> Tensor:
        """Map ``(B, P, width)`` to ``(B, P, outputs)``, zero where not valid; both of `join`."""
        valid, seen = joined.valid[:, :, None], joined.seen[:, :, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            rows = F.relu(norm(convolve(conv, rows * seen) * valid))
        return convolve(self.output, rows * seen) * valid


def join(pyramid: Sequence[Tensor], levels: Sequence[Level]) -> tuple[Tensor, Level]:
    """Lay levels ``(B, T_l, C)`` behind one another, each followed by a row that nobody sees."""
    rows = torch.cat([F.pad(level, (0, 0, 0, 1)) for level in pyramid], dim=1)
    valid, seen = (
        torch.cat([F.pad(each, (0, 1)) for each in masks], dim=1)
        for masks in ([level.valid for level in levels], [level.seen for level in levels])
    )
    return rows, Level(valid, seen)


def split(rows: Tensor, levels: Sequence[Level], steps: int) -> list[Tensor]:
    """Undo `join`, of each level only the rows that `steps` steps have: ``(B, ceil(steps / 2^l), ...)``."""
    parts = torch.split(rows, [level.valid.shape[1] + 1 for level in levels], dim=1)
    return [part[:, : -(-steps // 2**level)] for level, part in enumerate(parts)]
