"""The operands of a convolution on points, packed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood


def network_shapes(layers: int, width: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of `MAGNetWeights`, by name."""
    filters = layers, width, dim
    return {
        "centers": filters,
        "inverse_widths": filters,
        "frequencies": filters,
        "phases": (layers, width),
        "weights": (layers - 1, width, width),
        "biases": (layers - 1, width),
    }


@dataclass(frozen=True, eq=False)
class PointConv:
    """One convolution on points with any kernel network, see `ccnn_geo.ops.point_conv`.

    Positions are in units of the extent and in float64, in which offsets are taken; everything else
    is in the type of the kernel.
    """

    x: Tensor
    """Features of the sources, `[S, C]`."""
    source: Tensor
    """Positions of the sources, `[S, D]`."""
    target: Tensor
    """Positions of the targets, `[T, D]`."""
    neighbors: Neighborhood
    features: Features
    """The kernel network up to its last layer."""
    readout: Tensor
    """The last layer of the kernel network, `[C, H + 1]` or `[O, C, H + 1]`."""
    support: KernelSupport
    with_moment: bool


class MagnetConv(NamedTuple):
    r"""One convolution with a MAGNet: S sources, T targets, D coordinates, C channels, L filters.

    For the edge from source j to target i, with offset :math:`v = p_j - p_i`,

    .. math::
        f(v) = [g(v) h(v),\ g(v)] \in R^{H + 1}, \qquad
        g(v) = 1[lower \le v \le upper] \exp(-\tfrac12 \|v / \sigma\|^2)

    where h are the features of the MAGNet, H wide. A depthwise call (with `readout`) gives
    :math:`y_{ic} = \sum_j x_{jc}\, readout_c \cdot f(v_{ij})`, `[T, C]`; a call without gives the
    aggregate :math:`M_{ich} = \sum_j x_{jc} f_h(v_{ij})`, `[T, C, H + 1]`.
    The moment is :math:`\sum_{ij} f f^T`, `[H + 1, H + 1]`.

    Offsets are taken in float64 and then rounded to the type of everything else.
    """

    x: Tensor  # [S, C]
    source: Tensor  # [S, D] float64, positions of the sources
    target: Tensor  # [T, D] float64, positions of the targets
    index: Tensor  # type: ignore[assignment]  # [E] int64, source of every slot, sorted by target; -1 is an empty slot
    pointer: Tensor | None  # [T + 1] int64, or None where every target has `degree` slots
    degree: int
    reverse_pointer: Tensor | None  # [S + 1] int64, the slots grouped by source ...
    reverse_target: Tensor | None  # [E] int64, ... and their targets
    bounds: Tensor  # [2, D] lower and upper end of the support, inclusive
    inverse_sigma: Tensor  # [D] one over the widths of the Gaussian window
    network: MAGNetWeights
    readout: Tensor | None  # [C, H + 1], the last column is the bias

    def flat(self) -> list[Any]:
        """Return the arguments of the operator, with the weights of the network spelt out."""
        *before, network, readout = self
        return [*before, *network, readout]

    @classmethod
    def of(cls, flat: list[Any]) -> Self:
        """Undo `flat`."""
        *before, readout = flat
        width = len(MAGNetWeights._fields)
        network = MAGNetWeights(*before[-width:])
        return cls._make([*before[:-width], network, readout])

    def shapes(self) -> dict[str, tuple[Tensor | None, tuple[int, ...]]]:
        """Return every tensor with the shape that the sizes of the others imply."""
        sources, channels = self.x.shape
        targets, dim = self.target.shape
        layers, width = self.network.phases.shape
        slots = self.index.numel()
        network = network_shapes(layers, width, dim)
        return {
            "x": (self.x, (sources, channels)),
            "source": (self.source, (sources, dim)),
            "target": (self.target, (targets, dim)),
            "index": (self.index, (slots,)),
            "pointer": (self.pointer, (targets + 1,)),
            "reverse_pointer": (self.reverse_pointer, (sources + 1,)),
            "reverse_target": (self.reverse_target, (slots,)),
            "bounds": (self.bounds, (2, dim)),
            "inverse_sigma": (self.inverse_sigma, (dim,)),
            **{name: (part, network[name]) for name, part in self.network._asdict().items()},
            "readout": (self.readout, (channels, width + 1)),
        }


class MagnetConvGradients(NamedTuple):
    """Gradients of one call; `x`, `source` and `target` are None unless requested."""

    x: Tensor | None
    source: Tensor | None
    target: Tensor | None
    inverse_sigma: Tensor
    network: MAGNetWeights
    readout: Tensor | None


def without_edges(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    features: Features,
    readout: Tensor,
    support: KernelSupport,
) -> tuple[Tensor, Tensor]:
    """Return the output and the moment of a convolution without edges.

    They are zeros with gradients of zero, whatever the values of the operands are.
    """
    network = features if isinstance(features, MAGNetWeights) else ()
    operands = x, readout, source, target, support.inverse_sigma, *network
    zero = torch.cat([part.flatten()[:0].to(x.dtype) for part in operands]).sum()
    width = readout.size(-1)
    return zero.expand(len(target), readout.size(0)), zero.expand(width, width)
