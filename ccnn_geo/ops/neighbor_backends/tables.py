"""What the backends of the neighbour search have in common."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**22
"""Distances or neighbours that a search holds at a time."""

RADIUS_MARGIN = 1e-5
"""How much farther than the radius backends search, relatively; the exact test comes after."""


def with_self_first(table: Tensor) -> Tensor:
    """Move every point to the front of its row of neighbours `[n, k]`, in place.

    Other points at the same place may have displaced it.
    """
    own = torch.arange(len(table), device=table.device)
    astray = (table[:, 0] != own).nonzero().squeeze(1)
    if astray.numel():
        rows = table[astray]
        is_own = rows == own[astray, None]
        is_own[:, -1] |= ~is_own.any(1)
        others = rows[~is_own].view(len(rows), -1)
        table[astray] = torch.cat([own[astray, None], others], 1)
    return table
