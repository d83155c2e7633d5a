"""Differentiable non-uniform Fourier transforms of real values at points."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

Modes = tuple[int, ...]


class Transform(Protocol):
    """The two transforms at fixed points, without gradients.

    Spectra hold the modes m with -K <= m <= K on every axis in the order of `torch.fft`, of the
    last axis only those with m >= 0: `[C, M_1, ..., M_{D-1}, K_D + 1]` with M = 2 K + 1.
    """

    def analyze(self, values: Tensor) -> Tensor:
        r"""Return :math:`F_m = \\sum_j x_j e^{i m \\cdot \\theta_j}` of real values `[C, N]`."""

    def synthesize(self, spectrum: Tensor) -> Tensor:
        r"""Return :math:`y_j = \\sum_m Y_m e^{-i m \\cdot \\theta_j}`, real, `[C, N]`.

        The sum runs over all modes; those that a spectrum does not hold are the conjugates of the
        opposite ones.
        """


def analyze(values: Tensor, angles: Tensor, transform: Transform, modes: Modes) -> Tensor:
    r"""Transform real values at points to modes (type 1): :math:`\sum_j x_j e^{i m \theta_j}`.

    Differentiable any number of times with respect to values and angles.

    Args:
        values: Values, `[C, N]`.
        angles: Points, in radians, `[N, D]`.
        transform: The transform at these points.
        modes: Number of modes per axis, odd.

    Returns:
        The spectrum in the layout of `Transform`.
    """
    return _Analysis.apply(values, angles, transform, modes)


def synthesize(spectrum: Tensor, angles: Tensor, transform: Transform, modes: Modes) -> Tensor:
    r"""Transform modes to real values at points (type 2): :math:`\sum_m Y_m e^{-i m \theta_j}`.

    Differentiable any number of times with respect to the spectrum and angles.

    Args:
        spectrum: Spectrum in the layout of `Transform`.
        angles: Points, in radians, `[N, D]`.
        transform: The transform at these points.
        modes: Number of modes per axis, odd.

    Returns:
        The values, `[C, N]`.
    """
    return _Synthesis.apply(spectrum, angles, transform, modes)


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, angles: Tensor, transform: Transform, modes: Modes
    ) -> Tensor:
        ctx.save_for_backward(values, angles)
        ctx.transform, ctx.modes = transform, modes
        return transform.analyze(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, angles = ctx.saved_tensors
        spectrum = grad / _multiplicity(ctx.modes, grad)
        grad_values = grad_angles = None
        if ctx.needs_input_grad[0]:
            grad_values = synthesize(spectrum, angles, ctx.transform, ctx.modes)
        if ctx.needs_input_grad[1]:
            grad_angles = _angle_gradient(values, spectrum, angles, ctx.transform, ctx.modes)
        return grad_values, grad_angles, None, None


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spectrum: Tensor, angles: Tensor, transform: Transform, modes: Modes
    ) -> Tensor:
        ctx.save_for_backward(spectrum, angles)
        ctx.transform, ctx.modes = transform, modes
        return transform.synthesize(spectrum)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spectrum, angles = ctx.saved_tensors
        grad_spectrum = grad_angles = None
        if ctx.needs_input_grad[0]:
            grad_spectrum = analyze(grad, angles, ctx.transform, ctx.modes)
            grad_spectrum = grad_spectrum * _multiplicity(ctx.modes, grad_spectrum)
        if ctx.needs_input_grad[1]:
            grad_angles = _angle_gradient(grad, spectrum, angles, ctx.transform, ctx.modes)
        return grad_spectrum, grad_angles, None, None


def _angle_gradient(
    values: Tensor, spectrum: Tensor, angles: Tensor, transform: Transform, modes: Modes
) -> Tensor:
    """Return the derivative of `(values * synthesize(spectrum)).sum()` by the angles, `[N, D]`."""
    columns = []
    for axis in range(len(modes)):
        slope = spectrum * (-1j * _mode_numbers(modes, axis, spectrum))
        columns.append((values * synthesize(slope, angles, transform, modes)).sum(0))
    return torch.stack(columns, -1).to(angles.dtype)


def _mode_numbers(modes: Modes, axis: int, like: Tensor) -> Tensor:
    """Return the modes of an axis, shaped to be multiplied with a spectrum."""
    top = modes[axis] // 2
    numbers = torch.arange(modes[axis], device=like.device)
    numbers = torch.where(numbers > top, numbers - modes[axis], numbers)
    numbers = numbers[: top + 1] if axis == len(modes) - 1 else numbers
    shape = [1] * len(modes)
    shape[axis] = -1
    return numbers.to(like.real.dtype).view(shape)


def _multiplicity(modes: Modes, like: Tensor) -> Tensor:
    """Return how many modes every entry of a spectrum stands for: 2, or 1 where m_D = 0."""
    twos = like.real.new_full((modes[-1] // 2 + 1,), 2.0)
    twos[0] = 1.0
    return twos
