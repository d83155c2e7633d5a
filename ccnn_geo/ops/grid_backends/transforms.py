"""Fourier transforms of values that lie in zeros."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.grid_backends.blocks import Blocks
from ccnn_geo.ops.grid_backends.layout import Layout


class Transform:
    """Real Fourier transform of values that lie in zeros, along the last axes, and its inverse.

    Axes are transformed one by one, so that rows of zeros are not; the zeros are written once.

    Args:
        lengths: Lengths of the transform.
        sizes: Values along every axis.
        starts: Place of the first value along every axis; values past the end continue at 0.
        dtype: Floating-point type of the transform.
    """

    def __init__(
        self,
        lengths: tuple[int, ...],
        sizes: tuple[int, ...],
        starts: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.lengths, self.sizes, self.starts, self.dtype = lengths, sizes, starts, dtype
        self._buffers: dict[int, Tensor] = {}

    def spectrum(self, values: Tensor) -> Tensor:
        """Return the transform: one half of the last axis, then the other axes in reverse."""
        spectrum = torch.fft.rfft(self._placed(values, -1))
        for axis in range(-2, -len(self.lengths) - 1, -1):
            spectrum = torch.fft.fft(self._placed(spectrum.movedim(axis, -1), axis))
        return spectrum

    def values(self, spectrum: Tensor) -> Tensor:
        """Return the values that have this transform."""
        for axis in range(-len(self.lengths), -1):
            spectrum = self._taken(torch.fft.ifft(spectrum), axis).movedim(-1, axis)
        return self._taken(torch.fft.irfft(spectrum, n=self.lengths[-1]), -1)

    def _placed(self, values: Tensor, axis: int) -> Tensor:
        size, start, length = self.sizes[axis], self.starts[axis], self.lengths[axis]
        dtype = self.dtype.to_complex() if values.is_complex() else self.dtype
        if start == 0 and size == length:
            return values.to(dtype)
        buffer, shape = self._buffers.get(axis), (*values.shape[:-1], length)
        if buffer is None or buffer.shape != shape:
            buffer = self._buffers[axis] = values.new_zeros(shape, dtype=dtype)
        until_end = min(size, length - start)
        buffer[..., start : start + until_end] = values[..., :until_end]
        buffer[..., : size - until_end] = values[..., until_end:]
        return buffer

    def _taken(self, values: Tensor, axis: int) -> Tensor:
        size, start, length = self.sizes[axis], self.starts[axis], self.lengths[axis]
        if start + size <= length:
            return values.narrow(-1, start, size)
        return torch.cat([values[..., start:], values[..., : start + size - length]], -1)


class Correlation(NamedTuple):
    """Transforms of the operands of a correlation, placed so that no two wrap into each other.

    The spectrum of the output is the spectrum of the input times the conjugate spectrum of the
    kernel.
    """

    kernel: Transform
    input: Transform
    output: Transform

    @classmethod
    def of(cls, layout: Layout, dtype: torch.dtype) -> Correlation:
        """Correlate whole signals: inputs lie as far from the start as the kernel reaches back."""
        lengths, start = layout.lengths, (0,) * len(layout.size)
        return cls(
            Transform(lengths, layout.taps, start, dtype),
            Transform(lengths, layout.size, layout.left, dtype),
            Transform(lengths, layout.size, start, dtype),
        )

    @classmethod
    def of_blocks(cls, blocks: Blocks, dtype: torch.dtype) -> Correlation:
        """Correlate the blocks of a sequence."""
        sizes = *blocks.layout.taps, blocks.length, blocks.step
        return cls(*(Transform((blocks.length,), (size,), (0,), dtype) for size in sizes))

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the transforms."""
        return self.kernel.dtype

    @property
    def bytes(self) -> int:
        """Size of a padded signal."""
        return math.prod(self.kernel.lengths) * self.dtype.itemsize
