"""Fixed linear sampling along time, fused with the layer after it.

Proposal networks describe a segment by a few bins, each the mean of some interpolated positions in and around it,
and then mix bins and channels with a linear layer. Done in that order, every cell of the (duration, start) map holds
C x bins numbers: 9,216 for G-TAD, 3.7 GB a batch of ten at T = 100. But the sampling is a fixed linear map along
time, and linear maps along different axes commute: mixing first, on T steps, and sampling its result afterwards is the
same function with no such tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    starts, ends = windows.double().unbind(dim=1)
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
    starts, ends = windows.double().unbind(dim=1)
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


class _SparseRows(nn.Module):
    """A fixed sparse matrix, as the rows that `torch.nn.functional.embedding_bag` sums.

    On two CPU cores the bag kernel takes two thirds of the time of the CSR product of MKL, and it exists on every
    device; summing row by row, it gives the same bits each time.
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        rows, columns = matrix.indices()
        ends = torch.bincount(rows, minlength=matrix.shape[0]).cumsum(0)
        self.columns = matrix.shape[1]
        # Fixed by the settings, so no part of the weights on disk.
        self.register_buffer("indices", columns.int(), persistent=False)
        self.register_buffer("offsets", F.pad(ends, (1, 0)).int(), persistent=False)
        self.register_buffer("weights", matrix.values(), persistent=False)

    def forward(self, dense: Tensor) -> Tensor:
        """Multiply the matrix ``(N, M)`` with ``(M, O)``, giving ``(N, O)``."""
        return F.embedding_bag(
            self.indices,
            dense,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix with all its zeros."""
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts, output_size=len(self.indices))
        result = self.weights.new_zeros((len(counts), self.columns), dtype=dtype)
        return result.index_put_((rows, self.indices.long()), self.weights.to(dtype))


class _MixThenSample(torch.autograd.Function):
    """Compute ReLU(bias + sum over sources of ``matrix @ (source @ weight.T)``), a few videos at a time.

    Going through the batch in this way keeps the mixed features (7 MB a video at T = 100) in the cache and recycles
    their memory, and they need not be kept for the gradient. Bias and ReLU are here because, as steps of their own,
    they would go through the whole map again, three times: the memory, not the arithmetic, is what they cost.
    """

    @staticmethod
    def forward(ctx: Any, layer: SampledLayer, weight: Tensor, bias: Tensor, *sources: Tensor) -> Tensor:
        videos, steps, channels = sources[0].shape
        result = bias.new_empty((videos, layer.cells, len(bias)))
        together = max(1, MIXED_TOGETHER // steps)
        for first in range(0, videos, together):
            chunk = result[first : first + together]
            for number, (source, part, rows) in enumerate(
                zip(sources, torch.split(weight, layer.bins), layer.rows, strict=True)
            ):
                mixed = source[first : first + together].reshape(-1, channels) @ part.flatten(0, 1).T
                for video, bins in zip(chunk, mixed.view(len(chunk), -1, len(bias)), strict=True):
                    torch.add(video if number else bias, rows(bins), out=video)
            chunk.relu_()
        ctx.layer = layer
        ctx.save_for_backward(result, weight, *sources)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layer: SampledLayer = ctx.layer
        result, weight, *sources = ctx.saved_tensors
        weight_gradient, bias_gradient = torch.zeros_like(weight), weight.new_zeros(weight.shape[1])
        source_gradients = [source.new_empty(source.shape) for source in sources]
        together = max(1, MIXED_TOGETHER // sources[0].shape[1])
        for first in range(0, len(result), together):
            some = slice(first, first + together)
            chunk = [gradient * (of > 0) for gradient, of in zip(gradients[0][some], result[some], strict=True)]
            for gradient in chunk:
                bias_gradient += gradient.sum(dim=0)
            for source, source_gradient, part, part_gradient, rows in zip(
                sources,
                source_gradients,
                torch.split(weight, layer.bins),
                torch.split(weight_gradient, layer.bins),
                layer.transposed_rows,
                strict=True,
            ):
                # (steps of these videos, bins * O)
                mixed = torch.cat([rows(gradient) for gradient in chunk]).view(-1, part.shape[0] * part.shape[1])
                torch.mm(mixed, part.flatten(0, 1), out=source_gradient[some].flatten(0, 1))
                part_gradient.flatten(0, 1).addmm_(mixed.T, source[some].flatten(0, 1))
        return None, weight_gradient, bias_gradient, *source_gradients


class SampledLayer(nn.Module):
    """Sample bins of several sources, mix their channels and bins linearly, apply ReLU.

    The same function as to concatenate the bins of all sources along the last axis of ``(B, N, C, bins)`` and to apply
    ``nn.Linear(C * bins, O)`` and ReLU; see the head of this module. The weight is ``(bins, O, C)``, which needs no
    copy to be used: from a linear layer, it is ``linear.weight.view(O, C, bins).permute(2, 0, 1)``.
    """

    def __init__(self, in_channels: int, out_channels: int, matrices: Sequence[Tensor], *, steps: int) -> None:
        """Make the layer.

        Args:
            in_channels: channels C of every source.
            out_channels: channels O of the result.
            matrices: one matrix ``(N, steps * bins)`` a source, see `align_bins` and `matching_points`.
            steps: length T of every source.
        """
        super().__init__()
        self.cells = matrices[0].shape[0]
        self.bins = [matrix.shape[1] // steps for matrix in matrices]
        self.weight = nn.Parameter(torch.empty(sum(self.bins), out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.rows = nn.ModuleList(_SparseRows(matrix) for matrix in matrices)
        self.transposed_rows = nn.ModuleList(_SparseRows(matrix.t().coalesce()) for matrix in matrices)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias as `torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.weight[:, 0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, *sources: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            sources: one ``(B, T, C)`` a matrix.

        Returns:
            ``(B, N, O)``: float32, and exact to rounding; under autocast in its type, like any linear layer.
        """
        if torch.is_autocast_enabled(sources[0].device.type):
            return self._mix_then_multiply(sources)
        return cast(Tensor, _MixThenSample.apply(self, self.weight, self.bias, *sources))

    def _mix_then_multiply(self, sources: Sequence[Tensor]) -> Tensor:
        """Do the same with dense matrices, zeros and all: who has units for low precision is done sooner that way."""
        result = self.bias.to(torch.get_autocast_dtype(sources[0].device.type))
        for source, part, rows in zip(sources, torch.split(self.weight, self.bins), self.rows, strict=True):
            mixed = F.linear(source, part.flatten(0, 1)).view(len(source), -1, len(self.bias))
            matrix = cast(_SparseRows, rows).dense(mixed.dtype)
            result = result + torch.bmm(matrix.expand(len(source), -1, -1), mixed)
        return F.relu(result)
