"""Neighbour search: k nearest and radius, any k, any dimension, clouds of any size.

PyG's own `knn_graph` needs pyg-lib, and the CUDA kernels of pyg-lib and torch-cluster stop at
k = 100. The chunked torch search here always works; scipy and torch-cluster are faster where they
apply. All of them return the same neighbours, ties aside.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ccnn_geo.ops.neighborhood import Neighborhood

_BACKENDS = ("auto", "torch", "scipy", "torch_cluster")
_CHUNK_ELEMENTS = 2**22
_TREE_POINTS = 2_048
_TREE_POINTS_CUDA = 65_536
_TORCH_CLUSTER_CUDA_LIMIT = 100
_COINCIDING = 64


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
    _check_whole("k", k)
    sizes = [size for size in check_clouds(pos, batch) if size > 0]
    search = _choose(backend, pos, k, max(sizes, default=0))
    detached = pos.detach()
    with torch.autocast(pos.device.type, enabled=False):
        degrees = [min(k, size) for size in sizes]
        if len(set(sizes)) == 1 and search is _search_torch:
            clouds = detached.view(len(sizes), sizes[0], -1)
            tables = [_search_torch_batched(clouds, degrees[0], ordered)]
        else:
            tables = [
                (_search_torch if degree == len(cloud) else search)(cloud, degree, ordered)
                for cloud, degree in zip(detached.split(sizes), degrees, strict=True)
            ]
            start = 0
            for table, size in zip(tables, sizes, strict=True):
                table += start
                start += size
    if len(set(degrees)) <= 1:
        table = torch.cat(tables) if tables else pos.new_zeros(0, k, dtype=torch.int64)
        return Neighborhood.from_table(table)
    counts = torch.tensor(degrees).repeat_interleave(torch.tensor(sizes))
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
    _check_whole("k", k)
    _check_flow(flow)
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
        _check_whole("max_num_neighbors", max_num_neighbors)
    _check_flow(flow)
    if backend == "torch_cluster":
        raise ValueError("Expected `backend` to be auto, torch or scipy, got 'torch_cluster'")
    sizes = [size for size in check_clouds(x, batch) if size > 0]
    search = _choose(backend, x, 1, max(sizes, default=0))
    within = _within_scipy if search is _search_scipy else _within_torch
    edges, start = [], 0
    with torch.autocast(x.device.type, enabled=False):
        for cloud in x.detach().split(sizes):
            source, target = within(cloud, r)
            distance = _distances(cloud, source, target)
            kept = distance <= torch.tensor(r, dtype=cloud.dtype, device=cloud.device)
            if not loop:
                kept &= source != target
            source, target, distance = source[kept], target[kept], distance[kept]
            # A point comes before others at the same place, and equals in the order of indices.
            order = torch.argsort(source, stable=True)
            ahead = torch.where(source == target, -1.0, distance)
            order = order[torch.argsort(ahead[order], stable=True)]
            order = order[torch.argsort(target[order], stable=True)]
            source, target = source[order], target[order]
            if max_num_neighbors is not None:
                first = torch.searchsorted(target, torch.arange(len(cloud), device=x.device))
                rank = torch.arange(len(target), device=x.device) - first[target]
                source, target = source[rank < max_num_neighbors], target[rank < max_num_neighbors]
            edges.append(torch.stack([source, target]) + start)
            start += len(cloud)
    edge_index = torch.cat(edges, 1) if edges else x.new_zeros(2, 0, dtype=torch.int64)
    return edge_index if flow == "source_to_target" else edge_index.flip(0)


def _distances(cloud: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return the lengths of edges in the type of the positions, `[E]`."""
    return (cloud[source] - cloud[target]).square().sum(-1).sqrt()


def _check_whole(name: str, value: Any) -> None:
    if type(value) is bool or not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be a whole number, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"Expected `{name}` >= 1, got {value}")


def _check_flow(flow: str) -> None:
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(
            f"Expected `flow` to be 'source_to_target' or 'target_to_source', got {flow!r}"
        )


