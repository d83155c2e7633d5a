"""Which implementations of the point convolution there are, and which one runs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

_MODULES = {
    "torch": "ccnn_geo.ops.tiled",
    "native": "ccnn_geo.ops.native",
    "triton": "ccnn_geo.ops.fused",
}
_NAMES = ("auto", "reference", *_MODULES)
_forced: ContextVar[str | None] = ContextVar("ccnn_geo_backend", default=None)


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
def use_backend(name: str) -> Iterator[None]:
    """Force a backend for every convolution inside the `with` block.

    It goes before the environment variable `CCNN_GEO_BACKEND`, and gives way to an explicit
    `backend=` argument.

    Args:
        name: `"auto"`, `"reference"`, `"torch"`, `"native"` or `"triton"`.

    Raises:
        ValueError: If there is no backend of that name.
    """
    token = _forced.set(_checked_name(name, "use_backend"))
    try:
        yield
    finally:
        _forced.reset(token)


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
