"""Reusable scratch buffers."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MAX_KEPT_BYTES = 2**26


class Scratch:
    """Named buffers of one type on one device, grown to the largest size requested."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of that name in this shape. Contents are uninitialised."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            # A buffer may outlive the mode in which it is asked for first.
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=self._dtype, device=self._device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)

    @property
    def num_bytes(self) -> int:
        """Size of all buffers in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers.values())


class _Idle(threading.local):
    def __init__(self) -> None:
        self.by_type: dict[torch.dtype, Scratch] = {}


_idle = _Idle()


@contextmanager
def borrowed_scratch(like: Tensor) -> Iterator[Scratch]:
    """Lend scratch memory for tensors like this one.

    On the CPU a thread keeps up to 64 MiB of it per type between calls, because allocating fresh
    pages would take most of the time of a small convolution. On a GPU, PyTorch's allocator caches
    memory already.
    """
    if like.device.type != "cpu":
        yield Scratch(like.dtype, like.device)
        return
    # Nobody else finds it while it is lent.
    scratch = _idle.by_type.pop(like.dtype, None) or Scratch(like.dtype, like.device)
    try:
        yield scratch
    finally:
        if scratch.num_bytes <= _MAX_KEPT_BYTES:
            _idle.by_type[like.dtype] = scratch
