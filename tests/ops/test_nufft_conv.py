"""The convolution by non-uniform Fourier transforms against the sum over all pairs."""

import math
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from ccnn_geo.nn import SIREN, MAGNet
from ccnn_geo.ops import KernelSupport, Neighborhood, kernel_series, nufft_conv, point_conv
from ccnn_geo.ops.bandwidth import kernel_bandwidth, kernel_reach
from ccnn_geo.ops.nufft_backends import finufft
from clouds_helpers import random_clouds

pytestmark = pytest.mark.usefixtures("transforms")

CPU = torch.device("cpu")
missing = finufft.missing_package(CPU)
BACKENDS = [
    "torch",
    pytest.param(
        "finufft", marks=pytest.mark.skipif(missing is not None, reason=f"needs {missing}")
    ),
]
OMEGA = {1: 4.0, 2: 1.5, 3: 0.7}


def make_kernel(dim=2, channels=3, outputs=None, width=0.1, omega_0=None, dtype=torch.float64):
    """Features and readout of a kernel, and its support."""
    network = MAGNet(
        dim,
        6,
        channels * (outputs or 1),
        omega_0=omega_0 or OMEGA[dim],
        center_range=(-2 * width, 2 * width),
    ).to(dtype)
    layer = network.readout
    readout = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1).detach()
    if outputs is not None:
        readout = readout.view(outputs, channels, -1)
    support = KernelSupport(torch.full((dim,), math.log(width), dtype=dtype), dim)
    weights = network.magnet_weights()
    return type(weights)(*(part.detach() for part in weights)), readout, support


def all_pairs(x, pos, features, readout, support, batch=None, target_batch=None, weight=None):
    """The convolution over the graph of all pairs of points of the same cloud."""
    source, target = pos if isinstance(pos, tuple) else (pos, pos)
    batch = torch.zeros(len(source)) if batch is None else batch
    target_batch = batch if target_batch is None and source is target else target_batch
    target_batch = torch.zeros(len(target)) if target_batch is None else target_batch
    edges = (target_batch.unsqueeze(1) == batch).nonzero().T.flip(0)
    graph = Neighborhood.from_edge_index(edges, len(source), len(target))
    return point_conv(x, pos, graph, features, readout, support, weight=weight, with_moment=True)


def norm_of(moment, readout):
    rows = readout.flatten(0, -2)
    return ((rows @ moment) * rows).sum()


