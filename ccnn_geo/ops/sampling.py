"""How densely points are sampled: their typical spacing and Nyquist frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_backends.checks import check_clouds
from ccnn_geo.ops.neighbor_backends.scaling import rescaled

_QUERIES = 512
"""Points at which the density is measured, fewer in large clouds."""

_MIN_QUERIES = 32
"""Points of every cloud at which the density is measured at the least."""

_MAX_DISTANCES = 2**25
_RANKS = (8, 32)
"""Neighbours at whose distances the density is measured."""


@torch.no_grad()
def typical_spacing(pos: Tensor, batch: Tensor | None = None) -> float:
    r"""Return the distance between neighbours on a regular grid as dense as the points.

    The intrinsic dimension m of the clouds (2 for points on a surface) is how fast the number of
    neighbours grows with the distance, :math:`m = \ln(k_2 / k_1) / \ln(r_2 / r_1)` with the
    distances :math:`r` of the 8th and the 32nd neighbour, and the spacing
    :math:`r_1 (V_m / k_1)^{1/m}` with the volume :math:`V_m` of the m-dimensional unit ball. Both
    are medians over some 512 points, at least 32 of every cloud.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.

    Returns:
        The spacing in the unit of `pos`.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes do not fit, or a cloud has fewer than three distinct points.
    """
    sizes = check_clouds(pos, batch)
    points, _, factor = rescaled(pos.double(), None)
    clouds = points.split(sizes)
    smallest = min((len(cloud) for cloud in clouds), default=0)
    if smallest < 3:
        raise ValueError(f"Expected at least 3 points in every cloud of `pos`, got {smallest}")
    far = min(_RANKS[1], smallest - 1)
    near = max(1, far * _RANKS[0] // _RANKS[1])
    queries = max(_MIN_QUERIES, min(_QUERIES, _MAX_DISTANCES // len(pos)) // len(clouds))
    distances = torch.cat([_ranked_distances(cloud, (near, far), queries) for cloud in clouds])
    inner, outer = distances.median(0).values.tolist()
    if outer == 0.0:
        raise ValueError("Expected distinct points in `pos`, got clouds of coinciding points")
    if not 0.0 < inner < outer:
        inner = outer / 2
    dimension = math.log(far / near) / math.log(outer / inner)
    dimension = min(max(dimension, 1.0), float(pos.size(1)))
    log_ball = dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    return inner / factor * math.exp((log_ball - math.log(near)) / dimension)


def nyquist_frequency(pos: Tensor, batch: Tensor | None = None) -> float:
    """Return the highest frequency that points resolve, half the inverse of `typical_spacing`.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.

    Returns:
        The frequency in cycles per unit of `pos`.

    Raises:
        TypeError: See `typical_spacing`.
        ValueError: See `typical_spacing`.
    """
    return 0.5 / typical_spacing(pos, batch)


def _ranked_distances(cloud: Tensor, ranks: tuple[int, int], queries: int) -> Tensor:
    """Return the distances of two of the nearest others at evenly chosen points, `[Q, 2]`."""
    count = min(queries, len(cloud))
    chosen = torch.linspace(0, len(cloud) - 1, count, device=cloud.device).round().long()
    rows = [
        torch.linalg.vector_norm(cloud - cloud[own], dim=1)
        .topk(ranks[1] + 1, largest=False, sorted=True)
        .values[list(ranks)]
        for own in chosen.tolist()
    ]
    return torch.stack(rows)
