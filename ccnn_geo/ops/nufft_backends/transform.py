"""Differentiable non-uniform Fourier transforms of real values at points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import check_single_gradient

Modes = tuple[int, ...]

_PART_VALUES = 2**24
"""Values of the grids of channels that are transformed at a time."""

_PART_CHANNELS = 2
"""Channels that are transformed at a time at the least."""


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


def in_parts(run: Callable[[Tensor], Tensor], channels: Tensor, values: int) -> Tensor:
    """Transform some channels at a time, so that their grids take bounded memory.

    Args:
        run: The transform of some channels.
        channels: What to transform, `[C, ...]`.
        values: Values that the grid of one channel holds.
    """
    step = max(_PART_CHANNELS, _PART_VALUES // values)
    if len(channels) <= step:
        return run(channels)
    return torch.cat([run(part) for part in channels.split(step)])


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
    def forward(values: Tensor, angles: Tensor, transform: Transform, modes: Modes) -> Tensor:
        return transform.analyze(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, angles, ctx.transform, ctx.modes = inputs
        ctx.save_for_backward(values, angles)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return _in_channels(analyze, info, in_dims, *arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_single_gradient(grad)
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
    def forward(spectrum: Tensor, angles: Tensor, transform: Transform, modes: Modes) -> Tensor:
        return transform.synthesize(spectrum)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        spectrum, angles, ctx.transform, ctx.modes = inputs
        ctx.save_for_backward(spectrum, angles)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return _in_channels(synthesize, info, in_dims, *arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_single_gradient(grad)
        spectrum, angles = ctx.saved_tensors
        grad_spectrum = grad_angles = None
        if ctx.needs_input_grad[0]:
            grad_spectrum = analyze(grad, angles, ctx.transform, ctx.modes)
            grad_spectrum = grad_spectrum * _multiplicity(ctx.modes, grad_spectrum)
        if ctx.needs_input_grad[1]:
            grad_angles = _angle_gradient(grad, spectrum, angles, ctx.transform, ctx.modes)
        return grad_spectrum, grad_angles, None, None


def _in_channels(
    run: Callable[..., Tensor],
    info: Any,
    in_dims: tuple[int | None, ...],
    operand: Tensor,
    *others: Any,
) -> tuple[Tensor, int]:
    """Transform the examples of `torch.func.vmap` as channels; their points are the same."""
    axis = cast(int, in_dims[0])  # all that `nufft_conv` lets pass
    examples = operand.movedim(axis, 0)
    return run(examples.flatten(0, 1), *others).unflatten(0, examples.shape[:2]), 0


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
