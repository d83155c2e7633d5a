"""The convolution inside the transforms of `torch.func`, against autograd and plain loops."""

import pytest
import torch
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

import ccnn_geo
from ccnn_geo import CKConvMP, use_backend
from ccnn_geo.ops import nearest_neighbors
from ccnn_geo.ops.point_backends import autograd
from clouds_helpers import random_clouds

BACKENDS = [name for name, state in ccnn_geo.backends().items() if state == "available"]


@pytest.fixture(params=[*BACKENDS, "few edges"], autouse=True)
def _backend(request, monkeypatch):
    few = request.param == "few edges"
    monkeypatch.setattr(autograd, "MAX_MAGNET_ELEMENTS", 2**40 if few else -1)
    with use_backend("torch" if few else request.param):
        yield


@pytest.fixture
def layer():
    return CKConvMP(3, 3, dim=2, num_neighbors=4, omega_0=1.0, window_width=0.5).double()


@pytest.fixture
def cloud():
    x, pos, _ = random_clouds(9, dim=2, channels=3)
    return x, pos, nearest_neighbors(pos, 4)


def loss_of(layer, neighbors):
    def loss(parameters, x, pos):
        return functional_call(layer, parameters, (x, pos, neighbors)).sin().sum()

    return loss


def test_grad_of_a_functional_call_is_what_backward_gives(layer, cloud):
    x, pos, neighbors = cloud
    parameters = {name: part.detach() for name, part in layer.named_parameters()}
    found = grad(loss_of(layer, neighbors), argnums=(0, 1, 2))(parameters, x, pos)
    x.requires_grad_(), pos.requires_grad_()
    layer(x, pos, neighbors).sin().sum().backward()
    for name, part in layer.named_parameters():
        torch.testing.assert_close(found[0][name], part.grad)
    torch.testing.assert_close(found[1:], (x.grad, pos.grad))


def test_vjp_is_what_backward_gives(layer, cloud):
    x, pos, neighbors = cloud
    direction = torch.randn_like(x)
    output, pull = vjp(lambda x, pos: layer(x, pos, neighbors), x, pos)
    found = pull(direction)
    x.requires_grad_(), pos.requires_grad_()
    expected = layer(x, pos, neighbors)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, pos), direction))


def test_jvp_is_the_transpose_of_vjp(layer, cloud):
    x, pos, neighbors = cloud
    tangents, direction = (torch.randn_like(x), torch.randn_like(pos)), torch.randn_like(x)

    def convolve(x, pos):
        return layer(x, pos, neighbors)

    pushed = jvp(convolve, (x, pos), tangents)[1]
    pulled = vjp(convolve, x, pos)[1](direction)
    transposed = sum((one * other).sum() for one, other in zip(pulled, tangents, strict=True))
    torch.testing.assert_close((pushed * direction).sum(), transposed)


def test_gradients_of_gradients_are_those_of_autograd(layer, cloud):
    x, pos, neighbors = cloud
    parameters = {name: part.detach() for name, part in layer.named_parameters()}

    def roughness(parameters, x, pos):
        return grad(loss_of(layer, neighbors), argnums=2)(parameters, x, pos).square().sum()

    found = grad(roughness, argnums=(0, 1, 2))(parameters, x, pos)
    leaves = [*layer.parameters(), x.requires_grad_(), pos.requires_grad_()]
    loss = layer(x, pos, neighbors).sin().sum()
    (first,) = torch.autograd.grad(loss, pos, create_graph=True)
    expected = torch.autograd.grad(
        first.square().sum(), leaves, allow_unused=True, materialize_grads=True
    )
    for one, other in zip([*found[0].values(), *found[1:]], expected, strict=True):
        torch.testing.assert_close(one, other)


def test_third_derivatives_are_those_of_finite_differences(layer, cloud):
    x, pos, neighbors = cloud

    def along(step):
        return layer(x, pos * (1 + step), neighbors).sin().sum()

    second, step = grad(grad(along)), torch.tensor(1e-5, dtype=torch.float64)
    found = grad(second)(torch.zeros_like(step))
    expected = (second(step) - second(-step)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_all_ways_to_a_jacobian_and_a_hessian_agree(layer, cloud):
    x, pos, neighbors = cloud

    def convolve(scale):
        return layer(x * scale[0], pos * scale[1], neighbors).sin().sum(0)

    at = torch.tensor([1.0, 0.9], dtype=torch.float64)
    torch.testing.assert_close(jacfwd(convolve)(at), jacrev(convolve)(at))
    torch.testing.assert_close(
        hessian(lambda scale: convolve(scale).sum())(at),
        torch.autograd.functional.hessian(lambda scale: convolve(scale).sum(), at),
    )


def test_vmap_is_a_loop_over_clouds(layer, cloud):
    x, pos, neighbors = cloud
    many = torch.randn(2, *x.shape, dtype=x.dtype), torch.rand(2, *pos.shape, dtype=x.dtype)
    found = vmap(lambda x, pos: layer(x, pos, neighbors))(*many)
    one_axis = vmap(lambda x: layer(x, pos, neighbors), in_dims=1)(many[0].transpose(0, 1))
    for i in range(2):
        torch.testing.assert_close(found[i], layer(many[0][i], many[1][i], neighbors))
        torch.testing.assert_close(one_axis[i], layer(many[0][i], pos, neighbors))


def test_vmap_over_networks_is_an_ensemble(cloud):
    x, pos, neighbors = cloud
    layers = [CKConvMP(3, 3, dim=2, num_neighbors=4).double() for _ in range(3)]
    parameters, buffers = stack_module_state(layers)

    def convolve(parameters, buffers):
        return functional_call(layers[0], (parameters, buffers), (x, pos, neighbors))

    for found, layer in zip(vmap(convolve)(parameters, buffers), layers, strict=True):
        torch.testing.assert_close(found, layer(x, pos, neighbors))


def test_gradients_of_single_examples_are_those_of_a_loop(layer, cloud):
    x, pos, neighbors = cloud
    parameters = {name: part.detach() for name, part in layer.named_parameters()}
    many = torch.randn(3, *x.shape, dtype=x.dtype)
    one_gradient = grad(loss_of(layer, neighbors))
    found = vmap(one_gradient, in_dims=(None, 0, None))(parameters, many, pos)
    for i, x in enumerate(many):
        for name, part in one_gradient(parameters, x, pos).items():
            torch.testing.assert_close(found[name][i], part)
