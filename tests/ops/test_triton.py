"""The Triton backend against the one in plain PyTorch: on a GPU, else in Triton's interpreter."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ccnn_geo import CKConvMP, knn_graph, use_backend
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends import reference
from ccnn_geo.ops.point_backends import torch as torch_backend
from ccnn_geo.ops.point_backends import triton as triton_backend
from ccnn_geo.ops.point_backends.operands import MagnetConv, MagnetConvGradients
from ccnn_geo.ops.point_backends.operator import magnet_conv
from ccnn_geo.ops.point_backends.triton.tiles import aggregate_tiles, channel_chunks, padded_width

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
MISSING = triton_backend.unavailable(torch.device(DEVICE), torch.float32)
needs_kernels = pytest.mark.skipif(MISSING is not None, reason=f"cannot run Triton: {MISSING}")
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="there is no CUDA device")

# Relative to float64, in the Euclidean norm, for offsets exact to 1e-7 and angles below 100.
TOLERANCES = {"tf32x3": 2e-5, "bf16x6": 2e-5, "tf32": 2e-2}


def make_call(
    *,
    sources=4,
    degrees=(3, 0, 18),
    dim=3,
    channels=5,
    width=6,
    depth=3,
    table=False,
    full=False,
    transposed=True,
    omega=10.0,
    bound=0.9,
    device=DEVICE,
):
    """A random call; a table has as many slots per target as `degrees` says at most."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    targets, slots = len(degrees), max(degrees, default=0)
    if table:
        index = torch.randint(0, sources, (targets, slots), generator=generator)
        index[torch.arange(slots) >= torch.tensor(degrees)[:, None]] = -1
        neighborhood = Neighborhood.from_table(index, sources)
    else:
        index = torch.randint(0, sources, (sum(degrees),), generator=generator)
        pointer = torch.tensor([0, *degrees]).cumsum(0)
        neighborhood = Neighborhood(index, sources, targets, pointer=pointer)
    upper = torch.full((dim,), bound)
    call = MagnetConv(
        normal(sources, channels),
        uniform(sources, dim),
        uniform(targets, dim),
        neighborhood.index,
        neighborhood.pointer,
        neighborhood.degree,
        *(neighborhood.reversed if transposed else (None, None)),
        torch.stack([-upper, upper]),
        1 / (uniform(dim) + 0.5),
        MAGNetWeights(
            0.5 * normal(depth, width, dim),
            1 + uniform(depth, width, dim),
            omega * normal(depth, width, dim),
            normal(depth, width),
            normal(depth - 1, width, width) / width**0.5,
            normal(depth - 1, width),
        ),
        None if full else normal(channels, width + 1),
    )
    return converted(call, device=device)


def converted(value, **to):
    """The same call, or part of it, in another place or floating type."""
    if isinstance(value, torch.Tensor):
        kind = to.get("dtype") if value.is_floating_point() else None
        return value.to(device=to["device"], dtype=kind or value.dtype)
    if isinstance(value, MAGNetWeights):
        return MAGNetWeights(*(converted(part, **to) for part in value))
    if isinstance(value, MagnetConv):
        call = MagnetConv(*(converted(part, **to) for part in value))
        return call._replace(source=call.source.double(), target=call.target.double())
    return value


def flattened(output, moment, gradients: MagnetConvGradients):
    named = gradients._asdict() | gradients.network._asdict()
    del named["network"]
    return {"output": output, "moment": moment, **named}


def upstream(call, with_moment):
    generator = torch.Generator().manual_seed(1)
    width = call.network.phases.size(1) + 1
    shape = (call.target.size(0), call.x.size(1)) + (() if call.readout is not None else (width,))
    grad_output = torch.randn(shape, generator=generator)
    grad_moment = torch.randn(width, width, generator=generator) if with_moment else None
    return grad_output, grad_moment


def evaluate(module, call, *, with_moment=True, needs_x=True, needs_pos=True):
    """The output, the moment and all gradients, by name."""
    to = {"device": call.x.device, "dtype": call.x.dtype}
    grads = (converted(grad, **to) for grad in upstream(call, with_moment))
    output, moment = module.forward(call, with_moment)
    return flattened(output, moment, module.backward(call, *grads, needs_x, needs_pos))


