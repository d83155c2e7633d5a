"""The convolution: every evaluation against a double loop over the definition."""

import copy
import os
import sys
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import ccnn_geo
from ccnn_geo import CKConvMP, use_backend
from ccnn_geo.nn import MLP, SIREN, FourierNet, GaborNet, KernelNetwork, MAGNet, Points
from ccnn_geo.ops import KernelSupport, MAGNetWeights, Neighborhood, nearest_neighbors, point_conv
from ccnn_geo.ops.point_backends import autograd
from ccnn_geo.ops.point_backends import torch as torch_backend
from ccnn_geo.ops.point_backends.operator import magnet_conv
from ccnn_geo.ops.point_backends.registry import is_deterministic
from ccnn_geo.ops.point_backends.tiling import Tiles
from clouds_helpers import random_clouds

WIDTH = 5  # from here on, the leaves of `make_call` are the window's width and the network's
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# Of gradients, which are sums over all edges in which much cancels.
GRADIENT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
BACKENDS = [name for name, state in ccnn_geo.backends().items() if state == "available"]
EVALUATIONS = [*BACKENDS, "autograd"]


@contextmanager
def backend_for(evaluation):
    """The backend of an evaluation: `"autograd"` is plain PyTorch without tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograd, "MAX_MAGNET_ELEMENTS", 2**40 if evaluation == "autograd" else -1)
        yield "torch" if evaluation == "autograd" else evaluation


def double_loop(x, pos, edge_index, kernel, readout, support, num_targets, weight=None):
    """The definition, one edge at a time."""
    source, target = pos
    channels = readout.size(0)
    rows = [x.new_zeros(channels) for _ in range(num_targets)]
    for j, i in edge_index.T.tolist():
        v = (source[j] - target[i]) * torch.tensor(support.scale, dtype=x.dtype)
        if bool((v < support.bounds[0]).any()) or bool((v > support.bounds[1]).any()):
            continue
        window = torch.exp(-0.5 * ((v * support.inverse_sigma) ** 2).sum())
        features = kernel.features(v + support.shift)
        values = readout @ torch.cat([features, features.new_ones(1)])
        x_j = x[j] if weight is None else weight[j] * x[j]
        rows[i] = rows[i] + window * (values * x_j if readout.dim() == 2 else values @ x_j)
    return torch.stack(rows)


def gradients(outputs, leaves):
    """Gradients of a random projection of the outputs."""
    generator = torch.Generator().manual_seed(1)
    projections = [
        torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        for output in outputs
    ]
    return torch.autograd.grad(
        outputs, leaves, projections, allow_unused=True, materialize_grads=True
    )


def largest(*tensors):
    return max([1.0, *(float(t.detach().abs().max()) for t in tensors if t.numel())])


def assert_close(actual, expected, dtype, scale=None, slack=0.0, tolerance=TOLERANCE):
    """Compare up to the tolerance times the largest entry of what is expected, or `scale`."""
    scale = largest(expected) if scale is None else scale
    atol = tolerance[dtype] * scale + slack
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def make_call(
    dim, degrees, channels, hidden, depth, *,
    full=False, sources=9, padded=False, clouds=(), **support,
):  # fmt: skip
    """Random operands with leaves that want gradients.

    Every target has neighbours of its own number, in a table with empty slots if `padded`; or
    `degrees` is the number of nearest neighbours in clouds of these sizes.
    """
    dtype = torch.float64
    sources = sum(clouds) or sources
    targets = sources if clouds else len(degrees)
    x = torch.randn(sources, channels, dtype=dtype, requires_grad=True)
    source = (torch.rand(sources, dim, dtype=dtype) * 2 - 1).requires_grad_()
    target = (torch.rand(targets, dim, dtype=dtype) * 2 - 1).requires_grad_()
    weight = torch.rand(sources, dtype=dtype, requires_grad=True)
    if clouds:
        batch = torch.arange(len(clouds)).repeat_interleave(torch.tensor(clouds))
        neighbors = nearest_neighbors(source.detach(), degrees, batch)
    elif padded:
        slots = torch.arange(max(degrees, default=0) + 1)
        table = torch.randint(sources, (targets, len(slots)))
        neighbors = Neighborhood.from_table(
            table.masked_fill(slots >= torch.tensor(degrees)[:, None], -1), sources
        )
    else:
        i = torch.arange(targets).repeat_interleave(torch.tensor(degrees, dtype=torch.int64))
        j = torch.randint(sources, (len(i),))
        neighbors = Neighborhood.from_edge_index(torch.stack([j, i]), sources, targets)
    kernel = MAGNet(dim, hidden, 1, num_layers=depth, omega_0=1.0).to(dtype)
    shape = (3, channels, hidden + 1) if full else (channels, hidden + 1)
    readout = torch.randn(shape, dtype=dtype, requires_grad=True)
    widths = dim if support.pop("per_axis", False) else 1
    log_width = (torch.rand(widths, dtype=dtype) - 0.5).requires_grad_()
    leaves = [x, source, target, weight, readout, log_width]
    leaves += [p for name, p in kernel.named_parameters() if not name.startswith("readout")]

    def evaluate(evaluation, to=dtype, rounded_to=dtype):
        """Evaluate in one precision operands that were rounded to another."""
        x_, source_, target_, weight_, readout_, log_width_ = (
            leaf.to(rounded_to).to(to) for leaf in leaves[:6]
        )
        network = MAGNetWeights(*(w.to(rounded_to).to(to) for w in kernel.magnet_weights()))
        with backend_for(evaluation) as backend:
            return point_conv(
                x_, source_ if clouds else (source_, target_), neighbors, network, readout_,
                KernelSupport(log_width_, dim, **support),
                weight=weight_, with_moment=True, backend=backend,
            )  # fmt: skip

    def loop():
        return double_loop(
            x, (source, target), neighbors.edge_index, kernel, readout,
            KernelSupport(log_width, dim, **support), targets, weight,
        )  # fmt: skip

    return evaluate, loop, leaves


CASES = {
    "uniform": {"degrees": [5] * 6},
    "ragged": {"degrees": [3, 0, 7, 1]},
    "full": {"degrees": [4] * 5, "full": True},
    "full ragged": {"degrees": [4, 1, 0], "full": True},
    "causal": {"dim": 1, "degrees": [5] * 6, "causal": True},
    "cutoff": {"degrees": [5] * 6, "cutoff": 0.1},
    "extent": {"degrees": [5] * 6, "extent": (0.5, 1.0, 2.0)},
    "per axis": {"degrees": [2, 3], "per_axis": True},
    "one filter layer": {"degrees": [5] * 6, "depth": 1},
    "four dimensions": {"dim": 4, "degrees": [6] * 3},
    "no targets": {"degrees": []},
    "no edges": {"degrees": [0, 0]},
    "no edges, full": {"degrees": [0, 0], "full": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_every_backend_is_the_double_loop_in_values_and_gradients(evaluation, case):
    arguments = {"dim": 3, "channels": 4, "hidden": 5, "depth": 3, **CASES[case]}
    evaluate, loop, leaves = make_call(**arguments)
    expected = loop() if arguments["degrees"] else torch.zeros(0, 4, dtype=torch.float64)
    actual, _ = evaluate(evaluation)
    assert_close(actual, expected, torch.float64)
    if expected.requires_grad:
        wanted = gradients([expected], leaves)
        for one, other in zip(gradients([actual], leaves), wanted, strict=True):
            assert_close(one, other, torch.float64)


GRAPHS = st.one_of(
    st.fixed_dictionaries(
        {
            "degrees": st.lists(st.integers(0, 40), min_size=1, max_size=6),
            "padded": st.booleans(),
        }
    ),
    st.builds(lambda k, n: {"degrees": [k] * n}, st.integers(1, 300), st.integers(1, 3)),
    st.fixed_dictionaries(
        {
            "degrees": st.integers(1, 20),
            "clouds": st.lists(st.integers(1, 30), min_size=1, max_size=3),
        }
    ),
)


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    graph=GRAPHS,
    dim=st.integers(1, 4),
    channels=st.integers(1, 400),
    hidden=st.integers(1, 64),
    depth=st.integers(1, 5),
    full=st.booleans(),
    per_axis=st.booleans(),
)
@pytest.mark.parametrize("evaluation", [name for name in EVALUATIONS if name != "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_backends_agree_with_the_reference(
    evaluation, dtype, graph, dim, channels, hidden, depth, full, per_axis
):
    torch.manual_seed(0)
    evaluate, _, leaves = make_call(
        dim, graph["degrees"], channels, hidden, depth, full=full, per_axis=per_axis,
        padded=graph.get("padded", False), clouds=graph.get("clouds", ()),
    )  # fmt: skip
    # Rounded operands, evaluated in float64: what is left is the rounding of the evaluation.
    expected = evaluate("reference", rounded_to=dtype)
    wanted = [*expected, *gradients(expected, leaves)]
    actual = evaluate(evaluation, dtype, dtype)
    got = [*actual, *gradients(actual, leaves)]
    plain = evaluate("reference", dtype, dtype)
    # Nothing may err by more than the tolerance and a few times what the reference errs in the same
    # type. Gradients of the kernel's parameters may be single numbers: they share one scale.
    errors = [
        float((one - other).detach().abs().max()) if other.numel() else 0.0
        for one, other in zip([*plain, *gradients(plain, leaves)], wanted, strict=True)
    ]
    of_kernel = largest(*wanted[2 + WIDTH :])
    for place, (one, other, error) in enumerate(zip(got, wanted, errors, strict=True)):
        scale = of_kernel if place >= 2 + WIDTH else None
        tolerance = TOLERANCE if place < 2 else GRADIENT_TOLERANCE
        assert_close(one.to(other.dtype), other, dtype, scale, 4 * error, tolerance)


@pytest.mark.parametrize("constant", ["_ROTATION_ELEMENTS", "_CANCELLATION_LIMIT"])
def test_the_torch_backend_gives_the_same_by_its_other_ways(constant, monkeypatch):
    evaluate, _, leaves = make_call(3, [40] * 6, 4, 5, 3)
    usual = evaluate("torch")
    monkeypatch.setattr(torch_backend.network, constant, 0)
    other = evaluate("torch")
    for one, two in zip(
        [*usual, *gradients(usual, leaves)], [*other, *gradients(other, leaves)], strict=True
    ):
        assert_close(two, one, torch.float64)
    single = evaluate("torch", torch.float32)
    for one, two in zip(usual, single, strict=True):
        assert_close(two.double(), one, torch.float32)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_empty_slots_of_a_table_count_for_nothing(evaluation):
    x, pos, _ = random_clouds(7)
    kernel = MAGNet(3, 5, 4, omega_0=1.0).double()
    readout = torch.randn(4, 6, dtype=torch.float64)
    support = KernelSupport(torch.zeros(1, dtype=torch.float64), 3)
    table = torch.randint(7, (7, 5))
    padded = torch.cat([table, torch.full((7, 2), -1)], 1)
    with backend_for(evaluation) as backend:
        with_padding, without = (
            point_conv(
                x, pos, Neighborhood.from_table(t), kernel.magnet_weights(), readout, support,
                backend=backend,
            )[0]
            for t in (padded, table)
        )  # fmt: skip
    torch.testing.assert_close(with_padding, without, atol=1e-12, rtol=0)


def test_few_edges_are_kept_and_can_be_differentiated_twice():
    evaluate, _, leaves = make_call(2, [3] * 3, 2, 3, 2)
    output, _ = evaluate("autograd")
    (first,) = torch.autograd.grad(output.square().sum(), leaves[:1], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaves[:1])
    reference, _ = evaluate("reference")
    (first,) = torch.autograd.grad(reference.square().sum(), leaves[:1], create_graph=True)
    (expected,) = torch.autograd.grad(first.sum(), leaves[:1])
    assert_close(second, expected, torch.float64)


@pytest.mark.parametrize("edges", [2730, 2731])
def test_more_edges_than_fit_the_limit_go_in_tiles(edges, monkeypatch):
    tiled_calls = []

    def spy(call, **options):
        tiled_calls.append(call.index.numel())
        return magnet_conv(call, **options)

    monkeypatch.setattr(sys.modules["ccnn_geo.ops.point_conv"], "magnet_conv", spy)
    kernel, channels = MAGNet(1, 32, 1), 64  # 4 * 32 + 64 = 192 elements an edge, of 2^19
    x, pos = torch.randn(edges, channels), torch.rand(edges, 1)
    neighbors = Neighborhood.from_table(torch.arange(edges).unsqueeze(1))
    support = KernelSupport(torch.zeros(1), 1)
    readout = torch.randn(channels, 33)
    point_conv(
        x, pos, neighbors, kernel.magnet_weights(), readout, support, backend="torch"
    )  # fmt: skip
    assert tiled_calls == ([] if edges == 2730 else [edges])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("degrees", [[4, 4, 4], [1, 0, 6]])
@pytest.mark.parametrize("network", [SIREN, MLP, FourierNet, GaborNet])
def test_other_kernel_networks_are_tiled_and_agree_with_the_reference(network, degrees, full):
    kernel = network(2, 6, 1).double()
    sources, targets = 8, len(degrees)
    i = torch.arange(targets).repeat_interleave(torch.tensor(degrees))
    neighbors = Neighborhood.from_edge_index(
        torch.stack([torch.randint(sources, (len(i),)), i]), sources, targets
    )
    x = torch.randn(sources, 3, dtype=torch.float64, requires_grad=True)
    pos = tuple(
        torch.rand(n, 2, dtype=torch.float64, requires_grad=True) for n in (sources, targets)
    )
    shape = (5, 3, 7) if full else (3, 7)
    readout = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    log_width = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    leaves = [x, *pos, readout, log_width]
    leaves += [p for name, p in kernel.named_parameters() if not name.startswith("readout")]
    results = []
    for backend in ("reference", "torch"):
        output, moment = point_conv(
            x, pos, neighbors, kernel.features, readout, KernelSupport(log_width, 2),
            with_moment=True, backend=backend,
        )  # fmt: skip
        results.append([output, moment, *gradients([output, moment], leaves)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, torch.float64)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("full", [False, True])
def test_gradients_can_be_differentiated_again(evaluation, full):
    evaluate, _, leaves = make_call(2, [3] * 3, 2, 3, 2, full=full)
    output, moment = evaluate(evaluation)
    expected, expected_moment = evaluate("reference")

    def twice(output, moment):
        loss = output.sin().sum() + moment.square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(
            sum(grad.square().sum() for grad in first), leaves, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip

    for one, other in zip(twice(output, moment), twice(expected, expected_moment), strict=True):
        torch.testing.assert_close(one, other)
        assert bool(one.isfinite().all())


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_gradients_that_keep_their_graph_equal_those_that_do_not(evaluation):
    # Sources and targets are one tensor, and the second layer's features depend on all operands.
    x, pos, _ = random_clouds(12, dim=2, channels=3)
    conv = CKConvMP(3, 3, dim=2, num_neighbors=4, omega_0=1.0, window_width=0.5).double()
    neighbors = nearest_neighbors(pos, 4)
    leaves = [x.requires_grad_(), pos.requires_grad_(), *conv.parameters()]
    with backend_for(evaluation) as backend, use_backend(backend):
        loss = conv(conv(x, pos, neighbors), pos, neighbors).square().sum()
        kept = torch.autograd.grad(loss, leaves, create_graph=True)
        plain = torch.autograd.grad(loss, leaves)
    for one, other in zip(kept, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_mode_differentiation_gives_the_directional_derivative(backend):
    x, pos, _ = random_clouds(9, dim=2, channels=3)
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4, omega_0=1.0, window_width=0.5).double()
    neighbors = nearest_neighbors(pos, 4)
    tangents = torch.randn_like(x), torch.randn_like(pos)
    with use_backend(backend), forward_ad.dual_level():
        inputs = map(forward_ad.make_dual, (x, pos), tangents)
        actual = forward_ad.unpack_dual(conv(*inputs, neighbors)).tangent
    step = 1e-6
    moved = [conv(x + s * tangents[0], pos + s * tangents[1], neighbors) for s in (step, -step)]
    torch.testing.assert_close(actual, (moved[0] - moved[1]) / (2 * step), atol=1e-6, rtol=1e-5)


FAR = [1e3, 5e5, 4e6]


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_layer_of_single_precision_takes_coordinates_far_from_the_origin(backend, far, scale):
    conv = CKConvMP(3, 4, dim=3, num_neighbors=8, extent=scale, omega_0=50.0)
    x, pos, batch = random_clouds(40, 30, dim=3, channels=3)
    # The clouds of a batch lie far from each other, too.
    shift = torch.tensor([far, -far, 0.5 * far], dtype=torch.float64)
    away = scale * pos + torch.outer(1.0 + batch, shift)
    neighbors = nearest_neighbors(pos, 8, batch)
    results = []
    with use_backend(backend):
        for place in (away, away - torch.outer(1.0 + batch, shift)):
            leaf = place.clone().requires_grad_()
            output = conv(x.float(), leaf, neighbors)
            output.square().sum().backward()
            results.append((output.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        limit = 1e-5 * float(other.abs().max())
        torch.testing.assert_close(one, other, atol=limit, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_of_single_precision_count_with_all_their_digits(backend):
    conv = CKConvMP(3, 4, dim=3, num_neighbors=8, extent=0.7, omega_0=50.0)
    x, pos, _ = random_clouds(40, dim=3, channels=3, dtype=torch.float32)
    pos = pos + 1000.0
    neighbors = nearest_neighbors(pos, 8)
    with use_backend(backend):
        actual = conv(x, pos, neighbors)
    expected = copy.deepcopy(conv).double()(x.double(), pos.double(), neighbors).float()
    limit = 1e-5 * float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, atol=limit, rtol=0)


@pytest.mark.parametrize("far", [1e5, 1e12, 1e300, 1e308])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_point_far_from_all_others_leaves_them_as_they_are(evaluation, far):
    x, pos, _ = random_clouds(30, dim=2, channels=3)
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4, extent=0.5, omega_0=10.0)
    table = torch.stack([torch.roll(torch.arange(30), step) for step in range(1, 9)], 1)
    results = []
    for place in (far, 10.0):  # beyond the support both times
        moved = pos.clone()
        moved[0] = place
        moved.requires_grad_()
        with backend_for(evaluation) as backend, use_backend(backend):
            output = conv(x.float(), moved, Neighborhood.from_table(table))
            output.square().sum().backward()
        results.append((output.detach(), moved.grad))
    for one, other in zip(*results, strict=True):
        limit = 1e-5 * float(other.abs().max())
        torch.testing.assert_close(one, other, atol=limit, rtol=0)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e308])
def test_without_edges_the_output_is_zero_whatever_the_features(evaluation, value):
    evaluate, _, leaves = make_call(2, [0] * 3, 2, 3, 2)
    with torch.no_grad():
        leaves[0].fill_(value)
        leaves[3].fill_(1.0)
    output, moment = evaluate(evaluation)
    assert float(output.detach().abs().max()) == float(moment.detach().abs().max()) == 0.0
    del leaves[3]  # the weights, whose gradients are products with the features
    for grad in torch.autograd.grad(output.sum() + moment.sum(), leaves, allow_unused=True):
        assert grad is not None and not bool(grad.any())


def table_with_empty_slots():
    """Six targets of four slots each, some empty; every edge inside the support but some."""
    x, pos, _ = random_clouds(6, dim=2, channels=3)
    table = torch.tensor([[1, 2, -1, -1]] * 5 + [[-1] * 4])
    return x, pos, Neighborhood.from_table(table)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_reach_connected_targets_and_no_others(evaluation, value):
    x, pos, neighbors = table_with_empty_slots()
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4, omega_0=1.0, window_width=0.5).double()
    x[0] = value  # the source that stands in for empty slots
    with backend_for(evaluation) as backend, use_backend(backend):
        hidden, _ = conv.convolve_points(x, Points.of(pos, neighbors), with_norm=False)
        assert bool(hidden.isfinite().all())
        x[1] = value
        hidden, _ = conv.convolve_points(x, Points.of(pos, neighbors), with_norm=False)
    assert hidden.isfinite().all(1).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_features_beyond_the_support_contribute_nothing_even_if_not_finite(evaluation):
    x, pos, _ = table_with_empty_slots()
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4, omega_0=1.0, window_width=0.5).double()
    pos[1] += 50.0
    x[1] = torch.nan
    neighbors = Neighborhood.from_table(torch.tensor([[1, 2, 3]] * 6)[[0, 2, 3, 4, 5, 0]])
    with backend_for(evaluation) as backend, use_backend(backend):
        hidden, _ = conv.convolve_points(x, Points.of(pos, neighbors), with_norm=False)
    assert hidden.isfinite().all(1).tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_nan_inside_the_support_spreads_even_where_the_window_has_decayed(evaluation):
    x, pos = torch.ones(2, 3), torch.tensor([[0.0, 0.0], [0.9, 0.9]])
    x[1] = torch.nan
    conv = CKConvMP(3, 4, dim=2, num_neighbors=1, window_width=0.05)
    neighbors = Neighborhood.from_table(torch.tensor([[1], [0]]))
    with backend_for(evaluation) as backend, use_backend(backend):
        hidden, _ = conv.convolve_points(x, Points.of(pos, neighbors), with_norm=False)
    assert hidden.isfinite().all(1).tolist() == [False, True]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("broken", ["pos", "weight"])
def test_positions_and_weights_that_are_not_finite_are_refused(evaluation, broken):
    x, pos, neighbors = table_with_empty_slots()
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4).double()
    weight = torch.ones(6, dtype=torch.float64)
    (pos if broken == "pos" else weight)[3] = torch.nan
    match = "finite (target|source) positions" if broken == "pos" else "finite weight"
    with backend_for(evaluation) as backend, use_backend(backend):
        with pytest.raises(ValueError, match=match):
            conv.convolve_points(x, Points.of(pos, neighbors, weight=weight), with_norm=False)


@pytest.mark.parametrize("broken", [0, 1])
def test_sources_and_targets_have_to_be_finite(broken):
    x, pos, neighbors = table_with_empty_slots()
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4).double()
    parts = (pos.clone(), pos.clone())
    parts[broken][3] = torch.nan
    name = ("source", "target")[broken]
    with pytest.raises(ValueError, match=f"Expected finite {name} positions"):
        conv.convolve_points(x, Points.of(parts, neighbors), with_norm=False)


class Singular(KernelNetwork):
    """A kernel network that is singular at a place, offset zero unless given."""

    place = 0.0

    def features(self, coordinates):
        distance = (coordinates - self.place).square().sum(-1, keepdim=True).sqrt()
        return (1 / distance).expand(*coordinates.shape[:-1], self.hidden_channels)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_kernel_that_is_singular_at_an_empty_slot_stays_finite(backend):
    x, pos, _ = table_with_empty_slots()
    pos.requires_grad_()
    conv = CKConvMP(3, 4, dim=2, kernel=Singular(2, 3, 3), window_width=0.5).double()
    table = torch.tensor([[1, 2, -1]] + [[3, 4, -1]] * 2 + [[0, -1, -1]] * 3)
    table[0] = torch.tensor([-1, 2, 1])  # source 0 stands in for an empty slot of target 0
    with use_backend(backend):
        output = conv(x, pos, Neighborhood.from_table(table))
        output.sum().backward()
    assert bool(output.isfinite().all()) and bool(pos.grad.isfinite().all())


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_kernel_that_is_singular_beyond_its_support_stays_finite(backend):
    x, pos, _ = random_clouds(4, dim=2, channels=3)
    conv = CKConvMP(3, 4, dim=2, kernel=Singular(2, 3, 3), window_width=0.5).double()
    conv.kernel.place = 50.0
    pos[0] = pos[1] + 50.0
    pos.requires_grad_()
    with use_backend(backend):
        output = conv(x, pos, Neighborhood.from_table(torch.tensor([[1, 2], [0, 2]] * 2)))
        output.sum().backward()
    assert bool(output.isfinite().all()) and bool(pos.grad.isfinite().all())


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_table_of_empty_slots_without_sources_gives_the_bias(evaluation):
    conv = CKConvMP(3, 4, dim=2, num_neighbors=4).double()
    pos = torch.rand(5, 2, dtype=torch.float64)
    nothing = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.float64)
    neighbors = Neighborhood.from_table(torch.full((5, 2), -1), 0)
    with backend_for(evaluation) as backend, use_backend(backend):
        output, norm = conv(nothing[0], (nothing[1], pos), neighbors, return_kernel_norm=True)
    torch.testing.assert_close(output, conv.mixing(conv.bias).expand(5, -1))
    assert float(norm.detach()) == 0.0
    (output.sum() + norm).backward()


def captured_arguments():
    """Arguments of the operator for a small call, as leaves."""
    evaluate, _, _ = make_call(3, [4] * 3, 2, 3, 2)
    captured = []
    original = ccnn_geo.ops.point_backends.operator._magnet_conv

    def spy(*arguments):
        captured.extend(arguments)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ccnn_geo.ops.point_backends.operator, "_magnet_conv", spy)
        evaluate("torch")
    return tuple(
        a.detach().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in captured
    )


def transposed(value):
    """The same numbers, the first axis running fastest."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return value
    axes = tuple(reversed(range(value.dim())))
    return value.detach().permute(axes).contiguous().permute(axes).requires_grad_()


