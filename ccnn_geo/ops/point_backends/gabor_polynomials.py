"""Arguments of Gabor filters as linear functions of the monomials of an offset, [v, 1, v^2]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.point_backends.operands import MagnetConv


class Coefficients(NamedTuple):
    """Coefficients of the filters' arguments in the monomials, or gradients of these."""

    exponent: Tensor  # [L, 2D + 1, H], the window folded into the last filter
    angle: Tensor  # [L, D + 1, H], of [v, 1] only
    window: Tensor  # [2D + 1]


def coefficients(network: MAGNetWeights, inverse_sigma: Tensor) -> Coefficients:
    """Write the arguments of all filters as coefficients of the monomials, in float64."""
    network = MAGNetWeights(*(part.double() for part in network))
    square = network.inverse_widths.square()
    window = -0.5 * inverse_sigma.double().square()
    quadratic = -0.5 * square
    quadratic[-1] += window
    linear = square * network.centers
    constant = -0.5 * (linear * network.centers).sum(-1, keepdim=True)
    return Coefficients(
        torch.cat([linear, constant, quadratic], -1).transpose(1, 2),
        torch.cat([network.frequencies, network.phases.unsqueeze(-1)], -1).transpose(1, 2),
        torch.nn.functional.pad(window, (window.numel() + 1, 0)),
    )


def parameter_gradients(
    call: MagnetConv, totals: Coefficients, grad_weights: Tensor, grad_biases: Tensor
) -> tuple[Tensor, MAGNetWeights]:
    """Turn gradients of the coefficients into gradients of the parameters.

    Args:
        call: The call that was differentiated.
        totals: Gradients of `coefficients`.
        grad_weights: Gradient of the linear maps, `[L - 1, H, H]`, passed on as it is.
        grad_biases: Gradient of their biases, `[L - 1, H]`, passed on as it is.

    Returns:
        The gradient of the inverse widths of the window `[D]`, and those of the network.
    """
    dim = call.source.size(1)
    dtype = call.x.dtype
    centers, inverse_widths = call.network.centers.double(), call.network.inverse_widths.double()
    linear, constant, quadratic = totals.exponent.transpose(1, 2).split([dim, 1, dim], -1)
    square = inverse_widths.square()
    grad_centers = square * (linear - centers * constant)
    grad_inverse_widths = inverse_widths * (
        2 * centers * linear - quadratic - centers.square() * constant
    )
    grad_inverse_sigma = -call.inverse_sigma * (quadratic[-1].sum(0) + totals.window[dim + 1 :])
    grad_frequencies, grad_phases = totals.angle.transpose(1, 2).split([dim, 1], -1)
    return grad_inverse_sigma.to(dtype), MAGNetWeights(
        grad_centers.to(dtype),
        grad_inverse_widths.to(dtype),
        grad_frequencies.to(dtype, copy=True),
        grad_phases.squeeze(-1).to(dtype, copy=True),
        grad_weights,
        grad_biases,
    )
