"""CKConvMP: a PyG layer in which points hear their neighbours."""

import copy
import io

import numpy as np
import pytest
import torch

from ccnn_geo import CCNN, CKConvMP, knn_graph, use_backend
from ccnn_geo.nn import SIREN
from ccnn_geo.ops import Neighborhood, nearest_neighbors
from clouds_helpers import random_clouds


def conv_and_graph(k=6, sizes=(20, 13), dim=3, in_channels=4, out_channels=5, **arguments):
    arguments = {"omega_0": 1.0, "window_width": 0.5, "kernel_channels": 6, **arguments}
    conv = CKConvMP(in_channels, out_channels, dim=dim, num_neighbors=k, **arguments).double()
    x, pos, batch = random_clouds(*sizes, dim=dim, channels=in_channels)
    return conv, x, pos, knn_graph(pos, k, batch, loop=True), batch


VARIANTS = [
    pytest.param({}, id="separable"),
    pytest.param({"separable": False}, id="full"),
    pytest.param({"dim": 1, "causal": True}, id="causal"),
    pytest.param({"dim": 2, "window_cutoff": 0.1}, id="cutoff"),
    pytest.param({"dim": 4}, id="four dimensions"),
    pytest.param({"bias": False}, id="no bias"),
    pytest.param({"kernel": SIREN(3, 6, 4)}, id="another kernel"),
]


def test_changing_one_points_feature_changes_its_neighbours_outputs():
    conv, x, pos, edge_index, _ = conv_and_graph(kernel=SIREN(3, 6, 4))
    other = x.clone()
    other[3] += 1
    changed = (conv(x, pos, edge_index) != conv(other, pos, edge_index)).any(1)
    heard = torch.zeros(len(x), dtype=torch.bool)
    heard[edge_index[1, edge_index[0] == 3]] = True
    assert int(heard.sum()) > 1
    assert torch.equal(changed, heard)


@pytest.mark.parametrize("arguments", VARIANTS)
def test_the_fused_layer_equals_its_readable_messages(arguments):
    conv, x, pos, edge_index, _ = conv_and_graph(**arguments)
    weight = torch.rand(len(x), dtype=torch.float64)
    fused = conv(x, pos, edge_index, weight=weight)
    with torch.no_grad():
        handle = conv.register_message_forward_hook(lambda module, inputs, output: output)
        readable = conv(x, pos, edge_index, weight=weight)
        handle.remove()
    torch.testing.assert_close(fused, readable, atol=1e-10, rtol=0)


def test_explainers_see_one_message_per_edge():
    conv, x, pos, edge_index, _ = conv_and_graph()
    messages = []
    conv.register_message_forward_hook(lambda module, inputs, output: messages.append(output))
    conv(x, pos, edge_index)
    assert messages[0].shape == (edge_index.size(1), 4)


@pytest.mark.parametrize("kind", ["propagate", "message", "aggregate"])
@pytest.mark.parametrize("moment", ["forward", "forward_pre"])
def test_hooks_fire_once_and_see_the_edges_in_the_order_of_the_caller(kind, moment):
    conv, x, pos, edge_index, _ = conv_and_graph(sizes=(12,))
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    seen = []
    getattr(conv, f"register_{kind}_{moment}_hook")(lambda module, *args: seen.append(args))
    expected = conv(x, pos, edge_index)
    assert len(seen) == 1
    inputs = seen[0][0]
    if kind == "propagate":
        assert torch.equal(inputs[0], edge_index)
    elif kind == "message":
        torch.testing.assert_close(inputs[0]["x_j"], x[edge_index[0]])
    else:
        assert torch.equal(inputs[0]["index"], edge_index[1])
    seen.clear()
    with use_backend("reference"):
        torch.testing.assert_close(conv(x, pos, edge_index), expected)


def masked(module, mask):
    """Set the mask of edges as PyG's explainers do."""
    from torch_geometric.explain.algorithm.utils import set_masks

    set_masks(module, torch.nn.Parameter(mask), torch.zeros(2, len(mask)).long(), False)


def test_edges_that_an_explainer_masks_count_as_absent_in_the_order_of_the_caller():
    conv, x, pos, edge_index, _ = conv_and_graph()
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    keep = torch.rand(edge_index.size(1)) < 0.5
    expected = conv(x, pos, edge_index[:, keep])
    masked(conv, keep.double())
    torch.testing.assert_close(conv(x, pos, edge_index), expected)


