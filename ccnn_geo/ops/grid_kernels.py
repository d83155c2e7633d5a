"""Kernels at the taps of regular grids, in tiles of bounded memory that backward recomputes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccnn_geo.ops.functorch import Looped, is_transformed
from ccnn_geo.ops.kernel_support import Features, KernelSupport, Taps
from ccnn_geo.ops.magnet import AxisFilters, GaborFilters, MAGNetWeights

TILE_ELEMENTS = {"cpu": 2**18, "cuda": 2**25}
"""Values of all filters of a MAGNet that are evaluated at a time: on the CPU about what stays in
its cache."""

CHUNK_ELEMENTS = 2**22
"""Windowed features of another kernel network that are evaluated at a time."""


def render_kernel(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    spacing: tuple[float, ...],
    taps: Taps,
    *,
    with_moment: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Evaluate a windowed kernel at every tap of a grid.

    The filters of a MAGNet are products over the axes: exponentials, sines and cosines are
    evaluated per axis, and only products per tap. Memory besides the result and its gradient is
    bounded: a few times `TILE_ELEMENTS` or `CHUNK_ELEMENTS` and the factors of the axes.

    Args:
        features: The kernel network up to its readout.
        readout: Last layer of the kernel network with its bias as last column, `[..., H + 1]`.
        support: Support and window of the kernel.
        spacing: Step of the grid per axis, in the unit of the extent.
        taps: Taps before and after offset 0, per axis; within the support.
        with_moment: If True, also return the second moment of the windowed features.

    Returns:
        The kernel, `[..., *K]`, and the moment, summed over the taps, `[H + 1, H + 1]`, or None.
    """
    rows = readout.flatten(0, -2)
    if isinstance(features, MAGNetWeights):
        kernel, moment = _render_magnet(features, rows, support, spacing, taps, with_moment)
    else:
        kernel, moment = _render_chunks(features, rows, support, spacing, taps, with_moment)
    counts = [before + 1 + after for before, after in taps]
    return kernel.view(*readout.shape[:-1], *counts), moment if with_moment else None


