"""The fused convolution on the GPU: forward and backward in Triton.

Forward is one kernel, which never stores anything of the size of the edge list. Backward is two:
one over the targets differentiates the kernel network, the other aggregates the output's gradient
over transposed neighbour lists, which gives the gradients of the features and of the readout at
once. Every sum is then taken in a fixed order, so that results repeat bit by bit. Without
transposed lists the gradients of features and of source positions are summed by atomics.

Arguments of exponentials and sines are computed in float32; whole turns are dropped from arguments
of sines first. Entries of neighbour lists that name no point count as empty slots, because to look
for them would make the host wait. Matrix products run on tensor
cores: each is three products of TF32 (`"tf32x3"`, the default) or six of bfloat16 (`"bf16x6"`),
both about as exact as float32, or one of TF32 (`"tf32"`, three decimal places). Choose with
`ccnn_geo.use_backend` or with the environment variable `CCNN_GEO_TRITON_PRECISION`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.point_backends.gabor_polynomials import Coefficients, parameter_gradients
from ccnn_geo.ops.point_backends.operands import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.point_backends.triton.tiles import (
    Tiles,
    aggregate_tiles,
    channel_chunks,
    differentiate_tiles,
    padded_width,
)

if TYPE_CHECKING:
    from ccnn_geo.ops.point_backends.triton.differentiate import Gradients
    from ccnn_geo.ops.point_backends.triton.network import Graph, Network

_PRECISIONS = ("tf32x3", "bf16x6", "tf32")
_ENVIRONMENT = "CCNN_GEO_TRITON_PRECISION"
_MAX_DIM = 4
_MAX_PROGRAMS = 2**30
_BINARY = math.sqrt(0.5 / math.log(2.0))  # exp(-x^2 / 2) = 2 ** -(_BINARY * x)^2
_forced_precision: str | None = None


@torch.compiler.assume_constant_result
def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run on such tensors, or None if it can.

    CPU tensors are supported in Triton's interpreter (`TRITON_INTERPRET=1`).
    """
    if dtype != torch.float32:
        return f"it computes in torch.float32 only, not in {dtype}"
    if device.type == "cuda" and torch.cuda.is_available():
        if torch.version.hip is not None:
            return "it is written for NVIDIA GPUs"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "it needs a GPU of compute capability 8.0 or newer"
    elif device.type == "cuda":
        return "there is no CUDA device"
    elif device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        return "it needs a CUDA device, or TRITON_INTERPRET=1 to interpret its kernels on the CPU"
    return _unusable_triton()


@cache
def _unusable_triton() -> str | None:
    try:
        import triton
    except ImportError:
        return "it needs the package triton"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
        return f"it needs Triton 3.6 or newer, this is {triton.__version__}"
    return None


@contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Force the precision of matrix products, in forward and backward passes inside the block.

    It applies to the whole process: gradients of CUDA tensors are computed in other threads.

    Args:
        name: `"tf32x3"`, `"bf16x6"` or `"tf32"`.

    Raises:
        ValueError: If there is no precision of that name.
    """
    global _forced_precision
    before, _forced_precision = _forced_precision, _checked_precision(name, "precision")
    try:
        yield
    finally:
        _forced_precision = before


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `MagnetConv`.

    Raises:
        ValueError: If the points have more than four coordinates.
    """
    call = _prepared(call)
    width = call.network.phases.size(1)
    shape = (call.target.size(0), call.x.size(1))
    output = call.x.new_empty(shape if call.readout is not None else (*shape, width + 1))
    _, moment = _aggregate(
        call, _pack(call.network), call.x, None, output, reverse=False, with_moment=with_moment
    )
    return output, call.x.new_empty(0) if moment is None else moment


def backward(
    call: MagnetConv,
    grad_output: Tensor,
    grad_moment: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
) -> MagnetConvGradients:
    """Differentiate a call, recomputing the features of every edge."""
    call, grad_output = _prepared(call), grad_output.contiguous()
    network = _pack(call.network)
    transposed, full = call.reverse_pointer is not None, call.readout is None
    grad_x = call.x.new_zeros(call.x.shape) if needs_x else None
    grad_source = call.x.new_zeros(call.source.shape) if needs_pos else None
    grad_target = call.x.new_zeros(call.target.shape) if needs_pos else None
    gradients = _empty_gradients(call)
    _differentiate(
        call, network, call.x, grad_output, grad_moment, gradients, reverse=False,
        grad_values=None if transposed else grad_x, grad_centers=grad_target,
        grad_neighbors=None if transposed else grad_source,
    )  # fmt: skip
    if transposed and (needs_pos or (full and needs_x)):
        _differentiate(
            call, network, grad_output, call.x, grad_moment, None, reverse=True,
            grad_center_values=grad_x if full else None, grad_centers=grad_source,
        )  # fmt: skip
    grad_readout = None
    if not full:
        reverse = transposed and needs_x
        values, centers = (grad_output, call.x) if reverse else (call.x, grad_output)
        grad_readout, _ = _aggregate(
            call, network, values, centers, grad_x if reverse else None, reverse=reverse
        )
    inverse_sigma, grad_network = _reduced(call, gradients)
    return MagnetConvGradients(
        grad_x, grad_source, grad_target, inverse_sigma, grad_network, grad_readout
    )


