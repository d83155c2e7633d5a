"""All distances, in chunks of bounded memory: runs everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.neighbor_backends.tables import CHUNK_ELEMENTS, RADIUS_MARGIN
from ccnn_geo.ops.periodic import Period, shortest


def nearest(cloud: Tensor, k: int, ordered: bool, period: Period | None) -> Tensor:
    """Return the k nearest of every point of a cloud `[n, D]`, itself first, `[n, k]`."""
    return nearest_in_clouds(cloud.unsqueeze(0), k, ordered, period)


def nearest_in_clouds(clouds: Tensor, k: int, ordered: bool, period: Period | None) -> Tensor:
    """Return the same for B clouds of n points, `[B, n, D]`, as global indices `[B * n, k]`."""
    num_clouds, size, _ = clouds.shape
    elements = _chunk_elements(period)
    table = torch.empty(num_clouds, size, k, dtype=torch.int64, device=clouds.device)
    step_clouds = max(1, elements // size**2)
    step_rows = max(1, elements // size)
    for first in range(0, num_clouds, step_clouds):
        chunk = clouds[first : first + step_clouds]
        start = torch.arange(first, first + len(chunk), device=clouds.device) * size
        for row in range(0, size, step_rows):
            distance = _distances(chunk[:, row : row + step_rows], chunk, period)
            # A point comes first among its neighbours even where others lie at the same place.
            distance.diagonal(row, 1, 2).fill_(-1)
            found = distance.topk(k, dim=-1, largest=False, sorted=ordered).indices
            table[first : first + len(chunk), row : row + step_rows] = found + start[:, None, None]
    return table.view(-1, k)


def within(cloud: Tensor, r: float, period: Period | None) -> tuple[Tensor, Tensor]:
    """Return sources and targets of a superset of all pairs of a cloud `[n, D]` within r."""
    found = []
    step = max(1, _chunk_elements(period) // len(cloud))
    for start in range(0, len(cloud), step):
        distance = _distances(cloud[start : start + step], cloud, period)
        target, source = (distance <= r * (1 + RADIUS_MARGIN)).nonzero(as_tuple=True)
        found.append((source, target + start))
    sources, targets = zip(*found, strict=True)
    return torch.cat(sources), torch.cat(targets)


def _chunk_elements(period: Period | None) -> int:
    # Distances modulo a period are computed in several steps.
    return CHUNK_ELEMENTS if period is None else CHUNK_ELEMENTS // 4


def _distances(rows: Tensor, points: Tensor, period: Period | None) -> Tensor:
    """Return the distances from rows `[..., m, D]` to points `[..., n, D]`, `[..., m, n]`."""
    if period is None:
        return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")
    squares = rows.new_zeros(*rows.shape[:-1], points.size(-2))
    for row, column, length in zip(rows.unbind(-1), points.unbind(-1), period, strict=True):
        offset = shortest(row.unsqueeze(-1) - column.unsqueeze(-2), length)
        squares.addcmul_(offset, offset)
    return squares.sqrt_()
