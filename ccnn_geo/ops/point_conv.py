"""The continuous convolution on points: one function, several backends."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import has_tangents
from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends import autograd, reference
from ccnn_geo.ops.point_backends.checks import as_pair, check_indices, check_point_conv
from ccnn_geo.ops.point_backends.operands import MagnetConv, PointConv, without_edges
from ccnn_geo.ops.point_backends.operator import magnet_conv
from ccnn_geo.ops.point_backends.registry import (
    choose_backend,
    is_deterministic,
    suggest_build,
)

_FUSED_TYPES = (torch.float32, torch.float64)


def point_conv(
    x: Tensor,
    pos: Tensor | tuple[Tensor, Tensor],
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    *,
    weight: Tensor | None = None,
    with_moment: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    r"""Convolve features on points with a continuous kernel (Knigge et al. 2023, Eq. 2).

    .. math::
        y_i = \sum_{j \in N(i)} w_j\, g(v_{ij})\, A [h(v_{ij}), 1] \odot x_j

    Gradients can be differentiated again, and the transforms of `torch.func` apply. Forward-mode
    differentiation and second derivatives run on the reference; `torch.func.vmap` runs the fused
    backends once per example, and does not check whether values are finite.

    Positions and weights must be finite, which is checked on the CPU only and not in compiled code.
    NaN and infinity in features reach the targets of edges inside the support of the kernel, and no
    others. Where positions are not checked, an offset that is NaN counts as inside the support, an
    infinite one as outside. Empty slots of a neighbourhood contribute nothing. All backends agree
    in this.

    Args:
        x: Features of the sources, `[S, C]`.
        pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`), float32 or float64.
            Offsets are taken before anything is rounded to the type of the kernel, so that
            coordinates may be large.
        neighbors: The graph.
        features: The kernel network h up to its last linear layer: the weights of a MAGNet, which
            all backends fuse, or any function from `[..., D]` to `[..., H]`.
        readout: The last linear layer with its bias as the last column, `[C, H + 1]` (depthwise) or
            `[O, C, H + 1]` (full).
        support: Support and window of the kernel.
        weight: Quadrature weight of every source, `[S]`.
        with_moment: If True, also return the second moment of the basis, for `kernel_penalty`.
        backend: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`; functions other than
            a MAGNet always run in plain PyTorch.

    Returns:
        The output `[T, C]` or `[T, O]`, and the mean over targets of the second moment of the
        basis, :math:`\tfrac1T \sum_{ij} f f^T`, `[H + 1, H + 1]` (None unless asked for).

    Raises:
        TypeError: If an operand is not a dense floating-point tensor, positions are in 16 bits, or
            network, readout and support are not of one type.
        ValueError: If shapes or devices do not fit one another, tensors hold no data, (on the CPU)
            positions or weights are not finite, or there is no such backend.
        IndexError: If a neighbourhood names a missing point or slot (on the CPU; the Triton backend
            takes it for an empty slot).
        RuntimeError: If the requested backend cannot run here.
    """
    source, target = as_pair("pos", pos)
    check_point_conv(x, (source, target), neighbors, features, readout, support, weight)
    name = choose_backend(backend, x.device, readout.dtype)
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    input_dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        shared = target is source
        source = support.scaled(source)
        target = source if shared else support.scaled(target)
        call = PointConv(
            x.to(readout.dtype), source, target, neighbors, features, readout, support, with_moment
        )
        network = features if isinstance(features, MAGNetWeights) else ()
        if has_tangents(x, source, target, readout, support.inverse_sigma, *network):
            name = "reference"
        if _is_fused(call, name):
            if name == "torch":
                suggest_build(backend, x.device)
            output, moment = _evaluate_fused(call, name)
        else:
            output, moment = _evaluate(call, name)
        moment = moment / max(neighbors.num_targets, 1)
    return output.to(input_dtype), moment if with_moment else None


def _is_fused(call: PointConv, backend: str) -> bool:
    return (
        backend != "reference"
        and isinstance(call.features, MAGNetWeights)
        and call.readout.dtype in _FUSED_TYPES
        and not (backend == "torch" and autograd.suits_magnet(call))
        and call.neighbors.num_slots > 0
        and call.neighbors.num_sources > 0
    )


def _evaluate(call: PointConv, backend: str) -> tuple[Tensor, Tensor]:
    neighbors = call.neighbors
    check_indices(neighbors.index, neighbors.pointer, neighbors.num_sources)
    if neighbors.num_slots == 0 or neighbors.num_sources == 0:
        output, moment = without_edges(
            call.x, call.source, call.target, call.features, call.readout, call.support
        )
        return output, moment if call.with_moment else moment[0, :0]
    return reference.convolve(call) if backend == "reference" else autograd.convolve(call)


def _evaluate_fused(call: PointConv, backend: str) -> tuple[Tensor, Tensor]:
    neighbors, support, network = call.neighbors, call.support, cast(MAGNetWeights, call.features)
    depthwise = call.readout.dim() == 2
    reverse: tuple[Tensor | None, Tensor | None] = (None, None)
    if backend == "triton" and torch.is_grad_enabled() and is_deterministic():
        if call.x.requires_grad or call.source.requires_grad or call.target.requires_grad:
            reverse = neighbors.reversed
    operands = MagnetConv(
        call.x.contiguous(),
        call.source.contiguous(),
        call.target.contiguous(),
        neighbors.index,
        neighbors.pointer,
        neighbors.degree,
        *reverse,
        support.bounds,
        support.inverse_sigma.contiguous(),
        MAGNetWeights(*(part.contiguous() for part in network.shifted(support.shift))),
        call.readout.contiguous() if depthwise else None,
    )
    output, moment = magnet_conv(operands, with_moment=call.with_moment, backend=backend)
    if not depthwise:
        output = output.flatten(1) @ call.readout.flatten(1).T
    return output, moment