def _render_chunks(
    features: Callable[[Tensor], Tensor],
    readout: Tensor,
    support: KernelSupport,
    spacing: tuple[float, ...],
    taps: Taps,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    def evaluate(offsets: Tensor) -> tuple[Tensor, Tensor]:
        basis = support.basis(offsets, features)
        return readout @ basis.T, basis.T @ basis if with_moment else basis.new_zeros(())

    chunks = support.tap_offsets(spacing, taps).split(max(1, CHUNK_ELEMENTS // readout.size(1)))
    if len(chunks) == 1:
        return evaluate(chunks[0])
    # `torch.func` does not support the hooks of checkpoints.
    run = evaluate if is_transformed() else partial(checkpoint, evaluate, use_reentrant=False)
    kernels, moments = zip(*map(run, chunks), strict=True)
    return torch.cat(kernels, -1), torch.stack(moments).sum(0)


def _render_magnet(
    network: MAGNetWeights,
    readout: Tensor,
    support: KernelSupport,
    spacing: tuple[float, ...],
    taps: Taps,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    filters = GaborFilters.of(network, support.inverse_sigma, support.shift)
    dtype = torch.promote_types(readout.dtype, torch.float32)
    *others, last = (axis.to(dtype) for axis in support.tap_axes(spacing, taps))
    if others:
        quarter = filters.phases.new_tensor([[0.5 * math.pi, 0.0]])
        leading = torch.polar(filters.amplitudes, filters.phases).to(dtype.to_complex())[:, None]
        for axis, coordinates in enumerate(others):
            factors = filters.along(axis, quarter).evaluate(coordinates).product()
            leading = leading.unsqueeze(-1) * torch.complex(*factors.unbind(1)).unsqueeze(1)
            leading = leading.flatten(1)
        # The addition theorem: sin(a + b) = sin(a) cos(b) + cos(a) sin(b).
        leading = torch.stack([leading.imag, leading.real], 1)
        axis_filters = filters.along(len(others), quarter)
    else:
        leading = filters.amplitudes.to(dtype).view(-1, 1, 1)
        axis_filters = filters.along(0, filters.phases.unsqueeze(-1))
    kernel, moment = _SeparableKernel.apply(
        last,
        with_moment,
        *(part.to(dtype) for part in (readout, network.weights, network.biases)),
        leading,
        *axis_filters,
    )
    return kernel.to(readout.dtype), moment.to(readout.dtype)


class _Tile(NamedTuple):
    """A range of taps: some of the last axis, at some combinations of the other axes."""

    rows: slice
    columns: slice
    taps: slice


def _tiles(leading: Tensor, coordinates: Tensor) -> Iterator[tuple[slice, list[_Tile]]]:
    """Cut the taps to `TILE_ELEMENTS`; tiles of the same columns of the last axis come together."""
    filters, _, num_rows = leading.shape
    num_columns = len(coordinates)
    size = max(1, TILE_ELEMENTS.get(leading.device.type, TILE_ELEMENTS["cpu"]) // filters)
    height = max(1, size // num_columns)
    for first in range(0, num_columns, size):
        columns = slice(first, min(first + size, num_columns))
        tiles = []
        for start in range(0, num_rows, height):
            rows = slice(start, min(start + height, num_rows))
            end = (rows.stop - 1) * num_columns + columns.stop
            tiles.append(_Tile(rows, columns, slice(start * num_columns + first, end)))
        yield columns, tiles


class _Network(NamedTuple):
    """The linear maps of a MAGNet, or gradients of these; a place is a column."""

    weights: Tensor
    biases: Tensor

    def evaluate(self, filters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of all layers and the linear maps before them, `[H, K]` each.

        Args:
            filters: All filters, of which the last is the window, `[L * H + 1, K]`.
        """
        first, *others = self.layers(filters)
        features, linear = [first], []
        for layer, weight, bias in zip(others, self.weights, self.biases, strict=True):
            linear.append(torch.addmm(bias.unsqueeze(-1), weight, features[-1]))
            features.append(layer * linear[-1])
        return features, linear

    def differentiate(
        self,
        filters: Tensor,
        evaluated: tuple[list[Tensor], list[Tensor]],
        grad_basis: Tensor,
        totals: _Network,
    ) -> Tensor:
        """Return the gradient of the filters, and add the gradients of the linear maps to `totals`.

        Args:
            filters: As for `evaluate`.
            evaluated: What `evaluate` returned; the linear maps are overwritten.
            grad_basis: Gradient of the features of the last layer and the window, `[H + 1, K]`.
            totals: Sums of gradients so far.
        """
        (features, linear), layers = evaluated, self.layers(filters)
        grad_filters = torch.empty_like(filters)
        grad_layers = self.layers(grad_filters)
        grad, grad_filters[-1] = grad_basis[:-1], grad_basis[-1]
        for number in range(len(linear) - 1, -1, -1):
            torch.mul(grad, linear[number], out=grad_layers[number + 1])
            grad_linear = torch.mul(grad, layers[number + 1], out=linear[number])
            totals.weights[number].addmm_(grad_linear, features[number].T)
            totals.biases[number].add_(grad_linear.sum(1))
            grad = self.weights[number].T @ grad_linear
        grad_layers[0].copy_(grad)
        return grad_filters

    def layers(self, filters: Tensor) -> tuple[Tensor, ...]:
        """Return the filters of every layer, `[H, K]` each."""
        return filters[:-1].chunk(len(self.weights) + 1)


class _SeparableKernel(Looped):
    """The kernel `[C, K]` and its second moment, from filters that are products over the axes."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        coordinates, with_moment, readout, weights, biases, leading, *axis
    ):
        network = _Network(weights, biases)
        kernel = readout.new_empty(len(readout), leading.size(2) * len(coordinates))
        moment = readout.new_zeros((readout.size(1),) * 2 if with_moment else ())
        for columns, tiles in _tiles(leading, coordinates):
            factors = AxisFilters(*axis).evaluate(coordinates[columns]).product()
            for tile in tiles:
                filters = _product(leading[..., tile.rows], factors)
                basis = _basis(filters, network.evaluate(filters)[0])
                kernel[:, tile.taps] = readout @ basis
                if with_moment:
                    moment.addmm_(basis, basis.T)
        return kernel, moment

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.coordinates, ctx.with_moment, *parts = inputs
        ctx.save_for_backward(*parts)

    @staticmethod
    def backward(ctx, grad_kernel, grad_moment):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            return None, None, *_differentiable_gradients(ctx, grad_kernel, grad_moment)
        readout, weights, biases, leading, *parts = ctx.saved_tensors
        network, axis = _Network(weights, biases), AxisFilters(*parts)
        grad_readout, grad_leading = torch.zeros_like(readout), torch.zeros_like(leading)
        totals = _Network(torch.zeros_like(weights), torch.zeros_like(biases))
        grad_axis = [torch.zeros_like(part) for part in axis]
        for columns, tiles in _tiles(leading, ctx.coordinates):
            coordinates = ctx.coordinates[columns]
            waves = axis.evaluate(coordinates)
            factors = waves.product()
            grad_factors = torch.zeros_like(factors)
            for tile in tiles:
                rows, grad_tile = leading[..., tile.rows], grad_kernel[:, tile.taps]
                filters = _product(rows, factors)
                evaluated = network.evaluate(filters)
                basis = _basis(filters, evaluated[0])
                grad_readout.addmm_(grad_tile, basis.T)
                grad_basis = readout.T @ grad_tile
                if ctx.with_moment:
                    grad_basis.addmm_(grad_moment + grad_moment.T, basis)
                grad_filters = network.differentiate(filters, evaluated, grad_basis, totals)
                grad_filters = grad_filters.view(len(rows), rows.size(2), -1)
                grad_leading[..., tile.rows].add_(factors @ grad_filters.mT)
                grad_factors.baddbmm_(rows, grad_filters)
            grads = axis.gradients(coordinates, waves, grad_factors)
            for total, grad in zip(grad_axis, grads, strict=True):
                total.add_(grad)
        return None, None, grad_readout, *totals, grad_leading, *grad_axis


def _differentiable_gradients(ctx, grad_kernel, grad_moment):  # type: ignore[no-untyped-def]
    """Return gradients that can be differentiated themselves, evaluated in one piece."""

    def evaluate(*parts):  # type: ignore[no-untyped-def]
        readout, weights, biases, leading, *axis = parts
        filters = _product(leading, AxisFilters(*axis).evaluate(ctx.coordinates).product())
        basis = _basis(filters, _Network(weights, biases).evaluate(filters)[0])
        return (readout @ basis, basis @ basis.T) if ctx.with_moment else (readout @ basis,)

    pull = torch.func.vjp(evaluate, *ctx.saved_tensors)[1]
    return pull((grad_kernel, grad_moment) if ctx.with_moment else (grad_kernel,))


def _product(leading: Tensor, factors: Tensor) -> Tensor:
    """Multiply factors of the other axes, `[F, N, P]`, with factors of the last, `[F, N, Q]`."""
    return torch.bmm(leading.mT, factors).flatten(1)


def _basis(filters: Tensor, features: list[Tensor]) -> Tensor:
    """Return the windowed features and the window, `[H + 1, K]`."""
    return torch.cat([features[-1], filters[-1:]])
