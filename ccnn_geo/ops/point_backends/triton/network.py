"""Offsets, filters and matrix products, shared by all Triton kernels of the fused convolution.

The kernels walk the rows of a graph: a row is a point (the centre) with a list of neighbours, which
are taken in blocks of B. Widths are padded to a power of two P; filters of padding have weights of
zero, so their features and gradients vanish.

The compiler chooses how a tile is spread over threads. Tiles that are multiplied with the result of
a matrix product, or that go round a loop with one, keep that result's layout, in which a thread
holds a few edges of a few filters. That is why layers are walked in loops that are not unrolled.
Nothing is hoisted out of the kernels' loops: registers are what they are short of.
"""

# Triton's language only looks like Python.
# mypy: ignore-errors

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


class Graph(NamedTuple):
    """Rows of neighbours with the positions, bounds and window of their offsets."""

    centers: Tensor  # [rows, D]
    neighbors: Tensor  # [N, D]
    index: Tensor  # [E] int64, neighbours row by row; all but 0, ..., N - 1 are empty slots
    pointer: Tensor | None  # [rows + 1] int64, or None where every row has `degree` slots
    degree: int
    slots: int  # E
    points: int  # N
    bounds: Tensor  # [2, D]
    window: Tensor  # [D]; the window is 2 ** -sum((window * offset) ** 2)


class Network(NamedTuple):
    """Weights of a MAGNet, padded and in the units that the kernels compute in."""

    filters: Tensor  # [L, 4 D + 1, P]: scales, shifts, frequencies and phase (in half turns), and
    #                  what the frequencies lack that float32 cannot hold
    weights: Tensor  # [L - 1, P, P]
    biases: Tensor  # [L - 1, P]


@triton.jit
def _power_of_two(exponent):
    if INTERPRETED:
        return tl.exp2(exponent)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [exponent], tl.float32, is_pure=True, pack=1
        )


@triton.jit
def _leading(value, BITS: tl.constexpr):
    """The leading bits of a significand, the implicit one among them."""
    mask = -(1 << (24 - BITS))
    return (value.to(tl.int32, bitcast=True) & mask).to(tl.float32, bitcast=True)


@triton.jit
def _bfloat16(value):
    """Exact, for a significand of 8 bits; the interpreter cannot multiply this type."""
    if INTERPRETED:
        return value
    else:
        return value.to(tl.bfloat16)


@triton.jit
def _three_parts(value):
    """Split the 24 bits of a significand into three times 8."""
    high = _leading(value, 8)
    middle = _leading(value - high, 8)
    return _bfloat16(high), _bfloat16(middle), _bfloat16(value - high - middle)


@triton.jit
def dot(left, right, total, PRECISION: tl.constexpr):
    """Add a matrix product to `total`, as `PRECISION` products of TF32 or of bfloat16."""
    if PRECISION == "tf32":
        total = tl.dot(left, right, total, input_precision="tf32")
    elif PRECISION == "tf32x3":
        left_high = _leading(left, 11)
        right_high = _leading(right, 11)
        total = tl.dot(left - left_high, right_high, total, input_precision="tf32")
        total = tl.dot(left_high, right - right_high, total, input_precision="tf32")
        total = tl.dot(left_high, right_high, total, input_precision="tf32")
    else:
        left_high, left_middle, left_low = _three_parts(left)
        right_high, right_middle, right_low = _three_parts(right)
        total = tl.dot(left_low, right_high, total)
        total = tl.dot(left_middle, right_middle, total)
        total = tl.dot(left_high, right_low, total)
        total = tl.dot(left_middle, right_high, total)
        total = tl.dot(left_high, right_middle, total)
        total = tl.dot(left_high, right_high, total)
    return total


@triton.jit
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tuple of tiles."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros([ROWS, COLUMNS], tl.float32),)
    return tiles


@triton.jit
def zero_vectors(COUNT: tl.constexpr, SIZE: tl.constexpr):
    """A tuple of vectors."""
    vectors = ()
    for _ in tl.static_range(COUNT):
        vectors = vectors + (tl.zeros([SIZE], tl.float32),)
    return vectors


@triton.jit
def chosen(tiles, position, COUNT: tl.constexpr):
    """`tiles[position]`, at a position that is known only at run time."""
    tile = tiles[0]
    for candidate in tl.static_range(1, COUNT):
        tile = tl.where(position == candidate, tiles[candidate], tile)
    return tile


