"""The Triton kernel that aggregates: values of the neighbours, times features of the offsets."""

# Triton's language only looks like Python.
# mypy: ignore-errors

import triton
import triton.language as tl

from ccnn_geo.ops.point_backends.triton.network import (
    dot,
    edges,
    gabor,
    last_linear,
    neighbors,
    row_slots,
    zero_vectors,
    zeros,
)


@triton.jit
def aggregate_kernel(
    graph,
    network,
    values,  # [N, C] of the neighbours
    readout,  # [C, H + 1] or None
    center_values,  # [rows, C], for the gradient of the readout
    output,  # [rows, C] with a readout, [rows, C, H + 1] without, or None
    grad_readout,  # [programs, C, H + 1], starts at zero, or None
    moment,  # [programs, P + 2, P], the last rows for the window, or None
    rows,
    LAYERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    DIM: tl.constexpr, REVERSED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, LAST: tl.constexpr, COPIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Contract the neighbours' values with the features of their offsets, `[C, H + 1]` a row.

    Program (p, q) takes every p-th row and the q-th group of channels: `CHUNKS` chunks of them, all
    of `CHUNK` channels but the last, which has `LAST`.
    """
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * ((CHUNKS - 1) * CHUNK + LAST)
    if moment is not None:
        squares = tl.zeros([PADDED, PADDED], tl.float32)
        crossed = tl.zeros([PADDED], tl.float32)
        windows = tl.zeros([BLOCK], tl.float32)
    for row in tl.range(program, rows, tl.num_programs(0), disable_licm=True):
        begin, end = row_slots(graph, row)
        sums = zeros(CHUNKS - 1, CHUNK, PADDED) + zeros(1, LAST, PADDED)
        biases = zero_vectors(CHUNKS - 1, CHUNK) + zero_vectors(1, LAST)
        for start in tl.range(begin, end, BLOCK, disable_licm=True):
            slot = start + tl.arange(0, BLOCK)
            valid, offsets, window = edges(graph, row, neighbors(graph, slot, end), DIM, REVERSED)
            if tl.max(valid.to(tl.int32), 0) > 0:
                linear = last_linear(network, offsets, LAYERS, DIM, PADDED, BLOCK, PRECISION)
                features = gabor(network.filters, LAYERS - 1, offsets, DIM, PADDED) * linear
                features = features * window[:, None]
                # The values lie in another layout than the features. Neighbours read as a matrix
                # are too dear to be read again there: without it the compiler evaluates offset
                # and window anew for each of the many edges whose values a thread holds.
                copies = slot[:, None] + tl.zeros([1, COPIES], tl.int64)
                neighbor = tl.max(neighbors(graph, copies, end), 1)
                _, _, weight = edges(graph, row, neighbor, DIM, REVERSED)
                sums, biases = _add_values(
                    sums, biases, values, neighbor, weight, features, first,
                    CHANNELS, CHUNK, CHUNKS, LAST, PRECISION,
                )  # fmt: skip
                if moment is not None:
                    squares = dot(tl.trans(features), features, squares, PRECISION)
                    crossed += tl.sum(features * window[:, None], 0)
                    windows += window * window
        for chunk in tl.static_range(CHUNKS):
            channel = first + chunk * CHUNK + tl.arange(0, CHUNK if chunk < CHUNKS - 1 else LAST)
            _finish_row(
                sums[chunk], biases[chunk], row, program, channel,
                readout, center_values, output, grad_readout, CHANNELS, WIDTH, PADDED,
            )  # fmt: skip
    if moment is not None:
        column = tl.arange(0, PADDED)
        place = moment + program * (PADDED + 2) * PADDED + column
        tl.store(place[None, :] + column[:, None] * PADDED, squares)
        tl.store(place + PADDED * PADDED, crossed)
        total = tl.sum(windows, 0)
        tl.store(place + (PADDED + 1) * PADDED, tl.where(column == 0, total, 0.0))


@triton.jit
def _add_values(
    sums, biases, values, neighbor, weight, features, first,
    CHANNELS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a block's values, times features and times windows, chunk by chunk."""
    new_sums = ()
    new_biases = ()
    for chunk in tl.static_range(CHUNKS):
        channel = first + chunk * CHUNK + tl.arange(0, CHUNK if chunk < CHUNKS - 1 else LAST)
        value = tl.load(
            values + neighbor[:, None] * CHANNELS + channel[None, :],
            mask=(neighbor >= 0)[:, None] & (channel < CHANNELS)[None, :],
            other=0.0,
        )
        new_sums = new_sums + (dot(tl.trans(value), features, sums[chunk], PRECISION),)
        new_biases = new_biases + (biases[chunk] + tl.sum(value * weight[:, None], 0),)
    return new_sums, new_biases


@triton.jit
def _finish_row(
    aggregate, bias, row, program, channel, readout, center_values, output, grad_readout,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Store one row's aggregate or output; add its contribution to the readout's gradient."""
    column = tl.arange(0, PADDED)
    inside = channel < CHANNELS
    mask = inside[:, None] & (column < WIDTH)[None, :]
    entry = row * CHANNELS + channel
    if output is not None:
        if readout is None:
            place = output + entry * (WIDTH + 1)
            tl.store(place[:, None] + column[None, :], aggregate, mask=mask)
            tl.store(place + WIDTH, bias, mask=inside)
        else:
            place = readout + channel * (WIDTH + 1)
            weight = tl.load(place[:, None] + column[None, :], mask=mask, other=0.0)
            total = tl.sum(aggregate * weight, 1)
            total += bias * tl.load(place + WIDTH, mask=inside, other=0.0)
            tl.store(output + entry, total, mask=inside)
    if grad_readout is not None:
        center = tl.load(center_values + entry, mask=inside, other=0.0)
        place = grad_readout + (program * CHANNELS + channel) * (WIDTH + 1)
        matrix = place[:, None] + column[None, :]
        total = tl.load(matrix, mask=mask, other=0.0) + center[:, None] * aggregate
        tl.store(matrix, total, mask=mask)
        total = tl.load(place + WIDTH, mask=inside, other=0.0) + center * bias
        tl.store(place + WIDTH, total, mask=inside)
        tl.debug_barrier()
