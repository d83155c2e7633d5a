"""The scale of initial kernels (paper, Sec. 4.1 and Fig. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def cloud_moment(support: KernelSupport, features: Features, num_neighbors: int) -> Tensor:
    """Return the second moment of windowed features in a typical cloud, `[H + 1, H + 1]`.

    Args:
        support: Support and window of the kernel.
        features: The kernel network.
        num_neighbors: Neighbours of every target.
    """
    offsets = typical_offsets(len(support.scale), num_neighbors).to(support.bounds.device)
    targets = len(offsets) // num_neighbors
    stretched = offsets * (2.0 if support.shift else 1.0)
    return second_moment(support, stretched, features) / targets


@torch.no_grad()
def normalize_readout(layer: nn.Linear, moment: Tensor, outputs: int) -> None:
    """Scale the readout of a kernel network so that the kernel's squared norm is 1 per output.

    Args:
        layer: The readout, with one row per kernel value; rows of the same output are adjacent.
        moment: Second moment of the windowed features, summed over the terms of an output.
        outputs: Number of outputs.
    """
    rows = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1).double()
    squares = ((rows @ moment.double()) * rows).sum(-1)
    totals = squares.view(outputs, -1).sum(-1, keepdim=True).expand(-1, len(rows) // outputs)
    scale = torch.where(totals > 0, totals.rsqrt(), torch.ones_like(totals)).flatten()
    layer.weight.mul_(scale.unsqueeze(-1).to(layer.weight))
    layer.bias.mul_(scale.to(layer.bias))