def test_edges_that_an_explainer_masks_count_as_absent_in_a_network():
    model = CCNN(4, 3, dim=3, hidden_channels=5, num_blocks=1, omega_0=1.0, window_width=0.5)
    model = model.double().eval()
    _, x, pos, edge_index, batch = conv_and_graph()
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    keep = torch.rand(edge_index.size(1)) < 0.5
    expected = model(x, pos, batch, edge_index=edge_index[:, keep])
    masked(model, keep.double())
    torch.testing.assert_close(model(x, edge_index, batch, pos=pos), expected)


@pytest.mark.parametrize("edge_mask_type", ["object", None])
def test_pygs_gnn_explainer_explains_a_network_on_an_unsorted_graph(edge_mask_type):
    from torch_geometric.explain import Explainer, GNNExplainer

    model = CCNN(
        4, 2, dim=3, hidden_channels=5, num_blocks=1, num_neighbors=4, omega_0=1.0,
        window_width=0.5, readout=None,
    )  # fmt: skip
    x, pos, _ = random_clouds(12, dtype=torch.float32)
    edge_index = knn_graph(pos, 4, loop=True)
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    explainer = Explainer(
        model, algorithm=GNNExplainer(epochs=2), explanation_type="model",
        node_mask_type="attributes", edge_mask_type=edge_mask_type,
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )  # fmt: skip
    explanation = explainer(x, edge_index, pos=pos)
    assert explanation.node_mask.shape == x.shape
    if edge_mask_type:
        assert explanation.edge_mask.shape == (edge_index.size(1),)
        assert bool((explanation.edge_mask > 0).any())


def test_layers_for_grids_stack_in_torchs_sequential():
    torch.manual_seed(0)
    layers = [CKConvMP.for_grid(2, 4, size=(5, 6)), torch.nn.GELU()]
    net = torch.nn.Sequential(*layers, CKConvMP.for_grid(4, 3, size=(5, 6))).double()
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    expected = net[2].grid(net[1](net[0].grid(x)))
    torch.testing.assert_close(net(x), expected)


def test_arguments_of_message_passing_are_accepted():
    conv = CKConvMP(4, 5, dim=3, node_dim=0, aggr="add")
    assert conv.node_dim == 0
    with pytest.raises(ValueError, match="`aggr` to be 'add', got 'max'"):
        CKConvMP(4, 5, dim=3, aggr="max")
    with pytest.raises(ValueError, match="`flow` to be 'source_to_target'"):
        CKConvMP(4, 5, dim=3, flow="target_to_source")


def test_pygs_edge_index_gives_the_same():
    from torch_geometric import EdgeIndex

    conv, x, pos, edge_index, _ = conv_and_graph()
    wrapped = EdgeIndex(edge_index, sparse_size=(len(x), len(x)))
    torch.testing.assert_close(conv(x, pos, wrapped), conv(x, pos, edge_index))


@pytest.mark.parametrize("arguments", VARIANTS)
def test_permuting_points_permutes_outputs(arguments):
    conv, x, pos, edge_index, _ = conv_and_graph(**arguments)
    order = torch.randperm(len(x))
    place = order.argsort()
    expected = conv(x, pos, edge_index)[order]
    torch.testing.assert_close(conv(x[order], pos[order], place[edge_index]), expected)


def test_permuting_edges_changes_nothing():
    conv, x, pos, edge_index, _ = conv_and_graph()
    shuffled = edge_index[:, torch.randperm(edge_index.size(1))]
    torch.testing.assert_close(conv(x, pos, shuffled), conv(x, pos, edge_index))


def test_translating_a_cloud_changes_nothing():
    conv, x, pos, edge_index, _ = conv_and_graph()
    shift = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(conv(x, pos + shift, edge_index), conv(x, pos, edge_index))


def test_a_batch_of_two_clouds_is_the_two_alone():
    conv, x, pos, edge_index, batch = conv_and_graph()
    together = conv(x, pos, edge_index)
    for cloud in (batch == 0, batch == 1):
        alone = conv(x[cloud], pos[cloud], knn_graph(pos[cloud], 6, loop=True))
        torch.testing.assert_close(together[cloud], alone)


def test_scaling_positions_and_extent_together_changes_nothing():
    torch.manual_seed(1)
    one, x, pos, edge_index, _ = conv_and_graph()
    torch.manual_seed(1)
    other, *_ = conv_and_graph(extent=1000.0)
    torch.testing.assert_close(other(x, 1000 * pos, edge_index), one(x, pos, edge_index))


