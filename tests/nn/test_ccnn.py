"""CCNN and its blocks: counts, symmetries, initialisation, input checks."""

import copy
import io
import math

import pytest
import torch

from ccnn_geo import CCNN, CKConvMP, collect_kernel_norms, knn_graph
from ccnn_geo.nn import SIREN, CCNNBlock, ChannelDropout, FlexBlock, Points, S4Block
from ccnn_geo.ops import nearest_neighbors
from clouds_helpers import random_clouds

BLOCKS = [CCNNBlock, S4Block, FlexBlock]
TINY = {
    "dim": 3, "hidden_channels": 8, "num_blocks": 2, "kernel_channels": 4, "num_neighbors": 6,
    "omega_0": 1.0, "window_width": 0.5,
}  # fmt: skip


def tiny(in_channels=4, out_channels=3, **arguments):
    return CCNN(in_channels, out_channels, **{**TINY, **arguments}).double()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((6, 40, 3, 16, 4, 8), 6_545),
        ((6, 40, 3, 32, 4, 8), 14_401),
        ((6, 40, 3, 48, 4, 8), 26_353),
        ((6, 40, 3, 140, 4, 32), 207_709),
        ((6, 40, 3, 380, 6, 64), 2_017_503),
        ((1, 10, 1, 140, 4, 32), 198_769),
        ((3, 10, 2, 140, 4, 32), 201_042),
    ],
)
def test_parameter_counts_are_the_published_ones(arguments, expected):
    in_channels, out_channels, dim, hidden, blocks, kernel = arguments
    model = CCNN(
        in_channels, out_channels, dim=dim, hidden_channels=hidden, num_blocks=blocks,
        kernel_channels=kernel,
    )  # fmt: skip
    assert count(model) == expected


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("readout", ["mean", "max", None])
def test_a_batch_of_two_clouds_is_the_two_alone(block, readout):
    model = tiny(block=block, readout=readout).eval()
    x, pos, batch = random_clouds(20, 9)
    together = model(x, pos, batch)
    alone = [model(x[batch == b], pos[batch == b]) for b in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.shape == ((2 if readout else 29), 3)


def test_permuting_points_changes_no_prediction_and_permutes_point_outputs():
    x, pos, _ = random_clouds(20)
    order = torch.randperm(20)
    for readout in ("mean", "max", None):
        model = tiny(readout=readout).eval()
        expected = model(x, pos) if readout else model(x, pos)[order]
        torch.testing.assert_close(model(x[order], pos[order]), expected)


def test_translating_a_cloud_changes_nothing():
    model = tiny().eval()
    x, pos, batch = random_clouds(20, 9)
    torch.testing.assert_close(model(x, pos + 10, batch), model(x, pos, batch))


def test_a_graph_that_is_handed_in_is_used():
    model = tiny().eval()
    x, pos, batch = random_clouds(20, 9)
    expected = model(x, pos, batch)
    edge_index = knn_graph(pos, 6, batch, loop=True)
    torch.testing.assert_close(model(x, pos, batch, edge_index=edge_index), expected)
    neighbors = nearest_neighbors(pos, 6, batch)
    torch.testing.assert_close(model(x, pos, batch, edge_index=neighbors, batch_size=2), expected)
    fewer = model(x, pos, batch, edge_index=knn_graph(pos, 3, batch, loop=True))
    assert not torch.allclose(fewer, expected)


def test_neighbours_are_found_once_per_forward(monkeypatch):
    from ccnn_geo.nn import inputs as module

    calls = []
    search = module.nearest_neighbors
    monkeypatch.setattr(
        module, "nearest_neighbors", lambda *a, **k: calls.append(1) or search(*a, **k)
    )
    tiny()(*random_clouds(20, 9))
    assert len(calls) == 1


@pytest.mark.parametrize("block", [CCNNBlock, S4Block])
def test_a_zeroed_branch_is_the_identity(block):
    conv = CKConvMP(8, 8, dim=3, num_neighbors=6).double()
    layer = block(conv).double()
    torch.nn.init.zeros_(layer.linear.weight)
    x, pos, _ = random_clouds(20, channels=8)
    torch.testing.assert_close(
        layer(x, Points.of(pos, knn_graph(pos, 6, loop=True))), x, atol=0, rtol=0
    )


def test_the_flex_block_with_a_zeroed_branch_is_its_last_activation():
    convs = [CKConvMP(8, 8, dim=3, num_neighbors=6) for _ in range(2)]
    layer = FlexBlock(*convs).double()
    torch.nn.init.zeros_(layer.norms[1].weight)
    x, pos, _ = random_clouds(20, channels=8)
    torch.testing.assert_close(
        layer(x, Points.of(pos, knn_graph(pos, 6, loop=True))),
        torch.nn.functional.gelu(x),
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_may_change_the_number_of_channels(block):
    sizes = [(4, 8), (8, 8)][: block.num_convs]
    layer = block(*(CKConvMP(i, o, dim=3, num_neighbors=6) for i, o in sizes)).double()
    x, pos, _ = random_clouds(20)
    assert layer(x, Points.of(pos, knn_graph(pos, 6, loop=True))).shape == (20, 8)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_gets_a_gradient_and_inputs_stay_as_they_are(block):
    model = tiny(block=block)
    x, pos, batch = random_clouds(20, 9)
    before = x.clone(), pos.clone(), batch.clone()
    logits, penalty = model(x, pos, batch, return_kernel_penalty=True)
    (logits.square().sum() + 0.01 * penalty).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    for value, old in zip((x, pos, batch), before, strict=True):
        assert torch.equal(value, old)


@pytest.mark.parametrize("depth", [4, 6])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("k", [16, 64, 256])
def test_outputs_have_unit_scale_at_initialisation_and_explode_without_it(dim, depth, k):
    """The paper's Fig. 6: with norms at work, without them, and without the initialisation."""
    x, pos, batch = random_clouds(*[k] * (256 // k), dim=dim, channels=3, dtype=torch.float32)
    model = CCNN(
        3, 10, dim=dim, hidden_channels=32, num_blocks=depth, kernel_channels=16,
        num_neighbors=k, omega_0=50.0, extent=2.0, window_width=0.5, readout=None,
    )  # fmt: skip
    with torch.no_grad():
        normalised = float(model(x, pos, batch).std())
        model.reset_parameters()
        initialised = float(model.eval()(x, pos, batch).std())
        for conv in (m for m in model.modules() if isinstance(m, CKConvMP)):
            conv.kernel.readout.weight.mul_(math.sqrt(k))
        exploded = float(model(x, pos, batch).std())
    assert 0.1 < normalised < 10
    assert 0.1 < initialised < 10
    assert exploded > (5 if k == 16 else 50) * initialised


def test_weights_are_drawn_once_and_loading_keeps_them():
    model = tiny().eval()
    x, pos, batch = random_clouds(20, 9)
    model.train()(x, pos, batch)
    expected = model.eval()(x, pos, batch)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = tiny()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other.eval()(x, pos, batch), expected, atol=0, rtol=0)
    torch.testing.assert_close(other(x, pos, batch), expected, atol=0, rtol=0)


def test_copies_give_the_same_and_reset_gives_another():
    model = tiny().eval()
    x, pos, batch = random_clouds(20, 9)
    expected = model(x, pos, batch)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x, pos, batch), expected)
    twin.reset_parameters()
    assert not torch.allclose(twin(x, pos, batch), expected)


def test_the_model_shows_itself():
    shown = repr(tiny())
    for part in ("CCNN", "num_neighbors=6", "readout='mean'", "CCNNBlock", "CKConvMP"):
        assert part in shown


@pytest.mark.parametrize("arguments", [{}, {"separable": False}, {"block": FlexBlock}])
def test_torch_compile_runs_and_agrees(arguments):
    torch._dynamo.reset()
    model = tiny(**arguments).float().eval()
    x, pos, batch = random_clouds(20, 9, dtype=torch.float32)
    neighbors = nearest_neighbors(pos, 6, batch)
    expected = model(x, pos, batch, edge_index=neighbors, batch_size=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    actual = compiled(x, pos, batch, edge_index=neighbors, batch_size=2)
    torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x, pos, batch), expected)


