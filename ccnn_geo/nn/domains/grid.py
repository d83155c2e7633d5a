"""The domain of regular grids, as a whole or in part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ccnn_geo.nn.checks import check_floating_point
from ccnn_geo.nn.domains.domain import Convolution, Readout, keep_norm, pool_rows
from ccnn_geo.nn.pointwise import ChannelDropout
from ccnn_geo.ops import KernelSupport
from ccnn_geo.ops.grid_positions import per_axis, per_axis_period
from ccnn_geo.ops.kernel_support import Taps
from ccnn_geo.ops.periodic import Period, check_reach
from ccnn_geo.ops.point_backends.checks import check_data, check_unmapped


@dataclass(frozen=True, eq=False)
class Grid:
    """A batch of grids, as a whole or in part.

    Features of whole grids are `[B, C, P]`, of P cells each. Where some cells are empty, features
    are rows `[M, C]`, one for every occupied cell, like the points of a cloud, so that empty cells
    do not enter norms, dropout and readout.

    Args:
        batch_size: Number of grids, B.
        size: Cells along every axis.
        spacing: Step along every axis in the unit of the kernels' extent.
        cells: Occupied cells as sorted indices into `[B * P]`, `[M]`; all unless given.
        weight: Quadrature weight of every cell, `[B, P]` or `[1, P]`; from the change of spacing
            unless given.
        method: See `ccnn_geo.ops.grid_conv`.
        taps: Taps of the kernels that have been counted, see `count_taps`.
        norms: See `Domain`.
        bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.
        period: Length of the grid along every axis on which it repeats itself, None along others;
            None if it does not.
    """

    batch_size: int
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    cells: Tensor | None = None
    weight: Tensor | None = None
    method: str = "auto"
    taps: dict[Convolution, Taps] = field(default_factory=dict)
    norms: list[Tensor] | None = None
    bandlimit: tuple[float, ...] | None = None
    period: Period | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        spacing: float | tuple[float, ...] | None,
        *,
        period: float | tuple[float | None, ...] | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        method: str = "auto",
        norms: list[Tensor] | None = None,
        bandlimit: tuple[float, ...] | None = None,
    ) -> Grid:
        """Describe the grid of signals `x [B, C, *S]`.

        Args:
            x: The signals.
            spacing: Step in the unit of the kernels' extent, one number or one per axis.
            period: Length of the grid in the same unit, a number, or one per axis with None for
                axes that are not periodic.
            mask: Occupied cells, boolean, `[B, *S]`; all unless given.
            weight: Quadrature weight of every cell, `[*S]` or `[B, *S]`.
            method: See `ccnn_geo.ops.grid_conv`.
            norms: See `Domain`.
            bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.

        Raises:
            TypeError: If the mask is not boolean, or weights are not floating point.
            ValueError: If shapes do not fit, a step is missing or not positive, a period is not
                the length of the grid, or a grid has no occupied cell.
        """
        if spacing is None:
            raise ValueError("Expected `spacing`, because the kernels were not made for a grid")
        batch_size, size = len(x), tuple(x.shape[2:])
        if weight is not None:
            check_floating_point(weight, "weight")
            if weight.shape not in (size, (batch_size, *size)):
                raise ValueError(
                    f"Expected `weight` of shape {[batch_size, *size]} or {list(size)}, got "
                    f"{list(weight.shape)}"
                )
            weight = weight.reshape(-1, math.prod(size))
        cells = None
        if mask is not None:
            check_data("mask", mask)
            if mask.dtype != torch.bool:
                raise TypeError(f"Expected `mask` to be boolean, got {mask.dtype}")
            if mask.shape != (batch_size, *size):
                raise ValueError(
                    f"Expected `mask` of shape {[batch_size, *size]}, got {list(mask.shape)}"
                )
            if not bool(mask.flatten(1).any(1).all()):
                raise ValueError("Expected an occupied cell in every grid of `mask`, got none")
            cells = mask.flatten().nonzero().squeeze(1)
        steps = per_axis("spacing", spacing, len(size))
        lengths = per_axis_period(period, len(size))
        _check_lengths(lengths, steps, size)
        return cls(
            batch_size,
            size,
            steps,
            cells,
            weight,
            method,
            norms=norms,
            bandlimit=bandlimit,
            period=lengths,
        )

    @property
    def batch(self) -> Tensor | None:
        """Grid of every row of features, `[M]`; None where grids are whole."""
        return None if self.cells is None else self.cells // math.prod(self.size)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether the grid repeats itself, for every axis."""
        return tuple(length is not None for length in self.period or (None,) * len(self.size))

    def features(self, x: Tensor) -> Tensor:
        """Bring signals `[B, C, *S]` to features, `[B, C, P]` or `[M, C]`."""
        features = x.flatten(2)
        if self.cells is None:
            return features
        return features.transpose(1, 2).flatten(0, 1).index_select(0, self.cells)

    def output(self, features: Tensor) -> Tensor:
        """Bring features back to signals `[B, C, *S]`, zero in empty cells."""
        if self.cells is not None:
            rows = features.new_zeros(self.batch_size * math.prod(self.size), features.size(1))
            rows = rows.index_copy(0, self.cells, features)
            features = rows.view(self.batch_size, -1, features.size(1)).transpose(1, 2)
        return features.unflatten(2, self.size)

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on features."""
        evaluated = conv.convolve_grid(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels of features, the same ones in all cells of a grid."""
        return dropout(features, self.batch, self.batch_size)

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of the occupied cells of every grid, `[B, C]`."""
        if self.cells is None:
            return features.mean(-1) if readout == "mean" else features.amax(-1)
        return pool_rows(features, readout, self.batch, self.batch_size)

    def count_taps(self, convs: Sequence[Convolution]) -> None:
        """Count the taps of several kernels at once, which synchronises a GPU only once.

        Raises:
            ValueError: If a kernel is causal or reaches farther than half a period, and there is a
                period.
        """
        supports = [conv.support() for conv in convs]
        if self.period is not None:
            for support in supports:
                if support.shift and any(self.periodic):
                    raise ValueError(
                        f"Expected no `period` for a causal convolution, got {self.period}"
                    )
                check_reach(support, self.period)
        counts = _count_taps(supports, self.spacing, self.size)
        taps = (self._nearest(each) for each in counts)
        self.taps.update(zip(convs, taps, strict=True))

    def taps_of(self, conv: Convolution) -> Taps:
        """Return the taps of a kernel on this grid, per axis those before and after offset 0."""
        if conv not in self.taps:
            self.count_taps([conv])
        return self.taps[conv]

    def _nearest(self, taps: Taps) -> Taps:
        """Leave out the image behind a cell where that ahead is as near, half a period away."""
        return tuple(
            (min(before, cells - 1 - after), after) if wraps else (before, after)
            for (before, after), cells, wraps in zip(taps, self.size, self.periodic, strict=True)
        )


def mask_from_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    """Mark the first `lengths [B]` cells of sequences `x [B, C, L]`, giving `[B, L]`.

    Raises:
        TypeError: If lengths are not integers.
        ValueError: If shapes do not fit, or a length is 0 or beyond L.
    """
    check_data("lengths", lengths)
    if x.dim() != 3:
        raise ValueError(f"Expected `x` of shape [B, C, L] with `lengths`, got {list(x.shape)}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"Expected `lengths` to be integers, got {lengths.dtype}")
    if lengths.shape != (len(x),):
        raise ValueError(f"Expected `lengths` of shape [{len(x)}], got {list(lengths.shape)}")
    if bool(((lengths < 1) | (lengths > x.size(2))).any()):
        raise ValueError(f"Expected `lengths` in [1, {x.size(2)}], got {lengths.tolist()}")
    return torch.arange(x.size(2), device=x.device) < lengths.unsqueeze(1).to(x.device)


def _check_lengths(
    period: Period | None, spacing: tuple[float, ...], size: tuple[int, ...]
) -> None:
    """Check that a grid is one period long along every periodic axis."""
    for axis, (cells, step) in enumerate(zip(size, spacing, strict=True)):
        length = None if period is None else period[axis]
        if length is not None and not math.isclose(cells * step, length, rel_tol=1e-6):
            raise ValueError(
                f"Expected a grid of one `period`, {length:g} along axis {axis}, got {cells} cells "
                f"of {step:g}, {cells * step:g}: change `spacing`, or resample the signal"
            )


@torch.compiler.disable
@torch.no_grad()
def _count_taps(
    supports: Sequence[KernelSupport], spacing: tuple[float, ...], size: tuple[int, ...]
) -> list[Taps]:
    # The counts decide the sizes of tensors, so that the device has to be waited for.
    for support in supports:
        check_unmapped("windows of kernels on a grid", support.bounds)
    bounds = torch.stack([support.bounds for support in supports]).tolist()
    return [
        support.taps(spacing, size, each) for support, each in zip(supports, bounds, strict=True)
    ]
