"""The offsets at which an initial kernel is normalised (paper, Sec. 4.1 and Fig. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops import KernelSupport
from ccnn_geo.ops.kernel_support import Features

_TARGETS = 32
_CHUNK = 2**16


def typical_offsets(dim: int, num_neighbors: int) -> Tensor:
    """Return offsets of neighbours in a typical cloud, in units of the extent, `[_, D]`.

    The cloud has twice as many points as a target has neighbours (the paper's 512 and 256), spread
    over the unit sphere, since scans and sampled meshes are surfaces; for D = 1 over [-1, 1]. The
    offsets lead from 32 of its points, always the same ones, to their nearest neighbours.

    Args:
        dim: Number of coordinates, D.
        num_neighbors: Neighbours of every target.
    """
    generator = torch.Generator().manual_seed(0)
    count = max(2 * num_neighbors, _TARGETS)
    if dim == 1:
        points = 2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1
    else:
        points = torch.randn(count, dim, generator=generator, dtype=torch.float64)
        points = points / points.norm(dim=1, keepdim=True)
    offsets = points - points[:_TARGETS, None]
    nearest = offsets.square().sum(-1).topk(num_neighbors, largest=False).indices
    return offsets.gather(1, nearest.unsqueeze(-1).expand(-1, -1, dim)).flatten(0, 1)


def second_moment(support: KernelSupport, offsets: Tensor, features: Features) -> Tensor:
    """Return the sum of the second moments of windowed features, `[H + 1, H + 1]`, in float64.

    Args:
        support: Support and window of the kernel.
        offsets: Offsets in the kernel's own unit, `[K, D]`.
        features: The kernel network.
    """
    total = None
    for chunk in offsets.split(_CHUNK):
        basis = support.basis(chunk.to(support.bounds), features).double()
        moment = basis.T @ basis
        total = moment if total is None else total + moment
    if total is None:
        raise ValueError("Expected at least one offset, got none")
    return total