def test_autocast_is_finite_and_close():
    model = tiny().float().eval()
    x, pos, batch = random_clouds(20, 9, dtype=torch.float32)
    expected = model(x, pos, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(x, pos, batch)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual.float(), expected, atol=0.05 * scale, rtol=0)


def test_other_kernel_networks_and_full_kernels_fit_in():
    x, pos, batch = random_clouds(20, 9)
    for separable in (True, False):
        model = tiny(kernel=lambda values: SIREN(3, 4, values), separable=separable)
        assert model(x, pos, batch).shape == (2, 3)


def test_causal_sequences_do_not_look_ahead():
    model = tiny(1, 2, dim=1, causal=True, readout=None, num_neighbors=50).eval()
    pos = torch.linspace(0, 1, 20, dtype=torch.float64).unsqueeze(1)
    x = torch.randn(20, 1, dtype=torch.float64, requires_grad=True)
    model(x, pos)[7].sum().backward()
    assert bool((x.grad[8:] == 0).all()) and bool((x.grad[:8] != 0).any())


def test_channel_dropout_drops_a_channel_of_a_whole_cloud():
    x, batch = torch.ones(30, 64), torch.arange(3).repeat_interleave(10)
    dropped = ChannelDropout(0.5)(x, batch).view(3, 10, 64)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[0], dropped[1])
    single = ChannelDropout(0.5, elementwise=True)(x, batch)
    assert bool((single.std(0) > 0).any())
    assert ChannelDropout(0.5).eval()(x, batch) is x


