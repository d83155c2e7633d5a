"""Non-uniform Fourier transforms by FINUFFT."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccnn_geo.ops.nufft_backends.transform import Modes, in_parts

MIN_VERSION = (2, 3)
"""First version of both packages with the order of modes of an FFT."""


def is_available(device: torch.device) -> bool:
    """Return True if FINUFFT (on a GPU cuFINUFFT) is installed in a version that fits."""
    return missing_package(device) is None


def missing_package(device: torch.device) -> str | None:
    """Return which package is missing or too old, or None."""
    name = "cufinufft" if device.type == "cuda" else "finufft"
    wanted = f"{name} {'.'.join(map(str, MIN_VERSION))} or newer"
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"{wanted}, which is not installed (pip install {name})"
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return None if numbers >= MIN_VERSION else f"{wanted}, got {found}"


class FinufftTransform:
    """Transforms of real values, two channels in every complex one. See `Transform`.

    `Barnett, Magland and af Klinteberg (2019) <https://doi.org/10.1137/18M120885X>`_. Single
    precision is used only where it is enough: the package rounds angles to the type of the values,
    which shifts the highest of many modes by a large part of a period.

    Args:
        angles: Points, in radians, `[N, D]`, float64.
        modes: Number of modes per axis, odd.
        tolerance: Relative error of a transform.
        dtype: Type of the values, float32 or float64.
    """

    def __init__(self, angles: Tensor, modes: Modes, tolerance: float, dtype: torch.dtype) -> None:
        self.modes = modes
        self.dtype = dtype
        self._tolerance = tolerance
        self._cuda = angles.is_cuda
        rounding = max(modes) * torch.finfo(torch.float32).eps
        self._precision = dtype if rounding < 2 * tolerance else torch.float64
        columns = angles.to(self._precision).unbind(-1)
        self._points = [self._export(each.contiguous()) for each in columns]
        self._plans: dict[tuple[int, int], Any] = {}

    def analyze(self, values: Tensor) -> Tensor:
        """Return the spectrum of real values `[C, N]`, see `Transform`."""
        return in_parts(self._analyze, values, math.prod(self.modes))

    def synthesize(self, spectrum: Tensor) -> Tensor:
        """Return the real values `[C, N]` of a spectrum, see `Transform`."""
        return in_parts(self._synthesize, spectrum, math.prod(self.modes))

    def _analyze(self, values: Tensor) -> Tensor:
        values, scale = _leveled(values)
        pairs = _pad_channels(values.to(self._precision)).unflatten(0, (-1, 2))
        packed = torch.complex(pairs[:, 0].contiguous(), pairs[:, 1].contiguous())
        full = self._import(self._plan(1, len(packed)).execute(self._export(packed)), values.device)
        full = full.view(len(packed), *self.modes)
        half = full[..., : self.modes[-1] // 2 + 1]
        opposite = self._opposite(full)
        first = (half + opposite) / 2
        second = (half - opposite) / 2j
        spectrum = torch.stack([first, second], 1).flatten(0, 1)[: len(values)]
        return spectrum.to(self.dtype.to_complex()) * _column(scale, spectrum.dim())

    def _synthesize(self, spectrum: Tensor) -> Tensor:
        spectrum, scale = _leveled(spectrum)
        pairs = _pad_channels(spectrum.to(self._precision.to_complex())).unflatten(0, (-1, 2))
        first, second = pairs.unbind(1)
        full = first.new_zeros(len(first), *self.modes)
        upper = self.modes[-1] // 2 + 1
        torch.add(first, second, alpha=1j, out=full[..., :upper])
        mirrored = _reversed(first.conj() + 1j * second.conj(), len(self.modes))
        full[..., upper:] = mirrored[..., :-1]
        # Of modes that are held together with their opposites, only the Hermitian part is real.
        full[..., 0] = (full[..., 0] + mirrored[..., -1]) / 2
        plan = self._plan(2, len(first))
        values = self._import(plan.execute(self._export(full)), spectrum.device)
        values = values.view(len(first), -1)
        values = torch.stack([values.real, values.imag], 1).flatten(0, 1)[: len(spectrum)]
        return values.to(self.dtype) * _column(scale, 2)

    def _opposite(self, full: Tensor) -> Tensor:
        """Return the conjugates of the modes -m for the modes m with m_D >= 0."""
        upper = self.modes[-1] // 2
        last = torch.cat([full[..., :1], full[..., -upper:].flip(-1)], -1) if upper else full
        return _reversed_leading(last, len(self.modes)).conj()

    def _plan(self, kind: int, transforms: int) -> Any:
        """Return a plan of type 1 or 2 for a number of transforms at once, the points set."""
        key = kind, transforms
        if key not in self._plans:
            options: dict[str, Any] = {} if self._cuda else {"nthreads": torch.get_num_threads()}
            self._plans[key] = self._module.Plan(
                kind,
                self.modes,
                transforms,
                self._tolerance,
                1 if kind == 1 else -1,
                "complex64" if self._precision == torch.float32 else "complex128",
                modeord=1,
                **options,
            )
            self._plans[key].setpts(*self._points)
        return self._plans[key]

    @property
    def _module(self) -> ModuleType:
        return import_module("cufinufft" if self._cuda else "finufft")

    def _export(self, part: Tensor) -> Any:
        """Return a tensor in the form that the package accepts, without a copy."""
        return part if self._cuda else part.detach().numpy()

    def _import(self, part: Any, device: torch.device) -> Tensor:
        if isinstance(part, np.ndarray):
            return torch.from_numpy(part)
        return torch.as_tensor(part, device=device)


def _leveled(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Bring channels to one scale: errors are relative to both channels of a pair."""
    if channels.numel() == 0:
        return channels, channels.real.new_ones(len(channels))
    largest = channels.abs().flatten(1).amax(1)
    scale = largest.masked_fill(largest == 0, 1.0)
    return channels / _column(scale, channels.dim()), scale


def _column(scale: Tensor, dim: int) -> Tensor:
    return scale.view(-1, *(1,) * (dim - 1))


def _pad_channels(values: Tensor) -> Tensor:
    """Append a channel of zeros to an odd number of them."""
    if len(values) % 2 == 0:
        return values
    return torch.cat([values, torch.zeros_like(values[:1])])


def _reversed_leading(spectrum: Tensor, dim: int) -> Tensor:
    """Replace m by -m on all axes but the last, which are in the order of an FFT."""
    axes = tuple(range(1, dim))
    return spectrum.flip(axes).roll((1,) * len(axes), axes) if axes else spectrum


def _reversed(spectrum: Tensor, dim: int) -> Tensor:
    """Replace m by -m on all axes; on the last axis, modes run from -K to 0 instead of 0 to K."""
    return _reversed_leading(spectrum, dim).flip(-1)