@pytest.mark.parametrize("layout", [lambda value: value, transposed], ids=["plain", "transposed"])
def test_the_fused_operator_passes_torchs_own_checks(layout):
    operator = ccnn_geo.ops.point_backends.operator._magnet_conv
    torch.library.opcheck(operator, tuple(layout(a) for a in captured_arguments()))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_operands_may_lie_in_memory_as_they_like(backend):
    operator = ccnn_geo.ops.point_backends.operator._magnet_conv
    plain, results = captured_arguments()[:-1], []
    for layout in (lambda value: value, transposed):
        arguments = [layout(a) for a in plain]
        outputs = operator(*arguments, backend)
        wanted = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
        results.append([*outputs, *gradients(outputs, wanted)])
    for one, other in zip(*results, strict=True):
        assert_close(other, one, torch.float64)


def test_the_reach_of_memory_is_one_tile():
    index = torch.arange(1000) % 50
    table = list(Tiles(index, None, 10, 100, 64))
    assert [len(t.table) for t in table] == [6] * 16 + [4]
    degrees = torch.tensor([500, 1, 0, 3, 496])
    pointer = torch.nn.functional.pad(degrees.cumsum(0), (1, 0))
    cut = list(Tiles(index, pointer, 0, 5, 100))
    assert [t.rows.tolist() for t in cut] == [[2, 1, 3], [4], [0]]
    assert sum(int((t.table >= 0).sum()) for t in cut) == 1000