def check_clouds(pos: Tensor, batch: Tensor | None) -> list[int]:
    """Check positions and their assignment to clouds, and count the points of every cloud.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes or devices do not fit, a position is not finite, or `batch` is not
            sorted or negative.
    """
    for name, value in (("pos", pos), ("batch", batch)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"Expected `{name}` to be a tensor, got a {type(value).__name__}")
    if pos.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"Expected `pos` to be float32 or float64, got {pos.dtype}: call pos.float() first "
            "(16-bit positions cannot tell neighbours apart)"
        )
    if pos.dim() != 2 or pos.size(1) < 1:
        raise ValueError(f"Expected `pos` of shape [N, D], got {list(pos.shape)}")
    if not bool(torch.isfinite(pos).all()):
        raise ValueError("Expected finite `pos`, got NaN or infinity")
    if batch is None:
        return [pos.size(0)] if pos.size(0) else []
    if batch.dtype != torch.int64:
        raise TypeError(f"Expected `batch` to be int64, got {batch.dtype}")
    if batch.shape != (pos.size(0),):
        raise ValueError(f"Expected `batch` of shape [{pos.size(0)}], got {list(batch.shape)}")
    if batch.device != pos.device:
        raise ValueError(f"Expected `batch` on {pos.device} like `pos`, got {batch.device}")
    if batch.numel() and (bool((batch[1:] < batch[:-1]).any()) or int(batch[0]) < 0):
        raise ValueError("Expected `batch` to be sorted and not negative, got unsorted clouds")
    return torch.bincount(batch).tolist()


_Search = Callable[[Tensor, int, bool], Tensor]
"""From a cloud `[n, D]` and k to a table `[n, k]`, the nearest first if it is to be ordered."""


def _choose(backend: str, pos: Tensor, k: int, largest: int) -> _Search:
    """Pick the search for clouds of up to `largest` points."""
    if backend not in _BACKENDS:
        raise ValueError(f"Expected `backend` to be one of {', '.join(_BACKENDS)}, got {backend!r}")
    if backend == "auto":
        tree_from = _TREE_POINTS_CUDA if pos.is_cuda else _TREE_POINTS
        pays = largest > tree_from and pos.size(1) <= 8
        return _search_scipy if pays and _installed("scipy") else _search_torch
    if backend == "torch":
        return _search_torch
    if not _installed(backend):
        raise RuntimeError(f"The backend {backend!r} is not installed")
    if backend == "scipy":
        return _search_scipy
    if pos.is_cuda and k > _TORCH_CLUSTER_CUDA_LIMIT:
        raise RuntimeError(
            f"The backend 'torch_cluster' takes at most k = {_TORCH_CLUSTER_CUDA_LIMIT} on CUDA, "
            f"got {k}: use 'torch'"
        )
    return _search_torch_cluster


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _search_torch(cloud: Tensor, k: int, ordered: bool) -> Tensor:
    return _search_torch_batched(cloud.unsqueeze(0), k, ordered)


