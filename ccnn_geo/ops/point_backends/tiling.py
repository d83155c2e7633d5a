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


class Tiles:
    """The targets in tiles of at most `max_edges` slots, but at least one target.

    Rows of a table keep their order. Targets of unequal degrees are sorted by degree, which keeps
    padding small however skewed the degrees are. Tables are made when they are asked for.

    Args:
        index: Source of every slot, sorted by target, `[E]`.
        pointer: Where each target's sources begin, `[T + 1]`, or None for a table.
        degree: Slots per target of a table.
        num_targets: Number of targets, T.
        max_edges: Slots per tile.
    """

    def __init__(
        self, index: Tensor, pointer: Tensor | None, degree: int, num_targets: int, max_edges: int
    ) -> None:
        self._index, self._pointer, self._degree = index, pointer, degree
        if pointer is None:
            step = max(1, max_edges // max(degree, 1))
            self._bounds = [*range(0, num_targets, step), num_targets]
        else:
            self._degrees, self._order = torch.sort(pointer.diff(), stable=True)
            self._longest = self._degrees.cpu()
            self._bounds = [0]
            while self._bounds[-1] < num_targets:
                start = self._bounds[-1]
                ahead = self._longest[start : start + max_edges].clamp(min=1)
                padded = ahead * torch.arange(1, ahead.numel() + 1)
                count = int(torch.searchsorted(padded, max_edges, right=True))
                self._bounds.append(start + max(1, count))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[Tile]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Tile:
        start, stop = self._bounds[number], self._bounds[number + 1]
        if self._pointer is None:
            slots = self._index[start * self._degree : stop * self._degree]
            return Tile(slice(start, stop), slots.view(stop - start, self._degree))
        chosen = self._order[start:stop]
        slot = torch.arange(int(self._longest[stop - 1]), device=self._index.device)
        inside = slot < self._degrees[start:stop, None]
        position = (self._pointer[chosen, None] + slot).masked_fill(~inside, 0)
        table = self._index[position] if self._index.numel() else position
        return Tile(chosen, table.masked_fill(~inside, -1))
