"""Layers and networks on regular grids: the same numbers as on the grid as a graph."""

import copy
import io
import itertools
import math
import re
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from ccnn_geo import CCNN, CKConvMP, knn_graph, use_backend
from ccnn_geo.nn import SIREN, CCNNBlock, ChannelDropout, FlexBlock, PointwiseLinear, S4Block
from ccnn_geo.ops import KernelSupport, dense_graph, grid_positions

TORCH_CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
SMOOTH = {"omega_0": 1.0, "kernel_channels": 5, "window_width": 0.4}
TINY = {**SMOOTH, "hidden_channels": 8, "num_blocks": 2, "window_cutoff": 0.1}

ONE_TAP = pytest.mark.filterwarnings("ignore:The kernel has 1 tap")

CASES = [
    pytest.param((9,), {}, id="1-D odd"),
    pytest.param((10,), {}, id="1-D even"),
    pytest.param((9,), {"causal": True}, id="causal odd"),
    pytest.param((10,), {"causal": True}, id="causal even"),
    pytest.param((10,), {"causal": True, "kernel_size": 4}, id="causal short"),
    pytest.param((8,), {"kernel_size": 31}, id="1-D kernel longer than the grid"),
    pytest.param((8,), {"kernel_size": 1}, id="1-D single tap", marks=ONE_TAP),
    pytest.param((5, 5), {}, id="2-D odd"),
    pytest.param((4, 7), {}, id="2-D rectangular"),
    pytest.param((6, 5), {"kernel_size": (3, 9)}, id="2-D rectangular kernel"),
    pytest.param((6, 5), {"separable": False}, id="2-D full kernel"),
    pytest.param((4, 5), {"window_cutoff": 0.0}, id="2-D no cutoff"),
    pytest.param((5, 4), {"spacing": (0.5, 2.0), "window_width": (0.3, 0.6)}, id="2-D anisotropic"),
    pytest.param((3, 3, 3), {"window_width": 0.6}, id="3-D odd"),
    pytest.param((4, 3, 2), {}, id="3-D rectangular"),
    pytest.param(
        (4, 3, 3), {"separable": False, "kernel_size": 3, "window_width": 0.6}, id="3-D full kernel"
    ),
]


def layer(size, *, in_channels=3, out_channels=4, dtype=torch.float64, **arguments):
    conv = CKConvMP.for_grid(
        in_channels, out_channels, size=size, **{"spacing": 0.3, **SMOOTH, **arguments}
    )
    for bias in (conv.bias, None if conv.mixing is None else conv.mixing.bias):
        if bias is not None:
            torch.nn.init.normal_(bias)
    return conv.to(dtype)


def nodes(x):
    """The cells of one grid as points, `[P, C]`."""
    return x.flatten(1).T


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def rendered(conv, spacing, taps):
    """The kernel at all offsets up to `taps` on either side, from its definition alone."""
    axes = [torch.arange(-each, each + 1, dtype=torch.float64) for each in taps]
    offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * double(spacing)
    u = offset / double(conv.extent)
    inside = (u.abs() <= 1 + 1e-5).all(-1)
    coordinate = displacement = u.to(conv.window.log_width.dtype)
    if conv.causal:
        inside &= (u <= 0).all(-1)
        coordinate, displacement = 2 * coordinate + 1, 2 * displacement
    scaled = displacement / conv.window.log_width.exp()
    inside &= (torch.exp(-0.5 * scaled.square()) >= conv.window_cutoff - 1e-4).all(-1)
    kernel = (
        conv.kernel(coordinate) * (torch.exp(-0.5 * scaled.square().sum(-1)) * inside)[..., None]
    )
    kernel = kernel.movedim(-1, 0)
    return kernel if conv.separable else kernel.unflatten(0, (conv.out_channels, -1))


def by_hand(conv, x, spacing):
    """The layer with the convolution of torch.nn.functional and the kernel from its definition."""
    taps = [size - 1 for size in x.shape[2:]]
    kernel = rendered(conv, spacing, taps)
    padded = pad(x, [each for size in reversed(taps) for each in (size, size)])
    dim = len(taps)
    if not conv.separable:
        return TORCH_CONVOLUTIONS[dim](padded, kernel, conv.bias)
    hidden = TORCH_CONVOLUTIONS[dim](padded, kernel.unsqueeze(1), conv.bias, groups=x.size(1))
    return torch.einsum("oc,bc...->bo...", conv.mixing.weight, hidden) + conv.mixing.bias.view(
        -1, *[1] * dim
    )


