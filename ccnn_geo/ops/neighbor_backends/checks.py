"""Input validation of the neighbour search."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor


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


def check_count(name: str, value: Any) -> None:
    """Check that a value is a positive whole number.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is less than 1.
    """
    if type(value) is bool or not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be a whole number, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"Expected `{name}` >= 1, got {value}")


def check_flow(flow: str) -> None:
    """Check the direction of the edges.

    Raises:
        ValueError: If it is not one of PyG's.
    """
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(
            f"Expected `flow` to be 'source_to_target' or 'target_to_source', got {flow!r}"
        )
