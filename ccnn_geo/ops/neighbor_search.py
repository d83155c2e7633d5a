"""Neighbour search: k nearest and radius, any k, any dimension, clouds of any size.

PyG's own `knn_graph` needs pyg-lib, and the CUDA kernels of pyg-lib and torch-cluster stop at
k = 100. The chunked torch search here always works; scipy and torch-cluster are faster where they
apply. All of them return the same neighbours, ties aside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from ccnn_geo.ops.neighborhood import Neighborhood

_BACKENDS = ("auto", "torch", "scipy", "torch_cluster")
_CHUNK_ELEMENTS = 2**22
_TREE_POINTS = 2_048
_TREE_POINTS_CUDA = 65_536
_TORCH_CLUSTER_CUDA_LIMIT = 100


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
    if k < 1:
        raise ValueError(f"Expected `k` >= 1, got {k}")
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
    pos: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    loop: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Connect every point to its k nearest points, within its own cloud.

    Every target has exactly min(k, points in its cloud) edges, itself among them.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        k: Neighbours per point.
        batch: Cloud of every point, sorted, `[N]`.
        loop: Whether a point counts among its own neighbours; without, the k nearest others.
        backend: See `nearest_neighbors`.

    Returns:
        Sources and targets, sorted by target, nearest first, `[2, E]` (PyG's `edge_index`).

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`.
        RuntimeError: See `nearest_neighbors`.
    """
    if k < 1:
        raise ValueError(f"Expected `k` >= 1, got {k}")
    edge_index = nearest_neighbors(pos, k if loop else k + 1, batch, backend=backend).edge_index
    return edge_index if loop else edge_index[:, edge_index[0] != edge_index[1]]


def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    *,
    loop: bool = True,
    max_num_neighbors: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Connect every point to all points of its cloud that are no farther than r.

    Args:
        pos: Positions, float32 or float64, `[N, D]`.
        r: Radius, in the unit of `pos`.
        batch: Cloud of every point, sorted, `[N]`.
        loop: Whether a point is its own neighbour.
        max_num_neighbors: Keep only so many, the nearest; all unless given.
        backend: `"auto"`, `"torch"` or `"scipy"`.

    Returns:
        Sources and targets, sorted by target, nearest first, `[2, E]`.

    Raises:
        TypeError: See `nearest_neighbors`.
        ValueError: See `nearest_neighbors`; or if `r` or `max_num_neighbors` is not positive.
        RuntimeError: If the backend cannot search these points here.
    """
    if not r > 0:
        raise ValueError(f"Expected `r` > 0, got {r}")
    if max_num_neighbors is not None and max_num_neighbors < 1:
        raise ValueError(f"Expected `max_num_neighbors` >= 1, got {max_num_neighbors}")
    if backend == "torch_cluster":
        raise ValueError("Expected `backend` to be auto, torch or scipy, got 'torch_cluster'")
    sizes = [size for size in check_clouds(pos, batch) if size > 0]
    search = _choose(backend, pos, 1, max(sizes, default=0))
    within = _within_scipy if search is _search_scipy else _within_torch
    edges, start = [], 0
    with torch.autocast(pos.device.type, enabled=False):
        for cloud in pos.detach().split(sizes):
            source, target, distance = within(cloud, r)
            if not loop:
                kept = source != target
                source, target, distance = source[kept], target[kept], distance[kept]
            order = torch.argsort(distance, stable=True)
            order = order[torch.argsort(target[order], stable=True)]
            source, target = source[order], target[order]
            if max_num_neighbors is not None:
                first = torch.searchsorted(target, torch.arange(len(cloud), device=pos.device))
                rank = torch.arange(len(target), device=pos.device) - first[target]
                source, target = source[rank < max_num_neighbors], target[rank < max_num_neighbors]
            edges.append(torch.stack([source, target]) + start)
            start += len(cloud)
    return torch.cat(edges, 1) if edges else pos.new_zeros(2, 0, dtype=torch.int64)


def check_clouds(pos: Tensor, batch: Tensor | None) -> list[int]:
    """Check positions and their assignment to clouds, and count the points of every cloud.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes or devices do not fit, a position is not finite, or `batch` is not
            sorted or negative.
    """
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
    from scipy.spatial import cKDTree

    points = cloud.cpu().numpy()
    table = torch.empty(len(cloud), k, dtype=torch.int64)
    tree = cKDTree(points)
    # Leaf by leaf: what a search walks through is then still in the cache from the one before.
    for rows in torch.from_numpy(tree.indices).split(max(1, _CHUNK_ELEMENTS // k)):
        _, nearest = tree.query(points[rows.numpy()], k=k, workers=-1)
        table[rows] = torch.from_numpy(nearest).view(-1, k)
    return _with_self_first(table).to(cloud.device)


def _search_torch_cluster(cloud: Tensor, k: int, ordered: bool) -> Tensor:
    from torch_cluster import knn

    table = knn(cloud.contiguous(), cloud.contiguous(), k)[1].view(-1, k)
    distance = (cloud[table] - cloud.unsqueeze(1)).square().sum(-1)
    return _with_self_first(table.gather(1, distance.argsort(dim=1, stable=True)))


def _with_self_first(table: Tensor) -> Tensor:
    """Move every point to the front of its row; among equals it may come late or not at all."""
    own = torch.arange(len(table), device=table.device)
    astray = (table[:, 0] != own).nonzero().squeeze(1)
    if astray.numel():
        rows = table[astray]
        is_own = rows == own[astray, None]
        is_own[:, -1] |= ~is_own.any(1)
        others = rows[~is_own].view(len(rows), -1)
        table[astray] = torch.cat([own[astray, None], others], 1)
    return table


def _within_torch(cloud: Tensor, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs no farther apart than r: sources, targets and distances, by brute force."""
    found = []
    step = max(1, _CHUNK_ELEMENTS // len(cloud))
    for start in range(0, len(cloud), step):
        distance = torch.cdist(
            cloud[start : start + step], cloud, compute_mode="donot_use_mm_for_euclid_dist"
        )
        target, source = (distance <= r).nonzero(as_tuple=True)
        found.append((source, target + start, distance[target, source]))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _within_scipy(cloud: Tensor, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same from a k-d tree, a chunk of targets at a time."""
    import numpy as np
    from scipy.spatial import cKDTree

    points = cloud.cpu().numpy()
    tree = cKDTree(points)
    sources, targets = [], []
    for start in range(0, len(points), _CHUNK_ELEMENTS // 64):
        rows = tree.indices[start : start + _CHUNK_ELEMENTS // 64]  # see _search_scipy
        lists = tree.query_ball_point(points[rows], r, workers=-1)
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        sources.append(np.concatenate(lists).astype(np.int64))
        targets.append(np.repeat(rows, counts))
    source = torch.from_numpy(np.concatenate(sources)).to(cloud.device)
    target = torch.from_numpy(np.concatenate(targets)).to(cloud.device)
    return source, target, (cloud[source] - cloud[target]).square().sum(-1).sqrt()
