"""Convolution on grids through the FFT: any dimension, any sizes, bounded memory.

A real FFT of every axis is padded just so far that what wraps around falls where nothing is read.
Axis by axis, so that rows of padding are neither transformed nor transformed back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

SCRATCH_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Memory that a convolution may take besides its operands and results: on the CPU about what stays
in its cache. One channel of one sample (two kernels' worth with full kernels) is the least."""

_BUFFERS = 5
"""Padded signals that are alive at a time, counting spectra: in, between axes, product, out."""


class Layout(NamedTuple):
    """Sizes of a convolution, per axis."""

    size: tuple[int, ...]
    """Points of the grid."""
    taps: tuple[int, ...]
    """Taps of the kernel, no more than reach from one end of the grid to the other."""
    left: tuple[int, ...]
    """Taps before the one at offset 0."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the transforms: the longer arm of the kernel must not wrap into the grid."""
        return tuple(
            fast_length(size + max(left, taps - 1 - left))
            for size, taps, left in zip(self.size, self.taps, self.left, strict=True)
        )


@functools.lru_cache(maxsize=1024)
def fast_length(length: int) -> int:
    """Smallest even number not below `length` with no prime factor over 5."""
    length += length % 2
    while _without_factors(length, (2, 3, 5)) > 1:
        length += 2
    return length


def _without_factors(number: int, factors: tuple[int, ...]) -> int:
    for factor in factors:
        while number % factor == 0:
            number //= factor
    return number


