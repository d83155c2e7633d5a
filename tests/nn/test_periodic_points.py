"""Convolutions on points in a periodic box: against loops over images and tiled copies."""

import itertools

import pytest
import torch

import ccnn_geo
from ccnn_geo import CCNN, CKConvMP, collect_kernel_norms, knn_graph, radius_graph, use_backend
from ccnn_geo.nn import SIREN, Points
from ccnn_geo.ops import Neighborhood, nearest_neighbors
from clouds_helpers import random_clouds

# Those for the CPU and double precision; see test_triton.py for the other.
AVAILABLE = ccnn_geo.backends()
BACKENDS = [name for name in ("reference", "torch", "native") if AVAILABLE[name] == "available"]
PERIODS = [
    pytest.param(2.0, id="every axis"),
    pytest.param((2.0, None, 2.5), id="two axes"),
    pytest.param((None, None, 2.0), id="one axis"),
]
SETTINGS = {
    "dim": 3, "kernel_channels": 6, "omega_0": 1.0, "window_width": 0.7, "extent": 0.9,
}  # fmt: skip


def layer(in_channels=4, out_channels=5, **arguments):
    return CKConvMP(in_channels, out_channels, **{**SETTINGS, **arguments}).double()


def lengths_of(period, dim=3):
    return (period,) * dim if isinstance(period, float) else period


def loop_over_images(conv, x, pos, edge_index, period):
    """The definition, one edge and one image at a time, the nearest counts."""
    rows = [x.new_zeros(x.size(1)) for _ in pos]
    readout, support = conv.readout(), conv.support()
    for j, i in edge_index.T.tolist():
        offset = pos[j] - pos[i]
        whole = [
            0.0 if length is None else length * round(float(part) / length)
            for part, length in zip(offset.tolist(), period, strict=True)
        ]
        v = (offset - offset.new_tensor(whole)) / offset.new_tensor(conv.extent)
        if bool((v.abs() > 1).any()):
            continue
        window = torch.exp(-0.5 * (v * support.inverse_sigma).square().sum())
        features = torch.cat([conv.kernel.features(v), v.new_ones(1)])
        rows[i] = rows[i] + window * (readout @ features) * x[j]
    return conv.mixing(torch.stack(rows) + conv.bias)


def tiled(x, pos, period):
    """Copies of a cloud in the boxes around its own, the cloud itself first."""
    shifts = itertools.product(*((0,) if p is None else (0, -1, 1) for p in period))
    unit = torch.tensor([p or 0.0 for p in period], dtype=pos.dtype)
    copies = [pos + torch.tensor(shift, dtype=pos.dtype) * unit for shift in shifts]
    return x.repeat(len(copies), 1), torch.cat(copies)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("period", PERIODS)
def test_values_and_gradients_are_those_of_a_loop_over_nearest_images(backend, period):
    conv = layer()
    x, pos, batch = random_clouds(14, 9)
    pos = 2 * pos  # half of the points lie outside the box
    edge_index = knn_graph(pos, 6, batch, loop=True, period=period)
    leaves = [x.requires_grad_(), pos.requires_grad_(), *conv.parameters()]
    expected = loop_over_images(conv, x, pos, edge_index, lengths_of(period))
    with use_backend(backend):
        actual = conv(x, pos, edge_index, period=period)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)
    slopes = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(actual, leaves, slopes),
        torch.autograd.grad(expected, leaves, slopes),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("period", PERIODS)
def test_a_box_is_the_middle_of_its_copies(backend, separable, period):
    conv = layer(separable=separable)
    x, pos, _ = random_clouds(60)
    sources, copies = tiled(x, pos, lengths_of(period))
    near = torch.cdist(pos, copies) <= 1.0
    target, source = near.nonzero(as_tuple=True)
    with use_backend(backend):
        expected = conv((sources, None), (copies, pos), torch.stack([source, target]))
        edge_index = radius_graph(pos, 1.0, loop=True, period=period)
        actual = conv(x, pos, edge_index, period=period)
    assert edge_index.size(1) == len(source) > int((torch.cdist(pos, pos) <= 1.0).sum())
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", [None, SIREN(3, 6, 4)], ids=["MAGNet", "SIREN"])
def test_moving_the_box_or_single_points_by_periods_changes_nothing(kernel):
    conv = layer(kernel=kernel)
    x, pos, batch = random_clouds(40, 30)
    edge_index = knn_graph(pos, 8, batch, loop=True, period=2.0)
    expected = conv(x, pos, edge_index, period=2.0)
    moved = pos + torch.tensor([0.6, -3.1, 1.7], dtype=pos.dtype)
    assert torch.equal(knn_graph(moved, 8, batch, loop=True, period=2.0), edge_index)
    torch.testing.assert_close(conv(x, moved, edge_index, period=2.0), expected)
    elsewhere = pos + 2.0 * torch.randint(-9, 9, pos.shape)
    torch.testing.assert_close(conv(x, elsewhere, edge_index, period=2.0), expected)
    assert not torch.allclose(conv(x, pos, edge_index), expected)