@triton.jit
def replaced(tiles, position, tile, COUNT: tl.constexpr):
    """The same tuple with `tile` at `position`."""
    result = ()
    for candidate in tl.static_range(COUNT):
        result = result + (tl.where(position == candidate, tile, tiles[candidate]),)
    return result


@triton.jit
def row_slots(graph, row):
    """First slot of a row and the one after its last, of those that there are."""
    if graph.pointer is None:
        begin = row * graph.degree
        end = begin + graph.degree
    else:
        begin = tl.maximum(tl.load(graph.pointer + row), 0)
        end = tl.minimum(tl.load(graph.pointer + row + 1), graph.slots)
    return begin, end


@triton.jit
def neighbors(graph, slot, end):
    """The neighbours in some slots of a row; -1 behind its end and where there is no such point."""
    neighbor = tl.load(graph.index + slot, mask=slot < end, other=-1)
    return tl.where(neighbor < graph.points, neighbor, -1)


@triton.jit
def edges(graph, row, neighbor, DIM: tl.constexpr, REVERSED: tl.constexpr):
    """Return which neighbours count, their offsets (else zero) and the window, `[B]` each.

    `REVERSED` means that the rows are sources, with transposed lists of neighbours.
    """
    valid = neighbor >= 0
    unmasked = ()
    for axis in tl.static_range(DIM):
        center = tl.load(graph.centers + row * DIM + axis)
        place = graph.neighbors + neighbor * DIM + axis
        position = tl.load(place, mask=neighbor >= 0, other=0.0)
        # Positions are in float64, offsets in the type of everything else.
        offset = (center - position if REVERSED else position - center).to(tl.float32)
        outside = (offset < tl.load(graph.bounds + axis)) | (
            offset > tl.load(graph.bounds + DIM + axis)
        )
        valid = valid & ~outside
        unmasked = unmasked + (offset,)
    exponent = tl.zeros_like(unmasked[0])
    offsets = ()
    for axis in tl.static_range(DIM):
        offset = tl.where(valid, unmasked[axis], 0.0)
        scaled = offset * tl.load(graph.window + axis)
        exponent -= scaled * scaled
        offsets = offsets + (offset,)
    return valid, offsets, tl.where(valid, _power_of_two(exponent), 0.0)


@triton.jit
def _fused_product(left, right, total):
    """A product plus a total, rounded once. The interpreter does so in float64 only."""
    if INTERPRETED:
        return (left.to(tl.float64) * right.to(tl.float64) + total).to(tl.float32)
    else:
        return tl.fma(left, right, total)


