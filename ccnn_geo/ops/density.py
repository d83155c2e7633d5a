"""Compensation for clouds that are denser or sparser than the training clouds."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_search import nearest_neighbors
from ccnn_geo.ops.neighborhood import Neighborhood


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
        ValueError: If a density is not positive, or not finite.
    """
    if not bool((density.isfinite() & (density > 0)).all()):
        raise ValueError(f"Expected positive finite `density`, got {density.tolist()}")
    weight = density.reciprocal().to(pos)[batch]
    if num_neighbors is None:
        return None, weight
    degrees = (num_neighbors * density).round().long().clamp(min=1).tolist()
    if len(set(degrees)) == 1:
        return nearest_neighbors(pos, degrees[0], batch), weight
    ends = torch.bincount(batch, minlength=len(degrees)).cumsum(0).tolist()
    index, counts = [], []
    for start, end, degree in zip([0, *ends[:-1]], ends, degrees, strict=True):
        found = nearest_neighbors(pos[start:end], degree)
        index.append(found.index + start)
        counts += [found.degree] * (end - start)
    pointer = torch.tensor([0, *counts], device=pos.device).cumsum(0)
    return Neighborhood(torch.cat(index), len(pos), len(pos), pointer=pointer), weight
