"""Arguments of a convolution that is made for regular grids of a size."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from ccnn_geo.ops import KernelSupport
from ccnn_geo.ops.grid_positions import check_size, per_axis
from ccnn_geo.ops.kernel_support import check_cutoff
from ccnn_geo.ops.scalars import is_count, spread

_PUBLISHED_WIDTH = 0.075
_LEAST_CELLS = 1.5
"""Cells on either side of the centre that the default window covers at the least: two taps beside
the centre, where a MAGNet is exactly zero."""


def training_grid(
    size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...] | Literal["same"],
    spacing: float | tuple[float, ...],
    *,
    window_width: float | tuple[float, ...] | None = None,
    window_cutoff: float = 0.1,
    causal: bool = False,
    num_neighbors: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the arguments of a convolution for grids of a size.

    The kernel has `kernel_size` taps per axis at this spacing, including those outside the initial
    window: a centre and as many taps on either side, one more than requested if the number is even;
    or as many taps up to the present if it is causal.

    Args:
        size: Cells along every axis.
        kernel_size: Taps per axis, or `"same"` for as many as there are cells.
        spacing: Step of the grid in any unit of length.
        window_width: See `CKConvMP`. Unless given, the published 0.075, and more on axes on which
            it would cover few taps (up to 19 cells).
        window_cutoff: See `CKConvMP`; 0.1 as in the paper.
        causal: See `CKConvMP`.
        num_neighbors: See `CKConvMP`; the taps inside the initial window unless given.
        arguments: Other arguments, passed through.

    Raises:
        ValueError: If a size or spacing is not positive, or their numbers do not fit.
    """
    size = check_size((size,) if isinstance(size, int) else size)
    dim = len(size)
    window_cutoff = check_cutoff(window_cutoff)
    steps = per_axis("spacing", spacing, dim)
    counts = list(size) if kernel_size == "same" else spread(kernel_size, dim)
    if len(counts) != dim or not all(map(is_count, counts)):
        raise ValueError(
            f"Expected `kernel_size` to be 'same', a positive whole number or {dim}, got "
            f"{kernel_size!r}"
        )
    reach = [each - 1 if causal else each // 2 for each in counts]
    # A kernel of a single tap ends anywhere short of the next.
    extent = tuple(step * max(cells, 0.5) for step, cells in zip(steps, reach, strict=True))
    if window_width is None:
        window_width = _default_widths(reach, window_cutoff, causal)
    if num_neighbors is None:
        widths = torch.tensor(per_axis("window_width", window_width, dim))
        support = KernelSupport(
            widths.log(), dim, extent=extent, cutoff=window_cutoff, causal=causal
        )
        num_neighbors = math.prod(before + 1 + after for before, after in support.taps(steps, size))
    return {
        "dim": dim,
        "extent": extent,
        "spacing": steps,
        "num_neighbors": num_neighbors,
        "window_width": window_width,
        "window_cutoff": window_cutoff,
        "causal": causal,
        **arguments,
    }


def _default_widths(reach: list[int], cutoff: float, causal: bool) -> float | tuple[float, ...]:
    """Return the published width, or wider ones where it would cover less than `_LEAST_CELLS`."""
    if cutoff == 0:
        return _PUBLISHED_WIDTH
    # A causal kernel is stretched to twice its length.
    cells_per_width = [
        max(cells, 0.5) * math.sqrt(-2 * math.log(cutoff)) / (2.0 if causal else 1.0)
        for cells in reach
    ]
    widths = tuple(max(_PUBLISHED_WIDTH, _LEAST_CELLS / cells) for cells in cells_per_width)
    return widths[0] if len(set(widths)) == 1 else widths