def test_targets_without_neighbours_get_the_bias():
    conv, x, pos, _, _ = conv_and_graph()
    with torch.no_grad():
        conv.bias.uniform_()
        conv.mixing.bias.uniform_()
    edge_index = torch.tensor([[0, 1], [2, 2]])
    output = conv(x, pos, edge_index)
    expected = conv.mixing(conv.bias).expand(len(x), -1).clone()
    expected[2] = output[2]
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("arguments", VARIANTS)
def test_bipartite_graphs_move_features_from_sources_to_targets(arguments):
    conv, x, pos, _, _ = conv_and_graph(**arguments)
    targets = pos[:7] + 0.01
    edge_index = torch.stack([torch.arange(len(x)), torch.arange(len(x)) % 7])
    output = conv((x, None), (pos, targets), edge_index)
    assert output.shape == (7, 5)
    with torch.no_grad():
        conv.register_message_forward_hook(lambda module, inputs, output: output)
        torch.testing.assert_close(output, conv((x, None), (pos, targets), edge_index))


def test_quadrature_weights_multiply_the_sources():
    conv, x, pos, edge_index, _ = conv_and_graph()
    weight = torch.rand(len(x), dtype=torch.float64)
    expected = conv(x * weight[:, None], pos, edge_index)
    torch.testing.assert_close(conv(x, pos, edge_index, weight=weight), expected)


def test_a_causal_layer_hears_the_past_only():
    conv, *_ = conv_and_graph(dim=1, causal=True)
    pos = torch.arange(10, dtype=torch.float64).unsqueeze(1) / 10
    x = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    everyone = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    conv(x, pos, everyone)[4].sum().backward()
    assert (x.grad.abs().sum(1) > 0).tolist() == [True] * 5 + [False] * 5


def test_a_prepared_neighborhood_gives_the_same():
    conv, x, pos, edge_index, batch = conv_and_graph()
    expected = conv(x, pos, edge_index)
    torch.testing.assert_close(conv(x, pos, nearest_neighbors(pos, 6, batch)), expected)
    ragged = Neighborhood.from_edge_index(edge_index[:, :-1], len(x))
    assert conv(x, pos, ragged).shape == expected.shape


@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_parameter_gets_a_gradient_and_inputs_stay_as_they_are(arguments):
    conv, x, pos, edge_index, _ = conv_and_graph(**arguments)
    before = x.clone(), pos.clone(), edge_index.clone()
    conv(x, pos, edge_index).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    for value, old in zip((x, pos, edge_index), before, strict=True):
        assert torch.equal(value, old)


def test_gradients_of_features_positions_and_weights_are_right():
    conv, x, pos, edge_index, _ = conv_and_graph(k=3, sizes=(5,), in_channels=2, out_channels=2)
    weight = torch.rand(5, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (x, pos, weight)]
    assert torch.autograd.gradcheck(lambda x, p, w: conv(x, p, edge_index, weight=w), inputs)


def test_the_initial_variance_does_not_depend_on_the_number_of_neighbours():
    spread = []
    for k in (16, 64, 256):
        torch.manual_seed(0)
        conv = CKConvMP(16, 16, dim=3, num_neighbors=k, window_width=1.0, omega_0=1.0)
        pos = torch.rand(512, 3) - 0.5
        output = conv(torch.randn(512, 16), pos, knn_graph(pos, k, loop=True))
        spread.append(float(output.detach().std()))
    assert max(spread) < 3 * min(spread)


def test_saving_and_loading_gives_the_same_output():
    conv, x, pos, edge_index, _ = conv_and_graph()
    expected = conv(x, pos, edge_index)
    file = io.BytesIO()
    torch.save(conv.state_dict(), file)
    file.seek(0)
    other, *_ = conv_and_graph()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x, pos, edge_index), expected, atol=0, rtol=0)


def test_copies_are_independent():
    conv, x, pos, edge_index, _ = conv_and_graph()
    expected = conv(x, pos, edge_index)
    twin = copy.deepcopy(conv)
    torch.testing.assert_close(twin(x, pos, edge_index), expected)
    with torch.no_grad():
        twin.mixing.weight.zero_()
    torch.testing.assert_close(conv(x, pos, edge_index), expected)


def test_the_layer_shows_itself():
    shown = repr(CKConvMP(6, 64, dim=3, num_neighbors=32, separable=False))
    for part in ("CKConvMP", "6, 64, dim=3", "num_neighbors=32", "separable=False", "MAGNet"):
        assert part in shown


