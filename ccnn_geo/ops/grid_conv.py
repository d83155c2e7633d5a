"""Convolution on regular grids of any dimension, by the sum or through the FFT."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import Looped, has_tangents, is_transformed
from ccnn_geo.ops.grid_backends import direct, fft
from ccnn_geo.ops.grid_backends.cost import Problem
from ccnn_geo.ops.grid_backends.layout import Layout

_WAYS = {"fft": fft, "direct": direct}


def grid_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    periodic: tuple[bool, ...] | None = None,
    method: str = "auto",
) -> Tensor:
    r"""Correlate signals on a grid with kernels, as `torch.nn.functional.conv*d` does.

    .. math::
        y_i = b + \sum_t k_t\, x_{i + t}

    The grid is zero outside, or repeats itself along periodic axes, and the output has its size,
    as with PyTorch's `padding="same"`. Offset 0 is the tap of index (K - 1) // 2 of every axis, so
    that an even kernel has one tap more after it than before; with `causal` it is the last tap.

    Neither way keeps anything for backward but its operands. The FFT runs in single precision, or
    in double where an operand has it; what it needs besides operands and results stays under
    `ccnn_geo.ops.grid_backends.fft.SCRATCH_BYTES`.

    Args:
        x: Signals, `[B, C, *S]`, of any floating-point type.
        kernel: One kernel per channel, `[C, *K]`, or for every pair of channels, `[O, C, *K]`. It
            may be longer than the grid, or than a period.
        bias: Added to every output channel, `[C]` or `[O]`.
        causal: Whether the kernel looks back only (D = 1).
        periodic: Whether the last point of an axis is followed by the first, for every axis; none
            is unless given.
        method: `"fft"`, `"direct"` (the sum itself, D <= 3), or `"auto"`, for which forward and
            backward each choose what a measured model takes to be the faster.

    Returns:
        The output in the type of `x`, `[B, C, *S]` or `[B, O, *S]`.

    Raises:
        TypeError: If an operand is not floating point.
        ValueError: If shapes do not fit, an axis is empty, a causal axis is periodic, or there is
            no such method here.
        RuntimeError: If it is differentiated in forward mode, or twice with more than three axes.
    """
    dim = x.dim() - 2
    wraps = (False,) * dim if periodic is None else tuple(periodic)
    _check(x, kernel, bias, causal, wraps, method)
    left = []
    for axis in range(-dim, 0):
        size, taps = x.size(axis), kernel.size(axis)
        before = taps - 1 if causal else (taps - 1) // 2
        if wraps[axis]:
            kernel, start = _folded(kernel, axis, size), before - before % size
        else:
            # What reaches past both ends of the grid never meets a signal.
            start, stop = max(before - (size - 1), 0), min(before + size, taps)
            if stop - start < taps:
                kernel = kernel.narrow(axis, start, stop - start)
        left.append(before - start)
    if has_tangents(x, kernel):
        raise RuntimeError(
            "Expected no forward-mode differentiation of a convolution on a grid, got tangents: "
            "use the grid as a graph, `ops.dense_graph`"
        )
    arguments = x, kernel, left, list(wraps), method
    output = _Convolution.apply(*arguments)[0] if is_transformed() else _grid_conv(*arguments)
    return output if bias is None else output + bias.to(x.dtype).view(-1, *(1,) * dim)


def _folded(kernel: Tensor, axis: int, period: int) -> Tensor:
    """Add taps that are whole periods apart, which meet the same points."""
    taps = kernel.size(axis)
    if taps <= period:
        return kernel
    kernel = torch.nn.functional.pad(kernel.movedim(axis, -1), (0, -taps % period))
    return kernel.unflatten(-1, (-1, period)).sum(-2).movedim(-1, axis)


@torch.library.custom_op("ccnn_geo::grid_conv", mutates_args=())
def _grid_conv(
    x: Tensor, kernel: Tensor, left: list[int], periodic: list[bool], method: str
) -> Tensor:
    if len(x) == 0:
        return x.new_empty(_output_shape(x, kernel))
    layout = _layout(x, kernel, left, periodic)
    if method == "auto":
        method = _problem(x, kernel, layout).forward_method()
    with torch.autocast(x.device.type, enabled=False):
        return _WAYS[method].convolve(x, kernel, layout)


@_grid_conv.register_fake
def _(x: Tensor, kernel: Tensor, left: list[int], periodic: list[bool], method: str) -> Tensor:
    return x.new_empty(_output_shape(x, kernel))


@torch.library.custom_op("ccnn_geo::grid_conv_backward", mutates_args=())
def _grid_conv_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Tensor,
    left: list[int],
    periodic: list[bool],
    method: str,
    needs_x: bool,
    needs_kernel: bool,
) -> tuple[Tensor, Tensor]:
    if len(x) == 0:
        return torch.zeros_like(x), kernel.new_zeros(kernel.shape if needs_kernel else (0,))
    layout = _layout(x, kernel, left, periodic)
    for_x = for_kernel = method
    if method == "auto":
        problem = _problem(x, kernel, layout)
        for_x, for_kernel = problem.backward_methods(needs_x, needs_kernel)
    operands = grad, x, kernel, layout
    with torch.autocast(x.device.type, enabled=False):
        if for_x == for_kernel:
            grads = _WAYS[for_x].differentiate(*operands, needs_x, needs_kernel)
        else:
            grad_x, _ = _WAYS[for_x].differentiate(*operands, needs_x, False)
            _, grad_kernel = _WAYS[for_kernel].differentiate(*operands, False, needs_kernel)
            grads = grad_x, grad_kernel
    grad_x, grad_kernel = (x.new_empty(0) if each is None else each for each in grads)
    return grad_x, grad_kernel


@_grid_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, kernel: Tensor, left: list[int], periodic: list[bool], method: str,
    needs_x: bool, needs_kernel: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        x.new_empty(x.shape if needs_x else (0,)),
        kernel.new_empty(kernel.shape if needs_kernel else (0,)),
    )


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, kernel, ctx.left, ctx.periodic, ctx.method = inputs
    ctx.save_for_backward(x, kernel)


def _differentiate(ctx, grad):  # type: ignore[no-untyped-def]
    needs_x, needs_kernel, *_ = ctx.needs_input_grad
    if torch.is_grad_enabled():
        return *_differentiable_gradients(ctx, grad, needs_x, needs_kernel), None, None, None
    grad_x, grad_kernel = _grid_conv_backward(
        grad, *ctx.saved_tensors, ctx.left, ctx.periodic, ctx.method, needs_x, needs_kernel
    )
    return grad_x if needs_x else None, grad_kernel if needs_kernel else None, None, None, None


def _differentiable_gradients(ctx, grad, needs_x, needs_kernel):  # type: ignore[no-untyped-def]
    """Return gradients that can be differentiated themselves, through PyTorch's convolutions."""
    x, kernel = ctx.saved_tensors
    if x.dim() - 2 > direct.MAX_DIM:
        raise RuntimeError(
            f"Expected at most {direct.MAX_DIM} axes for second derivatives and `torch.func` on "
            f"grids, got {x.dim() - 2}: use the grid as a graph, `ops.dense_graph`"
        )
    layout = _layout(x, kernel, ctx.left, ctx.periodic)

    def convolve(x: Tensor, kernel: Tensor) -> Tensor:
        return direct.convolve(x, kernel, layout)

    grad_x, grad_kernel = torch.func.vjp(convolve, x, kernel)[1](grad)
    return grad_x if needs_x else None, grad_kernel if needs_kernel else None


