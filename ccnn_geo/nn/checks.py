"""Input validation without device synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.point_backends.checks import check_data, is_finite, is_readable
from ccnn_geo.ops.scalars import check_count, is_positive, plain


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
    """Check that a value is a dense floating-point tensor that holds data.

    Raises:
        TypeError: If it is not floating point or not dense.
        ValueError: If it is on the meta device.
    """
    check_data(name, value)
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


def check_type(x: Tensor, weight: Tensor) -> None:
    """Check that features have the type of the weights, unless autocast converts both.

    Raises:
        TypeError: If they have another one.
    """
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"Expected `x` in {weight.dtype} like the weights, got {x.dtype}: convert the features "
            "or the layer, or use torch.autocast"
        )


def count_clouds(batch: Tensor | None, batch_size: int | None, num_points: int) -> int | None:
    """Return the number of clouds, which have to be sorted and none of them empty.

    Values are looked at on the CPU only: elsewhere the device would have to be waited for.

    Args:
        batch: Cloud of every point, `[N]`; one cloud unless given.
        batch_size: Number of clouds if it is known.
        num_points: Number of points, N.

    Raises:
        TypeError: If `batch` is not a tensor, or `batch_size` not a whole number.
        ValueError: If the shape or type of `batch` or the number of clouds does not fit, clouds are
            not sorted, or one is empty.
    """
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size)
    if batch is None:
        if batch_size not in (None, 1):
            raise ValueError(f"Expected `batch` with a `batch_size` of {batch_size}, got none")
        return batch_size
    check_data("batch", batch)
    if batch.shape != (num_points,) or batch.dtype != torch.int64:
        raise ValueError(
            f"Expected `batch` of shape [{num_points}] and type int64, got {list(batch.shape)} and "
            f"{batch.dtype}"
        )
    clouds = int(batch[-1]) + 1 if batch_size is None else batch_size
    if is_readable(batch):
        _check_numbers(torch.unique_consecutive(batch), clouds)
    return clouds


def _check_numbers(numbers: Tensor, clouds: int) -> None:
    """Check that the numbers of clouds, without repetitions, are all from 0 on in this order."""
    if bool((numbers.diff() < 0).any()) or int(numbers[0]) < 0:
        raise ValueError("Expected `batch` to be sorted and not negative, got unsorted clouds")
    if int(numbers[-1]) >= clouds:
        raise ValueError(f"Expected `batch` below `batch_size` = {clouds}, got {int(numbers[-1])}")
    if len(numbers) < clouds:
        gaps = (numbers != torch.arange(len(numbers))).nonzero()
        first = int(gaps[0]) if len(gaps) else len(numbers)
        raise ValueError(
            f"Expected every cloud in `batch` to have points, {clouds - len(numbers)} of {clouds} "
            f"have none, cloud {first} the first of them"
        )


def check_positive(name: str, value: float) -> float:
    """Return a number that has to be positive and finite.

    Raises:
        ValueError: If it is not.
    """
    value = plain(value)
    if not is_positive(value):
        raise ValueError(f"Expected `{name}` to be positive and finite, got {value!r}")
    return value