def relative_error(found, expected):
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize(
    ("dim", "tolerance"), [(1, 1e-2), (1, 1e-8), (2, 1e-3), (2, 1e-6), (3, 1e-2), (3, 1e-3)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_sum_over_all_pairs_within_the_tolerance(backend, dim, tolerance):
    call = make_kernel(dim)
    x, pos, _ = random_clouds(200, dim=dim, channels=3)
    pos = pos / dim
    expected, moment = all_pairs(x, pos, *call)
    found, found_moment = nufft_conv(
        x, pos, *call, tolerance=tolerance, with_moment=True, backend=backend
    )
    assert relative_error(found, expected) < tolerance
    norms = (norm_of(each, call[1]) for each in (found_moment, moment))
    torch.testing.assert_close(*norms, rtol=tolerance, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_full_kernels_mix_channels(backend, monkeypatch):
    monkeypatch.setattr(kernel_series, "_MIXED_VALUES", 2000)
    call = make_kernel(2, 3, outputs=4)
    x, pos, _ = random_clouds(150, dim=2, channels=3)
    expected, moment = all_pairs(x, pos, *call)
    found, found_moment = nufft_conv(
        x, pos, *call, tolerance=1e-6, with_moment=True, backend=backend
    )
    assert relative_error(found, expected) < 1e-6
    norms = (norm_of(each, call[1]) for each in (found_moment, moment))
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clouds_of_a_batch_do_not_see_one_another(backend):
    call = make_kernel()
    x, pos, batch = random_clouds(50, 1, 120, dim=2, channels=3)
    pos[batch == 2] *= torch.tensor([4.0, 0.01])
    expected, _ = all_pairs(x, pos, *call, batch=batch)
    found, _ = nufft_conv(x, pos, *call, batch=batch, tolerance=1e-6, backend=backend)
    assert relative_error(found, expected) < 1e-6


def test_sources_and_targets_may_differ_and_clouds_may_lack_either():
    call = make_kernel()
    x, source, batch = random_clouds(60, 40, dim=2, channels=3)
    _, target, _ = random_clouds(70, dim=2)
    batch = batch * 2  # cloud 1 has no source, cloud 2 no target
    target_batch = torch.arange(70) // 35
    weight = torch.rand(100, dtype=torch.float64)
    expected, moment = all_pairs(x, (source, target), *call, batch, target_batch, weight)
    found, found_moment = nufft_conv(
        x,
        (source, target),
        *call,
        batch=(batch, target_batch),
        weight=weight,
        tolerance=1e-6,
        with_moment=True,
    )
    assert relative_error(found, expected) < 1e-6
    assert not found[35:].any()
    norms = (norm_of(each, call[1]) for each in (found_moment, moment))
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [(0, 5), (5, 0), (0, 0)])
def test_no_sources_or_no_targets_give_zeros_with_gradients(count):
    features, readout, support = make_kernel()
    x = torch.randn(count[0], 3, dtype=torch.float64, requires_grad=True)
    pos = torch.rand(count[0], 2).double(), torch.rand(count[1], 2).double()
    found, moment = nufft_conv(x, pos, features, readout, support, with_moment=True)
    assert found.shape == (count[1], 3)
    assert not found.any()
    assert moment.shape == (7, 7)
    assert not moment.any()
    found.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("period", [(2.0, 3.0), (2.0, None), (None, 3.0)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_periodic_axes_see_the_images_of_the_cloud(backend, period):
    call = make_kernel()
    x, pos, _ = random_clouds(80, dim=2, channels=3)
    shifts = [(-1, 0, 1) if length else (0,) for length in period]
    images = torch.cartesian_prod(*(torch.tensor(each, dtype=torch.float64) for each in shifts))
    images = images.view(-1, 2) * torch.tensor([length or 0.0 for length in period])
    source = (pos + images.unsqueeze(1)).flatten(0, 1)
    expected, _ = all_pairs(x.repeat(len(images), 1), (source, pos), *call)
    found, _ = nufft_conv(x, pos, *call, tolerance=1e-6, period=period, backend=backend)
    assert relative_error(found, expected) < 1e-6
    moved = pos + torch.tensor([7.0 * (length or 0.0) for length in period])
    again, _ = nufft_conv(x, moved, *call, tolerance=1e-6, period=period, backend=backend)
    assert relative_error(again, expected) < 1e-6


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_first_and_second_order_are_those_of_all_pairs(backend, outputs):
    features, readout, _ = make_kernel(2, 3, outputs)
    x, source, _ = random_clouds(12, dim=2, channels=3)
    target = random_clouds(7, dim=2)[1]
    log_width = torch.tensor([math.log(0.1)], dtype=torch.float64)
    leaves = [x, source, target, readout, log_width, *features]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    direction = torch.randn(7, outputs or 3, dtype=torch.float64)

    def gradients(evaluate):
        x, source, target, readout, log_width, *network = leaves
        call = type(features)(*network), readout, KernelSupport(log_width, 2)
        output, moment = evaluate(x, (source, target), *call)
        norm = norm_of(moment, readout)
        first = torch.autograd.grad((output * direction).sum() + norm, leaves, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), leaves)
        return [*first, *second]

    def transformed(*call):
        return nufft_conv(*call, tolerance=1e-9, with_moment=True, backend=backend)

    for found, expected in zip(gradients(transformed), gradients(all_pairs), strict=True):
        assert relative_error(found, expected) < 1e-6


def test_large_coordinates_keep_their_digits():
    call = make_kernel()
    x, pos, _ = random_clouds(80, dim=2, channels=3)
    near, _ = nufft_conv(x, pos, *call, tolerance=1e-6)
    far, _ = nufft_conv(x, pos + 2.0**20, *call, tolerance=1e-6)
    assert relative_error(far, near) < 1e-6


def test_float32_is_kept_and_enough_above_1e_6():
    call = make_kernel(dtype=torch.float32)
    x, pos, _ = random_clouds(80, dim=2, channels=3, dtype=torch.float32)
    found, _ = nufft_conv(x, pos, *call, tolerance=1e-4)
    expected, _ = all_pairs(x, pos, *call)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("shape", ["one point", "identical points", "a line", "a long box"])
def test_degenerate_clouds(shape):
    call = make_kernel()
    x, pos, _ = random_clouds(40, dim=2, channels=3)
    scale = all_pairs(x, pos, *call)[0].norm()
    if shape == "one point":
        x, pos = x[:1], pos[:1]
    elif shape == "identical points":
        pos = pos[:1].expand_as(pos).contiguous()
    elif shape == "a line":
        pos = pos * torch.tensor([1.0, 0.0])
    else:
        pos = pos * torch.tensor([50.0, 0.05])
    expected, _ = all_pairs(x, pos, *call)
    found, _ = nufft_conv(x, pos, *call, tolerance=1e-6)
    assert (found - expected).norm() < 1e-6 * scale


def test_kernels_other_than_a_magnet():
    network = SIREN(2, 8, 3, omega_0=1.0).double()
    layer = network.readout
    readout = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1).detach()
    support = KernelSupport(torch.full((2,), math.log(0.1), dtype=torch.float64), 2)
    x, pos, _ = random_clouds(80, dim=2, channels=3)
    network.requires_grad_(False)
    expected, _ = all_pairs(x, pos, network.features, readout, support)
    found, _ = nufft_conv(x, pos, network.features, readout, support, tolerance=1e-5)
    assert relative_error(found, expected) < 1e-5


def test_the_bandwidth_of_a_smooth_kernel_grows_with_the_digits_only():
    features, readout, support = make_kernel(1)
    bands = []
    for tolerance in (1e-2, 1e-4, 1e-8):
        reach = kernel_reach(support, tolerance)
        bands.append(kernel_bandwidth(features, readout, support, reach, tolerance)[0])
    assert bands[0] < bands[1] < bands[2] < 1.6 * bands[0]


def test_the_bandwidth_of_a_kernel_that_ends_abruptly_grows_with_the_square_of_the_accuracy():
    # A jump has a spectrum of 1 / f, and power of 1 / F beyond F.
    features, readout, _ = make_kernel(1, omega_0=1e-3)
    support = KernelSupport(torch.full((1,), math.log(0.5), dtype=torch.float64), 1, cutoff=0.5)
    readout = torch.zeros_like(readout)
    readout[:, -1] = 1.0
    bands = []
    for tolerance in (0.1, 0.05, 0.025):
        reach = kernel_reach(support, tolerance)
        bands.append(kernel_bandwidth(features, readout, support, reach, tolerance)[0])
    assert 3 < bands[1] / bands[0] < 5
    assert 3 < bands[2] / bands[1] < 5


def test_the_bandwidth_of_a_gaussian_is_its_own():
    # The window alone: its power spectrum is a Gaussian of deviation 1 / (2 pi sqrt(2) sigma).
    features, readout, support = make_kernel(2)
    readout = torch.zeros_like(readout)
    readout[:, -1] = 1.0
    tolerance = 1e-3
    reach = kernel_reach(support, 1e-5)
    bands = kernel_bandwidth(features, readout, support, reach, tolerance)
    deviation = 1 / (2 * math.pi * math.sqrt(2) * 0.1)
    expected = (
        deviation * math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - tolerance**2).double()))
    )
    for band in bands:
        assert expected <= band <= expected + 1 / (4 * reach[0])


