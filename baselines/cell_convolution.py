"""A 3 x 3 convolution at some cells of a map only."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

GATHERED_ON_CPU = 2**20  # elements gathered at a time: what stays in the cache
GATHERED_ELSEWHERE = 2**25  # what keeps a GPU busy


def cells_around(valid: Tensor, reach: int) -> list[Tensor]:
    """Find the cells of a map that a few 3 x 3 convolutions see from its valid cells.

    Args:
        valid: ``(H, W)`` bool.
        reach: the number of convolutions.

    Returns:
        ``reach + 1`` lists of places in the flattened map: the valid cells in row-major order, then that list followed
        by the cells next to them, and so on.
    """
    lists = [valid.flatten().nonzero()[:, 0]]
    seen = valid
    for _ in range(reach):
        grown = F.max_pool2d(seen[None].float(), kernel_size=3, stride=1, padding=1)[0] > 0
        lists.append(torch.cat([lists[-1], (grown & ~seen).flatten().nonzero()[:, 0]]))
        seen = grown
    return lists


class CellConvolution(nn.Module):
    """A 3 x 3 convolution with padding 1, and ReLU, at those cells of a map that matter.

    Half of a map of segments is no segment; the cells that are make up a list, not a map: ``(B, n + 1, C)``, the last
    row of which is zero and stands for whatever is outside the map.
    """

    neighbours: Tensor
    users: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, shape: tuple[int, int], source: Tensor, result: Tensor
    ) -> None:
        """Make the layer.

        Args:
            in_channels: channels C.
            out_channels: channels O.
            shape: height and width of the map.
            source: ``(n,)``, places of the input's cells in the flattened map.
            result: ``(m,)``, places of the output's cells; their neighbours are all in `source`.
        """
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        self.weight, self.bias = convolution.weight, cast(nn.Parameter, convolution.bias)
        # Fixed by the settings, so no part of the weights on disk. The n-th neighbour of a cell has the cell as its
        # n-th neighbour from the end.
        self.register_buffer("neighbours", _neighbours(shape, source, result), persistent=False)
        self.register_buffer("users", _neighbours(shape, result, source).flip(1), persistent=False)

    def forward(self, source: Tensor) -> Tensor:
        """Apply the layer to ``(B, n + 1, C)``, giving ``(B, m + 1, O)``; under autocast, in its type."""
        device = source.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else source.dtype
        with torch.autocast(device, enabled=False):
            parameters = self.weight.to(dtype), self.bias.to(dtype)
            return cast(Tensor, _GatherThenMix.apply(self, *parameters, source.to(dtype)))


class _GatherThenMix(torch.autograd.Function):
    """Gather the nine neighbours of some cells, mix them by one matrix product, apply ReLU; then the next cells.

    Half the arithmetic of the dense convolution, and an autograd function because the gathered neighbours, nine times
    the map, then need not be kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, layer: CellConvolution, weight: Tensor, bias: Tensor, source: Tensor) -> Tensor:
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(bias))  # (9 * C, O)
        result = source.new_zeros((len(source), len(layer.neighbours) + 1, len(bias)))
        for videos, cells in _pieces(source, layer.neighbours):
            mixed = torch.addmm(bias, _gathered(source[videos], layer.neighbours[cells]), matrix).relu_()
            result[videos, cells] = mixed.view(-1, cells.stop - cells.start, len(bias))
        ctx.layer = layer
        ctx.save_for_backward(source, weight, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        source, weight, result = ctx.saved_tensors
        users = ctx.layer.users
        out_channels, in_channels = weight.shape[:2]
        gradient = gradients[0] * (result > 0)  # zero in the last row, as the result is
        matrix = weight.permute(2, 3, 0, 1).reshape(-1, in_channels)  # (9 * O, C)
        source_gradient = torch.zeros_like(source)
        weight_gradient = weight.new_zeros(
            (in_channels, 9 * out_channels), dtype=torch.promote_types(weight.dtype, torch.float32)
        )
        for videos, cells in _pieces(gradient, users):
            gathered = _gathered(gradient[videos], users[cells])
            source_gradient[videos, cells] = (gathered @ matrix).view(-1, cells.stop - cells.start, in_channels)
            weight_gradient += source[videos, cells].reshape(-1, in_channels).T @ gathered
        weight_gradient = weight_gradient.view(in_channels, 3, 3, out_channels).permute(3, 0, 1, 2)
        return None, weight_gradient.to(weight.dtype), gradient.sum(dim=(0, 1)), source_gradient


def _pieces(source: Tensor, neighbours: Tensor) -> list[tuple[slice, slice]]:
    """Cut videos and cells into pieces of a size that suits the device."""
    gathered = GATHERED_ON_CPU if source.device.type == "cpu" else GATHERED_ELSEWHERE
    cells = max(1, gathered // (neighbours.shape[1] * source.shape[2]))
    videos = max(1, cells // len(neighbours))
    return [
        (slice(video, min(video + videos, len(source))), slice(cell, min(cell + cells, len(neighbours))))
        for video in range(0, len(source), videos)
        for cell in range(0, len(neighbours), cells)
    ]


def _gathered(source: Tensor, neighbours: Tensor) -> Tensor:
    """Gather ``(V, n, C)`` at ``(k, 9)``, giving ``(V * k, 9 * C)``."""
    return source.index_select(1, neighbours.flatten()).view(-1, neighbours.shape[1] * source.shape[2])


def _neighbours(shape: tuple[int, int], source: Tensor, result: Tensor) -> Tensor:
    """List the 3 x 3 neighbours ``(m, 9)`` of the cells `result`, each by its number in `source` or, if none, by n."""
    height, width = shape
    number = torch.full((height + 2, width + 2), len(source))  # the map in a frame
    number[source // width + 1, source % width + 1] = torch.arange(len(source))
    offset = torch.arange(3)
    rows = (result // width)[:, None, None] + offset[:, None]
    columns = (result % width)[:, None, None] + offset
    return number[rows, columns].flatten(1)
