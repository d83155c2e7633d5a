"""Numbers as users give them: of Python, NumPy or PyTorch, one for all axes or one per axis."""

from __future__ import annotations

import sys
from numbers import Integral
from typing import Any


def plain(value: Any) -> Any:
    """Return the Python number of a scalar, or the list of an array; other things as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_number(value: Any) -> bool:
    """Return True for the numbers of Python, bool excepted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_positive(value: Any) -> bool:
    """Return True for positive finite numbers of Python, bool excepted."""
    return is_number(value) and 0 < value <= sys.float_info.max


def spread(value: Any, dim: int) -> list[Any]:
    """Repeat a number or None for every axis, or return the values of a sequence."""
    value = plain(value)
    if value is None or is_number(value):
        return [value] * dim
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else [value]


def is_whole(value: Any) -> bool:
    """Return True for whole numbers of any kind, bool excepted."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def is_count(value: Any) -> bool:
    """Return True for positive whole numbers of any kind, bool excepted."""
    return is_whole(value) and int(value) > 0


def check_count(name: str, value: Any) -> int:
    """Return a positive whole number as a Python number.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is less than 1.
    """
    if not is_whole(value):
        raise TypeError(f"Expected `{name}` to be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"Expected `{name}` >= 1, got {value}")
    return int(value)
