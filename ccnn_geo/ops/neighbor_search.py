"""Neighbour search: k nearest and radius, any k, any dimension, clouds of any size.

PyG's own `knn_graph` needs pyg-lib, and the CUDA kernels of pyg-lib and torch-cluster stop at
k = 100. The chunked torch search here always works; scipy and torch-cluster are faster where they
apply. All of them return the same neighbours, ties aside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_backends import scipy, torch_cluster
from ccnn_geo.ops.neighbor_backends import torch as torch_search
from ccnn_geo.ops.neighbor_backends.checks import check_clouds, check_count, check_flow
from ccnn_geo.ops.neighbor_backends.registry import choose
from ccnn_geo.ops.neighborhood import Neighborhood

_NEAREST = {
    "torch": torch_search.nearest,
    "scipy": scipy.nearest,
    "torch_cluster": torch_cluster.nearest,
}
_WITHIN = {"torch": torch_search.within, "scipy": scipy.within}


def nearest_neighbors(
    pos: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    ordered: bool = True,
    backend: str = "auto",
) -> Neighborhood:
    """Find the k nearest points of every point within its own cloud, itself first.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        k: Neighbours per point, the point itself among them; a cloud with fewer points gives all
            it has.
        batch: Cloud of every point, sorted, `[N]`; one cloud if left out.
        ordered: Whether the nearest must come first; in any order they are found sooner.
        backend: `"auto"`, `"torch"` (chunked brute force, everywhere), `"scipy"` (a k-d tree; on
            the CPU, in time N log N) or `"torch_cluster"` (if installed; k <= 100 on CUDA).

    Returns:
        The neighbours of every point.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes, devices or values are wrong, `batch` is not sorted, or k < 1.
        RuntimeError: If the backend cannot search these points here.
    """
    check_count("k", k)
    sizes = [size for size in check_clouds(pos, batch) if size > 0]
    name = choose(backend, pos, k, max(sizes, default=0))
    with torch.autocast(pos.device.type, enabled=False):
        tables = _nearest(name, pos.detach(), sizes, k, ordered)
    if len({table.size(1) for table in tables}) <= 1:
        table = torch.cat(tables) if tables else pos.new_zeros(0, k, dtype=torch.int64)
        return Neighborhood.from_table(table)
    counts = torch.tensor([min(k, size) for size in sizes]).repeat_interleave(torch.tensor(sizes))
    pointer = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(pos.device)
    index = torch.cat([table.view(-1) for table in tables])
    return Neighborhood(index, len(pos), len(pos), pointer=pointer)


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """Connect every point to its k nearest points within its own cloud.

    The signature is PyG's. A point in a cloud of fewer points gets all the others.

    Args:
        x: Positions, float32 or float64, `[N, D]`.
        k: Neighbours per point.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
        loop: If True, a point is one of its own k neighbours, and the first.
        flow: `"source_to_target"`: the neighbours are in the first row; `"target_to_source"`: in
            the second.
        cosine: If True, measure the distance by the cosine instead of Euclidean.
        backend: See `nearest_neighbors`.

    Returns:
        Edges sorted by the point whose neighbours they are, nearest first, `[2, E]`.

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`; or if `flow` is unknown.
        RuntimeError: If the backend cannot search these points here.
    """
    check_count("k", k)
    check_flow(flow)
    if cosine:
        # On the unit sphere, the nearest in angle are the nearest in distance.
        check_clouds(x, batch)
        x = torch.nn.functional.normalize(x, dim=1)
    edge_index = nearest_neighbors(x, k if loop else k + 1, batch, backend=backend).edge_index
    if not loop:
        edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    return edge_index if flow == "source_to_target" else edge_index.flip(0)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int | None = None,
    flow: str = "source_to_target",
    *,
    backend: str = "auto",
) -> Tensor:
    """Connect every point to all points of its cloud at a distance d <= r.

    Distances are computed in the type of the positions, so that every backend gives the same edges.
    The signature is PyG's, but for `max_num_neighbors`: PyG silently keeps 32, this function all.

    Args:
        x: Positions, float32 or float64, `[N, D]`.
        r: Radius, in the unit of the positions.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
        loop: If True, a point is its own neighbour.
        max_num_neighbors: Keep only so many, the nearest; all unless given.
        flow: See `knn_graph`.
        backend: `"auto"`, `"torch"` or `"scipy"`.

    Returns:
        Edges sorted by the point whose neighbours they are, nearest first, `[2, E]`.

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`; or if `r` or `max_num_neighbors` is not positive and
            finite, or `flow` is unknown.
        RuntimeError: If the backend cannot search these points here.
    """
    if not 0 < r < math.inf:
        raise ValueError(f"Expected `r` to be positive and finite, got {r}")
    if max_num_neighbors is not None:
        check_count("max_num_neighbors", max_num_neighbors)
    check_flow(flow)
    if backend == "torch_cluster":
        raise ValueError("Expected `backend` to be auto, torch or scipy, got 'torch_cluster'")
    sizes = [size for size in check_clouds(x, batch) if size > 0]
    within = _WITHIN[choose(backend, x, 1, max(sizes, default=0))]
    edges, start = [], 0
    with torch.autocast(x.device.type, enabled=False):
        for cloud in x.detach().split(sizes):
            source, target, distance = _exactly_within(cloud, r, *within(cloud, r))
            if not loop:
                others = source != target
                source, target, distance = source[others], target[others], distance[others]
            order = _by_target_and_distance(source, target, distance)
            source, target = source[order], target[order]
            if max_num_neighbors is not None:
                first = torch.searchsorted(target, torch.arange(len(cloud), device=x.device))
                rank = torch.arange(len(target), device=x.device) - first[target]
                source, target = source[rank < max_num_neighbors], target[rank < max_num_neighbors]
            edges.append(torch.stack([source, target]) + start)
            start += len(cloud)
    edge_index = torch.cat(edges, 1) if edges else x.new_zeros(2, 0, dtype=torch.int64)
    return edge_index if flow == "source_to_target" else edge_index.flip(0)


def _nearest(name: str, pos: Tensor, sizes: list[int], k: int, ordered: bool) -> list[Tensor]:
    """Return the neighbours of every cloud as tables `[n, k]`, of fewer columns in small clouds."""
    if len(set(sizes)) == 1 and name == "torch":
        clouds = pos.view(len(sizes), sizes[0], -1)
        return [torch_search.nearest_in_clouds(clouds, min(k, sizes[0]), ordered)]
    tables, start = [], 0
    for cloud in pos.split(sizes):
        size = len(cloud)
        # All points of a small cloud are found without a tree.
        search = _NEAREST["torch" if size <= k else name]
        table = search(cloud, min(k, size), ordered)
        table += start
        tables.append(table)
        start += size
    return tables


def _exactly_within(
    cloud: Tensor, r: float, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges that are no longer than r in the type of the positions, and their lengths."""
    distance = (cloud[source] - cloud[target]).square().sum(-1).sqrt()
    kept = distance <= torch.tensor(r, dtype=cloud.dtype, device=cloud.device)
    return source[kept], target[kept], distance[kept]


def _by_target_and_distance(source: Tensor, target: Tensor, distance: Tensor) -> Tensor:
    """Return the order of edges by target, then by distance, then by source, `[E]`.

    A point comes before others at the same place.
    """
    order = torch.argsort(source, stable=True)
    ahead = torch.where(source == target, -1.0, distance)
    order = order[torch.argsort(ahead[order], stable=True)]
    return order[torch.argsort(target[order], stable=True)]
