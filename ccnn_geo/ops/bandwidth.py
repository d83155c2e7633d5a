"""How far the spectrum of a kernel reaches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnn_geo.ops.kernel_support import Features, KernelSupport

_LINES = (4, 32)
"""Least and most lines per axis along which a kernel of several coordinates is sampled."""

_SAMPLES = 2**14
"""Samples on all lines together, as far as there are `_LINES`."""

_MIN_SAMPLES = 64
_MAX_SAMPLES = 8192


@torch.no_grad()
def kernel_reach(support: KernelSupport, tolerance: float) -> tuple[float, ...]:
    """Return how far a kernel reaches on every axis, in kernel units.

    This is where its window falls below the tolerance, or where its support ends.
    """
    widths = 1.0 / support.inverse_sigma.double()
    decay = widths * math.sqrt(-2 * math.log(tolerance))
    return tuple(decay.minimum(support.bounds[1].double()).tolist())


@torch.no_grad()
def kernel_jump(support: KernelSupport) -> float:
    """Return the height of the window where the support of a kernel ends, in units of its peak."""
    ends = support.bounds[1] * support.inverse_sigma
    return float(torch.exp(-0.5 * ends.double().square()).max())


@torch.no_grad()
def kernel_bandwidth(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    tolerance: float,
) -> tuple[float, ...]:
    r"""Return the frequencies beyond which a windowed kernel has next to no power, per axis.

    Beyond :math:`F_d` cycles per kernel unit on axis d lies at most `tolerance ** 2` of the power
    of the kernel, on average over its channels, each relative to its own power. The power spectrum
    along an axis, summed over all other frequencies, is the mean power spectrum of the kernel on
    lines along this axis (Parseval's theorem). It is sampled on evenly distributed lines, the same
    ones in every call, at a rate that doubles until the spectrum ends in the lower half of the
    frequencies that the rate resolves.

    Args:
        features: The kernel network up to its last linear layer, see `point_conv`.
        readout: The last linear layer, `[C, H + 1]` or `[O, C, H + 1]`.
        support: Support and window of the kernel.
        reach: How far the kernel reaches on every axis, see `kernel_reach`.
        tolerance: Square root of the share of the power that may lie beyond.

    Returns:
        The frequencies; infinite where the kernel varies faster than can be resolved.

    Raises:
        ValueError: If the kernel is not finite.
    """
    rows = _leveled_rows(features, readout.flatten(0, -2), support, reach)
    # R^T R = U^T U: as many channels as features are enough to measure the power of all of them.
    if len(rows) > rows.size(1):
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        rows = (vectors * values.clamp(min=0).sqrt()).T
    frequencies = []
    for axis in range(len(reach)):
        samples, frequency = _MIN_SAMPLES, math.inf
        while math.isinf(frequency) and samples <= _MAX_SAMPLES:
            power = _line_power(features, rows, support, reach, axis, samples)
            beyond = power.flip(0).cumsum(0).flip(0)
            total = float(beyond[0])
            ends = int((beyond > tolerance**2 * total).sum())
            if 2 * ends <= len(power) or total == 0.0:
                frequency = ends / (4 * reach[axis])
            samples *= 2
        frequencies.append(frequency)
    return tuple(frequencies)


def _leveled_rows(
    features: Features, rows: Tensor, support: KernelSupport, reach: tuple[float, ...]
) -> Tensor:
    """Return the rows of a readout, `[C, H + 1]`, scaled to kernels of the same power."""
    basis = torch.cat(
        [
            support.basis(_lines(support, reach, axis, _MIN_SAMPLES).flatten(0, 1), features)
            for axis in range(len(reach))
        ]
    ).double()
    rows = rows.double()
    power = ((rows @ (basis.T @ basis)) * rows).sum(-1)
    if not bool(power.isfinite().all()):
        raise ValueError("Expected a finite kernel and window, got NaN or infinity in weights")
    return rows * torch.where(power > 0, power, 1.0).rsqrt().unsqueeze(-1)


def _line_power(
    features: Features,
    rows: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    axis: int,
    samples: int,
) -> Tensor:
    """Return the mean power of a kernel on lines along an axis by frequency, `[samples + 1]`.

    Frequencies are multiples of 1 / (4 reach): lines are padded to twice their length, or else the
    end of a kernel that ends abruptly would go unnoticed.
    """
    basis = support.basis(_lines(support, reach, axis, samples), features)
    spectrum = torch.fft.rfft(basis.double() @ rows.T, 2 * samples, dim=1)
    power = spectrum.abs().square().sum(-1).mean(0)
    power[1:-1] *= 2
    return power


def _lines(support: KernelSupport, reach: tuple[float, ...], axis: int, samples: int) -> Tensor:
    """Return evenly distributed lines along an axis as offsets, `[lines, samples, D]`."""
    dim = len(reach)
    device = support.bounds.device
    lines = 1 if dim == 1 else min(max(_SAMPLES // samples, _LINES[0]), _LINES[1])
    steps = (torch.arange(samples, dtype=torch.float64, device=device) + 0.5) * (2 / samples) - 1
    offsets = torch.empty(lines, samples, dim, dtype=torch.float64, device=device)
    places = iter(_even_places(lines, dim - 1).to(device).unbind(-1))
    for own, end in enumerate(reach):
        offsets[..., own] = end * (steps if own == axis else next(places).unsqueeze(-1))
    return offsets.to(support.bounds.dtype)


def _even_places(count: int, dim: int) -> Tensor:
    """Return evenly distributed places in [-1, 1]^dim, denser towards the centre, `[count, dim]`.

    The additive recurrence of Roberts (2018) with the generalised golden ratio.
    """
    ratio = 1.5
    for _ in range(32):
        ratio = (1 + ratio) ** (1 / (dim + 1))
    numbers = torch.arange(1, count + 1, dtype=torch.float64).unsqueeze(-1)
    shares = ratio ** -torch.arange(1, dim + 1, dtype=torch.float64)
    return 2 * ((0.5 + numbers * shares) % 1.0) - 1
