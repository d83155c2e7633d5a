"""The kernel penalty against kernels that are really generated."""

import gc
import weakref

import pytest
import torch

from ccnn_geo import CCNN, CKConvMP, collect_kernel_norms, kernel_penalty, use_backend
from ccnn_geo.nn import MLP
from ccnn_geo.ops import nearest_neighbors
from clouds_helpers import random_clouds

TINY = {
    "dim": 3, "hidden_channels": 6, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 6,
    "omega_0": 1.0, "window_width": 0.5,
}  # fmt: skip


def generated_norm(conv, pos, edge_index):
    """Squared norm of every kernel value, averaged over the targets."""
    offsets = pos[edge_index[0]] - pos[edge_index[1]]
    kernel = conv.kernel(offsets) * conv.support().window(offsets).unsqueeze(-1)
    return kernel.square().sum() / len(pos)


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, CKConvMP)]


def collected(model, *inputs):
    with collect_kernel_norms() as norms:
        model(*inputs)
    return kernel_penalty(norms)


def returned(model, *inputs):
    return model(*inputs, return_kernel_penalty=True)[1]


@pytest.mark.parametrize(
    "arguments", [{}, {"separable": False}, {"kernel": lambda values: MLP(3, 4, values)}]
)
@pytest.mark.parametrize("penalty_of", [collected, returned])
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_the_penalty_is_half_the_norm_of_the_generated_kernels(arguments, penalty_of, backend):
    model = CCNN(4, 3, **TINY, **arguments).double()
    x, pos, batch = random_clouds(20, 9)
    pos.requires_grad_()
    edge_index = nearest_neighbors(pos, 6, batch).edge_index
    convs = convolutions(model)
    assert len(convs) == 2
    expected = 0.5 * sum(generated_norm(conv, pos, edge_index) for conv in convs)
    with use_backend(backend):
        penalty = penalty_of(model, x, pos, batch)
    torch.testing.assert_close(penalty, expected)
    leaves = [pos, *(p for c in convs for p in [*c.kernel.parameters(), c.window.log_width])]
    for one, other in zip(
        torch.autograd.grad(penalty, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert bool((one != 0).any())


def test_the_penalty_does_not_grow_with_the_number_of_points():
    model = CCNN(4, 3, **TINY).double()
    x, pos, _ = random_clouds(20)
    once = returned(model, x, pos)
    batch = torch.arange(3).repeat_interleave(20)
    torch.testing.assert_close(returned(model, x.repeat(3, 1), pos.repeat(3, 1), batch), once)


def test_the_penalty_is_always_of_the_kernels_as_they_are_now():
    model = CCNN(4, 3, **TINY).double()
    inputs = random_clouds(20, 9)
    before = collected(model, *inputs)
    with torch.no_grad():
        for conv in convolutions(model):
            conv.window.log_width.add_(0.5)
    assert float(collected(model, *inputs).detach()) > 1.1 * float(before.detach())


def test_a_layer_that_is_called_twice_counts_twice():
    conv = CKConvMP(4, 4, dim=3, num_neighbors=6, window_width=0.5).double()
    x, pos, _ = random_clouds(12)
    neighbors = nearest_neighbors(pos, 6)
    _, norm = conv(x, pos, neighbors, return_kernel_norm=True)
    with collect_kernel_norms() as norms:
        conv(conv(x, pos, neighbors), pos, neighbors)
    torch.testing.assert_close(kernel_penalty(norms), norm)


def test_nested_collections_both_see_a_layer_and_closed_ones_see_nothing():
    conv = CKConvMP(4, 4, dim=3, num_neighbors=6).double()
    x, pos, _ = random_clouds(12)
    neighbors = nearest_neighbors(pos, 6)
    with collect_kernel_norms() as outer:
        with collect_kernel_norms() as inner:
            conv(x, pos, neighbors)
        conv(x, pos, neighbors)
    conv(x, pos, neighbors)
    assert (len(outer), len(inner)) == (2, 1)


def test_nothing_of_a_forward_pass_stays_on_a_model():
    model = CCNN(4, 3, **TINY).double()
    x, pos, batch = random_clouds(20, 9)
    x.requires_grad_()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    logits, penalty = model(x, pos, batch, return_kernel_penalty=True)
    kept = weakref.ref(logits), weakref.ref(penalty)
    del logits, penalty
    gc.collect()
    assert [each() for each in kept] == [None, None]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_bad_norms_are_refused():
    with pytest.raises(ValueError, match="at least one kernel norm in `norms`, got none"):
        kernel_penalty([])
    with pytest.raises(TypeError, match="`norms` to be a list of tensors, got a Linear"):
        kernel_penalty(torch.nn.Linear(2, 2))
