"""The fused convolution with a MAGNet kernel, as one custom operator with several backends.

The operator sees kernel coordinates only: positions already divided by the extent, a box outside
which the kernel is zero, and the inverse widths of the window. What depends on `extent`, on the
cutoff and on causality is folded into its inputs by `point_conv`, where autograd differentiates it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.point_backends.registry import load_backend


class MagnetConv(NamedTuple):
    r"""One call: S sources, T targets, D coordinates, C channels, L Gabor filters of width H.

    For the edge from source j to target i, with offset :math:`v = p_j - p_i`,

    .. math::
        f(v) = [g(v) h(v),\ g(v)] \in R^{H + 1}, \qquad
        g(v) = 1[lower \le v \le upper] \exp(-\tfrac12 \|v / \sigma\|^2)

    where h are the MAGNet's features. A depthwise call (with `readout`) gives
    :math:`y_{ic} = \sum_j x_{jc}\, readout_c \cdot f(v_{ij})`, `[T, C]`; a call without gives the
    aggregate :math:`M_{ich} = \sum_j x_{jc} f_h(v_{ij})`, `[T, C, H + 1]`.
    The moment is :math:`\sum_{ij} f f^T`, `[H + 1, H + 1]`.
    """

    x: Tensor  # [S, C]
    source: Tensor  # [S, D] positions of the sources
    target: Tensor  # [T, D] positions of the targets
    index: Tensor  # type: ignore[assignment]  # [E] int64, source of every slot, sorted by target; -1 is an empty slot
    pointer: Tensor | None  # [T + 1] int64, or None where every target has `degree` slots
    degree: int
    reverse_pointer: Tensor | None  # [S + 1] int64, the slots grouped by source ...
    reverse_target: Tensor | None  # [E] int64, ... and their targets
    bounds: Tensor  # [2, D] lower and upper end of the support, inclusive
    inverse_sigma: Tensor  # [D] one over the widths of the Gaussian window
    network: MAGNetWeights
    readout: Tensor | None  # [C, H + 1], the last column is the bias


class MagnetConvGradients(NamedTuple):
    """Gradients of one call; `x`, `source` and `target` are None where they were not asked for."""

    x: Tensor | None
    source: Tensor | None
    target: Tensor | None
    inverse_sigma: Tensor
    network: MAGNetWeights
    readout: Tensor | None


@torch.library.custom_op("ccnn_geo::magnet_conv", mutates_args=())
def _magnet_conv(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    index: Tensor,
    pointer: Tensor | None,
    degree: int,
    reverse_pointer: Tensor | None,
    reverse_target: Tensor | None,
    bounds: Tensor,
    inverse_sigma: Tensor,
    centers: Tensor,
    inverse_widths: Tensor,
    frequencies: Tensor,
    phases: Tensor,
    weights: Tensor,
    biases: Tensor,
    readout: Tensor | None,
    with_moment: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    network = MAGNetWeights(centers, inverse_widths, frequencies, phases, weights, biases)
    call = MagnetConv(
        x, source, target, index, pointer, degree, reverse_pointer, reverse_target,
        bounds, inverse_sigma, network, readout,
    )  # fmt: skip
    return load_backend(backend).forward(call, with_moment)


@_magnet_conv.register_fake
def _(
    x: Tensor, source: Tensor, target: Tensor, index: Tensor, pointer: Tensor | None, degree: int,
    reverse_pointer: Tensor | None, reverse_target: Tensor | None, bounds: Tensor,
    inverse_sigma: Tensor, centers: Tensor, inverse_widths: Tensor, frequencies: Tensor,
    phases: Tensor, weights: Tensor, biases: Tensor, readout: Tensor | None, with_moment: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    width = phases.size(1) + 1
    shape = (target.size(0), x.size(1)) + (() if readout is not None else (width,))
    return x.new_empty(shape), x.new_empty((width, width) if with_moment else (0,))


@torch.library.custom_op("ccnn_geo::magnet_conv_backward", mutates_args=())
def _magnet_conv_backward(
    grad_output: Tensor,
    grad_moment: Tensor | None,
    x: Tensor,
    source: Tensor,
    target: Tensor,
    index: Tensor,
    pointer: Tensor | None,
    degree: int,
    reverse_pointer: Tensor | None,
    reverse_target: Tensor | None,
    bounds: Tensor,
    inverse_sigma: Tensor,
    centers: Tensor,
    inverse_widths: Tensor,
    frequencies: Tensor,
    phases: Tensor,
    weights: Tensor,
    biases: Tensor,
    readout: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
    backend: str,
) -> list[Tensor]:
    network = MAGNetWeights(centers, inverse_widths, frequencies, phases, weights, biases)
    call = MagnetConv(
        x, source, target, index, pointer, degree, reverse_pointer, reverse_target,
        bounds, inverse_sigma, network, readout,
    )  # fmt: skip
    grads = load_backend(backend).backward(call, grad_output, grad_moment, needs_x, needs_pos)
    flat = [grads.x, grads.source, grads.target, grads.inverse_sigma, *grads.network, grads.readout]
    return [x.new_empty(0) if grad is None else grad.contiguous() for grad in flat]


@_magnet_conv_backward.register_fake
def _(
    grad_output: Tensor, grad_moment: Tensor | None, x: Tensor, source: Tensor, target: Tensor,
    index: Tensor, pointer: Tensor | None, degree: int, reverse_pointer: Tensor | None,
    reverse_target: Tensor | None, bounds: Tensor, inverse_sigma: Tensor, centers: Tensor,
    inverse_widths: Tensor, frequencies: Tensor, phases: Tensor, weights: Tensor, biases: Tensor,
    readout: Tensor | None, needs_x: bool, needs_pos: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    wanted = (
        x if needs_x else None, source if needs_pos else None, target if needs_pos else None,
        inverse_sigma, centers, inverse_widths, frequencies, phases, weights, biases, readout,
    )  # fmt: skip
    return [x.new_empty((0,) if part is None else part.shape) for part in wanted]


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.with_moment, ctx.backend = inputs
    ctx.degree = tensors.pop(5)
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_output, grad_moment):  # type: ignore[no-untyped-def]
    tensors = list(ctx.saved_tensors)
    tensors.insert(5, ctx.degree)
    needs_x, needs_pos = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    grads = _magnet_conv_backward(
        grad_output.contiguous(),
        grad_moment if ctx.with_moment else None,
        *tensors,
        needs_x,
        needs_pos,
        ctx.backend,
    )
    x, source, target, inverse_sigma, *network, readout = grads
    return (
        x if needs_x else None, source if needs_pos else None, target if needs_pos else None,
        None, None, None, None, None, None, inverse_sigma, *network,
        None if tensors[-1] is None else readout, None, None,
    )  # fmt: skip


_magnet_conv.register_autograd(_differentiate, setup_context=_setup_context)


def magnet_conv(call: MagnetConv, *, with_moment: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Run one fused convolution on a named backend, differentiably.

    Args:
        call: The operands, see `MagnetConv`.
        with_moment: Whether the second moment of the features is wanted as well.
        backend: `"torch"`, `"native"` or `"triton"`.

    Returns:
        The output, `[T, C]` or `[T, C, H + 1]`, and the moment `[H + 1, H + 1]` (else empty).
    """
    return _magnet_conv(
        call.x, call.source, call.target, call.index, call.pointer, call.degree,
        call.reverse_pointer, call.reverse_target, call.bounds, call.inverse_sigma, *call.network,
        call.readout, with_moment, backend,
    )  # fmt: skip
