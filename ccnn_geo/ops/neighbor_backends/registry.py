"""Choice between the backends of the neighbour search."""

from __future__ import annotations

import importlib.util

from torch import Tensor

from ccnn_geo.ops.periodic import Period

_BACKENDS = ("auto", "torch", "scipy", "torch_cluster")
_TREE_POINTS = 2_048
_TREE_POINTS_PERIODIC = 512
_TREE_POINTS_CUDA = 65_536
_TORCH_CLUSTER_CUDA_LIMIT = 100


def choose(backend: str, pos: Tensor, k: int, largest: int, period: Period | None = None) -> str:
    """Return the name of the backend that searches clouds of up to `largest` points.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If it cannot search these points here.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"Expected `backend` to be one of {', '.join(_BACKENDS)}, got {backend!r}")
    if backend == "auto":
        tree_from = _TREE_POINTS if period is None else _TREE_POINTS_PERIODIC
        if pos.is_cuda:
            tree_from = _TREE_POINTS_CUDA
        pays = largest > tree_from and pos.size(1) <= 8
        return "scipy" if pays and _installed("scipy") else "torch"
    if backend != "torch" and not _installed(backend):
        raise RuntimeError(f"The backend {backend!r} is not installed")
    if backend == "torch_cluster" and pos.is_cuda and k > _TORCH_CLUSTER_CUDA_LIMIT:
        raise RuntimeError(
            f"The backend 'torch_cluster' takes at most k = {_TORCH_CLUSTER_CUDA_LIMIT} on CUDA, "
            f"got {k}: use 'torch'"
        )
    if backend == "torch_cluster" and period is not None:
        raise RuntimeError(
            "The backend 'torch_cluster' knows no periodic boxes: use 'torch' or 'scipy'"
        )
    return backend


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
