"""Registry of the backends of the point convolution, and the choice between them."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch
import torch.utils.data

_MODULES = {
    "torch": "ccnn_geo.ops.point_backends.torch",
    "native": "ccnn_geo.ops.point_backends.native",
    "triton": "ccnn_geo.ops.point_backends.triton",
}
_NAMES = ("auto", "reference", *_MODULES)
_forced: ContextVar[str | None] = ContextVar("ccnn_geo_backend", default=None)
_deterministic: ContextVar[bool] = ContextVar("ccnn_geo_deterministic", default=True)
_logger = logging.getLogger(__name__)


def load_backend(name: str) -> ModuleType:
    """Import a fused backend: a module with `unavailable`, `forward` and `backward`."""
    return importlib.import_module(_MODULES[name])


def backends() -> dict[str, str]:
    """Return for every backend `"available"`, or the reason why it cannot run here.

    Every backend is checked for the device that it is made for, in float32.
    """
    devices = {"torch": "cpu", "native": "cpu", "triton": "cuda"}
    report = {"reference": "available"}
    for name in _MODULES:
        reason = load_backend(name).unavailable(torch.device(devices[name]), torch.float32)
        report[name] = reason or "available"
    return report


@contextmanager
def use_backend(
    name: str | None = None, *, deterministic: bool | None = None, precision: str | None = None
) -> Iterator[None]:
    """Choose how every convolution inside the `with` block is evaluated.

    It overrides the environment variables `CCNN_GEO_BACKEND` and `CCNN_GEO_TRITON_PRECISION`; an
    explicit `backend=` argument overrides it.

    Args:
        name: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`; unchanged if None.
        deterministic: If True (the default outside any block), gradients of the Triton backend are
            bitwise reproducible. If False, gradients of features and positions use atomics instead
            of transposed neighbour lists, which have to be sorted first. Unchanged if None.
        precision: Precision of matrix products in the Triton backend: `"tf32x3"` or `"bf16x6"`,
            both about as exact as float32, or the faster `"tf32"`, good to three decimal places.
            Unchanged if None. It applies to the whole process, because gradients of CUDA tensors
            are computed in other threads.

    Raises:
        ValueError: If there is no backend or precision of that name.
    """
    with ExitStack() as stack:
        if name is not None:
            stack.callback(_forced.reset, _forced.set(_checked_name(name, "name")))
        if precision is not None:
            stack.enter_context(load_backend("triton").use_precision(precision))
        if deterministic is not None:
            stack.callback(_deterministic.reset, _deterministic.set(deterministic))
        yield


@torch.compiler.assume_constant_result
def is_deterministic() -> bool:
    """True if gradients must be bitwise reproducible, see `use_backend`."""
    return _deterministic.get()


@torch.compiler.assume_constant_result
def choose_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Resolve `"auto"` to the fastest backend that supports this device and type.

    Raises:
        ValueError: If there is no backend of that name.
        RuntimeError: If the backend asked for cannot run here; says why.
    """
    name = _requested(name)
    if name == "reference":
        return name
    if name == "auto":
        fastest = "triton" if device.type == "cuda" else "native"
        return "torch" if load_backend(fastest).unavailable(device, dtype) else fastest
    reason = load_backend(name).unavailable(device, dtype)
    if reason:
        raise RuntimeError(f"The backend {name!r} cannot run on {device} in {dtype}: {reason}")
    return name


@torch.compiler.assume_constant_result
def suggest_build(name: str, device: torch.device) -> None:
    """Log once per process how to build the native backend, if `"auto"` would choose it.

    Nothing is logged without a compiler or in the workers of a data loader. To be called for
    convolutions of many edges only, because for few it makes no difference.
    """
    automatic = device.type == "cpu" and _requested(name) == "auto"
    if automatic and torch.utils.data.get_worker_info() is None:
        _suggest_build()


@cache
def _suggest_build() -> None:
    native = load_backend("native")
    reason = native.unavailable(torch.device("cpu"), torch.float32)
    if reason and native.builds.has_compiler():
        _logger.warning(
            "The convolution on points runs in plain PyTorch, because the native backend, which "
            "is faster, cannot be used: %s",
            reason,
        )


def _requested(name: str) -> str:
    """Return the backend that the argument, an open `use_backend` or the environment names."""
    if _checked_name(name, "backend") != "auto":
        return name
    environment = os.environ.get("CCNN_GEO_BACKEND") or "auto"
    return _forced.get() or _checked_name(environment, "CCNN_GEO_BACKEND")


def _checked_name(name: str, argument: str) -> str:
    if name not in _NAMES:
        raise ValueError(f"Expected `{argument}` to be one of {', '.join(_NAMES)}, got {name!r}")
    return name
