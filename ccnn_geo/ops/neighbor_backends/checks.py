"""Input validation of the neighbour search."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.point_backends.checks import check_data, check_dense, check_unmapped


def check_clouds(pos: Tensor, batch: Tensor | None) -> list[int]:
    """Check positions and their assignment to clouds, and count the points of every cloud.

    Args:
        pos: Positions, `[N, D]`.
        batch: Cloud of every point, `[N]`; one cloud unless given.

    Returns:
        The sizes of the clouds that have points.

    Raises:
        TypeError: If `pos` is not float32 or float64, or `batch` not int64.
        ValueError: If shapes or devices do not fit, a position is not finite, or `batch` is not
            sorted or negative, or `vmap` maps over positions or clouds.
    """
    check_data("pos", pos)
    if batch is not None:
        check_dense("batch", batch)
    if pos.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"Expected `pos` to be float32 or float64, got {pos.dtype}: call pos.float() first "
            "(16-bit positions cannot tell neighbours apart)"
        )
    check_unmapped("`pos`", pos)
    if pos.dim() != 2 or pos.size(1) < 1:
        raise ValueError(f"Expected `pos` of shape [N, D], got {list(pos.shape)}")
    if not bool(torch.isfinite(pos).all()):
        raise ValueError("Expected finite `pos`, got NaN or infinity")
    if batch is None:
        return [pos.size(0)] if pos.size(0) else []
    check_unmapped("`batch`", batch)
    if batch.dtype != torch.int64:
        raise TypeError(f"Expected `batch` to be int64, got {batch.dtype}")
    if batch.shape != (pos.size(0),):
        raise ValueError(f"Expected `batch` of shape [{pos.size(0)}], got {list(batch.shape)}")
    if batch.device != pos.device:
        raise ValueError(f"Expected `batch` on {pos.device} like `pos`, got {batch.device}")
    if batch.numel() and (bool((batch[1:] < batch[:-1]).any()) or int(batch[0]) < 0):
        raise ValueError("Expected `batch` to be sorted and not negative, got unsorted clouds")
    return torch.unique_consecutive(batch, return_counts=True)[1].tolist()


def check_flow(flow: str) -> None:
    """Check the direction of the edges.

    Raises:
        ValueError: If it is not one of PyG's.
    """
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(
            f"Expected `flow` to be 'source_to_target' or 'target_to_source', got {flow!r}"
        )
