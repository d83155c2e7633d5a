"""The domain of points with a graph of neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from ccnn_geo.nn.domains.domain import Convolution, PointDomain, keep_norm
from ccnn_geo.ops import KernelSupport, Neighborhood
from ccnn_geo.ops.grid_positions import per_axis_period
from ccnn_geo.ops.periodic import Period, check_reach, nearest_images, wrap


@dataclass(frozen=True, eq=False)
class Points(PointDomain):
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
        """Append the features of images to features `[N, C]` of the points, giving `[S, C]`."""
        return x if self.images is None else torch.cat([x, x[self.images]])

    def check_reach(self, support: KernelSupport) -> None:
        """Check that a kernel reaches no farther than half a period.

        Raises:
            ValueError: If it does.
        """
        if self.period is not None:
            check_reach(support, self.period)

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on `[S, C_in]`, giving `[T, C_out]`."""
        evaluated = conv.convolve_points(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)
