"""Fourier series of a continuous kernel on a box, and what they are multiplied with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccnn_geo.ops.fourier_box import Box
from ccnn_geo.ops.functorch import is_transformed
from ccnn_geo.ops.grid_backends.layout import fast_length
from ccnn_geo.ops.grid_kernels import render_kernel
from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.nufft_backends.transform import Modes, Transform, analyze

_MIXED_VALUES = 2**23
"""Products with a full kernel that are held at a time."""


def _samples(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
) -> Tensor:
    """Return the samples of a kernel in a box as far as it reaches, `[C, 2 K_1 + 1, ...]`."""
    steps = tuple(length / count for length, count in zip(box.length, box.modes, strict=True))
    arms = [
        min(int(end / step), count // 2)
        for end, step, count in zip(reach, steps, box.modes, strict=True)
    ]
    spacing = tuple(step / scale for step, scale in zip(steps, support.scale, strict=True))
    taps = tuple((arm, arm) for arm in arms)
    return render_kernel(features, readout, support, spacing, taps)[0]


def _series(samples: Tensor, box: Box) -> Tensor:
    """Return the Fourier coefficients of samples around 0, in the layout of `Transform`."""
    arms = [count // 2 for count in samples.shape[1:]]
    axes = tuple(range(1, samples.dim()))
    missing = [modes - count for modes, count in zip(box.modes, samples.shape[1:], strict=True)]
    grid = torch.nn.functional.pad(samples, [each for m in missing[::-1] for each in (0, m)])
    grid = grid.roll([-arm for arm in arms], axes)
    return torch.fft.rfftn(grid, dim=axes, norm="forward")


def kernel_spectrum(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
) -> Tensor:
    """Return the Fourier coefficients of a depthwise kernel, or of the basis of a full one."""
    rows = readout if readout.dim() == 2 else _identity(readout)
    return _series(_samples(features, rows, support, reach, box), box)


def multiply_spectrum(kernel: Tensor, spectrum: Tensor, readout: Tensor) -> Tensor:
    """Return the spectrum of the output, `[C, ...]` or `[O, ...]`."""
    if readout.dim() == 2:
        return kernel * spectrum
    step = max(1, _MIXED_VALUES // readout[:, 0].numel())
    parts = zip(kernel.flatten(1).split(step, 1), spectrum.flatten(1).split(step, 1), strict=True)
    # `torch.func` does not support the hooks of checkpoints.
    shares = [
        _multiply_full(basis, part, readout)
        if is_transformed()
        else checkpoint(_multiply_full, basis, part, readout, use_reentrant=False)
        for basis, part in parts
    ]
    return torch.cat(shares, 1).unflatten(1, spectrum.shape[1:])


def _multiply_full(basis: Tensor, spectrum: Tensor, readout: Tensor) -> Tensor:
    """Return `sum_ch A_och basis_hm x_cm`, `[O, m]`."""
    rows = readout.transpose(1, 2).flatten(0, 1).to(spectrum.real.dtype)
    parts = rows @ torch.view_as_real(spectrum).flatten(1)
    mixed = torch.view_as_complex(parts.unflatten(-1, (-1, 2))).unflatten(0, (len(readout), -1))
    return (mixed * basis).sum(1)


def pair_moment(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
    angles: tuple[Tensor, Tensor],
    transforms: Callable[[Tensor, Modes], Transform],
) -> Tensor:
    """Return the second moment of the basis, summed over all pairs of a cloud, `[H + 1, H + 1]`.

    Squares of a kernel have twice its bandwidth. Instead of their series at the offsets of all
    pairs, the density of the offsets is evaluated at the samples of the kernel.
    """
    fine = Box(box.length, tuple(fast_length(2 * count - 1, odd=True) for count in box.modes))
    basis = _samples(features, _identity(readout), support, reach, fine)

    def density(points: Tensor) -> Tensor:
        ones = points.new_ones(1, len(points), dtype=readout.dtype)
        return analyze(ones, points, transforms(points, fine.modes), fine.modes)

    source, target = angles
    here = density(source)
    there = here if target is source else density(target)
    axes = tuple(range(1, 1 + len(fine.modes)))
    pairs = torch.fft.irfftn(here.conj() * there, fine.modes, dim=axes)
    arms = [count // 2 for count in basis.shape[1:]]
    pairs = pairs.roll(arms, axes)
    for axis, count in zip(axes, basis.shape[1:], strict=True):
        pairs = pairs.narrow(axis, 0, count)
    rows = basis.flatten(1)
    return (rows * pairs.reshape(1, -1)) @ rows.T


def _identity(readout: Tensor) -> Tensor:
    """Return a readout that gives the basis itself, `[H + 1, H + 1]`."""
    return torch.eye(readout.size(-1), dtype=readout.dtype, device=readout.device)
