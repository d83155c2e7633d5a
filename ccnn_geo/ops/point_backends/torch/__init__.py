"""The fused convolution in plain PyTorch, tile by tile.

Backward recomputes every tile, so that memory does not grow with the number of edges. Products of
kernel features and source features are summed over the edges of a target before the readout is
applied. For targets with few edges the readout is applied to every edge, which is smaller than the
sum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.point_backends.gabor_polynomials import Coefficients, parameter_gradients
from ccnn_geo.ops.point_backends.operands import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.point_backends.tiling import Tile, Tiles
from ccnn_geo.ops.point_backends.torch.network import (
    Edges,
    Filters,
    backpropagate,
    evaluate,
    offset_gradients,
    prepare_filters,
)
from ccnn_geo.ops.point_backends.torch.scratch import Scratch, borrowed_scratch
from ccnn_geo.ops.point_backends.torch.threads import run_strands

# A tile's buffers fit the cache of a CPU; a GPU wants few large launches instead.
_SCRATCH_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
_MIN_EDGES, _MAX_EDGES = 2**10, {"cpu": 2**15, "cuda": 2**20}
# Memory for the gradients of sources that strands of tiles may have beside one another.
_SUMS_BYTES = 2**26


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: this backend runs on all devices and types."""
    return None


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `MagnetConv`."""
    filters = prepare_filters(call)
    channels, width = call.x.size(1), call.network.phases.size(1)
    shape = (call.target.size(0), channels) + (() if call.readout is not None else (width + 1,))
    output = call.x.new_empty(shape)
    readout = None if call.readout is None else call.readout.T.contiguous()
    tiles = _tiles(call)
    strands = _strands(call, tiles, 0)
    moments = call.x.new_zeros(len(strands), width + 1, width + 1) if with_moment else None

    def evaluate_tile(strand: int, number: int) -> None:
        tile = tiles[number]
        source = tile.table.clamp(min=0).view(-1)
        with borrowed_scratch(call.x) as scratch:
            edges = evaluate(call, filters, tile, source, scratch, keep=False)
            values = _gather(call, edges, source, scratch)
            if readout is None:
                output[tile.rows] = _aggregate(edges, values, tile, scratch).transpose(1, 2)
            elif _is_short(tile, width):
                values *= edges.windowed @ readout
                output[tile.rows] = values.view(*tile.table.shape, channels).sum(1)
            else:
                output[tile.rows] = _aggregate(edges, values, tile, scratch).mul_(readout).sum(1)
            if moments is not None:
                moments[strand].addmm_(edges.windowed.T, edges.windowed)

    run_strands(strands, evaluate_tile)
    return output, call.x.new_zeros(0) if moments is None else moments.sum(0)


def backward(
    call: MagnetConv,
    grad_output: Tensor,
    grad_moment: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
) -> MagnetConvGradients:
    """Differentiate a call, recomputing every tile."""
    common = _Common(
        call,
        grad_output,
        None if grad_moment is None else grad_moment + grad_moment.T,
        prepare_filters(call),
        None if call.readout is None else call.readout.T.contiguous(),
        call.x.new_zeros(call.target.shape) if needs_pos else None,
        needs_x,
    )
    tiles = _tiles(call)
    strands = _strands(call, tiles, (call.x.nbytes if needs_x else 0) + call.source.nbytes)
    sums: list[_Sums | None] = [None for _ in strands]

    def add_tile(strand: int, number: int) -> None:
        own = sums[strand] = sums[strand] or _Sums(common)
        with borrowed_scratch(call.x) as scratch:
            own.add(tiles[number], scratch)

    run_strands(strands, add_tile)
    first, *others = (each or _Sums(common) for each in sums)
    for other in others:
        first.merge(other)
    return first.gradients()


class _Common(NamedTuple):
    """What the sums of all strands are computed from, and what they share."""

    call: MagnetConv
    grad_output: Tensor
    symmetric: Tensor | None  # [H + 1, H + 1], the moment's gradient plus its transpose
    filters: Filters
    readout: Tensor | None  # [H + 1, C], so that rows of channels are contiguous
    grad_target: Tensor | None  # [T, D], filled tile by tile, or None
    needs_x: bool


class _Sums:
    """Gradients of a call, summed over the tiles of a strand."""

    def __init__(self, common: _Common) -> None:
        call = common.call
        self.common = common
        self.arguments = [torch.zeros_like(p, dtype=torch.float64) for p in common.filters[:3]]
        self.weights = torch.zeros_like(call.network.weights)
        self.biases = torch.zeros_like(call.network.biases)
        self.x = torch.zeros_like(call.x) if common.needs_x else None
        self.source = None if common.grad_target is None else call.x.new_zeros(call.source.shape)
        self.readout = None if common.readout is None else torch.zeros_like(common.readout)

    def merge(self, other: _Sums) -> None:
        """Add the sums of another strand."""
        for own, its in zip(self._all(), other._all(), strict=True):
            own += its

    def _all(self) -> list[Tensor]:
        parts = *self.arguments, self.weights, self.biases, self.x, self.source, self.readout
        return [part for part in parts if part is not None]

    def add(self, tile: Tile, scratch: Scratch) -> None:
        """Recompute one tile and add its gradients."""
        call, filters, grad_target = self.common.call, self.common.filters, self.common.grad_target
        source = tile.table.clamp(min=0).view(-1)
        edges = evaluate(call, filters, tile, source, scratch, keep=True)
        grad_features = scratch("grad_features", source.numel(), edges.windowed.size(1) - 1)
        grad_window = scratch("grad_window", source.numel())
        self._pull_output(tile, source, edges, grad_features, grad_window, scratch)
        if (symmetric := self.common.symmetric) is not None:
            grad_features.addmm_(edges.windowed, symmetric[:, :-1])
            grad_window.addmv_(edges.windowed, symmetric[:, -1])
        pulled = backpropagate(
            call, edges, grad_features, grad_window, scratch, self.weights, self.biases
        )
        for total, grad in zip(self.arguments, pulled, strict=True):
            total += edges.monomials[: total.size(0)] @ grad
        if self.source is not None and grad_target is not None:
            dim = self.source.size(1)
            grad_offset = offset_gradients(filters, edges.monomials, pulled, dim)
            self.source.index_add_(0, source, grad_offset.T.contiguous())
            grad_target[tile.rows] = -grad_offset.view(dim, *tile.table.shape).sum(-1).T

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
        readout = self.common.readout
        values = _gather(self.common.call, edges, source, scratch)
        grad_rows = self.common.grad_output[tile.rows]
        table = values.view(*tile.table.shape, values.size(1))
        if readout is None or self.readout is None:
            grad_aggregate = grad_rows.transpose(1, 2)
        elif _is_short(tile, width):
            if self.x is not None:
                grad_values = (edges.windowed @ readout).view_as(table)
                self.x.index_add_(0, source, grad_values.mul_(grad_rows.unsqueeze(1)).flatten(0, 1))
            table *= grad_rows.unsqueeze(1)  # from here on the gradient of the kernel
            self.readout.addmm_(edges.windowed.T, values)
            torch.mm(values, readout[:width].T, out=grad_features)
            torch.mv(values, readout[width], out=grad_window)
            return
        else:
            aggregate = _aggregate(edges, values, tile, scratch)
            self.readout += aggregate.mul_(grad_rows.unsqueeze(1)).sum(0)
            grad_aggregate = torch.mul(grad_rows.unsqueeze(1), readout, out=aggregate)
        # Apart from each other, both products are faster and their results contiguous.
        by_filter, shape = grad_aggregate.transpose(1, 2), tile.table.shape
        torch.bmm(table, by_filter[..., :width], out=grad_features.view(*shape, width))
        torch.bmm(table, by_filter[..., width:], out=grad_window.view(*shape, 1))
        if self.x is not None:
            torch.bmm(edges.windowed.view(*shape, width + 1), grad_aggregate, out=table)
            self.x.index_add_(0, source, values)

    def gradients(self) -> MagnetConvGradients:
        """Return the gradients of all operands."""
        call = self.common.call
        layers, width = call.network.phases.shape
        exponent, window, angle = self.arguments
        totals = Coefficients(
            exponent[:-1].view(-1, layers, width).transpose(0, 1),
            angle.view(-1, layers, width).transpose(0, 1),
            window[:-1],
        )
        inverse_sigma, network = parameter_gradients(call, totals, self.weights, self.biases)
        readout = None if self.readout is None else self.readout.T.contiguous()
        return MagnetConvGradients(
            self.x, self.source, self.common.grad_target, inverse_sigma, network, readout
        )


def _tiles(call: MagnetConv) -> Tiles:
    layers, width = call.network.phases.shape
    device = "cuda" if call.x.is_cuda else "cpu"
    edges = _SCRATCH_ELEMENTS[device] // (layers * width + call.x.size(1))
    max_edges = min(max(edges, _MIN_EDGES), _MAX_EDGES[device])
    return Tiles(call.index, call.pointer, call.degree, call.target.size(0), max_edges)


def _strands(call: MagnetConv, tiles: Tiles, sums_bytes: int) -> list[range]:
    """Divide the tiles into strands, two per thread of the CPU, whose sums take bounded memory."""
    threads = torch.get_num_threads()
    count = 1 if call.x.is_cuda or threads == 1 else 2 * threads
    count = max(1, min(count, len(tiles), _SUMS_BYTES // max(sums_bytes, 1)))
    return [
        range(len(tiles) * strand // count, len(tiles) * (strand + 1) // count)
        for strand in range(count)
    ]


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
