"""The fused convolution in plain PyTorch, tile by tile.

Backward recomputes what forward did not keep, so nothing of the size of the edge list is ever
stored. Features are summed over the edges of a target before they meet the readout; targets of few
edges are spared that: the kernel of each of their edges is smaller than the sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ccnn_geo.ops.magnet_conv import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.monomials import Coefficients, parameter_gradients
from ccnn_geo.ops.tiled_network import (
    Edges,
    Scratch,
    backpropagate,
    evaluate,
    offset_gradients,
    prepare_filters,
)
from ccnn_geo.ops.tiling import Tile, tiles

# A tile's buffers fit the cache of a CPU; a GPU wants few large launches instead.
_SCRATCH_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
_MIN_EDGES, _MAX_EDGES = 2**10, {"cpu": 2**15, "cuda": 2**20}


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot take such tensors, or None: it always can."""
    return None


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `ccnn_geo.ops.magnet_conv.MagnetConv`."""
    filters, scratch = prepare_filters(call), Scratch(call.x)
    channels, width = call.x.size(1), call.network.phases.size(1)
    shape = (call.target.size(0), channels) + (() if call.readout is not None else (width + 1,))
    output = call.x.new_empty(shape)
    moment = call.x.new_zeros((width + 1, width + 1) if with_moment else (0,))
    readout = None if call.readout is None else call.readout.T.contiguous()
    for tile in _tiles(call):
        source = tile.table.clamp(min=0).view(-1)
        edges = evaluate(call, filters, tile, source, scratch, keep=False)
        values = scratch("values", source.numel(), channels)
        torch.index_select(call.x, 0, source, out=values)
        if readout is None:
            output[tile.rows] = _aggregate(edges, values, tile, scratch).transpose(1, 2)
        elif _is_short(tile, width):
            values *= edges.windowed @ readout
            output[tile.rows] = values.view(*tile.table.shape, channels).sum(1)
        else:
            output[tile.rows] = _aggregate(edges, values, tile, scratch).mul_(readout).sum(1)
        if with_moment:
            moment.addmm_(edges.windowed.T, edges.windowed)
    return output, moment


def backward(
    call: MagnetConv,
    grad_output: Tensor,
    grad_moment: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
) -> MagnetConvGradients:
    """Differentiate a call: recompute every tile, then push the gradients through it."""
    filters, scratch = prepare_filters(call), Scratch(call.x)
    layers, width = call.network.phases.shape
    channels, dim = call.x.size(1), call.source.size(1)
    totals = [torch.zeros_like(part, dtype=torch.float64) for part in filters[:3]]
    grad_weights = torch.zeros_like(call.network.weights)
    grad_biases = torch.zeros_like(call.network.biases)
    grad_x = call.x.new_zeros(call.x.shape) if needs_x else None
    grad_source = call.source.new_zeros(call.source.shape) if needs_pos else None
    grad_target = call.target.new_zeros(call.target.shape) if needs_pos else None
    readout = None if call.readout is None else call.readout.T.contiguous()
    grad_readout = None if readout is None else torch.zeros_like(readout)
    symmetric = None if grad_moment is None else grad_moment + grad_moment.T

    for tile in _tiles(call):
        count, degree = tile.table.shape
        source = tile.table.clamp(min=0).view(-1)
        edges = evaluate(call, filters, tile, source, scratch, keep=True)
        values = scratch("values", count * degree, channels)
        torch.index_select(call.x, 0, source, out=values)
        grad_rows = grad_output[tile.rows]
        table = values.view(count, degree, channels)
        grad_features = scratch("grad_features", count * degree, width)
        grad_window = scratch("grad_window", count * degree)
        if readout is not None and grad_readout is not None and _is_short(tile, width):
            if grad_x is not None:
                grad_values = (edges.windowed @ readout).view_as(table)
                grad_x.index_add_(0, source, grad_values.mul_(grad_rows.unsqueeze(1)).flatten(0, 1))
            table *= grad_rows.unsqueeze(1)  # from here on the gradient of the kernel
            grad_readout.addmm_(edges.windowed.T, values)
            torch.mm(values, readout[:width].T, out=grad_features)
            torch.mv(values, readout[width], out=grad_window)
        else:
            if readout is None or grad_readout is None:
                grad_aggregate = grad_rows.transpose(1, 2)
            else:
                aggregate = _aggregate(edges, values, tile, scratch)
                grad_readout += aggregate.mul_(grad_rows.unsqueeze(1)).sum(0)
                grad_aggregate = torch.mul(grad_rows.unsqueeze(1), readout, out=aggregate)
            # Apart from each other, both products are faster and their results contiguous.
            grad_by_filter = grad_aggregate.transpose(1, 2)
            shape = (count, degree)
            torch.bmm(table, grad_by_filter[..., :width], out=grad_features.view(*shape, width))
            torch.bmm(table, grad_by_filter[..., width:], out=grad_window.view(*shape, 1))
            if grad_x is not None:
                torch.bmm(edges.windowed.view(*shape, width + 1), grad_aggregate, out=table)
                grad_x.index_add_(0, source, values)
        if symmetric is not None:
            grad_features.addmm_(edges.windowed, symmetric[:, :width])
            grad_window.addmv_(edges.windowed, symmetric[:, width])
        pulled = backpropagate(
            call, edges, grad_features, grad_window, scratch, grad_weights, grad_biases
        )
        for total, grad in zip(totals, pulled, strict=True):
            total += edges.monomials[: total.size(0)] @ grad
        if grad_source is not None and grad_target is not None:
            grad_offset = offset_gradients(filters, edges.monomials, pulled, dim)
            grad_source.index_add_(0, source, grad_offset.T.contiguous())
            grad_target[tile.rows] = -grad_offset.view(dim, count, degree).sum(-1).T

    exponent, window, angle = totals
    inverse_sigma, network = parameter_gradients(
        call,
        Coefficients(
            exponent[:-1].view(-1, layers, width).transpose(0, 1),
            angle.view(-1, layers, width).transpose(0, 1),
            window[:-1],
        ),
        grad_weights,
        grad_biases,
    )
    return MagnetConvGradients(
        grad_x, grad_source, grad_target, inverse_sigma, network,
        None if grad_readout is None else grad_readout.T.contiguous(),
    )  # fmt: skip


def _tiles(call: MagnetConv) -> Iterator[Tile]:
    layers, width = call.network.phases.shape
    device = "cuda" if call.x.is_cuda else "cpu"
    edges = _SCRATCH_ELEMENTS[device] // (layers * width + call.x.size(1))
    max_edges = min(max(edges, _MIN_EDGES), _MAX_EDGES[device])
    return tiles(call.index, call.pointer, call.degree, call.target.size(0), max_edges)


def _is_short(tile: Tile, width: int) -> bool:
    """Whether the kernels of a target's edges are smaller than the sum of their features."""
    return 2 * tile.table.size(1) <= width


def _aggregate(edges: Edges, values: Tensor, tile: Tile, scratch: Scratch) -> Tensor:
    """Sum the products of features and values over every target's edges, `[n, H + 1, C]`."""
    table = edges.windowed.view(*tile.table.shape, edges.windowed.size(1))
    aggregate = scratch("aggregate", table.size(0), table.size(2), values.size(1))
    values = values.view(*tile.table.shape, values.size(1))
    return torch.bmm(table.transpose(1, 2), values, out=aggregate)
