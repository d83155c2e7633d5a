"""The native backend: what it computes, and how it is built, kept and found."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccnn_geo.ops.magnet import MAGNetWeights, magnet_features
from ccnn_geo.ops.point_backends import native
from ccnn_geo.ops.point_backends import torch as torch_backend
from ccnn_geo.ops.point_backends.native import builds
from ccnn_geo.ops.point_backends.operator import MagnetConv
from ccnn_geo.ops.point_backends.registry import choose_backend

CPU = torch.device("cpu")
COMPILER = next(filter(shutil.which, ["c++", "g++", "clang++"]), None)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++, g++, clang++)")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A cache folder with one real build, shared by all processes of a test run.

    It is a copy of the one that stands ready for this machine; only where there is none is the
    library compiled here.
    """
    ready = native.unavailable(CPU, torch.float32) is None
    manifest = builds.manifest_path()
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "native"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCNN_GEO_CACHE", str(folder))
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            while not builds.manifest_path().exists():
                time.sleep(0.1)
        else:
            if ready:
                # The manifest comes last: it says that all is there.
                shutil.copy(manifest.with_name(json.loads(manifest.read_text())["library"]), folder)
                shutil.copy(manifest, folder)
            else:
                native.build()
    return folder


@pytest.fixture
def library(built, monkeypatch):
    """The backend as after a build, on two threads."""
    monkeypatch.setenv("CCNN_GEO_CACHE", str(built))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copied_cache(built, empty_cache):
    """A copy of the real build, to be damaged."""
    shutil.copytree(built, empty_cache)
    return empty_cache


@pytest.fixture
def copying_compiler(built, tmp_path, monkeypatch):
    """A compiler that hands out what was built before: as good as any, and quick."""
    script = tmp_path / "compiler"
    ready = next(built.glob("*.so"))
    script.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"'-o' in sys.argv and shutil.copy({str(ready)!r}, sys.argv[sys.argv.index('-o') + 1])\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


def random_call(
    targets=7, sources=9, dim=3, channels=5, hidden=6, layers=3, degree=10, *,
    ragged=False, full=False, frequency=3.0, bound=0.9,
):  # fmt: skip
    """Random operands in float64; a table has empty slots, and some edges lie outside."""

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64)

    def uniform(*shape):
        return torch.rand(shape, dtype=torch.float64) * 2 - 1

    degrees = (
        torch.randint(2 * degree + 1, (targets,)) if ragged else torch.full((targets,), degree)
    )
    index = torch.randint(sources, (int(degrees.sum()),))
    if not ragged:
        index[torch.rand(index.shape) < 0.1] = -1
    box = torch.full((dim,), bound, dtype=torch.float64)
    network = MAGNetWeights(
        uniform(layers, hidden, dim), normal(layers, hidden, dim),
        frequency * normal(layers, hidden, dim), 3 * normal(layers, hidden),
        normal(layers - 1, hidden, hidden) / hidden**0.5, normal(layers - 1, hidden),
    )  # fmt: skip
    return MagnetConv(
        normal(sources, channels), uniform(sources, dim), uniform(targets, dim), index,
        torch.nn.functional.pad(degrees.cumsum(0), (1, 0)) if ragged else None,
        0 if ragged else degree, None, None, torch.stack([-box, box]), uniform(dim) * 0.4 + 1,
        network, None if full else normal(channels, hidden + 1),
    )  # fmt: skip


def change(call, convert):
    """The call with every floating tensor converted; positions stay in float64."""

    def visit(part):
        if isinstance(part, tuple):
            return MAGNetWeights(*map(visit, part))
        floating = isinstance(part, torch.Tensor) and part.is_floating_point()
        return convert(part) if floating else part

    changed = MagnetConv(*map(visit, call))
    return changed._replace(source=changed.source.double(), target=changed.target.double())


def leaves(call):
    parts = (call.x, call.source, call.target, call.inverse_sigma, *call.network, call.readout)
    return [part for part in parts if part is not None]


def plain(call):
    """The definition, all edges at once, for autograd to differentiate."""
    degrees = (
        torch.full((len(call.target),), call.degree)
        if call.pointer is None
        else call.pointer.diff()
    )
    i = torch.arange(len(call.target)).repeat_interleave(degrees)
    i, j = i[call.index >= 0], call.index[call.index >= 0]
    offset = call.source[j] - call.target[i]
    inside = ((offset >= call.bounds[0]) & (offset <= call.bounds[1])).all(-1, keepdim=True)
    window = torch.exp(-0.5 * (offset * call.inverse_sigma).square().sum(-1, keepdim=True)) * inside
    features = torch.cat([window * magnet_features(offset, call.network), window], -1)
    edges = call.x[j].unsqueeze(-1) * features.unsqueeze(1)
    output = edges.new_zeros(len(call.target), *edges.shape[1:]).index_add(0, i, edges)
    output = output if call.readout is None else (output * call.readout).sum(-1)
    return output, features.T @ features


