"""Support and window of a kernel, and its taps on a grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights, magnet_features
from ccnn_geo.ops.scalars import is_number, plain

SUPPORT_TOLERANCE = 1e-6
"""Distance past the end of its support up to which a kernel is still evaluated, in units of the
extent: the last tap of a grid lies at 1 up to rounding of float32 positions."""

MIN_LOG_WIDTH = -20.0
"""Narrower windows, under two billionths of the extent, count as so wide: nothing overflows."""

Features = MAGNetWeights | Callable[[Tensor], Tensor]
Taps = tuple[tuple[int, int], ...]


class KernelSupport:
    r"""Support and window of a kernel, as functions of offsets.

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
        causal: If True, only the past counts (D = 1).
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
        self.extent = (extent,) * dim if isinstance(extent, (int, float)) else extent
        self.scale = tuple(stretch / each for each in self.extent)
        self.inverse_sigma = torch.exp(-log_width.clamp(min=MIN_LOG_WIDTH)).expand(dim)
        upper = torch.full_like(self.inverse_sigma, stretch).detach()
        if cutoff > 0.0:
            upper = upper.minimum(math.sqrt(-2 * math.log(cutoff)) / self.inverse_sigma.detach())
        upper = upper + SUPPORT_TOLERANCE
        lower = -upper
        if causal:
            upper = torch.zeros_like(upper)
        self.bounds = torch.stack([lower, upper])

    def double(self) -> KernelSupport:
        """Return the same support for kernels in float64."""
        support = copy.copy(self)
        support.inverse_sigma = self.inverse_sigma.double()
        support.bounds = self.bounds.double()
        return support

    @torch.compiler.disable
    def reach(self) -> tuple[float, ...]:
        """Return how far the kernel reaches along every axis, in the unit of the positions.

        It is the extent, or less where the window is cut off. The device is waited for.
        """
        ends = (-self.bounds[0] - SUPPORT_TOLERANCE).tolist()
        return tuple(end / scale for end, scale in zip(ends, self.scale, strict=True))

    def scaled(self, pos: Tensor) -> Tensor:
        """Return positions or offsets `[..., D]` in units of the extent, in float64.

        Positions of single precision keep all their digits, so that offsets between points far from
        the origin can be taken after scaling.
        """
        pos = pos.double()
        if all(each == 1.0 for each in self.scale):
            return pos
        return pos * torch.tensor(self.scale, dtype=torch.float64, device=pos.device)

    def to_kernel_unit(self, offsets: Tensor) -> Tensor:
        """Return offsets `[..., D]` in units of the extent, in the type of the kernel."""
        return self.scaled(offsets).to(self.bounds.dtype)

    def taps(
        self,
        spacing: tuple[float, ...],
        size: tuple[int, ...],
        bounds: list[list[float]] | None = None,
    ) -> Taps:
        """Count the taps that the kernel has on a grid, per axis those before and after offset 0.

        They are the taps within the support and the cutoff of the current window that reach from
        one cell of the grid to another; offset 0 is always among them. The tolerance of the support
        never adds a tap.

        Args:
            spacing: Step of the grid per axis, in the unit of the extent.
            size: Cells of the grid per axis.
            bounds: `self.bounds.tolist()`, where the device has been waited for already.
        """
        steps = (step * scale for step, scale in zip(spacing, self.scale, strict=True))
        lower, upper = self.bounds.tolist() if bounds is None else bounds

        def count(reach: float, step: float, cells: int) -> int:
            # Less than a step where steps are shorter than the tolerance.
            exact = (reach - SUPPORT_TOLERANCE) / step
            return max(0, min(int(exact + min(0.5, SUPPORT_TOLERANCE / step)), cells - 1))

        return tuple(
            (count(-low, step, cells), count(high, step, cells))
            for low, high, step, cells in zip(lower, upper, steps, size, strict=True)
        )

    def tap_axes(self, spacing: tuple[float, ...], taps: Taps) -> list[Tensor]:
        """Return the offsets of the taps of a grid along every axis in kernel units, `[K_d]` each.

        Args:
            spacing: Step of the grid per axis, in the unit of the extent.
            taps: Taps before and after offset 0, per axis.
        """
        return [
            (_integers(-before, after, self.bounds.device) * step * scale).to(self.bounds.dtype)
            for (before, after), step, scale in zip(taps, spacing, self.scale, strict=True)
        ]

    def tap_offsets(self, spacing: tuple[float, ...], taps: Taps) -> Tensor:
        """Return offsets of the taps of a grid in kernel units, last axis fastest, `[K, D]`."""
        axes = self.tap_axes(spacing, taps)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)

    def inside(self, offsets: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return a mask of the offsets `[..., D]` in the support for which `counts` is true."""
        # NaN counts as inside, so that it reaches the output instead of vanishing.
        inside = ~((offsets < self.bounds[0]) | (offsets > self.bounds[1])).any(-1)
        return inside if counts is None else inside & counts

    def window(self, offsets: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return the window at offsets `[..., D]`, `[...]`; exactly zero outside, see `inside`."""
        gaussian = torch.exp(-0.5 * (offsets * self.inverse_sigma).square().sum(-1))
        return gaussian * self.inside(offsets, counts)

    def basis(self, offsets: Tensor, features: Features, counts: Tensor | None = None) -> Tensor:
        """Return windowed features and the window, `[..., H + 1]`; exactly zero outside."""
        inside = self.inside(offsets, counts).unsqueeze(-1)
        # Outside, networks and gradients are evaluated at a harmless place: within the support,
        # but not at the origin, where a kernel may be singular.
        offsets = torch.where(inside, offsets, 0.3 * self.bounds[0])
        coordinates = offsets + self.shift
        hidden = (
            magnet_features(coordinates, features)
            if isinstance(features, MAGNetWeights)
            else features(coordinates)
        )
        window = self.window(offsets).unsqueeze(-1) * inside
        return torch.cat([window * torch.where(inside, hidden, 0.0), window], -1)


def check_cutoff(cutoff: float) -> float:
    """Return the cutoff of a window, which has to be in [0, 1).

    Raises:
        ValueError: If it is not.
    """
    cutoff = plain(cutoff)
    if not (is_number(cutoff) and 0 <= cutoff < 1):
        raise ValueError(f"Expected `window_cutoff` in [0, 1), got {cutoff!r}")
    return cutoff


def _integers(first: int, last: int, device: torch.device) -> Tensor:
    """Return the integers from `first` to `last` in float64."""
    return torch.arange(first, last + 1, dtype=torch.float64, device=device)
