"""Kernel networks: from the coordinates of an offset to the values of a convolution kernel.

They share one contract: `features(coordinates [..., D]) -> [..., H]`, and a linear `readout` from
those H features to the C values of the kernel. Because the last layer is linear, a convolution can
gather features instead of kernel values, which is what makes it fast.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ccnn_geo.nn.checks import check_positive
from ccnn_geo.ops import MAGNetWeights, magnet_features
from ccnn_geo.ops.kernel_support import Features
from ccnn_geo.ops.magnet import attenuation
from ccnn_geo.ops.scalars import check_count


class KernelNetwork(nn.Module):
    """Base of all kernel networks: hidden features and a linear readout.

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.

    Shapes:
        - **input:** coordinates `[..., D]`, in [-1, 1] within the kernel's support.
        - **output:** kernel values `[..., C]`.

    Raises:
        ValueError: If a size is less than 1.
    """

    def __init__(self, dim: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        for name, size in (
            ("dim", dim),
            ("hidden_channels", hidden_channels),
            ("out_channels", out_channels),
        ):
            check_count(name, size)
        self.dim = dim
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.readout = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw the readout anew: unit variance from features of unit variance."""
        _linear_gain(self.readout, bias=0.0)

    def features(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network up to its last hidden layer, `[..., D]` to `[..., H]`."""
        raise NotImplementedError

    def magnet_weights(self) -> MAGNetWeights | None:
        """The network as a MAGNet, which the fused convolutions take; None if it is not one."""
        return None

    def attenuated(self, footprint: tuple[float, ...]) -> Features:
        """Return the features with every sine as it is expected under a Gaussian footprint.

        Args:
            footprint: Width of the footprint per axis, in units of the coordinates.

        Raises:
            ValueError: If this kind of network has no such expectation, or (on the CPU) nothing is
                left of it.
        """
        raise ValueError(
            "Expected a MAGNet, GaborNet or FourierNet as the kernel for a `bandlimit`, got a "
            f"{type(self).__name__}"
        )

    def forward(self, coordinates: Tensor) -> Tensor:
        """Evaluate the kernel at coordinates `[..., D]`, giving `[..., C]`."""
        return self.readout(self.features(coordinates))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"dim={self.dim}, hidden_channels={self.hidden_channels}"


class _FilterNetwork(KernelNetwork):
    """Multiplicative filter network: hidden layers multiplied by filters of the coordinates.

    Weights of all filters are stacked, filter by filter, so that they can be evaluated together.
    """

    def __init__(
        self, dim: int, hidden_channels: int, out_channels: int, num_layers: int, omega_0: float
    ) -> None:
        super().__init__(dim, hidden_channels, out_channels)
        self.num_layers = check_count("num_layers", num_layers)
        self.omega_0 = check_positive("omega_0", omega_0)
        filters = num_layers + 1
        self.frequencies = nn.Parameter(torch.empty(filters, hidden_channels, dim))
        self.phases = nn.Parameter(torch.empty(filters, hidden_channels))
        self.weights = nn.Parameter(torch.empty(num_layers, hidden_channels, hidden_channels))
        self.biases = nn.Parameter(torch.empty(num_layers, hidden_channels))

    def _reset_linears(self) -> None:
        bound = 1 / math.sqrt(self.dim)
        nn.init.uniform_(self.frequencies, -bound, bound)
        with torch.no_grad():
            self.frequencies.mul_(2 * math.pi * self.omega_0)
        nn.init.zeros_(self.phases)
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, nonlinearity="linear")
        nn.init.ones_(self.biases)

    def extra_repr(self) -> str:
        """Show the sizes and the frequency."""
        return f"{super().extra_repr()}, num_layers={self.num_layers}, omega_0={self.omega_0:g}"


class _GaborNetwork(_FilterNetwork):
    """Filters that are a sine under a Gaussian; subclasses say how many widths a Gaussian has."""

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        omega_0: float,
        center_range: tuple[float, float],
        widths: int,
    ) -> None:
        super().__init__(dim, hidden_channels, out_channels, num_layers, omega_0)
        if not center_range[0] < center_range[1]:
            raise ValueError(f"Expected `center_range` (low, high), got {center_range}")
        self.center_range = center_range
        filters = num_layers + 1
        self.centers = nn.Parameter(torch.empty(filters, hidden_channels, dim))
        self.inverse_widths = nn.Parameter(torch.empty(filters, hidden_channels, widths))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (FlexConv, Romero et al. 2022, and the paper's Sec. 4.1)."""
        super().reset_parameters()
        self._reset_linears()
        nn.init.uniform_(self.centers, *self.center_range)
        with torch.no_grad():
            # The product of all filters' Gaussians keeps its width whatever the depth.
            for number, inverse_width in enumerate(self.inverse_widths, 1):
                inverse_width.copy_(
                    torch._standard_gamma(torch.full_like(inverse_width, 6 / number))
                )
            self.frequencies.mul_(self.inverse_widths)

    def magnet_weights(self) -> MAGNetWeights:
        """The stacked weights, every filter with a width per axis."""
        return MAGNetWeights(
            self.centers,
            self.inverse_widths.expand_as(self.centers),
            self.frequencies,
            self.phases,
            self.weights,
            self.biases,
        )

    def attenuated(self, footprint: tuple[float, ...]) -> MAGNetWeights:
        """Return the weights with every sine as it is expected under a Gaussian footprint."""
        return self.magnet_weights().attenuated(footprint)

    def features(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network up to its last hidden layer, `[..., D]` to `[..., H]`."""
        return magnet_features(coordinates, self.magnet_weights())


class MAGNet(_GaborNetwork):
    r"""Multiplicative anisotropic Gabor network, the paper's kernel network.

    `FlexConv <https://arxiv.org/abs/2110.08059>`_ (Romero et al. 2022), Sec. 3.2.

    .. math::
        h_0 = G_0(c), \qquad h_l = G_l(c) \odot (W_l h_{l-1} + b_l), \qquad k(c) = A h_L + a

    with :math:`G_l(c) = \exp(-\tfrac12 \|\gamma_l \odot (c - \mu_l)\|^2)
    \sin(\omega_l \cdot c + \varphi_l)`.

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.
        num_layers: Number of hidden linear layers; there is one filter more.
        omega_0: How fast the kernel may vary at initialisation: the frequencies are drawn in
            proportion to it, in turns per unit of coordinate. Too low and kernels are smooth blobs;
            too high and they alias between samples. It grows with the number of samples along the
            kernel: the paper uses 50 to 500 for clouds of 512 points, up to 4,000 for long
            sequences.
        center_range: Interval from which the Gaussians' centres are drawn.

    Shapes:
        - **input:** coordinates `[..., D]`
        - **output:** kernel values `[..., C]`

    Raises:
        ValueError: If a size or `omega_0` is not positive, or `center_range` is empty.
    """

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        omega_0: float = 50.0,
        center_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(
            dim, hidden_channels, out_channels, num_layers, omega_0, center_range, widths=dim
        )


class GaborNet(_GaborNetwork):
    """Multiplicative Gabor network: a MAGNet with one width per Gaussian instead of one per axis.

    `Multiplicative Filter Networks <https://openreview.net/forum?id=OmtmcPkkhT>`_ (Fathony et al.
    2021), Eq. 9.

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.
        num_layers: Number of hidden linear layers; there is one filter more.
        omega_0: Scale of the initial frequencies, see `MAGNet`.
        center_range: Interval from which the Gaussians' centres are drawn.

    Shapes:
        - **input:** coordinates `[..., D]`
        - **output:** kernel values `[..., C]`

    Raises:
        ValueError: If a size or `omega_0` is not positive, or `center_range` is empty.
    """

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        omega_0: float = 50.0,
        center_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(
            dim, hidden_channels, out_channels, num_layers, omega_0, center_range, widths=1
        )


class FourierNet(_FilterNetwork):
    """Multiplicative filter network whose filters are plain sines.

    `Multiplicative Filter Networks <https://openreview.net/forum?id=OmtmcPkkhT>`_ (Fathony et al.
    2021), Eq. 6.

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.
        num_layers: Number of hidden linear layers; there is one filter more.
        omega_0: Scale of the initial frequencies, see `MAGNet`; shared among the filters.

    Shapes:
        - **input:** coordinates `[..., D]`
        - **output:** kernel values `[..., C]`

    Raises:
        ValueError: If a size or `omega_0` is not positive.
    """

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        omega_0: float = 50.0,
    ) -> None:
        super().__init__(dim, hidden_channels, out_channels, num_layers, omega_0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        self._reset_linears()
        nn.init.uniform_(self.phases, -math.pi, math.pi)
        with torch.no_grad():
            # The frequencies of a product add up: each filter gets its share.
            self.frequencies.div_(math.sqrt(self.num_layers + 1))

    def features(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network up to its last hidden layer, `[..., D]` to `[..., H]`."""
        return self._features(coordinates, None)

    def attenuated(self, footprint: tuple[float, ...]) -> Features:
        """Return the features with every sine as it is expected under a Gaussian footprint."""
        return partial(self._features, factors=attenuation(self.frequencies, footprint))

    def _features(self, coordinates: Tensor, factors: Tensor | None) -> Tensor:
        angle = torch.einsum("...d,lhd->...lh", coordinates, self.frequencies) + self.phases
        sines = torch.sin(angle)
        if factors is not None:
            sines = sines * factors
        first, *others = sines.unbind(-2)
        hidden = first
        for sine, weight, bias in zip(others, self.weights, self.biases, strict=True):
            hidden = sine * nn.functional.linear(hidden, weight, bias)
        return hidden


def _linear_gain(layer: nn.Linear, *, bias: float) -> None:
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    nn.init.constant_(layer.bias, bias)
