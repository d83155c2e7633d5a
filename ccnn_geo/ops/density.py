"""Clouds of any density: quadrature weights, and compensation for other densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_backends.checks import check_clouds
from ccnn_geo.ops.neighbor_search import nearest_neighbors, neighbor_distances
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends.checks import check_data
from ccnn_geo.ops.scalars import check_count, is_positive


@torch.no_grad()
def quadrature_weights(
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    dim: int = 2,
    density: float = 1.0,
    num_neighbors: int = 8,
    period: float | tuple[float | None, ...] | None = None,
) -> Tensor:
    r"""Return the share of the volume that every point stands for, from the local density.

    The weight of point i is :math:`\rho_0 V_m r_{ik}^m / k` with the distance :math:`r_{ik}` of
    its k-th nearest other point and the volume :math:`V_m` of the m-dimensional unit ball: the
    inverse of the local density, in units of :math:`1 / \rho_0`. With these weights, sums over
    points approximate integrals, however unevenly the points are distributed (Loftsgaarden and
    Quesenberry 1965 for the density). No gradients reach the positions.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
        dim: Intrinsic dimension of the clouds, m: 2 for points on surfaces.
        density: Density at which weights are 1 on average, :math:`\rho_0`, in points per unit of
            m-dimensional volume.
        num_neighbors: Number of other points, k; of smaller clouds, all points count.
        period: Length of the periodic box, see `nearest_neighbors`.

    Returns:
        Weights, `[N]`, in the type of `pos`. A cloud of one point has the weight 1, and points
        that coincide with k others have 0.

    Raises:
        TypeError: If a number is not whole; see `nearest_neighbors` for positions and clouds.
        ValueError: If an argument is not positive; see `nearest_neighbors`.
    """
    m, k = check_count("dim", dim), check_count("num_neighbors", num_neighbors)
    if not is_positive(density):
        raise ValueError(f"Expected `density` to be positive and finite, got {density!r}")
    graph = nearest_neighbors(pos, k + 1, batch, period=period)
    length = neighbor_distances(pos.detach(), graph, period)
    counts = torch.bincount(graph.target, minlength=len(pos))
    farthest = length.new_zeros(len(pos)).scatter_reduce(0, graph.target, length, "amax")
    log_ball = m / 2 * math.log(math.pi) - math.lgamma(m / 2 + 1)
    volume = math.exp(log_ball) * farthest.double() ** m
    others = (counts - 1).clamp(min=1)
    weight = density * volume / others
    return torch.where(counts > 1, weight, 1.0).to(pos.dtype)


def compensate_density(
    pos: Tensor, batch: Tensor, density: Tensor, num_neighbors: int | None
) -> tuple[Neighborhood | None, Tensor]:
    r"""Return neighbours and quadrature weights for clouds of other densities than in training.

    A cloud of relative density :math:`\rho` has :math:`\rho` times as many points within reach of a
    kernel. With :math:`\rho` times as many neighbours, kernels reach as far as in training; with
    weights of :math:`1 / \rho`, the sums over neighbours approximate the same integrals. Pass the
    result to `CCNN.forward` as `edge_index` and `weight`.

    Args:
        pos: Positions, `[N, D]`.
        batch: Cloud of every point, sorted, `[N]`.
        density: Density of every cloud relative to the training clouds, `[B]`: on the same surface,
            the ratio of the numbers of points.
        num_neighbors: Number of neighbours in training, including the point itself; None for
            convolutions over all points, which need no graph.

    Returns:
        The neighbours of every point (None if there is no graph), and its weight, `[N]`.

    Raises:
        TypeError: If `density` is not a tensor or `num_neighbors` not a whole number; see
            `nearest_neighbors` for positions and clouds.
        ValueError: If a density is missing, not positive, or not finite, or `num_neighbors` < 1;
            see `nearest_neighbors` for positions and clouds.
    """
    check_data("batch", batch)
    sizes = check_clouds(pos, batch)
    clouds = torch.unique_consecutive(batch).tolist()
    _check_density(density, clouds)
    weight = density.reciprocal().to(pos)[batch]
    if num_neighbors is None:
        return None, weight
    wanted = (check_count("num_neighbors", num_neighbors) * density[clouds]).round()
    degrees = wanted.clamp(1, len(pos)).long().tolist()
    if len(set(degrees)) == 1:
        return nearest_neighbors(pos, degrees[0], batch), weight
    index, counts, start = [batch.new_zeros(0)], [0], 0
    for size, degree in zip(sizes, degrees, strict=True):
        found = nearest_neighbors(pos[start : start + size], degree)
        index.append(found.index + start)
        counts += [found.degree] * size
        start += size
    pointer = torch.tensor(counts, device=pos.device).cumsum(0)
    return Neighborhood(torch.cat(index), len(pos), len(pos), pointer=pointer), weight


def _check_density(density: Tensor, clouds: list[int]) -> None:
    check_data("density", density)
    least = clouds[-1] + 1 if clouds else 0
    if density.dim() != 1 or len(density) < least:
        raise ValueError(
            f"Expected `density` of shape [B] with one value for each of {least} clouds, got "
            f"{list(density.shape)}"
        )
    if not bool((density.isfinite() & (density > 0)).all()):
        raise ValueError(f"Expected positive finite `density`, got {density.tolist()}")
