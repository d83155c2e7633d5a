"""The frequencies of kernels: a report of them, and a penalty on those that alias."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.ops.grid_positions import per_axis
from ccnn_geo.ops.magnet import MAGNetWeights

_CUTOFF = 2.0
"""Standard deviations up to which the spectrum of a Gaussian counts, as in FlexConv."""


class KernelFrequencies(NamedTuple):
    """The frequencies of the kernel of one convolution."""

    name: str
    """Name of the convolution in the network."""
    highest: Tensor
    """Highest frequency of every hidden channel per axis, `[H, D]`, in cycles per unit of `pos`."""
    window: Tensor
    """Share of it that the window adds, `[D]`."""

    def aliasing(self, bandlimit: float | tuple[float, ...]) -> Tensor:
        """Return a mask of the hidden channels that reach beyond a bandlimit, `[H]`."""
        limit = self.highest.new_tensor(per_axis("bandlimit", bandlimit, self.highest.size(1)))
        return (self.highest > limit).any(-1)


def kernel_frequencies(model: nn.Module) -> list[KernelFrequencies]:
    r"""Return the highest frequencies of all kernels of a network.

    The kernel of hidden channel i of a multiplicative filter network is a product of filters, whose
    frequencies add up (FlexConv, Sec. 3.3):

    .. math::
        f_i = \frac1{2 \pi} \Big( |\omega_{L,i}| + s\,\gamma_{L,i} + \sum_{l < L} \max_j \big(
        |\omega_{l,j}| + s\,\gamma_{l,j} \big) + \frac{s}{\sigma} \Big)

    with frequencies :math:`\omega` and inverse widths :math:`\gamma` of the filters, the width
    :math:`\sigma` of the window, and s = 2 standard deviations of a Gaussian's spectrum.

    Args:
        model: A network with convolutions `CKConvMP` whose kernels are `MAGNet` or `GaborNet`.

    Returns:
        One entry for every convolution, differentiable.

    Raises:
        ValueError: If there is no convolution, or a kernel network is of another kind.
    """
    convs = {name: each for name, each in model.named_modules() if isinstance(each, CKConvMP)}
    if not convs:
        raise ValueError(f"Expected a network with CKConvMP layers, got {type(model).__name__}")
    entries = []
    for name, conv in convs.items():
        weights = conv.kernel.magnet_weights()
        if weights is None:
            raise ValueError(
                f"Expected a MAGNet or GaborNet as the kernel of {name or 'the layer'}, got "
                f"{type(conv.kernel).__name__}"
            )
        support = conv.support()
        scale = weights.frequencies.new_tensor(support.scale)
        window = _CUTOFF * support.inverse_sigma * scale / (2 * math.pi)
        filters = _filter_frequencies(weights) * scale
        entries.append(
            KernelFrequencies(name, filters[-1] + filters[:-1].amax(1).sum(0) + window, window)
        )
    return entries


def frequency_penalty(model: nn.Module, bandlimit: float | tuple[float, ...]) -> Tensor:
    r"""Return the penalty on kernels above a bandlimit (FlexConv, Romero et al. 2022, Sec. 3.3).

    .. math::
        \sum_{\text{convolutions}} \frac1H \sum_{i, d}
        \max(0,\, f_{i, d} - f_\text{Nyquist})^2 \,/\, f_\text{Nyquist}^2

    with the frequencies of `kernel_frequencies`, the window's share included.

    Args:
        model: See `kernel_frequencies`.
        bandlimit: Highest frequency in cycles per unit of `pos`, a number or one per axis; see
            `ops.nyquist_frequency`.

    Returns:
        A scalar with gradients to kernel networks and windows.

    Raises:
        ValueError: See `kernel_frequencies`; or if the bandlimit is not positive.
    """
    excesses = []
    for entry in kernel_frequencies(model):
        limit = entry.highest.new_tensor(per_axis("bandlimit", bandlimit, entry.highest.size(1)))
        excesses.append(torch.relu(entry.highest / limit - 1).square().sum(-1).mean())
    return torch.stack(excesses).sum()


def _filter_frequencies(weights: MAGNetWeights) -> Tensor:
    """Return the highest frequency of every filter in cycles per kernel unit, `[L, H, D]`."""
    return (weights.frequencies.abs() + _CUTOFF * weights.inverse_widths.abs()) / (2 * math.pi)