def assert_close(actual, expected, tolerance):
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
            continue
        assert actual[name].shape == value.shape, name
        difference = (actual[name].double().cpu() - value.double().cpu()).norm()
        assert difference <= tolerance * value.double().norm(), name


def assert_agrees(call, precision="tf32x3", **options):
    expected = evaluate(
        torch_backend, converted(call, device="cpu", dtype=torch.float64), **options
    )
    with use_backend(precision=precision):
        assert_close(evaluate(triton_backend, call, **options), expected, TOLERANCES[precision])


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's own process")
def test_everything_here_holds_in_the_interpreter():
    """Triton must know that it interprets before anything imports it, hence another process."""
    triton = pytest.importorskip("triton", reason="the package triton is not installed")
    if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton 3.6 needs a NumPy older than 2.4")
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=environment | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


CASES = {
    "ragged, an empty and a long row": {},
    "a table with empty slots": {"table": True, "channels": 3},
    "full kernels": {"full": True, "depth": 2},
    "four coordinates, one layer": {"dim": 4, "depth": 1},
    "one coordinate, five layers": {"dim": 1, "depth": 5, "degrees": (4,)},
    "channels in several chunks": {"channels": 70, "degrees": (3, 33), "depth": 2},
    "as wide as a tile": {"width": 16, "degrees": (40,), "depth": 2},
    "padded to 32": {"width": 20, "degrees": (7,), "depth": 2, "full": True},
    "no neighbours at all": {"degrees": (0, 0)},
    "no targets": {"degrees": ()},
}


@needs_kernels
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_gradients_are_those_of_the_tiled_backend(case):
    assert_agrees(make_call(**case))


@needs_kernels
@pytest.mark.parametrize("full", [False, True], ids=["depthwise", "full"])
def test_atomic_sums_are_those_over_transposed_lists(full):
    assert_agrees(make_call(full=full, transposed=False, depth=2, degrees=(5, 17)))


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16x6", "tf32"])
def test_other_precisions_keep_their_tolerance(precision):
    assert_agrees(make_call(depth=2, degrees=(5, 17)), precision)


@needs_kernels
@pytest.mark.parametrize(
    "options",
    [
        {"needs_x": False},
        {"needs_pos": False},
        {"needs_x": False, "needs_pos": False, "with_moment": False},
    ],
    ids=["no features", "no positions", "parameters only"],
)
def test_what_is_not_asked_for_is_not_computed(options):
    assert_agrees(make_call(depth=2, degrees=(5, 3)), **options)


@needs_kernels
def test_results_over_transposed_lists_repeat_bit_by_bit():
    call = make_call(depth=1, degrees=(5, 17))
    first, second = evaluate(triton_backend, call), evaluate(triton_backend, call)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@needs_kernels
@pytest.mark.parametrize(
    ("leaf", "options", "expected"),
    [
        ("x", {}, True),
        ("pos", {}, True),
        (None, {}, False),
        ("x", {"deterministic": False}, False),
    ],
)
def test_lists_are_transposed_where_sums_over_sources_must_repeat(
    leaf, options, expected, monkeypatch
):
    differentiate, transposed = triton_backend.backward, []

    def spy(call, *rest):
        transposed.append(call.reverse_pointer is not None)
        return differentiate(call, *rest)

    monkeypatch.setattr(triton_backend, "backward", spy)
    conv = CKConvMP(3, 2, dim=2, kernel_channels=4).to(DEVICE)
    inputs = {"x": torch.rand(5, 3, device=DEVICE), "pos": torch.rand(5, 2, device=DEVICE)}
    if leaf:
        inputs[leaf].requires_grad_()
    with use_backend("triton", **options):
        conv(**inputs, edge_index=knn_graph(inputs["pos"].detach(), 3, loop=True)).sum().backward()
    assert transposed == [expected]


