"""A k-d tree: on the CPU, in time N log N."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_backends.tables import (
    CHUNK_ELEMENTS,
    RADIUS_MARGIN,
    with_self_first,
)
from ccnn_geo.ops.periodic import Period

_COINCIDING = 64


def nearest(cloud: Tensor, k: int, ordered: bool, period: Period | None) -> Tensor:
    """Return the k nearest of every point of a cloud `[n, D]`, itself first, `[n, k]`."""
    points = cloud.cpu()
    search = _nearest_places if _many_coincide(points) else _nearest
    return with_self_first(search(points, k, period)).to(cloud.device)


def within(cloud: Tensor, r: float, period: Period | None) -> tuple[Tensor, Tensor]:
    """Return sources and targets of a superset of all pairs of a cloud `[n, D]` within r."""
    import numpy as np

    points = cloud.cpu().numpy()
    tree = _tree(points, period)
    step = CHUNK_ELEMENTS // 64
    sources, targets = [], []
    for start in range(0, len(points), step):
        rows = tree.indices[start : start + step]  # leaf by leaf, see `_nearest`
        lists = tree.query_ball_point(points[rows], r * (1 + RADIUS_MARGIN), workers=-1)
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        sources.append(np.concatenate(lists).astype(np.int64))
        targets.append(np.repeat(rows, counts))
    source = torch.from_numpy(np.concatenate(sources)).to(cloud.device)
    target = torch.from_numpy(np.concatenate(targets)).to(cloud.device)
    return source, target


def _tree(points: Any, period: Period | None) -> Any:
    """Return the k-d tree of an array of points, which lie in the box if there is one."""
    from scipy.spatial import cKDTree

    if period is None:
        return cKDTree(points)
    return cKDTree(points, boxsize=[0.0 if length is None else length for length in period])


def _nearest(points: Tensor, k: int, period: Period | None) -> Tensor:
    """Return the k nearest of every point, `[n, k]`."""
    array = points.numpy()
    table = torch.empty(len(points), k, dtype=torch.int64)
    tree = _tree(array, period)
    # Leaf by leaf: a search then walks through what the one before has brought into the cache.
    for rows in torch.from_numpy(tree.indices).split(max(1, CHUNK_ELEMENTS // k)):
        _, found = tree.query(array[rows.numpy()], k=k, workers=-1)
        table[rows] = torch.from_numpy(found).view(-1, k)
    return table


def _many_coincide(points: Tensor) -> bool:
    """True if many points lie at one place, which makes one leaf of a tree that is searched whole.

    Points at one place have one projection; others hardly ever do.
    """
    direction = torch.linspace(1.0, 2.0, points.size(1), dtype=torch.float64).sqrt()
    _, runs = (points.double() @ direction).sort().values.unique_consecutive(return_counts=True)
    return int(runs.max()) > _COINCIDING


def _nearest_places(points: Tensor, k: int, period: Period | None) -> Tensor:
    """Return the k nearest of every point, `[n, k]`, where many coincide: search places instead."""
    places, place, sizes = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    members = torch.argsort(place, stable=True)
    first = sizes.cumsum(0) - sizes
    found = _nearest(places, min(k, len(places)), period)
    ends = sizes[found].cumsum(1)
    slots = torch.arange(k).expand(len(places), k).contiguous()
    column = torch.searchsorted(ends, slots, right=True)
    chosen = found.gather(1, column)
    begins = ends - sizes[found]
    return members[first[chosen] + slots - begins.gather(1, column)][place]
