"""Non-uniform Fourier transforms in plain PyTorch, on any device."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ccnn_geo.ops.grid_backends.layout import fast_length
from ccnn_geo.ops.nufft_backends.transform import Modes, in_parts

_CHUNK_VALUES = 2**22
"""Values that are spread or interpolated at a time."""

_MAX_WIDTH = 16
"""Widest spreading kernel: beyond it, float64 has no more digits to give."""


class SpreadingTransform:
    r"""Transforms through an oversampled FFT and the exponential-of-semicircle kernel.

    `Barnett, Magland and af Klinteberg (2019) <https://doi.org/10.1137/18M120885X>`_: values are
    spread to a grid twice as fine as the modes need with :math:`\phi(z) = e^{\beta(\sqrt{1 - z^2} -
    1)}`, transformed, and divided by the transform of the kernel. See `Transform`.

    Args:
        angles: Points, in radians, `[N, D]`, float64.
        modes: Number of modes per axis, odd.
        tolerance: Relative error of a transform.
        dtype: Type of the values, float32 or float64.
    """

    def __init__(self, angles: Tensor, modes: Modes, tolerance: float, dtype: torch.dtype) -> None:
        self.modes = modes
        # A digit per cell; the errors of the axes add up.
        self.width = min(math.ceil(-math.log10(tolerance / (2 * len(modes)))) + 1, _MAX_WIDTH)
        self.size = tuple(fast_length(max(2 * count, 2 * self.width)) for count in modes)
        cells = torch.tensor(self.size, dtype=torch.float64, device=angles.device)
        places = torch.remainder(angles / (2 * math.pi), 1.0) * cells
        first = torch.ceil(places - self.width / 2)
        self._first = first.long()
        self._fraction = (first - places).to(dtype)
        corrections = [
            torch.from_numpy(_correction(count, size, self.width)).to(angles.device, dtype)
            for count, size in zip(modes, self.size, strict=True)
        ]
        corrections[-1] = corrections[-1][: modes[-1] // 2 + 1]
        self._corrections = [
            each.view([-1 if axis == own else 1 for axis in range(len(modes))])
            for own, each in enumerate(corrections)
        ]

    def analyze(self, values: Tensor) -> Tensor:
        """Return the spectrum of real values `[C, N]`, see `Transform`."""
        return in_parts(self._analyze, values, math.prod(self.size))

    def synthesize(self, spectrum: Tensor) -> Tensor:
        """Return the real values `[C, N]` of a spectrum, see `Transform`."""
        return in_parts(self._synthesize, spectrum, math.prod(self.size))

    def _analyze(self, values: Tensor) -> Tensor:
        rows = values.t()
        grid = values.new_zeros(math.prod(self.size), len(values))
        for points, index, weight in self._stencils(len(values)):
            spread = weight.unsqueeze(-1) * rows[points].unsqueeze(1)
            grid.index_add_(0, index.flatten(), spread.flatten(0, 1))
        grid = grid.t().unflatten(1, self.size)
        return self._correct(self._crop(torch.fft.rfftn(grid, dim=self._axes))).conj_physical()

    def _synthesize(self, spectrum: Tensor) -> Tensor:
        padded = self._pad(self._correct(spectrum.conj()))
        grid = torch.fft.irfftn(padded, self.size, dim=self._axes, norm="forward")
        cells = grid.flatten(1).t().contiguous()
        values = [
            (weight.unsqueeze(1) @ cells[index]).squeeze(1)
            for _, index, weight in self._stencils(len(spectrum))
        ]
        return torch.cat(values).t() if values else grid.new_zeros(len(spectrum), 0)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.modes)))

    def _stencils(self, channels: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield points with the cells that they touch and the kernel there, `[n, width^D]`."""
        steps = torch.arange(self.width, device=self._first.device)
        chunk = max(1, _CHUNK_VALUES // (channels * self.width ** len(self.modes)))
        for start in range(0, len(self._first), chunk):
            points = slice(start, start + chunk)
            index, weight = None, None
            for axis, cells in enumerate(self.size):
                column = (self._first[points, axis, None] + steps) % cells
                kernel = _semicircle((self._fraction[points, axis, None] + steps), self.width)
                if index is None or weight is None:
                    index, weight = column, kernel
                else:
                    index = (index.unsqueeze(-1) * cells + column.unsqueeze(1)).flatten(1)
                    weight = (weight.unsqueeze(-1) * kernel.unsqueeze(1)).flatten(1)
            if index is not None and weight is not None:
                yield points, index, weight

    def _correct(self, spectrum: Tensor) -> Tensor:
        for correction in self._corrections:
            spectrum = spectrum * correction
        return spectrum

    def _crop(self, spectrum: Tensor) -> Tensor:
        """Keep the modes of the oversampled grid that belong to the spectrum."""
        spectrum = spectrum[..., : self.modes[-1] // 2 + 1]
        for axis, count in enumerate(self.modes[:-1], 1):
            top = count // 2
            high = spectrum.narrow(axis, spectrum.size(axis) - top, top)
            spectrum = torch.cat([spectrum.narrow(axis, 0, top + 1), high], axis)
        return spectrum

    def _pad(self, spectrum: Tensor) -> Tensor:
        """Place a spectrum among the modes of the oversampled grid, the others being zero."""
        top = self.size[-1] // 2 + 1 - spectrum.size(-1)
        spectrum = torch.nn.functional.pad(torch.view_as_real(spectrum), (0, 0, 0, top))
        spectrum = torch.view_as_complex(spectrum)
        for axis, (count, size) in enumerate(zip(self.modes[:-1], self.size, strict=False), 1):
            top = count // 2
            shape = list(spectrum.shape)
            shape[axis] = size - count
            low, high = spectrum.split([top + 1, top], axis)
            spectrum = torch.cat([low, spectrum.new_zeros(shape), high], axis)
        return spectrum


def _semicircle(distance: Tensor, width: int) -> Tensor:
    """Return the spreading kernel at distances in cells; zero from `width / 2` on."""
    square = (1 - (2 / width * distance).square()).clamp(min=0)
    return torch.exp(_beta(width) * (square.sqrt() - 1))


def _beta(width: int) -> float:
    """Return the shape of the kernel that suits twofold oversampling."""
    return 2.3 * width


@functools.lru_cache(maxsize=256)
def _correction(count: int, size: int, width: int) -> np.ndarray:
    """Return one over the transform of the spreading kernel, for modes in the order of an FFT."""
    nodes, weights = np.polynomial.legendre.leggauss(4 * width + 32)
    kernel = np.exp(_beta(width) * (np.sqrt(1 - nodes**2) - 1)) * weights * width / 2
    numbers = np.arange(count // 2 + 1)
    transform = np.cos(np.outer(numbers, nodes) * (math.pi * width / size)) @ kernel
    return 1 / np.concatenate([transform, transform[:0:-1]])
