"""Layers and networks that see all points: the third evaluation of the same convolution."""

import math

import pytest
import torch

from ccnn_geo import CCNN, CKConvMP, collect_kernel_norms
from ccnn_geo.ops import dense_graph, grid_positions
from clouds_helpers import random_clouds

pytestmark = pytest.mark.usefixtures("transforms")

KERNEL = {"kernel_channels": 6, "window_width": 0.1}
OMEGA = {1: 4.0, 2: 1.5, 3: 0.7}


def make_conv(dim=2, **arguments):
    settings = {"dim": dim, "omega_0": OMEGA[dim], **KERNEL, **arguments}
    return CKConvMP(3, 5, **settings).double()


def make_network(**arguments):
    settings = {"dim": 2, "hidden_channels": 6, "num_blocks": 1, "omega_0": 1.5, **KERNEL}
    return CCNN(3, 4, num_neighbors=40, **(settings | arguments)).double().eval()


def relative_error(found, expected):
    return float(((found - expected).norm() / expected.norm()).detach())


def all_pairs(batch):
    return (batch.unsqueeze(1) == batch).nonzero().T.flip(0)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("size", [(24,), (6, 9), (3, 4, 5)])
def test_graph_grid_and_transform_agree_on_the_points_of_a_grid(size, separable):
    dim, tolerance = len(size), (1e-7, 1e-7, 1e-4)[len(size) - 1]
    conv = make_conv(dim, extent=1.0, spacing=0.1, separable=separable)
    pos = grid_positions(size, 0.1, dtype=torch.float64)
    x = torch.randn(math.prod(size), 3, dtype=torch.float64)
    graph, norm = conv(x, pos, dense_graph(size), return_kernel_norm=True)
    grid = conv.grid(x.T.reshape(1, 3, *size)).flatten(2)[0].T
    found, found_norm = conv.nufft(x, pos, tolerance=tolerance, return_kernel_norm=True)
    torch.testing.assert_close(grid, graph, rtol=1e-10, atol=1e-10)
    assert relative_error(found, graph) < tolerance
    torch.testing.assert_close(found_norm, norm, rtol=tolerance, atol=0)


def test_extent_and_unit_of_positions_belong_together():
    torch.manual_seed(0)
    one = make_conv(extent=(1.0, 2.0))
    torch.manual_seed(0)
    other = make_conv(extent=(10.0, 20.0))
    x, pos, _ = random_clouds(50, channels=3, dim=2)
    assert relative_error(one.nufft(x, pos), other.nufft(x, 10 * pos)) < 1e-3


def test_features_at_other_points():
    conv = make_conv()
    x, pos, batch = random_clouds(40, 30, channels=3, dim=2)
    _, other, other_batch = random_clouds(20, 25, dim=2)
    edges = (other_batch.unsqueeze(1) == batch).nonzero().T.flip(0)
    weight = torch.rand(70, dtype=torch.float64)
    found = conv.nufft(x, (pos, other), (batch, other_batch), weight=weight, tolerance=1e-6)
    assert relative_error(found, conv(x, (pos, other), edges, weight=weight)) < 1e-6


def test_a_network_is_the_same_over_the_graph_of_all_pairs():
    model = make_network(tolerance=1e-6)
    x, pos, batch = random_clouds(40, 25, channels=3, dim=2)
    expected, penalty = model(
        x, pos, batch, edge_index=all_pairs(batch), return_kernel_penalty=True
    )
    found, found_penalty = model(x, pos, batch, evaluation="nufft", return_kernel_penalty=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_penalty, penalty, rtol=1e-5, atol=0)


def test_channels_are_dropped_at_all_points_of_a_cloud():
    model = make_network(evaluation="nufft", dropout=0.5, readout=None).train()
    x, pos, batch = random_clouds(40, 25, channels=3, dim=2)
    assert model(x, pos, batch).shape == (65, 4)
    assert not torch.equal(model(x, pos, batch), model(x, pos, batch))


def test_the_evaluation_is_kept_with_the_weights(tmp_path):
    model = make_network(evaluation="nufft", tolerance=1e-5, bandlimit=2.0)
    x, pos, batch = random_clouds(40, 25, channels=3, dim=2)
    model.float().save_pretrained(tmp_path)
    again = CCNN.from_pretrained(tmp_path)
    assert (again.evaluation, again.tolerance, again.bandlimit) == ("nufft", 1e-5, 2.0)
    x, pos = x.float(), pos.float()
    torch.testing.assert_close(again.eval()(x, pos, batch), model(x, pos, batch))


def test_the_tolerance_of_a_call_overrides_that_of_the_network():
    model = make_network(evaluation="nufft", tolerance=0.5)
    x, pos, batch = random_clouds(60, channels=3, dim=2)
    exact = model(x, pos, evaluation="neighbors", edge_index=all_pairs(batch))
    rough = model(x, pos)
    fine = model(x, pos, tolerance=1e-8)
    assert (fine - exact).norm() < 1e-2 * (rough - exact).norm()


def test_a_periodic_network_does_not_notice_where_the_box_begins():
    model = make_network(evaluation="nufft", tolerance=1e-8)
    x, pos, batch = random_clouds(60, channels=3, dim=2)
    shift = torch.tensor([0.7, -1.9])
    expected = model(x, pos, period=2.0)
    torch.testing.assert_close(model(x, (pos + shift) % 2.0, period=2.0), expected)
    assert not torch.allclose(model(x, (pos + shift) % 2.0), expected)


