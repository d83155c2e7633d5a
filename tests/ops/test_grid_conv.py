"""Convolution on grids: against torch.nn.functional, between its two ways, and its limits."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, conv2d, conv3d, pad
from torch.utils._python_dispatch import TorchDispatchMode

from ccnn_geo.ops import dense_graph, grid_conv, grid_positions
from ccnn_geo.ops.grid_backends import cost, fft
from ccnn_geo.ops.grid_backends.cost import Problem
from ccnn_geo.ops.grid_backends.layout import Layout, fast_length

TORCH_CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}

SHAPES = [
    pytest.param((9,), (3,), id="1-D odd"),
    pytest.param((10,), (4,), id="1-D even"),
    pytest.param((7,), (20,), id="1-D kernel longer than the grid"),
    pytest.param((1,), (3,), id="1-D single cell"),
    pytest.param((16,), (16,), id="1-D kernel as long as the grid"),
    pytest.param((6, 7), (3, 3), id="2-D"),
    pytest.param((5, 8), (4, 1), id="2-D rectangular"),
    pytest.param((4, 6), (9, 2), id="2-D kernel longer on one axis"),
    pytest.param((4, 5, 6), (3, 2, 5), id="3-D"),
    pytest.param((2, 3, 4), (7, 3, 1), id="3-D kernel longer on one axis"),
]


def operands(size, taps, *, full=False, batch=2, channels=3, dtype=torch.float64):
    x = torch.randn(batch, channels, *size, dtype=dtype, requires_grad=True)
    shape = (4, channels) if full else (channels,)
    kernel = torch.randn(*shape, *taps, dtype=dtype, requires_grad=True)
    bias = torch.randn(shape[0], dtype=dtype, requires_grad=True)
    return x, kernel, bias


def reference(x, kernel, bias=None, causal=False):
    """The convolution of torch.nn.functional over an input that is padded by hand."""
    dim = x.dim() - 2
    padding = []
    for taps in reversed(kernel.shape[-dim:]):
        before = taps - 1 if causal else (taps - 1) // 2
        padding += [before, taps - 1 - before]
    depthwise = kernel.dim() < x.dim()
    weight = kernel.unsqueeze(1) if depthwise else kernel
    groups = x.size(1) if depthwise else 1
    return TORCH_CONVOLUTIONS[dim](pad(x, padding), weight, bias, groups=groups)


def assert_same(actual, expected, leaves, tolerance):
    """Outputs and all gradients agree, relative to the largest value."""
    grad = torch.randn_like(expected)
    pairs = [(actual, expected)]
    pairs += zip(
        torch.autograd.grad(actual, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        strict=True,
    )
    for one, other in pairs:
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("size", "taps"), SHAPES)
def test_it_is_the_convolution_of_torch(size, taps, dtype, full, method):
    x, kernel, bias = operands(size, taps, full=full, dtype=dtype)
    actual = grid_conv(x, kernel, bias, method=method)
    assert actual.dtype == dtype and actual.is_contiguous()
    assert_same(actual, reference(x, kernel, bias), (x, kernel, bias), TOLERANCES[dtype])


@pytest.mark.parametrize("method", ["fft", "direct"])
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize(("length", "taps"), [(9, 3), (10, 4), (8, 8), (5, 20), (6, 1)])
def test_a_causal_kernel_ends_at_the_present(length, taps, full, method):
    x, kernel, bias = operands((length,), (taps,), full=full)
    actual = grid_conv(x, kernel, bias, causal=True, method=method)
    assert_same(actual, reference(x, kernel, bias, causal=True), (x, kernel, bias), 1e-10)


PERIODIC = [
    pytest.param((9,), (3,), (True,), id="1-D"),
    pytest.param((10,), (4,), (True,), id="1-D even"),
    pytest.param((7,), (7,), (True,), id="1-D as long as the period"),
    pytest.param((7,), (20,), (True,), id="1-D longer than the period"),
    pytest.param((1,), (3,), (True,), id="1-D a single cell"),
    pytest.param((6, 7), (3, 4), (True, True), id="2-D"),
    pytest.param((6, 7), (5, 3), (True, False), id="2-D mixed"),
    pytest.param((4, 5), (3, 12), (False, True), id="2-D mixed and longer"),
    pytest.param((4, 5, 3), (3, 2, 3), (False, True, True), id="3-D mixed"),
    pytest.param((3, 4, 5), (3, 9, 2), (True, True, False), id="3-D longer"),
]


def repeated(x, kernel, periodic):
    """The convolution of a signal written out over as many periods as the kernel meets."""
    sizes, taps = x.shape[2:], kernel.shape[-len(periodic) :]
    copies = [-(-reach // size) for size, reach in zip(sizes, taps, strict=True)]
    for axis, (count, wraps) in enumerate(zip(copies, periodic, strict=True), 2):
        if wraps:
            x = torch.cat([x] * (2 * count + 1), axis)
    output = reference(x, kernel)
    for axis, (size, count, wraps) in enumerate(zip(sizes, copies, periodic, strict=True), 2):
        if wraps:
            output = output.narrow(axis, count * size, size)
    return output


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("size", "taps", "periodic"), PERIODIC)
def test_a_periodic_grid_is_one_period_of_a_repeated_signal(
    size, taps, periodic, dtype, full, method
):
    x, kernel, bias = operands(size, taps, full=full, dtype=dtype)
    actual = grid_conv(x, kernel, bias, periodic=periodic, method=method)
    assert actual.is_contiguous()
    expected = repeated(x, kernel, periodic) + bias.view(-1, *(1,) * len(size))
    assert_same(actual, expected, (x, kernel, bias), TOLERANCES[dtype])


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_a_periodic_grid_is_the_sum_over_indices_modulo_its_size(method):
    (height, width), taps = (4, 5), (3, 5)
    x, kernel, _ = operands((height, width), taps)
    expected = torch.zeros_like(x)
    for i, j, s, t in itertools.product(range(height), range(width), *map(range, taps)):
        if 0 <= j + t - 2 < width:
            expected[:, :, i, j] += kernel[:, s, t] * x[:, :, (i + s - 1) % height, j + t - 2]
    actual = grid_conv(x, kernel, periodic=(True, False), method=method)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_moving_a_signal_around_a_period_moves_the_output(method):
    x, kernel, _ = operands((11, 6), (4, 5))
    moved = grid_conv(x.roll((5, 2), (2, 3)), kernel, periodic=(True, True), method=method)
    expected = grid_conv(x, kernel, periodic=(True, True), method=method)
    torch.testing.assert_close(moved, expected.roll((5, 2), (2, 3)))


def test_periodic_gradients_are_right_and_can_be_differentiated_again():
    x, kernel, _ = operands((3, 4), (3, 6), channels=2)

    def convolve(x, kernel):
        return grid_conv(x, kernel, periodic=(True, True))

    assert torch.autograd.gradcheck(convolve, (x, kernel))
    assert torch.autograd.gradgradcheck(convolve, (x, kernel))


@pytest.mark.parametrize(
    ("causal", "periodic"),
    [
        pytest.param(False, False, id="open"),
        pytest.param(True, False, id="causal"),
        pytest.param(False, True, id="periodic"),
    ],
)
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize("length", [20_000, 30_001])
def test_long_sequences_in_blocks_are_the_same(length, full, causal, periodic):
    x, kernel, _ = operands((length,), (37,), full=full)
    left = 36 if causal else 18
    assert Layout((length,), (37,), (left,), (periodic,)).block == 4096
    actual = grid_conv(x, kernel, causal=causal, periodic=(periodic,), method="fft")
    expected = repeated(x, kernel, (True,)) if periodic else reference(x, kernel, causal=causal)
    assert_same(actual, expected, (x, kernel), 1e-10)


def test_only_sequences_much_longer_than_their_kernel_are_cut():
    assert Layout((2**20,), (1001,), (500,), (False,)).block == 4096
    assert Layout((2**20,), (10_001,), (5000,), (True,)).block == 65_536
    assert Layout((2**20,), (2**20 - 1,), (2**19,), (False,)).block is None
    assert Layout((10_000,), (3,), (1,), (False,)).block is None
    assert Layout((2**20, 1), (3, 1), (1, 0), (False,) * 2).block is None


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("taps", [(3, 4), (4, 2), (2, 1)])
def test_an_even_kernel_is_centred_as_with_padding_same(taps):
    x, kernel, _ = operands((6, 7), taps, full=True)
    torch.testing.assert_close(grid_conv(x, kernel), conv2d(x, kernel, padding="same"))


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_it_is_the_sum_over_the_edges_of_the_dense_graph(method):
    size, taps = (3, 4), (4, 3)
    x, kernel, _ = operands(size, taps)
    source, target = dense_graph(size)
    pos = grid_positions(size).long()
    index = pos[source] - pos[target] + torch.tensor([(t - 1) // 2 for t in taps])
    inside = ((index >= 0) & (index < torch.tensor(taps))).all(1)
    messages = x.flatten(2)[..., source[inside]] * kernel[:, index[inside, 0], index[inside, 1]]
    expected = torch.zeros_like(x.flatten(2)).index_add(2, target[inside], messages)
    torch.testing.assert_close(grid_conv(x, kernel, method=method).flatten(2), expected)


def test_four_axes_convolve_through_the_fft():
    x, kernel, _ = operands((3, 4, 2, 3), (2, 3, 1, 5))
    expected = torch.zeros_like(x)
    for index in itertools.product(*map(range, kernel.shape[1:])):
        shifted = pad(x, [3] * 8)
        for axis, (tap, taps) in enumerate(zip(index, kernel.shape[1:], strict=True), 2):
            shifted = shifted.narrow(axis, 3 + tap - (taps - 1) // 2, x.size(axis))
        expected = expected + kernel[(slice(None), *index)].view(1, -1, 1, 1, 1, 1) * shifted
    assert_same(grid_conv(x, kernel), expected, (x, kernel), 1e-10)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), full=st.booleans())
def test_both_ways_agree_whatever_the_sizes(data, full):
    dim = data.draw(st.integers(1, 3))
    size = data.draw(st.tuples(*[st.integers(1, 14)] * dim))
    taps = data.draw(st.tuples(*[st.integers(1, 17)] * dim))
    batch, channels = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    x, kernel, _ = operands(size, taps, full=full, batch=batch, channels=channels)
    ways = [grid_conv(x, kernel, method=method) for method in ("fft", "direct")]
    assert_same(*ways, (x, kernel), 1e-9)


@pytest.mark.parametrize("method", ["fft", "direct"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_go_in_and_out_and_are_computed_in_single_precision(dtype, method):
    x, kernel, bias = operands((5, 6), (3, 4), dtype=torch.float32)
    low = [value.detach().to(dtype).requires_grad_() for value in (x, kernel, bias)]
    output = grid_conv(*low, method=method)
    high = [value.detach().float().requires_grad_() for value in low]
    expected = grid_conv(*high, method=method)
    assert output.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), expected, rtol=rounding, atol=2 * rounding)
    for one, other in zip(
        torch.autograd.grad(output.sum(), low),
        torch.autograd.grad(expected.sum(), high),
        strict=True,
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, rtol=2 * rounding, atol=0)


def test_types_may_differ_and_the_output_has_that_of_the_signals():
    x, kernel, _ = operands((8,), (3,), dtype=torch.float32)
    assert grid_conv(x.bfloat16(), kernel).dtype == torch.bfloat16
    double = grid_conv(x, kernel.double(), method="fft")
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, reference(x, kernel))


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_autocast_does_not_lower_the_precision(method):
    x, kernel, _ = operands((8,), (3,), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = grid_conv(x, kernel, method=method)
        grads = torch.autograd.grad(output.sum(), (x, kernel))
    expected = reference(x, kernel)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    for one, other in zip(grads, torch.autograd.grad(expected.sum(), (x, kernel)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


class LargestComplex(TorchDispatchMode):
    """Keeps the size of the largest complex tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.is_complex():
            self.bytes = max(self.bytes, output.numel() * output.element_size())
        return output


