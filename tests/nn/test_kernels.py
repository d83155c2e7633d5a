"""Kernel networks: their contract, their formulas, their initialisation."""

import math

import pytest
import torch

from ccnn_geo.nn import MLP, SIREN, FourierNet, GaborNet, GaussianWindow, KernelNetwork, MAGNet

NETWORKS = [MAGNet, GaborNet, FourierNet, SIREN, MLP]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_values_are_a_linear_readout_of_the_features(network, dim):
    kernel = network(dim, 8, 5)
    coordinates = torch.rand(2, 7, dim) * 2 - 1
    features = kernel.features(coordinates)
    assert features.shape == (2, 7, 8)
    torch.testing.assert_close(
        kernel(coordinates), features @ kernel.readout.weight.T + kernel.readout.bias
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_of_values_and_coordinates_are_right(network):
    kernel = network(2, 3, 2, num_layers=2).double()
    if hasattr(kernel, "frequencies"):
        with torch.no_grad():
            kernel.frequencies.div_(50)
    coordinates = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(kernel.parameters())

    def evaluate(coordinates, *values):
        named = dict(zip(dict(kernel.named_parameters()), values, strict=True))
        return torch.func.functional_call(kernel, named, (coordinates,))

    assert torch.autograd.gradcheck(evaluate, (coordinates, *parameters))


def test_magnet_is_the_product_of_gabor_filters_written_out():
    kernel = MAGNet(2, 3, 1, num_layers=1, omega_0=1.0)
    c = [0.3, -0.2]
    mu, gamma, omega, phi, weights, biases = (p.tolist() for p in kernel.magnet_weights())
    filters = [
        [
            math.exp(-0.5 * sum((gamma[m][h][d] * (c[d] - mu[m][h][d])) ** 2 for d in range(2)))
            * math.sin(sum(omega[m][h][d] * c[d] for d in range(2)) + phi[m][h])
            for h in range(3)
        ]
        for m in range(2)
    ]
    expected = [
        filters[1][h] * (sum(weights[0][h][g] * filters[0][g] for g in range(3)) + biases[0][h])
        for h in range(3)
    ]
    with torch.no_grad():
        torch.testing.assert_close(kernel.features(torch.tensor(c)), torch.tensor(expected))


def test_gabor_net_is_a_magnet_with_one_width_per_filter():
    kernel = GaborNet(3, 4, 2)
    magnet = MAGNet(3, 4, 2)
    with torch.no_grad():
        for name, parameter in magnet.named_parameters():
            parameter.copy_(kernel.get_parameter(name).expand_as(parameter))
    coordinates = torch.rand(5, 3)
    torch.testing.assert_close(kernel(coordinates), magnet(coordinates))


def test_weights_shifted_by_one_see_coordinates_shifted_by_one():
    from ccnn_geo.ops import magnet_features

    weights = MAGNet(2, 4, 1, omega_0=1.0).double().magnet_weights()
    c = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(
        magnet_features(c, weights.shifted(1.0)), magnet_features(c + 1, weights)
    )


def test_magnet_is_initialised_as_published():
    kernel = MAGNet(3, 4000, 1, omega_0=50.0, center_range=(-0.125, 0.125))
    assert float(kernel.centers.detach().abs().max()) <= 0.125
    means = kernel.inverse_widths.detach().mean((1, 2))
    torch.testing.assert_close(means, torch.tensor([6.0, 3.0, 2.0, 1.5]), rtol=0.05, atol=0)
    ratio = (kernel.frequencies / kernel.inverse_widths).detach().abs()
    assert float(ratio.max()) <= 2 * math.pi * 50 / math.sqrt(3) * (1 + 1e-6)
    assert torch.equal(kernel.phases.detach(), torch.zeros(4, 4000))
    assert torch.equal(kernel.biases.detach(), torch.ones(3, 4000))
    assert torch.equal(kernel.readout.bias.detach(), torch.zeros(1))
    assert float(kernel.weights.detach().var()) == pytest.approx(1 / 4000, rel=0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_seed_fixes_all_weights_and_reset_draws_new_ones(network):
    torch.manual_seed(3)
    first = network(2, 4, 3)
    torch.manual_seed(3)
    second = network(2, 4, 3)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    second.reset_parameters()
    assert not torch.equal(first.readout.weight, second.readout.weight)


def test_a_new_mlp_is_initialised_as_by_its_reset():
    """PyTorch would draw biases up to 1 / sqrt(64)."""
    for layer in MLP(2, 64, 3).layers[1:]:
        assert layer.bias.abs().max() > 0.5


@pytest.mark.parametrize(
    ("network", "omega_0"), [(MAGNet, 50), (GaborNet, 50), (FourierNet, 50), (SIREN, 30)]
)
def test_the_default_frequencies_are_the_published_ones(network, omega_0):
    states = []
    for arguments in ({}, {"omega_0": omega_0, "num_layers": 3}):
        torch.manual_seed(0)
        states.append(network(2, 8, 3, **arguments).state_dict())
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("network", NETWORKS)
def test_kernels_have_unit_scale_within_a_factor_of_ten(network):
    coordinates = torch.rand(500, 2) * 2 - 1
    spread = [float(network(2, 32, 16)(coordinates).detach().std()) for _ in range(5)]
    assert 0.01 < min(spread) and max(spread) < 10


def test_the_window_keeps_its_logarithm_and_shares_it_in_three_dimensions():
    assert GaussianWindow(3).log_width.shape == (1,)
    assert GaussianWindow(2).log_width.shape == (2,)
    assert GaussianWindow(3, isotropic=False).log_width.shape == (3,)
    window = GaussianWindow(2, (0.1, 0.2))
    torch.testing.assert_close(window.log_width.exp(), torch.tensor([0.1, 0.2]))
    assert "0.1, 0.2" in repr(window)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: MAGNet(0, 4, 1), "`dim` >= 1, got 0"),
        (lambda: SIREN(2, 0, 1), "`hidden_channels` >= 1"),
        (lambda: MLP(2, 4, 0), "`out_channels` >= 1"),
        (lambda: MAGNet(2, 4, 1, omega_0=0.0), "`omega_0` to be positive"),
        (lambda: FourierNet(2, 4, 1, omega_0=float("nan")), "`omega_0` to be positive"),
        (lambda: SIREN(2, 4, 1, omega_0=-1.0), "`omega_0` to be positive"),
        (lambda: GaborNet(2, 4, 1, num_layers=0), "`num_layers` >= 1, got 0"),
        (lambda: MAGNet(2, 4, 1, center_range=(1.0, 1.0)), "`center_range`"),
        (lambda: GaussianWindow(2, 0.0), "`width` to be positive"),
        (lambda: GaussianWindow(2, (0.1, 0.2, 0.3)), "one number or 2"),
        (lambda: GaussianWindow(2, (0.1, 0.2), isotropic=True), "one `width` for an isotropic"),
    ],
)
def test_bad_arguments_are_named(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def test_the_base_class_leaves_the_features_to_its_children():
    with pytest.raises(NotImplementedError):
        KernelNetwork(2, 3, 1)(torch.zeros(1, 2))