def assert_same(actual, expected, leaves, tolerance):
    """Outputs and all gradients agree, relative to the largest value."""
    grad = torch.randn_like(expected)
    pairs = [(actual, expected)]
    pairs += zip(
        torch.autograd.grad(actual, leaves, grad),
        torch.autograd.grad(expected, leaves, grad, retain_graph=True),
        strict=True,
    )
    for one, other in pairs:
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("size", "arguments"), CASES)
def test_graph_fft_sum_and_torch_give_the_same_numbers_and_gradients(size, arguments, dtype):
    conv = layer(size, dtype=dtype, **arguments)
    x = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    pos, edges = grid_positions(size, conv.spacing, dtype=dtype), dense_graph(size)
    leaves = [x, *conv.parameters()]
    on_graph = torch.stack([conv(nodes(each), pos, edges).T.unflatten(1, size) for each in x])
    for other in (
        conv.grid(x, method="fft"),
        conv.grid(x, method="direct"),
        by_hand(conv, x, conv.spacing),
    ):
        assert_same(other, on_graph, leaves, TOLERANCES[dtype])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_the_default_window_of_a_small_grid_ends_after_a_cell_and_a_half(size, causal):
    """Where the published width of 0.075 would end sooner; the cutoff is a tenth."""
    with pytest.warns(UserWarning, match="1 tap") if size == 1 else nullcontext():
        conv = CKConvMP.for_grid(2, 2, size=(size,), causal=causal)
    cells = max(size // 2 if not causal else size - 1, 0.5)
    step = (2 if causal else 1) / cells
    width = float(conv.window.log_width.detach().exp().max())
    end = width * math.sqrt(-2 * math.log(0.1)) / step
    assert end == pytest.approx(max(1.5, 0.075 * math.sqrt(-2 * math.log(0.1)) / step), rel=1e-5)


def test_four_dimensions_convolve_too():
    size = (3, 2, 2, 3)
    conv = layer(size, window_width=0.6)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = conv(nodes(x[0]), grid_positions(size, 0.3, dtype=torch.float64), dense_graph(size))
    torch.testing.assert_close(nodes(conv.grid(x)[0]), expected)


def tent(pos):
    """A function with kinks, which decide how fast sums converge to integrals."""
    return (1 - pos.abs()).clamp(min=0).prod(-1)


@pytest.mark.parametrize(("dim", "finest"), [(1, 128), (2, 64), (3, 32)])
def test_refining_the_grid_converges_with_the_second_order_of_the_trapezoidal_rule(dim, finest):
    conv = CKConvMP(
        1, 1, dim=dim, omega_0=0.5, kernel_channels=4, window_width=0.15, spacing=1 / finest
    ).double()
    with torch.no_grad():
        conv.kernel.readout.bias.fill_(1.0)
    responses = []
    for resolution in (finest // 4, finest // 2, finest):
        size = (2 * resolution + 1,) * dim
        pos = grid_positions(size, 1 / resolution, dtype=torch.float64) - 1
        response = conv.grid(tent(pos).view(1, 1, *size), 1 / resolution)
        coarse = (slice(None), slice(None), *[slice(None, None, 4 * resolution // finest)] * dim)
        responses.append(response[coarse])
    first, second = (
        float((one - other).detach().abs().max()) for one, other in itertools.pairwise(responses)
    )
    assert 3.5 < first / second < 4.5
    assert second < 0.01 * float(responses[-1].detach().abs().max())


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_signal_sampled_twice_as_coarsely_gives_the_same_response(dim):
    size = {1: (65,), 2: (33, 33), 3: (17, 17, 17)}[dim]
    conv = layer(
        size, in_channels=1, spacing=1.0, window_cutoff=0.0, bias=False, window_width=0.3,
        omega_0=0.1,
    )  # fmt: skip
    center = grid_positions(size, dtype=torch.float64) - (size[0] - 1) / 2
    x = torch.exp(-0.5 * (center / (size[0] / 10)).square().sum(-1)).view(1, 1, *size)
    every_second = (slice(None), slice(None), *[slice(None, None, 2)] * dim)
    expected = conv.grid(x)[every_second]
    coarse = conv.grid(x[every_second], 2.0)
    error = float((coarse - expected).detach().norm() / expected.detach().norm())
    assert error < 0.02
    without = conv.grid(x[every_second], 2.0, weight=torch.ones(x[every_second].shape[2:]))
    torch.testing.assert_close(without * 2**dim, coarse)


def test_without_a_training_grid_there_is_no_quadrature_weight():
    size = (7,)
    conv = CKConvMP(3, 4, dim=1, extent=2.0, **SMOOTH).double()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    pos = grid_positions(size, 0.25, dtype=torch.float64)
    torch.testing.assert_close(
        nodes(conv.grid(x, 0.25)[0]), conv(nodes(x[0]), pos, dense_graph(size))
    )


@pytest.mark.parametrize("shared", [True, False], ids=["for all grids", "for each"])
def test_weights_of_cells_are_those_of_the_points(shared):
    size = (4, 5)
    conv = layer(size)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    weight = torch.rand(*([] if shared else [2]), *size, dtype=torch.float64)
    pos = grid_positions(size, 0.3, dtype=torch.float64)
    actual = conv.grid(x, weight=weight)
    for b in range(2):
        each = (weight if shared else weight[b]).flatten()
        expected = conv(nodes(x[b]), pos, dense_graph(size), weight=each)
        torch.testing.assert_close(nodes(actual[b]), expected)


@pytest.mark.parametrize("size", [(11,), (5, 6), (4, 3, 4)])
@pytest.mark.parametrize("separable", [True, False])
def test_a_masked_grid_is_the_cloud_of_its_occupied_cells(size, separable):
    conv = layer(size, separable=separable)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, *size) < 0.4
    mask[:, 0] = True
    pos = grid_positions(size, 0.3, dtype=torch.float64)
    output = conv.grid(x, mask=mask)
    assert bool((output.movedim(1, -1)[~mask] == 0).all())
    rows, clouds = [], []
    for b in range(2):
        cells = mask[b].flatten()
        graph = knn_graph(pos[cells], int(cells.sum()), loop=True)
        clouds.append(conv(nodes(x[b])[cells], pos[cells], graph))
        rows.append(nodes(output[b])[cells])
    assert_same(torch.cat(rows), torch.cat(clouds), [x, *conv.parameters()], 1e-10)


def test_what_lies_in_empty_cells_does_not_matter():
    conv = layer((6,))
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False, True]])
    spoiled = x.masked_fill(~mask, torch.nan)
    torch.testing.assert_close(conv.grid(spoiled, mask=mask), conv.grid(x, mask=mask))


def test_a_causal_layer_hears_the_past_only():
    conv = layer((20,), causal=True)
    x = torch.randn(1, 3, 20, dtype=torch.float64, requires_grad=True)
    conv.grid(x, method="direct")[0, :, 12].sum().backward()
    heard = x.grad[0].abs().sum(0) > 0
    taps = conv.support().taps(conv.spacing, (20,))[0][0]
    assert heard.tolist() == [12 - taps <= i <= 12 for i in range(20)]


def test_a_causal_layer_hears_no_future_however_close():
    conv = CKConvMP(1, 1, dim=1, causal=True, extent=1.0, **SMOOTH).double()
    pos = torch.tensor([[0.0], [1e-7]], dtype=torch.float64)
    x = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    conv(x, pos, dense_graph((2,)))[0].sum().backward()
    assert x.grad[0].item() != 0 and x.grad[1].item() == 0


class Counting(SIREN):
    """A kernel network that keeps where it was evaluated."""

    def features(self, coordinates):
        self.seen = coordinates.detach()
        return super().features(coordinates)


@pytest.mark.parametrize("causal", [False, True])
def test_only_taps_inside_the_window_are_evaluated_and_the_crop_follows_its_width(causal):
    conv = layer((65,), causal=causal, kernel=Counting(1, 4, 3))
    x = torch.randn(1, 3, 65, dtype=torch.float64)
    reach = math.sqrt(-2 * math.log(0.1))
    for width in (0.4, 0.2, 0.05, 1e-3, 1e-12):
        torch.nn.init.constant_(conv.window.log_width, math.log(width))
        conv.grid(x)
        half = min(32 if not causal else 64, int(reach * width * 32))
        assert conv.kernel.seen.shape == ((half if causal else 2 * half) + 1, 1)
        assert float(conv.kernel.seen.abs().max()) <= 1 + 1e-9


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_centre_tap_stays_when_the_window_shrinks_to_nothing(dtype):
    conv = layer((6, 5), dtype=dtype)
    x = torch.randn(2, 3, 6, 5, dtype=dtype)
    center = conv.kernel(torch.zeros(2, dtype=dtype))
    expected = conv.mixing(
        (x * center.view(-1, 1, 1) + conv.bias.view(-1, 1, 1)).movedim(1, -1).flatten(0, 2)
    )
    for log_width in (-12.0, -40.0, -400.0):
        torch.nn.init.constant_(conv.window.log_width, log_width)
        output = conv.grid(x)
        torch.testing.assert_close(output.movedim(1, -1).flatten(0, 2), expected)
        output.sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in conv.parameters())


