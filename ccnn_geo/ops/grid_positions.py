"""Regular grids as points: where their cells lie, who sees whom, which taps a kernel has."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.scalars import is_count, is_positive, spread


def grid_positions(
    size: tuple[int, ...],
    spacing: float | tuple[float, ...] = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Positions of the cells of a grid, in the order in which `x.flatten(2)` has them.

    Args:
        size: Cells along every axis.
        spacing: Step of the grid in the unit wanted, one number or one per axis.
        dtype: Type of the positions, that of `torch.get_default_dtype()` unless given.
        device: Where they shall be.

    Returns:
        Positions `[prod(S), D]`; the first cell lies at the origin.

    Raises:
        ValueError: If an axis is empty, or a step not positive or missing.
    """
    size = check_size(size)
    steps = per_axis("spacing", spacing, len(size))
    dtype = dtype or torch.get_default_dtype()
    axes = (
        torch.arange(cells, dtype=dtype, device=device) * step
        for cells, step in zip(size, steps, strict=True)
    )
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def dense_graph(size: tuple[int, ...], *, device: torch.device | str | None = None) -> Tensor:
    """Connect every cell of a grid to all of them, itself among them.

    A `CKConvMP` on this graph is its convolution on the grid, however far its kernel reaches. For
    tests and small grids: there are prod(S)^2 edges.

    Args:
        size: Cells along every axis.
        device: Where the edges shall be.

    Returns:
        Sources and targets, sorted by target, `[2, prod(S)^2]`.

    Raises:
        ValueError: If an axis is empty.
    """
    size = check_size(size)
    cells = torch.arange(math.prod(size), device=device)
    return torch.stack([cells.repeat(len(cells)), cells.repeat_interleave(len(cells))])


def per_axis(name: str, value: float | tuple[float, ...], dim: int) -> tuple[float, ...]:
    """Repeat a number for every axis, or check that there is a positive one for each.

    Raises:
        ValueError: If there are not `dim` values, or one is not a positive finite number.
    """
    values = spread(value, dim)
    if len(values) != dim or not all(map(is_positive, values)):
        raise ValueError(f"Expected `{name}` to be positive, one number or {dim}, got {value!r}")
    return tuple(map(float, values))


def per_axis_period(
    period: float | tuple[float | None, ...] | None, dim: int
) -> tuple[float | None, ...] | None:
    """Repeat a period for every axis, or check that there is a positive one or None for each.

    Returns:
        A period per axis, None along axes that are not periodic; or None if no axis is.

    Raises:
        ValueError: If there are not `dim` values, or one is neither None nor positive and finite.
    """
    values = spread(period, dim)
    if len(values) != dim or not all(each is None or is_positive(each) for each in values):
        raise ValueError(
            f"Expected `period` to be positive, one number or {dim} with None for axes that are "
            f"not periodic, got {period!r}"
        )
    if all(each is None for each in values):
        return None
    return tuple(None if each is None else float(each) for each in values)


def check_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of cells of a grid, at least one along every axis.

    Raises:
        ValueError: If there is no axis, or one without a cell.
    """
    if not isinstance(size, (tuple, list)) or not size or not all(map(is_count, size)):
        raise ValueError(f"Expected `size` to have at least one cell per axis, got {size!r}")
    return tuple(map(int, size))
