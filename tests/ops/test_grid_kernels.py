"""Kernels at the taps of grids: against their definition, tile by tile, and in bounded memory."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ccnn_geo.nn import SIREN, FourierNet, GaborNet, MAGNet
from ccnn_geo.ops import KernelSupport, grid_kernels
from ccnn_geo.ops.grid_kernels import render_kernel

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-11}
NETWORKS = [MAGNet, GaborNet, FourierNet, SIREN]
TAPS = [
    pytest.param(((7, 7),), id="1-D"),
    pytest.param(((40, 0),), id="1-D past only"),
    pytest.param(((0, 0),), id="one tap"),
    pytest.param(((3, 5), (6, 2)), id="2-D"),
    pytest.param(((0, 0), (9, 9)), id="2-D a row"),
    pytest.param(((4, 4), (0, 0)), id="2-D a column"),
    pytest.param(((2, 1), (0, 3), (2, 2)), id="3-D"),
    pytest.param(((1, 1), (2, 0), (0, 1), (1, 2)), id="4-D"),
]


def problem(taps, *, network=MAGNet, causal=False, dtype=torch.float64, width=0.6, omega_0=3.0):
    """A kernel of three channels, its support and spacing, and what it can be differentiated by."""
    dim = len(taps)
    kernel = network(dim, 6, 3, omega_0=omega_0).to(dtype)
    log_width = torch.full((dim,), math.log(width), dtype=dtype, requires_grad=True)
    spacing = tuple(1 / max(1, *arms) for arms in taps)
    support = KernelSupport(log_width, dim, causal=causal)
    readout = torch.randn(3, 7, dtype=dtype, requires_grad=True)
    hidden = [p for name, p in kernel.named_parameters() if not name.startswith("readout")]
    return kernel, readout, support, spacing, [readout, log_width, *hidden]


def features_of(kernel):
    return kernel.magnet_weights() or kernel.features


def by_definition(kernel, readout, support, spacing, taps):
    basis = support.basis(support.tap_offsets(spacing, taps), kernel.features)
    values = (readout @ basis.T).unflatten(-1, [sum(arms) + 1 for arms in taps])
    return values, basis.T @ basis


def assert_same(actual, expected, leaves, tolerance):
    """Kernels, moments and all gradients agree, relative to the largest value."""
    grads = [torch.randn_like(each) for each in expected]
    pairs = [
        *zip(actual, expected, strict=True),
        *zip(
            torch.autograd.grad(actual, leaves, grads, retain_graph=True),
            torch.autograd.grad(expected, leaves, grads),
            strict=True,
        ),
    ]
    for one, other in pairs:
        assert one.dtype == other.dtype and one.shape == other.shape
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("taps", TAPS)
def test_a_rendered_kernel_is_the_network_under_the_window_at_every_tap(taps, network, dtype):
    kernel, readout, support, spacing, leaves = problem(taps, network=network, dtype=dtype)
    actual = render_kernel(features_of(kernel), readout, support, spacing, taps, with_moment=True)
    expected = by_definition(kernel, readout, support, spacing, taps)
    assert_same(actual, expected, leaves, TOLERANCES[dtype])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("elements", [1, 500, 1500])
def test_tiles_change_nothing(monkeypatch, taps, network, elements):
    monkeypatch.setitem(grid_kernels.TILE_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(grid_kernels, "CHUNK_ELEMENTS", elements // 10)
    kernel, readout, support, spacing, leaves = problem(taps, network=network)
    actual = render_kernel(features_of(kernel), readout, support, spacing, taps, with_moment=True)
    expected = by_definition(kernel, readout, support, spacing, taps)
    assert_same(actual, expected, leaves, 1e-11)


def test_a_causal_kernel_is_shifted_to_the_present():
    taps = ((12, 0),)
    kernel, readout, support, spacing, leaves = problem(taps, causal=True)
    actual = render_kernel(features_of(kernel), readout, support, spacing, taps, with_moment=True)
    expected = by_definition(kernel, readout, support, spacing, taps)
    assert_same(actual, expected, leaves, 1e-11)


@pytest.mark.parametrize(
    ("taps", "omega_0", "causal"),
    [
        (((2999, 0),), 2976.5, True),
        (((1500, 1500),), 2976.5, False),
        (((30, 30), (30, 30)), 1435.8, False),
    ],
)
def test_single_precision_keeps_its_digits_at_published_frequencies(taps, omega_0, causal):
    kernel, readout, support, spacing, _ = problem(
        taps, causal=causal, dtype=torch.float32, omega_0=omega_0
    )
    actual, _ = render_kernel(features_of(kernel), readout, support, spacing, taps)
    offsets = support.tap_offsets(spacing, taps).double()
    exact = KernelSupport(support.inverse_sigma.detach().double().reciprocal().log(), len(taps),
                          causal=causal)  # fmt: skip
    expected = readout.double() @ exact.basis(offsets, kernel.double().features).T
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual.flatten(1).double(), expected, atol=1e-6 * scale, rtol=0)


def test_a_full_kernel_has_a_matrix_at_every_tap():
    taps = ((2, 1), (1, 3))
    kernel, _, support, spacing, _ = problem(taps)
    readout = torch.randn(4, 3, 7, dtype=torch.float64)
    actual, moment = render_kernel(features_of(kernel), readout, support, spacing, taps)
    assert actual.shape == (4, 3, 4, 5) and moment is None
    for number in range(4):
        expected, _ = by_definition(kernel, readout[number], support, spacing, taps)
        torch.testing.assert_close(actual[number], expected)


@pytest.mark.parametrize("log_width", [-12.0, -40.0, -400.0])
def test_a_window_that_shrinks_to_nothing_leaves_the_centre_and_finite_gradients(log_width):
    taps = ((2, 2), (2, 2))
    kernel, readout, _, spacing, _ = problem(taps)
    width = torch.full((2,), log_width, dtype=torch.float64, requires_grad=True)
    support = KernelSupport(width, 2)
    actual, _ = render_kernel(features_of(kernel), readout, support, spacing, taps)
    expected, _ = by_definition(kernel, readout, support, spacing, taps)
    torch.testing.assert_close(actual, expected)
    assert int((actual.detach().abs().sum(0) > 0).sum()) == 1
    actual.sum().backward()
    assert all(
        bool(part.grad.isfinite().all())
        for part in (width, readout, *list(kernel.parameters())[:-2])
    )


@pytest.mark.parametrize("taps", [((3, 2),), ((1, 1), (2, 0))])
@pytest.mark.parametrize("network", [MAGNet, SIREN])
def test_kernels_and_moments_can_be_differentiated_twice(taps, network):
    kernel, readout, support, spacing, _ = problem(taps, network=network)
    names = [name for name, _ in kernel.named_parameters() if not name.startswith("readout")]
    parts = [kernel.get_parameter(name) for name in names]
    log_width = torch.full((len(taps),), -0.3, dtype=torch.float64, requires_grad=True)

    def render(readout, log_width, *_):
        support = KernelSupport(log_width, len(taps))
        return render_kernel(features_of(kernel), readout, support, spacing, taps, with_moment=True)

    assert torch.autograd.gradcheck(render, (readout, log_width, *parts))
    assert torch.autograd.gradgradcheck(render, (readout, log_width))


@pytest.mark.parametrize("frozen", ["readout", "hidden", "window"])
def test_parts_that_need_no_gradient_get_none_and_the_others_theirs(frozen):
    taps = ((2, 2), (3, 1))
    kernel, readout, support, spacing, leaves = problem(taps)
    if frozen == "readout":
        readout.requires_grad_(False)
    if frozen == "window":
        support = KernelSupport(support.inverse_sigma.detach().reciprocal().log(), 2)
    if frozen == "hidden":
        kernel.requires_grad_(False)
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    values, _ = render_kernel(features_of(kernel), readout, support, spacing, taps)
    expected, _ = by_definition(kernel, readout, support, spacing, taps)
    grad = torch.randn_like(expected)
    for create_graph in (False, True):
        for one, other in zip(
            torch.autograd.grad(values, leaves, grad, allow_unused=True, retain_graph=True,
                                create_graph=create_graph),
            torch.autograd.grad(expected, leaves, grad, allow_unused=True, retain_graph=True),
            strict=True,
        ):  # fmt: skip
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


class Largest(TorchDispatchMode):
    """Keeps the number of values in the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for each in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr():
                self.elements = max(self.elements, each.numel())
        return output


@pytest.mark.parametrize("network", [MAGNet, SIREN])
@pytest.mark.parametrize("taps", [((3000, 3000),), ((40, 40), (40, 40))])
def test_nothing_larger_than_the_kernel_is_made_for_its_gradients(monkeypatch, taps, network):
    monkeypatch.setattr(grid_kernels, "CHUNK_ELEMENTS", 2**12)
    monkeypatch.setitem(grid_kernels.TILE_ELEMENTS, "cpu", 2**14)
    kernel, readout, support, spacing, _ = problem(taps, network=network)
    with Largest() as largest:
        values, _ = render_kernel(features_of(kernel), readout, support, spacing, taps)
        values.square().sum().backward()
    assert largest.elements <= values.numel()