def _checked_precision(name: str, argument: str) -> str:
    if name not in _PRECISIONS:
        raise ValueError(
            f"Expected `{argument}` to be one of {', '.join(_PRECISIONS)}, got {name!r}"
        )
    return name


def _precision() -> str:
    chosen = os.environ.get(_ENVIRONMENT) or _PRECISIONS[0]
    return _forced_precision or _checked_precision(chosen, _ENVIRONMENT)


def _prepared(call: MagnetConv) -> MagnetConv:
    """Return the call with every tensor contiguous, which the kernels rely on."""
    if call.source.size(1) > _MAX_DIM:
        raise ValueError(
            f"Expected positions of at most {_MAX_DIM} coordinates, got {call.source.size(1)}"
        )
    tensors: dict[str, Any] = {
        name: value.contiguous()
        for name, value in call._asdict().items()
        if isinstance(value, Tensor)
    }
    return call._replace(**tensors)


def _pack(network: MAGNetWeights) -> Network:
    """Convert the weights to the kernels' units and layout."""
    from ccnn_geo.ops.point_backends.triton.network import Network

    scales = network.inverse_widths * _BINARY
    exact = network.frequencies.double() / math.pi
    frequencies = exact.to(scales.dtype)
    phases = (network.phases.double() / math.pi).remainder(2).to(scales.dtype).unsqueeze(-1)
    rests = (exact - frequencies).to(scales.dtype)
    filters = torch.cat([scales, -scales * network.centers, frequencies, phases, rests], -1)
    filters = filters.transpose(1, 2)
    empty = padded_width(network.phases.size(1)) - network.phases.size(1)
    return Network(
        pad(filters, (0, empty)).contiguous(),
        pad(network.weights, (0, empty, 0, empty)).contiguous(),
        pad(network.biases, (0, empty)).contiguous(),
    )


def _graph(call: MagnetConv, reverse: bool) -> Graph:
    """Return the graph with targets as rows, or with sources."""
    from ccnn_geo.ops.point_backends.triton.network import Graph

    window = call.inverse_sigma * _BINARY
    if reverse and call.reverse_target is not None:
        centers, neighbors, degree = call.source, call.target, 0
        index, pointer = call.reverse_target, call.reverse_pointer
    else:
        centers, neighbors, degree = call.target, call.source, call.degree
        index, pointer = call.index, call.pointer
    return Graph(
        centers, neighbors, index, pointer, degree, index.numel(), neighbors.size(0), call.bounds,
        window,
    )  # fmt: skip