@ONE_TAP
@pytest.mark.parametrize(
    ("size", "arguments", "extent", "taps"),
    [
        (
            (784,),
            {"causal": True},
            (783.0,),
            64,
        ),  # int(2.146 * 0.075 * 783 / 2) = 63, and the present
        ((32, 32), {"kernel_size": 33}, (16.0, 16.0), 25),  # int(2.146 * 0.075 * 16) = 2 each way
        ((32, 32), {}, (16.0, 16.0), 25),
        ((28, 20), {"kernel_size": 5, "window_width": 9.0}, (2.0, 2.0), 25),
        ((40, 40, 40), {"window_width": 0.2, "spacing": 0.05}, (1.0, 1.0, 1.0), 17**3),
        ((4,), {"kernel_size": 101, "window_width": 9.0}, (50.0,), 7),
        ((4,), {"kernel_size": 1, "causal": True}, (0.5,), 1),
        (9, {"num_neighbors": 5}, (4.0,), 5),
    ],
)
def test_for_grid_sets_extent_and_the_number_of_taps_to_initialise_for(
    size, arguments, extent, taps
):
    conv = CKConvMP.for_grid(2, 3, size=size, **arguments)
    model = CCNN.for_grid(2, 3, size=size, hidden_channels=4, num_blocks=1, **arguments)
    for made in (conv, model.stem, model.blocks[0].conv(0)):
        assert made.extent == pytest.approx(extent)
        assert made.num_neighbors == taps
        assert made.window_cutoff == 0.1
        assert made.spacing == (arguments.get("spacing", 1.0),) * len(extent)
    assert "spacing" in repr(conv)