def test_one_point_and_identical_points_are_clouds_too():
    model = tiny().eval()
    assert model(torch.zeros(1, 4).double(), torch.zeros(1, 3).double()).shape == (1, 3)
    same = model(torch.ones(9, 4).double(), torch.ones(9, 3).double())
    assert bool(torch.isfinite(same).all())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_blocks": 0}, "`num_blocks` >= 1"),
        ({"hidden_channels": 0}, "`out_channels` >= 1"),
        ({"out_channels": 0}, "`out_channels` >= 1"),
        ({"readout": "sum"}, "`readout` to be 'mean', 'max' or None"),
        ({"dropout": 1.0}, r"dropout probability in \[0, 1\)"),
        ({"omega_0": -5.0}, "`omega_0` to be positive"),
        ({"num_neighbors": 0}, "`num_neighbors` >= 1"),
        ({"window_width": 0.0}, "`width` to be positive"),
        ({"extent": -1.0}, "`extent` to be positive"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        tiny(**arguments)


def clouds(**changes):
    x, pos, batch = random_clouds(5, 4)
    return {"x": x, "pos": pos, "batch": batch, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.full((9, 4), torch.nan).double()}, ValueError, "finite `x`"),
        ({"x": torch.zeros(9, 5).double()}, ValueError, r"`x` of shape \[9, 4\], got \[9, 5\]"),
        ({"x": torch.zeros(9, 4).long()}, TypeError, "floating-point `x`"),
        ({"pos": torch.zeros(9, 2).double()}, ValueError, r"`pos` of shape \[N, 3\]"),
        ({"pos": torch.zeros(9, 3).half()}, TypeError, r"call pos.float\(\)"),
        ({"pos": torch.full((9, 3), torch.inf)}, ValueError, "finite `pos`"),
        ({"pos": torch.zeros(0, 3)}, ValueError, "at least one point"),
        (
            {"batch": torch.tensor([0] * 5 + [2] * 4)},
            ValueError,
            "1 of 3 have none, cloud 1 the first",
        ),
        ({"batch_size": 4}, ValueError, "2 of 4 have none, cloud 2 the first"),
        ({"batch_size": 1}, ValueError, "`batch` below `batch_size` = 1, got 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` >= 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` to be a whole number, got 2.0"),
        ({"batch_size": 10**12}, ValueError, "999999999998 of 1000000000000 have none"),
        ({"batch": None, "batch_size": 3}, ValueError, "`batch` with a `batch_size` of 3, got"),
        ({"batch": torch.tensor([1] * 5 + [0] * 4)}, ValueError, "sorted"),
        ({"batch": torch.zeros(8).long()}, ValueError, r"`batch` of shape \[9\]"),
        ({"edge_index": torch.tensor([[9], [0]])}, ValueError, "every source in `edge_index`"),
    ],
)
def test_bad_input_is_named(changes, error, match):
    with pytest.raises(error, match=match):
        tiny()(**clouds(**changes))


