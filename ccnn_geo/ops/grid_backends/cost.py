"""What convolutions on grids cost, by the sum and through the FFT, and which way is cheaper.

The model is linear in counts of operations. Its constants come from
`python -m benchmarks.grid_conv --fit`, float32, one thread of the CPU; what decides is their ratio,
which differs little from machine to machine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ccnn_geo.ops.grid_backends.blocks import Blocks
from ccnn_geo.ops.grid_backends.direct import MAX_DIM, runs_vectorized
from ccnn_geo.ops.grid_backends.layout import Layout

Features = tuple[float, float, float]


class Costs(NamedTuple):
    """Microseconds of one device in one number of dimensions: per call and per million of each."""

    fft: Features  # call, padded points, padded points * log2 of their number
    direct: Features  # call, elements of the output, multiplications
    gradient: Features  # the same for the gradient of the kernel
    full_fft: float  # complex multiplications among channels
    full_direct: Features  # as `direct`, for full kernels


_BOTH_GRADIENTS = 1.6
"""Cost of both gradients through the FFT, which share a transform, in units of a convolution."""

_VECTOR, _SCALAR = 16, 25
"""Channels that the CPU computes at a time, and how much more a multiplication costs it else."""


class Problem(NamedTuple):
    """One convolution, as far as its cost goes."""

    device: torch.device
    dtype: torch.dtype
    layout: Layout
    samples: int
    in_channels: int
    out_channels: int
    depthwise: bool

    def forward_method(self) -> str:
        """The cheaper way, `"fft"` or `"direct"`."""
        if len(self.layout.size) > MAX_DIM:
            return "fft"
        return "fft" if self.fft() < self.direct() else "direct"

    def backward_methods(self, needs_x: bool, needs_kernel: bool) -> tuple[str, str]:
        """The cheapest ways to the gradients of the input and of the kernel."""
        if len(self.layout.size) > MAX_DIM:
            return "fft", "fft"
        fft = self.fft()
        for_x, for_kernel = needs_x * self.direct(), needs_kernel * self.gradient()
        ways = {
            ("fft", "fft"): fft * (_BOTH_GRADIENTS if needs_x and needs_kernel else 1.0),
            ("fft", "direct"): needs_x * fft + for_kernel,
            ("direct", "fft"): for_x + needs_kernel * fft,
            ("direct", "direct"): for_x + for_kernel,
        }
        return min(ways, key=ways.__getitem__)

    def fft(self) -> float:
        """Microseconds of a convolution through the FFT."""
        return _dot(self.costs.fft, self.fft_counts()) + (
            0.0 if self.depthwise else self.costs.full_fft * self.spectral_products()
        )

    def direct(self) -> float:
        """Microseconds of a convolution by the sum."""
        costs = self.costs.direct if self.depthwise else self.costs.full_direct
        return _dot(costs, self.direct_counts())

    def gradient(self) -> float:
        """Microseconds of the gradient of the kernel by the sum."""
        costs = self.costs.gradient if self.depthwise else self.costs.full_direct
        return _dot(costs, self.direct_counts())

    @property
    def costs(self) -> Costs:
        """The constants."""
        device = self.device.type if self.device.type in COSTS else "cpu"
        return COSTS[device][len(self.layout.size) - 1]

    def fft_counts(self) -> Features:
        """What a convolution through the FFT is made of, see `Costs`."""
        into, out_of = self.in_channels, self.out_channels
        kernels = into if self.depthwise else into * out_of
        length, count = self.transforms()
        points = (self.samples * (into + out_of) * count + kernels) * length / 1e6
        return 1.0, points, points * math.log2(length)

    def transforms(self) -> tuple[int, int]:
        """Points of a transform, and transforms of a signal."""
        block = self.layout.block
        if block is None:
            return math.prod(self.layout.lengths), 1
        return block, Blocks(self.layout, block).number

    def spectral_products(self) -> float:
        """Complex multiplications among channels, in millions."""
        products = self.samples * self.in_channels * self.out_channels / 1e6
        return products * math.prod(self.transforms()) / 2

    def direct_counts(self) -> Features:
        """What the sum is made of, see `Costs`."""
        rows = self.samples * self.out_channels
        terms = math.prod(self.layout.taps) * (1 if self.depthwise else self.in_channels)
        if self.device.type == "cpu" and self.depthwise:
            if runs_vectorized(self.device, self.dtype):
                rows = max(rows, _VECTOR)
            else:
                terms *= _SCALAR
        elements = rows * math.prod(self.layout.size) / 1e6
        return 1.0, elements, elements * terms


def _dot(costs: Features, counts: Features) -> float:
    return sum(cost * count for cost, count in zip(costs, counts, strict=True))


COSTS = {
    "cpu": (
        Costs((108, 0, 152), (160, 401, 30.7), (98.9, 656, 34.7), 4300, (40.6, 1190, 30.6)),
        Costs((66.2, 1940, 71.1), (37.5, 885, 36.8), (3.12, 1050, 34.5), 5720, (0, 5560, 15.1)),
        Costs((737, 0, 303), (0, 2590, 24.6), (136, 2020, 40.9), 16400, (0, 11900, 13.4)),
    ),
    "cuda": (
        Costs((60, 15, 0), (20, 12, 0.6), (30, 20, 3), 10, (40, 12, 0.15)),
        Costs((90, 30, 0), (20, 12, 0.8), (30, 20, 4), 10, (40, 12, 0.15)),
        Costs((120, 50, 0), (25, 12, 3), (40, 20, 12), 10, (60, 12, 0.3)),
    ),
}
"""Per kind of device, for one, two and three dimensions. Those of the CPU were measured on an AMD
EPYC with AVX-512; those of CUDA are estimated from what an H100 can move and multiply."""