@needs_kernels
def test_what_lies_outside_the_bounds_counts_for_nothing():
    call = make_call(depth=2, bound=0.0)
    for name, value in evaluate(triton_backend, call).items():
        assert value.count_nonzero() == 0, name


@needs_kernels
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("points", ["source", "target"])
def test_positions_that_are_not_finite_reach_the_same_results_as_in_the_reference(value, points):
    call = make_call(depth=2, degrees=(6, 5, 7))
    getattr(call, points)[0] = value

    def results(compute, operands):
        leaves = [operands.x, operands.source, operands.target]
        for leaf in leaves:
            leaf.requires_grad_()
        output, _ = compute(operands)
        return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]

    actual = results(lambda c: magnet_conv(c, with_moment=True, backend="triton"), call)
    expected = results(lambda c: reference.evaluate(c, True), converted(call, device="cpu"))
    for one, other in zip(actual, expected, strict=True):
        limit = 1e-4 * float(other.nan_to_num(0.0).abs().max())
        torch.testing.assert_close(one.cpu(), other, atol=limit, rtol=0, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("omega", [2000.0, 50000.0])
def test_sines_of_thousands_of_radians_are_those_of_float64(omega):
    call = make_call(depth=1, degrees=(30,), omega=omega, full=True)
    network = call.network._replace(phases=omega * call.network.phases)
    call = call._replace(network=network)
    # Offsets are rounded to float32 in every backend.
    offsets = (call.source[call.index] - call.target[0]).float().double().cpu()
    angles = offsets @ network.frequencies[0].double().cpu().T
    assert float(angles.abs().max()) > omega
    exact = converted(call, device="cpu", dtype=torch.float64)
    exact = exact._replace(source=offsets, target=torch.zeros_like(exact.target))
    exact = exact._replace(x=exact.x[exact.index], index=torch.arange(len(offsets)))
    expected, _ = reference.evaluate(exact, False)
    actual, _ = triton_backend.forward(call, False)
    assert (actual.cpu() - expected).abs().max() <= 2e-6 * call.x[call.index].abs().sum(0).max()


@needs_kernels
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("wrong", [4, 2**40, -2, -(2**40)])
def test_entries_that_name_no_source_count_as_empty_slots(wrong, transposed, full):
    call = make_call(depth=2, degrees=(6, 5), transposed=transposed, full=full)
    index = call.index.clone()
    index[[1, 7]] = -1
    expected = call._replace(index=index)
    index = index.masked_fill(index < 0, wrong)
    actual = call._replace(index=index)
    if transposed:
        lists = Neighborhood(index, 4, 2, pointer=call.pointer).reversed
        actual = actual._replace(reverse_pointer=lists[0], reverse_target=lists[1])
        lists = Neighborhood(expected.index, 4, 2, pointer=call.pointer).reversed
        expected = expected._replace(reverse_pointer=lists[0], reverse_target=lists[1])
    expected = evaluate(triton_backend, expected)
    for name, value in evaluate(triton_backend, actual).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)


@needs_kernels
def test_lists_that_leave_the_slots_are_cut():
    call = make_call(depth=2, degrees=(6, 5), transposed=False)
    expected = evaluate(triton_backend, call)
    actual = evaluate(triton_backend, call._replace(pointer=torch.tensor([-9, 6, 2**40])))
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)


@needs_kernels
def test_autograd_reaches_every_input():
    call = make_call(depth=2, degrees=(5, 3))
    expected = evaluate(torch_backend, converted(call, device="cpu", dtype=torch.float64))
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in (call._asdict() | call.network._asdict()).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name != "bounds"
    }
    network = MAGNetWeights(*(leaves[name] for name in MAGNetWeights._fields))
    inputs = {name: leaf for name, leaf in leaves.items() if name in MagnetConv._fields}
    output, moment = magnet_conv(
        call._replace(network=network, **inputs), with_moment=True, backend="triton"
    )
    grads = tuple(converted(grad, device=DEVICE) for grad in upstream(call, True))
    torch.autograd.backward((output, moment), grads)
    names = {"inverse_sigma": "inverse_sigma"} | {name: name for name in leaves}
    actual = {name: leaves[name].grad for name in names}
    assert_close(actual, {name: expected[name] for name in names}, TOLERANCES["tf32x3"])


