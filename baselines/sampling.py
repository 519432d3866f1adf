"""Fixed linear sampling along time, fused with the layers after it.

Proposal networks describe a segment by a few bins, each the mean of some interpolated positions in and around it,
and then mix bins and channels with a linear layer. Done in that order, every cell of the (duration, start) map holds
C x bins numbers: 9,216 for G-TAD, 3.7 GB a batch of ten at T = 100. But the sampling is a fixed linear map along
time, and linear maps along different axes commute: mixing first, on T steps, and sampling its result afterwards is the
same function with no such tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BUILT_TOGETHER = 256  # windows whose positions are laid out at a time: memory that training has no use for later
ROWS_TOGETHER = 1024  # rows of a sparse product: the next layer finds them in the cache
MIXED_TOGETHER = 256  # steps whose channels are mixed by one matrix product: enough to keep two cores busy


def align_bins(windows: Tensor, *, steps: int, bins: int) -> Tensor:
    """Build the matrix that averages features over equal bins of each window, as G-TAD does.

    The rule is that of RoIAlign in one dimension, as in ``gtad_lib/Align1D_cuda_kernal.cu`` of the G-TAD release: a
    window shorter than one step counts as one step long; a bin is the mean of ``ceil(length / bins)`` evenly spaced
    positions; a position p takes the linear interpolation between steps floor(p) and floor(p) + 1, is moved to 0 in
    [-1, 0] and to T - 1 in [T - 1, T], and contributes nothing (but still counts) outside [-1, T].

    Args:
        windows: ``(N, 2)``, start and end of each window in steps.
        steps: length T of the features.
        bins: bins a window.

    Returns:
        A sampling matrix, see `_averages`.
    """
    return _stacked([_align_bins(some, steps, bins) for some in torch.split(windows.double(), BUILT_TOGETHER)])


def _align_bins(windows: Tensor, steps: int, bins: int) -> Tensor:
    starts, ends = windows.unbind(dim=1)
    lengths = (ends - starts).clamp(min=1)
    samples = torch.ceil(lengths / bins)
    most = int(samples.max())
    # (N, bins, most) from here on. One division a position: every reachable tie with an edge stays exact.
    order = torch.arange(bins, dtype=torch.float64)[:, None] * samples[:, None, None]
    order = order + torch.arange(most, dtype=torch.float64) + 0.5
    positions = starts[:, None, None] + lengths[:, None, None] * order / (bins * samples[:, None, None])
    counted = (torch.arange(most) < samples[:, None, None]) & (positions >= -1) & (positions <= steps)
    return _averages(positions.clamp(0, steps - 1), counted, 1 / samples, steps=steps)


def matching_points(windows: Tensor, *, steps: int, bins: int, points: int) -> Tensor:
    """Build the matrix that averages features at evenly spaced points of each window, as BMN does.

    The ``bins * points`` points run from the window's start to its end, both included; a bin is the mean of `points`
    of them. A position p takes the linear interpolation between steps floor(p) and floor(p) + 1; of these, only steps
    within [0, T - 1] contribute [BMN, Section 3.3]. The PyTorch code everyone uses rounds towards 0, and with it a
    position in (-1, 0) is moved to 0 [models.py, _get_interp1d_bin_mask]; so it is here.

    Args:
        windows: ``(N, 2)``, start and end of each window in steps; a window of NaN has no points within the features.
        steps: length T of the features.
        bins: bins a window.
        points: points a bin.

    Returns:
        A sampling matrix, see `_averages`.
    """
    parts = torch.split(windows.double(), BUILT_TOGETHER)
    return _stacked([_matching_points(some, steps, bins, points) for some in parts])


def _matching_points(windows: Tensor, steps: int, bins: int, points: int) -> Tensor:
    starts, ends = windows.unbind(dim=1)
    # The reference's order of operations: a position of exactly -1 contributes nothing, a little more gives all.
    spacing = (ends - starts) / (bins * points - 1)
    positions = starts[:, None] + spacing[:, None] * torch.arange(bins * points)
    counted = (positions > -1) & (positions < steps)
    shape = (len(windows), bins, points)
    share = torch.full((len(windows),), 1 / points, dtype=torch.float64)
    return _averages(positions.clamp(min=0).view(shape), counted.view(shape), share, steps=steps)


def _averages(positions: Tensor, counted: Tensor, share: Tensor, *, steps: int) -> Tensor:
    """Build the matrix that interpolates features at positions and sums the shares of each bin.

    Args:
        positions: ``(N, bins, points)`` float64, in steps.
        counted: ``(N, bins, points)`` bool, the positions that contribute; they are in [0, steps).
        share: ``(N,)``, the part that each position of window n has in its bin.
        steps: length T of the features.

    Returns:
        A sparse COO float32 matrix ``(N, T * bins)``. Row n, column ``t * bins + b`` is the weight of step t in bin b
        of window n, so that the row sums over all bins at once: each bin's features have already been through that
        bin's part of the next layer.
    """
    windows, bins, _ = positions.shape
    window, bin_, _ = counted.nonzero(as_tuple=True)
    position = positions[counted]
    low = position.floor()
    high_weight = (position - low) * share[window]
    weights = torch.stack([share[window] - high_weight, high_weight])
    step = torch.stack([low, low + 1]).long()
    kept = (weights > 0) & (step < steps)
    entries = torch.stack([window.expand_as(step)[kept], step[kept] * bins + bin_.expand_as(step)[kept]])
    size = (windows, steps * bins)
    return torch.sparse_coo_tensor(entries, weights[kept].float(), size, check_invariants=True).coalesce()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Stack sparse matrices whose entries are in order."""
    below = [0, *accumulate(len(part) for part in parts)]
    entries = torch.cat(
        [part.indices() + torch.tensor([[row], [0]]) for part, row in zip(parts, below, strict=False)], 1
    )
    values = torch.cat([part.values() for part in parts])
    size = (below[-1], parts[0].shape[1])
    return torch.sparse_coo_tensor(entries, values, size, check_invariants=True, is_coalesced=True)