@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize(("batch", "channels"), [(6, 16), (40, 8)])
def test_memory_for_spectra_stays_under_the_budget_and_blocks_change_nothing(
    monkeypatch, batch, channels, full
):
    size, taps = (12, 9), (7, 5)
    x, kernel, _ = operands(size, taps, full=full, batch=batch, channels=channels)
    grad = torch.randn(batch, len(kernel), *size, dtype=torch.float64)
    layout = Layout(size, taps, (3, 2), (False, False))

    def evaluate():
        with torch.no_grad(), LargestComplex() as largest:
            output = fft.convolve(x, kernel, layout)
            grads = fft.differentiate(grad, x, kernel, layout, True, True)
        return [output, *grads], largest.bytes

    expected, unbounded = evaluate()
    for budget in (2**17, 2**16, 0):
        monkeypatch.setitem(fft.SCRATCH_BYTES, "cpu", budget)
        actual, taken = evaluate()
        one_signal = 2 * 16 * 8 * 10
        assert taken <= max(budget, 4 * one_signal) < unbounded
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_lengths_of_transforms_are_the_next_even_ones_of_small_factors():
    smooth = sorted(2**a * 3**b * 5**c for a in range(1, 12) for b in range(8) for c in range(6))
    for length in range(1, 2000):
        assert fast_length(length) == next(each for each in smooth if each >= length)


