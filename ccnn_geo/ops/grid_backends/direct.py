"""Convolution on grids by the sum itself, in up to three dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.grid_backends.fft import working_type
from ccnn_geo.ops.grid_backends.layout import Layout

MAX_DIM = 3

_CONVOLUTIONS = (
    torch.nn.functional.conv1d,
    torch.nn.functional.conv2d,
    torch.nn.functional.conv3d,
)
_TRANSPOSED = (torch.nn.functional.conv_transpose1d, torch.nn.functional.conv_transpose2d)


def convolve(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    """Correlate `x [B, C, *S]` with `kernel [C, *K]` or `[O, C, *K]`; the type is that of x."""
    dtype, dim = working_type(x, kernel), len(layout.size)
    depthwise = kernel.dim() < x.dim()
    signals, weight = _wrapped(x.to(dtype), layout), kernel.to(dtype)
    vectorized = depthwise and runs_vectorized(x.device, dtype)
    if depthwise:
        weight = weight.unsqueeze(1)
    if vectorized:
        # Sixteen channels are computed at a time: samples make good for channels.
        signals = signals.flatten(0, 1).unsqueeze(0)
        weight = weight.repeat(x.size(0), *(1,) * (dim + 1))
    groups = len(weight) if depthwise else 1
    arms = list(zip(layout.left, layout.right, layout.periodic, strict=True))
    if vectorized and dim < 3:
        # The transposed convolution is fast for any width, the plain one up to 13 taps only and
        # beyond that twenty times slower. Its padding is what it leaves out.
        padding = [left + right if wraps else min(left, right) for left, right, wraps in arms]
        transposed = _TRANSPOSED[dim - 1]
        output = transposed(signals, _mirrored(weight, dim), padding=padding, groups=groups)
        starts = [
            0 if wraps else right - outside
            for (_, right, wraps), outside in zip(arms, padding, strict=True)
        ]
    else:
        padding = [0 if wraps else max(left, right) for left, right, wraps in arms]
        output = _CONVOLUTIONS[dim - 1](signals, weight, padding=padding, groups=groups)
        starts = [
            0 if wraps else outside - left
            for (left, _, wraps), outside in zip(arms, padding, strict=True)
        ]
    if output.shape[2:] != layout.size:
        for axis, (start, size) in enumerate(zip(starts, layout.size, strict=True), 2):
            output = output.narrow(axis, start, size)
        output = output.clone(memory_format=torch.contiguous_format)
    return output.view(len(x), -1, *layout.size).to(x.dtype)


def differentiate(
    grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout, needs_x: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the kernel (those needed) from that of the output."""
    grad_x = None
    if needs_x:
        mirrored = _mirrored(kernel, len(layout.size))
        if kernel.dim() == x.dim():
            mirrored = mirrored.transpose(0, 1)
        grad_x = convolve(grad, mirrored, layout.mirrored).to(x.dtype)
    return grad_x, _kernel_gradient(grad, x, kernel, layout) if needs_kernel else None


def _kernel_gradient(grad: Tensor, x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    dtype, dim = working_type(x, kernel), len(layout.size)
    depthwise = kernel.dim() < x.dim()
    arms = zip(layout.left, layout.right, layout.periodic, strict=True)
    padding = [
        taps
        for left, right, wraps in reversed(list(arms))
        for taps in ((0, 0) if wraps else (left, right))
    ]
    padded = torch.nn.functional.pad(_wrapped(x.to(dtype), layout), padding)
    grad = grad.to(dtype).contiguous()
    if depthwise and runs_vectorized(x.device, dtype):
        # The library's gradient of depthwise kernels is slow, but it is the depthwise convolution
        # of every signal with its gradient as well.
        sums = _CONVOLUTIONS[dim - 1](
            padded.flatten(0, 1).unsqueeze(0),
            grad.flatten(0, 1).unsqueeze(1),
            groups=grad.size(0) * grad.size(1),
        )
        return sums.view(*grad.shape[:2], *layout.taps).sum(0).to(kernel.dtype)
    weight = (kernel.unsqueeze(1) if depthwise else kernel).to(dtype)
    ones, zeros = [1] * dim, [0] * dim
    _, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad, padded, weight, None, ones, zeros, ones, False, zeros,
        x.size(1) if depthwise else 1, [False, True, False],
    )  # fmt: skip
    return grad_kernel.view_as(kernel).to(kernel.dtype)


def runs_vectorized(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether depthwise convolutions run in oneDNN, which vectorises over channels."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _wrapped(x: Tensor, layout: Layout) -> Tensor:
    """Continue signals along periodic axes as far as the kernel reaches."""
    arms = zip(layout.left, layout.right, layout.periodic, strict=True)
    for axis, (left, right, wraps) in enumerate(arms, 2):
        if wraps:
            before = x.narrow(axis, x.size(axis) - left, left)
            x = torch.cat([before, x, x.narrow(axis, 0, right)], axis)
    return x


def _mirrored(kernel: Tensor, dim: int) -> Tensor:
    return kernel.flip(tuple(range(-dim, 0)))
