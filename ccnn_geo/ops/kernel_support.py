"""Where the kernel of a convolution lives: support, window, and the taps of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights, magnet_features

SUPPORT_TOLERANCE = 1e-5
"""How far past the end of its support a kernel is still evaluated, in units of the extent: the
last tap of a grid lies at 1 up to rounding, and must not be lost to it."""

MIN_LOG_WIDTH = -20.0
"""Narrower windows, under two billionths of the extent, count as so wide: nothing overflows."""

Features = MAGNetWeights | Callable[[Tensor], Tensor]
Taps = tuple[tuple[int, int], ...]


class KernelSupport:
    r"""Where a kernel lives: turns positions into offsets, and offsets into coordinates and window.

    The offset of source j from target i is :math:`v = (p_j - p_i) / \text{extent}`, source minus
    target. A causal kernel lives on :math:`v \in [-1, 0]`, stretched so that its length is 2 and
    the present lies at 1 (Romero et al. 2022, CKConv).

    Args:
        log_width: Logarithm of the widths of the Gaussian window, `[1]` or `[D]`.
        dim: Number of coordinates, D.
        extent: Half-width of the kernel's support in the unit of the positions; a number, or one
            per axis.
        cutoff: The kernel is zero outside the box in which the Gaussian of every axis is at least
            this; in [0, 1).
        causal: Whether only the past counts (D = 1).
    """

    def __init__(
        self,
        log_width: Tensor,
        dim: int,
        *,
        extent: float | tuple[float, ...] = 1.0,
        cutoff: float = 0.0,
        causal: bool = False,
    ) -> None:
        self.shift = 1.0 if causal else 0.0
        stretch = 2.0 if causal else 1.0
        extents = (extent,) * dim if isinstance(extent, (int, float)) else extent
        self.scale = tuple(stretch / each for each in extents)
        self.inverse_sigma = torch.exp(-log_width.clamp(min=MIN_LOG_WIDTH)).expand(dim)
        upper = torch.full_like(self.inverse_sigma, stretch).detach()
        if cutoff > 0.0:
            upper = upper.minimum(math.sqrt(-2 * math.log(cutoff)) / self.inverse_sigma.detach())
        upper = upper + SUPPORT_TOLERANCE
        lower = -upper
        if causal:
            upper = torch.zeros_like(upper)
        self.bounds = torch.stack([lower, upper])

    def to_kernel_unit(self, pos: Tensor) -> Tensor:
        """Express positions `[..., D]` in units of the extent, in the type of the kernel."""
        if all(each == 1.0 for each in self.scale):
            return pos.to(self.bounds.dtype)
        scale = torch.tensor(self.scale, dtype=torch.float64, device=pos.device)
        return (pos * scale.to(pos.dtype)).to(self.bounds.dtype)

    def taps(
        self,
        spacing: tuple[float, ...],
        size: tuple[int, ...],
        bounds: list[list[float]] | None = None,
    ) -> Taps:
        """Count the taps that the kernel has on a grid, per axis those before and after offset 0.

        They are the ones within the support and the cutoff, as the window is now, that reach from
        one cell of the grid to another; offset 0 is always among them. `bounds` spares a GPU the
        wait for its own.
        """
        steps = (step * scale for step, scale in zip(spacing, self.scale, strict=True))
        lower, upper = self.bounds.tolist() if bounds is None else bounds
        return tuple(
            (min(int(-low / step), cells - 1), min(int(high / step), cells - 1))
            for low, high, step, cells in zip(lower, upper, steps, size, strict=True)
        )

    def tap_offsets(self, spacing: tuple[float, ...], taps: Taps) -> Tensor:
        """Offsets of the taps of a grid, the last axis fastest, `[K, D]`."""
        axes = (
            torch.arange(-before, after + 1, dtype=torch.float64, device=self.bounds.device) * step
            for (before, after), step in zip(taps, spacing, strict=True)
        )
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        return self.to_kernel_unit(grid.flatten(0, -2))

    def inside(self, offsets: Tensor, counts: Tensor | None = None) -> Tensor:
        """Whether offsets `[..., D]` lie in the support and, where given, `counts` is true."""
        inside = ((offsets >= self.bounds[0]) & (offsets <= self.bounds[1])).all(-1)
        return inside if counts is None else inside & counts

    def window(self, offsets: Tensor, counts: Tensor | None = None) -> Tensor:
        """The window at offsets `[..., D]`, `[...]`; exactly zero where they are not `inside`."""
        gaussian = torch.exp(-0.5 * (offsets * self.inverse_sigma).square().sum(-1))
        return gaussian * self.inside(offsets, counts)

    def basis(self, offsets: Tensor, features: Features, counts: Tensor | None = None) -> Tensor:
        """Windowed features and the window itself, `[..., H + 1]`: the kernel is linear in them."""
        coordinates = offsets + self.shift
        hidden = (
            magnet_features(coordinates, features)
            if isinstance(features, MAGNetWeights)
            else features(coordinates)
        )
        window = self.window(offsets, counts).unsqueeze(-1)
        return torch.cat([window * hidden, window], -1)