@pytest.mark.parametrize("tolerance", [1e-12, 1.0, 0.0, -1.0, math.nan])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    x, pos, _ = random_clouds(5, dim=2, channels=3)
    with pytest.raises(ValueError, match=r"Expected `tolerance` in \(1e-12, 1\)"):
        nufft_conv(x, pos, *make_kernel(), tolerance=tolerance)


def test_a_causal_kernel_is_refused_with_a_reason():
    features, readout, _ = make_kernel(1)
    support = KernelSupport(torch.tensor([math.log(0.1)]).double(), 1, causal=True)
    x, pos, _ = random_clouds(5, dim=1, channels=3)
    with pytest.raises(ValueError, match="causal kernel ends abruptly at the present"):
        nufft_conv(x, pos, features, readout, support)


def test_a_period_shorter_than_twice_the_reach_is_refused():
    x, pos, _ = random_clouds(5, dim=2, channels=3)
    with pytest.raises(
        ValueError, match="Expected `period` of at least .* got 0.5: choose a smaller"
    ):
        nufft_conv(x, pos, *make_kernel(), period=(4.0, 0.5))


def test_too_many_modes_are_refused_with_their_number_and_the_reason():
    x, pos, _ = random_clouds(5, dim=2, channels=3)
    with pytest.raises(
        ValueError, match=r"varies at up to .* needs \d+ x \d+ modes .* `bandlimit`"
    ):
        nufft_conv(x, pos * 1e3, *make_kernel(omega_0=8.0))
    features, readout, _ = make_kernel()
    support = KernelSupport(torch.tensor([math.log(0.1)]).double(), 2, cutoff=0.1)
    with pytest.raises(
        ValueError, match=r"ends abruptly, where its window is still 0.1 .*`tolerance`"
    ):
        nufft_conv(x, pos, features, readout, support)


