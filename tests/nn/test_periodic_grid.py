"""Layers on periodic grids: the signal repeated, nearest images, and what is refused."""

import itertools
import math

import pytest
import torch

from ccnn_geo import CCNN, CKConvMP
from ccnn_geo.ops import dense_graph, grid_positions

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
CASES = [
    pytest.param((9,), 9 * 0.3, {}, id="1-D odd"),
    pytest.param((10,), 10 * 0.3, {"kernel_size": 9}, id="1-D even"),
    pytest.param((5, 8), (5 * 0.3, 8 * 0.3), {"kernel_size": 5}, id="2-D"),
    pytest.param((5, 8), (None, 8 * 0.3), {"kernel_size": 7}, id="2-D one axis"),
    pytest.param((5, 8), (5 * 0.3, None), {"kernel_size": (5, 15)}, id="2-D the other axis"),
    pytest.param((5, 6), 1.5, {"spacing": (0.3, 0.25), "kernel_size": 5}, id="2-D anisotropic"),
    pytest.param((6, 5), (1.8, 1.5), {"kernel_size": 5, "separable": False}, id="2-D full kernel"),
    pytest.param((3, 4, 5), (0.9, None, 1.5), {"kernel_size": 3}, id="3-D"),
]


def layer(size, *, dtype=torch.float64, **arguments):
    settings = {"spacing": 0.3, "omega_0": 1.0, "kernel_channels": 5, "window_width": 0.6}
    return CKConvMP.for_grid(3, 4, size=size, **{**settings, **arguments}).to(dtype)


def repeated(conv, x, period):
    """The middle period of the layer on three periods of a signal, along every periodic axis."""
    periods = period if isinstance(period, tuple) else (period,) * conv.dim
    written_out = x
    for axis, length in enumerate(periods, 2):
        if length is not None:
            written_out = torch.cat([written_out] * 3, axis)
    output = conv.grid(written_out, method="direct")
    for axis, length in enumerate(periods, 2):
        if length is not None:
            output = output.narrow(axis, x.size(axis), x.size(axis))
    return output