def test_the_kernel_ends_at_its_extent_up_to_rounding():
    support = KernelSupport(torch.zeros(1), 1, extent=0.3)
    pos = torch.tensor([[0.1 * 3], [0.31], [-0.3], [-0.31]])
    assert (support.window(support.to_kernel_unit(pos)) > 0).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_a_causal_kernel_has_the_present_at_one_and_sees_no_future():
    support = KernelSupport(torch.zeros(1), 1, extent=2.0, causal=True)
    v = support.to_kernel_unit(torch.tensor([[0.0], [-1.0], [-2.0], [0.5], [-2.5]]))
    assert (v + support.shift).squeeze().tolist() == [1.0, 0.0, -1.0, 1.5, -1.5]
    assert (support.window(v) > 0).tolist() == [True, True, True, False, False]


def test_the_cutoff_is_a_box_of_every_axis():
    support = KernelSupport(torch.log(torch.tensor([0.1, 0.2])), 2, cutoff=0.1)
    reach = (-2 * torch.log(torch.tensor(0.1))).sqrt() * torch.tensor([0.1, 0.2])
    corner = 0.999 * reach
    outside = torch.stack([corner, corner, corner])
    outside[1, 0] = 1.001 * reach[0]
    outside[2, 1] = 1.001 * reach[1]
    assert (support.window(outside) > 0).tolist() == [True, False, False]


