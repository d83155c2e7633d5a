"""The fused operator refuses what would make a compiled backend read the memory of others."""

import pytest
import torch

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.point_backends import reference
from ccnn_geo.ops.point_backends.operands import MagnetConv
from ccnn_geo.ops.point_backends.operator import _magnet_conv_backward, magnet_conv
from ccnn_geo.ops.point_backends.registry import backends

SOURCES, TARGETS, DIM, CHANNELS, LAYERS, WIDTH, DEGREE = 6, 4, 3, 5, 3, 2, 7
CPU_BACKENDS = ["torch", "native"]


def make_call(ragged=False, dtype=torch.float32, degree=DEGREE):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    network = MAGNetWeights(
        normal(LAYERS, WIDTH, DIM), normal(LAYERS, WIDTH, DIM), normal(LAYERS, WIDTH, DIM),
        normal(LAYERS, WIDTH), normal(LAYERS - 1, WIDTH, WIDTH), normal(LAYERS - 1, WIDTH),
    )  # fmt: skip
    slots = TARGETS * degree
    return MagnetConv(
        normal(SOURCES, CHANNELS), normal(SOURCES, DIM).double(), normal(TARGETS, DIM).double(),
        torch.randint(SOURCES, (slots,), generator=generator),
        torch.arange(0, slots + 1, degree) if ragged else None, 0 if ragged else degree,
        None, None, torch.tensor([[-9.0] * DIM, [9.0] * DIM], dtype=dtype),
        torch.ones(DIM, dtype=dtype), network, normal(CHANNELS, WIDTH + 1),
    )  # fmt: skip


def with_network(call, **parts):
    return call._replace(network=call.network._replace(**parts))


def wrong_calls():
    call, ragged = make_call(), make_call(ragged=True)
    long = torch.full((TARGETS * DEGREE,), 2**40)
    for name in ("x", "source", "target", "bounds", "inverse_sigma", "readout"):
        value = getattr(call, name)
        yield f"{name} short", call._replace(**{name: value[..., :-1]}), (ValueError,)
        yield f"{name} flat", call._replace(**{name: value.flatten()[:2]}), (ValueError,)
        yield f"{name} of integers", call._replace(**{name: value.long()}), (TypeError,)
        yield f"{name} half", call._replace(**{name: value.half()}), (TypeError,)
        yield f"{name} sparse", call._replace(**{name: value.to_sparse()}), (TypeError,)
    yield "x rows", call._replace(x=call.x[:-1]), (ValueError, IndexError)
    yield "positions in the wrong type", call._replace(source=call.source.float()), (TypeError,)
    for name, value in call.network._asdict().items():
        yield f"{name} short", with_network(call, **{name: value[..., :-1]}), (ValueError,)
        yield f"{name} few", with_network(call, **{name: value[:-1]}), (ValueError,)
        yield f"{name} double", with_network(call, **{name: value.double()}), (TypeError,)
    none = {name: value[:0] for name, value in call.network._asdict().items()}
    yield "no filters", with_network(call, **none), (ValueError,)
    yield "no weights", with_network(call, weights=call.network.weights[:0]), (ValueError,)
    yield "degree of 2^62", call._replace(degree=2**62), (ValueError,)
    yield "degree of -1", call._replace(degree=-1), (ValueError,)
    yield "degree too large", call._replace(degree=DEGREE + 1), (ValueError,)
    yield "index beyond the sources", call._replace(index=call.index + SOURCES), (IndexError,)
    yield "index far beyond", call._replace(index=long), (IndexError,)
    yield "index below -1", call._replace(index=call.index - 9), (IndexError,)
    yield "index in 32 bits", call._replace(index=call.index.int()), (TypeError,)
    yield "index in two axes", call._replace(index=call.index.view(TARGETS, -1)), (ValueError,)
    yield "pointer short", ragged._replace(pointer=ragged.pointer[:-1]), (ValueError,)
    yield "pointer falling", ragged._replace(pointer=ragged.pointer.flip(0)), (IndexError,)
    yield "pointer beyond", ragged._replace(pointer=ragged.pointer * 2), (IndexError,)
    yield "pointer late", ragged._replace(pointer=ragged.pointer + 1), (IndexError,)
    yield "one reverse list", call._replace(reverse_pointer=torch.zeros(7).long()), (ValueError,)


WRONG = [pytest.param(call, errors, id=name) for name, call, errors in wrong_calls()]


@pytest.fixture(params=CPU_BACKENDS)
def backend(request):
    if backends()[request.param] != "available":
        pytest.skip(f"the backend {request.param} is {backends()[request.param]}")
    return request.param


