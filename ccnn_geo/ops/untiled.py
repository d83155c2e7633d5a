"""The convolution with a MAGNet kernel in plain PyTorch and in one piece, for few edges.

Where a handful of tensors holds all edges, neither tiles nor recomputing them pays: autograd keeps
what backward needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.magnet_conv import MagnetConv
from ccnn_geo.ops.monomials import coefficients
from ccnn_geo.ops.neighborhood import relative_offsets

MAX_ELEMENTS = 2**19
"""Filters' values and features of all edges that are taken in one piece: some 12 MiB are kept."""


def is_suited(call: MagnetConv) -> bool:
    """Whether a call is small; full kernels on a list of edges would need an aggregate per edge."""
    per_edge = call.network.phases.numel() + call.x.size(1)
    return call.index.numel() * per_edge <= MAX_ELEMENTS and not (
        call.pointer is not None and call.readout is None
    )


def convolve(call: MagnetConv, target: Tensor, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call differentiably, see `ccnn_geo.ops.magnet_conv.MagnetConv`.

    Args:
        call: The operands.
        target: Target of every slot, `[E]`.
        with_moment: Whether the second moment of the features is wanted as well.

    Returns:
        The output, `[T, C]` or `[T, C, H + 1]`, and the moment `[H + 1, H + 1]` (else empty).
    """
    source = call.index.clamp(min=0)
    offsets = relative_offsets(
        call.source.index_select(0, source), call.target.index_select(0, target)
    )
    inside = ((offsets >= call.bounds[0]) & (offsets <= call.bounds[1])).all(-1) & (call.index >= 0)
    basis = _basis(call, offsets) * inside.unsqueeze(-1)
    values = call.x.index_select(0, source)
    table = call.target.size(0), call.degree
    if call.readout is not None and (call.pointer is not None or 2 * call.degree <= basis.size(1)):
        messages = (basis @ call.readout.T) * values
        if call.pointer is None:
            output = messages.view(*table, values.size(1)).sum(1)
        else:
            output = messages.new_zeros(table[0], values.size(1)).index_add(0, target, messages)
    else:
        output = values.view(*table, values.size(1)).mT @ basis.view(*table, basis.size(1))
        if call.readout is not None:
            output = (output * call.readout).sum(-1)
    return output, basis.T @ basis if with_moment else basis.new_empty(0)


def _basis(call: MagnetConv, offsets: Tensor) -> Tensor:
    """Windowed features and the window itself, as if every edge counted, `[E, H + 1]`."""
    exact = coefficients(call)
    layers, width = call.network.phases.shape
    monomials = torch.cat([offsets, torch.ones_like(offsets[:, :1]), offsets.square()], -1)
    # Exponents may be small differences of large terms.
    exponents = torch.cat(
        [exact.exponent.transpose(0, 1).flatten(1), exact.window.unsqueeze(-1)], -1
    )
    envelopes = (monomials.double() @ exponents).to(offsets.dtype).exp()
    angles = exact.angle.transpose(0, 1).flatten(1).to(offsets.dtype)
    sines = (monomials[:, : angles.size(0)] @ angles).sin()
    first, *others = (envelopes[:, :-1] * sines).view(-1, layers, width).unbind(1)
    hidden = first
    for values, weight, bias in zip(others, call.network.weights, call.network.biases, strict=True):
        hidden = values * torch.addmm(bias, hidden, weight.T)
    return torch.cat([hidden, envelopes[:, -1:]], -1)