def test_environment_and_context_choose_the_backend(monkeypatch):
    from ccnn_geo.ops.point_backends.registry import choose_backend

    cpu = torch.device("cpu")
    monkeypatch.setenv("CCNN_GEO_BACKEND", "reference")
    assert choose_backend("auto", cpu, torch.float32) == "reference"
    with ccnn_geo.use_backend("torch"):
        assert choose_backend("auto", cpu, torch.float32) == "torch"
        assert choose_backend("reference", cpu, torch.float32) == "reference"
    assert choose_backend("auto", cpu, torch.float32) == "reference"
    monkeypatch.setenv("CCNN_GEO_BACKEND", "fast")
    with pytest.raises(ValueError, match="`CCNN_GEO_BACKEND` to be one of auto"):
        choose_backend("auto", cpu, torch.float32)
    monkeypatch.delenv("CCNN_GEO_BACKEND")
    assert "CCNN_GEO_BACKEND" not in os.environ
    with pytest.raises(ValueError, match="`name` to be one of auto"), ccnn_geo.use_backend("x"):
        pass


def test_gradients_are_reproducible_unless_asked_otherwise():
    assert is_deterministic()
    with ccnn_geo.use_backend(deterministic=False):
        assert not is_deterministic()
        with ccnn_geo.use_backend(deterministic=True):
            assert is_deterministic()
    assert is_deterministic()


