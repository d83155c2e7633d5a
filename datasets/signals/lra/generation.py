"""Samples that are generated from their numbers, in parallel, and cached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...cache import Arrays, Make, cached_arrays, fingerprint, make_arrays

__all__ = ["generated_arrays"]


def generated_arrays(
    count: int,
    make: Make,
    *,
    is_sound: Callable[[Arrays], bool],
    per_block: int,
    name: str,
    parameters: Any,
    folder: Path | None,
    num_processes: int | None,
) -> Arrays:
    """Return the arrays of samples 0 to `count` - 1.

    Args:
        count: Number of samples.
        make: Returns the arrays of a `range` of samples, all of one block.
        is_sound: Returns True if arrays of a cache have the expected names, types and shapes.
        per_block: Number of samples per block.
        name: First part of the cache's name, for people.
        parameters: What determines the samples, for the rest of the name.
        folder: Folder of the caches, or None to keep the arrays in memory.
        num_processes: Number of processes that run `make`; one per processor by default.

    Raises:
        ValueError: If `count` is below 1.
        OSError: If the cache cannot be written.
    """
    if count < 1:
        raise ValueError(f"Expected `count` >= 1, got {count}")
    items = range(count)
    if folder is None:
        return make_arrays(items, make, items_per_part=per_block, num_processes=num_processes)
    return cached_arrays(
        folder / f"{name}-{fingerprint([name, parameters])}",
        items,
        make,
        is_sound=is_sound,
        items_per_part=per_block,
        num_processes=num_processes,
    )