def _aggregate(
    call: MagnetConv, network: Network, values: Tensor, center_values: Tensor | None,
    output: Tensor | None, *, reverse: bool, with_moment: bool = False,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Fill `output`; return the gradient of the readout (given centre values) and the moment."""
    from ccnn_geo.ops.point_backends.triton.aggregate import aggregate_kernel

    graph = _graph(call, reverse)
    rows, channels = graph.centers.size(0), values.size(1)
    layers, width = call.network.phases.shape
    padded = padded_width(width)
    tiles = aggregate_tiles(padded, _mean_degree(graph), channels)
    chunks = channel_chunks(channels, tiles, padded)
    keeps_sums = center_values is not None or with_moment
    programs = _programs(rows, tiles, values.device) if keeps_sums else min(rows, _MAX_PROGRAMS)
    grad_readout = moment = None
    if center_values is not None:
        grad_readout = values.new_zeros(programs, channels, width + 1)
    if with_moment:
        moment = values.new_empty(programs, padded + 2, padded)
    if rows > 0:
        with _on(values.device):
            aggregate_kernel[programs, chunks.groups](
                graph, network, values, call.readout, center_values, output, grad_readout, moment,
                rows,
                LAYERS=layers, CHANNELS=channels, WIDTH=width, PADDED=padded,
                DIM=call.source.size(1), REVERSED=reverse, BLOCK=tiles.block,
                CHUNK=chunks.size, CHUNKS=chunks.number, LAST=chunks.last,
                COPIES=64 * tiles.warps // tiles.block, PRECISION=_precision(),
                num_warps=tiles.warps, num_stages=1, maxnreg=tiles.registers, enable_fp_fusion=True,
            )  # fmt: skip
    if grad_readout is not None:
        grad_readout = grad_readout.sum(0)
    return grad_readout, None if moment is None else _unpad_moment(moment.sum(0), width)


def _differentiate(
    call: MagnetConv, network: Network, values: Tensor, center_values: Tensor,
    grad_moment: Tensor | None, gradients: Gradients | None, *, reverse: bool,
    grad_values: Tensor | None = None, grad_center_values: Tensor | None = None,
    grad_centers: Tensor | None = None, grad_neighbors: Tensor | None = None,
) -> None:  # fmt: skip
    """Fill the given gradients, with targets as rows or with sources."""
    from ccnn_geo.ops.point_backends.triton.differentiate import differentiate_kernel

    graph = _graph(call, reverse)
    layers, width = call.network.phases.shape
    padded, rows = padded_width(width), graph.centers.size(0)
    if rows == 0:
        return
    tiles = differentiate_tiles(padded, _mean_degree(graph), reverse and call.readout is None)
    with _on(values.device):
        differentiate_kernel[_programs(rows, tiles, values.device),](
            graph, network, values, center_values, call.readout,
            _pad_moment(grad_moment, padded), grad_values, grad_center_values, grad_centers,
            grad_neighbors, gradients, rows,
            LAYERS=layers, CHANNELS=call.x.size(1), WIDTH=width, PADDED=padded,
            DIM=call.source.size(1), REVERSED=reverse, BLOCK=tiles.block, CHUNK=tiles.chunk,
            PRECISION=_precision(),
            num_warps=tiles.warps, num_stages=1, maxnreg=tiles.registers, enable_fp_fusion=True,
        )  # fmt: skip


def _empty_gradients(call: MagnetConv) -> Gradients:
    """Allocate the partial sums of every program."""
    from ccnn_geo.ops.point_backends.triton.differentiate import MONOMIALS, Gradients

    graph = _graph(call, reverse=False)
    layers, width = call.network.phases.shape
    padded = padded_width(width)
    tiles = differentiate_tiles(padded, _mean_degree(graph), full_reversed=False)
    programs = _programs(graph.centers.size(0), tiles, call.x.device)
    maps, rows = max(layers - 1, 1), MONOMIALS.value
    empty = call.x.new_empty
    return Gradients(
        empty(programs, maps, padded, padded),
        empty(programs, maps, rows, padded),
        empty(programs, layers, rows, padded),
        empty(programs, layers, rows, padded),
        empty(programs, call.source.size(1)),
    )


def _reduced(call: MagnetConv, gradients: Gradients) -> tuple[Tensor, MAGNetWeights]:
    """Sum over programs; convert gradients of coefficients to gradients of parameters."""
    layers, width = call.network.phases.shape
    dim = call.source.size(1)
    weights, biases, exponents, angles, window = (part.sum(0) for part in gradients)
    totals = Coefficients(
        exponents[:, : 2 * dim + 1, :width],
        angles[:, : dim + 1, :width],
        pad(window, (dim + 1, 0)),
    )
    return parameter_gradients(
        call,
        totals,
        weights[: layers - 1, :width, :width].contiguous(),
        biases[: layers - 1, dim, :width].contiguous(),
    )


def _mean_degree(graph: Graph) -> float:
    return graph.index.numel() / max(graph.centers.size(0), 1)


def _programs(rows: int, tiles: Tiles, device: torch.device) -> int:
    """Return the number of resident programs, for kernels that keep one sum per program."""
    if device.type != "cuda":
        return min(rows, tiles.residents)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return min(rows, processors * tiles.residents)


def _pad_moment(grad: Tensor | None, padded: int) -> Tensor | None:
    """The gradient of f^T G f is (G + G^T) f; the window's row and column go below the rest."""
    if grad is None:
        return None
    symmetric = grad + grad.T
    width = grad.size(0) - 1
    result = grad.new_zeros(padded + 2, padded)
    result[:width, :width] = symmetric[:width, :width]
    result[padded, :width] = symmetric[width, :width]
    result[padded + 1, 0] = symmetric[width, width]
    return result


def _unpad_moment(moment: Tensor, width: int) -> Tensor:
    padded = moment.size(1)
    result = moment.new_empty(width + 1, width + 1)
    result[:width, :width] = moment[:width, :width]
    result[width, :width] = result[:width, width] = moment[padded, :width]
    result[width, width] = moment[padded + 1, 0]
    return result


def _on(device: torch.device) -> AbstractContextManager[None]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