def projections(call):
    width = call.network.phases.size(1) + 1
    shape = (len(call.target), call.x.size(1)) + ((width,) if call.readout is None else ())
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64).to(call.x.dtype)
        for size in (shape, (width, width))
    ]


def evaluate(module, call):
    """Values and gradients of a fused backend, in the order of `leaves`."""
    grad_output, grad_moment = projections(call)
    grads = module.backward(call, grad_output, grad_moment, True, True)
    parts = (
        grads.x,
        grads.source,
        grads.target,
        grads.inverse_sigma,
        *grads.network,
        grads.readout,
    )
    return [*module.forward(call, True), *(part for part in parts if part is not None)]


def differentiate_plainly(call):
    call = change(call, lambda part: part.double().clone().requires_grad_())
    outputs = plain(call)
    grads = torch.autograd.grad(
        outputs, leaves(call), projections(call), allow_unused=True, materialize_grads=True
    )
    return [output.detach() for output in outputs] + list(grads)


def assert_close(actual, expected, dtype):
    """Compare to what the type can hold of sums whose terms are as large as the largest result."""
    assert len(actual) == len(expected)
    largest = max(float(part.abs().max()) for part in expected if part.numel())
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        own = float(other.abs().max()) if other.numel() else 0.0
        scale = max(own, 1.0, largest / 10 if dtype == torch.float32 else 0.0)
        atol = TOLERANCE[dtype] * scale
        torch.testing.assert_close(one.double(), other.double(), atol=atol, rtol=0)


@settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    sizes=st.fixed_dictionaries(
        {
            "targets": st.sampled_from([0, 1, 5, 20]),
            "sources": st.sampled_from([1, 9, 65]),
            "dim": st.integers(1, 5),
            "channels": st.sampled_from([1, 3, 8, 17, 32, 140]),
            "hidden": st.sampled_from([1, 2, 8, 13, 16, 33]),
            "layers": st.integers(1, 6),
            "degree": st.sampled_from([0, 1, 7, 64, 65, 150]),
            "ragged": st.booleans(),
            "full": st.booleans(),
        }
    ),
    threads=st.integers(1, 3),
    buffer_bytes=st.sampled_from([0, 5000, 2**26]),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_the_definition_and_of_the_torch_backend(
    library, monkeypatch, dtype, sizes, threads, buffer_bytes
):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    monkeypatch.setattr(native, "_SOURCE_BUFFER_BYTES", buffer_bytes)
    call = change(random_call(**sizes), lambda part: part.to(dtype))
    actual = evaluate(native, call)
    assert_close(actual, differentiate_plainly(call), dtype)
    assert_close(actual, evaluate(torch_backend, change(call, torch.Tensor.double)), dtype)


