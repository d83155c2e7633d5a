"""Forward and backward of the kernel network on one tile of edges, in plain PyTorch.

The arguments of all Gabor filters are linear in the monomials of an offset: one matrix product
computes them, and one sums their gradients as moments. The sine of the angle between two points
follows from the sines and cosines of the angles of both points, so that sines are computed per
point and not per edge.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.neighborhood import relative_offsets
from ccnn_geo.ops.point_backends.gabor_polynomials import coefficients
from ccnn_geo.ops.point_backends.operands import MagnetConv
from ccnn_geo.ops.point_backends.tiling import Tile
from ccnn_geo.ops.point_backends.torch.scratch import Scratch
from ccnn_geo.ops.point_backends.torch.threads import run_strands

# Sines and cosines of all sources are kept up to this size, and from this many edges per source.
_ROTATION_ELEMENTS, _ROTATION_EDGES = 2**23, 4
# Angles of points, in radians, up to which their rounding in float64 is negligible in the type.
_MAX_ANGLE = {torch.float32: 2.0**27, torch.float64: 2.0**14}
# Half the square of a Gaussian's distance from the origin, in widths, that float32 can cope with.
_CANCELLATION_LIMIT = 8.0
# Added to the binary exponent of an edge that does not count: its power of two is exactly zero.
_NOWHERE = -1e4
_LOG_2 = math.log(2.0)


class Rotations(NamedTuple):
    """Sines and cosines of the angles of points; the origin keeps these angles small."""

    origin: Tensor  # [1, D]
    table: Tensor  # [S, 2P], sine and cosine of the angle that every source adds


class Filters(NamedTuple):
    """Coefficients of the arguments of all filters, P = L * H of them, in monomials of an offset.

    The monomials of an edge are [v, 1, v^2, 1 if it does not count]; exponents are to base two. The
    terms of an exponent nearly cancel where a Gaussian is far from the origin and narrow, and are
    then summed in double precision.
    """

    exponent: Tensor  # [2D + 2, P]
    window: Tensor  # [2D + 2]
    angle: Tensor  # [D + 1, P], of [v, 1] only, in float64
    rotations: Rotations | None


class Edges(NamedTuple):
    """One tile's kernel network, for e edges."""

    monomials: Tensor  # [2D + 2, e]
    windowed: Tensor  # [e, H + 1], the windowed features and the window itself
    filters: Tensor  # [e, L, H], the filters' values
    quadrature: Tensor  # [e, L, H], the same with the cosine (empty in a forward pass)
    linear: Tensor  # [e, L, H], the factors that the filters are multiplied with
    hidden: list[Tensor]  # L of [e, H], the layers (only the last one after a forward pass)


def prepare_filters(call: MagnetConv) -> Filters:
    """Return the coefficients of all filters in the form in which they are evaluated."""
    exact = coefficients(call.network, call.inverse_sigma)
    layers, width = call.network.phases.shape
    nowhere = exact.exponent.new_zeros(1, layers, width)
    nowhere[:, -1] = _NOWHERE
    exponent = torch.cat([exact.exponent.transpose(0, 1) / _LOG_2, nowhere]).flatten(1)
    window = torch.cat([exact.window / _LOG_2, exact.window.new_full((1,), _NOWHERE)])
    angle = exact.angle.transpose(0, 1).flatten(1)
    constant = exponent[call.source.size(1)] * _LOG_2
    if not call.x.is_cuda and float(constant.min()) > -_CANCELLATION_LIMIT:
        exponent = exponent.to(call.x.dtype)
    return Filters(exponent, window.to(call.x.dtype), angle, _rotations(call, angle))