def convolve(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    """Correlate `x [B, C, *S]` with `kernel [C, *K]` or `[O, C, *K]`; the type is that of x."""
    forward = _convolve_depthwise if kernel.dim() < x.dim() else _convolve_full
    return forward(x, kernel, layout)


def differentiate(
    grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout, needs_x: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the kernel (those needed) from that of the output."""
    backward = _differentiate_depthwise if kernel.dim() < x.dim() else _differentiate_full
    return backward(grad, x, kernel, layout, needs_x, needs_kernel)


def _convolve_depthwise(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    dtype = working_type(x, kernel)
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    for channels, samples in _depthwise_blocks(x, layout, dtype):
        response = _kernel_spectrum(kernel[channels].to(dtype), layout).conj_physical_()
        for rows in samples:
            spectrum = _spectrum(x[rows, channels].to(dtype), layout.lengths)
            output[rows, channels] = _signal(spectrum.mul_(response), layout.lengths, layout.size)
    return output


def _differentiate_depthwise(
    grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout, needs_x: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    dtype, lengths = working_type(x, kernel), layout.lengths
    contiguous = torch.contiguous_format
    grad_x = torch.empty_like(x, memory_format=contiguous) if needs_x else None
    grad_kernel = torch.empty_like(kernel, memory_format=contiguous) if needs_kernel else None
    for channels, samples in _depthwise_blocks(x, layout, dtype):
        if grad_x is not None:
            response = _kernel_spectrum(kernel[channels].to(dtype), layout)
        total = None
        for rows in samples:
            spectrum = _spectrum(grad[rows, channels].to(dtype), lengths)
            if grad_kernel is not None:
                product = _spectrum(x[rows, channels].to(dtype), lengths)
                product = product.mul_(spectrum.conj_physical()).sum(0)
                total = product if total is None else total.add_(product)
            if grad_x is not None:
                grad_x[rows, channels] = _signal(spectrum.mul_(response), lengths, layout.size)
        if grad_kernel is not None and total is not None:
            grad_kernel[channels] = _kernel_from_spectrum(total, layout)
    return grad_x, grad_kernel


def _convolve_full(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    dtype, lengths = working_type(x, kernel), layout.lengths
    output = x.new_empty(x.size(0), kernel.size(0), *layout.size)
    into, out_of, samples = _full_blocks(x, kernel, layout, dtype)
    for rows in samples:
        for targets in out_of:
            total = None
            for sources in into:
                response = _kernel_spectrum(kernel[targets, sources].to(dtype), layout)
                spectrum = _spectrum(x[rows, sources].to(dtype), lengths)
                product = _contract("bc...,oc...->bo...", spectrum, response.conj_physical_())
                total = product if total is None else total.add_(product)
            if total is not None:
                output[rows, targets] = _signal(total, lengths, layout.size)
    return output


def _differentiate_full(
    grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout, needs_x: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    dtype, lengths = working_type(x, kernel), layout.lengths
    grad_x = torch.zeros_like(x, dtype=dtype) if needs_x else None
    grad_kernel = torch.zeros_like(kernel, dtype=dtype) if needs_kernel else None
    into, out_of, samples = _full_blocks(x, kernel, layout, dtype)
    for rows in samples:
        for targets in out_of:
            above = _spectrum(grad[rows, targets].to(dtype), lengths)
            for sources in into:
                if grad_x is not None:
                    response = _kernel_spectrum(kernel[targets, sources].to(dtype), layout)
                    product = _contract("bo...,oc...->bc...", above, response)
                    grad_x[rows, sources] += _signal(product, lengths, layout.size)
                if grad_kernel is not None:
                    spectrum = _spectrum(x[rows, sources].to(dtype), lengths)
                    product = _contract("bc...,bo...->oc...", spectrum, above.conj_physical())
                    grad_kernel[targets, sources] += _kernel_from_spectrum(product, layout)
    return (
        None if grad_x is None else grad_x.to(x.dtype),
        None if grad_kernel is None else grad_kernel.to(kernel.dtype),
    )


def working_type(x: Tensor, kernel: Tensor) -> torch.dtype:
    """Type in which a convolution is computed: double precision where an operand has it."""
    return torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)


def _spectrum(signal: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Fourier transform of the last axes, padded with zeros to `lengths`."""
    spectrum = torch.fft.rfft(signal, n=lengths[-1], dim=-1)
    for axis in range(2, len(lengths) + 1):
        spectrum = torch.fft.fft(spectrum, n=lengths[-axis], dim=-axis)
    return spectrum


def _signal(spectrum: Tensor, lengths: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Back from a spectrum to the first `size` points of every axis."""
    for axis in range(len(lengths), 1, -1):
        spectrum = torch.fft.ifft(spectrum, dim=-axis).narrow(-axis, 0, size[-axis])
    return torch.fft.irfft(spectrum, n=lengths[-1], dim=-1).narrow(-1, 0, size[-1])


def _kernel_spectrum(kernel: Tensor, layout: Layout) -> Tensor:
    """Spectrum of kernels whose tap of offset 0 lies at index 0, those before it at the end."""
    axes = tuple(range(-len(layout.left), 0))
    padding = [
        pad
        for length, taps in zip(reversed(layout.lengths), reversed(layout.taps), strict=True)
        for pad in (0, length - taps)
    ]
    placed = torch.nn.functional.pad(kernel, padding)
    return _spectrum(placed.roll([-left for left in layout.left], axes), layout.lengths)


def _kernel_from_spectrum(spectrum: Tensor, layout: Layout) -> Tensor:
    axes = tuple(range(-len(layout.left), 0))
    kernel = _signal(spectrum, layout.lengths, layout.lengths).roll(layout.left, axes)
    for axis, taps in zip(axes, layout.taps, strict=True):
        kernel = kernel.narrow(axis, 0, taps)
    return kernel


def _contract(equation: str, one: Tensor, other: Tensor) -> Tensor:
    return torch.einsum(equation, one, other)


def _depthwise_blocks(
    x: Tensor, layout: Layout, dtype: torch.dtype
) -> Iterator[tuple[slice, list[slice]]]:
    """Cut channels, and where one of them is too large samples as well, to the scratch memory."""
    rows = max(1, _affordable(x, layout, dtype))
    samples = _slices(x.size(0), rows)
    for channels in _slices(x.size(1), max(1, rows // x.size(0))):
        yield channels, samples


def _full_blocks(
    x: Tensor, kernel: Tensor, layout: Layout, dtype: torch.dtype
) -> tuple[list[slice], list[slice], list[slice]]:
    """Cut input channels, output channels and samples: n^2 kernels and 2 n b signals at a time."""
    rows = max(1, _affordable(x, layout, dtype))
    samples = max(1, min(x.size(0), math.isqrt(rows) // 2))
    channels = max(1, math.isqrt(samples**2 + rows) - samples)
    return (
        _slices(x.size(1), channels),
        _slices(kernel.size(0), channels),
        _slices(x.size(0), samples),
    )


def _affordable(x: Tensor, layout: Layout, dtype: torch.dtype) -> int:
    """How many padded signals may be in work at a time."""
    budget = SCRATCH_BYTES.get(x.device.type, SCRATCH_BYTES["cpu"])
    return budget // (_BUFFERS * math.prod(layout.lengths) * dtype.itemsize)


def _slices(total: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]