@pytest.mark.parametrize("period", [2.0, (2.0, None), (None, 3.0)])
def test_periodic_graphs_and_transforms_agree(period):
    conv = make_conv(window_cutoff=1e-9)
    x, pos, batch = random_clouds(40, 30, channels=3, dim=2)
    expected = conv(x, 5 * pos, all_pairs(batch), period=period)
    found = conv.nufft(x, 5 * pos, batch, period=period, tolerance=1e-6)
    assert relative_error(found, expected) < 1e-6


def test_norms_are_collected():
    conv = make_conv()
    x, pos, _ = random_clouds(40, channels=3, dim=2)
    with collect_kernel_norms() as norms:
        conv.nufft(x, pos)
    _, norm = conv.nufft(x, pos, return_kernel_norm=True)
    torch.testing.assert_close(norms, [norm])


def test_every_parameter_receives_a_gradient():
    model = make_network(evaluation="nufft").train()
    x, pos, batch = random_clouds(40, 25, channels=3, dim=2)
    model(x, pos, batch).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_bad_input_is_refused():
    conv, (x, pos, batch) = make_conv(), random_clouds(20, 20, channels=3, dim=2)
    with pytest.raises(ValueError, match="Expected finite `pos`"):
        conv.nufft(x, pos.index_fill(0, torch.tensor([3]), math.nan))
    with pytest.raises(ValueError, match="Expected finite `x`"):
        conv.nufft(x.index_fill(0, torch.tensor([3]), math.inf), pos)
    with pytest.raises(TypeError, match="Expected `pos` to be float32 or float64"):
        conv.nufft(x, pos.half())
    with pytest.raises(ValueError, match="Expected `batch` to be sorted"):
        conv.nufft(x, pos, batch.flip(0))
    with pytest.raises(ValueError, match=r"Expected `batch` of shape \[40\]"):
        conv.nufft(x, pos, batch[:5])
    with pytest.raises(ValueError, match="Expected `pos` to be a tensor or a pair, got 3"):
        conv.nufft(x, (pos, pos, pos))
    for period in (0.0, -1.0, math.nan, (1.0, 2.0, 3.0)):
        with pytest.raises(ValueError, match="Expected `period` to be positive, one number"):
            conv.nufft(x, pos, period=period)
    with pytest.raises(ValueError, match="causal kernel ends abruptly"):
        make_conv(1, causal=True).nufft(x, pos[:, :1])


def test_settings_of_a_network_are_checked():
    x, pos, batch = random_clouds(20, 20, channels=3, dim=2)
    with pytest.raises(ValueError, match="Expected `evaluation` to be 'neighbors' or 'nufft'"):
        make_network(evaluation="fft")
    with pytest.raises(ValueError, match="Expected `evaluation` to be 'neighbors' or 'nufft'"):
        make_network()(x, pos, batch, evaluation="fft")
    with pytest.raises(ValueError, match="Expected `evaluation` 'neighbors' for a causal network"):
        CCNN(3, 4, dim=1, causal=True, evaluation="nufft")
    with pytest.raises(ValueError, match="Expected `tolerance` in"):
        make_network(tolerance=2.0)
    with pytest.raises(ValueError, match="Expected no `edge_index` with `evaluation='nufft'`"):
        make_network()(x, pos, batch, evaluation="nufft", edge_index=all_pairs(batch))


def test_features_in_16_bits_are_convolved_and_kernels_refused():
    conv, (x, pos, _) = make_conv().float(), random_clouds(20, channels=3, dim=2)
    expected = conv.nufft(x.float(), pos)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv.nufft(x.bfloat16(), pos)
    assert found.dtype == torch.bfloat16
    assert relative_error(found.float(), expected) < 0.02
    with pytest.raises(
        TypeError, match="Expected a kernel in float32 or float64, got torch.bfloat16"
    ):
        conv.bfloat16().nufft(x.bfloat16(), pos)


def test_calibration_is_over_all_points():
    model = make_network(evaluation="nufft", tolerance=1e-6)
    x, pos, batch = random_clouds(90, 60, channels=3, dim=2)
    pos = 0.3 * pos
    model.calibrate(x, pos, batch)
    norm = model.stem.nufft(x, pos, batch, tolerance=1e-6, return_kernel_norm=True)[1]
    torch.testing.assert_close(norm, torch.full_like(norm, 3.0))
    graph = model.calibrate(x, pos, batch, edge_index=all_pairs(batch)).stem
    norm = graph(x, pos, all_pairs(batch), return_kernel_norm=True)[1]
    torch.testing.assert_close(norm, torch.full_like(norm, 3.0))


def test_clouds_of_sources_only_are_refused():
    conv, (x, pos, batch) = make_conv(), random_clouds(20, 20, channels=3, dim=2)
    for pair in ((batch, None), (None, batch)):
        with pytest.raises(ValueError, match="Expected `batch` for sources and targets, got one"):
            conv.nufft(x, (pos, pos.clone()), pair)


@pytest.mark.parametrize("bandlimit", ["junk", 0, -1.0, math.nan, (1.0,), (1.0, None)], ids=str)
def test_the_bandlimit_of_a_network_is_checked_at_once(bandlimit):
    with pytest.raises(ValueError, match="Expected `bandlimit` to be"):
        make_network(bandlimit=bandlimit)
    assert make_network(bandlimit="auto").bandlimit == "auto"