@pytest.mark.parametrize(
    ("in_channels", "size", "arguments", "expected"),
    [
        (1, (784,), {"causal": True}, 198_769),
        (3, (32, 32), {"kernel_size": 33}, 201_042),
    ],
)
def test_parameter_counts_are_the_published_ones(in_channels, size, arguments, expected):
    model = CCNN.for_grid(in_channels, 10, size=size, **arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def network(size, **arguments):
    model = CCNN.for_grid(2, 3, size=size, spacing=0.5, **{**TINY, **arguments}).double()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("block", [CCNNBlock, S4Block, FlexBlock])
@pytest.mark.parametrize("readout", ["mean", "max", None])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_network_on_a_grid_is_the_network_on_its_points(block, readout, masked, training):
    size = (4, 5)
    model = network(size, block=block, readout=readout).train(training)
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(2, *size) < 0.5) if masked else torch.ones(2, *size, dtype=torch.bool)
    mask[:, 0, 0] = True
    pos = grid_positions(size, 0.5, dtype=torch.float64).repeat(2, 1)[mask.flatten()]
    batch = torch.arange(2).repeat_interleave(20)[mask.flatten()]
    twin = copy.deepcopy(model)
    points = x.movedim(1, -1)[mask]
    expected = twin(points, pos, batch, edge_index=knn_graph(pos, 20, batch, loop=True))
    actual = model(x, mask=mask if masked else None)
    if readout is None:
        assert actual.shape == (2, 3, *size)
        actual = actual.movedim(1, -1)[mask]
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(actual, [x, *model.parameters()], grad),
        torch.autograd.grad(expected, [x, *twin.parameters()], grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(12,), (3, 4, 3)])
def test_networks_of_one_and_three_dimensions_agree_with_their_points_too(size):
    model = network(size, causal=len(size) == 1).eval()
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    pos = grid_positions(size, 0.5, dtype=torch.float64)
    expected = model(nodes(x[0]), pos, edge_index=dense_graph(size))
    for method in ("fft", "direct", "auto"):
        torch.testing.assert_close(model(x, method=method), expected)


