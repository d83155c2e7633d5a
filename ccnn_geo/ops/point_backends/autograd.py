"""The convolution differentiated by autograd: for any kernel network, and for few edges.

Few edges are evaluated in one piece, with their intermediate results kept for backward. More are
evaluated in tiles, of which all but the first are recomputed in backward.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccnn_geo.ops.functorch import is_transformed
from ccnn_geo.ops.kernel_support import KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import relative_offsets
from ccnn_geo.ops.point_backends.checks import check_basis
from ccnn_geo.ops.point_backends.gabor_polynomials import coefficients
from ccnn_geo.ops.point_backends.operands import PointConv
from ccnn_geo.ops.point_backends.tiling import Tile, Tiles

MAX_MAGNET_ELEMENTS = 2**19
"""Values of all filters, and of all features, that a MAGNet's edges may have together. More are
faster in the tiles of a fused backend."""

MAX_ELEMENTS = 2**22
"""Windowed features of the offsets and features of the sources that a piece or tile may hold."""

_FEW_NEIGHBORS = 16


def suits_magnet(call: PointConv) -> bool:
    """True if a MAGNet has so few edges that `convolve` is faster than a fused backend."""
    network, channels = cast(MAGNetWeights, call.features), call.x.size(1)
    return call.neighbors.num_slots * (network.phases.numel() + channels) <= MAX_MAGNET_ELEMENTS


def convolve(call: PointConv) -> tuple[Tensor, Tensor]:
    """Evaluate a convolution, see `ccnn_geo.ops.point_conv`.

    Args:
        call: The operands.

    Returns:
        The output, `[T, C]` or `[T, O]`, and the sum of second moments, `[H + 1, H + 1]` (else a
        zero).
    """
    x, target, neighbors, readout = call.x, call.target, call.neighbors, call.readout
    channels, width = readout.shape[-2:]
    max_edges = max(1, MAX_ELEMENTS // (width + channels))
    # Full kernels on a list of edges would need an aggregate for every edge.
    listed = neighbors.pointer is not None
    if neighbors.num_slots <= max_edges and not (listed and readout.dim() == 3):
        j, i, counts = neighbors.source, neighbors.target, neighbors.occupied
        basis, values = _edges(call, j, target.index_select(0, i), counts)
        if listed:
            messages = (basis @ readout.T) * values
            output = messages.new_zeros(len(target), channels)
            output = output.index_add(0, i, messages)
        else:
            output = _contract(basis, values, (len(target), neighbors.degree), readout)
        return output, basis.T @ basis if call.with_moment else x.new_zeros(())

    def convolve_tile(tile: Tile) -> tuple[Tensor, Tensor]:
        j, (count, degree) = tile.table.clamp(min=0).view(-1), tile.table.shape
        centers = target[tile.rows].repeat_interleave(degree, 0, output_size=count * degree)
        basis, values = _edges(call, j, centers, tile.table.view(-1) >= 0)
        output = _contract(basis, values, (count, degree), readout)
        return output, basis.T @ basis if call.with_moment else x.new_zeros(())

    rows: list[Tensor] = []
    outputs: list[Tensor] = []
    moment = x.new_zeros(())
    all_targets = torch.arange(len(target), device=x.device)
    for tile in Tiles(neighbors.index, neighbors.pointer, neighbors.degree, len(target), max_edges):
        # `torch.func` does not support the hooks of checkpoints.
        if outputs and not is_transformed():
            output, tile_moment = checkpoint(convolve_tile, tile, use_reentrant=False)
        else:
            output, tile_moment = convolve_tile(tile)
        rows.append(all_targets[tile.rows])
        outputs.append(output)
        moment = moment + tile_moment
    empty = x.new_zeros(len(target), readout.size(0))
    return (empty.index_copy(0, torch.cat(rows), torch.cat(outputs)) if outputs else empty), moment


def _edges(
    call: PointConv, source: Tensor, centers: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the basis `[E, H + 1]` and the features `[E, C]` of edges; zero unless they count."""
    offsets = relative_offsets(call.source.index_select(0, source), centers).to(call.x.dtype)
    inside = call.support.inside(offsets, counts)
    values = torch.where(inside.unsqueeze(-1), call.x.index_select(0, source), 0.0)
    if isinstance(call.features, MAGNetWeights):
        return _magnet_basis(offsets, call.features, call.support, inside), values
    basis = call.support.basis(offsets, call.features, counts)
    check_basis(basis, len(offsets), call.readout)
    return basis, values


def _contract(basis: Tensor, values: Tensor, table: tuple[int, int], readout: Tensor) -> Tensor:
    """Sum kernel values times features over the edges of a table of targets, `[T, K]`."""
    channels, width = readout.shape[-2:]
    if readout.dim() == 2 and table[1] <= max(width // 2, _FEW_NEIGHBORS):
        # The kernels of so few edges are smaller than the sum of their features, or the products
        # too small to be worth their calls.
        return ((basis @ readout.T) * values).view(*table, channels).sum(1)
    aggregate = values.view(*table, channels).mT @ basis.view(*table, width)
    if readout.dim() == 2:
        return (aggregate * readout).sum(-1)
    return aggregate.flatten(1) @ readout.flatten(1).T


def _magnet_basis(
    offsets: Tensor, network: MAGNetWeights, support: KernelSupport, inside: Tensor
) -> Tensor:
    """Return `KernelSupport.basis`, `[E, H + 1]`, by fewer and larger operations."""
    offsets = torch.where(inside.unsqueeze(-1), offsets, 0.0)
    network = network.shifted(support.shift)
    layers, width = network.phases.shape
    exact = coefficients(network, support.inverse_sigma)
    monomials = torch.cat([offsets, torch.ones_like(offsets[:, :1]), offsets.square()], -1)
    # Exponents may be small differences of large terms.
    exponents = torch.cat([exact.exponent.transpose(0, 1).flatten(1), exact.window[:, None]], -1)
    envelopes = (monomials.double() @ exponents).to(offsets.dtype).exp()
    angles = exact.angle.transpose(0, 1).flatten(1)
    turns = monomials[:, : len(angles)].double() @ angles
    sines = turns.sin().to(offsets.dtype)
    hidden, *filters = (envelopes[:, :-1] * sines).view(-1, layers, width).unbind(1)
    for values, weight, bias in zip(filters, network.weights, network.biases, strict=True):
        hidden = values * torch.addmm(bias, hidden, weight.T)
    return torch.where(inside.unsqueeze(-1), torch.cat([hidden, envelopes[:, -1:]], -1), 0.0)