def _rotations(call: MagnetConv, angle: Tensor) -> Rotations | None:
    """Return sine and cosine of the angle that every source adds to each filter's.

    Angles are products in double precision, because they reach thousands of radians. None where
    the table would be large or rarely looked up, where points lie so far apart (or at infinity)
    that angles of points are less exact than angles of offsets, and on a GPU, for which sines are
    cheap.
    """
    sources, filters = call.source.size(0), angle.size(1)
    if (
        call.x.is_cuda
        or 2 * sources * filters > _ROTATION_ELEMENTS
        or _ROTATION_EDGES * sources > call.index.numel()
    ):
        return None
    origin = call.target[:1]
    reach = torch.stack([(p - origin).abs().amax(0) for p in (call.source, call.target)]).amax(0)
    if not float((reach @ angle[:-1].abs()).max()) <= _MAX_ANGLE[call.x.dtype]:
        return None
    table = call.x.new_empty(sources, 2, filters)
    parts, positions = table.split(256), call.source.split(256)

    def fill(_: int, number: int) -> None:
        turned = (positions[number] - origin) @ angle[:-1]
        parts[number][:, 0] = turned.sin()
        parts[number][:, 1] = turned.cos()

    run_strands([[number] for number in range(len(parts))], fill)
    return Rotations(origin, table.flatten(1))


def evaluate(
    call: MagnetConv,
    filters: Filters,
    tile: Tile,
    source: Tensor,
    scratch: Scratch,
    *,
    keep: bool,
) -> Edges:
    """Evaluate the kernel network on the edges of one tile."""
    layers, width = call.network.phases.shape
    edges, size = source.numel(), layers * width
    monomials = _monomials(call, tile, source, scratch)
    values = scratch("filters", edges, size)
    quadrature = scratch("quadrature", edges if keep else 0, size)
    if filters.rotations is None:
        _take_sines(filters, monomials, values, quadrature)
    else:
        _rotate(call, filters, filters.rotations, tile, source, scratch, values, quadrature)
    envelope = scratch("envelope", edges, size)
    if filters.exponent.dtype == envelope.dtype:
        torch.mm(monomials.T, filters.exponent, out=envelope)
    else:
        envelope.copy_(monomials.T.to(filters.exponent.dtype) @ filters.exponent)
    envelope.exp2_()
    values *= envelope
    if keep:
        quadrature *= envelope

    values, quadrature = (part.view(len(part), layers, width) for part in (values, quadrature))
    linear = scratch("linear", edges, layers, width)
    # All biases at once; the first filters are multiplied with one.
    linear[:] = torch.cat([torch.ones_like(call.network.phases[:1]), call.network.biases])
    products = scratch("hidden", layers if keep else 1, edges, width)
    windowed = scratch("windowed", edges, width + 1)
    torch.exp2(monomials.T @ filters.window, out=windowed[:, width])
    hidden = [values[:, 0]]
    for layer in range(1, layers):
        product = linear[:, layer].addmm_(hidden[-1], call.network.weights[layer - 1].T)
        out = windowed[:, :width] if layer == layers - 1 else products[layer if keep else 0]
        hidden.append(torch.mul(product, values[:, layer], out=out))
    if layers == 1:
        windowed[:, :width] = hidden[0]
    return Edges(monomials, windowed, values, quadrature, linear, hidden)


def _monomials(call: MagnetConv, tile: Tile, source: Tensor, scratch: Scratch) -> Tensor:
    """Return the monomials of a tile's edges, `[2D + 2, e]`; zero offsets where not counted."""
    dim = call.source.size(1)
    position = call.source.T.index_select(1, source).view(dim, *tile.table.shape)
    offset = relative_offsets(position, call.target[tile.rows].T.unsqueeze(-1)).flatten(1)
    offset = offset.to(call.x.dtype)
    lower, upper = call.bounds.unsqueeze(-1)
    outside = ((offset < lower) | (offset > upper)).any(0) | (tile.table.view(-1) < 0)
    monomials = scratch("monomials", 2 * dim + 2, source.numel())
    monomials[:dim] = offset.masked_fill_(outside, 0)
    monomials[dim] = 1
    torch.square(monomials[:dim], out=monomials[dim + 1 : -1])
    monomials[-1] = outside
    return monomials