def cloud_network(stem, **changes):
    settings = {
        "extent": stem.extent, "spacing": stem.spacing, "window_cutoff": stem.window_cutoff,
    }  # fmt: skip
    return CCNN(2, 3, dim=2, **{**TINY, **settings, **changes}).double()


def test_weights_move_between_networks_for_clouds_and_for_grids():
    on_grids = network((5, 6)).eval()
    on_clouds = cloud_network(on_grids.stem)
    on_clouds.load_state_dict(on_grids.state_dict())
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(on_clouds.eval()(x), on_grids(x))


@pytest.mark.parametrize(
    "change", [{"extent": 4.0}, {"spacing": None}, {"spacing": 1.0}, {"window_cutoff": 0.0}]
)
def test_weights_of_kernels_with_other_settings_are_refused_with_both_values(change):
    on_grids = network((5, 6))
    on_clouds = cloud_network(on_grids.stem, **change)
    ((name, _),) = change.items()
    values = f"{getattr(on_grids.stem, name)} in the state_dict, {getattr(on_clouds.stem, name)} in"
    match = f"{name} mismatch for the kernel of stem: {re.escape(values)}"
    with pytest.raises(RuntimeError, match=match):
        on_clouds.load_state_dict(on_grids.state_dict())
    on_clouds.load_state_dict(dict(on_grids.state_dict()))
    assert torch.equal(on_clouds.stem.kernel.phases, on_grids.stem.kernel.phases)


def test_the_settings_of_kernels_survive_a_file():
    file = io.BytesIO()
    torch.save(network((5, 6)).state_dict(), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="extent mismatch"):
        network((9, 6)).load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("as_lengths", [True, False])
def test_padded_sequences_give_what_each_gives_alone(as_lengths):
    model = network((16,), causal=True).eval()
    per_cell = network((16,), readout=None).eval()
    lengths = torch.tensor([16, 5, 1])
    x = torch.randn(3, 2, 16, dtype=torch.float64)
    mask = torch.arange(16) < lengths[:, None]
    padding = {"lengths": lengths} if as_lengths else {"mask": mask}
    together, cells = model(x, **padding), per_cell(x, **padding)
    for b, length in enumerate(lengths.tolist()):
        alone = x[b : b + 1, :, :length]
        torch.testing.assert_close(together[b : b + 1], model(alone))
        torch.testing.assert_close(cells[b : b + 1, :, :length], per_cell(alone))
        assert bool((cells[b, :, length:] == 0).all())


def test_another_resolution_is_an_argument_and_leaves_nothing_behind():
    model = network((32,), window_width=0.3).eval()
    t = torch.linspace(-2, 2, 33, dtype=torch.float64)
    x = torch.stack([torch.exp(-t.square()), t * torch.exp(-t.square())]).unsqueeze(0)
    before = model(x)
    coarse = model(x[..., ::2], spacing=1.0)
    unscaled = model(x[..., ::2])
    scale = float(before.detach().abs().max())
    assert float((coarse - before).detach().abs().max()) < 0.05 * scale
    assert float((unscaled - before).detach().abs().max()) > 2 * 0.05 * scale
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((1024,), {"causal": True, "omega_0": 2976.49}),
        ((16_000,), {"causal": True, "omega_0": 1295.61}),
        ((16_000,), {"omega_0": 1295.61}),
        ((32, 32), {"kernel_size": 33, "omega_0": 976.8}),
        ((96, 96), {"kernel_size": 33, "omega_0": 954.3}),
    ],
    ids=str,
)
def test_outputs_have_unit_scale_at_initialisation(size, arguments):
    model = CCNN.for_grid(
        3, 10, size=size, hidden_channels=16, kernel_channels=8, readout=None, **arguments
    ).eval()
    with torch.no_grad():
        assert 0.1 < float(model(torch.randn(2, 3, *size)).std()) < 10


