"""Conversion of the words of a line to numbers."""

from collections.abc import Sequence

import numpy as np

__all__ = ["coordinates", "numbers"]

Words = Sequence[str] | Sequence[bytes]


def numbers(words: Words, kind: type) -> list:
    """Convert words to numbers, without the `_` that Python accepts.

    Raises:
        ValueError: If a word is not a number of this kind.
    """
    try:
        if any("_" in str(word) for word in words):
            raise ValueError("`_` between digits")
        return [kind(word) for word in words]
    except ValueError as error:
        expected = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"expected {expected}, got {list(words)[:5]}") from error


def coordinates(words: Words) -> list[float]:
    """Convert the first three words to the coordinates of a point.

    Raises:
        ValueError: If they are not three finite numbers.
    """
    values = numbers(words[:3], float)
    if len(values) != 3:
        raise ValueError(f"expected 3 coordinates, got {list(words)}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite coordinates, got {values}")
    return values
