"""The fused convolution in plain PyTorch, tile by tile.

Backward recomputes what forward did not keep, so nothing of the size of the edge list is ever
stored. The arguments of all Gabor filters are linear in the monomials of an offset, [v, 1, v^2];
one matrix product makes them, and one gathers their gradients as moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.magnet_conv import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.neighborhood import relative_offsets
from ccnn_geo.ops.tiling import Tile, tiles

# A tile's buffers fit the cache of a CPU; a GPU wants few large launches instead.
_SCRATCH_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# Half the square of a Gaussian's distance from the origin, in widths, that float32 can cope with.
_CANCELLATION_LIMIT = 8.0
_MIN_EDGES, _MAX_EDGES = 2**10, {"cpu": 2**15, "cuda": 2**20}


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot take such tensors, or None: it always can."""
    return None


class _Filters(NamedTuple):
    """Coefficients of the filters' arguments in the monomials [v, 1, v^2] of an offset.

    The monomials of an exponent nearly cancel where a Gaussian is far from the origin and narrow;
    they are then summed in double precision.
    """

    exponent: Tensor  # [L, 2D + 1, H], the window folded into the last filter
    angle: Tensor  # [L, D + 1, H]
    window: Tensor  # [2D + 1]


class _Scratch:
    """Buffers that are allocated once and used again for every tile."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)


class _Features(NamedTuple):
    """What one tile's kernel network computed, for e edges."""

    monomials: Tensor  # [e, 2D + 1]
    windowed: Tensor  # [e, H + 1], the windowed features and the window itself
    window: Tensor  # [e]
    valid: Tensor  # [e, 1]
    filters: Tensor  # [L, e, H], the filters' values
    quadrature: Tensor  # [L, e, H], the same with the cosine (empty in a forward pass)
    linear: Tensor  # [L - 1, e, H], what the filters multiply (empty in a forward pass)
    hidden: Tensor  # [L, e, H]


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `ccnn_geo.ops.magnet_conv.MagnetConv`."""
    filters, scratch = _fold(call), _Scratch(call.x)
    width = call.network.phases.size(1) + 1
    shape = (call.target.size(0), call.x.size(1)) + (() if call.readout is not None else (width,))
    output = call.x.new_empty(shape)
    moment = call.x.new_zeros((width, width) if with_moment else (0,))
    readout = None if call.readout is None else call.readout.T.contiguous()
    for tile in _tiles(call):
        source = tile.table.clamp(min=0).view(-1)
        features = _evaluate(call, filters, tile, source, scratch, keep=False)
        values = call.x.index_select(0, source).view(*tile.table.shape, call.x.size(1))
        table = features.windowed.view(*tile.table.shape, width)
        aggregate = torch.bmm(table.transpose(1, 2), values)
        output[tile.rows] = (
            aggregate.transpose(1, 2)
            if readout is None
            else torch.mul(aggregate, readout, out=aggregate).sum(1)
        )
        if with_moment:
            moment.addmm_(features.windowed.T, features.windowed)
    return output, moment


def backward(
    call: MagnetConv,
    grad_output: Tensor,
    grad_moment: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
) -> MagnetConvGradients:
    """Differentiate a call: recompute every tile, then push the gradients through it."""
    filters, scratch = _fold(call), _Scratch(call.x)
    totals = _Filters(*(torch.zeros_like(part, dtype=torch.float64) for part in filters))
    grad_weights = torch.zeros_like(call.network.weights)
    grad_biases = torch.zeros_like(call.network.biases)
    grad_x = torch.zeros_like(call.x) if needs_x else None
    grad_source = torch.zeros_like(call.source) if needs_pos else None
    grad_target = torch.zeros_like(call.target) if needs_pos else None
    readout = None if call.readout is None else call.readout.T.contiguous()
    grad_readout = call.x.new_zeros(() if call.readout is None else call.readout.shape)
    symmetric = None if grad_moment is None else grad_moment + grad_moment.T

    for tile in _tiles(call):
        source = tile.table.clamp(min=0).view(-1)
        features = _evaluate(call, filters, tile, source, scratch, keep=True)
        values = call.x.index_select(0, source).view(*tile.table.shape, call.x.size(1))
        table = features.windowed.view(*tile.table.shape, features.windowed.size(1))
        grad_rows = grad_output[tile.rows]
        if readout is None:
            grad_aggregate = grad_rows.transpose(1, 2)
        else:
            aggregate = torch.bmm(table.transpose(1, 2), values)
            grad_readout += torch.einsum("nhc,nc->ch", aggregate, grad_rows)
            grad_aggregate = grad_rows.unsqueeze(1) * readout
        if grad_x is not None:
            grad_values = torch.bmm(table, grad_aggregate)
            grad_x.index_add_(0, source, grad_values.flatten(0, 1))
        grad_features = torch.bmm(values, grad_aggregate.transpose(1, 2)).view_as(features.windowed)
        if symmetric is not None:
            grad_features.addmm_(features.windowed, symmetric)
        grad_features *= features.valid
        grad_monomials = _backpropagate(
            call.network, filters, features, grad_features, scratch,
            totals, grad_weights, grad_biases, needs_pos,
        )  # fmt: skip
        if grad_source is not None and grad_target is not None:
            dim = call.source.size(1)
            offset = features.monomials[:, :dim]
            grad_offset = grad_monomials[:, :dim] + 2 * offset * grad_monomials[:, dim + 1 :]
            grad_source.index_add_(0, source, grad_offset)
            grad_target[tile.rows] = -grad_offset.view(*tile.table.shape, dim).sum(1)
    inverse_sigma, network = _unfold(call, totals, grad_weights, grad_biases)
    return MagnetConvGradients(
        grad_x, grad_source, grad_target, inverse_sigma, network,
        None if readout is None else grad_readout,
    )  # fmt: skip


def _tiles(call: MagnetConv) -> Iterator[Tile]:
    layers, width = call.network.phases.shape
    device = "cuda" if call.x.is_cuda else "cpu"
    edges = _SCRATCH_ELEMENTS[device] // (layers * width + call.x.size(1))
    max_edges = min(max(edges, _MIN_EDGES), _MAX_EDGES[device])
    return tiles(call.index, call.pointer, call.degree, call.target.size(0), max_edges)


def _fold(call: MagnetConv) -> _Filters:
    """Write the arguments of all filters as coefficients of the monomials."""
    centers, inverse_widths = call.network.centers.double(), call.network.inverse_widths.double()
    frequencies, phases = call.network.frequencies, call.network.phases
    square = inverse_widths.square()
    window = -0.5 * call.inverse_sigma.double().square()
    quadratic = -0.5 * square
    quadratic[-1] += window
    linear = square * centers
    constant = -0.5 * (linear * centers).sum(-1, keepdim=True)
    exponent = torch.cat([linear, constant, quadratic], -1).transpose(1, 2).contiguous()
    angle = torch.cat([frequencies, phases.unsqueeze(-1)], -1).transpose(1, 2).contiguous()
    if not call.x.is_cuda and float(constant.min()) > -_CANCELLATION_LIMIT:
        exponent = exponent.to(angle.dtype)
    dim = call.source.size(1)
    return _Filters(exponent, angle, torch.nn.functional.pad(window, (dim + 1, 0)).to(angle.dtype))


def _unfold(
    call: MagnetConv, totals: _Filters, grad_weights: Tensor, grad_biases: Tensor
) -> tuple[Tensor, MAGNetWeights]:
    """Turn gradients of the coefficients into gradients of the parameters."""
    dim = call.source.size(1)
    dtype = call.x.dtype
    centers, inverse_widths = call.network.centers.double(), call.network.inverse_widths.double()
    linear, constant, quadratic = totals.exponent.transpose(1, 2).split([dim, 1, dim], -1)
    square = inverse_widths.square()
    grad_centers = square * (linear - centers * constant)
    grad_inverse_widths = inverse_widths * (
        2 * centers * linear - quadratic - centers.square() * constant
    )
    grad_inverse_sigma = -call.inverse_sigma * (quadratic[-1].sum(0) + totals.window[dim + 1 :])
    grad_frequencies, grad_phases = totals.angle.transpose(1, 2).split([dim, 1], -1)
    return grad_inverse_sigma.to(dtype), MAGNetWeights(
        grad_centers.to(dtype), grad_inverse_widths.to(dtype),
        grad_frequencies.to(dtype, copy=True), grad_phases.squeeze(-1).to(dtype, copy=True),
        grad_weights, grad_biases,
    )  # fmt: skip


def _evaluate(
    call: MagnetConv,
    filters: _Filters,
    tile: Tile,
    source: Tensor,
    scratch: _Scratch,
    *,
    keep: bool,
) -> _Features:
    """Evaluate the kernel network on the edges of one tile."""
    dim, edges = call.source.size(1), source.numel()
    layers, width = call.network.phases.shape
    position = call.source.index_select(0, source).view(*tile.table.shape, dim)
    offset = relative_offsets(position, call.target[tile.rows].unsqueeze(1)).view(edges, dim)
    inside = ((offset >= call.bounds[0]) & (offset <= call.bounds[1])).all(-1)
    valid = (inside & (tile.table.view(-1) >= 0)).to(offset.dtype).unsqueeze(-1)

    monomials = scratch("monomials", edges, 2 * dim + 1)
    monomials[:, :dim] = offset
    monomials[:, dim] = 1
    torch.square(offset, out=monomials[:, dim + 1 :])
    values = scratch("filters", layers, edges, width)
    envelope = scratch("envelope", layers, edges, width)
    exact = monomials.to(filters.exponent.dtype)
    for layer in range(layers):
        if exact.dtype == envelope.dtype:
            torch.mm(exact, filters.exponent[layer], out=envelope[layer])
        else:
            envelope[layer] = exact @ filters.exponent[layer]
        torch.mm(monomials[:, : dim + 1], filters.angle[layer], out=values[layer])
    envelope.exp_()
    quadrature = scratch("quadrature", layers if keep else 0, edges, width)
    if keep:
        torch.cos(values, out=quadrature).mul_(envelope)
    values.sin_().mul_(envelope)

    linear = scratch("linear", layers - 1 if keep else min(1, layers - 1), edges, width)
    hidden = scratch("hidden", layers if keep else 1, edges, width)
    last = values[0]
    for layer in range(1, layers):
        product = linear[layer - 1 if keep else 0]
        weight, bias = call.network.weights[layer - 1], call.network.biases[layer - 1]
        torch.addmm(bias, last, weight.T, out=product)
        last = torch.mul(product, values[layer], out=hidden[layer if keep else 0])
    window = torch.mv(monomials, filters.window).exp_()
    windowed = scratch("windowed", edges, width + 1)
    torch.mul(last, valid, out=windowed[:, :width])
    torch.mul(window, valid.squeeze(-1), out=windowed[:, width])
    return _Features(monomials, windowed, window, valid, values, quadrature, linear, hidden)


def _backpropagate(
    network: MAGNetWeights,
    filters: _Filters,
    features: _Features,
    grad_features: Tensor,
    scratch: _Scratch,
    totals: _Filters,
    grad_weights: Tensor,
    grad_biases: Tensor,
    needs_monomials: bool,
) -> Tensor:
    """Add one tile's gradients to the totals; return those of the monomials if wanted."""
    layers, edges, width = features.filters.shape
    monomials = features.monomials
    linear_monomials = monomials[:, : filters.angle.size(1)]
    grad_window = grad_features[:, width] * features.window
    totals.window.add_(monomials.T @ grad_window)
    grad_monomials = torch.outer(grad_window, filters.window) if needs_monomials else monomials
    grad_hidden = scratch("grad_hidden", edges, width).copy_(grad_features[:, :width])
    grad_exponent, grad_angle, grad_linear = (
        scratch(name, edges, width) for name in ("grad_exponent", "grad_angle", "grad_linear")
    )
    for layer in reversed(range(layers)):
        hidden = features.hidden[layer] if layer > 0 else features.filters[0]
        torch.mul(grad_hidden, hidden, out=grad_exponent)
        torch.mul(grad_hidden, features.quadrature[layer], out=grad_angle)
        if layer > 0:
            grad_angle *= features.linear[layer - 1]
            torch.mul(grad_hidden, features.filters[layer], out=grad_linear)
            below = features.hidden[layer - 1] if layer > 1 else features.filters[0]
            grad_weights[layer - 1].addmm_(grad_linear.T, below)
            grad_biases[layer - 1] += grad_linear.sum(0)
            torch.mm(grad_linear, network.weights[layer - 1], out=grad_hidden)
        totals.exponent[layer].add_(monomials.T @ grad_exponent)
        totals.angle[layer].add_(linear_monomials.T @ grad_angle)
        if needs_monomials:
            grad_monomials.addmm_(grad_exponent, filters.exponent[layer].T.to(grad_exponent.dtype))
            grad_monomials[:, : filters.angle.size(1)].addmm_(grad_angle, filters.angle[layer].T)
    return grad_monomials