def _take_sines(filters: Filters, monomials: Tensor, sine: Tensor, cosine: Tensor) -> None:
    """Fill `sine`, and `cosine` unless it is empty, edge by edge."""
    angle = filters.angle
    if sine.is_cuda or sine.dtype == angle.dtype:
        torch.mm(monomials[: angle.size(0)].T, angle.to(sine.dtype), out=sine)
    else:
        turned = monomials[: angle.size(0)].T.to(angle.dtype) @ angle
        sine.copy_(turned.remainder_(2 * math.pi))
    if cosine.numel():
        torch.cos(sine, out=cosine)
    sine.sin_()


def _rotate(
    call: MagnetConv,
    filters: Filters,
    rotations: Rotations,
    tile: Tile,
    source: Tensor,
    scratch: Scratch,
    sine: Tensor,
    cosine: Tensor,
) -> None:
    """Fill `sine`, and `cosine` unless it is empty, by rotating sources by their targets."""
    count, degree = tile.table.shape
    moved = call.target[tile.rows] - rotations.origin
    turned = filters.angle[-1] - moved @ filters.angle[:-1]
    sine_i, cosine_i = (part.to(sine.dtype).unsqueeze(1) for part in (turned.sin(), turned.cos()))
    gathered = scratch("pair", source.numel(), rotations.table.size(1))
    torch.index_select(rotations.table, 0, source, out=gathered)
    sine_j, cosine_j = gathered.view(count, degree, 2, -1).unbind(2)
    sine = sine.view_as(sine_j)
    torch.mul(sine_j, cosine_i, out=sine).addcmul_(cosine_j, sine_i)
    if cosine.numel():
        cosine = cosine.view_as(sine)
        torch.mul(cosine_j, cosine_i, out=cosine).addcmul_(sine_j, sine_i, value=-1)


def backpropagate(
    call: MagnetConv,
    edges: Edges,
    grad_features: Tensor,
    grad_window: Tensor,
    scratch: Scratch,
    grad_weights: Tensor,
    grad_biases: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add one tile's gradients of the linear maps.

    Returns:
        Gradients of the exponents `[e, P]`, of the window's exponent `[e]` and of angles `[e, P]`.
    """
    count, layers, width = edges.filters.shape
    # The sines and cosines that were gathered into it have been used.
    grad_hidden, grad_linear = scratch("pair", 2, count, layers, width)
    grad_hidden[:, -1] = grad_features
    for layer in reversed(range(layers)):
        grad = torch.mul(grad_hidden[:, layer], edges.filters[:, layer], out=grad_linear[:, layer])
        if layer > 0:
            grad_weights[layer - 1].addmm_(grad.T, edges.hidden[layer - 1])
            weight = call.network.weights[layer - 1]
            torch.mm(grad, weight, out=grad_hidden[:, layer - 1])
    grad_biases += grad_linear[:, 1:].sum(0)
    grad_angle = edges.quadrature.mul_(edges.linear).mul_(grad_hidden)
    grad_exponent = grad_linear.mul_(edges.linear)
    return (
        grad_exponent.flatten(1),
        grad_window.mul_(edges.windowed[:, width]),
        grad_angle.flatten(1),
    )


def offset_gradients(
    filters: Filters, monomials: Tensor, pulled: tuple[Tensor, Tensor, Tensor], dim: int
) -> Tensor:
    """Return the gradients of all offsets, `[D, e]`."""
    grad_exponent, grad_window, grad_angle = pulled
    exponent = (filters.exponent * _LOG_2).to(monomials.dtype)
    grad = exponent @ grad_exponent.T
    grad += torch.outer(filters.window * _LOG_2, grad_window)
    grad[:dim].addmm_(filters.angle[:dim].to(monomials.dtype), grad_angle.T)
    return grad[:dim] + 2 * monomials[:dim] * grad[dim + 1 : -1]
