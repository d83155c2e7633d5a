"""Input validation without device synchronisation."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from ccnn_geo.ops.point_backends.checks import is_finite, is_readable

Number = TypeVar("Number", int, float)


def check_points(
    x: Tensor, pos: tuple[Tensor, Tensor], weight: Tensor | None, dim: int, channels: int
) -> None:
    """Check features `x [S, C]`, positions of sources and targets, and weights `[S]`.

    Raises:
        TypeError: If features or positions are not floating point, or positions in 16 bits.
        ValueError: If shapes do not fit.
    """
    for name, value in (("x", x), ("pos", pos[0]), ("pos", pos[1])):
        check_floating_point(value, name)
    for part in pos:
        if part.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"Expected `pos` to be float32 or float64, got {part.dtype}: call pos.float()"
            )
        if part.dim() != 2 or part.size(1) != dim:
            raise ValueError(f"Expected `pos` of shape [N, {dim}], got {list(part.shape)}")
    if x.shape != (len(pos[0]), channels):
        raise ValueError(f"Expected `x` of shape [{len(pos[0])}, {channels}], got {list(x.shape)}")
    if weight is not None:
        check_floating_point(weight, "weight")
        if weight.shape != (len(x),):
            raise ValueError(f"Expected `weight` of shape [{len(x)}], got {list(weight.shape)}")


def check_signals(x: Tensor, dim: int, channels: int) -> None:
    """Check signals `x [B, C, *S]` on grids.

    Raises:
        TypeError: If they are not floating point.
        ValueError: If their shape does not fit or an axis is empty.
    """
    check_floating_point(x, "x")
    if x.dim() != dim + 2 or x.size(1) != channels or 0 in x.shape[2:]:
        raise ValueError(
            f"Expected `x` of shape [B, {channels}, *S] with {dim} axes S that are not empty, got "
            f"{list(x.shape)}"
        )


def check_floating_point(value: Tensor, name: str) -> None:
    """Check that a value is a floating-point tensor.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected `{name}` to be a tensor, got a {_type_name(value)}")
    if not value.is_floating_point():
        raise TypeError(f"Expected floating-point `{name}`, got {value.dtype}")


def check_finite(**values: Tensor | None) -> None:
    """Refuse NaN and infinity on the CPU; elsewhere the check would synchronise the device.

    Raises:
        ValueError: If a value is not finite.
    """
    for name, value in values.items():
        if value is None or not value.is_floating_point():
            continue
        if is_readable(value) and not is_finite(value):
            raise ValueError(f"Expected finite `{name}`, got NaN or infinity")


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def check_positive(name: str, value: Number) -> Number:
    """Return a number that has to be positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"Expected `{name}` to be positive and finite, got {value}")
    return value
