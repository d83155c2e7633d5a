"""Transforms of signals on grids: `x [1, C, *S]`, as a :class:`SignalDataset` hands them out."""

import math

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ccnn_geo.transforms.base import ShowsOptions, drop_points, require_tensor

__all__ = ["FlattenGrid", "GridToPoints", "MaskEmptyCells", "RandomShift"]


class RandomShift(ShowsOptions):
    """Moves a signal by a random whole number of cells along every axis; zeros move in.

    Args:
        max_shift: The most cells, at least 1.

    Raises:
        ValueError: If ``max_shift`` is below 1 or ``x`` not a grid.
    """

    def __init__(self, max_shift: int) -> None:
        if max_shift < 1:
            raise ValueError(f"Expected `max_shift` to be at least 1, got {max_shift}")
        self.max_shift = max_shift

    def forward(self, data: Data) -> Data:
        """Moves one signal."""
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
    """Makes a sequence of a grid, `x [1, C, prod(S)]`, row by row.

    Args:
        permutation_seed: Seed of a random order of the cells, the same for all grids of as many
            cells; row by row by default.

    Raises:
        ValueError: If ``x`` is not a grid.
    """

    def __init__(self, permutation_seed: int | None = None) -> None:
        self.permutation_seed = permutation_seed

    def forward(self, data: Data) -> Data:
        """Flattens one grid."""
        x = _grid(data).flatten(2)
        if self.permutation_seed is not None:
            order = np.random.default_rng(self.permutation_seed).permutation(x.size(2))
            x = x[..., torch.from_numpy(order)]
        data.x = x
        return data


class MaskEmptyCells(ShowsOptions):
    """Adds `mask [1, *S]`, which cells are not zero; of a grid that is zero everywhere, all.

    Raises:
        ValueError: If ``x`` is not a grid.
    """

    def forward(self, data: Data) -> Data:
        """Masks one grid."""
        data.mask = _occupied(_grid(data))
        return data


class GridToPoints(ShowsOptions):
    """Makes a cloud of the cells of a grid that are not zero; of one that is zero everywhere, all.

    Positions are those of ``ccnn_geo.ops.grid_positions``, in steps of the grid from its first
    cell. So a network for the grid, masked by :class:`MaskEmptyCells`, takes the cloud as well, and
    to it they are the same.

    Args:
        keep_empty: Whether cells that are zero become points too.

    Shapes:
        - **output:** `x [N, C]`, `pos [N, D]`

    Raises:
        ValueError: If ``x`` is not a grid.
    """

    def __init__(self, *, keep_empty: bool = False) -> None:
        self.keep_empty = keep_empty

    def forward(self, data: Data) -> Data:
        """Makes a cloud of one grid."""
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