def test_outputs_have_unit_scale_on_voxels_with_as_many_neighbours_as_they_have():
    size = (40, 40, 40)
    radius = (grid_positions(size) - 19.5).norm(dim=1).view(1, *size)
    mask = (radius - 15).abs() < 0.5
    reach = torch.ones(1, 1, 13, 13, 13)
    neighbors = conv3d(mask.float().unsqueeze(1), reach, padding=6)[mask.unsqueeze(1)].mean()
    model = CCNN.for_grid(
        3, 10, size=size, hidden_channels=16, kernel_channels=8, omega_0=20.0, window_width=0.15,
        num_neighbors=round(float(neighbors)), readout=None,
    ).eval()  # fmt: skip
    assert model.stem.support().taps(model.stem.spacing, size) == ((6, 6),) * 3
    with torch.no_grad():
        output = model(torch.randn(1, 3, *size), mask=mask)
    assert 0.1 < float(output.movedim(1, -1)[mask].std()) < 10


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("spacing", [None, 1.0])
def test_the_penalty_is_half_the_norm_of_the_rendered_kernels(separable, spacing):
    size = (6, 5)
    model = network(size, separable=separable)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    _, penalty = model(x, spacing=spacing, return_kernel_penalty=True)
    convs = [module for module in model.modules() if isinstance(module, CKConvMP)]
    steps = (spacing or 0.5,) * 2
    expected = 0.5 * sum(rendered(conv, steps, (5, 4)).square().sum() for conv in convs)
    torch.testing.assert_close(penalty, expected)
    leaves = [p for conv in convs for p in [*conv.kernel.parameters(), conv.window.log_width]]
    for one, other in zip(
        torch.autograd.grad(penalty, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("masked", [False, True])
def test_every_parameter_gets_a_gradient_and_inputs_stay_as_they_are(masked):
    model = network((5, 6))
    x, mask = torch.randn(2, 2, 5, 6, dtype=torch.float64), torch.rand(2, 5, 6) < 0.7
    before = x.clone(), mask.clone()
    logits, penalty = model(x, mask=mask if masked else None, return_kernel_penalty=True)
    (logits.square().sum() + penalty).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    assert torch.equal(x, before[0]) and torch.equal(mask, before[1])


# From dynamo itself, which looks at intermediate tensors after a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("size", "masked", "widths", "backend"),
    [
        ((24,), False, (0.4, 0.2, 0.1), "aot_eager"),
        ((24,), True, (0.4,), "aot_eager"),
        ((9, 8), False, (0.5, 0.3, 0.2), "inductor"),
    ],
)
def test_torch_compile_runs_and_agrees_while_the_crop_changes(size, masked, widths, backend):
    torch._dynamo.reset()
    small = {"num_blocks": 1, "kernel": lambda values: SIREN(len(size), 4, values, num_layers=1)}
    model = network(size, **small).float().eval()
    x = torch.randn(2, 2, *size)
    arguments = {"mask": torch.rand(2, *size) < 0.8} if masked else {}
    compiled = torch.compile(model, backend=backend)
    for width in widths:
        for block in model.blocks:
            torch.nn.init.constant_(block.conv(0).window.log_width, math.log(width))
        actual = compiled(x, **arguments)
        torch.testing.assert_close(actual, model(x, **arguments))
        model.zero_grad()
        actual.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_autocast_is_finite_and_close(masked):
    model = network((5, 6)).float().eval()
    x, mask = torch.randn(2, 2, 5, 6), torch.rand(2, 5, 6) < 0.7
    expected = model(x, mask=mask if masked else None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(x, mask=mask if masked else None)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual.float(), expected, atol=0.05 * scale, rtol=0)


def test_dropout_drops_a_channel_of_a_whole_grid():
    dropped = ChannelDropout(0.5)(torch.ones(3, 64, 10))
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[0], dropped[1])


