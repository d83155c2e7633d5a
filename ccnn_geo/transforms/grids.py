"""Transforms of signals on grids, `x [1, C, *S]`, as `SignalDataset` returns them."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data

from ccnn_geo.transforms.base import ShowsOptions, check_count, drop_points, require_tensor

__all__ = [
    "FlattenGrid",
    "GridToPoints",
    "MaskEmptyCells",
    "NormalizeChannels",
    "RandomCrop",
    "RandomFlip",
    "RandomRotateImage",
    "RandomShift",
    "ResizeImage",
]

Padding = Literal["zeros", "symmetric"]


class RandomShift(ShowsOptions):
    """Shifts a signal by a random number of cells along each axis.

    This is a random crop of the signal's own size after padding by `max_shift` on every side.

    Args:
        max_shift: Largest shift in cells, at least 1.
        padding: What moves in from outside: zeros, or the signal reflected at its border, including
            the cells at the border (NumPy's `symmetric`).

    Raises:
        ValueError: If an argument is out of range or `x` not a grid.
    """

    def __init__(self, max_shift: int, padding: Padding = "zeros") -> None:
        if padding not in get_args(Padding):
            raise ValueError(
                f"Expected `padding` to be one of {get_args(Padding)}, got {padding!r}"
            )
        self.max_shift = check_count("max_shift", max_shift)
        self.padding = padding

    def forward(self, data: Data) -> Data:
        """Shift one signal."""
        x = _grid(data)
        axes = range(2, x.dim())
        reach = self.max_shift
        steps = torch.randint(-reach, reach + 1, (len(axes),)).tolist()
        for axis, step in zip(axes, steps, strict=True):
            size = x.size(axis)
            source = torch.arange(-step, size - step)
            inside = (source >= 0) & (source < size)
            source %= 2 * size  # the period of the signal and its reflection
            x = x.index_select(axis, torch.minimum(source, 2 * size - 1 - source))
            if self.padding == "zeros":
                x = x.masked_fill(~inside.view(-1, *[1] * (x.dim() - 1 - axis)), 0)
        data.x = x
        return data


class RandomFlip(ShowsOptions):
    """Reverses a grid along one axis at random.

    Args:
        axis: The axis of the cells; the last one by default, which mirrors an image horizontally.
        p: Probability.

    Raises:
        ValueError: If `p` is no probability, if `x` is not a grid or has no such axis.
    """

    def __init__(self, axis: int = -1, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Expected `p` from 0 to 1, got {p}")
        self.axis = axis
        self.p = p

    def forward(self, data: Data) -> Data:
        """Reverse one grid or leave it as it is."""
        x = _grid(data)
        dim = x.dim() - 2
        if not -dim <= self.axis < dim:
            raise ValueError(f"Expected `axis` of a grid of {dim} axes, got {self.axis}")
        if torch.rand(()) < self.p:
            data.x = x.flip(2 + self.axis % dim)
        return data


class RandomCrop(ShowsOptions):
    """Cuts a random part out of a grid, of the same size along each axis.

    Args:
        size: Number of cells along each axis, at least 1.

    Raises:
        ValueError: If `size` is below 1, or if `x` is not a grid or smaller.
    """

    def __init__(self, size: int) -> None:
        self.size = check_count("size", size)

    def forward(self, data: Data) -> Data:
        """Crop one grid."""
        x = _grid(data)
        if min(x.shape[2:]) < self.size:
            raise ValueError(
                f"Expected a grid of {self.size} cells or more along each axis, got "
                f"{list(x.shape[2:])}"
            )
        for axis in range(2, x.dim()):
            start = int(torch.randint(x.size(axis) - self.size + 1, ()))
            x = x.narrow(axis, start, self.size)
        data.x = x
        return data


class RandomRotateImage(ShowsOptions):
    """Rotates an image about its centre by a random angle, bilinearly interpolated.

    What moves in from outside is zero.

    Args:
        degrees: Largest angle in either direction.

    Raises:
        ValueError: If `degrees` is negative, or `x` is not an image.
    """

    def __init__(self, degrees: float) -> None:
        if not 0 <= degrees < math.inf:
            raise ValueError(f"Expected `degrees` of at least 0, got {degrees}")
        self.degrees = degrees

    def forward(self, data: Data) -> Data:
        """Rotate one image."""
        x = _image(data)
        angle = math.radians(self.degrees * (2 * torch.rand(()).item() - 1))
        cosine, sine = math.cos(angle), math.sin(angle)
        height, width = x.shape[2:]
        # Coordinates are from -1 to 1 along each axis, whatever its number of pixels.
        rotation = torch.tensor(
            [[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]
        )
        grid = F.affine_grid(rotation[None], list(x.shape), align_corners=False)
        data.x = F.grid_sample(x, grid, align_corners=False)
        return data


class ResizeImage(ShowsOptions):
    """Resizes an image to a square, bilinearly interpolated.

    Smaller images are low-pass filtered first, as by Pillow.

    Args:
        size: Number of pixels along each axis, at least 1.

    Raises:
        ValueError: If `size` is below 1, or `x` is not an image.
    """

    def __init__(self, size: int) -> None:
        self.size = check_count("size", size)

    def forward(self, data: Data) -> Data:
        """Resize one image."""
        x = _image(data)
        if tuple(x.shape[2:]) != (self.size, self.size):
            data.x = F.interpolate(x, [self.size, self.size], mode="bilinear", antialias=True)
        return data


class NormalizeChannels(ShowsOptions):
    """Subtracts a mean of each channel and divides by a deviation.

    Args:
        mean: Mean of each channel, `[C]`.
        deviation: Standard deviation of each channel, `[C]`.

    Raises:
        ValueError: If there are not as many means as deviations and channels, if a deviation is not
            positive, or if `x` is not a grid.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        if len(mean) != len(deviation) or not all(value > 0 for value in deviation):
            raise ValueError(
                f"Expected as many `mean` as `deviation`, all positive, got {list(mean)} and "
                f"{list(deviation)}"
            )
        self.mean = list(mean)
        self.deviation = list(deviation)

    def forward(self, data: Data) -> Data:
        """Normalize one grid."""
        x = _grid(data)
        if x.size(1) != len(self.mean):
            raise ValueError(f"Expected `x` of {len(self.mean)} channels, got {x.size(1)}")
        per_channel = (-1, *[1] * (x.dim() - 2))
        mean, deviation = (
            x.new_tensor(values).view(per_channel) for values in (self.mean, self.deviation)
        )
        data.x = (x - mean) / deviation
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


def _image(data: Data) -> Tensor:
    x = _grid(data)
    if x.dim() != 4:
        raise ValueError(f"Expected an image `x` of shape [1, C, H, W], got {list(x.shape)}")
    return x


def _occupied(x: Tensor) -> Tensor:
    occupied = (x != 0).any(1)
    return occupied if bool(occupied.any()) else torch.ones_like(occupied)