def _search_torch_batched(clouds: Tensor, k: int, ordered: bool) -> Tensor:
    """Brute force over B clouds of n points, `[B, n, D]`; returns global indices `[B * n, k]`."""
    num_clouds, size, _ = clouds.shape
    table = torch.empty(num_clouds, size, k, dtype=torch.int64, device=clouds.device)
    step_clouds = max(1, _CHUNK_ELEMENTS // size**2)
    step_rows = max(1, _CHUNK_ELEMENTS // size)
    for first in range(0, num_clouds, step_clouds):
        chunk = clouds[first : first + step_clouds]
        start = torch.arange(first, first + len(chunk), device=clouds.device) * size
        for row in range(0, size, step_rows):
            rows = chunk[:, row : row + step_rows]
            distance = torch.cdist(rows, chunk, compute_mode="donot_use_mm_for_euclid_dist")
            # A point comes first among its neighbours even where others lie at the same place.
            distance.diagonal(row, 1, 2).fill_(-1)
            nearest = distance.topk(k, dim=-1, largest=False, sorted=ordered).indices
            table[first : first + len(chunk), row : row + step_rows] = (
                nearest + start[:, None, None]
            )
    return table.view(-1, k)


def _search_scipy(cloud: Tensor, k: int, ordered: bool) -> Tensor:
    table = _search_coinciding(cloud, k) if _many_coincide(cloud) else _search_tree(cloud, k)
    return _with_self_first(table).to(cloud.device)


def _search_tree(points: Tensor, k: int) -> Tensor:
    """Return the k nearest of every point, `[n, k]`, from a k-d tree."""
    from scipy.spatial import cKDTree

    array = points.cpu().numpy()
    table = torch.empty(len(points), k, dtype=torch.int64)
    tree = cKDTree(array)
    # Leaf by leaf: a search then walks through what the one before has brought into the cache.
    for rows in torch.from_numpy(tree.indices).split(max(1, _CHUNK_ELEMENTS // k)):
        _, nearest = tree.query(array[rows.numpy()], k=k, workers=-1)
        table[rows] = torch.from_numpy(nearest).view(-1, k)
    return table


def _many_coincide(cloud: Tensor) -> bool:
    """True if many points lie at one place, which makes one leaf of a tree that is searched whole.

    Points at one place have one projection; others hardly ever do.
    """
    direction = torch.linspace(1.0, 2.0, cloud.size(1), dtype=torch.float64).sqrt()
    _, runs = (
        (cloud.cpu().double() @ direction).sort().values.unique_consecutive(return_counts=True)
    )
    return int(runs.max()) > _COINCIDING


def _search_coinciding(cloud: Tensor, k: int) -> Tensor:
    """Return the k nearest of every point, `[n, k]`, where many coincide: search places instead."""
    places, place, sizes = torch.unique(cloud.cpu(), dim=0, return_inverse=True, return_counts=True)
    members = torch.argsort(place, stable=True)
    first = sizes.cumsum(0) - sizes
    nearest = _search_tree(places, min(k, len(places)))
    ends = sizes[nearest].cumsum(1)
    slots = torch.arange(k).expand(len(places), k).contiguous()
    column = torch.searchsorted(ends, slots, right=True)
    chosen = nearest.gather(1, column)
    begins = ends - sizes[nearest]
    return members[first[chosen] + slots - begins.gather(1, column)][place]


def _search_torch_cluster(cloud: Tensor, k: int, ordered: bool) -> Tensor:
    from torch_cluster import knn

    table = knn(cloud.contiguous(), cloud.contiguous(), k)[1].view(-1, k)
    distance = (cloud[table] - cloud.unsqueeze(1)).square().sum(-1)
    return _with_self_first(table.gather(1, distance.argsort(dim=1, stable=True)))


def _with_self_first(table: Tensor) -> Tensor:
    """Move every point to the front of its row; a duplicate may have displaced it."""
    own = torch.arange(len(table), device=table.device)
    astray = (table[:, 0] != own).nonzero().squeeze(1)
    if astray.numel():
        rows = table[astray]
        is_own = rows == own[astray, None]
        is_own[:, -1] |= ~is_own.any(1)
        others = rows[~is_own].view(len(rows), -1)
        table[astray] = torch.cat([own[astray, None], others], 1)
    return table


_MARGIN = 1e-5
"""How much farther than the radius pairs are searched, relatively; the exact test comes after."""


def _within_torch(cloud: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """Return sources and targets of a superset of all pairs within r, by brute force."""
    found = []
    step = max(1, _CHUNK_ELEMENTS // len(cloud))
    reach = r * (1 + _MARGIN)
    for start in range(0, len(cloud), step):
        distance = torch.cdist(
            cloud[start : start + step], cloud, compute_mode="donot_use_mm_for_euclid_dist"
        )
        target, source = (distance <= reach).nonzero(as_tuple=True)
        found.append((source, target + start))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _within_scipy(cloud: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """Return the same from a k-d tree, a chunk of targets at a time."""
    import numpy as np
    from scipy.spatial import cKDTree

    points = cloud.cpu().numpy()
    tree = cKDTree(points)
    sources, targets = [], []
    for start in range(0, len(points), _CHUNK_ELEMENTS // 64):
        rows = tree.indices[start : start + _CHUNK_ELEMENTS // 64]  # see _search_scipy
        lists = tree.query_ball_point(points[rows], r * (1 + _MARGIN), workers=-1)
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        sources.append(np.concatenate(lists).astype(np.int64))
        targets.append(np.repeat(rows, counts))
    source = torch.from_numpy(np.concatenate(sources)).to(cloud.device)
    target = torch.from_numpy(np.concatenate(targets)).to(cloud.device)
    return source, target
