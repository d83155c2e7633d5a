"""The continuous convolution on points: one function, several ways of evaluating it."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends import autograd, reference
from ccnn_geo.ops.point_backends.operator import MagnetConv, magnet_conv
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

    Args:
        x: Features of the sources, `[S, C]`.
        pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
        neighbors: The graph.
        features: The kernel network h up to its last linear layer: the weights of a MAGNet, which
            all backends fuse, or any function from `[..., D]` to `[..., H]`.
        readout: The last linear layer with its bias as the last column, `[C, H + 1]` (depthwise) or
            `[O, C, H + 1]` (full).
        support: Support and window of the kernel.
        weight: Quadrature weight of every source, `[S]`.
        with_moment: Whether to return the second moment of the basis too, for `kernel_penalty`.
        backend: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`; functions other than
            a MAGNet always run in plain PyTorch.

    Returns:
        The output `[T, C]` or `[T, O]`, and the mean over targets of the second moment of the
        basis, :math:`\tfrac1T \sum_{ij} f f^T`, `[H + 1, H + 1]` (None unless asked for).

    Raises:
        ValueError: If shapes do not fit one another or there is no such backend.
        RuntimeError: If the backend asked for cannot run here.
    """
    source, target = pos if isinstance(pos, tuple) else (pos, pos)
    _check_shapes(x, source, target, neighbors, readout)
    name = choose_backend(backend, x.device, readout.dtype)
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    input_dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(readout.dtype)
        shared = target is source
        source = support.to_kernel_unit(source)
        target = source if shared else support.to_kernel_unit(target)
        operands = x, source, target, neighbors
        if name == "reference":
            output, moment = reference.convolve(*operands, features, readout, support, with_moment)
        elif isinstance(features, MAGNetWeights) and not (
            name == "torch" and autograd.suits_magnet(neighbors, features, x.size(1))
        ):
            output, moment = _fused(*operands, features, readout, support, with_moment, name)
        else:
            output, moment = autograd.convolve(*operands, features, readout, support, with_moment)
        moment = moment / max(neighbors.num_targets, 1)
    return output.to(input_dtype), moment if with_moment else None


def _fused(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    neighbors: Neighborhood,
    network: MAGNetWeights,
    readout: Tensor,
    support: KernelSupport,
    with_moment: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    depthwise = readout.dim() == 2
    reverse: tuple[Tensor | None, Tensor | None] = (None, None)
    if backend == "triton" and torch.is_grad_enabled() and is_deterministic():
        if x.requires_grad or source.requires_grad or target.requires_grad:
            reverse = neighbors.reversed
    call = MagnetConv(
        x.contiguous(),
        source.contiguous(),
        target.contiguous(),
        neighbors.index,
        neighbors.pointer,
        neighbors.degree,
        *reverse,
        support.bounds,
        support.inverse_sigma.contiguous(),
        MAGNetWeights(*(part.contiguous() for part in network.shifted(support.shift))),
        readout.contiguous() if depthwise else None,
    )
    output, moment = magnet_conv(call, with_moment=with_moment, backend=backend)
    if not depthwise:
        output = output.flatten(1) @ readout.flatten(1).T
    return output, moment


def _check_shapes(
    x: Tensor, source: Tensor, target: Tensor, neighbors: Neighborhood, readout: Tensor
) -> None:
    if x.dim() != 2 or x.size(0) != neighbors.num_sources:
        raise ValueError(f"Expected `x` of shape [{neighbors.num_sources}, C], got {list(x.shape)}")
    channels = readout.size(-2)
    if x.size(1) != channels:
        raise ValueError(f"Expected `x` with {channels} channels, got {x.size(1)}")
    for name, pos, count in (
        ("source", source, neighbors.num_sources),
        ("target", target, neighbors.num_targets),
    ):
        if pos.dim() != 2 or pos.size(0) != count:
            raise ValueError(
                f"Expected {name} positions of shape [{count}, D], got {list(pos.shape)}"
            )