@triton.jit
def _arguments(filters, layer, offsets, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Binary exponents and angles, in half turns, of one layer's filters, `[B, P]` each.

    Angles of thousands of turns keep their digits after the point: whole turns are dropped from
    every product before it is rounded.
    """
    column = layer * (4 * DIM + 1) * PADDED + tl.arange(0, PADDED)
    angle = tl.load(filters + column + 3 * DIM * PADDED)[None, :]
    exponent = tl.zeros_like(angle)
    for axis in tl.static_range(DIM):
        offset = offsets[axis][:, None]
        scale = tl.load(filters + column + axis * PADDED)[None, :]
        shift = tl.load(filters + column + (DIM + axis) * PADDED)[None, :]
        frequency = tl.load(filters + column + (2 * DIM + axis) * PADDED)[None, :]
        rest = tl.load(filters + column + (3 * DIM + 1 + axis) * PADDED)[None, :]
        scaled = offset * scale + shift
        exponent = exponent - scaled * scaled
        # Floats from 2^24 to 2^25 are even, and so is their difference.
        turns = (offset * frequency + 25165824.0) - 25165824.0
        angle += _fused_product(offset, frequency, -turns)
        angle += offset * rest
    return exponent, angle


@triton.jit
def _reduced(exponent, angle):
    """Envelopes, and angles brought into [-1/2, 1/2]; the envelope takes the sign of a half turn.

    Adding 1.5 * 2^23 rounds to an integer and leaves its parity in the lowest bit; the difference
    is exact.
    """
    shifted = angle + 12582912.0
    sign = shifted.to(tl.int32, bitcast=True) << 31
    envelope = _power_of_two(exponent).to(tl.int32, bitcast=True) ^ sign
    return envelope.to(tl.float32, bitcast=True), angle - (shifted - 12582912.0)


@triton.jit
def _sine(angle, square):
    """sin(pi * angle) on [-1/2, 1/2] to 2e-7: the minimax polynomial of degree 9."""
    series = 0.0772201269865036 * square - 0.5980451703071594
    series = series * square + 2.5500314235687256
    series = series * square - 5.1677069664001465
    return (series * square + 3.141592502593994) * angle


@triton.jit
def _cosine(square):
    """cos(pi * angle) on [-1/2, 1/2] to 1e-7: the minimax polynomial of degree 10."""
    series = 0.23493756353855133 - 0.02439671754837036 * square
    series = series * square - 1.3352121114730835
    series = series * square + 4.058709144592285
    series = series * square - 4.934802055358887
    return series * square + 1.0


@triton.jit
def gabor(filters, layer, offsets, DIM: tl.constexpr, PADDED: tl.constexpr):
    """One layer's filters, `[B, P]`."""
    exponent, angle = _arguments(filters, layer, offsets, DIM, PADDED)
    envelope, angle = _reduced(exponent, angle)
    return envelope * _sine(angle, angle * angle)


@triton.jit
def gabor_pair(filters, layer, offsets, DIM: tl.constexpr, PADDED: tl.constexpr):
    """One layer's filters, and the same with the cosine for the sine."""
    exponent, angle = _arguments(filters, layer, offsets, DIM, PADDED)
    envelope, angle = _reduced(exponent, angle)
    square = angle * angle
    return envelope * _sine(angle, square), envelope * _cosine(square)


@triton.jit
def pull_offsets(
    filters, layer, offsets, grad_exponent, grad_angle, grad_offsets,
    DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Add one layer's contribution to the gradients of the offsets, `[B]` each."""
    column = layer * (4 * DIM + 1) * PADDED + tl.arange(0, PADDED)
    pulled = ()
    for axis in tl.static_range(DIM):
        scale = tl.load(filters + column + axis * PADDED)[None, :]
        shift = tl.load(filters + column + (DIM + axis) * PADDED)[None, :]
        frequency = tl.load(filters + column + (2 * DIM + axis) * PADDED)[None, :]
        scaled = offsets[axis][:, None] * scale + shift
        pull = grad_exponent * scaled * scale * -1.3862943611198906  # 2 log(2)
        pull += grad_angle * frequency * 3.141592653589793
        pulled = pulled + (grad_offsets[axis] + tl.sum(pull, 1),)
    return pulled


@triton.jit
def next_linear(network, hidden, layer, PADDED: tl.constexpr, PRECISION: tl.constexpr):
    """The linear map behind a layer, `[B, P]`."""
    column = tl.arange(0, PADDED)
    matrix = network.weights + layer * PADDED * PADDED
    weight = tl.load(matrix + column[None, :] * PADDED + column[:, None])
    bias = tl.load(network.biases + layer * PADDED + column)
    return dot(hidden, weight, tl.zeros_like(hidden) + bias[None, :], PRECISION)


@triton.jit
def last_linear(
    network, offsets, LAYERS: tl.constexpr,
    DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the factors of the last layer's filters, `[B, P]`."""
    linear = tl.full([BLOCK, PADDED], 1.0, tl.float32)
    for layer in range(LAYERS - 1):
        hidden = gabor(network.filters, layer, offsets, DIM, PADDED) * linear
        linear = next_linear(network, hidden, layer, PADDED, PRECISION)
    return linear


@triton.jit
def all_linears(
    network, offsets, LAYERS: tl.constexpr,
    DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the factors of every layer's filters, a tuple of `[B, P]`; ones for the first."""
    linear = tl.full([BLOCK, PADDED], 1.0, tl.float32)
    linears = replaced(zeros(LAYERS, BLOCK, PADDED), 0, linear, LAYERS)
    for layer in range(LAYERS - 1):
        hidden = gabor(network.filters, layer, offsets, DIM, PADDED) * linear
        linear = next_linear(network, hidden, layer, PADDED, PRECISION)
        linears = replaced(linears, layer + 1, linear, LAYERS)
    return linears