def test_a_backend_that_cannot_run_says_why():
    state = ccnn_geo.backends()
    assert state["reference"] == state["torch"] == "available"
    if state["triton"] == "available":
        pytest.skip("Triton can run here")
    x, pos, _ = random_clouds(5, dtype=torch.float32)
    kernel = MAGNet(3, 4, 4)
    with pytest.raises(RuntimeError, match="'triton' cannot run on cpu"):
        point_conv(
            x, pos, nearest_neighbors(pos, 2), kernel.magnet_weights(), torch.rand(4, 5),
            KernelSupport(torch.zeros(1), 3), backend="triton",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("x", "pos", "match"),
    [
        (torch.rand(4, 2), torch.rand(5, 3), r"`x` of shape \[5, C\], got \[4, 2\]"),
        (torch.rand(5, 3), torch.rand(5, 3), "`x` with 2 channels, got 3"),
        (torch.rand(5, 2), torch.rand(4, 3), r"source positions of shape \[5, 3\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, pos, match):
    neighbors = Neighborhood.from_table(torch.zeros(5, 2, dtype=torch.int64))
    kernel = MAGNet(3, 4, 2)
    with pytest.raises(ValueError, match=match):
        point_conv(
            x, pos, neighbors, kernel.magnet_weights(), torch.rand(2, 5),
            KernelSupport(torch.zeros(1), 3),
        )  # fmt: skip


def arguments():
    """Arguments of a small convolution, in single precision."""
    x, pos, _ = random_clouds(6, dim=2, channels=3, dtype=torch.float32)
    network = MAGNet(2, 4, 3, num_layers=2).magnet_weights()
    return {
        "x": x,
        "pos": pos,
        "neighbors": nearest_neighbors(pos, 3),
        "features": MAGNetWeights(*(part.detach() for part in network)),
        "readout": torch.randn(3, 5),
        "support": KernelSupport(torch.zeros(1), 2),
    }


SHAPES = {
    "short": lambda part: part[..., :-1],
    "few": lambda part: part[:-1],
    "none": lambda part: part[:0],
    "one number": lambda part: part.sum(),
    "one more axis": lambda part: part[None, None],
    "without data": lambda part: part.to("meta"),
}
TYPES = {
    "integers": torch.Tensor.long,
    "complex": lambda part: part.to(torch.complex64),
    "sparse": torch.Tensor.to_sparse,
    "an array": lambda part: part.numpy(),
    "a list": torch.Tensor.tolist,
    "nothing": lambda part: None,
}


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("how", [*SHAPES, *TYPES])
@pytest.mark.parametrize("name", ["x", "pos", "readout", *MAGNetWeights._fields])
def test_arguments_of_a_wrong_shape_or_type_are_an_error_in_every_backend(evaluation, name, how):
    given = arguments()
    change = SHAPES.get(how) or TYPES[how]
    if name in given:
        given[name] = change(given[name])
    else:
        part = change(getattr(given["features"], name))
        given["features"] = given["features"]._replace(**{name: part})
    error = TypeError if how in TYPES else ValueError
    with backend_for(evaluation) as backend, pytest.raises(error, match="Expected .*got"):
        point_conv(**given, backend=backend)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_network_in_another_precision_than_its_readout_is_an_error(evaluation):
    for name in ("features", "readout", "support"):
        given = arguments()
        given[name] = {
            "features": MAGNetWeights(*(part.double() for part in given["features"])),
            "readout": given["readout"].double(),
            "support": KernelSupport(torch.zeros(1, dtype=torch.float64), 2),
        }[name]
        with backend_for(evaluation) as backend:
            with pytest.raises(TypeError, match="like readout, got torch.float"):
                point_conv(**given, backend=backend)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(
    "change",
    [
        lambda index, pointer: (index + 6, pointer),
        lambda index, pointer: (index - 9, pointer),
        lambda index, pointer: (torch.full_like(index, 2**40), None),
        lambda index, pointer: (torch.full_like(index, -(2**62)), None),
        lambda index, pointer: (index, pointer.flip(0)),
        lambda index, pointer: (index, pointer + 1),
        lambda index, pointer: (index, pointer * 2**58),
    ],
)
def test_neighbours_that_do_not_exist_are_an_error_in_every_backend(evaluation, change):
    given = arguments()
    index, pointer = change(given["neighbors"].index, torch.arange(0, 19, 3))
    degree = 3 if pointer is None else 0
    given["neighbors"] = Neighborhood(index, 6, 6, degree, pointer)
    with backend_for(evaluation) as backend, pytest.raises(IndexError, match="Expected"):
        point_conv(**given, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_that_name_a_source_where_there_is_none_are_an_error(backend):
    given = arguments()
    given["pos"] = given["pos"][:0], given["pos"]
    given["x"], given["neighbors"] = given["x"][:0], Neighborhood(torch.zeros(18).long(), 0, 6, 3)
    with pytest.raises(IndexError, match="Expected every entry of `index` in"):
        point_conv(**given, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("features", "error", "match"),
    [
        (lambda c: c, ValueError, r"`features` to return \[18, 4\], got \[18, 2\]"),
        (
            lambda c: c.double().repeat(1, 2),
            TypeError,
            "to return torch.float32, got torch.float64",
        ),
        ("gabor", TypeError, "to be MAGNetWeights or a function, got a str"),
    ],
)
def test_a_function_that_gives_wrong_features_is_an_error(backend, features, error, match):
    with pytest.raises(error, match=match):
        point_conv(**{**arguments(), "features": features}, backend=backend)


def test_other_containers_than_a_neighborhood_or_a_pair_are_an_error():
    given = arguments()
    edges = given["neighbors"].edge_index
    with pytest.raises(TypeError, match="`neighbors` to be a Neighborhood, got a tensor"):
        point_conv(**{**given, "neighbors": edges})
    with pytest.raises(ValueError, match="a tensor or a pair, got 3 parts"):
        point_conv(**{**given, "pos": (given["pos"],) * 3})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("evaluation", ["torch", "autograd"])
def test_a_layer_in_16_bits_works_for_few_and_many_edges(evaluation, dtype):
    x, pos, _ = random_clouds(40, dim=2, channels=3, dtype=torch.float32)
    conv = CKConvMP(3, 4, dim=2, num_neighbors=8, omega_0=1.0, window_width=0.5)
    neighbors = nearest_neighbors(pos, 8)
    expected = conv(x, pos, neighbors)
    with backend_for(evaluation) as backend, use_backend(backend):
        actual = conv.to(dtype)(x.to(dtype), pos, neighbors)
    limit = 0.05 * float(expected.detach().abs().max())
    torch.testing.assert_close(actual.float(), expected, atol=limit, rtol=0)
