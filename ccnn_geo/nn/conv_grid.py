"""The continuous convolution on regular grids."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from ccnn_geo.nn.checks import check_finite, check_signals
from ccnn_geo.nn.domains import Grid, kernel_taps, training_grid
from ccnn_geo.nn.kernels import KernelNetwork
from ccnn_geo.ops import KernelSupport, grid_conv
from ccnn_geo.ops.kernel_support import Taps


class OnGrid(NamedTuple):
    """Where a convolution last was evaluated: the taps of a grid."""

    spacing: tuple[float, ...]
    taps: Taps


class ConvolvesGrids:
    """What a `CKConvMP` does on regular grids, beside what it does on graphs."""

    in_channels: int
    dim: int
    spacing: tuple[float, ...] | None
    causal: bool
    track_moment: bool
    kernel: KernelNetwork
    _record: Any
    _moment: Tensor | None

    @classmethod
    def for_grid(
        cls,
        in_channels: int,
        out_channels: int,
        *,
        size: int | tuple[int, ...],
        kernel_size: int | tuple[int, ...] | Literal["same"] = "same",
        spacing: float | tuple[float, ...] = 1.0,
        **arguments: Any,
    ) -> Self:
        """Make a layer for grids of a size: dimension, extent and initialisation follow from it.

        Args:
            in_channels: Size of every cell's features.
            out_channels: Size of every cell's output.
            size: Cells of the grid along every axis, which are D.
            kernel_size: Taps of the kernel, a number or one per axis, those outside the window
                included; an even number counts as one more, so that there is a centre, unless the
                kernel is causal. `"same"`: as many as there are cells.
            spacing: Step of the grid in any unit, which is that of `extent`, `pos` and the
                `spacing` of `grid` from then on.
            arguments: See `CKConvMP`. The window is cut off at 0.1 unless they say otherwise.

        Raises:
            ValueError: If an argument is out of range.
        """
        settings = training_grid(size, kernel_size, spacing, **arguments)
        make: Any = cls
        return make(in_channels, out_channels, **settings)

    def grid(
        self,
        x: Tensor,
        spacing: float | tuple[float, ...] | None = None,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        method: str = "auto",
    ) -> Tensor:
        """Convolve signals on a regular grid.

        It equals the convolution of the grid as a graph, with the cells as points. Only the taps of
        the kernel that lie inside its support and its window, as they are now, are evaluated.

        Args:
            x: Signals, `[B, C_in, *S]`.
            spacing: Step of the grid in the unit of `extent`, a number or one per axis; that of the
                grid that the layer is made for unless given.
            mask: Which cells are occupied, boolean, `[B, *S]`; all unless given. Others count as
                zero and become zero.
            weight: Quadrature weight of every cell, `[*S]` or `[B, *S]`. Unless given it is the
                volume of a cell in units of that which the layer is made for, so that a signal
                sampled differently gives the same response; 1 if it is made for none.
            method: `"fft"`, `"direct"`, or `"auto"` for the faster, see `ops.grid_conv`.

        Returns:
            The output, `[B, C_out, *S]`.

        Raises:
            TypeError: If `x` is not floating point or `mask` not boolean.
            ValueError: If shapes do not fit, there is no spacing, a grid has no occupied cell, or
                (on the CPU) a value is not finite.
        """
        check_signals(x, self.dim, self.in_channels)
        spacing = self.spacing if spacing is None else spacing
        grid = Grid.of(x, spacing, mask=mask, weight=weight, method=method)
        features = grid.features(x)
        check_finite(x=features)
        return grid.signals(self.on_grid(features, grid))

    def on_grid(self, features: Tensor, grid: Grid, taps: Taps | None = None) -> Tensor:
        """Convolve features in the form in which a `Grid` has them, `[B, C, P]` or `[M, C]`.

        Args:
            features: Features of the grid's cells.
            grid: The grid.
            taps: What `kernel_taps` gives for this layer, which spares a GPU the wait for it.
        """
        taps = kernel_taps([self.support()], grid)[0] if taps is None else taps
        signals = grid.signals(features)
        if grid.weight is not None:
            signals = signals * grid.weight.to(signals.dtype).view(-1, 1, *grid.size)
        with torch.autocast(signals.device.type, enabled=False):
            basis = self._basis(OnGrid(grid.spacing, taps))
            kernel = (self.readout() @ basis.T).unflatten(-1, [sum(arms) + 1 for arms in taps])
            if grid.weight is None and self.spacing is not None:
                kernel = kernel * (math.prod(grid.spacing) / math.prod(self.spacing))
            output = grid_conv(signals, kernel, causal=self.causal, method=grid.method)
        self._record = OnGrid(grid.spacing, taps)
        tracking = self.track_moment and torch.is_grad_enabled()
        self._moment = basis.T @ basis if tracking else None
        return self._finish(grid.features(output))

    def _basis(self, place: OnGrid) -> Tensor:
        """Windowed features at every tap of a grid, `[K, H + 1]`."""
        support = self.support()
        offsets = support.tap_offsets(*place)
        return support.basis(offsets, self.kernel.magnet_weights() or self.kernel.features)

    def support(self) -> KernelSupport:
        """The kernel's support and window as they are now."""
        raise NotImplementedError

    def readout(self) -> Tensor:
        """The kernel network's last layer with its bias as last column."""
        raise NotImplementedError

    def _finish(self, output: Tensor) -> Tensor:
        raise NotImplementedError
