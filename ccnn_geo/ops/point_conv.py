"""The continuous convolution on points: one function, several backends."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends import autograd, reference
from ccnn_geo.ops.point_backends.operands import MagnetConv, PointConv
from ccnn_geo.ops.point_backends.operator import magnet_conv
from ccnn_geo.ops.point_backends.registry import choose_backend, is_deterministic


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

    Gradients can be differentiated again. Forward-mode differentiation runs on the reference.

    Positions and weights must be finite, which is checked on the CPU alone. NaN and infinity in
    features reach the targets of edges inside the support of the kernel, and no others; the same
    holds for NaN in positions on other devices. Empty slots of a neighbourhood contribute nothing.

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
        TypeError: If an operand is not a floating-point tensor, or positions are in 16 bits.
        ValueError: If shapes or devices do not fit one another, (on the CPU) positions or weights
            are not finite, or there is no such backend.
        IndexError: If a neighbourhood names a missing point (on the CPU).
        RuntimeError: If the requested backend cannot run here.
    """
    source, target = pos if isinstance(pos, tuple) else (pos, pos)
    _check(x, source, target, neighbors, readout, support, weight)
    name = choose_backend(backend, x.device, readout.dtype)
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    input_dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        shared = target is source
        # A common origin changes no offset, and keeps the angles of distant points small.
        origin = (target if len(target) else source)[:1].detach().double().nan_to_num()
        source = support.scaled(source.double() - origin)
        target = source if shared else support.scaled(target.double() - origin)
        call = PointConv(
            x.to(readout.dtype), source, target, neighbors, features, readout, support, with_moment
        )
        if _has_tangents(x, source, target, readout, support.inverse_sigma, features):
            name = "reference"
        output, moment = _evaluate(call, name)
        moment = moment / max(neighbors.num_targets, 1)
    return output.to(input_dtype), moment if with_moment else None


def _evaluate(call: PointConv, backend: str) -> tuple[Tensor, Tensor]:
    if call.neighbors.num_slots == 0 or call.neighbors.num_sources == 0:
        width, outputs = call.readout.size(-1), call.readout.size(0)
        nothing = 0.0 * (call.readout.sum() + call.x.sum())
        moment = nothing + call.x.new_zeros((width, width) if call.with_moment else (0,))
        return nothing + call.x.new_zeros(len(call.target), outputs), moment
    if backend == "reference":
        return reference.convolve(call)
    if isinstance(call.features, MAGNetWeights) and not (
        backend == "torch" and autograd.suits_magnet(call)
    ):
        return _fused(call, call.features, backend)
    return autograd.convolve(call)


def _fused(call: PointConv, network: MAGNetWeights, backend: str) -> tuple[Tensor, Tensor]:
    neighbors, support = call.neighbors, call.support
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


def _has_tangents(*operands: Tensor | Features) -> bool:
    """True if forward-mode differentiation is under way with respect to an operand."""
    if torch.compiler.is_compiling():
        return False
    for operand in operands:
        parts = operand if isinstance(operand, tuple) else (operand,)
        for part in parts:
            if isinstance(part, Tensor) and forward_ad.unpack_dual(part).tangent is not None:
                return True
    return False


def _check(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    readout: Tensor,
    support: KernelSupport,
    weight: Tensor | None,
) -> None:
    operands = {"x": x, "source positions": source, "target positions": target, "readout": readout}
    if weight is not None:
        operands["weight"] = weight
    for name, value in operands.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"Expected {name} to be a floating-point tensor, got {got}")
        if value.device != x.device:
            raise ValueError(f"Expected {name} on {x.device} like `x`, got {value.device}")
    for name, pos in (("source", source), ("target", target)):
        if pos.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Expected {name} positions in float32 or float64, got {pos.dtype}")
    if x.dim() != 2 or x.size(0) != neighbors.num_sources:
        raise ValueError(f"Expected `x` of shape [{neighbors.num_sources}, C], got {list(x.shape)}")
    if readout.dim() not in (2, 3):
        raise ValueError(
            f"Expected `readout` of shape [C, H + 1] or [O, C, H + 1], got {list(readout.shape)}"
        )
    channels, dim = readout.size(-2), support.bounds.size(1)
    if x.size(1) != channels:
        raise ValueError(f"Expected `x` with {channels} channels, got {x.size(1)}")
    for name, pos, count in (
        ("source", source, neighbors.num_sources),
        ("target", target, neighbors.num_targets),
    ):
        if pos.shape != (count, dim):
            raise ValueError(
                f"Expected {name} positions of shape [{count}, {dim}], got {list(pos.shape)}"
            )
    if weight is not None and weight.shape != (x.size(0),):
        raise ValueError(f"Expected `weight` of shape [{x.size(0)}], got {list(weight.shape)}")
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for name, value in operands.items():
        if name in ("x", "readout"):
            continue
        # The sum is ten times as fast; it may overflow where all values are finite.
        if not math.isfinite(float(value.detach().sum())) and not bool(value.isfinite().all()):
            raise ValueError(f"Expected finite {name}, got NaN or infinity")