class _SparseRows(nn.Module):
    """A fixed sparse matrix, as the rows that `torch.nn.functional.embedding_bag` sums.

    On two CPU cores the bag kernel takes two thirds of the time of the CSR product of MKL, and it exists on every
    device; summing row by row, it gives the same bits each time.
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor

    def __init__(self, matrix: Tensor, *, transposed: bool = False) -> None:
        super().__init__()
        (rows, columns), values = matrix.indices(), matrix.values()
        self.height, self.width = matrix.shape
        if transposed:
            order = columns.argsort(stable=True)
            rows, columns, values = columns[order], rows[order], values[order]
            self.height, self.width = self.width, self.height
        offsets = F.pad(torch.bincount(rows, minlength=self.height).cumsum(0), (1, 0))
        edges = [*offsets[:-1:ROWS_TOGETHER].tolist(), len(values)]
        self.entries = [slice(*pair) for pair in pairwise(edges)]  # of each block of rows
        # Fixed by the settings, so no part of the weights on disk. Copies: a view would keep all of the matrix alive.
        self.register_buffer("indices", columns.int(), persistent=False)
        self.register_buffer("offsets", offsets.int(), persistent=False)
        self.register_buffer("weights", values.clone(), persistent=False)

    def blocks(self, dense: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Multiply the matrix ``(N, M)`` with ``(M, O)``, yielding some rows of the result at a time, and which."""
        for first, entries in zip(range(0, self.height, ROWS_TOGETHER), self.entries, strict=True):
            last = min(first + ROWS_TOGETHER, self.height)
            yield (
                slice(first, last),
                F.embedding_bag(
                    self.indices[entries],
                    dense,
                    self.offsets[first : last + 1] - entries.start,
                    mode="sum",
                    per_sample_weights=self.weights[entries],
                    include_last_offset=True,
                ),
            )

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix with all its zeros."""
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts, output_size=len(self.indices))
        result = self.weights.new_zeros((self.height, self.width), dtype=dtype)
        return result.index_put_((rows, self.indices.long()), self.weights.to(dtype))


class _MixThenSample(torch.autograd.Function):
    """Compute the function of `SampledLayers`, a few videos and then a few windows at a time.

    Going through the batch in this way keeps the mixed features (7 MB a video at T = 100) and the hidden layer in the
    cache and recycles their memory. Neither is kept for the gradient: to sample again costs an eighth of a training
    step of BMN. Biases and ReLU are here because, as steps of their own, they would go through the whole map again:
    the memory, not the arithmetic, is what they cost.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layers: SampledLayers,
        weight: Tensor,
        bias: Tensor,
        narrow_weight: Tensor,
        narrow_bias: Tensor,
        *sources: Tensor,
    ) -> Tensor:
        result = bias.new_empty((len(sources[0]), layers.cells, len(narrow_bias)))
        for some in _chunks(sources[0]):
            mixed = _mixed(layers, weight, sources, some)
            for number, video in enumerate(result[some]):
                for windows, hidden in _sampled(layers, [each[number] for each in mixed], bias):
                    torch.addmm(narrow_bias, hidden, narrow_weight.T, out=video[windows]).relu_()
        ctx.layers = layers
        ctx.save_for_backward(result, weight, bias, narrow_weight, *sources)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers: SampledLayers = ctx.layers
        result, weight, bias, narrow_weight, *sources = ctx.saved_tensors
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        narrow_weight_gradient = torch.zeros_like(narrow_weight)
        narrow_bias_gradient = weight.new_zeros(len(narrow_weight))
        source_gradients = [source.new_empty(source.shape) for source in sources]
        hidden_gradient = weight.new_empty((layers.cells, len(bias)))
        for some in _chunks(sources[0]):
            mixed = _mixed(layers, weight, sources, some)
            for number, (gradient, of) in enumerate(zip(gradients[0][some], result[some], strict=True)):
                for windows, hidden in _sampled(layers, [each[number] for each in mixed], bias):
                    narrow_gradient = gradient[windows] * (of[windows] > 0)
                    narrow_bias_gradient += narrow_gradient.sum(dim=0)
                    narrow_weight_gradient.addmm_(narrow_gradient.T, hidden)
                    torch.mm(narrow_gradient, narrow_weight, out=hidden_gradient[windows]).mul_(hidden > 0)
                bias_gradient += hidden_gradient.sum(dim=0)
                # The gradient of the mixed features takes the place of these features.
                for each, rows in zip(mixed, layers.transposed_rows, strict=True):
                    for block, product in rows.blocks(hidden_gradient):
                        each[number, block] = product
            parts = torch.split(weight, layers.bins), torch.split(weight_gradient, layers.bins)
            for source, source_gradient, each, part, part_gradient in zip(
                sources, source_gradients, mixed, *parts, strict=True
            ):
                of_steps = each.view(-1, part.shape[0] * part.shape[1])
                torch.mm(of_steps, part.flatten(0, 1), out=source_gradient[some].flatten(0, 1))
                part_gradient.flatten(0, 1).addmm_(of_steps.T, source[some].flatten(0, 1))
        narrow_gradients = narrow_weight_gradient, narrow_bias_gradient
        return None, weight_gradient, bias_gradient, *narrow_gradients, *source_gradients