_grid_conv.register_autograd(_differentiate, setup_context=_setup_context)


class _Convolution(Looped):
    """The operator, for `torch.func`."""

    @staticmethod
    def forward(*arguments):  # type: ignore[no-untyped-def]
        """Run the operator."""
        return (_grid_conv(*arguments),)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Differentiate through PyTorch's convolutions."""
        return _differentiate(ctx, grad)


def _layout(x: Tensor, kernel: Tensor, left: list[int], periodic: list[bool]) -> Layout:
    dim = x.dim() - 2
    return Layout(tuple(x.shape[2:]), tuple(kernel.shape[-dim:]), tuple(left), tuple(periodic))


def _output_shape(x: Tensor, kernel: Tensor) -> list[int]:
    channels = x.size(1) if kernel.dim() < x.dim() else kernel.size(0)
    return [len(x), channels, *x.shape[2:]]


def _problem(x: Tensor, kernel: Tensor, layout: Layout) -> Problem:
    samples, out_channels, *_ = _output_shape(x, kernel)
    dtype, depthwise = fft.working_type(x, kernel), kernel.dim() < x.dim()
    return Problem(x.device, dtype, layout, samples, x.size(1), out_channels, depthwise)


def _check(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    causal: bool,
    periodic: tuple[bool, ...],
    method: str,
) -> None:
    for name, operand in (("x", x), ("kernel", kernel), ("bias", bias)):
        if operand is not None and not operand.is_floating_point():
            raise TypeError(f"Expected floating-point `{name}`, got {operand.dtype}")
    dim = x.dim() - 2
    if dim < 1:
        raise ValueError(f"Expected `x` of shape [B, C, *S], got {list(x.shape)}")
    if kernel.dim() not in (dim + 1, dim + 2) or kernel.size(-dim - 1) != x.size(1):
        raise ValueError(
            f"Expected `kernel` of shape [{x.size(1)}, *K] or [O, {x.size(1)}, *K] with K of "
            f"{dim} axes, got {list(kernel.shape)}"
        )
    for name, operand in (("x", x), ("kernel", kernel)):
        if 0 in operand.shape[-dim:]:
            raise ValueError(f"Expected no empty axis in `{name}`, got {list(operand.shape)}")
    channels = _output_shape(x, kernel)[1]
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"Expected `bias` of shape [{channels}], got {list(bias.shape)}")
    if causal and dim != 1:
        raise ValueError(f"Expected one axis for a causal convolution, got {dim}")
    if len(periodic) != dim:
        raise ValueError(f"Expected `periodic` to have {dim} values, got {periodic}")
    if causal and any(periodic):
        raise ValueError("Expected no periodic axis for a causal convolution, got one")
    if method not in ("auto", *_WAYS):
        raise ValueError(f"Expected `method` to be 'auto', 'fft' or 'direct', got {method!r}")
    if method == "direct" and dim > direct.MAX_DIM:
        raise ValueError(
            f"Expected at most {direct.MAX_DIM} axes for the method 'direct', got {dim}"
        )