@pytest.mark.parametrize("method", ["fft", "direct", "auto"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("size", "period", "arguments"), CASES)
def test_a_periodic_grid_gives_one_period_of_the_repeated_signal(
    size, period, arguments, dtype, method
):
    conv = layer(size, dtype=dtype, **arguments)
    x = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    actual, expected = conv.grid(x, period=period, method=method), repeated(conv, x, period)
    grad, leaves = torch.randn_like(expected), [x, *conv.parameters()]
    pairs = [(actual, expected)]
    pairs += zip(
        torch.autograd.grad(actual, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        strict=True,
    )
    for one, other in pairs:
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, atol=TOLERANCES[dtype] * scale, rtol=0)


@pytest.mark.parametrize("method", ["fft", "direct"])
@pytest.mark.parametrize("size", [(8, 7), (7, 8)])
def test_a_kernel_of_half_a_period_meets_every_cell_once_and_the_farthest_ahead(size, method):
    conv = layer(size, spacing=1.0, kernel_size=9, window_cutoff=0.0, bias=False)
    if 7 in size:
        conv.extent = tuple(cells / 2 for cells in size)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = torch.zeros(1, 4, *size, dtype=torch.float64)
    for target, source in itertools.product(itertools.product(*map(range, size)), repeat=2):
        offset = [
            (j - i + (cells - 1) // 2) % cells - (cells - 1) // 2
            for i, j, cells in zip(target, source, size, strict=True)
        ]
        u = torch.tensor(offset, dtype=torch.float64) / torch.tensor(conv.extent)
        window = torch.exp(-0.5 * (u / conv.window.log_width.exp()).square().sum())
        message = conv.kernel(u) * window * x[0, :, *source]
        expected[0, :, *target] += conv.mixing.weight @ message
    torch.testing.assert_close(
        conv.grid(x, period=tuple(map(float, size)), method=method), expected
    )


def test_cells_that_are_empty_count_as_zero_across_the_boundary_too():
    conv = layer((9,))
    x, mask = torch.randn(2, 3, 9, dtype=torch.float64), torch.rand(2, 9) < 0.6
    mask[:, 0] = True
    masked = x * mask.unsqueeze(1)
    actual = conv.grid(x, period=2.7, mask=mask)
    expected = repeated(conv, masked, 2.7) * mask.unsqueeze(1)
    torch.testing.assert_close(actual, expected)


def test_the_norm_is_that_of_the_taps_within_one_period():
    conv = layer((9,))
    x = torch.randn(1, 3, 9, dtype=torch.float64)
    _, actual = conv.grid(x, period=2.7, return_kernel_norm=True)
    _, expected = conv.grid(x, return_kernel_norm=True)
    torch.testing.assert_close(actual, expected)


def test_a_period_of_none_is_no_period():
    conv = layer((5, 6))
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(conv.grid(x, period=(None, None)), conv.grid(x), rtol=0, atol=0)


def test_a_narrower_window_allows_a_shorter_period():
    conv = layer((9,), kernel_size=41, window_cutoff=0.1)
    x = torch.randn(1, 3, 9, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="`period` of at least twice the reach of the kernel, 6 al"
    ):
        conv.grid(x, period=2.7)
    torch.nn.init.constant_(conv.window.log_width, math.log(0.1))
    torch.testing.assert_close(conv.grid(x, period=2.7), repeated(conv, x, 2.7))


@pytest.mark.parametrize(
    ("period", "match"),
    [
        (0.0, "`period` to be positive, one number or 2 .* got 0.0"),
        (-1.0, "`period` to be positive"),
        (math.nan, "`period` to be positive"),
        (math.inf, "`period` to be positive"),
        ((1.5,), r"`period` to be positive, one number or 2 .* got \(1.5,\)"),
        ((1.5, 1.5, 1.5), "`period` to be positive"),
        ((1.5, -1.5), "`period` to be positive"),
        (
            1.6,
            "a grid of one `period`, 1.6 along axis 0, got 5 cells of 0.3, 1.5: change `spacing`",
        ),
        ((None, 1.5), "a grid of one `period`, 1.5 along axis 1, got 6 cells of 0.3, 1.8"),
        (
            (1.5, None),
            "at least twice the reach of the kernel, 1.2 along axis 0, got 1.5: choose a",
        ),
    ],
)
def test_periods_that_do_not_fit_are_named(period, match):
    conv = layer((5, 6), kernel_size=9, window_cutoff=0.0)
    with pytest.raises(ValueError, match=match):
        conv.grid(torch.zeros(1, 3, 5, 6, dtype=torch.float64), period=period)


def test_a_causal_layer_has_no_period():
    conv = layer((9,), causal=True)
    with pytest.raises(ValueError, match=r"no `period` for a causal convolution, got \(2.7"):
        conv.grid(torch.zeros(1, 3, 9, dtype=torch.float64), period=2.7)


def test_a_network_on_a_periodic_grid_is_that_on_its_cells_as_periodic_points():
    model = CCNN.for_grid(
        3, 4, size=(5, 7), spacing=0.3, kernel_size=5, hidden_channels=6, num_blocks=1, omega_0=1.0
    )
    model = model.double().eval()
    x = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    period = (5 * 0.3, 7 * 0.3)
    expected = model(
        x.flatten(2)[0].T,
        grid_positions((5, 7), 0.3, dtype=torch.float64),
        edge_index=dense_graph((5, 7)),
        period=period,
    )
    torch.testing.assert_close(model(x, period=period), expected)
    assert not torch.allclose(model(x), expected)
    rolled = x.roll((2, 3), (2, 3))
    torch.testing.assert_close(model(rolled, period=period), expected)


def test_a_period_of_a_causal_network_is_refused():
    model = CCNN.for_grid(3, 4, size=(9,), hidden_channels=6, num_blocks=1, causal=True)
    with pytest.raises(ValueError, match=r"no `period` for a causal convolution, got \(9.0"):
        model(torch.randn(1, 3, 9), period=9.0)