def _chunks(source: Tensor) -> list[slice]:
    """Cut the videos of ``(B, T, C)`` into chunks that are mixed together."""
    together = max(1, MIXED_TOGETHER // source.shape[1])
    return [slice(first, first + together) for first in range(0, len(source), together)]


def _mixed(layers: SampledLayers, weight: Tensor, sources: Sequence[Tensor], some: slice) -> list[Tensor]:
    """Mix the channels of each source into all bins of the hidden layer: ``(videos, T * bins, O)`` each."""
    mixed = []
    for source, part in zip(sources, torch.split(weight, layers.bins), strict=True):
        videos, steps, channels = source[some].shape
        product = source[some].reshape(-1, channels) @ part.flatten(0, 1).T
        mixed.append(product.view(videos, steps * part.shape[0], part.shape[1]))
    return mixed


def _sampled(layers: SampledLayers, mixed: Sequence[Tensor], bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Compute the hidden layer of one video, yielding some windows at a time, ``(n, O)``, and which."""
    products = (rows.blocks(each) for each, rows in zip(mixed, layers.rows, strict=True))
    for parts in zip(*products, strict=True):
        hidden = bias
        for _, product in parts:
            hidden = product.add_(hidden)
        yield parts[0][0], hidden.relu_()


class SampledLayers(nn.Module):
    """Sample bins of several sources, then two linear layers with ReLU: the first mixes channels and bins.

    The same function as to concatenate the bins of all sources along the last axis of ``(B, N, C, bins)`` and to apply
    ``nn.Linear(C * bins, hidden)``, ReLU, ``nn.Linear(hidden, O)`` and ReLU; see the head of this module. The first
    weight is ``(bins, hidden, C)``, which needs no copy to be used: from a linear layer, it is
    ``linear.weight.view(hidden, C, bins).permute(2, 0, 1)``.
    """

    rows: Sequence[_SparseRows]
    transposed_rows: Sequence[_SparseRows]

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, matrices: Sequence[Tensor], *, steps: int
    ) -> None:
        """Make the layers.

        Args:
            in_channels: channels C of every source.
            hidden: channels of the first layer.
            out_channels: channels O of the second layer.
            matrices: one matrix ``(N, steps * bins)`` a source, see `align_bins` and `matching_points`.
            steps: length T of every source.
        """
        super().__init__()
        self.cells = matrices[0].shape[0]
        self.bins = [matrix.shape[1] // steps for matrix in matrices]
        self.weight = nn.Parameter(torch.empty(sum(self.bins), hidden, in_channels))
        self.bias = nn.Parameter(torch.empty(hidden))
        self.narrow = nn.Linear(hidden, out_channels)
        self.rows = cast(Any, nn.ModuleList(_SparseRows(matrix) for matrix in matrices))
        self.transposed_rows = cast(Any, nn.ModuleList(_SparseRows(matrix, transposed=True) for matrix in matrices))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases as `torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.weight[:, 0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.narrow.reset_parameters()

    def forward(self, *sources: Tensor) -> Tensor:
        """Apply the layers.

        Args:
            sources: one ``(B, T, C)`` a matrix.

        Returns:
            ``(B, N, O)``: float32, and exact to rounding; under autocast in its type, like any linear layer.
        """
        if torch.is_autocast_enabled(sources[0].device.type):
            return F.relu(self.narrow(self._mix_then_multiply(sources)))
        parameters = self.weight, self.bias, self.narrow.weight, self.narrow.bias
        return cast(Tensor, _MixThenSample.apply(self, *parameters, *sources))

    def _mix_then_multiply(self, sources: Sequence[Tensor]) -> Tensor:
        """Return the hidden layer, by dense matrices, zeros and all: units for low precision are quicker that way."""
        hidden = self.bias.to(torch.get_autocast_dtype(sources[0].device.type))
        for source, part, rows in zip(sources, torch.split(self.weight, self.bins), self.rows, strict=True):
            mixed = F.linear(source, part.flatten(0, 1)).view(len(source), -1, len(self.bias))
            matrix = rows.dense(mixed.dtype)
            hidden = hidden + torch.bmm(matrix.expand(len(source), -1, -1), mixed)
        return F.relu(hidden)