def test_a_lattice_looks_the_same_from_everywhere_even_where_half_a_period_is_a_step():
    # The offsets to the farthest points are half a period, where the kernel ends.
    conv = layer(2, 3, dim=2, extent=0.4, window_width=5.0)
    axis = 0.1 * torch.arange(8, dtype=torch.float64)
    pos = torch.cartesian_prod(axis, axis)
    x = torch.randn(64, 2, dtype=torch.float64)
    everyone = Neighborhood.from_table(torch.arange(64).repeat(64, 1))
    expected = conv(x, pos, everyone, period=0.8)
    for shift in ([0.3, 0.7], [1e-3, -0.05], [-10.01, 3.3]):
        moved = pos + torch.tensor(shift, dtype=torch.float64)
        torch.testing.assert_close(conv(x, moved, everyone, period=0.8), expected)
    rolled = x.view(8, 8, 2).roll((2, 5), (0, 1)).reshape(64, 2)
    expected = expected.view(8, 8, 3).roll((2, 5), (0, 1)).reshape(64, 3)
    torch.testing.assert_close(conv(rolled, pos, everyone, period=0.8), expected)


def test_two_crystals_of_one_batch_are_the_two_alone():
    conv = layer()
    x, pos, batch = random_clouds(30, 17)
    weight = torch.rand(47, dtype=torch.float64)
    edge_index = knn_graph(pos, 7, batch, loop=True, period=2.0)
    together = conv(x, pos, edge_index, period=2.0, weight=weight)
    for crystal in (batch == 0, batch == 1):
        graph = knn_graph(pos[crystal], 7, loop=True, period=2.0)
        alone = conv(x[crystal], pos[crystal], graph, period=2.0, weight=weight[crystal])
        torch.testing.assert_close(together[crystal], alone)