@pytest.mark.parametrize("numbers", [[1] * 5 + [0] * 4, [0, 1] * 4 + [0], [-1] * 5 + [0] * 4])
def test_clouds_are_sorted_with_a_given_graph_too(numbers):
    graph = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="Expected `batch` to be sorted and not negative"):
        tiny()(**clouds(batch=torch.tensor(numbers), edge_index=graph))


def test_an_evaluation_without_a_name_is_refused():
    with pytest.raises(ValueError, match="Expected `evaluation` to be 'neighbors' or 'nufft'"):
        tiny()(**clouds(evaluation=""))


def test_blocks_want_the_right_convolutions():
    with pytest.raises(ValueError, match="Expected 2 convolutions, got 1"):
        FlexBlock(CKConvMP(4, 4, dim=3))
    with pytest.raises(ValueError, match="gives as many, got one of 5"):
        FlexBlock(CKConvMP(4, 4, dim=3), CKConvMP(5, 4, dim=3))


def surface(num_points):
    """Return features (normals and positions) and positions of points on a sphere."""
    normal = torch.nn.functional.normalize(torch.randn(num_points, 3), dim=1)
    return torch.cat([normal, normal], 1), normal


def without_norms(model):
    """Replace all batch norms, which would hide the scale of the kernels, by the identity."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm1d):
                setattr(module, name, torch.nn.Identity())
    return model


PUBLISHED = [(16, 8, 50.0), (140, 32, 500.0)]


@pytest.mark.parametrize(("hidden", "width", "omega_0"), PUBLISHED)
def test_exact_initialisation_keeps_the_scale_on_clouds_at_published_settings(
    hidden, width, omega_0
):
    """The paper's Fig. 6: the paper's own factor leaves hundredths of the scale on clouds."""
    settings = {
        "dim": 3, "hidden_channels": hidden, "kernel_channels": width, "omega_0": omega_0,
        "readout": None,
    }  # fmt: skip
    x, pos = surface(512)
    spread = {}
    for initialization in ("paper", "exact"):
        torch.manual_seed(0)
        model = CCNN(6, 40, **settings, initialization=initialization)
        graph = knn_graph(pos, 256, loop=True)
        with torch.no_grad():
            noise = model.stem(torch.randn(512, 6), pos, graph)
            logits = without_norms(model)(x, pos)
        spread[initialization] = float(noise.std()), float(logits.std())
    assert 0.5 < spread["exact"][0] < 2
    assert spread["paper"][0] < 0.1
    assert spread["paper"][1] < 0.1 < 0.5 < spread["exact"][1]


@pytest.mark.parametrize("on_grid", [False, True])
def test_calibration_makes_the_norms_on_given_data_one_and_lies_in_the_weights(on_grid):
    settings = {"hidden_channels": 6, "num_blocks": 1, "kernel_channels": 4, "omega_0": 1.0}
    if on_grid:
        model = CCNN.for_grid(3, 4, size=(9, 8), **settings, window_width=0.4)
        inputs = (torch.randn(2, 3, 9, 8),)
    else:
        model = CCNN(3, 4, dim=2, **settings, num_neighbors=7, window_width=0.4)
        inputs = random_clouds(20, 15, dim=2, channels=3, dtype=torch.float32)
    assert model.calibrate(*inputs) is model
    loaded = copy.deepcopy(model)
    loaded.reset_parameters()
    loaded.load_state_dict(model.state_dict())
    for each in (model, loaded):
        with collect_kernel_norms() as norms:
            each(*inputs)
        # One for each of the stem's 3 and the block's 6 channels.
        assert [float(norm.detach()) for norm in norms] == pytest.approx([3.0, 6.0], rel=1e-4)


def test_initialisation_draws_nothing_twice_and_no_forward_pass_changes_it():
    x, pos, batch = random_clouds(20, 9, dtype=torch.float32)
    weights = {}
    for initialization in ("paper", "exact"):
        torch.manual_seed(3)
        model = CCNN(4, 3, **TINY, initialization=initialization)
        before = copy.deepcopy(model.state_dict())
        model.eval()(x, pos, batch)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        weights[initialization] = before
    for name, value in weights["paper"].items():
        same = torch.equal(value, weights["exact"][name])
        assert same == (not name.endswith("kernel.readout.weight")), name


def written_out(model, x):
    """A network with tokens or pairs on grids, from its parts."""
    inner = copy.deepcopy(model)
    inner.embedding, inner.pairs = None, False
    inner.head = torch.nn.Identity()
    if model.embedding is not None:
        x = model.embedding.weight[x[:, 0]].movedim(-1, 1)
    pooled = inner(x)
    if model.pairs:
        u, v = pooled[::2], pooled[1::2]
        pooled = torch.cat([u, v, u * v, u - v], 1)
    return model.head(pooled)


@pytest.mark.parametrize("pairs", [False, True])
def test_tokens_and_pairs_are_the_network_of_their_parts(pairs):
    model = CCNN.for_grid(
        1, 3, size=(12,), num_embeddings=5, pairs=pairs, hidden_channels=6, num_blocks=1
    )
    model = model.double().eval()
    x = torch.randint(5, (4, 1, 12))
    logits = model(x)
    assert logits.shape == (2 if pairs else 4, 3)
    torch.testing.assert_close(logits, written_out(model, x))
    assert count(model) == count(
        CCNN.for_grid(6, 3, size=(12,), hidden_channels=6, num_blocks=1)
    ) + 5 * 6 + (3 * 6 * 3 if pairs else 0)


def test_padding_is_embedded_to_zero_and_learns_nothing():
    model = CCNN.for_grid(1, 3, size=(8,), num_embeddings=5, hidden_channels=6, num_blocks=1)
    x = torch.tensor([[[0, 0, 1, 2, 4, 1, 2, 1]]])
    assert not model.embedding(x)[..., :2].any()
    model(x).square().sum().backward()
    grad = model.embedding.weight.grad
    assert not grad[0].any() and not grad[3].any() and grad[1].any()


def test_tokens_of_points_are_embedded():
    model = tiny(1, num_embeddings=5).eval()
    _, pos, batch = random_clouds(20, 9)
    x = torch.randint(5, (29, 1))
    inner = copy.deepcopy(model)
    inner.embedding = None
    torch.testing.assert_close(
        model(x, pos, batch), inner(model.embedding.weight[x[:, 0]], pos, batch)
    )


def test_pairs_of_clouds_are_classified_together():
    model = tiny(pairs=True).eval()
    x, pos, batch = random_clouds(20, 9)
    assert model(x, pos, batch).shape == (1, 3)
    with pytest.raises(ValueError, match="Expected `pairs` of clouds or grids, got 1 of them"):
        model(x[:20], pos[:20])


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(2, 1, 8), TypeError, "tokens `x` to be int64 or int32, got torch.float32"),
        ("text", TypeError, "tokens `x` to be int64 or int32, got str"),
        (torch.zeros(2, 2, 8, dtype=torch.int64), ValueError, r"\[B, 1, \*S\] or \[N, 1\], got"),
        (torch.full((2, 1, 8), 5), ValueError, "tokens `x` from 0 to 4, got 5 to 5"),
        (torch.full((2, 1, 8), -1), ValueError, "tokens `x` from 0 to 4, got -1 to -1"),
    ],
)
def test_wrong_tokens_are_named(x, error, match):
    model = CCNN.for_grid(1, 3, size=(8,), num_embeddings=5, hidden_channels=6, num_blocks=1)
    with pytest.raises(error, match=match):
        model(x)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_embeddings": 1}, "`num_embeddings` >= 2, got 1"),
        ({"num_embeddings": 4, "in_channels": 2}, "`in_channels` = 1 with `num_embeddings`"),
        ({"pairs": True, "readout": None}, "a `readout` with `pairs`, got None"),
    ],
)
def test_impossible_tokens_and_pairs_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        tiny(**{"in_channels": 1, **arguments})
