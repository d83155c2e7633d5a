"""Sizes of convolutions on grids, and lengths of the transforms that they take."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

_LEAST_BLOCK = 2**12


class Layout(NamedTuple):
    """Sizes of a convolution, per axis."""

    size: tuple[int, ...]
    """Points of the grid."""
    taps: tuple[int, ...]
    """Taps of the kernel: no more than reach from one end of the grid to the other, or than there
    are points in a period."""
    left: tuple[int, ...]
    """Taps before the one at offset 0."""
    periodic: tuple[bool, ...]
    """Whether the last point of the axis is followed by the first."""

    @property
    def right(self) -> tuple[int, ...]:
        """Taps after the one at offset 0."""
        return tuple(taps - 1 - left for taps, left in zip(self.taps, self.left, strict=True))

    @property
    def mirrored(self) -> Layout:
        """The layout of the transposed convolution."""
        return self._replace(left=self.right)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the transforms: the longer arm of the kernel must not wrap into the grid."""
        return tuple(
            size if wraps else fast_length(size + max(left, right))
            for size, left, right, wraps in zip(
                self.size, self.left, self.right, self.periodic, strict=True
            )
        )

    @property
    def block(self) -> int | None:
        """Length of the overlapping blocks of a sequence that is much longer than its kernel.

        None where the whole is transformed at once.
        """
        if len(self.size) > 1:
            return None
        length = max(_LEAST_BLOCK, 4 * 2 ** math.ceil(math.log2(self.taps[0])))
        return length if 4 * length <= self.lengths[0] else None


@functools.lru_cache(maxsize=1024)
def fast_length(length: int, *, odd: bool = False) -> int:
    """Return the smallest length of a fast FFT that is not below `length`.

    It is even and has no prime factor over 5; or it is odd and has no prime factor over 7.
    """
    if odd:
        return _least_product(length, (7, 5, 3))
    return 2 * _least_product(-(-length // 2), (5, 3, 2))


def _least_product(least: int, factors: tuple[int, ...]) -> int:
    """Return the smallest product of powers of the factors that is not below a number."""
    first, others = factors[0], factors[1:]
    best = power = 1
    while best < least:
        best *= first
    while others and power < best:
        best = min(best, power * _least_product(-(-least // power), others))
        power *= first
    return best
