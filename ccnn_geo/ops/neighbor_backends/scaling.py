"""Units in which squared distances neither overflow nor vanish."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.periodic import Period

_LIMITS = {torch.float32: 40, torch.float64: 400}
"""Binary exponents up to which distances are squared safely, well within the range of a type."""

_MAX_EXPONENT = 1000


def rescaled(pos: Tensor, period: Period | None) -> tuple[Tensor, Period | None, float]:
    """Change the unit of positions `[N, D]` and a period if squared distances could not be held.

    The factor is a power of two, so that distances compare as before.

    Returns:
        The positions and the period, as they are if no change is needed, and the factor.
    """
    exponent = math.frexp(_largest_offset(pos, period))[1]
    if abs(exponent) <= _LIMITS[pos.dtype]:
        return pos, period, 1.0
    factor = math.ldexp(1.0, -max(-_MAX_EXPONENT, min(exponent, _MAX_EXPONENT)))
    if period is not None:
        period = tuple(None if length is None else length * factor for length in period)
    return (pos.double() * factor).to(pos.dtype), period, factor


def _largest_offset(pos: Tensor, period: Period | None) -> float:
    """Return a bound on the offsets along an axis up to a factor of 2; waits for the device."""
    if len(pos) == 0:
        return 0.0
    ends = pos.detach().abs().amax(0).tolist()
    if period is None:
        return max(ends)
    return max(min(end, length or math.inf) for end, length in zip(ends, period, strict=True))
