"""Neighbour search: k nearest and radius, any k, any dimension, clouds of any size.

PyG's own `knn_graph` needs pyg-lib, and the CUDA kernels of pyg-lib and torch-cluster stop at
k = 100. The chunked search in torch always works; scipy and torch-cluster are faster where they
apply. All backends return the same neighbours, ties aside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.grid_positions import per_axis_period
from ccnn_geo.ops.neighbor_backends import scipy, torch_cluster
from ccnn_geo.ops.neighbor_backends import torch as torch_search
from ccnn_geo.ops.neighbor_backends.checks import check_clouds, check_flow
from ccnn_geo.ops.neighbor_backends.registry import choose
from ccnn_geo.ops.neighbor_backends.scaling import rescaled
from ccnn_geo.ops.neighborhood import Neighborhood, relative_offsets
from ccnn_geo.ops.periodic import Period, shortest, wrap
from ccnn_geo.ops.scalars import check_count, is_positive, plain

_NEAREST = {
    "torch": torch_search.nearest,
    "scipy": scipy.nearest,
    "torch_cluster": torch_cluster.nearest,
}
_MAX_DENSE = 2048
"""Points of a cloud up to which all pairs are compared to find those within a radius."""
_WITHIN = {"torch": torch_search.within, "scipy": scipy.within}


def nearest_neighbors(
    pos: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    ordered: bool = True,
    period: float | tuple[float | None, ...] | None = None,
    backend: str = "auto",
) -> Neighborhood:
    """Find the k nearest points of every point within its own cloud, itself first.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        k: Neighbours per point, the point itself among them; a cloud with fewer points gives all
            it has.
        batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
        ordered: If True, the nearest come first; in any order they are found sooner.
        period: Length of the periodic box that all clouds lie in, a number, or one per axis with
            None for axes that are not periodic. The distance of two points is that between nearest
            images, so that points may lie outside the box. A point is a neighbour once at most,
            even where several of its images are near.
        backend: `"auto"`, `"torch"` (chunked brute force, everywhere), `"scipy"` (a k-d tree; on
            the CPU, in time N log N) or `"torch_cluster"` (if installed; k <= 100 on CUDA).

    Returns:
        The neighbours of every point.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes, devices or values are wrong, `batch` is not sorted, k < 1, or
            `period` is not positive.
        RuntimeError: If the backend cannot search these points here.
    """
    k = check_count("k", k)
    sizes = check_clouds(pos, batch)
    pos, lengths, _ = rescaled(pos.detach(), per_axis_period(period, pos.size(1)))
    name = choose(backend, pos, k, max(sizes, default=0), lengths)
    with torch.autocast(pos.device.type, enabled=False):
        points = pos if lengths is None else wrap(pos, lengths)
        tables = _nearest(name, points, sizes, k, ordered, lengths)
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
    period: float | tuple[float | None, ...] | None = None,
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
        period: See `nearest_neighbors`.
        backend: See `nearest_neighbors`.

    Returns:
        Edges sorted by the point whose neighbours they are, nearest first, `[2, E]`.

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`; or if `flow` is unknown, or there are both `cosine` and
            `period`.
        RuntimeError: If the backend cannot search these points here.
    """
    k = check_count("k", k)
    check_flow(flow)
    if cosine:
        if period is not None:
            raise ValueError(f"Expected no `period` with `cosine`, got {period}")
        # On the unit sphere, the nearest in angle are the nearest in distance.
        check_clouds(x, batch)
        x = x.detach()
        longest = x.abs().amax(1, keepdim=True)  # rows of any length: squares could vanish
        x = torch.nn.functional.normalize(x / longest.masked_fill(longest == 0, 1.0), dim=1)
    neighbors = nearest_neighbors(x, k if loop else k + 1, batch, period=period, backend=backend)
    edge_index = neighbors.edge_index
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
    period: float | tuple[float | None, ...] | None = None,
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
        period: See `nearest_neighbors`; at least twice the radius, along every periodic axis.
        backend: `"auto"`, `"torch"` or `"scipy"`.

    Returns:
        Edges sorted by the point whose neighbours they are, nearest first, `[2, E]`.

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`; or if `r` or `max_num_neighbors` is not positive and
            finite, `flow` is unknown, or `period` is less than twice the radius.
        RuntimeError: If the backend cannot search these points here.
    """
    if max_num_neighbors is not None:
        max_num_neighbors = check_count("max_num_neighbors", max_num_neighbors)
    check_flow(flow)
    if backend == "torch_cluster":
        raise ValueError("Expected `backend` to be auto, torch or scipy, got 'torch_cluster'")
    name, clouds, r, lengths = _radius_search(x, r, batch, period, backend)
    edges, start = [x.new_zeros(2, 0, dtype=torch.int64)], 0
    with torch.autocast(x.device.type, enabled=False):
        for cloud in clouds:
            found = _within(name, cloud, r, loop, lengths)
            if max_num_neighbors is not None:
                found = _first_of_targets(found, len(cloud), max_num_neighbors)
            edges.append(found + start)
            start += len(cloud)
    edge_index = torch.cat(edges, 1)
    return edge_index if flow == "source_to_target" else edge_index.flip(0)


def neighbors_within(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    *,
    period: float | tuple[float | None, ...] | None = None,
) -> Neighborhood:
    """Find all points within a radius of every point in its own cloud, itself among them.

    They are the edges of `radius_graph`, which has the same arguments and errors, but in any order.

    Returns:
        The neighbours of every point.
    """
    name, clouds, r, lengths = _radius_search(pos, r, batch, period, "auto")
    none = pos.new_zeros(0, dtype=torch.int64)
    sources, counts, start = [none], [none], 0
    with torch.autocast(pos.device.type, enabled=False):
        for cloud in clouds:
            if len(cloud) <= _MAX_DENSE and lengths is None:
                source, target = _within_densely(cloud, r)
            else:
                source, target = _within(name, cloud, r, True, lengths)
            sources.append(source + start)
            counts.append(torch.bincount(target, minlength=len(cloud)))
            start += len(cloud)
    pointer = torch.nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0))
    return Neighborhood(torch.cat(sources), len(pos), len(pos), pointer=pointer)


def neighbor_distances(
    pos: Tensor, neighbors: Neighborhood, period: float | tuple[float | None, ...] | None = None
) -> Tensor:
    """Return the distance between source and target of every edge of a graph of points, `[E]`.

    Args:
        pos: Positions, `[N, D]`.
        neighbors: The graph.
        period: Length of the periodic box, see `nearest_neighbors`.
    """
    lengths = per_axis_period(period, pos.size(1))
    return _lengths(pos, neighbors.source, neighbors.target, lengths)


def _radius_search(
    pos: Tensor,
    r: float,
    batch: Tensor | None,
    period: float | tuple[float | None, ...] | None,
    backend: str,
) -> tuple[str, tuple[Tensor, ...], float, Period | None]:
    """Check a search within a radius; return backend, and rescaled clouds, radius and period."""
    sizes = check_clouds(pos, batch)
    lengths = per_axis_period(period, pos.size(1))
    r = _check_radius(r, lengths)
    pos, lengths, factor = rescaled(pos.detach(), lengths)
    name = choose(backend, pos, 1, max(sizes, default=0), lengths)
    return name, pos.split(sizes), r * factor, lengths


def _check_radius(r: float, period: Period | None) -> float:
    r = plain(r)
    if not is_positive(r):
        raise ValueError(f"Expected `r` to be positive and finite, got {r!r}")
    for length in period or ():
        if length is not None and r > length / 2:
            raise ValueError(
                f"Expected `period` of at least twice the radius, {r}, because a point is a "
                f"neighbour once at most, got {length}: repeat the points over several periods"
            )
    return r


def _nearest(
    name: str, pos: Tensor, sizes: list[int], k: int, ordered: bool, period: Period | None
) -> list[Tensor]:
    """Return the neighbours of every cloud as tables `[n, k]`, of fewer columns in small clouds."""
    if len(set(sizes)) == 1 and name == "torch":
        clouds = pos.view(len(sizes), sizes[0], -1)
        return [torch_search.nearest_in_clouds(clouds, min(k, sizes[0]), ordered, period)]
    tables, start = [], 0
    for cloud in pos.split(sizes):
        size = len(cloud)
        # All points of a small cloud are found without a tree.
        search = _NEAREST["torch" if size <= k else name]
        table = search(cloud, min(k, size), ordered, period)
        table += start
        tables.append(table)
        start += size
    return tables


def _within(name: str, cloud: Tensor, r: float, loop: bool, period: Period | None) -> Tensor:
    """Return the edges of lengths d <= r in a cloud, `[2, E]`, by target, then by length."""
    points = cloud if period is None else wrap(cloud, period)
    source, target = _WITHIN[name](points, r, period)
    length = _lengths(cloud, source, target, period)
    kept = length <= torch.tensor(r, dtype=cloud.dtype, device=cloud.device)
    if not loop:
        kept &= source != target
    source, target, length = source[kept], target[kept], length[kept]
    # A point comes before others at the same place, and equals in the order of indices.
    order = torch.argsort(source, stable=True)
    ahead = torch.where(source == target, -1.0, length)
    order = order[torch.argsort(ahead[order], stable=True)]
    order = order[torch.argsort(target[order], stable=True)]
    return torch.stack([source[order], target[order]])


def _within_densely(cloud: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """Return sources and targets of all pairs at distances d <= r, sorted by target."""
    length = _norms(relative_offsets(cloud.unsqueeze(0), cloud.unsqueeze(1)))
    close = length <= torch.tensor(r, dtype=cloud.dtype, device=cloud.device)
    target, source = close.nonzero(as_tuple=True)
    return source, target


def _lengths(cloud: Tensor, source: Tensor, target: Tensor, period: Period | None) -> Tensor:
    """Return the lengths of edges in the type of the positions, `[E]`."""
    if period is None:
        offsets = relative_offsets(cloud[source], cloud[target])
    else:
        # In double precision only the result is rounded, as it is without a period.
        exact = relative_offsets(cloud[source].double(), cloud[target].double())
        columns = zip(exact.unbind(-1), period, strict=True)
        offsets = torch.stack([shortest(column, length) for column, length in columns], -1)
        offsets = offsets.to(cloud.dtype)
    return _norms(offsets)


def _norms(offsets: Tensor) -> Tensor:
    return offsets.square().sum(-1).sqrt()


def _first_of_targets(edge_index: Tensor, num_targets: int, count: int) -> Tensor:
    """Keep the first edges of every target, `count` at most, of edges sorted by target."""
    target = edge_index[1]
    first = torch.searchsorted(target, torch.arange(num_targets, device=target.device))
    rank = torch.arange(len(target), device=target.device) - first[target]
    return edge_index[:, rank < min(count, len(target))]
