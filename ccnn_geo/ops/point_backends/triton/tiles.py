"""How the Triton kernels are cut into programs.

A small table: for long rows and filters padded to 32 from timings on an H100, for all others from
the compiler's reports (`python -m benchmarks.kernel_resources`), so that little is spilled from
registers.
"""

from typing import NamedTuple

_SUMS_PER_THREAD = 64


class Tiles(NamedTuple):
    """Sizes of one kernel's programs."""

    block: int
    """Neighbours taken at once."""
    chunk: int
    """Channels taken at once."""
    warps: int
    registers: int
    """At most so many registers per thread."""
    residents: int
    """Programs per multiprocessor, for kernels whose programs keep sums of their own."""


class Chunks(NamedTuple):
    """Channels in groups, one per program, and these in chunks that fit the registers."""

    size: int
    """Channels of every chunk but the last."""
    number: int
    """Chunks per group."""
    last: int
    """Channels of a group's last chunk."""
    groups: int


def padded_width(width: int) -> int:
    """The least power of two that holds `width` and that tensor cores can multiply."""
    return max(16, 1 << (width - 1).bit_length())


def aggregate_tiles(padded: int, degree: float, channels: int) -> Tiles:
    """Tiles for filters of a padded width, a mean degree and a number of channels."""
    if degree <= 32:
        block = 16 if degree <= 16 else 32
        return Tiles(block, chunk=32, warps=2, registers=255, residents=4)
    if channels * padded <= 2048:
        return Tiles(block=64, chunk=64, warps=4, registers=168, residents=3)
    return Tiles(block=64, chunk=64, warps=4, registers=255, residents=2)


def differentiate_tiles(padded: int, degree: float, full_reversed: bool) -> Tiles:
    """Tiles for filters of a padded width and a mean degree.

    Args:
        padded: Padded width of the filters.
        degree: Mean number of neighbours.
        full_reversed: Whether every edge brings a matrix of its own.
    """
    if full_reversed:
        return Tiles(block=16, chunk=512 // padded, warps=4, registers=255, residents=2)
    if degree <= 32 or padded == 16:
        block = 16 if degree <= 16 else 32
        return Tiles(block, chunk=32, warps=2, registers=255, residents=4)
    if padded == 32:
        return Tiles(block=64, chunk=32, warps=4, registers=255, residents=2)
    return Tiles(block=32, chunk=32, warps=8, registers=255, residents=1)


def channel_chunks(channels: int, tiles: Tiles, padded: int) -> Chunks:
    """Cut channels so that no thread holds more than 64 sums."""
    most = max(tiles.chunk, _SUMS_PER_THREAD * 32 * tiles.warps // padded)
    groups = -(-channels // most)
    share = -(-channels // groups)
    size = min(tiles.chunk, padded_width(share))
    whole, rest = divmod(share, size)
    if rest == 0:
        return Chunks(size, whole, size, groups)
    return Chunks(size, whole + 1, padded_width(rest), groups)