def test_unknown_and_missing_backends_are_refused(monkeypatch):
    x, pos, _ = random_clouds(5, dim=2, channels=3)
    with pytest.raises(ValueError, match="Expected `backend` to be 'auto' or one of"):
        nufft_conv(x, pos, *make_kernel(), backend="fast")
    monkeypatch.setattr(finufft, "version", lambda name: "2.1.0")
    with pytest.raises(RuntimeError, match="Expected finufft 2.3 or newer, got 2.1.0"):
        nufft_conv(x, pos, *make_kernel(), backend="finufft")

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(finufft, "version", absent)
    with pytest.raises(RuntimeError, match="which is not installed"):
        nufft_conv(x, pos, *make_kernel(), backend="finufft")
    nufft_conv(x, pos, *make_kernel())  # falls back to PyTorch


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_precision_is_enough_on_long_boxes(backend):
    # The highest of 300,000 modes turns by a large part of a period where angles are rounded.
    call = make_kernel(1, dtype=torch.float32)
    x, pos, _ = random_clouds(300, dim=1, channels=3, dtype=torch.float32)
    pos = torch.cat([pos[:150].double() - 2000, pos[150:].double() + 2000])
    expected, _ = all_pairs(x, pos, *call)
    found, _ = nufft_conv(x, pos, *call, tolerance=1e-3, backend=backend)
    assert relative_error(found, expected) < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_channel_is_as_exact_as_its_own_scale_demands(backend):
    features, readout, support = make_kernel()
    scales = torch.tensor([1.0, 1e-7, 1e5], dtype=torch.float64)
    x, pos, _ = random_clouds(100, dim=2, channels=3)
    for call, values in (
        ((features, readout * scales.unsqueeze(1), support), x),
        ((features, readout, support), x * scales),
    ):
        expected, _ = all_pairs(values, pos, *call)
        found, _ = nufft_conv(values, pos, *call, tolerance=1e-4, backend=backend)
        errors = (found - expected).norm(dim=0) / expected.norm(dim=0)
        assert (errors < 3e-4).all()


def test_a_weak_channel_that_turns_fast_is_not_taken_for_noise():
    # Channel 0 is the window, channel 1 a thousandth of the features.
    features, readout, support = make_kernel(1, channels=2, omega_0=8.0)
    readout = torch.zeros_like(readout)
    readout[0, -1] = 1.0
    readout[1, :-1] = 1e-3
    x, pos, _ = random_clouds(200, dim=1, channels=2)
    expected, _ = all_pairs(x, pos, features, readout, support)
    found, _ = nufft_conv(x, pos, features, readout, support, tolerance=1e-3)
    errors = (found - expected).norm(dim=0) / expected.norm(dim=0)
    assert (errors < 3e-3).all()


