"""Bandlimits of kernels: a coarser sampling gets a smoother kernel instead of an aliased one.

A kernel that turns faster than the data are sampled takes values between the samples that no data
show: it aliases. With a bandlimit, every sine of a kernel network is replaced by its expectation
under a Gaussian footprint (mip-NeRF, `Barron et al. 2021 <https://arxiv.org/abs/2103.13415>`_),
which is exact for a sine and a bound for products of them. It is an argument of the evaluation,
like spacing and weights: the parameters stay as they are.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from ccnn_geo.ops.grid_positions import per_axis
from ccnn_geo.ops.sampling import nyquist_frequency
from ccnn_geo.ops.scalars import plain

Bandlimit = float | tuple[float, ...] | Literal["auto"] | None

_HALF = math.sqrt(2 * math.log(2)) / (2 * math.pi)
"""Width of the Gaussian footprint that halves a sine of one cycle per unit."""


def point_bandlimit(
    bandlimit: Bandlimit, pos: Tensor, batch: Tensor | None
) -> tuple[float, ...] | None:
    """Return a bandlimit on points per axis in cycles per unit of `pos`; None if there is none.

    Raises:
        ValueError: If it is neither positive nor `"auto"`, or the points are too few to tell it.
    """
    if _is_auto(bandlimit):
        return (nyquist_frequency(pos, batch),) * pos.size(1)
    return _given_bandlimit(bandlimit, pos.size(1))


def grid_bandlimit(
    bandlimit: Bandlimit, spacing: float | tuple[float, ...] | None, dim: int
) -> tuple[float, ...] | None:
    """Return a bandlimit on a grid per axis in cycles per unit of the spacing; None if none.

    Raises:
        ValueError: If it is neither positive nor `"auto"`.
    """
    if _is_auto(bandlimit):
        if spacing is None:
            return None
        return tuple(0.5 / step for step in per_axis("spacing", spacing, dim))
    return _given_bandlimit(bandlimit, dim)


def check_bandlimit(bandlimit: Bandlimit, dim: int) -> None:
    """Check a bandlimit before there are any data.

    Raises:
        ValueError: If it is neither positive nor `"auto"` nor None.
    """
    if not _is_auto(bandlimit):
        _given_bandlimit(bandlimit, dim)


def _is_auto(bandlimit: Bandlimit) -> bool:
    return isinstance(bandlimit, str) and bandlimit == "auto"


def _given_bandlimit(bandlimit: Bandlimit, dim: int) -> tuple[float, ...] | None:
    if isinstance(bandlimit, str):
        raise ValueError(f"Expected `bandlimit` to be a number or 'auto', got {bandlimit!r}")
    if bandlimit is None or plain(bandlimit) == math.inf:
        return None
    return per_axis("bandlimit", bandlimit, dim)


def footprint(bandlimit: tuple[float, ...], scale: tuple[float, ...]) -> tuple[float, ...]:
    """Return the widths of the footprint that halves sines at a bandlimit, in kernel units."""
    return tuple(_HALF / each * unit for each, unit in zip(bandlimit, scale, strict=True))
