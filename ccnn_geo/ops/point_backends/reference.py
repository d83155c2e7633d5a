"""The definition of the convolution, edge by edge, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.neighborhood import Neighborhood, relative_offsets


def convolve(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    """The definition, edge by edge: materialises the kernel of every edge."""
    j, i = neighbors.edge_index
    basis = support.basis(relative_offsets(source[j], target[i]), features)
    if readout.dim() == 2:
        messages = (basis @ readout.T) * x[j]
    else:
        messages = torch.einsum("eh,och,ec->eo", basis, readout, x[j])
    output = x.new_zeros(neighbors.num_targets, messages.size(1)).index_add(0, i, messages)
    return output, basis.T @ basis if with_moment else x.new_zeros(())