def test_a_magnet_in_float32_has_digits_beyond_its_rounding_errors():
    call = make_kernel(dtype=torch.float32)
    exact = make_kernel(dtype=torch.float32)[0]._make(part.double() for part in call[0])
    x, pos, _ = random_clouds(60, dim=2, channels=3)
    expected, _ = all_pairs(x, pos, exact, call[1].double(), call[2].double())
    found, moment = nufft_conv(x, pos, *call, tolerance=1e-8, with_moment=True)
    assert relative_error(found, expected) < 1e-8
    assert moment.dtype == torch.float64


def test_other_kernels_in_float32_are_refused_below_their_rounding_errors():
    network = SIREN(2, 8, 3, omega_0=1.0)
    readout = torch.cat([network.readout.weight, network.readout.bias.unsqueeze(-1)], -1)
    support = KernelSupport(torch.full((2,), math.log(0.1)), 2)
    x, pos, _ = random_clouds(10, dim=2, channels=3, dtype=torch.float32)
    with pytest.raises(TypeError, match="Expected a kernel in float64 for a `tolerance` below"):
        nufft_conv(x, pos, network.features, readout, support, tolerance=1e-7)


@pytest.mark.parametrize("distance", [1e9, 1e20, 1e300])
def test_a_point_far_off_is_an_error_at_once(distance):
    x, pos, _ = random_clouds(10, dim=2, channels=3)
    pos[3] += distance
    with pytest.raises(ValueError, match="Expected spectra of at most 4 GiB"):
        nufft_conv(x, pos, *make_kernel())
    with pytest.raises(ValueError, match="Expected spectra of at most 4 GiB"):
        nufft_conv(x, pos, *make_kernel(), period=distance)


def test_all_clouds_of_a_batch_have_to_fit_into_memory():
    x, pos, batch = random_clouds(*[4] * 64, dim=2, channels=3)
    call = make_kernel()
    nufft_conv(x[:4], 40 * pos[:4], *call)
    with pytest.raises(ValueError, match="and all clouds .* or fewer clouds at a time"):
        nufft_conv(x, 40 * pos * (1 + batch.unsqueeze(1)), *call, batch=batch)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kernels_that_are_not_finite_are_refused(value):
    features, readout, support = make_kernel()
    x, pos, _ = random_clouds(10, dim=2, channels=3)
    readout[1, 2] = value
    with pytest.raises(ValueError, match="Expected a finite kernel and window"):
        nufft_conv(x, pos, features, readout, support)
    window = KernelSupport(torch.tensor([math.nan], dtype=torch.float64), 2)
    with pytest.raises(ValueError, match="Expected a finite kernel and window"):
        nufft_conv(x, pos, *make_kernel()[:2], window)


def test_numbers_of_clouds_may_have_large_gaps():
    call = make_kernel()
    x, pos, batch = random_clouds(20, 30, dim=2, channels=3)
    expected, _ = nufft_conv(x, pos, *call, batch=batch)
    found, _ = nufft_conv(x, pos, *call, batch=batch * 10**15)
    torch.testing.assert_close(found, expected)


def test_operands_that_do_not_fit_are_named():
    call, (x, pos, batch) = make_kernel(), random_clouds(10, 10, dim=2, channels=3)
    features, readout, support = call
    with pytest.raises(ValueError, match="Expected `batch` for sources and targets, got one"):
        nufft_conv(x, (pos, pos), *call, batch=(batch, None))
    with pytest.raises(ValueError, match="Expected `batch` to be sorted"):
        nufft_conv(x, pos, *call, batch=batch.flip(0))
    with pytest.raises(ValueError, match=r"Expected source positions of shape \[20, 2\]"):
        nufft_conv(x, pos[:5], *call)
    with pytest.raises(ValueError, match="Expected `x` with 3 channels, got 2"):
        nufft_conv(x[:, :2], pos, *call)
    with pytest.raises(TypeError, match="Expected x to be a floating-point tensor"):
        nufft_conv(x.long(), pos, *call)
    with pytest.raises(ValueError, match=r"Expected `weight` of shape \[20\]"):
        nufft_conv(x, pos, *call, weight=torch.ones(3))
    with pytest.raises(ValueError, match="Expected `period` to be positive, one number or 2"):
        nufft_conv(x, pos, *call, period=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="Expected `pos` to be a tensor or a pair, got 3"):
        nufft_conv(x, (pos,) * 3, *call)


