"""The fused convolution in C++, for the CPU.

`python -m ccnn_geo build` compiles the library for the CPU of this machine. It is never compiled
implicitly.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.point_backends.native import builds
from ccnn_geo.ops.point_backends.operands import MagnetConv, MagnetConvGradients

_SOURCE_BUFFER_BYTES = 2**26
_DONE, _OUT_OF_MEMORY, _BAD_INDEX = 0, 1, 2


class _Call(ctypes.Structure):
    """`CcnnGeoCall` of csrc/magnet_conv.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "sources", "targets", "dim", "channels", "layers", "width", "slots", "degree",
            "threads", "buffer_bytes",
        )),
        *((name, ctypes.c_void_p) for name in (
            "index", "pointer", "source", "target", "x", "bounds", "inverse_sigma", "centers",
            "inverse_widths", "frequencies", "phases", "weights", "biases", "readout",
        )),
    ]  # fmt: skip


class _Gradients(ctypes.Structure):
    """`CcnnGeoGradients` of csrc/magnet_conv.h."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in (
            "x", "source", "target", "inverse_sigma", "centers", "inverse_widths", "frequencies",
            "phases", "weights", "biases", "readout",
        )
    ]  # fmt: skip


_libraries: dict[Path, ctypes.CDLL] = {}
_failures: dict[tuple[Path, int | None], str] = {}


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot compute with such tensors, or None if it can."""
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device.type}"
    if dtype not in builds.SCALARS:
        return f"it computes in float32 and float64, not in {dtype}"
    try:
        _library()
    except builds.NotBuiltError as error:
        return str(error)
    return None


def build(*, verbose: bool = False, time_limit: float = builds.TIME_LIMIT) -> Path:
    """Compile this backend for this machine, see `builds.build`."""
    path = builds.build(verbose=verbose, time_limit=time_limit)
    _libraries.pop(builds.manifest_path(), None)
    _failures.clear()
    _library()
    return path


def forward(call: MagnetConv, with_moment: bool) -> tuple[Tensor, Tensor]:
    """Evaluate a call, see `MagnetConv`."""
    width = call.network.phases.size(1) + 1
    shape = (call.target.size(0), call.x.size(1)) + (() if call.readout is not None else (width,))
    output = call.x.new_empty(shape)
    moment = call.x.new_empty((width, width) if with_moment else (0,))
    operands = _Operands(call)
    _run("forward", call, operands.structure, _address(output), _address(moment))
    return output, moment


def backward(
    call: MagnetConv,
    grad_output: Tensor,
    grad_moment: Tensor | None,
    needs_x: bool,
    needs_pos: bool,
) -> MagnetConvGradients:
    """Differentiate a call, recomputing every tile."""

    def empty(part: Tensor) -> Tensor:
        return part.new_empty(part.shape, dtype=call.x.dtype)

    grads = MagnetConvGradients(
        empty(call.x) if needs_x else None,
        empty(call.source) if needs_pos else None,
        empty(call.target) if needs_pos else None,
        empty(call.inverse_sigma),
        MAGNetWeights(*(empty(part) for part in call.network)),
        None if call.readout is None else empty(call.readout),
    )
    flat = [grads.x, grads.source, grads.target, grads.inverse_sigma, *grads.network, grads.readout]
    operands = _Operands(call)
    given = [grad_output.contiguous(), None if grad_moment is None else grad_moment.contiguous()]
    gradients = _Gradients(*(_address(part) for part in flat))
    _run(
        "backward", call, operands.structure, *(_address(part) for part in given),
        ctypes.byref(gradients),
    )  # fmt: skip
    return grads


class _Operands:
    """The structure that describes a call, and the tensors that it points into."""

    def __init__(self, call: MagnetConv) -> None:
        layers, width = call.network.phases.shape
        tensors = [
            call.index, call.pointer, call.source, call.target, call.x, call.bounds,
            call.inverse_sigma, *call.network, call.readout,
        ]  # fmt: skip
        self._alive = [None if each is None else each.contiguous() for each in tensors]
        self.structure = ctypes.byref(
            _Call(
                call.source.size(0), call.target.size(0), call.source.size(1), call.x.size(1),
                layers, width, call.index.numel(), call.degree, torch.get_num_threads(),
                _SOURCE_BUFFER_BYTES, *(_address(each) for each in self._alive),
            )
        )  # fmt: skip


def _address(tensor: Tensor | None) -> int | None:
    return tensor.data_ptr() or None if tensor is not None else None


def _run(name: str, call: MagnetConv, *arguments: object) -> None:
    function = getattr(_library(), f"ccnn_geo_{name}_{builds.SCALARS[call.x.dtype]}")
    status = function(*arguments)
    if status == _BAD_INDEX:
        raise IndexError("Expected `index` and `pointer` to name existing sources and slots")
    if status == _OUT_OF_MEMORY:
        raise MemoryError(f"The native backend ran out of memory in its {name} pass")
    if status != _DONE:
        raise RuntimeError(f"The native backend failed in its {name} pass with status {status}")


def _library() -> ctypes.CDLL:
    """Return the library; after a failure, it is looked for again when the manifest has changed.

    Raises:
        NotBuiltError: If there is none that can be used.
    """
    path = builds.manifest_path()
    if path in _libraries:
        return _libraries[path]
    state = path, _modified(path)
    if state in _failures:
        raise builds.NotBuiltError(_failures[state])
    try:
        library = builds.load()
        for name, count in (("forward", 3), ("backward", 4)):
            for scalar in builds.SCALARS.values():
                getattr(library, f"ccnn_geo_{name}_{scalar}").argtypes = [ctypes.c_void_p] * count
    except AttributeError as error:
        _failures[state] = f"the compiled library is not this backend ({error}): is CXX set?"
        raise builds.NotBuiltError(_failures[state]) from None
    except builds.NotBuiltError as error:
        _failures[state] = str(error)
        raise
    _libraries[path] = library
    return library


def _modified(path: Path) -> int | None:
    """Return when a file was modified, in nanoseconds, or None if it cannot be found."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
