"""Convolution on grids through the FFT: any dimension, any sizes, bounded memory.

Transforms are padded just so far that what wraps around falls where nothing is read; a periodic
axis is not padded at all. A sequence much longer than its kernel is cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ccnn_geo.ops.grid_backends.blocks import Blocks
from ccnn_geo.ops.grid_backends.layout import Layout
from ccnn_geo.ops.grid_backends.transforms import Correlation

SCRATCH_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Memory that a convolution may take besides its operands and results: on the CPU about what stays
in its cache. One channel of one sample (two kernels' worth with full kernels) is the least.
Sequences that are cut into blocks are copied besides: as many as fit with depthwise kernels, those
of one sample with full ones."""

_SEQUENCES = 4
"""How many times as much sequences may take: MKL plans a transform anew in every call, which costs
as much as some ten transforms, and theirs are long."""

_BUFFERS = 8
"""Padded signals that are alive at a time: padded inputs, outputs and kernels, their spectra, and
what a transform takes and returns."""


def convolve(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    """Correlate `x [B, C, *S]` with `kernel [C, *K]` or `[O, C, *K]`; the type is that of x."""
    depthwise, dtype = kernel.dim() < x.dim(), working_type(x, kernel)
    correlate = _convolve_depthwise if depthwise else _convolve_full
    output = x.new_empty(len(x), x.size(1) if depthwise else len(kernel), *layout.size)
    if layout.block is None:
        correlate(x, kernel, Correlation.of(layout, dtype), output)
        return output
    blocks = Blocks(layout, layout.block)
    correlation = Correlation.of_blocks(blocks, dtype)
    for number, into, out_of in _sequences(x, kernel, blocks, correlation):
        inputs, part = blocks.inputs(x[number, into]), kernel[out_of]
        parts = x.new_empty(len(part), blocks.number, blocks.step)
        correlate(inputs, part, correlation, parts.transpose(0, 1))
        output[number, out_of] = parts.flatten(1)[:, : output.size(2)]
    return output


def differentiate(
    grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout, needs_x: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the kernel (those needed) from that of the output."""
    dtype = working_type(x, kernel)
    backward = _differentiate_depthwise if kernel.dim() < x.dim() else _differentiate_full
    grad_x = grad_kernel = None
    if layout.block is None:
        correlation = Correlation.of(layout, dtype)
        grad_x, grad_kernel = backward(grad, x, kernel, correlation, needs_x, needs_kernel)
    else:
        blocks = Blocks(layout, layout.block)
        correlation = Correlation.of_blocks(blocks, dtype)
        grad_x = x.new_empty(x.shape) if needs_x else None
        grad_kernel = kernel.new_zeros(kernel.shape, dtype=dtype) if needs_kernel else None
        for number, into, out_of in _sequences(x, kernel, blocks, correlation):
            inputs, outputs = blocks.inputs(x[number, into]), blocks.outputs(grad[number, out_of])
            needs = needs_x, needs_kernel
            for_x, for_kernel = backward(outputs, inputs, kernel[out_of], correlation, *needs)
            if grad_x is not None and for_x is not None:
                grad_x[number, into] = blocks.inputs_adjoint(for_x)
            if grad_kernel is not None and for_kernel is not None:
                grad_kernel[out_of] += for_kernel
    return (
        None if grad_x is None else grad_x.to(x.dtype),
        None if grad_kernel is None else grad_kernel.to(kernel.dtype),
    )


def _convolve_depthwise(
    x: Tensor, kernel: Tensor, correlation: Correlation, output: Tensor
) -> None:
    for channels, samples in _depthwise_blocks(x, correlation):
        response = correlation.kernel.spectrum(kernel[channels]).conj_physical_()
        for rows in samples:
            spectrum = correlation.input.spectrum(x[rows, channels]).mul_(response)
            output[rows, channels] = correlation.output.values(spectrum)


def _differentiate_depthwise(
    grad: Tensor,
    x: Tensor,
    kernel: Tensor,
    correlation: Correlation,
    needs_x: bool,
    needs_kernel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = x.new_empty(x.shape) if needs_x else None
    grad_kernel = kernel.new_empty(kernel.shape, dtype=correlation.dtype) if needs_kernel else None
    for channels, samples in _depthwise_blocks(x, correlation):
        if grad_x is not None:
            response = correlation.kernel.spectrum(kernel[channels])
        total = None
        for rows in samples:
            spectrum = correlation.output.spectrum(grad[rows, channels])
            if grad_kernel is not None:
                product = correlation.input.spectrum(x[rows, channels])
                product = product.mul_(spectrum.conj_physical()).sum(0)
                total = product if total is None else total.add_(product)
            if grad_x is not None:
                grad_x[rows, channels] = correlation.input.values(spectrum.mul_(response))
        if grad_kernel is not None and total is not None:
            grad_kernel[channels] = correlation.kernel.values(total)
    return grad_x, grad_kernel


def _convolve_full(x: Tensor, kernel: Tensor, correlation: Correlation, output: Tensor) -> None:
    into, out_of, samples = _full_blocks(x, kernel, correlation)
    for rows in samples:
        for targets in out_of:
            total = None
            for sources in into:
                response = correlation.kernel.spectrum(kernel[targets, sources])
                spectrum = correlation.input.spectrum(x[rows, sources])
                product = _contract("bc...,oc...->bo...", spectrum, response.conj_physical_())
                total = product if total is None else total.add_(product)
            if total is not None:
                output[rows, targets] = correlation.output.values(total)


def _differentiate_full(
    grad: Tensor,
    x: Tensor,
    kernel: Tensor,
    correlation: Correlation,
    needs_x: bool,
    needs_kernel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    dtype = correlation.dtype
    grad_x = x.new_zeros(x.shape, dtype=dtype) if needs_x else None
    grad_kernel = kernel.new_zeros(kernel.shape, dtype=dtype) if needs_kernel else None
    into, out_of, samples = _full_blocks(x, kernel, correlation)
    for rows in samples:
        for targets in out_of:
            above = correlation.output.spectrum(grad[rows, targets])
            for sources in into:
                if grad_x is not None:
                    response = correlation.kernel.spectrum(kernel[targets, sources])
                    product = _contract("bo...,oc...->bc...", above, response)
                    grad_x[rows, sources] += correlation.input.values(product)
                if grad_kernel is not None:
                    spectrum = correlation.input.spectrum(x[rows, sources])
                    product = _contract("bc...,bo...->oc...", spectrum, above.conj_physical())
                    grad_kernel[targets, sources] += correlation.kernel.values(product)
    return grad_x, grad_kernel


def working_type(x: Tensor, kernel: Tensor) -> torch.dtype:
    """Type in which a convolution is computed: double precision where an operand has it."""
    return torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)


def _contract(equation: str, one: Tensor, other: Tensor) -> Tensor:
    return torch.einsum(equation, one, other)


def _sequences(
    x: Tensor, kernel: Tensor, blocks: Blocks, correlation: Correlation
) -> Iterator[tuple[int, slice, slice]]:
    """Yield samples, input channels and kernels that are cut into blocks together."""
    if kernel.dim() < x.dim():
        channels = max(1, _affordable(x, correlation) // blocks.number)
        pairs = [(part, part) for part in _slices(x.size(1), channels)]
    else:
        pairs = [(slice(0, x.size(1)), slice(0, len(kernel)))]
    for number in range(len(x)):
        for into, out_of in pairs:
            yield number, into, out_of


def _depthwise_blocks(x: Tensor, correlation: Correlation) -> Iterator[tuple[slice, list[slice]]]:
    """Cut channels, and where one of them is too large samples as well, to the scratch memory."""
    rows = _affordable(x, correlation)
    samples = _slices(x.size(0), rows)
    for channels in _slices(x.size(1), max(1, rows // x.size(0))):
        yield channels, samples


def _full_blocks(
    x: Tensor, kernel: Tensor, correlation: Correlation
) -> tuple[list[slice], list[slice], list[slice]]:
    """Cut input channels, output channels and samples: n^2 kernels and 2 n b signals at a time."""
    rows = _affordable(x, correlation)
    samples = max(1, min(x.size(0), math.isqrt(rows) // 2))
    channels = max(1, math.isqrt(samples**2 + rows) - samples)
    return (
        _slices(x.size(1), channels),
        _slices(kernel.size(0), channels),
        _slices(x.size(0), samples),
    )


def _affordable(x: Tensor, correlation: Correlation) -> int:
    """How many padded signals may be in work at a time."""
    budget = SCRATCH_BYTES.get(x.device.type, SCRATCH_BYTES["cpu"])
    if x.device.type == "cpu" and len(correlation.kernel.lengths) == 1:
        budget *= _SEQUENCES
    return max(1, budget // (_BUFFERS * correlation.bytes))


def _slices(total: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]
