"""Checks of a network's input, and the domain that it lives on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ccnn_geo.nn.bandlimit import Bandlimit, grid_bandlimit, point_bandlimit
from ccnn_geo.nn.checks import check_finite, check_points, check_signals, count_clouds
from ccnn_geo.nn.domains import AllPoints, Grid, Points, mask_from_lengths
from ccnn_geo.ops import Neighborhood, nearest_neighbors


def grid_domain(
    x: Tensor,
    spacing: float | tuple[float, ...] | None,
    *,
    dim: int,
    channels: int,
    mask: Tensor | None,
    lengths: Tensor | None = None,
    weight: Tensor | None = None,
    bandlimit: Bandlimit,
    **options: Any,
) -> Grid:
    """Return the grid of signals `x [B, C, *S]`.

    Args:
        x: The signals.
        spacing: Step of the grid.
        dim: Number of axes, D.
        channels: Number of channels, C.
        mask: Occupied cells, `[B, *S]`.
        lengths: Lengths of padded sequences in place of a mask, `[B]`.
        weight: Quadrature weights.
        bandlimit: Bandlimit of the kernels.
        options: See `Grid.of`.

    Raises:
        TypeError: If the signals are not floating point.
        ValueError: If shapes do not fit, or (on the CPU) a value is not finite.
    """
    check_signals(x, dim, channels)
    check_finite(x=x if mask is None and lengths is None else None, weight=weight)
    if lengths is not None:
        if mask is not None:
            raise ValueError("Expected `lengths` or a `mask`, got both")
        mask = mask_from_lengths(lengths, x)
    band = grid_bandlimit(bandlimit, spacing, dim)
    grid = Grid.of(x, spacing, mask=mask, weight=weight, bandlimit=band, **options)
    if mask is not None:
        check_finite(x=grid.features(x))
    return grid


def points_domain(
    x: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    graph: int | Tensor | Neighborhood,
    *,
    dim: int,
    channels: int,
    period: float | tuple[float | None, ...] | None,
    weight: Tensor | None = None,
    batch_size: int | None = None,
    bandlimit: Bandlimit,
    **options: Any,
) -> Points:
    """Return the points of clouds and their graph.

    Args:
        x: Features, `[N, C]`.
        pos: Positions, `[N, D]`.
        batch: Cloud of every point, `[N]`.
        graph: The graph, or the number of nearest neighbours to search.
        dim: Number of coordinates, D.
        channels: Size of the features, C.
        period: Length of the periodic box.
        weight: Quadrature weights.
        batch_size: Number of clouds.
        bandlimit: Bandlimit of the kernels.
        options: See `Points.of`.

    Raises:
        TypeError: If features or positions are not floating point.
        ValueError: If shapes do not fit, a cloud is empty, or (on the CPU) a value is not finite.
    """
    _check_any(pos)
    check_points(x, (pos, pos), weight, dim, channels)
    check_finite(x=x, pos=pos, weight=weight)
    if isinstance(graph, int):
        graph = nearest_neighbors(pos, graph, batch, ordered=False, period=period)
    batch_size = count_clouds(batch, batch_size, len(pos))
    return Points.of(
        pos,
        graph,
        period=period,
        weight=weight,
        batch=batch,
        batch_size=batch_size,
        bandlimit=point_bandlimit(bandlimit, pos, batch),
        **options,
    )


def all_points_domain(
    x: Tensor, pos: Tensor, batch: Tensor | None, *, batch_size: int | None, **options: Any
) -> AllPoints:
    """Return the points of clouds, each of which sees all others of its cloud.

    Args:
        x: Features, `[N, C]`.
        pos: Positions, `[N, D]`.
        batch: Cloud of every point, `[N]`.
        batch_size: Number of clouds.
        options: See `AllPoints.of`.

    Raises:
        TypeError: If features or positions are not floating point.
        ValueError: If shapes do not fit, a cloud is empty, or (on the CPU) a value is not finite.
    """
    _check_any(pos)
    points = AllPoints.of(x, pos, batch, **options)
    return replace(points, batch_size=count_clouds(batch, batch_size, len(pos)))


def _check_any(pos: Tensor) -> None:
    if isinstance(pos, Tensor) and len(pos) == 0:
        raise ValueError("Expected at least one point in `pos`, got none")