@needs_kernels
def test_more_than_four_coordinates_are_refused():
    with pytest.raises(ValueError, match="at most 4 coordinates, got 5"):
        triton_backend.forward(make_call(dim=5), False)


@needs_cuda
@pytest.mark.parametrize(
    ("channels", "width", "slots", "transposed", "precision"),
    [
        (140, 32, 200, True, "tf32x3"),
        (140, 32, 200, True, "bf16x6"),
        (140, 32, 200, True, "tf32"),
        (140, 32, 200, False, "tf32x3"),
        (64, 32, 30, True, "tf32x3"),
        (16, 8, 256, True, "tf32x3"),
        (380, 64, 64, True, "tf32x3"),
    ],
)
def test_sizes_of_real_networks_agree(channels, width, slots, transposed, precision):
    call = make_call(
        sources=300, degrees=[slots] * 200, channels=channels, width=width, depth=4,
        table=True, transposed=transposed,
    )  # fmt: skip
    assert_agrees(call, precision, with_moment=False, needs_pos=False)


@needs_cuda
def test_memory_does_not_grow_with_the_edges():
    call = make_call(sources=2048, degrees=[256] * 2048, channels=64, width=32, depth=4, table=True)
    grad_output = torch.ones_like(call.x)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    triton_backend.forward(call, False)
    triton_backend.backward(call, grad_output, None, True, False)
    edges = call.index.numel()
    assert torch.cuda.max_memory_allocated() - before < 100 * edges


def test_only_float32_is_taken():
    for dtype in (torch.float64, torch.bfloat16):
        assert "float32 only" in triton_backend.unavailable(torch.device(DEVICE), dtype)


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA device" in triton_backend.unavailable(torch.device("cpu"), torch.float32)
    assert (
        triton_backend.unavailable(torch.device("cuda"), torch.float32) == "there is no CUDA device"
    )


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="`precision` to be one of tf32x3, bf16x6, tf32"):
        with use_backend(precision="half"):
            pass


@needs_kernels
def test_an_unknown_precision_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("CCNN_GEO_TRITON_PRECISION", "half")
    with pytest.raises(ValueError, match="`CCNN_GEO_TRITON_PRECISION` to be one of"):
        triton_backend.forward(make_call(), False)


@pytest.mark.parametrize("width", [1, 16, 20, 64])
def test_chunks_cover_all_channels_and_fit_the_registers(width):
    padded = padded_width(width)
    for degree in (8, 30, 256):
        for channels in range(1, 1100, 7):
            tiles = aggregate_tiles(padded, degree, channels)
            chunks = channel_chunks(channels, tiles, padded)
            group = (chunks.number - 1) * chunks.size + chunks.last
            assert group * chunks.groups >= channels > group * (chunks.groups - 1)
            assert {chunks.size, chunks.last} <= {16, 32, 64}
            assert group * padded <= 2 * 64 * 32 * tiles.warps


@needs_kernels
def test_images_in_a_periodic_box_are_sources_like_others():
    conv = CKConvMP(4, 4, dim=3, num_neighbors=6, kernel_channels=6, omega_0=1.0, extent=0.5)
    pos = 3 * torch.rand(20, 3)
    edge_index = knn_graph(pos, 6, loop=True, period=1.0)
    leaves = [torch.randn(20, 4), pos]
    results = {}
    for backend, device in (("reference", "cpu"), ("triton", DEVICE)):
        conv.to(device)
        x, pos = (leaf.to(device).requires_grad_() for leaf in leaves)
        with use_backend(backend):
            output = conv(x, pos, edge_index.to(device), period=1.0)
        gradients = torch.autograd.grad(output.square().sum(), (x, pos))
        results[backend] = [part.detach().cpu() for part in (output, *gradients)]
    for one, other in zip(results["triton"], results["reference"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)
