"""Voxelization of clouds, its inverse, and a view of voxels in open3d.

The grid has `resolution` cells along each axis of the box [-1, 1]. The position of a voxel is the
centre of its cell, which is also its feature (Knigge et al. 2023, App. C, ModelNet10).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from ccnn_geo.extras import import_extra
from ccnn_geo.transforms.base import ShowsOptions, check_count, drop_points, require_tensor
from ccnn_geo.transforms.functional import subset_indices

__all__ = [
    "VoxelsToPoints",
    "Voxelize",
    "occupied_cells",
    "open3d_voxels",
    "voxel_cells",
    "voxel_centers",
]

_TOLERANCE = 1e-4


class Voxelize(ShowsOptions):
    r"""Replaces a cloud by its occupied voxels.

    The feature `x` of an occupied voxel is its position, independent of the number of its points.
    All other attributes of the points are removed.

    Args:
        resolution: Number of cells along each axis, R.
        max_voxels: Largest number of voxels, of which more are subsampled at random; unlimited by
            default.
        dense: If True, return grids with a mask of the occupied voxels and zeros elsewhere, instead
            of points.
        generator: Generator; the global one by default.

    Shapes:
        - **input:** `pos [N, D]`, in [-1, 1]
        - **output:** `pos [V, D]`, `x [V, D]` and the cells `voxel [V, D]`, int64, sorted; or, if
          `dense`, `x [1, D, R, ..., R]` and `mask [1, R, ..., R]`, bool

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is below 1, or if `pos` is missing, empty or not within [-1, 1].
    """

    def __init__(
        self,
        resolution: int = 40,
        max_voxels: int | None = None,
        *,
        dense: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.resolution = check_count("resolution", resolution)
        self.max_voxels = None if max_voxels is None else check_count("max_voxels", max_voxels)
        self.dense = dense
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Voxelize one cloud."""
        pos = require_tensor(data, "pos")
        cells = occupied_cells(pos, self.resolution)
        if self.max_voxels is not None:
            kept = subset_indices(len(cells), self.max_voxels, self.generator)
            cells = cells[kept.sort().values.to(cells.device)]
        drop_points(data)
        centers = voxel_centers(cells, self.resolution).to(pos)
        if not self.dense:
            data.pos, data.x, data.voxel = centers, centers.clone(), cells
            return data
        shape = (self.resolution,) * cells.size(1)
        mask = torch.zeros(shape, dtype=torch.bool, device=pos.device)
        mask[cells.unbind(1)] = True
        # Sorted cells are in the order of boolean indexing.
        grid = pos.new_zeros(cells.size(1), *shape)
        grid[:, mask] = centers.t()
        data.mask, data.x = mask.unsqueeze(0), grid.unsqueeze(0)
        return data


class VoxelsToPoints(ShowsOptions):
    r"""Converts grids to points at the centres of their occupied voxels.

    The output is the same as from `Voxelize` with `dense=False`. Grids may have any number of
    channels, such as the output of a network.

    Shapes:
        - **input:** `x [1, C, *S]` and `mask [1, *S]`, bool, the grid of D axes S over [-1, 1]
        - **output:** `pos [V, D]`, `x [V, C]` and the cells `voxel [V, D]`, int64

    Raises:
        ValueError: If `x` or `mask` is missing, or if their shapes or types do not fit.
    """

    def forward(self, data: Data) -> Data:
        """Convert one grid with its mask."""
        x, mask = require_tensor(data, "x"), require_tensor(data, "mask")
        shape = mask.shape[1:]
        if mask.dtype != torch.bool or len(mask) != 1 or len(shape) == 0:
            raise ValueError(
                f"Expected `mask` of shape [1, *S] and type bool, got {list(mask.shape)} and "
                f"{mask.dtype}"
            )
        if x.dim() != len(shape) + 2 or (len(x), x.shape[2:]) != (1, shape):
            raise ValueError(f"Expected `x` of shape [1, C, {list(shape)}], got {list(x.shape)}")
        cells = mask[0].nonzero()
        drop_points(data)
        for key in ("mask", "x"):
            if key in data:
                del data[key]
        data.x = x[0][:, mask[0]].t().contiguous()
        data.pos = voxel_centers(cells, tuple(shape)).to(x)
        data.voxel = cells
        return data


