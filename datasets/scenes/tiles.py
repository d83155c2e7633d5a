"""Thinning of scans, and the tiles that a network sees of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["TileShape", "Tiling", "random_parts", "thinned"]

TileShape = Literal["column", "sphere"]

_MAX_CELLS = 2**62
_LOW_SHARE = 0.02
"""Share of the points of a column below its ground level, which stray points may be."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How scans are thinned and cut into tiles for a network.

    Attributes:
        radius: Radius of a tile in the unit of the scans.
        voxel_size: Side of the voxels of which each keeps one point, in the same unit; 0 keeps all.
        num_points: Largest number of points that the network is given at a time.
        shape: `"column"`, all points within a vertical cylinder, for outdoor scans whose third axis
            points up, or `"sphere"`.
    """

    radius: float
    voxel_size: float
    num_points: int
    shape: TileShape = "column"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (0 < self.radius < np.inf and 0 <= self.voxel_size < np.inf):
            raise ValueError(
                "Expected `radius` > 0 and `voxel_size` >= 0, got "
                f"{self.radius} and {self.voxel_size}"
            )
        if self.num_points < 1:
            raise ValueError(f"Expected `num_points` >= 1, got {self.num_points}")
        if self.shape not in get_args(TileShape):
            raise ValueError(
                f"Expected `shape` to be one of {get_args(TileShape)}, got {self.shape!r}"
            )

    @property
    def axes(self) -> int:
        """Number of axes along which distances from the centre of a tile count."""
        return 2 if self.shape == "column" else 3

    def tree(self, points: np.ndarray) -> cKDTree:
        """Return a search tree of points `[N, 3]`, for `inside`."""
        return cKDTree(points[:, : self.axes])

    def inside(self, tree: cKDTree, center: np.ndarray) -> np.ndarray:
        """Return the points of a tile, ascending indices `[M]`.

        Args:
            tree: Result of `tree`.
            center: Centre of the tile, `[2]` or `[3]`.
        """
        found = tree.query_ball_point(center[: self.axes], self.radius)
        return np.sort(np.array(found, np.int64))

    def local(self, points: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Return the positions that a network is given.

        They are relative to the centre and divided by the radius; the height in a column is
        relative to its ground, the lowest 2 % of the points.

        Args:
            points: Points of the tile, `[M, 3]`.
            center: Centre of the tile, `[2]` or `[3]`.

        Returns:
            Positions `[M, 3]`, float32.
        """
        origin = center.astype(np.float64)
        if self.shape == "column":
            origin = np.append(origin[:2], np.quantile(points[:, 2], _LOW_SHARE))
        return ((points - origin) / self.radius).astype(np.float32)

    def centers(self, points: np.ndarray) -> np.ndarray:
        """Return centres of tiles that overlap and together cover all points.

        They are the centres of the occupied cells of a grid with the step of a radius, so that most
        points are in three or four tiles.

        Args:
            points: Points of the scan, `[N, 3]`.

        Returns:
            Centres `[T, 2]` or `[T, 3]`.
        """
        low = points[:, : self.axes].min(axis=0).astype(np.float64)
        return low + (np.unique(self._cells(points, low), axis=0) + 0.5) * self.radius

    def _cells(self, points: np.ndarray, low: np.ndarray) -> np.ndarray:
        return np.floor((points[:, : self.axes] - low) / self.radius).astype(np.int64)

    def in_cell(self, points: np.ndarray, center: np.ndarray, scan: np.ndarray) -> np.ndarray:
        """Return which points lie in the cell of `centers` in whose middle a tile is, `[M]`.

        Every point of a scan lies in one cell.

        Args:
            points: Points of the tile, `[M, 3]`.
            center: Centre of the tile, one of `centers(scan)`.
            scan: All points of the scan, `[N, 3]`.
        """
        low = scan[:, : self.axes].min(axis=0).astype(np.float64)
        return (self._cells(points, low) == self._cells(center[None], low)).all(axis=1)

    def parts(self, index: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Divide the points of a tile at random into parts of `num_points`, see `random_parts`."""
        return random_parts(index, self.num_points, generator)


def random_parts(
    index: np.ndarray, size: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Divide points at random into parts of one size, so that their density is the same.

    Args:
        index: The points, `[M]`.
        size: Number of points in a part.
        generator: Generator of the division.

    Yields:
        Ascending indices, `size` of them, or all points if there are fewer. Every point is in at
        least one part; those that fill up the last part are in two.
    """
    count = -(-len(index) // size)
    order = generator.permutation(index)
    rest = count * size - len(index)
    if 0 < rest < size and count > 1:
        order = np.concatenate([order, order[:rest]])
    for number in range(max(count, 1)):
        yield np.sort(order[number * size : (number + 1) * size])


def thinned(points: np.ndarray, voxel_size: float) -> np.ndarray:
    """Return one point of every occupied voxel, the first, as ascending indices `[M]`.

    Args:
        points: Points, `[N, 3]`.
        voxel_size: Side of the voxels in the unit of the points; 0 keeps all points.

    Raises:
        ValueError: If there are too many voxels along the axes to number them.
    """
    if voxel_size == 0:
        return np.arange(len(points))
    # In double precision before the difference: whole numbers in 16 bits would overflow.
    scaled = (points.astype(np.float64) - points.min(axis=0)) / voxel_size
    sizes = scaled.max(axis=0) + 1
    if not np.prod(sizes) < _MAX_CELLS:
        raise ValueError(
            f"Expected `voxel_size` of a scan of {np.ptp(points, axis=0).tolist()} large enough to "
            f"number the voxels, got {voxel_size}"
        )
    cells = np.floor(scaled).astype(np.int64)
    counts = cells.max(axis=0) + 1
    numbers = (cells[:, 0] * counts[1] + cells[:, 1]) * counts[2] + cells[:, 2]
    _, first = np.unique(numbers, return_index=True)
    return np.sort(first)
