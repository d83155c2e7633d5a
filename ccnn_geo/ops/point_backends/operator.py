"""The fused convolution with a MAGNet kernel as one custom operator with several backends.

The operator sees kernel coordinates only: positions divided by the extent, a box outside which the
kernel is zero, and the inverse widths of the window. `point_conv` folds extent, cutoff and
causality into these inputs, where autograd differentiates them.

Whatever the caller, operands of wrong sizes, types, devices or indices are an error: compiled
backends compute addresses from them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import Looped, for_each_example, is_transformed
from ccnn_geo.ops.point_backends import reference
from ccnn_geo.ops.point_backends.checks import check_devices, check_magnet_conv, check_tensor
from ccnn_geo.ops.point_backends.operands import MagnetConv
from ccnn_geo.ops.point_backends.registry import load_backend

_OPERANDS = (
    "Tensor x, Tensor source, Tensor target, Tensor index, Tensor? pointer, SymInt degree, "
    "Tensor? reverse_pointer, Tensor? reverse_target, Tensor bounds, Tensor inverse_sigma, "
    "Tensor centers, Tensor inverse_widths, Tensor frequencies, Tensor phases, Tensor weights, "
    "Tensor biases, Tensor? readout"
)
_NUM_TENSORS_BEFORE_DEGREE = 5
# Where the operands stand that gradients are returned for: x, both positions, and the kernel.
_DIFFERENTIABLE = (0, 1, 2, *range(9, 17))


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *flat, with_moment, backend = arguments
    call = MagnetConv.of(flat)
    check_magnet_conv(call)
    return load_backend(backend).forward(call, with_moment)


_magnet_conv = torch.library.custom_op(
    "ccnn_geo::magnet_conv",
    _forward,
    mutates_args=(),
    schema=f"({_OPERANDS}, bool with_moment, str backend) -> (Tensor, Tensor)",
)


@_magnet_conv.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *flat, with_moment, _ = arguments
    call = MagnetConv.of(flat)
    check_devices(call)
    shape, width = _output_shape(call), call.network.phases.size(1) + 1
    return call.x.new_empty(shape), call.x.new_empty((width, width) if with_moment else (0,))


def _backward(
    grad_output: Tensor, grad_moment: Tensor | None, *arguments: Any
) -> tuple[Tensor, ...]:
    *flat, needs_x, needs_pos, backend = arguments
    call = MagnetConv.of(flat)
    check_magnet_conv(call)
    width = call.network.phases.size(1) + 1
    for name, grad, shape in (
        ("grad_output", grad_output, _output_shape(call)),
        ("grad_moment", grad_moment, (width, width)),
    ):
        if grad is not None:
            check_tensor(name, grad, shape, call.x.dtype, call.x.device)
    grads = load_backend(backend).backward(
        call,
        grad_output.contiguous(),
        None if grad_moment is None else grad_moment.contiguous(),
        needs_x,
        needs_pos,
    )
    flat = [grads.x, grads.source, grads.target, grads.inverse_sigma, *grads.network, grads.readout]
    kinds = [call.x, call.source, call.target, *[call.x] * 8]
    return tuple(
        kind.new_empty(0) if grad is None else grad.to(kind.dtype).contiguous()
        for grad, kind in zip(flat, kinds, strict=True)
    )


_magnet_conv_backward = torch.library.custom_op(
    "ccnn_geo::magnet_conv_backward",
    _backward,
    mutates_args=(),
    schema=(
        f"(Tensor grad_output, Tensor? grad_moment, {_OPERANDS}, bool needs_x, bool needs_pos, "
        f"str backend) -> ({', '.join(['Tensor'] * len(_DIFFERENTIABLE))})"
    ),
)


@_magnet_conv_backward.register_fake
def _(grad_output: Tensor, grad_moment: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *flat, needs_x, needs_pos, _ = arguments
    call = MagnetConv.of(flat)
    check_devices(call)
    wanted = [
        (call.x, needs_x),
        (call.source, needs_pos),
        (call.target, needs_pos),
        (call.inverse_sigma, True),
        *((part, True) for part in call.network),
    ]
    grads = [part.new_empty(part.shape if needed else (0,)) for part, needed in wanted]
    shape = (0,) if call.readout is None else call.readout.shape
    return *grads, call.x.new_empty(shape)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.with_moment, ctx.backend = inputs
    ctx.degree = tensors.pop(_NUM_TENSORS_BEFORE_DEGREE)
    ctx.save_for_backward(*tensors)


def _saved_operands(ctx):  # type: ignore[no-untyped-def]
    flat = list(ctx.saved_tensors)
    flat.insert(_NUM_TENSORS_BEFORE_DEGREE, ctx.degree)
    return flat


def _differentiate(ctx, grad_output, grad_moment, gradients=_magnet_conv_backward):  # type: ignore[no-untyped-def]
    flat = _saved_operands(ctx)
    needs_x, needs_pos = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    given = grad_moment if ctx.with_moment else None
    grads = gradients(grad_output, given, *flat, needs_x, needs_pos, ctx.backend)
    x, source, target, inverse_sigma, *network, readout = grads
    return (
        x if needs_x else None, source if needs_pos else None, target if needs_pos else None,
        None, None, None, None, None, None, inverse_sigma, *network,
        None if flat[-1] is None else readout, None, None,
    )  # fmt: skip


_magnet_conv.register_autograd(_differentiate, setup_context=_setup_context)


def _setup_gradients_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, _, _, _ = inputs
    ctx.degree = tensors.pop(2 + _NUM_TENSORS_BEFORE_DEGREE)
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _differentiate_gradients(ctx, *grads):  # type: ignore[no-untyped-def]
    """Differentiate the gradients of a call, through the reference."""
    flat = list(ctx.saved_tensors)
    flat.insert(2 + _NUM_TENSORS_BEFORE_DEGREE, ctx.degree)
    with_moment = flat[1] is not None
    used = [2 + i for i, grad in zip(_DIFFERENTIABLE, grads, strict=True) if grad is not None]
    needed = [i for i, need in enumerate(ctx.needs_input_grad) if need]

    def first_gradients(*chosen: Tensor) -> tuple[Tensor, ...]:
        operands = _with(flat, needed, chosen)

        def evaluate(*inner: Tensor) -> tuple[Tensor, ...]:
            call = MagnetConv.of(_with(operands, used, inner)[2:])
            return reference.evaluate(call, with_moment)[: 1 + with_moment]

        pull = torch.func.vjp(evaluate, *(operands[i] for i in used))[1]
        return pull(tuple(operands[: 1 + with_moment]))

    result: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    if used and needed:
        pull = torch.func.vjp(first_gradients, *(flat[i] for i in needed))[1]
        given = tuple(grad for grad in grads if grad is not None)
        for i, grad in zip(needed, pull(given), strict=True):
            result[i] = grad
    return tuple(result)


def _with(flat: list[Any], places: list[int], parts: tuple[Tensor, ...]) -> list[Any]:
    """Return the list with other parts in some places."""
    flat = list(flat)
    for place, part in zip(places, parts, strict=True):
        flat[place] = part
    return flat


_magnet_conv_backward.register_autograd(
    _differentiate_gradients, setup_context=_setup_gradients_context
)


_magnet_conv.register_vmap(partial(for_each_example, _magnet_conv))
_magnet_conv_backward.register_vmap(partial(for_each_example, _magnet_conv_backward))


class _Gradients(Looped):
    """The operator of the gradients, for `torch.func`."""

    @staticmethod
    def forward(*arguments):  # type: ignore[no-untyped-def]
        """Run the operator."""
        return _magnet_conv_backward(*arguments)

    setup_context = staticmethod(_setup_gradients_context)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        """Differentiate through the reference."""
        return _differentiate_gradients(ctx, *grads)


class _Convolution(Looped):
    """The operator, for `torch.func`."""

    @staticmethod
    def forward(*arguments):  # type: ignore[no-untyped-def]
        """Run the operator."""
        return _magnet_conv(*arguments)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx, grad_output, grad_moment):  # type: ignore[no-untyped-def]
        """Run the operator of the gradients."""
        return _differentiate(ctx, grad_output, grad_moment, _Gradients.apply)


def magnet_conv(call: MagnetConv, *, with_moment: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Run one fused convolution on a named backend, differentiably.

    Args:
        call: The operands, see `MagnetConv`.
        with_moment: If True, compute the second moment of the features as well.
        backend: `"torch"`, `"native"` or `"triton"`.

    Returns:
        The output, `[T, C]` or `[T, C, H + 1]`, and the moment `[H + 1, H + 1]` (else empty).

    Raises:
        TypeError: If an operand has another type than its role demands.
        ValueError: If shapes or devices do not fit one another, or there are no filters.
        IndexError: If an index names a missing source, target or slot.
    """
    run = _Convolution.apply if is_transformed() else _magnet_conv
    return run(*call.flat(), with_moment, backend)


def _output_shape(call: MagnetConv) -> tuple[int, ...]:
    shape = call.target.size(0), call.x.size(1)
    return shape if call.readout is not None else (*shape, call.network.phases.size(1) + 1)
