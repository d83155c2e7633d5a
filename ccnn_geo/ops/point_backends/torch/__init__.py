"""The fused convolution in plain PyTorch, tile by tile.

Backward recomputes every tile, so that memory does not grow with the number of edges. Products of
kernel features and source features are summed over the edges of a target before the readout is
applied. For targets with few edges the readout is applied to every edge, which is smaller than the
sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ccnn_geo.ops.point_backends.gabor_polynomials import Coefficients, parameter_gradients
from ccnn_geo.ops.point_backends.operands import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.point_backends.tiling import Tile, tiles
from ccnn_geo.ops.point_backends.torch.network import (
    Edges,
    backpropagate,
    evaluate,
    offset_gradients,
    prepare_filters,
)
from ccnn_geo.ops.point_backends.torch.scratch import Scratch, borrowed_scratch

# A tile's buffers fit the cache of a CPU; a GPU wants few large launches instead.
_SCRATCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
_MIN_EDGES, _MAX_EDGES = 2**10, {"cpu": 2**15, "cuda": 2**20}


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: this backend runs on all devices and types."""
    return None


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `MagnetConv`."""
    filters = prepare_filters(call)
    channels, width = call.x.size(1), call.network.phases.size(1)
    shape = (call.target.size(0), channels) + (() if call.readout is not None else (width + 1,))
    output = call.x.new_empty(shape)
    moment = call.x.new_zeros((width + 1, width + 1) if with_moment else (0,))
    readout = None if call.readout is None else call.readout.T.contiguous()
    with borrowed_scratch(call.x) as scratch:
        for tile in _tiles(call):
            source = tile.table.clamp(min=0).view(-1)
            edges = evaluate(call, filters, tile, source, scratch, keep=False)
            values = _gather(call, edges, source, scratch)
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
    """Differentiate a call, recomputing every tile."""
    sums = _Sums(call, grad_output, grad_moment, needs_x, needs_pos)
    with borrowed_scratch(call.x) as scratch:
        for tile in _tiles(call):
            sums.add(tile, scratch)
    return sums.gradients()


class _Sums:
    """Gradients of a call, summed tile by tile."""

    def __init__(
        self,
        call: MagnetConv,
        grad_output: Tensor,
        grad_moment: Tensor | None,
        needs_x: bool,
        needs_pos: bool,
    ) -> None:
        self.call, self.grad_output = call, grad_output
        self.symmetric = None if grad_moment is None else grad_moment + grad_moment.T
        self.filters = prepare_filters(call)
        self.arguments = [torch.zeros_like(p, dtype=torch.float64) for p in self.filters[:3]]
        self.weights = torch.zeros_like(call.network.weights)
        self.biases = torch.zeros_like(call.network.biases)
        self.x = torch.zeros_like(call.x) if needs_x else None
        self.source = call.x.new_zeros(call.source.shape) if needs_pos else None
        self.target = call.x.new_zeros(call.target.shape) if needs_pos else None
        # Matrices [H + 1, C] throughout: rows of channels are contiguous.
        self.readout = None if call.readout is None else call.readout.T.contiguous()
        self.grad_readout = None if self.readout is None else torch.zeros_like(self.readout)

    def add(self, tile: Tile, scratch: Scratch) -> None:
        """Recompute one tile and add its gradients."""
        source = tile.table.clamp(min=0).view(-1)
        edges = evaluate(self.call, self.filters, tile, source, scratch, keep=True)
        grad_features = scratch("grad_features", source.numel(), edges.windowed.size(1) - 1)
        grad_window = scratch("grad_window", source.numel())
        self._pull_output(tile, source, edges, grad_features, grad_window, scratch)
        if self.symmetric is not None:
            grad_features.addmm_(edges.windowed, self.symmetric[:, :-1])
            grad_window.addmv_(edges.windowed, self.symmetric[:, -1])
        pulled = backpropagate(
            self.call, edges, grad_features, grad_window, scratch, self.weights, self.biases
        )
        for total, grad in zip(self.arguments, pulled, strict=True):
            total += edges.monomials[: total.size(0)] @ grad
        if self.source is not None and self.target is not None:
            dim = self.source.size(1)
            grad_offset = offset_gradients(self.filters, edges.monomials, pulled, dim)
            self.source.index_add_(0, source, grad_offset.T.contiguous())
            self.target[tile.rows] = -grad_offset.view(dim, *tile.table.shape).sum(-1).T

    def _pull_output(
        self,
        tile: Tile,
        source: Tensor,
        edges: Edges,
        grad_features: Tensor,
        grad_window: Tensor,
        scratch: Scratch,
    ) -> None:
        """Fill gradients of the windowed features; add gradients of values and readout."""
        width = grad_features.size(1)
        values = _gather(self.call, edges, source, scratch)
        grad_rows = self.grad_output[tile.rows]
        table = values.view(*tile.table.shape, values.size(1))
        if self.readout is None or self.grad_readout is None:
            grad_aggregate = grad_rows.transpose(1, 2)
        elif _is_short(tile, width):
            if self.x is not None:
                grad_values = (edges.windowed @ self.readout).view_as(table)
                self.x.index_add_(0, source, grad_values.mul_(grad_rows.unsqueeze(1)).flatten(0, 1))
            table *= grad_rows.unsqueeze(1)  # from here on the gradient of the kernel
            self.grad_readout.addmm_(edges.windowed.T, values)
            torch.mm(values, self.readout[:width].T, out=grad_features)
            torch.mv(values, self.readout[width], out=grad_window)
            return
        else:
            aggregate = _aggregate(edges, values, tile, scratch)
            self.grad_readout += aggregate.mul_(grad_rows.unsqueeze(1)).sum(0)
            grad_aggregate = torch.mul(grad_rows.unsqueeze(1), self.readout, out=aggregate)
        # Apart from each other, both products are faster and their results contiguous.
        by_filter, shape = grad_aggregate.transpose(1, 2), tile.table.shape
        torch.bmm(table, by_filter[..., :width], out=grad_features.view(*shape, width))
        torch.bmm(table, by_filter[..., width:], out=grad_window.view(*shape, 1))
        if self.x is not None:
            torch.bmm(edges.windowed.view(*shape, width + 1), grad_aggregate, out=table)
            self.x.index_add_(0, source, values)

    def gradients(self) -> MagnetConvGradients:
        """Return the gradients of all operands."""
        layers, width = self.call.network.phases.shape
        exponent, window, angle = self.arguments
        totals = Coefficients(
            exponent[:-1].view(-1, layers, width).transpose(0, 1),
            angle.view(-1, layers, width).transpose(0, 1),
            window[:-1],
        )
        inverse_sigma, network = parameter_gradients(self.call, totals, self.weights, self.biases)
        readout = None if self.grad_readout is None else self.grad_readout.T.contiguous()
        return MagnetConvGradients(
            self.x, self.source, self.target, inverse_sigma, network, readout
        )


def _tiles(call: MagnetConv) -> Iterator[Tile]:
    layers, width = call.network.phases.shape
    device = "cuda" if call.x.is_cuda else "cpu"
    edges = _SCRATCH_ELEMENTS[device] // (layers * width + call.x.size(1))
    max_edges = min(max(edges, _MIN_EDGES), _MAX_EDGES[device])
    return tiles(call.index, call.pointer, call.degree, call.target.size(0), max_edges)


def _is_short(tile: Tile, width: int) -> bool:
    """True if the kernels of a target's edges are smaller than the sum of their features."""
    return 2 * tile.table.size(1) <= width


def _gather(call: MagnetConv, edges: Edges, source: Tensor, scratch: Scratch) -> Tensor:
    """Return the features of every edge's source, `[e, C]`, zero where the edge does not count."""
    out = scratch("values", source.numel(), call.x.size(1))
    values = torch.index_select(call.x, 0, source, out=out)
    if call.x.is_cuda or not math.isfinite(float(values.sum())):
        # Zero times NaN or infinity is NaN.
        values.masked_fill_(edges.monomials[-1:].T != 0, 0.0)
    return values


def _aggregate(edges: Edges, values: Tensor, tile: Tile, scratch: Scratch) -> Tensor:
    """Sum the products of features and values over every target's edges, `[n, H + 1, C]`."""
    table = edges.windowed.view(*tile.table.shape, edges.windowed.size(1))
    aggregate = scratch("aggregate", table.size(0), table.size(2), values.size(1))
    values = values.view(*tile.table.shape, values.size(1))
    return torch.bmm(table.transpose(1, 2), values, out=aggregate)
