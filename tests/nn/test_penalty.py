"""The kernel penalty against kernels that are really generated."""

import pytest
import torch
from clouds_helpers import random_clouds

from ccnn_geo import CCNN, CKConvMP, kernel_penalty, knn_graph, track_kernel_penalty, use_backend
from ccnn_geo.nn import MLP

TINY = {
    "dim": 3, "hidden_channels": 6, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 6,
    "omega_0": 1.0, "window_width": 0.5,
}  # fmt: skip


def generated_norm(conv, pos, edge_index):
    """Half the squared norm of every kernel value, averaged over the targets."""
    offsets = pos[edge_index[0]] - pos[edge_index[1]]
    kernel = conv.kernel(offsets) * conv.support().window(offsets).unsqueeze(-1)
    return 0.5 * kernel.square().sum() / len(pos)


@pytest.mark.parametrize(
    "arguments", [{}, {"separable": False}, {"kernel": lambda values: MLP(3, 4, values)}]
)
@pytest.mark.parametrize("tracked", [False, True])
def test_the_penalty_is_half_the_norm_of_the_generated_kernels(arguments, tracked):
    model = CCNN(4, 3, **TINY, **arguments).double()
    x, pos, batch = random_clouds(20, 9)
    track_kernel_penalty(model, tracked)
    model(x, pos, batch)
    edge_index = knn_graph(pos, 6, batch)
    convs = [module for module in model.modules() if isinstance(module, CKConvMP)]
    assert len(convs) == 2
    expected = sum(generated_norm(conv, pos, edge_index) for conv in convs)
    penalty = kernel_penalty(model)
    torch.testing.assert_close(penalty, expected)
    leaves = [p for c in convs for p in [*c.kernel.parameters(), c.window.log_width]]
    for one, other in zip(
        torch.autograd.grad(penalty, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert bool((one != 0).any())


def test_the_penalty_does_not_grow_with_the_number_of_points():
    model = CCNN(4, 3, **TINY).double()
    x, pos, batch = random_clouds(20)
    model(x, pos, batch)
    once = kernel_penalty(model)
    model(x.repeat(3, 1), pos.repeat(3, 1), torch.arange(3).repeat_interleave(20))
    torch.testing.assert_close(kernel_penalty(model), once)


def test_tracking_shares_the_pass_of_the_convolution(monkeypatch):
    from ccnn_geo.nn import conv as module

    model = CCNN(4, 3, **TINY).double()
    track_kernel_penalty(model)
    calls = []
    original = module.point_conv
    monkeypatch.setattr(module, "point_conv", lambda *a, **k: calls.append(1) or original(*a, **k))
    with use_backend("torch"):
        loss = model(*random_clouds(20, 9)).sum() + kernel_penalty(model)
        loss.backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(*random_clouds(20, 9))
    assert float(kernel_penalty(model).detach()) > 0
    assert len(calls) == 6


def test_models_without_convolutions_or_forward_passes_are_refused():
    with pytest.raises(ValueError, match="CKConvMP layers, got a Linear"):
        kernel_penalty(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="CKConvMP layers, got a Linear"):
        track_kernel_penalty(torch.nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="forward pass before `kernel_norm`"):
        kernel_penalty(CCNN(4, 3, **TINY))
