"""Grids and all pairs of points inside the transforms of `torch.func`, against autograd."""

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap

from ccnn_geo import CKConvMP
from ccnn_geo.nn import SIREN
from ccnn_geo.ops import grid_conv, nearest_neighbors, nufft_conv
from ccnn_geo.ops.nufft_backends.finufft import is_available
from ccnn_geo.ops.nufft_conv import BACKENDS
from ccnn_geo.ops.point_backends import autograd
from clouds_helpers import random_clouds


def layer(**arguments):
    settings = {"dim": 2, "kernel_channels": 5, "omega_0": 1.5, "window_width": 0.1}
    return CKConvMP(3, 2, **(settings | arguments)).double()


def on_grid(conv):
    signal = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    return lambda x: conv.grid(signal * x.sum(0).view(1, -1, 1, 1), spacing=0.1).flatten(2)[0]


def on_all_points(conv):
    pos = random_clouds(12, dim=2)[1]
    return lambda x: conv.nufft(x, pos, tolerance=1e-8).T


EVALUATIONS = [on_grid, on_all_points]


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_jacobians_and_hessians_are_those_of_autograd(evaluation, separable):
    convolve, x = evaluation(layer(separable=separable)), random_clouds(12, channels=3)[0]

    def output(x):
        return convolve(x).sum(1)

    def loss(scale):
        return convolve(x * scale).sin().sum()

    one = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(jacrev(output)(x), torch.autograd.functional.jacobian(output, x))
    torch.testing.assert_close(
        jacrev(jacrev(loss))(one), torch.autograd.functional.hessian(loss, one)
    )


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_vmap_is_a_loop_over_features(evaluation):
    convolve = evaluation(layer())
    many = torch.randn(4, 12, 3, dtype=torch.float64)

    def loss(x):
        return convolve(x).sin().sum()

    for run in (convolve, grad(loss)):
        expected = torch.stack([run(x) for x in many])
        torch.testing.assert_close(vmap(run)(many), expected)
        torch.testing.assert_close(vmap(run, in_dims=2)(many.movedim(0, 2)), expected)


@pytest.mark.parametrize("kernel", [None, SIREN], ids=["MAGNet", "SIREN"])
@pytest.mark.parametrize("evaluation", ["grid", "nufft"])
def test_gradients_of_parameters_and_positions_are_those_of_backward(evaluation, kernel):
    conv = layer(kernel=None if kernel is None else kernel(2, 5, 3, omega_0=1.0).double())
    x, pos, _ = random_clouds(12, dim=2, channels=3)
    signal = torch.randn(1, 3, 4, 5, dtype=torch.float64)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, pos):
            if evaluation == "grid":
                return self.conv.grid(signal, spacing=0.1).sin().sum()
            return self.conv.nufft(x, pos, tolerance=1e-8).sin().sum()

    loss = Loss()
    parameters = {name: part.detach() for name, part in loss.named_parameters()}
    found = grad(lambda *leaves: functional_call(loss, *leaves), argnums=(0, 1))(parameters, pos)
    loss(pos.requires_grad_()).backward()
    for name, part in loss.named_parameters():
        torch.testing.assert_close(found[0][name], part.grad)
    if evaluation == "nufft":
        torch.testing.assert_close(found[1], pos.grad)


@pytest.mark.usefixtures("transforms")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_many_gradients_at_a_time_are_those_of_a_loop_or_refused(monkeypatch):
    conv, (x, pos, _) = layer(), random_clouds(12, dim=2, channels=3)
    x.requires_grad_()
    directions = torch.randn(3, 12, 2, dtype=torch.float64)
    graph = nearest_neighbors(pos, 5)
    monkeypatch.setattr(autograd, "MAX_MAGNET_ELEMENTS", -1)  # so that the operator is fused
    found = torch.autograd.grad(conv(x, pos, graph), x, directions, is_grads_batched=True)[0]
    for each, direction in zip(found, directions, strict=True):
        expected = torch.autograd.grad(conv(x, pos, graph), x, direction)[0]
        torch.testing.assert_close(each, expected)
    with pytest.raises(RuntimeError, match="Expected a single gradient, got many at a time"):
        torch.autograd.grad(conv.nufft(x, pos), x, directions, is_grads_batched=True)


def test_what_sizes_depend_on_cannot_be_mapped_over():
    conv, (x, pos, _) = layer(spacing=0.1), random_clouds(12, dim=2, channels=3)
    many, graph = pos.expand(2, -1, -1), nearest_neighbors(pos, 5)
    message = "torch.func.vmap. does not map over"
    with pytest.raises(ValueError, match=message):
        vmap(lambda pos: conv.nufft(x, pos))(many)
    with pytest.raises(ValueError, match=message):
        vmap(lambda pos: conv(x, pos, graph, period=4.0))(many)
    parameters = {name: part.expand(2, *part.shape) for name, part in conv.named_parameters()}
    signal = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        vmap(lambda own: functional_call(conv, own, (signal,)))(parameters)


def test_forward_mode_is_refused_with_a_reason():
    conv, (x, pos, _) = layer(spacing=0.1), random_clouds(12, dim=2, channels=3)
    signal = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    message = "Expected no forward-mode differentiation"
    with pytest.raises(RuntimeError, match=message):
        jvp(lambda x: conv.nufft(x, pos), (x,), (x,))
    with pytest.raises(RuntimeError, match=message):
        jvp(conv.grid, (signal,), (signal,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        conv.grid(torch.autograd.forward_ad.make_dual(signal, signal))


def test_grids_of_many_axes_are_refused_with_a_reason():
    x, kernel = torch.randn(1, 2, 3, 3, 3, 3), torch.randn(2, 3, 3, 3, 3)
    with pytest.raises(RuntimeError, match="at most 3 axes for second derivatives and"):
        grad(lambda x: grid_conv(x, kernel).sum())(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_transforms_can_be_mapped_over(backend):
    if backend == "finufft" and not is_available(torch.device("cpu")):
        pytest.skip("needs finufft")
    conv, pos = layer(), random_clouds(12, dim=2)[1]
    call = conv.kernel.magnet_weights(), conv.readout(), conv.support()

    def convolve(x):
        return nufft_conv(x, pos, *call, backend=backend)[0]

    many = torch.randn(3, 12, 3, dtype=torch.float64)
    torch.testing.assert_close(vmap(convolve)(many), torch.stack([convolve(x) for x in many]))