def voxel_cells(pos: Tensor, resolution: int) -> Tensor:
    """Return the cell of every point of a cloud.

    Args:
        pos: Positions in [-1, 1], `[N, D]`.
        resolution: Number of cells along each axis, R.

    Returns:
        Indices from 0 to R - 1, `[N, D]`, int64. A point on a boundary is in the higher cell.

    Raises:
        TypeError: If `resolution` is not an integer.
        ValueError: If there are no points, or if a point is not within [-1, 1].
    """
    check_count("resolution", resolution)
    if pos.dim() != 2 or len(pos) == 0:
        raise ValueError(f"Expected `pos` of shape [N, D] with N >= 1, got {list(pos.shape)}")
    reach = float(pos.abs().max())
    if not reach <= 1 + _TOLERANCE:
        raise ValueError(
            f"Expected `pos` in [-1, 1], got coordinates as large as {reach:g}: normalise first"
        )
    # Rounding must not move the centre or the lower end of a cell into the previous one.
    cells = ((pos.double() + 1) * (resolution / 2) + 1e-6).floor()
    return cells.long().clamp(0, resolution - 1)


def occupied_cells(pos: Tensor, resolution: int) -> Tensor:
    """Return the distinct cells of the points in lexicographic order, `[V, D]`.

    See `voxel_cells` for arguments and errors.
    """
    cells = voxel_cells(pos, resolution)
    if resolution ** pos.size(1) >= 2**63:
        return torch.unique(cells, dim=0)
    # Sorting one number per cell is many times faster than sorting rows.
    strides = resolution ** torch.arange(pos.size(1) - 1, -1, -1, device=pos.device)
    numbers = torch.unique((cells * strides).sum(1))
    return numbers.unsqueeze(1) // strides % resolution


def voxel_centers(cells: Tensor, resolution: int | tuple[int, ...]) -> Tensor:
    """Return the centres of cells of a grid over [-1, 1], `[V, D]`, float64.

    Args:
        cells: Indices of the cells, `[V, D]`.
        resolution: Number of cells along each axis, one number or one per axis.
    """
    sizes = torch.as_tensor(resolution, dtype=torch.float64, device=cells.device)
    return (2 * cells + 1) / sizes - 1


def open3d_voxels(pos: Tensor, resolution: int = 40) -> Any:
    """Return an open3d `VoxelGrid` of the occupied voxels, coloured by height.

    `open3d.visualization.draw_geometries([open3d_voxels(pos)])` shows it on a screen.

    Args:
        pos: Positions of points or voxels in [-1, 1], `[N, 3]`.
        resolution: Number of cells along each axis.

    Raises:
        ValueError: If `pos` is of another shape, empty or not within [-1, 1].
        ImportError: If open3d is not installed.
    """
    if pos.dim() != 2 or pos.size(1) != 3:
        raise ValueError(f"Expected `pos` of shape [N, 3], got {list(pos.shape)}")
    cells = occupied_cells(pos, resolution)
    open3d = import_extra("open3d", "to view voxels", extra="mesh")
    grid = open3d.geometry.VoxelGrid()
    grid.voxel_size = 2 / resolution
    grid.origin = (-1.0, -1.0, -1.0)
    heights = (cells[:, 2] / max(resolution - 1, 1)).tolist()
    for cell, height in zip(cells.cpu().numpy(), heights, strict=True):
        grid.add_voxel(open3d.geometry.Voxel(cell, (height, 0.4, 1 - height)))
    return grid
