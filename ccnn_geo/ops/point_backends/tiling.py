"""Tiles of a neighbourhood that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """A few targets and the table of their sources."""

    rows: slice | Tensor
    """The targets, n of them."""
    table: Tensor
    """Their sources, `[n, K]`; -1 marks an empty slot."""


def tiles(
    index: Tensor, pointer: Tensor | None, degree: int, num_targets: int, max_edges: int
) -> Iterator[Tile]:
    """Yield the targets in tiles of at most `max_edges` slots, but at least one target.

    Rows of a table keep their order. Targets of unequal degrees are sorted by degree, which keeps
    padding small however skewed the degrees are.

    Args:
        index: Source of every slot, sorted by target, `[E]`.
        pointer: Where each target's sources begin, `[T + 1]`, or None for a table.
        degree: Slots per target of a table.
        num_targets: Number of targets, T.
        max_edges: Slots per tile.
    """
    if pointer is None:
        step = max(1, max_edges // max(degree, 1))
        for start in range(0, num_targets, step):
            stop = min(start + step, num_targets)
            slots = index[start * degree : stop * degree]
            yield Tile(slice(start, stop), slots.view(stop - start, degree))
        return
    degrees, order = torch.sort(pointer.diff(), stable=True)
    sorted_degrees = degrees.cpu()
    start = 0
    while start < num_targets:
        ahead = sorted_degrees[start : start + max_edges].clamp(min=1)
        padded = ahead * torch.arange(1, ahead.numel() + 1)
        stop = start + max(1, int(torch.searchsorted(padded, max_edges, right=True)))
        chosen = order[start:stop]
        slot = torch.arange(int(sorted_degrees[stop - 1]), device=index.device)
        inside = slot < degrees[start:stop, None]
        position = (pointer[chosen, None] + slot).masked_fill(~inside, 0)
        table = index[position] if index.numel() else position
        yield Tile(chosen, table.masked_fill(~inside, -1))
        start = stop