def test_without_points_every_operand_has_a_gradient_of_zero():
    features, readout, support = make_kernel()
    leaves = [readout, *features]
    for leaf in leaves:
        leaf.requires_grad_()
    pos = torch.rand(0, 2).double(), torch.rand(5, 2).double().requires_grad_()
    found, moment = nufft_conv(
        torch.rand(0, 3).double(), pos, features, readout, support, with_moment=True
    )
    (found.sum() + moment.sum()).backward()
    for leaf in (*leaves, pos[1]):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


class TestPairByPair:
    """The sum over pairs where transforms would take longer."""

    @pytest.fixture(autouse=True)
    def pairs(self, transforms, monkeypatch):
        monkeypatch.setattr(sys.modules["ccnn_geo.ops.nufft_conv"], "MAX_PAIRS", 2**25)

    def test_is_exact_and_the_default_for_small_clouds(self):
        call = make_kernel()
        x, pos, batch = random_clouds(50, 1, 120, dim=2, channels=3)
        expected, norm = all_pairs(x, pos, *call, batch=batch)
        for method in ("direct", "auto"):
            found, found_norm = nufft_conv(
                x, pos, *call, batch=batch, tolerance=0.1, with_moment=True, method=method
            )
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(found_norm, norm)
        rough, _ = nufft_conv(x, pos, *call, batch=batch, tolerance=0.1, method="nufft")
        assert relative_error(rough, expected) > 1e-6

    def test_has_sources_and_targets_of_its_own(self):
        call = make_kernel()
        x, source, batch = random_clouds(60, 40, dim=2, channels=3)
        _, target, _ = random_clouds(70, dim=2)
        batch = batch * 2  # cloud 1 has no source, cloud 2 no target
        target_batch = torch.arange(70) // 35
        weight = torch.rand(100, dtype=torch.float64)
        pos = source, target
        expected, norm = all_pairs(x, pos, *call, batch, target_batch, weight)
        found, found_norm = nufft_conv(
            x, pos, *call, batch=(batch, target_batch), weight=weight, with_moment=True,
            method="direct",
        )  # fmt: skip
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found_norm, norm)

    def test_evaluates_kernels_that_no_number_of_modes_resolves(self):
        features, readout, _ = make_kernel(1)
        support = KernelSupport(torch.zeros(1).double(), 1)
        x, pos, _ = random_clouds(40, dim=1, channels=3)
        call = features, readout, support
        expected, _ = all_pairs(x, pos, *call)
        torch.testing.assert_close(nufft_conv(x, pos, *call, tolerance=1e-9)[0], expected)
        with pytest.raises(ValueError, match="the kernel ends abruptly"):
            nufft_conv(x, pos, *call, tolerance=1e-9, method="nufft")

    def test_of_large_clouds_is_left_to_transforms(self):
        call = make_kernel(1)
        x, pos, _ = random_clouds(6000, dim=1, channels=3)
        found, _ = nufft_conv(x, pos, *call, tolerance=0.01)
        transformed, _ = nufft_conv(x, pos, *call, tolerance=0.01, method="nufft")
        assert torch.equal(found, transformed)

    def test_knows_no_periods_and_no_other_methods(self):
        call = make_kernel()
        x, pos, _ = random_clouds(30, dim=2, channels=3)
        with pytest.raises(ValueError, match="no `period` with `method='direct'`"):
            nufft_conv(x, pos, *call, period=(4.0, None), method="direct")
        with pytest.raises(ValueError, match="Expected `method` to be one of .*got 'fast'"):
            nufft_conv(x, pos, *call, method="fast")