@pytest.mark.parametrize("ragged", [False, True])
def test_a_right_call_is_accepted_forward_and_backward(backend, ragged):
    call = make_call(ragged)
    output, moment = magnet_conv(call, with_moment=True, backend=backend)
    assert output.shape == (TARGETS, CHANNELS) and moment.shape == (WIDTH + 1, WIDTH + 1)
    grads = _magnet_conv_backward(output, moment, *call.flat(), True, True, backend)
    assert [grad.dtype for grad in grads[1:3]] == [torch.float64] * 2


@pytest.mark.parametrize(("call", "errors"), WRONG)
def test_a_wrong_call_is_an_error_forward_and_backward(backend, call, errors):
    with pytest.raises(errors):
        magnet_conv(call, with_moment=True, backend=backend)
    grad = torch.zeros(TARGETS, CHANNELS)
    with pytest.raises(errors):
        _magnet_conv_backward(grad, None, *call.flat(), True, True, backend)


@pytest.mark.parametrize(
    ("grad", "error"),
    [
        (torch.zeros(TARGETS, CHANNELS - 1), ValueError),
        (torch.zeros(TARGETS - 1, CHANNELS), ValueError),
        (torch.zeros(TARGETS, CHANNELS, dtype=torch.float64), TypeError),
    ],
)
def test_a_wrong_gradient_of_the_output_is_an_error(backend, grad, error):
    with pytest.raises(error, match="`grad_output`"):
        _magnet_conv_backward(grad, None, *make_call().flat(), True, True, backend)


def test_gradients_that_are_not_contiguous_are_read_right(backend):
    call = make_call()
    grad = torch.randn(CHANNELS, TARGETS).T
    arguments = None, *call.flat(), True, True, backend
    strided = _magnet_conv_backward(grad, *arguments)
    packed = _magnet_conv_backward(grad.contiguous(), *arguments)
    for one, other in zip(strided, packed, strict=True):
        torch.testing.assert_close(one, other)


def parts(call):
    """The names of all operands that are tensors, with those of the network."""
    named = {**call._asdict(), **call.network._asdict()}
    return {name: part for name, part in named.items() if isinstance(part, torch.Tensor)}


def replaced(call, name, value):
    if name in call.network._fields:
        return with_network(call, **{name: value})
    return call._replace(**{name: value})


@pytest.mark.parametrize("name", [*parts(make_call(ragged=True))])
def test_operands_without_data_are_an_error(backend, name):
    call = make_call(ragged=True)
    call = replaced(call, name, parts(call)[name].to("meta"))
    with pytest.raises(ValueError, match="Expected `.*` on (cpu|meta) like `x`, got (cpu|meta)"):
        magnet_conv(call, with_moment=True, backend=backend)
    with pytest.raises(ValueError, match="Expected `.*` on (cpu|meta) like `x`, got (cpu|meta)"):
        grad = torch.zeros(TARGETS, CHANNELS, device=call.x.device)
        _magnet_conv_backward(grad, None, *call.flat(), True, True, backend)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e308])
@pytest.mark.parametrize("points", ["source", "target"])
@pytest.mark.parametrize("full", [False, True])
def test_positions_that_are_not_finite_reach_the_same_results_in_every_backend(
    backend, value, points, full
):
    # 25 slots per source: enough for the tables of sines that plain PyTorch keeps of points.
    call = make_call(degree=25)
    getattr(call, points)[1] = value
    call = call._replace(readout=None if full else call.readout)

    def results(compute, operands):
        leaves = [operands.x, operands.source, operands.target]
        for leaf in leaves:
            leaf.requires_grad_()
        output, _ = compute(operands)
        return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]

    actual = results(lambda c: magnet_conv(c, with_moment=True, backend=backend), call)
    expected = results(lambda c: reference.evaluate(c, True), call)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())
        limit = 1e-5 * float(other.nan_to_num(0.0).abs().max())
        torch.testing.assert_close(one, other, atol=limit, rtol=0, equal_nan=True)
    everywhere_finite = all(bool(other.isfinite().all()) for other in expected)
    assert everywhere_finite == (value == value)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("names", [("x",), ("source",), ("target",), ("x", "source")])
def test_gradients_of_some_operands_are_those_of_all(backend, names):
    if backends()[backend] != "available":
        pytest.skip(f"the backend {backend} is {backends()[backend]}")

    def gradients(*names):
        call = make_call(dtype=torch.float64)
        leaves = [getattr(call, name).clone().requires_grad_() for name in names]
        call = call._replace(**dict(zip(names, leaves, strict=True)))
        output, moment = magnet_conv(call, with_moment=True, backend=backend)
        found = torch.autograd.grad(output.sin().sum() + moment.sin().sum(), leaves)
        return dict(zip(names, found, strict=True))

    every, some = gradients("x", "source", "target"), gradients(*names)
    for name in names:
        assert every[name].abs().max() > 0
        torch.testing.assert_close(some[name], every[name])
