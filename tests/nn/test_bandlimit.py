"""Kernels under a bandlimit: attenuated sines, in every evaluation alike."""

import math
from functools import partial

import pytest
import torch

from ccnn_geo import CCNN, CKConvMP
from ccnn_geo.nn import SIREN, FourierNet, GaborNet, MAGNet, frequency_penalty, kernel_frequencies
from ccnn_geo.ops import MAGNetWeights, magnet_features, nyquist_frequency
from clouds_helpers import random_clouds


def make_conv(**arguments):
    return CKConvMP(3, 5, **({"dim": 2, "omega_0": 4.0, "kernel_channels": 6} | arguments)).double()


def all_pairs(count):
    return torch.ones(count, count).nonzero().T


def test_a_sine_is_halved_at_the_bandlimit():
    # One filter beside a constant one: the kernel is a sine under the window.
    kernel = FourierNet(1, 1, 1, num_layers=1, omega_0=1.0)
    conv = CKConvMP(1, 1, dim=1, kernel=kernel, extent=2.0, separable=False, bias=False).double()
    with torch.no_grad():
        kernel.frequencies.copy_(torch.tensor([[[2 * math.pi * 3.0]], [[0.0]]]))
        kernel.phases.copy_(torch.tensor([[0.3], [math.pi / 2]]))
        kernel.weights.fill_(1.0)
        kernel.biases.zero_()
        kernel.readout.bias.zero_()
    x, pos, _ = random_clouds(20, channels=1, dim=1)
    # 3 cycles per unit of the extent are 1.5 per unit of `pos`.
    plain = conv(x, pos, all_pairs(20))
    torch.testing.assert_close(conv(x, pos, all_pairs(20), bandlimit=1.5), plain / 2)
    torch.testing.assert_close(
        conv(x, pos, all_pairs(20), bandlimit=1.5 * math.sqrt(2)), plain / math.sqrt(2)
    )


@pytest.mark.parametrize("kind", [MAGNet, GaborNet, FourierNet])
def test_the_features_are_those_of_attenuated_sines(kind):
    network = kind(2, 5, 3, num_layers=2, omega_0=2.0).double()
    coordinates = torch.rand(7, 2).double() - 0.5
    width = torch.tensor([0.05, 0.02]).double()
    hidden = None
    for layer in range(3):
        sine = torch.sin(coordinates @ network.frequencies[layer].T + network.phases[layer])
        attenuation = torch.exp(-0.5 * (network.frequencies[layer] * width).square().sum(-1))
        filtered = attenuation * sine
        if kind is not FourierNet:
            centered = coordinates.unsqueeze(1) - network.centers[layer]
            filtered = filtered * torch.exp(
                -0.5 * (network.inverse_widths[layer] * centered).square().sum(-1)
            )
        if hidden is None:
            hidden = filtered
        else:
            weight, bias = network.weights[layer - 1], network.biases[layer - 1]
            hidden = filtered * torch.nn.functional.linear(hidden, weight, bias)
    features = network.attenuated((0.05, 0.02))
    if isinstance(features, MAGNetWeights):
        features = partial(magnet_features, network=features)
    torch.testing.assert_close(features(coordinates), hidden)


def test_an_infinite_bandlimit_changes_nothing_and_a_high_one_little():
    conv, (x, pos, _) = make_conv(), random_clouds(30, channels=3, dim=2)
    plain = conv(x, pos, all_pairs(30))
    assert torch.equal(conv(x, pos, all_pairs(30), bandlimit=math.inf), plain)
    torch.testing.assert_close(conv(x, pos, all_pairs(30), bandlimit=1e6), plain)
    assert not torch.allclose(conv(x, pos, all_pairs(30), bandlimit=5.0), plain)


def test_auto_is_the_nyquist_frequency_of_the_points():
    conv, (x, pos, _) = make_conv(), random_clouds(200, channels=3, dim=2)
    graph = all_pairs(200)
    torch.testing.assert_close(
        conv(x, pos, graph, bandlimit="auto"),
        conv(x, pos, graph, bandlimit=nyquist_frequency(pos)),
    )


def test_auto_is_the_nyquist_frequency_of_a_grid():
    conv = make_conv(spacing=0.1)
    x = torch.randn(1, 3, 8, 9).double()
    torch.testing.assert_close(
        conv.grid(x, (0.1, 0.2), bandlimit="auto"), conv.grid(x, (0.1, 0.2), bandlimit=(5.0, 2.5))
    )


def test_all_evaluations_agree_under_a_bandlimit():
    conv, (x, pos, _) = make_conv(window_width=0.1), random_clouds(60, channels=3, dim=2)
    graph = conv(x, pos, all_pairs(60), bandlimit=(2.0, 3.0))
    found = conv.nufft(x, pos, bandlimit=(2.0, 3.0), tolerance=1e-6)
    assert (found - graph).norm() < 1e-6 * graph.norm()

    seen = []
    hook = conv.register_message_forward_hook(lambda *call: seen.append(call))
    torch.testing.assert_close(conv(x, pos, all_pairs(60), bandlimit=(2.0, 3.0)), graph)
    hook.remove()
    assert seen


@pytest.mark.usefixtures("transforms")
def test_a_bandlimit_bounds_the_modes():
    conv, (x, pos, _) = (
        make_conv(omega_0=50.0, window_width=0.1),
        random_clouds(60, channels=3, dim=2),
    )
    with pytest.raises(ValueError, match="Set a `bandlimit`"):
        conv.nufft(x, 30 * pos)
    conv.nufft(x, pos, bandlimit=15.0)