@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_linear_map_is_the_same_for_rows_and_cells(bias):
    linear = PointwiseLinear(3, 4, bias=bias)
    x = torch.randn(2, 3, 5)
    rows = torch.nn.functional.linear(x.mT, linear.weight, linear.bias)
    torch.testing.assert_close(linear(x), rows.mT)
    torch.testing.assert_close(linear(x[0].T), rows[0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": ()}, r"`size` to have at least one cell per axis, got \(\)"),
        ({"size": (4, 0)}, r"at least one cell per axis, got \(4, 0\)"),
        ({"size": (4,), "spacing": 0.0}, "`spacing` to be positive, one number or 1, got 0.0"),
        ({"size": (4,), "spacing": (1.0, 1.0)}, "`spacing` to be positive, one number or 1"),
        (
            {"size": (4,), "kernel_size": 0},
            "`kernel_size` to be 'same', a positive whole number or 1, got 0",
        ),
        ({"size": (4,), "kernel_size": (3, 3)}, r"a positive whole number or 1, got \(3, 3\)"),
        ({"size": (4,), "kernel_size": "full"}, "a positive whole number or 1, got 'full'"),
        ({"size": (4, 4), "causal": True}, "`dim` = 1 for a causal convolution, got 2"),
        ({"size": (4,), "window_width": -1.0}, "`window_width` to be positive"),
        ({"size": (4,), "window_cutoff": 1.0}, r"`window_cutoff` in \[0, 1\)"),
    ],
)
@pytest.mark.parametrize("made", [CKConvMP, CCNN])
def test_bad_arguments_are_named(made, arguments, match):
    with pytest.raises(ValueError, match=match):
        made.for_grid(2, 3, **arguments)


def test_positions_want_positive_steps():
    with pytest.raises(ValueError, match="`spacing` to be positive, one number or 2"):
        grid_positions((3, 3), (1.0, 0.0))


X, MASK = torch.zeros(2, 2, 8), torch.ones(2, 8, dtype=torch.bool)
BAD_INPUT = [
    ({"x": X[0]}, ValueError, r"`x` of shape \[B, 2, \*S\] with 1 axes S that are not empty"),
    ({"x": X.unsqueeze(-1)}, ValueError, r"got \[2, 2, 8, 1\]"),
    ({"x": X[:, :1]}, ValueError, r"`x` of shape \[B, 2, \*S\] .* got \[2, 1, 8\]"),
    ({"x": X[..., :0]}, ValueError, r"not empty, got \[2, 2, 0\]"),
    ({"x": X.long()}, TypeError, "floating-point `x`, got torch.int64"),
    ({"x": X + torch.nan}, ValueError, "finite `x`"),
    ({"spacing": -1.0}, ValueError, "`spacing` to be positive, one number or 1, got -1.0"),
    ({"spacing": (1.0, 1.0)}, ValueError, "`spacing` to be positive, one number or 1"),
    ({"method": "best"}, ValueError, "'auto', 'fft' or 'direct', got 'best'"),
    ({"mask": MASK.float()}, TypeError, "`mask` to be boolean, got torch.float32"),
    ({"mask": MASK[:1]}, ValueError, r"`mask` of shape \[2, 8\], got \[1, 8\]"),
    (
        {"mask": torch.arange(2).view(2, 1).expand(2, 8) > 0},
        ValueError,
        "an occupied cell in every",
    ),
    ({"weight": torch.ones(7)}, ValueError, r"`weight` of shape \[2, 8\] or \[8\], got \[7\]"),
]


@pytest.mark.parametrize(("changes", "error", "match"), BAD_INPUT)
def test_bad_input_to_a_layer_is_named(changes, error, match):
    with pytest.raises(error, match=match):
        CKConvMP.for_grid(2, 3, size=8).grid(**{"x": X, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        *BAD_INPUT,
        ({"lengths": torch.tensor([8, 0])}, ValueError, r"`lengths` in \[1, 8\], got \[8, 0\]"),
        ({"lengths": torch.tensor([9, 1])}, ValueError, r"`lengths` in \[1, 8\], got \[9, 1\]"),
        ({"lengths": torch.tensor([8])}, ValueError, r"`lengths` of shape \[2\], got \[1\]"),
        ({"lengths": torch.tensor([8.0, 1.0])}, TypeError, "`lengths` to be integers"),
        ({"lengths": torch.tensor([8, 1]), "mask": MASK}, ValueError, "or a `mask`, got both"),
        ({"pos": torch.zeros(2, 1), "mask": MASK}, ValueError, "with `pos`, got one"),
    ],
)
def test_bad_input_to_a_network_is_named(changes, error, match):
    model = CCNN.for_grid(2, 3, size=8, hidden_channels=4, num_blocks=1)
    with pytest.raises(error, match=match):
        model(**{"x": X, **changes})


def test_lengths_are_for_sequences():
    model = CCNN.for_grid(2, 3, size=(4, 4), hidden_channels=4, num_blocks=1)
    with pytest.raises(ValueError, match=r"`x` of shape \[B, C, L\] with `lengths`"):
        model(torch.zeros(1, 2, 4, 4), lengths=torch.tensor([4]))