def test_axes_are_padded_each_by_the_longer_arm_of_the_kernel():
    assert Layout((100, 64), (21, 1), (10, 0), (False,) * 2).lengths == (120, 64)
    assert Layout((100,), (50,), (49,), (False,)).lengths == (150,)


@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_gradients_are_right(method, full):
    x, kernel, bias = operands((3, 4), (2, 3), full=full, batch=2, channels=2)
    assert torch.autograd.gradcheck(
        lambda *inputs: grid_conv(*inputs, method=method), (x, kernel, bias)
    )


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
def test_gradients_that_nobody_needs_are_not_computed(method):
    for needed in (0, 1):
        leaves = [value.detach() for value in operands((8,), (3,))[:2]]
        leaves[needed].requires_grad_()
        (grad,) = torch.autograd.grad(grid_conv(*leaves, method=method).sum(), [leaves[needed]])
        (expected,) = torch.autograd.grad(reference(*leaves).sum(), [leaves[needed]])
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
def test_the_operator_keeps_to_the_rules_of_torch(method):
    x, kernel, _ = operands((5, 6), (3, 2))
    torch.library.opcheck(
        torch.ops.ccnn_geo.grid_conv.default, (x, kernel, [1, 0], [False, True], method)
    )


def test_torch_compile_sees_no_complex_numbers_and_agrees():
    torch._dynamo.reset()
    x, kernel, bias = operands((12,), (5,))
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(grid_conv, backend=keep, fullgraph=True)
    assert_same(compiled(x, kernel, bias), reference(x, kernel, bias), (x, kernel, bias), 1e-10)
    assert "fft_" not in graphs[0].code


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_strided_operands_are_taken_and_none_is_changed(method):
    x = torch.randn(2, 5, 6, 3, dtype=torch.float64).movedim(-1, 1)
    kernel = torch.randn(3, 3, 3, dtype=torch.float64).mT
    before = x.clone(), kernel.clone()
    torch.testing.assert_close(grid_conv(x, kernel, method=method), reference(x, kernel))
    assert torch.equal(x, before[0]) and torch.equal(kernel, before[1])


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
def test_an_empty_batch_gives_an_empty_batch(method):
    x, kernel = torch.zeros(0, 3, 5, requires_grad=True), torch.ones(3, 3, requires_grad=True)
    output = grid_conv(x, kernel, method=method)
    output.sum().backward()
    assert output.shape == (0, 3, 5) and bool((kernel.grad == 0).all())


