"""The Triton kernel that differentiates: gradients of the kernel network and of positions."""

# Triton's language only looks like Python.
# mypy: ignore-errors

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ccnn_geo.ops.point_backends.triton.network import (
    all_linears,
    chosen,
    dot,
    edges,
    gabor,
    gabor_pair,
    neighbors,
    pull_offsets,
    replaced,
    row_slots,
    zero_vectors,
    zeros,
)

MONOMIALS = tl.constexpr(16)  # rows of a moment: [v, 1, v^2] of at most four axes, padded


class Gradients(NamedTuple):
    """Every program's sums over its rows. R is `MONOMIALS`, M is L - 1 but at least one."""

    weights: Tensor  # [programs, M, P, P]
    biases: Tensor  # [programs, M, R, P], moments of the gradients of the linear maps ...
    exponents: Tensor  # [programs, L, R, P], ... of the filters' exponents ...
    angles: Tensor  # [programs, L, R, P], ... and of their angles
    window: Tensor  # [programs, D], gradients of the window's exponent, against offsets squared


@triton.jit
def differentiate_kernel(
    graph,
    network,
    values,  # [N, C] of the neighbours, or [N, C, H + 1] of a full reversed kernel
    center_values,  # [rows, C], or [rows, C, H + 1] of a full kernel that is not reversed
    readout,  # [C, H + 1], or None for a full kernel
    symmetric,  # [P + 2, P], the moment's gradient plus its transpose, or None
    grad_values,  # [N, C], added to atomically, or None
    grad_center_values,  # [rows, C], starts at zero, of a full reversed kernel, or None
    grad_centers,  # [rows, D] or None
    grad_neighbors,  # [N, D], added to atomically, or None
    gradients,  # Gradients, or None
    rows,
    LAYERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    DIM: tl.constexpr, REVERSED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Evaluate the network again and push the gradient of every edge's features through it."""
    program = tl.program_id(0).to(tl.int64)
    MAPS: tl.constexpr = LAYERS - 1 if LAYERS > 1 else 1
    sums = (
        zeros(MAPS, PADDED, PADDED),
        zeros(MAPS, MONOMIALS, PADDED),
        zeros(LAYERS, MONOMIALS, PADDED),
        zeros(LAYERS, MONOMIALS, PADDED),
    )
    window_moments = zero_vectors(DIM, BLOCK)
    for row in tl.range(program, rows, tl.num_programs(0), disable_licm=True):
        begin, end = row_slots(graph, row)
        center_sums = zero_vectors(DIM, BLOCK)
        for start in tl.range(begin, end, BLOCK, disable_licm=True):
            neighbor = neighbors(graph, start + tl.arange(0, BLOCK), end)
            valid, offsets, window = edges(graph, row, neighbor, DIM, REVERSED)
            if tl.max(valid.to(tl.int32), 0) > 0:
                linears = all_linears(network, offsets, LAYERS, DIM, PADDED, BLOCK, PRECISION)
                features = gabor(network.filters, LAYERS - 1, offsets, DIM, PADDED)
                features = features * linears[LAYERS - 1] * window[:, None]
                grad_features, grad_window = _grad_features(
                    features, window, row, neighbor, values, center_values, readout, symmetric,
                    grad_values, grad_center_values,
                    CHANNELS, WIDTH, PADDED, REVERSED, BLOCK, CHUNK, PRECISION,
                )  # fmt: skip
                if gradients is not None or grad_centers is not None:
                    grad_window = grad_window * window
                    grad_offsets, sums = _backpropagate(
                        network, offsets, linears, grad_features * window[:, None], sums,
                        gradients is not None, grad_centers is not None,
                        LAYERS, DIM, PADDED, BLOCK, PRECISION,
                    )  # fmt: skip
                    window_moments = _add_squares(window_moments, grad_window, offsets, DIM)
                    if grad_centers is not None:
                        pull = grad_window + tl.sum(grad_features * features, 1)
                        center_sums = _add_positions(
                            graph, grad_neighbors, neighbor, valid, offsets, grad_offsets, pull,
                            center_sums, DIM, REVERSED,
                        )  # fmt: skip
        if grad_centers is not None:
            for axis in tl.static_range(DIM):
                tl.store(grad_centers + row * DIM + axis, tl.sum(center_sums[axis], 0))
    if gradients is not None:
        _store_gradients(gradients, program, sums, window_moments, LAYERS, MAPS, DIM, PADDED)


@triton.jit
def _grad_features(
    features, window, row, neighbor, values, center_values, readout, symmetric,
    grad_values, grad_center_values,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, REVERSED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block's windowed features, `[B, P]`, and of its windows, `[B]`."""
    column = tl.arange(0, PADDED)
    grad = tl.zeros([BLOCK, PADDED], tl.float32)
    grad_window = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(0, CHANNELS, CHUNK, disable_licm=True):
        channel = first + tl.arange(0, CHUNK)
        inside = channel < CHANNELS
        mask = (neighbor >= 0)[:, None] & inside[None, :]
        edge = neighbor[:, None] * CHANNELS + channel[None, :]
        if readout is None and REVERSED:
            place = values + edge * (WIDTH + 1)
            matrix = tl.load(
                place[:, :, None] + column[None, None, :],
                mask=mask[:, :, None] & (column < WIDTH)[None, None, :],
                other=0.0,
            )
            bias = tl.load(place + WIDTH, mask=mask, other=0.0)
            center = tl.load(center_values + row * CHANNELS + channel, mask=inside, other=0.0)
            grad += tl.sum(matrix * center[None, :, None], 1)
            grad_window += tl.sum(bias * center[None, :], 1)
            if grad_center_values is not None:
                pull = tl.sum(matrix * features[:, None, :], 2) + bias * window[:, None]
                place = grad_center_values + row * CHANNELS + channel
                total = tl.load(place, mask=inside, other=0.0) + tl.sum(pull, 0)
                tl.store(place, total, mask=inside)
                tl.debug_barrier()
        else:
            matrix, bias = _grad_aggregate(
                row, channel, center_values, readout, CHANNELS, WIDTH, PADDED
            )
            value = tl.load(values + edge, mask=mask, other=0.0)
            grad = dot(value, matrix, grad, PRECISION)
            grad_window += tl.sum(value * bias[None, :], 1)
            if grad_values is not None:
                pull = window[:, None] * bias[None, :]
                pull = dot(features, tl.trans(matrix), pull, PRECISION)
                tl.atomic_add(grad_values + edge, pull, mask=mask, sem="relaxed")
    if symmetric is not None:
        matrix = tl.load(symmetric + column[:, None] * PADDED + column[None, :])
        crossed = tl.load(symmetric + PADDED * PADDED + column)[None, :]
        grad = dot(features, matrix, grad, PRECISION) + window[:, None] * crossed
        square = tl.load(symmetric + (PADDED + 1) * PADDED)
        grad_window += tl.sum(features * crossed, 1) + window * square
    return grad, grad_window


@triton.jit
def _grad_aggregate(
    row, channel, center_values, readout,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Gradient of one row's aggregate, for some channels: `[., P]` and, for the window, `[.]`."""
    column = tl.arange(0, PADDED)
    inside = channel < CHANNELS
    entry = row * CHANNELS + channel
    if readout is None:
        place = center_values + entry * (WIDTH + 1)
    else:
        place = readout + channel * (WIDTH + 1)
    mask = inside[:, None] & (column < WIDTH)[None, :]
    matrix = tl.load(place[:, None] + column[None, :], mask=mask, other=0.0)
    bias = tl.load(place + WIDTH, mask=inside, other=0.0)
    if readout is not None:
        center = tl.load(center_values + entry, mask=inside, other=0.0)
        matrix = matrix * center[:, None]
        bias = bias * center
    return matrix, bias


@triton.jit
def _backpropagate(
    network, offsets, linears, grad, sums,
    PARAMETERS: tl.constexpr, POSITIONS: tl.constexpr, LAYERS: tl.constexpr, DIM: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk a block's layers downwards; return the offsets' gradients and the parameters' sums."""
    MAPS: tl.constexpr = LAYERS - 1 if LAYERS > 1 else 1
    column = tl.arange(0, PADDED)
    matrix = column[:, None] * PADDED + column[None, :]
    grad_offsets = zero_vectors(DIM, BLOCK)
    monomials = _monomials(offsets, DIM, BLOCK)
    weights, biases, exponents, angles = sums
    grad_linear = grad
    for step in tl.range(0, LAYERS, disable_licm=True):
        layer = LAYERS - 1 - step
        linear = chosen(linears, layer, LAYERS)
        sine, cosine = gabor_pair(network.filters, layer, offsets, DIM, PADDED)
        hidden = sine * linear
        if PARAMETERS:
            if step > 0:  # the map above, whose gradient the step before left
                total = chosen(weights, layer, MAPS)
                total = dot(tl.trans(grad_linear), hidden, total, PRECISION)
                weights = replaced(weights, layer, total, MAPS)
                total = dot(monomials, grad_linear, chosen(biases, layer, MAPS), PRECISION)
                biases = replaced(biases, layer, total, MAPS)
        grad_linear = grad * sine
        grad_exponent = grad * hidden
        grad_angle = grad * (cosine * linear)
        if PARAMETERS:
            total = dot(monomials, grad_exponent, chosen(exponents, layer, LAYERS), PRECISION)
            exponents = replaced(exponents, layer, total, LAYERS)
            total = dot(monomials, grad_angle, chosen(angles, layer, LAYERS), PRECISION)
            angles = replaced(angles, layer, total, LAYERS)
        if POSITIONS:
            grad_offsets = pull_offsets(
                network.filters, layer, offsets, grad_exponent, grad_angle, grad_offsets,
                DIM, PADDED,
            )  # fmt: skip
        if layer > 0:
            weight = tl.load(network.weights + (layer - 1) * PADDED * PADDED + matrix)
            grad = dot(grad_linear, weight, tl.zeros_like(grad), PRECISION)
    return grad_offsets, (weights, biases, exponents, angles)


@triton.jit
def _monomials(offsets, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """[v, 1, v^2] of a block's offsets, `[R, B]`."""
    which = tl.arange(0, MONOMIALS)[:, None]
    monomials = tl.where(which == DIM, 1.0, tl.zeros([MONOMIALS, BLOCK], tl.float32))
    for axis in tl.static_range(DIM):
        offset = offsets[axis][None, :]
        monomials = tl.where(which == axis, offset, monomials)
        monomials = tl.where(which == DIM + 1 + axis, offset * offset, monomials)
    return monomials


@triton.jit
def _add_squares(moments, grad, offsets, DIM: tl.constexpr):
    result = ()
    for axis in tl.static_range(DIM):
        result = result + (moments[axis] + grad * offsets[axis] * offsets[axis],)
    return result


@triton.jit
def _add_positions(
    graph, grad_neighbors, neighbor, valid, offsets, grad_offsets, grad_exponent, center_sums,
    DIM: tl.constexpr, REVERSED: tl.constexpr,
):  # fmt: skip
    """Add the window's share to the gradients of the offsets and hand them to the points."""
    result = ()
    for axis in tl.static_range(DIM):
        scale = tl.load(graph.window + axis)
        share = grad_exponent * offsets[axis] * scale * scale * -1.3862943611198906  # 2 log(2)
        pull = grad_offsets[axis] + share
        result = result + (center_sums[axis] + (pull if REVERSED else -pull),)
        if grad_neighbors is not None:
            place = grad_neighbors + neighbor * DIM + axis
            tl.atomic_add(place, pull, mask=valid, sem="relaxed")
    return result


@triton.jit
def _store_gradients(
    gradients, program, sums, window_moments,
    LAYERS: tl.constexpr, MAPS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, PADDED)
    moment = tl.arange(0, MONOMIALS)[:, None] * PADDED + column[None, :]
    matrix = column[:, None] * PADDED + column[None, :]
    weights, biases, exponents, angles = sums
    for layer in tl.static_range(MAPS):
        index = program * MAPS + layer
        tl.store(gradients.weights + index * PADDED * PADDED + matrix, weights[layer])
        tl.store(gradients.biases + index * MONOMIALS * PADDED + moment, biases[layer])
    for layer in tl.static_range(LAYERS):
        index = program * LAYERS + layer
        tl.store(gradients.exponents + index * MONOMIALS * PADDED + moment, exponents[layer])
        tl.store(gradients.angles + index * MONOMIALS * PADDED + moment, angles[layer])
    for axis in tl.static_range(DIM):
        tl.store(gradients.window + program * DIM + axis, tl.sum(window_moments[axis], 0))
