"""Which implementations of the point convolution there are, and which one runs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

_MODULES = {
    "torch": "ccnn_geo.ops.point_backends.torch",
    "native": "ccnn_geo.ops.point_backends.native",
    "triton": "ccnn_geo.ops.point_backends.triton",
}
_NAMES = ("auto", "reference", *_MODULES)
_forced: ContextVar[str | None] = ContextVar("ccnn_geo_backend", default=None)
_deterministic: ContextVar[bool] = ContextVar("ccnn_geo_deterministic", default=True)


def load_backend(name: str) -> ModuleType:
    """Import a fused backend: a module with `unavailable`, `forward` and `backward`."""
    return importlib.import_module(_MODULES[name])


def backends() -> dict[str, str]:
    """Say of every backend whether it is `"available"` here, or why it is not.

    Each is asked about the device that it is made for, in float32.
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

    It goes before the environment variables `CCNN_GEO_BACKEND` and `CCNN_GEO_TRITON_PRECISION`,
    and gives way to an explicit `backend=` argument.

    Args:
        name: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`; as it was unless given.
        deterministic: Whether the Triton backend's gradients must be the same bits every time, as
            they are by default. Without, it sums those of features and positions atomically,
            instead of along transposed lists of neighbours, which have to be sorted first.
        precision: That of the Triton backend's matrix products: `"tf32x3"` or `"bf16x6"`, both
            about as exact as float32, or the faster `"tf32"`, good to three decimal places; as it
            was unless given. It holds for the whole process, whose other threads compute gradients.

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
    """Whether gradients must be the same bits every time, see `use_backend`."""
    return _deterministic.get()


@torch.compiler.assume_constant_result
def choose_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Resolve `"auto"` to the fastest backend that can take tensors of this kind.

    Raises:
        ValueError: If there is no backend of that name.
        RuntimeError: If the backend asked for cannot run here; says why.
    """
    if _checked_name(name, "backend") == "auto":
        name = _forced.get() or _checked_name(
            os.environ.get("CCNN_GEO_BACKEND") or "auto", "CCNN_GEO_BACKEND"
        )
    if name == "reference":
        return name
    if name == "auto":
        fastest = "triton" if device.type == "cuda" else "native"
        return "torch" if load_backend(fastest).unavailable(device, dtype) else fastest
    reason = load_backend(name).unavailable(device, dtype)
    if reason:
        raise RuntimeError(f"The backend {name!r} cannot run on {device} in {dtype}: {reason}")
    return name


def _checked_name(name: str, argument: str) -> str:
    if name not in _NAMES:
        raise ValueError(f"Expected `{argument}` to be one of {', '.join(_NAMES)}, got {name!r}")
    return name
