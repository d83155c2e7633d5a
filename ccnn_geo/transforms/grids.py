"""Transforms of signals on grids, `x [1, C, *S]`, as `SignalDataset` returns them."""

import math

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ccnn_geo.transforms.base import ShowsOptions, check_count, drop_points, require_tensor

__all__ = ["FlattenGrid", "GridToPoints", "MaskEmptyCells", "RandomShift"]


class RandomShift(ShowsOptions):
    """Shifts a signal by a random number of cells along each axis, padded with zeros.

    Args:
        max_shift: Largest shift in cells, at least 1.

    Raises:
        ValueError: If `max_shift` is below 1 or `x` not a grid.
    """

    def __init__(self, max_shift: int) -> None:
        self.max_shift = check_count("max_shift", max_shift)

    def forward(self, data: Data) -> Data:
        """Shift one signal."""
        x = _grid(data)
        axes = range(2, x.dim())
        reach = self.max_shift
        steps = torch.randint(-reach, reach + 1, (len(axes),)).tolist()
        moved = torch.zeros_like(x)
        source, target = x, moved
        for axis, step in zip(axes, steps, strict=True):
            kept = max(x.size(axis) - abs(step), 0)
            source = source.narrow(axis, max(-step, 0) if kept else 0, kept)
            target = target.narrow(axis, max(step, 0) if kept else 0, kept)
        target.copy_(source)
        data.x = moved
        return data


class FlattenGrid(ShowsOptions):
    """Flattens a grid to a sequence, `x [1, C, prod(S)]`.

    Args:
        permutation_seed: Seed of a random order of the cells, which all grids of one size share;
            row by row by default.

    Raises:
        ValueError: If `x` is not a grid.
    """

    def __init__(self, permutation_seed: int | None = None) -> None:
        self.permutation_seed = permutation_seed

    def forward(self, data: Data) -> Data:
        """Flatten one grid."""
        x = _grid(data).flatten(2)
        if self.permutation_seed is not None:
            order = np.random.default_rng(self.permutation_seed).permutation(x.size(2))
            x = x[..., torch.from_numpy(order)]
        data.x = x
        return data


class MaskEmptyCells(ShowsOptions):
    """Adds `mask [1, *S]`, True for cells that are not zero, or for all cells if all are zero.

    Raises:
        ValueError: If `x` is not a grid.
    """

    def forward(self, data: Data) -> Data:
        """Mask one grid."""
        data.mask = _occupied(_grid(data))
        return data


class GridToPoints(ShowsOptions):
    """Converts the cells that are not zero to points, or all cells if all are zero.

    Positions are in steps of the grid from its first cell, as in `ccnn_geo.ops.grid_positions`. A
    network for grids gives the same output for the cloud as for the grid with `MaskEmptyCells`.

    Args:
        keep_empty: If True, cells that are zero become points, too.

    Shapes:
        - **output:** `x [N, C]`, `pos [N, D]`

    Raises:
        ValueError: If `x` is not a grid.
    """

    def __init__(self, *, keep_empty: bool = False) -> None:
        self.keep_empty = keep_empty

    def forward(self, data: Data) -> Data:
        """Convert one grid."""
        x = _grid(data)
        occupied = _occupied(x)[0]
        if self.keep_empty:
            occupied = torch.ones_like(occupied)
        drop_points(data)
        data.x = x[0, :, occupied].t().contiguous()
        data.pos = occupied.nonzero().to(x.dtype)
        return data


def _grid(data: Data) -> Tensor:
    x = require_tensor(data, "x")
    if x.dim() < 3 or len(x) != 1 or math.prod(x.shape) == 0:
        raise ValueError(f"Expected a grid `x` of shape [1, C, *S], got {list(x.shape)}")
    return x


def _occupied(x: Tensor) -> Tensor:
    occupied = (x != 0).any(1)
    return occupied if bool(occupied.any()) else torch.ones_like(occupied)
