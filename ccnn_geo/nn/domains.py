"""The domains on which features live: points, and regular grids as a whole or in part.

A network is written once against `Domain`. A domain is created in every forward pass and holds
everything about the input except its features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import global_max_pool, global_mean_pool

from ccnn_geo.nn.bandlimit import Bandlimit, point_bandlimit
from ccnn_geo.nn.checks import check_finite, check_points
from ccnn_geo.nn.pointwise import ChannelDropout
from ccnn_geo.ops import KernelSupport, Neighborhood
from ccnn_geo.ops.grid_positions import per_axis, per_axis_period
from ccnn_geo.ops.kernel_support import Taps
from ccnn_geo.ops.neighbor_search import check_clouds
from ccnn_geo.ops.periodic import Period, check_reach, nearest_images, wrap

Readout = Literal["mean", "max"]


class Convolution(Protocol):
    """A convolution that evaluates on every domain, see `CKConvMP`."""

    def support(self) -> KernelSupport:
        """Return support and window of the kernel as they are now."""

    def convolve_points(
        self, x: Tensor, points: Points, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output on points, and the kernel norm if requested."""

    def convolve_grid(
        self, x: Tensor, grid: Grid, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output on a grid, and the kernel norm if requested."""

    def convolve_all_points(
        self, x: Tensor, points: AllPoints, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output over all pairs of points, and the kernel norm if requested."""


class Domain(Protocol):
    """The points or cells that features belong to."""

    @property
    def norms(self) -> list[Tensor] | None:
        """Kernel norms of the convolutions evaluated so far, or None if they are not requested."""

    def features(self, x: Tensor) -> Tensor:
        """Convert an input to the form that layers expect."""

    def output(self, features: Tensor) -> Tensor:
        """Convert features back to the form of the input."""

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution."""

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels, the same ones at all points of a cloud or cells of a grid."""

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of every cloud or grid, `[B, C]`."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one or several clouds; features are rows, `[N, C]`.

    In a periodic box, the sources of neighbours across the boundary are images of points. They
    follow the points in `source` and `weight`, and `with_images` appends their features.

    Args:
        source: Positions of the sources, `[S, D]`, in the unit of the kernels' extent.
        target: Positions of the targets, `[T, D]`; the same tensor unless the graph is bipartite or
            there are images.
        neighbors: The graph.
        edge_index: The graph as the caller gave it, `[2, E]`, for explainers, whose masks are in
            its order; the order of `neighbors` unless given.
        weight: Quadrature weight of every source, `[S]`.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
        batch_size: Number of clouds, B.
        norms: See `Domain`.
        bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.
        period: Length of the periodic box per axis, None along axes that are not periodic; None if
            no axis is.
        images: The point that every image is of, `[G]`; None if there are no images.
    """

    source: Tensor
    target: Tensor
    neighbors: Neighborhood
    edge_index: Tensor | None = None
    weight: Tensor | None = None
    batch: Tensor | None = None
    batch_size: int | None = None
    norms: list[Tensor] | None = None
    bandlimit: tuple[float, ...] | None = None
    period: Period | None = None
    images: Tensor | None = None

    @classmethod
    def of(
        cls,
        pos: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor | Neighborhood,
        *,
        period: float | tuple[float | None, ...] | None = None,
        weight: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        norms: list[Tensor] | None = None,
        bandlimit: tuple[float, ...] | None = None,
    ) -> Points:
        """Create the domain of points and a graph.

        Args:
            pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
            edge_index: Sources and targets in any order, `[2, E]`, or a prepared `Neighborhood`.
            period: Length of the periodic box, a number, or one per axis with None for axes that
                are not periodic. Every edge then leads from the image of its source that is nearest
                to its target; the points may lie outside the box.
            weight: Quadrature weight of every source, `[S]`.
            batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
            batch_size: Number of clouds, B.
            norms: See `Domain`.
            bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.

        Raises:
            TypeError: If `edge_index` is not a tensor or `Neighborhood`.
            ValueError: If an index is out of range, a `Neighborhood` is of other points, or
                `period` is not positive.
        """
        source, target = pos if isinstance(pos, tuple) else (pos, pos)
        if isinstance(edge_index, Neighborhood):
            counts = edge_index.num_sources, edge_index.num_targets
            if counts != (len(source), len(target)):
                raise ValueError(
                    f"Expected a Neighborhood of {len(source)} sources and {len(target)} targets, "
                    f"got one of {counts[0]} and {counts[1]}"
                )
            neighbors, listed = edge_index, None
        elif isinstance(edge_index, Tensor):
            edges = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
            neighbors = Neighborhood.from_edge_index(edges, len(source), len(target))
            listed = edges if edges.layout == torch.strided else None
        else:
            raise TypeError(
                f"Expected `edge_index` to be a tensor or Neighborhood, got a "
                f"{type(edge_index).__name__}"
            )
        points = cls(source, target, neighbors, listed, weight, batch, batch_size, norms, bandlimit)
        lengths = per_axis_period(period, source.size(1))
        return points if lengths is None else points._in_box(lengths)

    def _in_box(self, period: Period) -> Points:
        """Return the points wrapped into a periodic box, with the images that edges need."""
        source = wrap(self.source, period)
        target = source if self.target is self.source else wrap(self.target, period)
        found = nearest_images(source, target, self.neighbors, period)
        if found is None:
            return replace(self, source=source, target=target, period=period)
        weight = self.weight
        if weight is not None:
            weight = torch.cat([weight, weight[found.origin]])
        return replace(
            self,
            source=found.pos,
            target=target,
            neighbors=found.neighbors,
            weight=weight,
            period=period,
            images=found.origin,
        )

    @property
    def pos(self) -> Tensor | tuple[Tensor, Tensor]:
        """Positions, or a pair (positions of the sources, positions of the targets)."""
        return self.source if self.source is self.target else (self.source, self.target)

    @property
    def edges(self) -> Tensor:
        """The graph in the order of the caller, `[2, E]`; sources may be images."""
        if self.edge_index is None:
            return self.neighbors.edge_index
        if self.images is None:
            return self.edge_index
        slots = torch.argsort(self.edge_index[1], stable=True)
        source = torch.empty_like(slots).scatter_(0, slots, self.neighbors.index)
        return torch.stack([source, self.edge_index[1]])

    def with_images(self, x: Tensor) -> Tensor:
        """Return features of the points, `[N, C]`, and after them those of images, `[S, C]`."""
        return x if self.images is None else torch.cat([x, x[self.images]])

    def check_reach(self, support: KernelSupport) -> None:
        """Check that a kernel reaches no farther than half a period.

        Raises:
            ValueError: If it does.
        """
        if self.period is not None:
            check_reach(support, self.period)

    def features(self, x: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return x

    def output(self, features: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return features

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on `[S, C_in]`, giving `[T, C_out]`."""
        evaluated = conv.convolve_points(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels of `[N, C]`, the same ones at all points of a cloud."""
        return dropout(features, self.batch, self.batch_size)

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of every cloud, `[B, C]`."""
        return pool_rows(features, readout, self.batch, self.batch_size)


@dataclass(frozen=True, eq=False)
class AllPoints:
    """Points of one or several clouds without a graph; features are rows, `[N, C]`.

    Kernels are summed over all points of a cloud, see `ccnn_geo.ops.nufft_conv`.

    Args:
        source: Positions of the sources, `[S, D]`, in the unit of the kernels' extent.
        target: Positions of the targets, `[T, D]`; the same tensor unless they differ.
        batch: Cloud of every source, sorted, `[S]`; one cloud unless given.
        target_batch: Cloud of every target, `[T]`; the same tensor unless targets differ.
        weight: Quadrature weight of every source, `[S]`.
        batch_size: Number of clouds, B.
        tolerance: Relative error of a convolution.
        period: See `Points`.
        bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.
        norms: See `Domain`.
    """

    source: Tensor
    target: Tensor
    batch: Tensor | None = None
    target_batch: Tensor | None = None
    weight: Tensor | None = None
    batch_size: int | None = None
    tolerance: float = 1e-3
    period: Period | None = None
    bandlimit: tuple[float, ...] | None = None
    norms: list[Tensor] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        pos: Tensor | tuple[Tensor, Tensor],
        batch: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        channels: int,
        dim: int,
        weight: Tensor | None = None,
        batch_size: int | None = None,
        tolerance: float = 1e-3,
        period: float | tuple[float | None, ...] | None = None,
        bandlimit: Bandlimit = None,
        norms: list[Tensor] | None = None,
    ) -> AllPoints:
        """Check features and describe points.

        Args:
            x: Features of the sources, `[S, C]`.
            pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
            batch: Cloud of every point, sorted, `[N]`, or a pair; one cloud unless given.
            channels: Expected size of the features.
            dim: Expected number of coordinates.
            weight: Quadrature weight of every source, `[S]`.
            batch_size: Number of clouds, B.
            tolerance: Relative error of a convolution.
            period: Period of the positions, a number or one per axis, None where there is none.
            bandlimit: See `CKConvMP.forward`.
            norms: See `Domain`.

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, (on the CPU) a value is not finite, `batch` is not
                sorted, or a period or bandlimit is out of range.
        """
        for name, part in (("pos", pos), ("batch", batch)):
            if isinstance(part, tuple) and len(part) != 2:
                raise ValueError(f"Expected `{name}` to be a tensor or a pair, got {len(part)}")
        source, target = pos if isinstance(pos, tuple) else (pos, pos)
        clouds, target_clouds = batch if isinstance(batch, tuple) else (batch, batch)
        check_points(x, (source, target), weight, dim, channels)
        check_finite(x=x, pos=source, weight=weight)
        check_clouds(source, clouds)
        if target is not source or target_clouds is not clouds:
            check_finite(pos=target)
            check_clouds(target, target_clouds)
        return cls(
            source,
            target,
            clouds,
            target_clouds,
            weight,
            batch_size,
            tolerance,
            per_axis_period(period, dim),
            point_bandlimit(bandlimit, source, clouds),
            norms,
        )

    @property
    def pos(self) -> Tensor | tuple[Tensor, Tensor]:
        """Positions, or a pair (positions of the sources, positions of the targets)."""
        return self.source if self.source is self.target else (self.source, self.target)

    @property
    def clouds(self) -> tuple[Tensor, Tensor] | None:
        """Clouds of the sources and of the targets; None if there is only one."""
        if self.batch is None or self.target_batch is None:
            return None
        return self.batch, self.target_batch

    def features(self, x: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return x

    def output(self, features: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return features

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on `[S, C_in]`, giving `[T, C_out]`."""
        evaluated = conv.convolve_all_points(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels of `[N, C]`, the same ones at all points of a cloud."""
        return dropout(features, self.target_batch, self.batch_size)

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of every cloud, `[B, C]`."""
        return pool_rows(features, readout, self.target_batch, self.batch_size)


@dataclass(frozen=True, eq=False)
class Grid:
    """A batch of grids, as a whole or in part.

    Features of whole grids are `[B, C, P]`, of P cells each. Where some cells are empty, features
    are rows `[M, C]`, one for every occupied cell, like the points of a cloud, so that empty cells
    do not enter norms, dropout and readout.

    Args:
        batch_size: Number of grids, B.
        size: Cells along every axis.
        spacing: Step along every axis in the unit of the kernels' extent.
        cells: Occupied cells as sorted indices into `[B * P]`, `[M]`; all unless given.
        weight: Quadrature weight of every cell, `[B, P]` or `[1, P]`; from the change of spacing
            unless given.
        method: See `ccnn_geo.ops.grid_conv`.
        taps: Taps of the kernels that have been counted, see `count_taps`.
        norms: See `Domain`.
        bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.
        period: Length of the grid along every axis on which it repeats itself, None along others;
            None if it does not.
    """

    batch_size: int
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    cells: Tensor | None = None
    weight: Tensor | None = None
    method: str = "auto"
    taps: dict[Convolution, Taps] = field(default_factory=dict)
    norms: list[Tensor] | None = None
    bandlimit: tuple[float, ...] | None = None
    period: Period | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        spacing: float | tuple[float, ...] | None,
        *,
        period: float | tuple[float | None, ...] | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        method: str = "auto",
        norms: list[Tensor] | None = None,
        bandlimit: tuple[float, ...] | None = None,
    ) -> Grid:
        """Describe the grid of signals `x [B, C, *S]`.

        Args:
            x: The signals.
            spacing: Step in the unit of the kernels' extent, one number or one per axis.
            period: Length of the grid in the same unit, a number, or one per axis with None for
                axes that are not periodic.
            mask: Occupied cells, boolean, `[B, *S]`; all unless given.
            weight: Quadrature weight of every cell, `[*S]` or `[B, *S]`.
            method: See `ccnn_geo.ops.grid_conv`.
            norms: See `Domain`.
            bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.

        Raises:
            TypeError: If the mask is not boolean.
            ValueError: If shapes do not fit, a step is missing or not positive, a period is not
                the length of the grid, or a grid has no occupied cell.
        """
        if spacing is None:
            raise ValueError("Expected `spacing`, because the kernels were not made for a grid")
        batch_size, size = len(x), tuple(x.shape[2:])
        if weight is not None:
            if weight.shape not in (size, (batch_size, *size)):
                raise ValueError(
                    f"Expected `weight` of shape {[batch_size, *size]} or {list(size)}, got "
                    f"{list(weight.shape)}"
                )
            weight = weight.reshape(-1, math.prod(size))
        cells = None
        if mask is not None:
            if mask.dtype != torch.bool:
                raise TypeError(f"Expected `mask` to be boolean, got {mask.dtype}")
            if mask.shape != (batch_size, *size):
                raise ValueError(
                    f"Expected `mask` of shape {[batch_size, *size]}, got {list(mask.shape)}"
                )
            if not bool(mask.flatten(1).any(1).all()):
                raise ValueError("Expected an occupied cell in every grid of `mask`, got none")
            cells = mask.flatten().nonzero().squeeze(1)
        steps = per_axis("spacing", spacing, len(size))
        lengths = per_axis_period(period, len(size))
        _check_lengths(lengths, steps, size)
        return cls(
            batch_size,
            size,
            steps,
            cells,
            weight,
            method,
            norms=norms,
            bandlimit=bandlimit,
            period=lengths,
        )

    @property
    def batch(self) -> Tensor | None:
        """Grid of every row of features, `[M]`; None where grids are whole."""
        return None if self.cells is None else self.cells // math.prod(self.size)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether the grid repeats itself, for every axis."""
        return tuple(length is not None for length in self.period or (None,) * len(self.size))

    def features(self, x: Tensor) -> Tensor:
        """Bring signals `[B, C, *S]` to features, `[B, C, P]` or `[M, C]`."""
        features = x.flatten(2)
        if self.cells is None:
            return features
        return features.transpose(1, 2).flatten(0, 1).index_select(0, self.cells)

    def output(self, features: Tensor) -> Tensor:
        """Bring features back to signals `[B, C, *S]`, zero in empty cells."""
        if self.cells is not None:
            rows = features.new_zeros(self.batch_size * math.prod(self.size), features.size(1))
            rows = rows.index_copy(0, self.cells, features)
            features = rows.view(self.batch_size, -1, features.size(1)).transpose(1, 2)
        return features.unflatten(2, self.size)

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on features."""
        evaluated = conv.convolve_grid(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels of features, the same ones in all cells of a grid."""
        return dropout(features, self.batch, self.batch_size)

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of the occupied cells of every grid, `[B, C]`."""
        if self.cells is None:
            return features.mean(-1) if readout == "mean" else features.amax(-1)
        return pool_rows(features, readout, self.batch, self.batch_size)

    def count_taps(self, convs: Sequence[Convolution]) -> None:
        """Count the taps of several kernels at once, which synchronises a GPU only once.

        Raises:
            ValueError: If a kernel reaches farther than half a period.
        """
        supports = [conv.support() for conv in convs]
        if self.period is not None:
            for support in supports:
                check_reach(support, self.period)
        counts = _count_taps(supports, self.spacing, self.size)
        taps = (self._nearest(each) for each in counts)
        self.taps.update(zip(convs, taps, strict=True))

    def taps_of(self, conv: Convolution) -> Taps:
        """Return the taps of a kernel on this grid, per axis those before and after offset 0."""
        if conv not in self.taps:
            self.count_taps([conv])
        return self.taps[conv]

    def _nearest(self, taps: Taps) -> Taps:
        """Leave out the image behind a cell where that ahead is as near, half a period away."""
        return tuple(
            (min(before, cells - 1 - after), after) if wraps else (before, after)
            for (before, after), cells, wraps in zip(taps, self.size, self.periodic, strict=True)
        )


def pool_rows(
    rows: Tensor, readout: Readout, batch: Tensor | None, batch_size: int | None
) -> Tensor:
    """Reduce rows `[N, C]` to one for every element of a batch, `[B, C]`."""
    pool = global_mean_pool if readout == "mean" else global_max_pool
    return pool(rows, batch, batch_size)


def keep_norm(norms: list[Tensor] | None, output: Tensor, norm: Tensor | None) -> Tensor:
    """Append the norm of an evaluation to those of the domain, and return the output."""
    if norms is not None and norm is not None:
        norms.append(norm)
    return output


def mask_from_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    """Mark the first `lengths [B]` cells of sequences `x [B, C, L]`, giving `[B, L]`.

    Raises:
        TypeError: If lengths are not integers.
        ValueError: If shapes do not fit, or a length is 0 or beyond L.
    """
    if x.dim() != 3:
        raise ValueError(f"Expected `x` of shape [B, C, L] with `lengths`, got {list(x.shape)}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"Expected `lengths` to be integers, got {lengths.dtype}")
    if lengths.shape != (len(x),):
        raise ValueError(f"Expected `lengths` of shape [{len(x)}], got {list(lengths.shape)}")
    if bool(((lengths < 1) | (lengths > x.size(2))).any()):
        raise ValueError(f"Expected `lengths` in [1, {x.size(2)}], got {lengths.tolist()}")
    return torch.arange(x.size(2), device=x.device) < lengths.unsqueeze(1).to(x.device)


def _check_lengths(
    period: Period | None, spacing: tuple[float, ...], size: tuple[int, ...]
) -> None:
    """Check that a grid is one period long along every periodic axis."""
    for axis, (cells, step) in enumerate(zip(size, spacing, strict=True)):
        length = None if period is None else period[axis]
        if length is not None and not math.isclose(cells * step, length, rel_tol=1e-6):
            raise ValueError(
                f"Expected a grid of one `period`, {length:g} along axis {axis}, got {cells} cells "
                f"of {step:g}, {cells * step:g}: change `spacing`, or resample the signal"
            )


@torch.compiler.disable
@torch.no_grad()
def _count_taps(
    supports: Sequence[KernelSupport], spacing: tuple[float, ...], size: tuple[int, ...]
) -> list[Taps]:
    # The counts decide the sizes of tensors, so that the device has to be waited for.
    bounds = torch.stack([support.bounds for support in supports]).tolist()
    return [
        support.taps(spacing, size, each) for support, each in zip(supports, bounds, strict=True)
    ]
