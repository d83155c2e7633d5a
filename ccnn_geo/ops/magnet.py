"""The features of a MAGNet as a plain function of coordinates and weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import is_vmapped


class MAGNetWeights(NamedTuple):
    r"""The weights of a multiplicative anisotropic Gabor network with L filters of width H.

    Filter :math:`l` is :math:`G_l(c) = \exp(-\tfrac12 \|\gamma_l \odot (c - \mu_l)\|^2)
    \sin(\omega_l \cdot c + \varphi_l)`.
    """

    centers: Tensor
    """:math:`\\mu`, `[L, H, D]`."""
    inverse_widths: Tensor
    """:math:`\\gamma`, `[L, H, D]`."""
    frequencies: Tensor
    """:math:`\\omega`, radians per unit of coordinate, `[L, H, D]`."""
    phases: Tensor
    """:math:`\\varphi`, radians, `[L, H]`."""
    weights: Tensor
    """The linear maps between the filters, `[L - 1, H, H]`."""
    biases: Tensor
    """Their biases, `[L - 1, H]`."""

    def shifted(self, shift: float) -> MAGNetWeights:
        """Return the weights of the network `c -> f(c + shift)`, where f is this network."""
        if shift == 0.0:
            return self
        return self._replace(
            centers=self.centers - shift,
            phases=self.phases + shift * self.frequencies.sum(-1),
        )

    def attenuated(self, footprint: tuple[float, ...]) -> MAGNetWeights:
        r"""Return the network with every sine as it is expected under a Gaussian footprint.

        .. math::
            E[\sin(\omega \cdot (c + \epsilon) + \varphi)] = e^{-\frac12 \|\omega \odot h\|^2}
            \sin(\omega \cdot c + \varphi), \qquad \epsilon \sim N(0, \mathrm{diag}(h^2))

        (`Barron et al. 2021 <https://arxiv.org/abs/2103.13415>`_, Eq. 14). The factors go into the
        linear maps beside the filters.

        Args:
            footprint: Width h of the footprint per axis, in units of the coordinates.

        Raises:
            ValueError: If there is no linear map, or nothing is left of a filter.
        """
        if len(self.weights) == 0:
            raise ValueError("Expected a network with a linear map between filters, got one filter")
        factors = attenuation(self.frequencies, footprint)
        weights = self.weights * factors[1:].unsqueeze(-1)
        first = weights[:1] * factors[0]
        return self._replace(
            weights=torch.cat([first, weights[1:]]), biases=self.biases * factors[1:]
        )


def attenuation(frequencies: Tensor, footprint: tuple[float, ...]) -> Tensor:
    """Return the factors by which a Gaussian footprint attenuates sines, `[L, H]`.

    Args:
        frequencies: Radians per unit of coordinate, `[L, H, D]`.
        footprint: Width of the footprint per axis, in units of the coordinates.

    Raises:
        ValueError: If (on the CPU) nothing is left of a filter.
    """
    widths = torch.tensor(footprint, dtype=torch.float64, device=frequencies.device)
    turns = (frequencies.double() * widths).square().sum(-1)
    factors = torch.exp(-0.5 * turns).to(frequencies.dtype)
    if factors.device.type == "cpu" and not torch.compiler.is_compiling() and not is_vmapped():
        weakest = float(factors.detach().amax(1).min())
        if weakest < torch.finfo(factors.dtype).eps:
            raise ValueError(
                "Expected a `bandlimit` that leaves something of the kernel, got one at which the "
                f"slowest sine of a filter keeps {weakest:.1e} of its amplitude: choose a smaller "
                "`omega_0`, or a higher `bandlimit`"
            )
    return factors


class GaborFilters(NamedTuple):
    """All filters of a windowed MAGNet as one list of F = L * H + 1, in float64.

    The window is folded into the filters of the last layer, and is the last filter itself.
    """

    centers: Tensor
    """`[F, D]`."""
    inverse_widths: Tensor
    """`[F, D]`."""
    frequencies: Tensor
    """Radians per unit of coordinate, `[F, D]`."""
    phases: Tensor
    """Radians, `[F]`."""
    amplitudes: Tensor
    """`[F]`."""

    @classmethod
    def of(cls, network: MAGNetWeights, inverse_sigma: Tensor, shift: float) -> GaborFilters:
        r"""List the filters of a MAGNet at :math:`v + \text{shift}`, under a Gaussian of v.

        Args:
            network: The weights.
            inverse_sigma: Inverse widths of the window, `[D]`.
            shift: What is added to offsets v.
        """
        exact = MAGNetWeights(*(part.double() for part in network))
        centers, widths, frequencies, phases, *_ = exact.shifted(shift)
        window = inverse_sigma.double()
        # The product of two Gaussians is a Gaussian.
        square = widths[-1].square()
        share = square / (square + window.square())
        amplitude = torch.exp(-0.5 * (share * (window * centers[-1]).square()).sum(-1))
        last = share * centers[-1], (square + window.square()).sqrt()
        return cls(
            torch.cat([*centers[:-1], last[0], torch.zeros_like(window)[None]]),
            torch.cat([*widths[:-1], last[1], window[None]]),
            torch.nn.functional.pad(frequencies.flatten(0, 1), (0, 0, 0, 1)),
            torch.nn.functional.pad(phases.flatten(), (0, 1), value=0.5 * math.pi),
            torch.cat([torch.ones_like(phases[:-1]).flatten(), amplitude, amplitude.new_ones(1)]),
        )

    def along(self, axis: int, phases: Tensor) -> AxisFilters:
        """Return sines of the angles along an axis, with phases `[F, N]` or `[1, N]` added."""
        return AxisFilters(
            self.centers[:, axis],
            self.inverse_widths[:, axis],
            self.frequencies[:, axis],
            phases.expand(len(self.phases), -1),
        )


class AxisFilters(NamedTuple):
    """What Gabor filters are made of along one axis, in float64."""

    centers: Tensor
    """`[F]`."""
    inverse_widths: Tensor
    """`[F]`."""
    frequencies: Tensor
    """`[F]`."""
    phases: Tensor
    """`[F, N]`."""

    def evaluate(self, coordinates: Tensor) -> AxisWaves:
        """Evaluate the sines and the Gaussians at coordinates `[K]`.

        As in `accurate_sine`, angles are computed and reduced to [-pi, pi] in float64.
        """
        dtype, turn = coordinates.dtype, 2 * math.pi
        turns = torch.outer(self.frequencies / turn, coordinates.double()).unsqueeze(1)
        turns = turns + (self.phases / turn).unsqueeze(-1)
        angles = turns.sub_(turns.detach().round()).mul_(turn).to(dtype)
        centered = coordinates - self.centers.to(dtype).unsqueeze(-1)
        scaled = self.inverse_widths.to(dtype).unsqueeze(-1) * centered
        envelopes = scaled.square().mul_(-0.5).exp_().unsqueeze(1)
        return AxisWaves(angles, angles.sin(), centered, envelopes)

    def gradients(self, coordinates: Tensor, waves: AxisWaves, grad: Tensor) -> AxisFilters:
        """Return the gradients of the parts from the gradient of `waves.product()`, `[F, N, K]`."""
        weighted = grad * waves.envelopes
        by_angle = waves.angles.cos().mul_(weighted)
        by_exponent = weighted.mul_(waves.sines).sum(1).mul_(waves.centered)
        widths = self.inverse_widths
        return AxisFilters(
            widths.square() * by_exponent.sum(-1),
            -widths * torch.linalg.vecdot(by_exponent, waves.centered),
            (by_angle @ coordinates).sum(1),
            by_angle.sum(-1),
        )


class AxisWaves(NamedTuple):
    """Gabor filters along one axis at K coordinates."""

    angles: Tensor
    """Reduced to [-pi, pi], `[F, N, K]`."""
    sines: Tensor
    """Of the angles, `[F, N, K]`."""
    centered: Tensor
    """Coordinates less the centers, `[F, K]`."""
    envelopes: Tensor
    """The Gaussians, `[F, 1, K]`."""

    def product(self) -> Tensor:
        """Return the sines under the Gaussians, `[F, N, K]`."""
        return self.sines * self.envelopes


def magnet_features(coordinates: Tensor, network: MAGNetWeights) -> Tensor:
    r"""Evaluate a MAGNet up to its last hidden layer (FlexConv, Romero et al. 2022, Sec. 3.2).

    .. math::
        h_0 = G_0(c), \qquad h_l = G_l(c) \odot (W_l h_{l-1} + b_l)

    Args:
        coordinates: Where to evaluate, `[..., D]`.
        network: The weights.

    Returns:
        The features :math:`h_{L-1}`, `[..., H]`.
    """

    def gabor(layer: int) -> Tensor:
        centered = coordinates.unsqueeze(-2) - network.centers[layer]
        envelope = torch.exp(-0.5 * (network.inverse_widths[layer] * centered).square().sum(-1))
        return envelope * accurate_sine(
            coordinates, network.frequencies[layer], network.phases[layer]
        )

    hidden = gabor(0)
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True), 1):
        hidden = gabor(layer) * torch.nn.functional.linear(hidden, weight, bias)
    return hidden


def accurate_sine(coordinates: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    """Return sin(w . c + p), with the argument computed and reduced to [-pi, pi] in float64.

    Arguments reach thousands of radians, of which float32 keeps four digits after the point.

    Args:
        coordinates: Coordinates c, `[..., D]`.
        frequencies: Frequencies w, `[H, D]`.
        phases: Phases p, `[H]`.

    Returns:
        Sines in the type of the coordinates, `[..., H]`.
    """
    angle = coordinates.double() @ frequencies.double().T + phases.double()
    turns = (angle.detach() / (2 * math.pi)).round()
    return torch.sin((angle - 2 * math.pi * turns).to(coordinates.dtype))