def test_far_from_the_origin_single_precision_loses_nothing():
    conv = layer().float()
    # All coordinates are exact in single precision.
    pos = torch.randint(2**8, (60, 3)) / 2**7
    far = pos + 2.0 * torch.randint(2**15, (60, 3))
    x = torch.randn(60, 4)
    edge_index = knn_graph(pos, 8, loop=True, period=2.0)
    expected = conv(x, pos, edge_index, period=2.0)
    assert torch.equal(conv(x, far, edge_index, period=2.0), expected)
    assert torch.equal(conv(x, far.double() + 2.0**36, edge_index, period=2.0), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_features_positions_and_weights_are_right(backend):
    conv = layer(2, 2, dim=2)
    x, pos, _ = random_clouds(6, dim=2, channels=2)
    edge_index = knn_graph(pos, 4, loop=True, period=(2.0, None))
    inputs = [x, pos, torch.rand(6, dtype=torch.float64)]
    inputs = [value.requires_grad_() for value in inputs]

    def convolve(x, pos, weight):
        return conv(x, pos, edge_index, period=(2.0, None), weight=weight)

    with use_backend(backend):
        assert torch.autograd.gradcheck(convolve, inputs)
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_bipartite_graphs_and_prepared_neighborhoods_have_images():
    conv = layer()
    x, source, _ = random_clouds(40)
    target = 40 * torch.rand(11, 3, dtype=torch.float64)
    distance = (source - target[:, None] + 1).remainder(2.0) - 1
    table = distance.square().sum(-1).topk(9, largest=False).indices
    neighbors = Neighborhood.from_table(table, 40)
    expected = conv((x, None), (source, target), neighbors.edge_index, period=2.0)
    torch.testing.assert_close(conv((x, None), (source, target), neighbors, period=2.0), expected)
    sources, copies = tiled(x, source, (2.0, 2.0, 2.0))
    offsets = copies - target.remainder(2.0)[:, None]
    j = offsets.square().sum(-1).topk(9, largest=False).indices
    i = torch.arange(11).repeat_interleave(9)
    # Copies beyond the boxes around are farther than any of the nearest.
    tiles = conv((sources, None), (copies, target.remainder(2.0)), torch.stack([j.flatten(), i]))
    torch.testing.assert_close(tiles, expected)


def test_empty_slots_and_an_empty_graph_stay_empty():
    conv = layer()
    x, pos, _ = random_clouds(20)
    table = nearest_neighbors(pos, 5, period=2.0).index.view(20, 5).clone()
    table[3, 2:], table[7] = -1, -1
    neighbors = Neighborhood.from_table(table)
    expected = conv(x, pos, neighbors.edge_index, period=2.0)
    torch.testing.assert_close(conv(x, pos, neighbors, period=2.0), expected)
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    torch.testing.assert_close(
        conv(x, pos, nothing, period=2.0), conv.mixing(conv.bias).expand(20, -1)
    )


def test_a_box_that_no_edge_leaves_changes_nothing():
    conv = layer()
    x, pos, batch = random_clouds(20, 13)
    edge_index = knn_graph(pos, 6, batch, loop=True)
    expected = conv(x, pos, edge_index)
    torch.testing.assert_close(conv(x, pos + 50, edge_index, period=100.0), expected)


def test_hooks_and_explainers_see_the_edges_of_the_caller_with_nearest_images():
    from torch_geometric.explain.algorithm.utils import set_masks

    conv = layer()
    x, pos, batch = random_clouds(20, 13)
    weight = torch.rand(33, dtype=torch.float64)
    edge_index = knn_graph(pos, 6, batch, loop=True, period=2.0)
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    expected = conv(x, pos, edge_index, period=2.0, weight=weight)
    seen = []
    handle = conv.register_message_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    torch.testing.assert_close(conv(x, pos, edge_index, period=2.0, weight=weight), expected)
    handle.remove()
    assert torch.equal(seen[0]["x_j"], x[edge_index[0]])
    offsets = (pos[edge_index[0]] - pos[edge_index[1]] + 1).remainder(2.0) - 1
    torch.testing.assert_close(seen[0]["pos_j"] - seen[0]["pos_i"], offsets)

    keep = torch.rand(edge_index.size(1)) < 0.5
    expected = conv(x, pos, edge_index[:, keep], period=2.0, weight=weight)
    set_masks(conv, torch.nn.Parameter(keep.double()), edge_index, apply_sigmoid=False)
    torch.testing.assert_close(conv(x, pos, edge_index, period=2.0, weight=weight), expected)


def test_pygs_gnn_explainer_explains_a_network_on_a_periodic_graph():
    from torch_geometric.explain import Explainer, GNNExplainer

    model = network(readout=None).float()
    x, pos, _ = random_clouds(12, dtype=torch.float32)
    edge_index = knn_graph(pos, 4, loop=True, period=2.0)
    explainer = Explainer(
        model, algorithm=GNNExplainer(epochs=2), explanation_type="model",
        node_mask_type="attributes", edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )  # fmt: skip
    explanation = explainer(x, edge_index, pos=pos, period=2.0)
    assert explanation.edge_mask.shape == (edge_index.size(1),)
    assert bool((explanation.edge_mask > 0).any())


def test_norms_and_calibration_are_those_of_the_nearest_images():
    conv = layer()
    x, pos, batch = random_clouds(30, 17)
    edge_index = knn_graph(pos, 7, batch, loop=True, period=2.0)
    conv.calibrate(pos, edge_index, period=2.0)
    _, norm = conv(x, pos, edge_index, period=2.0, return_kernel_norm=True)
    torch.testing.assert_close(norm.detach(), torch.tensor(4.0, dtype=torch.float64))
    _, norm = conv(x, pos, edge_index, return_kernel_norm=True)
    assert float(norm.detach()) < 3.9


@pytest.mark.parametrize("period", [0.0, -2.0, float("nan"), (2.0, 2.0), (None, 2.0, 0.0)])
def test_bad_periods_are_named(period):
    x, pos, _ = random_clouds(8)
    graph = torch.zeros(2, 1, dtype=torch.int64)
    message = "Expected `period` to be positive, one number or 3"
    with pytest.raises(ValueError, match=message):
        layer()(x, pos, graph, period=period)
    with pytest.raises(ValueError, match=message):
        network()(x, pos, period=period)


def test_periods_that_are_too_short_for_a_kernel_are_named():
    x, pos, _ = random_clouds(8)
    graph = knn_graph(pos, 3, loop=True)
    message = "at least twice the reach of the kernel, 0.9 along axis 2, got 1.7"
    for call in (
        lambda: layer()(x, pos, graph, period=(2.0, None, 1.7)),
        lambda: layer().calibrate(pos, graph, period=(2.0, None, 1.7)),
        lambda: network()(x, pos, period=(2.0, None, 1.7)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    # The window of a learnable width, cut off at 0.1, ends at 2.1 widths.
    narrow = layer(window_width=0.3, window_cutoff=0.1)
    assert narrow(x, pos, graph, period=1.2).shape == (8, 5)
    with torch.no_grad():
        narrow.window.log_width += 0.3
    with pytest.raises(ValueError, match="reach of the kernel, 0.78.* along axis 0, got 1.2"):
        narrow(x, pos, graph, period=1.2)


def network(**arguments):
    settings = {**SETTINGS, "hidden_channels": 6, "num_blocks": 2, "num_neighbors": 6}
    return CCNN(4, 3, **{**settings, **arguments}).double().eval()


@pytest.mark.parametrize("readout", ["mean", None])
@pytest.mark.parametrize("period", PERIODS)
def test_a_network_on_boxes_does_not_see_where_they_begin(readout, period):
    model = network(readout=readout)
    x, pos, batch = random_clouds(30, 21)
    expected = model(x, pos, batch, period=period)
    shift = torch.tensor([0.6, -3.1, 1.7], dtype=pos.dtype)
    periodic = torch.tensor([length is not None for length in lengths_of(period)])
    wrapped = [
        column if length is None else column.remainder(length)
        for column, length in zip((pos + shift).unbind(1), lengths_of(period), strict=True)
    ]
    torch.testing.assert_close(model(x, torch.stack(wrapped, 1), batch, period=period), expected)
    stretched = torch.where(periodic, pos, pos * 1.1)
    if not bool(periodic.all()):
        assert not torch.allclose(model(x, stretched, batch, period=period), expected)
    assert not torch.allclose(model(x, pos, batch), expected)


def test_a_network_on_a_batch_of_crystals_is_that_on_each_and_its_copies():
    model = network(readout=None, num_neighbors=7)
    x, pos, batch = random_clouds(30, 21)
    together, penalty = model(x, pos, batch, period=2.0, return_kernel_penalty=True)
    for crystal in (batch == 0, batch == 1):
        alone = model(x[crystal], pos[crystal], period=2.0)
        torch.testing.assert_close(together[crystal], alone)
        twice = torch.cat([pos[crystal], pos[crystal] + torch.tensor([2.0, 0, 0]).double()])
        doubled = model(x[crystal].repeat(2, 1), twice, period=(4.0, 2.0, 2.0))
        torch.testing.assert_close(doubled, alone.repeat(2, 1))
    with collect_kernel_norms() as norms:
        model(x, pos, batch, period=2.0)
    torch.testing.assert_close(penalty, sum(norms) / 2)


def test_a_network_takes_the_same_graph_prepared_and_calibrates_on_it():
    model = network()
    x, pos, batch = random_clouds(30, 21)
    graph = knn_graph(pos, 6, batch, loop=True, period=2.0)
    expected = model(x, pos, batch, period=2.0)
    torch.testing.assert_close(model(x, pos, batch, edge_index=graph, period=2.0), expected)
    model.calibrate(x, pos, batch, period=2.0)
    with collect_kernel_norms() as norms:
        model(x, pos, batch, period=2.0)
    assert [float(norm.detach()) for norm in norms] == pytest.approx([4.0, 6.0, 6.0])


def test_compiled_networks_take_periods():
    torch._dynamo.reset()
    model = network(num_blocks=1).float()
    x, pos, batch = random_clouds(30, 21, dtype=torch.float32)
    expected = model(x, pos, batch, period=2.0)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x, pos, batch, period=2.0), expected)


def test_the_points_and_their_images_share_one_domain():
    x, pos, _ = random_clouds(30)
    points = Points.of(pos, knn_graph(pos, 6, loop=True, period=2.0), period=2.0)
    features = points.with_images(x)
    assert torch.equal(features[:30], x)
    assert torch.equal(features[30:], x[points.images])
    assert len(features) == len(points.source) == points.neighbors.num_sources
    assert bool(
        ((points.source[points.edges[0]] - points.target[points.edges[1]]).abs() <= 1).all()
    )