@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("needs_pos", [False, True])
def test_gradients_that_nobody_asked_for_are_not_computed(library, needs_x, needs_pos):
    call = random_call()
    grad_output, grad_moment = projections(call)
    everything = native.backward(call, grad_output, grad_moment, True, True)
    asked = native.backward(call, grad_output, grad_moment, needs_x, needs_pos)
    assert (asked.x is not None) == needs_x
    assert (asked.source is not None) == (asked.target is not None) == needs_pos
    torch.testing.assert_close(asked.readout, everything.readout, atol=0, rtol=0)
    for one, other in zip(asked.network, everything.network, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_without_a_moment_there_is_none_and_the_output_is_the_same(library):
    call = random_call()
    output, moment = native.forward(call, False)
    assert moment.numel() == 0
    torch.testing.assert_close(output, native.forward(call, True)[0], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sines_of_thousands_of_radians_are_exact_up_to_the_rounding_of_the_angle(library, dtype):
    call = random_call(
        targets=500, sources=500, degree=1, channels=1, hidden=16, layers=1, full=True,
        frequency=1500.0, bound=3.0,
    )  # fmt: skip
    call = call._replace(
        x=torch.ones_like(call.x), index=torch.arange(500), inverse_sigma=torch.zeros(3).double()
    )
    call = change(call, lambda part: part.to(dtype))
    features = native.forward(call, False)[0].view(500, -1)[:, :-1].double()
    exact = change(call, torch.Tensor.double)
    expected = plain(exact)[0].view(500, -1)[:, :-1]
    offset = exact.source - exact.target
    size = (offset.abs() @ exact.network.frequencies[0].abs().T) + exact.network.phases[0].abs()
    assert float(size.max()) > 5000
    rounding = torch.finfo(dtype).eps * (size + 4)
    if dtype == torch.float32:
        # The offsets themselves are rounded before they are multiplied with the frequencies.
        rounding = 2 * rounding
    assert bool(((features - expected).abs() <= rounding + 1e-12).all())


def test_gaussians_that_underflow_are_zero_and_nothing_is_nan(library):
    call = random_call(frequency=1e6)
    narrow = call.network._replace(inverse_widths=call.network.inverse_widths * 1e9)
    call = change(
        call._replace(network=narrow, inverse_sigma=call.inverse_sigma * 1e3),
        lambda part: part.float(),
    )
    values = evaluate(native, call)
    assert all(bool(part.isfinite().all()) for part in values)
    assert float(values[0].abs().max()) < 1e-30


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("buffer_bytes", [0, 2**26])
def test_the_same_call_gives_the_same_bits(library, monkeypatch, full, buffer_bytes):
    monkeypatch.setattr(native, "_SOURCE_BUFFER_BYTES", buffer_bytes)
    call = random_call(targets=300, sources=50, degree=40, ragged=True, full=full)
    call = change(call, lambda part: part.float())
    first = evaluate(native, call)
    for _ in range(3):
        for one, other in zip(evaluate(native, call), first, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("buffer_bytes", [0, 40_000, 2**26])
def test_results_do_not_depend_on_the_number_of_threads(library, monkeypatch, full, buffer_bytes):
    """With rows of gradients for all sources and strands, for those of half as many, and staged."""
    monkeypatch.setattr(native, "_SOURCE_BUFFER_BYTES", buffer_bytes)
    call = random_call(
        targets=3000, sources=50, degree=100, channels=3, hidden=2, layers=2, full=full
    )
    call = change(call, lambda part: part.float())
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(evaluate(native, call))
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("buffer_bytes", [0, 40_000, 2**26])
def test_sums_over_many_strands_are_those_of_the_torch_backend(library, monkeypatch, buffer_bytes):
    monkeypatch.setattr(native, "_SOURCE_BUFFER_BYTES", buffer_bytes)
    call = random_call(targets=3000, sources=50, degree=100, channels=3, hidden=2, layers=2)
    assert_close(evaluate(native, call), evaluate(torch_backend, call), torch.float64)


def test_nothing_beside_the_operands_is_read_and_nothing_is_written_to_them(library):
    call = change(random_call(channels=17, hidden=13), lambda part: part.float())
    guards = []

    def embed(part):
        guard = torch.full((part.numel() + 64,), torch.nan, dtype=part.dtype)
        inner = guard[32:-32].view(part.shape).copy_(part)
        guards.append((guard, guard.clone()))
        return inner

    for one, other in zip(
        evaluate(native, change(call, embed)), evaluate(native, call), strict=True
    ):
        assert torch.equal(one, other)
    for guard, before in guards:
        assert torch.equal(guard.view(torch.int32), before.view(torch.int32))


def test_strided_operands_are_taken_as_they_are(library):
    call = random_call()
    strided = change(call, lambda part: part.repeat_interleave(2, dim=-1)[..., ::2])
    for one, other in zip(evaluate(native, strided), evaluate(native, call), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("ragged", [False, True])
def test_an_index_that_names_no_source_is_an_error(library, ragged):
    call = random_call(ragged=ragged)
    index = call.index.clone()
    index[3] = len(call.source)
    with pytest.raises(IndexError, match="Expected `index` and `pointer` to name existing"):
        native.forward(call._replace(index=index), False)
    with pytest.raises(IndexError, match="Expected `index` and `pointer` to name existing"):
        native.backward(call._replace(index=index), projections(call)[0], None, True, True)


def test_a_pointer_that_names_no_slots_is_an_error(library):
    call = random_call(ragged=True)
    for pointer in (call.pointer + 1, call.pointer.flip(0), call.pointer - 1):
        with pytest.raises(IndexError, match="Expected `index` and `pointer` to name existing"):
            native.forward(call._replace(pointer=pointer), False)


def test_it_takes_float32_and_float64_on_the_cpu_only(library):
    assert native.unavailable(CPU, torch.float32) is None
    assert native.unavailable(CPU, torch.float64) is None
    assert "not in torch.float16" in native.unavailable(CPU, torch.float16)
    assert "not on cuda" in native.unavailable(torch.device("cuda"), torch.float32)


def test_before_a_build_it_says_what_to_do_and_auto_takes_another(empty_cache):
    reason = native.unavailable(CPU, torch.float32)
    assert reason == "not built; run `python -m ccnn_geo build`"
    assert choose_backend("auto", CPU, torch.float32) == "torch"
    assert not empty_cache.exists()
    with pytest.raises(
        RuntimeError, match="'native' cannot run on cpu in torch.float32: not built"
    ):
        choose_backend("native", CPU, torch.float32)


def test_after_a_build_auto_takes_it_at_once(empty_cache, copying_compiler):
    assert native.unavailable(CPU, torch.float32) is not None
    path = native.build()
    assert path.parent == empty_cache
    assert native.unavailable(CPU, torch.float32) is None
    assert choose_backend("auto", CPU, torch.float32) == "native"


def test_a_build_for_another_torch_or_cpu_or_source_is_not_taken(copied_cache, monkeypatch):
    monkeypatch.setattr(builds, "_identity", lambda: "0123456789abcdef")
    reason = native.unavailable(CPU, torch.float32)
    assert "is for another torch, another CPU or an older ccnn_geo; run `python -m" in reason


@pytest.mark.parametrize(
    "damage", [lambda data: data[:1000], lambda data: b"", lambda data: data[::-1]]
)
def test_a_damaged_library_is_not_loaded_and_a_new_build_mends_it(
    copied_cache, copying_compiler, damage
):
    for library in copied_cache.glob("*.so"):
        library.write_bytes(damage(library.read_bytes()))
    assert "is damaged; run `python -m ccnn_geo build` again" in native.unavailable(
        CPU, torch.float32
    )
    native.build()
    assert native.unavailable(CPU, torch.float32) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "\0\0", '{"library": 3, "sha256": ""}'])
def test_a_damaged_manifest_is_a_reason_and_no_crash(copied_cache, content):
    builds.manifest_path().write_text(content)
    assert "cannot be read" in native.unavailable(CPU, torch.float32)


def test_a_missing_library_is_a_reason_and_no_crash(copied_cache):
    for library in copied_cache.glob("*.so"):
        library.unlink()
    assert "is gone; run `python -m ccnn_geo build`" in native.unavailable(CPU, torch.float32)


def test_a_file_that_is_no_library_is_a_reason_and_no_crash(empty_cache, monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "'-o' in sys.argv and open(sys.argv[sys.argv.index('-o') + 1], 'w').write('text')\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        native.build()
    assert "cannot be loaded" in native.unavailable(CPU, torch.float32)


def test_without_a_compiler_a_build_says_so(empty_cache, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler, and none was found"):
        native.build()
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(RuntimeError, match="none was found \\(/nowhere/g\\+\\+\\)"):
        native.build()
    assert choose_backend("auto", CPU, torch.float32) == "torch"


def test_what_the_compiler_complains_about_is_passed_on(empty_cache, monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(RuntimeError, match="failed with status 3:\nno such thing"):
        native.build()


def test_a_cache_that_cannot_be_written_is_named(copying_compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RuntimeError, match="cannot be written .* CCNN_GEO_CACHE names another"):
        native.build()


def test_the_cache_is_where_the_user_or_the_desktop_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CCNN_GEO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builds.cache_folder() == tmp_path / "ccnn_geo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert builds.cache_folder() == Path.home() / ".cache" / "ccnn_geo"
    monkeypatch.setenv("CCNN_GEO_CACHE", "~/elsewhere")
    assert builds.cache_folder() == Path.home() / "elsewhere"


def test_two_processes_may_build_at_once(empty_cache, copying_compiler, tmp_path):
    # Neither may link before the other is about to.
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    with copying_compiler.open("a") as script:
        script.write(
            "import os, pathlib, time\n"
            f"folder = pathlib.Path({str(waiting)!r})\n"
            "if sys.argv[-1].endswith('native.so'):\n"
            "    (folder / str(os.getppid())).touch()\n"
            "    deadline = time.monotonic() + 120\n"
            "    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:\n"
            "        time.sleep(0.01)\n"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "ccnn_geo", "build"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    native.build()
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    assert "Compiling for" in printed
    assert "Built " in printed
    assert len(list(waiting.iterdir())) == 2
    assert native.unavailable(CPU, torch.float32) is None
    assert sorted(path.suffix for path in empty_cache.iterdir()) == [".json", ".so"]