def problem(size, taps, samples=8, channels=32, dtype=torch.float32):
    layout = Layout(size, taps, tuple((t - 1) // 2 for t in taps), (False,) * len(size))
    return Problem(torch.device("cpu"), dtype, layout, samples, channels, channels, True)


def test_auto_sums_short_kernels_and_transforms_long_ones():
    for size, dim in ((4096, 1), (64, 2), (32, 3)):
        assert problem((size,) * dim, (3,) * dim).forward_method() == "direct"
        assert problem((size,) * dim, (size - 1,) * dim).forward_method() == "fft"
        assert problem((size,) * dim, (3,) * dim).backward_methods(True, True)[0] == "direct"
        both = problem((size,) * dim, (size - 1,) * dim).backward_methods(True, True)
        assert both == ("fft", "fft")
    assert problem((64, 64), (9, 9), dtype=torch.float64).forward_method() == "fft"
    assert problem((8,) * 4, (3,) * 4).forward_method() == "fft"
    assert problem((8,) * 4, (3,) * 4).backward_methods(True, True) == ("fft", "fft")


def test_auto_takes_the_ways_that_the_model_says(monkeypatch):
    ways = sys.modules["ccnn_geo.ops.grid_conv"]._WAYS

    class Refusing:
        def __getattr__(self, name):
            raise AssertionError(name)

    x, kernel, _ = operands((8,), (3,))
    never = cost.Costs((1e9,) * 3, (1e9,) * 3, (1e9,) * 3, 1e9, (1e9,) * 3)
    for cheap, other in (("fft", "direct"), ("direct", "fft")):
        free = {"fft": (0, 0, 0)} if cheap == "fft" else {"direct": (0,) * 3, "gradient": (0,) * 3}
        monkeypatch.setitem(cost.COSTS, "cpu", (never._replace(**free),))
        monkeypatch.setitem(ways, other, Refusing())
        grid_conv(x, kernel).sum().backward()
        monkeypatch.undo()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
@pytest.mark.parametrize(("size", "taps"), SHAPES)
def test_a_gpu_gives_the_same(size, taps, full, method):
    leaves = operands(size, taps, full=full)
    expected = reference(*leaves)
    expected.sum().backward()
    there = [leaf.detach().cuda().requires_grad_() for leaf in leaves]
    actual = grid_conv(*there, method=method)
    actual.sum().backward()
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-10, rtol=0)
    for one, other in zip(there, leaves, strict=True):
        torch.testing.assert_close(one.grad.cpu(), other.grad, atol=1e-10, rtol=0)


GOOD = {"x": torch.zeros(2, 3, 8), "kernel": torch.zeros(3, 5)}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(2, 3)}, ValueError, r"`x` of shape \[B, C, \*S\], got \[2, 3\]"),
        ({"x": torch.zeros(2, 3, 0)}, ValueError, r"no empty axis in `x`, got \[2, 3, 0\]"),
        ({"kernel": torch.zeros(3, 0)}, ValueError, r"no empty axis in `kernel`, got \[3, 0\]"),
        ({"kernel": torch.zeros(4, 5)}, ValueError, r"`kernel` of shape \[3, \*K\] or \[O, 3"),
        ({"kernel": torch.zeros(3)}, ValueError, r"K of 1 axes, got \[3\]"),
        ({"kernel": torch.zeros(3, 3, 3, 5)}, ValueError, r"got \[3, 3, 3, 5\]"),
        ({"x": torch.zeros(2, 3, 8).long()}, TypeError, "floating-point `x`, got torch.int64"),
        ({"kernel": torch.zeros(3, 5).long()}, TypeError, "floating-point `kernel`"),
        ({"bias": torch.zeros(3).long()}, TypeError, "floating-point `bias`"),
        ({"bias": torch.zeros(4)}, ValueError, r"`bias` of shape \[3\], got \[4\]"),
        (
            {"x": torch.zeros(2, 3, 8, 8), "kernel": torch.zeros(3, 5, 5), "causal": True},
            ValueError,
            "one axis for a causal convolution, got 2",
        ),
        ({"periodic": (True, True)}, ValueError, "`periodic` to have 1 values, got"),
        ({"periodic": ()}, ValueError, r"`periodic` to have 1 values, got \(\)"),
        (
            {"periodic": (True,), "causal": True},
            ValueError,
            "no periodic axis for a causal convolution",
        ),
        ({"method": "winograd"}, ValueError, "'auto', 'fft' or 'direct', got 'winograd'"),
        (
            {"x": torch.zeros(1, 3, 2, 2, 2, 2), "kernel": torch.zeros(3, 1, 1, 1, 1),
             "method": "direct"},
            ValueError,
            "at most 3 axes for the method 'direct', got 4",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(changes, error, match):
    with pytest.raises(error, match=match):
        grid_conv(**{**GOOD, **changes})


@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 2, 3)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_gradients_can_be_differentiated_again(size, full, method):
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    shape = (3, 2) if full else (2,)
    kernel = torch.randn(*shape, *(3 for _ in size), dtype=torch.float64, requires_grad=True)

    def convolve(x, kernel):
        return grid_conv(x, kernel, method=method)

    assert torch.autograd.gradgradcheck(convolve, (x, kernel))


def test_second_derivatives_in_four_dimensions_say_what_to_use():
    x = torch.randn(1, 1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    output = grid_conv(x, torch.randn(1, 2, 2, 2, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="at most 3 axes.*got 4: use the grid as a graph"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


@pytest.mark.parametrize(("odd", "factors"), [(False, (2, 3, 5)), (True, (3, 5, 7))])
def test_fast_lengths_are_the_next_products_of_small_primes(odd, factors):
    def is_product(number):
        for factor in factors:
            while number % factor == 0:
                number //= factor
        return number == 1

    for length in (*range(1, 300), 1000, 4097, 9999):
        expected = next(n for n in range(length, 2 * length + 3) if n % 2 == odd and is_product(n))
        assert fast_length(length, odd=odd) == expected
    assert 10**12 <= fast_length(10**12, odd=odd) < 1.05 * 10**12