def test_without_a_training_grid_the_spacing_must_be_given():
    with pytest.raises(ValueError, match="Expected `spacing`"):
        CKConvMP(2, 3, dim=1).grid(X)
    with pytest.raises(ValueError, match="Expected `spacing`"):
        CCNN(2, 3, dim=1, hidden_channels=4, num_blocks=1)(X)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("cells", [2, 3, 4, 5, 8, 13, 14, 18, 19, 40])
def test_networks_for_grids_of_every_size_are_alive_by_default(dim, cells):
    if dim == 3 and cells > 14:
        pytest.skip("large volumes take long, and their axes are those of smaller ones")
    size = (cells,) * dim
    model = CCNN.for_grid(2, 3, size=size, hidden_channels=4, num_blocks=1, kernel_channels=4)
    x = torch.randn(2, 2, *size)
    output = model(x)
    output.square().sum().backward()
    assert bool((output.detach().abs() > 0).any())
    for conv in (model.stem, model.blocks[0].conv(0)):
        assert float(conv.kernel.readout.weight.grad.abs().max()) > 0
    before, after = model.stem.support().taps(model.stem.spacing, size)[0]
    assert before >= 1 and after >= 1
    assert (model.stem.window.initial_width[0] == 0.075) == (cells >= 20)


@pytest.mark.parametrize("arguments", [{"kernel_size": 1}, {"window_width": 0.01}])
def test_a_kernel_of_one_tap_warns_with_the_number(arguments):
    with pytest.warns(UserWarning, match=r"The kernel has 1 tap, its centre, at spacing \(1.0,\)"):
        CKConvMP.for_grid(2, 3, size=(8,), **arguments)


@pytest.mark.parametrize("axis", [1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("half", [3, 1000, 300_000, 2_000_000])
def test_long_kernels_have_exactly_the_taps_of_their_support(axis, half):
    support = KernelSupport(torch.zeros(1), 1, extent=half * axis)
    assert support.taps((axis,), (4 * half,)) == ((half, half),)


@pytest.mark.parametrize("omega_0", [50.0, 1435.77, 2976.49])
def test_in_float32_a_grid_and_its_graph_agree_at_published_frequencies(omega_0):
    size = (33,)
    conv = CKConvMP.for_grid(3, 4, size=size, omega_0=omega_0, window_width=0.3, kernel_channels=32)
    x = torch.randn(1, 3, *size)
    with torch.no_grad(), use_backend("reference"):
        expected = conv(nodes(x[0]), grid_positions(size), dense_graph(size))
        actual = nodes(conv.grid(x)[0])
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-6 * scale, rtol=0)


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((1000,), {"causal": True, "omega_0": 2976.49}),
        ((1000,), {"omega_0": 2976.49}),
        ((32, 32), {"omega_0": 1435.77}),
        ((40, 40, 40), {"omega_0": 50.0}),
        ((32, 32), {"omega_0": 1435.77, "separable": False}),
    ],
)
def test_exact_initialisation_makes_the_norm_of_every_windowed_kernel_one(size, arguments):
    conv = CKConvMP.for_grid(3, 5, size=size, initialization="exact", **arguments)
    taps = [before + 1 + after for before, after in conv.support().taps(conv.spacing, size)]
    offsets = conv.support().tap_offsets(conv.spacing, conv.support().taps(conv.spacing, size))
    assert len(offsets) == math.prod(taps)
    with torch.no_grad():
        kernel = conv.kernel(offsets + conv.support().shift)
        kernel = kernel * conv.support().window(offsets).unsqueeze(-1)
        squares = kernel.square().sum(0)
        norms = squares if conv.separable else squares.view(5, 3).sum(1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=0)
        noise = conv.grid(torch.randn(8, 3, *(min(cells, 64) for cells in size)))
    assert 0.5 < float(noise.std()) < 2


@pytest.mark.parametrize("spacing", [1e-300, 1e200, 1e300])
def test_the_length_unit_of_a_grid_does_not_matter_however_large_or_small(spacing):
    x = torch.randn(2, 1, 8, 8)
    outputs = []
    for unit in (1.0, spacing):
        torch.manual_seed(0)
        network = CCNN.for_grid(1, 3, size=(8, 8), spacing=unit, hidden_channels=4).eval()
        outputs.append(network(x, spacing=2 * unit))
    torch.testing.assert_close(*outputs)
