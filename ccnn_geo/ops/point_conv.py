"""The continuous convolution on points: one function, several ways of evaluating it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccnn_geo.ops import untiled
from ccnn_geo.ops.backends import choose_backend
from ccnn_geo.ops.magnet import MAGNetWeights, magnet_features
from ccnn_geo.ops.magnet_conv import MagnetConv, magnet_conv
from ccnn_geo.ops.neighborhood import Neighborhood, relative_offsets
from ccnn_geo.ops.tiling import Tile, tiles

SUPPORT_TOLERANCE = 1e-5
"""How far past the end of its support a kernel is still evaluated, in units of the extent: the
last tap of a grid lies at 1 up to rounding, and must not be lost to it."""

MIN_LOG_WIDTH = -20.0
"""Narrower windows, under two billionths of the extent, count as so wide: nothing overflows."""

_GENERIC_TILE_ELEMENTS = 2**22

Features = MAGNetWeights | Callable[[Tensor], Tensor]
Taps = tuple[tuple[int, int], ...]


class KernelGeometry:
    r"""Where a kernel lives: turns positions into offsets, and offsets into coordinates and window.

    The offset of source j from target i is :math:`v = (p_j - p_i) / \text{extent}`, source minus
    target. A causal kernel lives on :math:`v \in [-1, 0]`, stretched so that its length is 2 and
    the present lies at 1 (Romero et al. 2022, CKConv).

    Args:
        log_width: Logarithm of the widths of the Gaussian window, `[1]` or `[D]`.
        dim: Number of coordinates, D.
        extent: Half-width of the kernel's support in the unit of the positions; a number, or one
            per axis.
        cutoff: The kernel is zero outside the box in which the Gaussian of every axis is at least
            this; in [0, 1).
        causal: Whether only the past counts (D = 1).
    """

    def __init__(
        self,
        log_width: Tensor,
        dim: int,
        *,
        extent: float | tuple[float, ...] = 1.0,
        cutoff: float = 0.0,
        causal: bool = False,
    ) -> None:
        self.shift = 1.0 if causal else 0.0
        stretch = 2.0 if causal else 1.0
        extents = (extent,) * dim if isinstance(extent, (int, float)) else extent
        self.scale = tuple(stretch / each for each in extents)
        self.inverse_sigma = torch.exp(-log_width.clamp(min=MIN_LOG_WIDTH)).expand(dim)
        upper = torch.full_like(self.inverse_sigma, stretch).detach()
        if cutoff > 0.0:
            upper = upper.minimum(math.sqrt(-2 * math.log(cutoff)) / self.inverse_sigma.detach())
        upper = upper + SUPPORT_TOLERANCE
        lower = -upper
        if causal:
            upper = torch.zeros_like(upper)
        self.bounds = torch.stack([lower, upper])

    def to_kernel_unit(self, pos: Tensor) -> Tensor:
        """Express positions `[..., D]` in units of the extent, in the type of the kernel."""
        if all(each == 1.0 for each in self.scale):
            return pos.to(self.bounds.dtype)
        scale = torch.tensor(self.scale, dtype=torch.float64, device=pos.device)
        return (pos * scale.to(pos.dtype)).to(self.bounds.dtype)

    def taps(
        self,
        spacing: tuple[float, ...],
        size: tuple[int, ...],
        bounds: list[list[float]] | None = None,
    ) -> Taps:
        """Count the taps that the kernel has on a grid, per axis those before and after offset 0.

        They are the ones within the support and the cutoff, as the window is now, that reach from
        one cell of the grid to another; offset 0 is always among them. `bounds` spares a GPU the
        wait for its own.
        """
        steps = (step * scale for step, scale in zip(spacing, self.scale, strict=True))
        lower, upper = self.bounds.tolist() if bounds is None else bounds
        return tuple(
            (min(int(-low / step), cells - 1), min(int(high / step), cells - 1))
            for low, high, step, cells in zip(lower, upper, steps, size, strict=True)
        )

    def tap_offsets(self, spacing: tuple[float, ...], taps: Taps) -> Tensor:
        """Offsets of the taps of a grid, the last axis fastest, `[K, D]`."""
        axes = (
            torch.arange(-before, after + 1, dtype=torch.float64, device=self.bounds.device) * step
            for (before, after), step in zip(taps, spacing, strict=True)
        )
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        return self.to_kernel_unit(grid.flatten(0, -2))

    def window(self, offsets: Tensor) -> Tensor:
        """The window at offsets `[..., D]`, `[...]`; exactly zero outside the support."""
        inside = ((offsets >= self.bounds[0]) & (offsets <= self.bounds[1])).all(-1)
        return torch.exp(-0.5 * (offsets * self.inverse_sigma).square().sum(-1)) * inside

    def basis(self, offsets: Tensor, features: Features) -> Tensor:
        """Windowed features and the window itself, `[..., H + 1]`: the kernel is linear in them."""
        coordinates = offsets + self.shift
        hidden = (
            magnet_features(coordinates, features)
            if isinstance(features, MAGNetWeights)
            else features(coordinates)
        )
        window = self.window(offsets).unsqueeze(-1)
        return torch.cat([window * hidden, window], -1)


def point_conv(
    x: Tensor,
    pos: Tensor | tuple[Tensor, Tensor],
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    geometry: KernelGeometry,
    *,
    weight: Tensor | None = None,
    with_moment: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    r"""Convolve features on points with a continuous kernel (Knigge et al. 2023, Eq. 2).

    .. math::
        y_i = \sum_{j \in N(i)} w_j\, g(v_{ij})\, A [h(v_{ij}), 1] \odot x_j

    Args:
        x: Features of the sources, `[S, C]`.
        pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
        neighbors: The graph.
        features: The kernel network h up to its last linear layer: the weights of a MAGNet, which
            all backends fuse, or any function from `[..., D]` to `[..., H]`.
        readout: The last linear layer with its bias as the last column, `[C, H + 1]` (depthwise) or
            `[O, C, H + 1]` (full).
        geometry: Support and window of the kernel.
        weight: Quadrature weight of every source, `[S]`.
        with_moment: Whether to return the second moment of the basis too, for `kernel_penalty`.
        backend: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`; functions other than
            a MAGNet always run in plain PyTorch.

    Returns:
        The output `[T, C]` or `[T, O]`, and the mean over targets of the second moment of the
        basis, :math:`\tfrac1T \sum_{ij} f f^T`, `[H + 1, H + 1]` (None unless asked for).

    Raises:
        ValueError: If shapes do not fit one another or there is no such backend.
        RuntimeError: If the backend asked for cannot run here.
    """
    source, target = pos if isinstance(pos, tuple) else (pos, pos)
    _check_shapes(x, source, target, neighbors, readout)
    name = choose_backend(backend, x.device, readout.dtype)
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    input_dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(readout.dtype)
        source = geometry.to_kernel_unit(source)
        target = source if pos is source else geometry.to_kernel_unit(target)
        if name == "reference":
            output, moment = _reference(
                x, source, target, neighbors, features, readout, geometry, with_moment
            )
        elif isinstance(features, MAGNetWeights):
            output, moment = _fused(
                x, source, target, neighbors, features, readout, geometry, with_moment, name
            )
        else:
            output, moment = _tiled(
                x, source, target, neighbors, features, readout, geometry, with_moment
            )
        moment = moment / max(neighbors.num_targets, 1)
    return output.to(input_dtype), moment if with_moment else None


def _reference(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    geometry: KernelGeometry,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    """The definition, edge by edge: materialises the kernel of every edge."""
    j, i = neighbors.edge_index
    basis = geometry.basis(relative_offsets(source[j], target[i]), features)
    if readout.dim() == 2:
        messages = (basis @ readout.T) * x[j]
    else:
        messages = torch.einsum("eh,och,ec->eo", basis, readout, x[j])
    output = x.new_zeros(neighbors.num_targets, messages.size(1)).index_add(0, i, messages)
    return output, basis.T @ basis if with_moment else x.new_zeros(())


def _fused(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    network: MAGNetWeights,
    readout: Tensor,
    geometry: KernelGeometry,
    with_moment: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    depthwise = readout.dim() == 2
    reverse: tuple[Tensor | None, Tensor | None] = (None, None)
    if backend == "triton" and x.requires_grad and torch.is_grad_enabled():
        reverse = neighbors.reversed
    call = MagnetConv(
        x.contiguous(),
        source.contiguous(),
        target.contiguous(),
        neighbors.index,
        neighbors.pointer,
        neighbors.degree,
        *reverse,
        geometry.bounds,
        geometry.inverse_sigma.contiguous(),
        MAGNetWeights(*(part.contiguous() for part in network.shifted(geometry.shift))),
        readout.contiguous() if depthwise else None,
    )
    if backend == "torch" and untiled.is_suited(call):
        output, moment = untiled.convolve(call, neighbors.target, with_moment)
    else:
        output, moment = magnet_conv(call, with_moment=with_moment, backend=backend)
    if not depthwise:
        output = output.flatten(1) @ readout.flatten(1).T
    return output, moment


def _tiled(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    geometry: KernelGeometry,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    """Aggregate first, for any kernel network: tiles that autograd recomputes in backward."""

    def convolve(tile: Tile) -> tuple[Tensor, Tensor]:
        index = tile.table.clamp(min=0)
        offsets = relative_offsets(source[index], target[tile.rows].unsqueeze(1))
        basis = geometry.basis(offsets, features) * (tile.table >= 0).unsqueeze(-1)
        aggregate = x[index].transpose(1, 2) @ basis
        if readout.dim() == 2:
            output = (aggregate * readout).sum(-1)
        else:
            output = aggregate.flatten(1) @ readout.flatten(1).T
        flat = basis.flatten(0, 1)
        return output, flat.T @ flat if with_moment else output.new_zeros(())

    width = readout.size(-1)
    max_edges = max(1, _GENERIC_TILE_ELEMENTS // (width + x.size(1)))
    rows, outputs = [], []
    moment = x.new_zeros(())
    all_targets = torch.arange(neighbors.num_targets, device=x.device)
    for tile in tiles(
        neighbors.index, neighbors.pointer, neighbors.degree, neighbors.num_targets, max_edges
    ):
        output, tile_moment = checkpoint(convolve, tile, use_reentrant=False)
        rows.append(all_targets[tile.rows])
        outputs.append(output)
        moment = moment + tile_moment
    if not outputs:
        return x.new_zeros(0, readout.size(0)), moment
    empty = x.new_zeros(neighbors.num_targets, readout.size(0))
    return empty.index_copy(0, torch.cat(rows), torch.cat(outputs)), moment


def _check_shapes(
    x: Tensor, source: Tensor, target: Tensor, neighbors: Neighborhood, readout: Tensor
) -> None:
    if x.dim() != 2 or x.size(0) != neighbors.num_sources:
        raise ValueError(f"Expected `x` of shape [{neighbors.num_sources}, C], got {list(x.shape)}")
    channels = readout.size(-2)
    if x.size(1) != channels:
        raise ValueError(f"Expected `x` with {channels} channels, got {x.size(1)}")
    for name, pos, count in (
        ("source", source, neighbors.num_sources),
        ("target", target, neighbors.num_targets),
    ):
        if pos.dim() != 2 or pos.size(0) != count:
            raise ValueError(
                f"Expected {name} positions of shape [{count}, D], got {list(pos.shape)}"
            )