def test_a_network_passes_its_bandlimit_on():
    arguments = {
        "dim": 2,
        "hidden_channels": 6,
        "num_blocks": 1,
        "num_neighbors": 30,
        "omega_0": 1.0,
    }
    model = CCNN(3, 4, bandlimit=2.0, **arguments).double().eval()
    x, pos, batch = random_clouds(40, 50, channels=3, dim=2)
    own = model(x, pos, batch)
    torch.testing.assert_close(own, model(x, pos, batch, bandlimit=2.0))
    assert not torch.allclose(own, model(x, pos, batch, bandlimit=math.inf))
    auto = model(x, pos, batch, bandlimit="auto")
    expected = model(x, pos, batch, bandlimit=nyquist_frequency(pos, batch))
    torch.testing.assert_close(auto, expected)


def test_a_grid_network_passes_its_bandlimit_on():
    model = CCNN.for_grid(
        3, 4, size=(12,), hidden_channels=6, num_blocks=1, omega_0=1.0, bandlimit=0.1
    )
    x = torch.randn(2, 3, 12)
    model.eval()
    torch.testing.assert_close(model(x), model(x, bandlimit=0.1))
    assert not torch.allclose(model(x), model(x, bandlimit=math.inf))


def test_parameters_receive_gradients_through_a_bandlimit():
    conv, (x, pos, _) = make_conv(), random_clouds(30, channels=3, dim=2)
    conv(x, pos, all_pairs(30), bandlimit=5.0).sum().backward()
    assert all(parameter.grad is not None for parameter in conv.parameters())


@pytest.mark.parametrize("bandlimit", [0.0, -1.0, math.nan, (1.0,), (1.0, 2.0, 3.0)])
def test_bandlimits_out_of_range_are_refused(bandlimit):
    conv, (x, pos, _) = make_conv(), random_clouds(5, channels=3, dim=2)
    with pytest.raises(ValueError, match="Expected `bandlimit` to be positive"):
        conv(x, pos, all_pairs(5), bandlimit=bandlimit)


def test_what_has_no_bandlimit_is_refused():
    x, pos, _ = random_clouds(5, channels=3, dim=2)
    with pytest.raises(ValueError, match="Expected `bandlimit` to be a number or 'auto'"):
        make_conv()(x, pos, all_pairs(5), bandlimit="nyquist")
    conv = make_conv(kernel=SIREN(2, 8, 3))
    with pytest.raises(
        ValueError,
        match="Expected a MAGNet, GaborNet or FourierNet as the kernel for a `bandlimit`, got a S",
    ):
        conv(x, pos, all_pairs(5), bandlimit=1.0)


@pytest.mark.parametrize("network", [MAGNet, FourierNet])
def test_a_bandlimit_that_leaves_nothing_is_refused(network):
    conv = make_conv(kernel=network(2, 8, 3, omega_0=50.0))
    x, pos, _ = random_clouds(5, channels=3, dim=2)
    with pytest.raises(ValueError, match="leaves something of the kernel"):
        conv(x, pos, all_pairs(5), bandlimit=1e-3)


def test_frequencies_are_sums_over_the_filters_in_the_unit_of_positions():
    conv = make_conv(extent=(0.5, 2.0), window_width=0.1)
    (entry,) = kernel_frequencies(conv)
    kernel, scale = conv.kernel, torch.tensor([2.0, 0.5]).double()
    filters = kernel.frequencies.abs() + 2 * kernel.inverse_widths.abs()
    channel = filters[-1] + sum(each.max(0).values for each in filters[:-1]) + 2 / 0.1
    torch.testing.assert_close(entry.highest, channel / (2 * math.pi) * scale)
    torch.testing.assert_close(entry.window, 2 / 0.1 / (2 * math.pi) * scale)
    limit = float(entry.highest[:, 1].detach().median())
    expected = (entry.highest > torch.tensor([1e9, limit], dtype=torch.float64)).any(-1)
    assert torch.equal(entry.aliasing((1e9, limit)), expected)
    assert 0 < expected.sum() < len(expected)


def test_the_penalty_is_zero_below_the_bandlimit_and_lowers_frequencies_above():
    model = CCNN(3, 4, dim=2, hidden_channels=6, num_blocks=1, kernel_channels=5)
    highest = max(float(entry.highest.detach().max()) for entry in kernel_frequencies(model))
    assert frequency_penalty(model, 1.01 * highest) == 0
    penalty = frequency_penalty(model, 0.5 * highest)
    excess = [
        torch.relu(entry.highest / (0.5 * highest) - 1).square().sum() / 5
        for entry in kernel_frequencies(model)
    ]
    torch.testing.assert_close(penalty, torch.stack(excess).sum())
    penalty.backward()
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    slope = sum(parameter.grad.square().sum() for parameter in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter -= 0.01 * penalty / slope * parameter.grad
    assert frequency_penalty(model, 0.5 * highest) < penalty


def test_frequencies_of_other_kernels_are_refused():
    with pytest.raises(
        ValueError, match="Expected a MAGNet or GaborNet as the kernel of the layer"
    ):
        kernel_frequencies(make_conv(kernel=SIREN(2, 8, 3)))
    with pytest.raises(ValueError, match="Expected a network with CKConvMP layers, got Linear"):
        frequency_penalty(torch.nn.Linear(2, 2), 1.0)
