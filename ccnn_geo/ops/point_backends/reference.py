"""The definition of the convolution, edge by edge, in plain PyTorch.

It materialises the kernel of every edge, and can be differentiated any number of times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import magnet_features
from ccnn_geo.ops.neighborhood import relative_offsets
from ccnn_geo.ops.point_backends.checks import check_basis
from ccnn_geo.ops.point_backends.operands import MagnetConv, PointConv


def convolve(call: PointConv) -> tuple[Tensor, Tensor]:
    """Evaluate a convolution with any kernel network, see `ccnn_geo.ops.point_conv`."""
    j, i = call.neighbors.edge_index
    offsets = relative_offsets(call.source[j], call.target[i]).to(call.x.dtype)
    basis = call.support.basis(offsets, call.features)
    check_basis(basis, len(offsets), call.readout)
    # An edge outside the support contributes nothing, whatever its features are.
    values = torch.where(call.support.inside(offsets).unsqueeze(-1), call.x[j], 0.0)
    return _sum_messages(values, basis, call.readout, i, len(call.target), call.with_moment)


def evaluate(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate the operands of the fused operator, see `MagnetConv`."""
    if call.pointer is None:
        i = torch.arange(len(call.target), device=call.x.device).repeat_interleave(call.degree)
    else:
        i = torch.arange(len(call.target), device=call.x.device)
        i = i.repeat_interleave(call.pointer.diff(), output_size=call.index.numel())
    j, i = call.index[call.index >= 0], i[call.index >= 0]
    offsets = (call.source[j] - call.target[i]).to(call.x.dtype)
    inside = ~((offsets < call.bounds[0]) | (offsets > call.bounds[1])).any(-1, keepdim=True)
    offsets = torch.where(inside, offsets, 0.0)
    window = torch.exp(-0.5 * (offsets * call.inverse_sigma).square().sum(-1, keepdim=True))
    window = window * inside
    hidden = torch.where(inside, magnet_features(offsets, call.network), 0.0)
    values = torch.where(inside, call.x[j], 0.0)
    basis = torch.cat([window * hidden, window], -1)
    return _sum_messages(values, basis, call.readout, i, len(call.target), with_moment)


def _sum_messages(
    values: Tensor,
    basis: Tensor,
    readout: Tensor | None,
    i: Tensor,
    num_targets: int,
    with_moment: bool,
) -> tuple[Tensor, Tensor]:
    """Sum the products of kernels and features `[E, C]` over the edges of every target."""
    if readout is None:
        messages = values.unsqueeze(-1) * basis.unsqueeze(1)
    elif readout.dim() == 2:
        messages = (basis @ readout.T) * values
    else:
        messages = torch.einsum("eh,och,ec->eo", basis, readout, values)
    output = values.new_zeros(num_targets, *messages.shape[1:]).index_add(0, i, messages)
    return output, basis.T @ basis if with_moment else values.new_zeros(0)