def test_it_works_inside_pygs_sequential():
    from torch_geometric.nn import Sequential

    x, pos, batch = random_clouds(20, dtype=torch.float32)
    net = Sequential(
        "x, pos, edge_index",
        [
            (CKConvMP(4, 8, dim=3, num_neighbors=5), "x, pos, edge_index -> x"),
            torch.nn.GELU(),
            (CKConvMP(8, 2, dim=3, num_neighbors=5), "x, pos, edge_index -> x"),
        ],
    )
    assert net(x, pos, knn_graph(pos, 5, batch, loop=True)).shape == (20, 2)


def test_a_pair_of_features_without_positions_is_refused():
    with pytest.raises(ValueError, match="Expected `pos` with a graph, got none"):
        CKConvMP(3, 4, dim=2)((torch.randn(2, 3), None))


def test_positions_of_targets_have_to_be_finite_as_well():
    conv = CKConvMP(3, 4, dim=2)
    edge_index = torch.tensor([[0, 1], [0, 0]])
    pos = (torch.rand(2, 2), torch.tensor([[torch.nan, 0.0]]))
    with pytest.raises(ValueError, match="Expected finite `pos`, got NaN or infinity"):
        conv(torch.randn(2, 3), pos, edge_index)


def test_autocast_is_finite_and_close():
    conv, x, pos, edge_index, _ = conv_and_graph()
    conv, x, pos = conv.float(), x.float(), pos.float()
    expected = conv(x, pos, edge_index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(x.bfloat16(), pos, edge_index)
    assert output.dtype == torch.bfloat16
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(output.float(), expected, atol=0.03 * scale, rtol=0)


def test_backends_agree_on_the_whole_layer():
    conv, x, pos, edge_index, _ = conv_and_graph()
    with use_backend("reference"):
        expected = conv(x, pos, edge_index)
    with use_backend("torch"):
        torch.testing.assert_close(conv(x, pos, edge_index), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_channels": 0}, "`in_channels` >= 1"),
        ({"out_channels": 0}, "`out_channels` >= 1"),
        ({"num_neighbors": 0}, "`num_neighbors` >= 1"),
        ({"omega_0": 0.0}, "`omega_0` to be positive"),
        ({"omega_0": 1e300}, "finite initial weights.*`omega_0` is too large"),
        ({"initialization": "best"}, "`initialization` to be 'exact' or 'paper', got 'best'"),
        ({"extent": 0.0}, "`extent` to be positive"),
        ({"extent": (1.0, 1.0)}, "`extent` to be positive, one number or 3"),
        ({"window_width": -1.0}, "`width` to be positive"),
        ({"window_cutoff": 1.0}, r"`window_cutoff` in \[0, 1\)"),
        ({"causal": True}, "`dim` = 1 for a causal"),
        ({"kernel": SIREN(3, 4, 7)}, "`kernel` from 3 coordinates to 4 values"),
        ({"kernel": SIREN(2, 4, 4)}, "got one from 2 to 4"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        CKConvMP(**{"in_channels": 4, "out_channels": 5, "dim": 3, **arguments})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": torch.zeros(8, 3)}, ValueError, r"`x` of shape \[8, 4\], got \[8, 3\]"),
        ({"x": torch.zeros(7, 4)}, ValueError, r"`x` of shape \[8, 4\], got \[7, 4\]"),
        ({"x": torch.zeros(8, 4, dtype=torch.int64)}, TypeError, "floating-point `x`"),
        ({"x": torch.full((8, 4), torch.nan)}, ValueError, "finite `x`"),
        ({"pos": torch.zeros(8, 2)}, ValueError, r"`pos` of shape \[N, 3\], got \[8, 2\]"),
        ({"pos": torch.zeros(8, 3).half()}, TypeError, r"call pos.float\(\)"),
        ({"pos": torch.zeros(8, 3, dtype=torch.int64)}, TypeError, "floating-point `pos`"),
        ({"pos": torch.full((8, 3), torch.inf)}, ValueError, "finite `pos`"),
        ({"edge_index": torch.tensor([[8], [0]])}, ValueError, "every source in `edge_index`"),
        ({"weight": torch.ones(7)}, ValueError, r"`weight` of shape \[8\]"),
        ({"weight": torch.full((8,), torch.nan)}, ValueError, "finite `weight`"),
        ({"weight": torch.ones(8).long()}, TypeError, "floating-point `weight`"),
        ({"x": np.zeros((8, 4))}, TypeError, "`x` to be a tensor, got a numpy.ndarray"),
        ({"pos": np.zeros((8, 3))}, TypeError, "`pos` to be a tensor, got a numpy.ndarray"),
        ({"pos": (torch.rand(8, 3),) * 3}, ValueError, "`pos` to be a tensor or a pair, got 3"),
        ({"edge_index": None}, ValueError, "`edge_index` with `pos`, got none"),
        ({"edge_index": [[0], [0]]}, TypeError, "`edge_index` to be a tensor or Neighborhood"),
    ],
)
def test_bad_input_is_named(change, error, match):
    conv = CKConvMP(4, 5, dim=3)
    inputs = {
        "x": torch.zeros(8, 4),
        "pos": torch.rand(8, 3),
        "edge_index": torch.zeros(2, 1).long(),
    }
    with pytest.raises(error, match=match):
        conv(**{**inputs, **change})


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_graph_that_inference_mode_saw_first_serves_training(backend):
    conv, pos = CKConvMP(3, 4, dim=2, kernel_channels=4), torch.rand(9, 2)
    x = torch.randn(9, 3, requires_grad=True)
    neighbors = nearest_neighbors(pos, 4)
    with use_backend(backend):
        with torch.inference_mode():
            conv(x, pos, neighbors)
        conv(x, pos, neighbors).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("evaluation", ["graph", "grid", "nufft"])
@pytest.mark.parametrize("separable", [True, False])
def test_features_have_the_type_of_the_weights_except_under_autocast(evaluation, separable):
    conv = CKConvMP(4, 5, dim=3, spacing=0.2, omega_0=0.5, window_width=0.1, separable=separable)
    pos, edges = torch.rand(8, 3), knn_graph(torch.rand(8, 3), 4)

    def convolve(conv, x):
        if evaluation == "graph":
            return conv(x, pos, edges)
        if evaluation == "nufft":
            return conv.nufft(x, pos, tolerance=0.1)
        return conv.grid(x.T.reshape(1, 4, 2, 2, 2))

    x = torch.randn(8, 4)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=f"Expected `x` in torch.float32 .* got {dtype}"):
            convolve(conv, x.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(conv, x.bfloat16()).isfinite().all()
    with pytest.raises(TypeError, match=r"Expected `x` in torch.float64 .* got torch.float32"):
        convolve(conv.double(), x)


@pytest.mark.parametrize("evaluation", ["graph", "grid", "nufft"])
def test_features_that_hold_no_dense_data_are_refused(evaluation):
    conv, pos = CKConvMP(4, 5, dim=3, spacing=0.2), torch.rand(8, 3)
    run = {
        "graph": lambda x: conv(x, pos, knn_graph(pos, 4)),
        "grid": lambda x: conv.grid(x),
        "nufft": lambda x: conv.nufft(x, pos),
    }[evaluation]
    x = torch.randn(1, 4, 2, 2, 2) if evaluation == "grid" else torch.randn(8, 4)
    with pytest.raises(ValueError, match="Expected tensors that hold data, got `x` on the meta"):
        run(x.to("meta"))
    with pytest.raises(TypeError, match="Expected `x` to be dense, got torch.sparse_coo"):
        run(x.to_sparse())
    with pytest.raises(TypeError, match="Expected `x` to be a tensor, got a list"):
        run(x.tolist())


def test_weights_and_masks_of_grids_are_checked():
    conv, x = CKConvMP(4, 5, dim=1, spacing=0.2), torch.randn(2, 4, 6)
    with pytest.raises(TypeError, match="Expected floating-point `weight`, got torch.complex64"):
        conv.grid(x, weight=torch.ones(6, dtype=torch.complex64))
    with pytest.raises(TypeError, match="Expected `weight` to be a tensor, got a list"):
        conv.grid(x, weight=[1.0] * 6)
    with pytest.raises(TypeError, match="Expected `mask` to be a tensor, got a list"):
        conv.grid(x, mask=[[True] * 6] * 2)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"dim": 0}, ValueError, "`dim` >= 1, got 0"),
        ({"dim": 1.5}, TypeError, "`dim` to be a whole number, got 1.5"),
        ({"in_channels": 1.5}, TypeError, "`in_channels` to be a whole number"),
        ({"num_neighbors": 2.5}, TypeError, "`num_neighbors` to be a whole number"),
        ({"kernel_channels": 1.5}, TypeError, "`hidden_channels` to be a whole number"),
        ({"kernel": torch.nn.Linear(3, 4)}, TypeError, "`kernel` to be a KernelNetwork, got Lin"),
        ({"omega_0": "a"}, ValueError, "`omega_0` to be positive and finite, got 'a'"),
        ({"window_cutoff": "a"}, ValueError, r"`window_cutoff` in \[0, 1\), got 'a'"),
    ],
    ids=str,
)
def test_arguments_of_a_wrong_kind_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        CKConvMP(**{"in_channels": 4, "out_channels": 5, "dim": 3, **arguments})
