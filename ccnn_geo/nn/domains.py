"""Regular grids that features live on, whole or in part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.nn import global_max_pool, global_mean_pool

from ccnn_geo.ops import KernelSupport
from ccnn_geo.ops.grid_positions import per_axis
from ccnn_geo.ops.kernel_support import Taps


@dataclass(frozen=True, eq=False)
class Grid:
    """What a network must know of a batch of grids besides its features.

    Between layers the features of whole grids are `[B, C, P]`, of P cells each. Where some cells
    are empty they are rows `[M, C]`, one for every occupied cell, as those of a point cloud, so
    that norms, dropout and readout see nothing else.

    Args:
        batch_size: Number of grids, B.
        size: Cells along every axis.
        spacing: Step along every axis in the unit of the kernels' extent.
        cells: The occupied ones, as sorted indices into `[B * P]`, `[M]`; all unless given.
        weight: Quadrature weight of every cell, `[B, P]` or `[1, P]`; that of the change of spacing
            unless given.
        method: See `ccnn_geo.ops.grid_conv`.
    """

    batch_size: int
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    cells: Tensor | None = None
    weight: Tensor | None = None
    method: str = "auto"

    @classmethod
    def of(
        cls,
        x: Tensor,
        spacing: float | tuple[float, ...] | None,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        method: str = "auto",
    ) -> Grid:
        """Describe the grid of signals `x [B, C, *S]`.

        Args:
            x: The signals.
            spacing: Step in the unit of the kernels' extent, one number or one per axis.
            mask: Which cells are occupied, `[B, *S]`; all unless given.
            weight: Quadrature weight of every cell, `[*S]` or `[B, *S]`.
            method: See `ccnn_geo.ops.grid_conv`.

        Raises:
            TypeError: If the mask is not boolean.
            ValueError: If shapes do not fit, a step is missing or not positive, or a grid has no
                occupied cell.
        """
        if spacing is None:
            raise ValueError("Expected `spacing`, because the kernels were not made for a grid")
        batch_size, size = len(x), tuple(x.shape[2:])
        if weight is not None:
            if weight.shape not in (size, (batch_size, *size)):
                raise ValueError(
                    f"Expected `weight` of shape {[batch_size, *size]} or {list(size)}, got "
                    f"{list(weight.shape)}"
                )
            weight = weight.reshape(-1, math.prod(size))
        cells = None
        if mask is not None:
            if mask.dtype != torch.bool:
                raise TypeError(f"Expected `mask` to be boolean, got {mask.dtype}")
            if mask.shape != (batch_size, *size):
                raise ValueError(
                    f"Expected `mask` of shape {[batch_size, *size]}, got {list(mask.shape)}"
                )
            if not bool(mask.flatten(1).any(1).all()):
                raise ValueError("Expected an occupied cell in every grid of `mask`, got none")
            cells = mask.flatten().nonzero().squeeze(1)
        return cls(batch_size, size, per_axis("spacing", spacing, len(size)), cells, weight, method)

    @property
    def batch(self) -> Tensor | None:
        """Grid of every row of features, `[M]`; None where grids are whole."""
        return None if self.cells is None else self.cells // math.prod(self.size)

    def features(self, signals: Tensor) -> Tensor:
        """Bring `[B, C, *S]` to the form that layers take: `[B, C, P]` or rows `[M, C]`."""
        features = signals.flatten(2)
        if self.cells is None:
            return features
        return features.transpose(1, 2).flatten(0, 1).index_select(0, self.cells)

    def signals(self, features: Tensor) -> Tensor:
        """Bring features back to `[B, C, *S]`, zero in empty cells."""
        if self.cells is not None:
            rows = features.new_zeros(self.batch_size * math.prod(self.size), features.size(1))
            rows = rows.index_copy(0, self.cells, features)
            features = rows.view(self.batch_size, -1, features.size(1)).transpose(1, 2)
        return features.unflatten(2, self.size)

    def pool(self, features: Tensor, readout: Literal["mean", "max"]) -> Tensor:
        """Reduce the features of every grid's occupied cells, `[B, C]`."""
        if self.cells is None:
            return features.mean(-1) if readout == "mean" else features.amax(-1)
        pool = global_mean_pool if readout == "mean" else global_max_pool
        return pool(features, self.batch, self.batch_size)


def mask_from_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    """Mark the first `lengths [B]` cells of sequences `x [B, C, L]`, `[B, L]`.

    Raises:
        TypeError: If lengths are not integers.
        ValueError: If shapes do not fit, or a length is 0 or beyond L.
    """
    if x.dim() != 3:
        raise ValueError(f"Expected `x` of shape [B, C, L] with `lengths`, got {list(x.shape)}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"Expected `lengths` to be integers, got {lengths.dtype}")
    if lengths.shape != (len(x),):
        raise ValueError(f"Expected `lengths` of shape [{len(x)}], got {list(lengths.shape)}")
    if bool(((lengths < 1) | (lengths > x.size(2))).any()):
        raise ValueError(f"Expected `lengths` in [1, {x.size(2)}], got {lengths.tolist()}")
    return torch.arange(x.size(2), device=x.device) < lengths.unsqueeze(1).to(x.device)


def training_grid(
    size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...] | Literal["same"],
    spacing: float | tuple[float, ...],
    *,
    window_width: float | tuple[float, ...] = 0.075,
    window_cutoff: float = 0.1,
    causal: bool = False,
    num_neighbors: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Work out the arguments of a convolution that is made for grids of a size.

    Its kernel has `kernel_size` taps per axis at that spacing, those outside the initial window
    included: a centre and as many taps on either side, one more than asked for if that is even; or
    as many taps up to the present if it is causal.

    Args:
        size: Cells along every axis.
        kernel_size: Taps per axis, or `"same"` for as many as there are cells.
        spacing: Step of the grid in the unit wanted.
        window_width: See `CKConvMP`.
        window_cutoff: See `CKConvMP`; 0.1 as in the paper.
        causal: See `CKConvMP`.
        num_neighbors: See `CKConvMP`; the taps inside the initial window unless given.
        arguments: Others, handed through.

    Raises:
        ValueError: If a size or spacing is not positive, or they do not fit one another.
    """
    size = (size,) if isinstance(size, int) else tuple(size)
    dim = len(size)
    if dim == 0 or min(size) < 1:
        raise ValueError(f"Expected `size` to have at least one cell per axis, got {size}")
    if isinstance(kernel_size, str) and kernel_size != "same":
        raise ValueError(f"Expected `kernel_size` to be a number or 'same', got {kernel_size!r}")
    taps = size if kernel_size == "same" else kernel_size
    steps = per_axis("spacing", spacing, dim)
    reach = [
        int(each) - 1 if causal else int(each) // 2 for each in per_axis("kernel_size", taps, dim)
    ]
    # A kernel of a single tap ends anywhere short of the next.
    extent = tuple(step * max(cells, 0.5) for step, cells in zip(steps, reach, strict=True))
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


@torch.compiler.disable
@torch.no_grad()
def kernel_taps(supports: Sequence[KernelSupport], grid: Grid) -> list[Taps]:
    """Count the taps that kernels have on a grid as their windows are now.

    The numbers decide about the sizes of tensors: a GPU is waited for, once for all of them.
    """
    bounds = torch.stack([support.bounds for support in supports]).tolist()
    return [
        support.taps(grid.spacing, grid.size, each)
        for support, each in zip(supports, bounds, strict=True)
    ]
