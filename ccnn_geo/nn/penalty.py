"""The penalty on generated kernels, which takes the place of weight decay (paper, Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_collections: ContextVar[tuple[list[Tensor], ...]] = ContextVar("ccnn_geo_norms", default=())


@contextmanager
def collect_kernel_norms() -> Iterator[list[Tensor]]:
    """Collect the kernel norm of every convolution that is evaluated inside the `with` block.

    Each call of a `CKConvMP` appends one scalar, computed in the same pass as its output: the
    squared norm of its windowed kernel, summed over the neighbours of a target and averaged over
    the targets; on a grid, summed over all taps. A layer that is called twice counts twice.
    Gradients reach kernel networks, windows and positions.

    Inside `torch.compile` nothing is collected: use `CCNN(..., return_kernel_penalty=True)` or
    `CKConvMP(..., return_kernel_norm=True)` there.

    Example:
        >>> with collect_kernel_norms() as norms:
        ...     loss = criterion(model(x, pos, batch), y)
        >>> loss = loss + 1e-6 * kernel_penalty(norms)
    """
    norms: list[Tensor] = []
    token = _collections.set((*_collections.get(), norms))
    try:
        yield norms
    finally:
        _collections.reset(token)


def open_collections() -> tuple[list[Tensor], ...]:
    """Return the lists of all `collect_kernel_norms` blocks that are open in this context."""
    return () if torch.compiler.is_compiling() else _collections.get()


def kernel_penalty(norms: Sequence[Tensor]) -> Tensor:
    r"""Return half the sum of kernel norms, :math:`\tfrac12 \sum_l \|k_l\|^2` (paper, Eq. 3).

    Args:
        norms: Scalars from `collect_kernel_norms` or `CKConvMP(..., return_kernel_norm=True)`.

    Returns:
        The penalty, a scalar.

    Raises:
        TypeError: If `norms` is not a sequence of tensors.
        ValueError: If there are no norms.
    """
    if not isinstance(norms, Sequence) or not all(isinstance(norm, Tensor) for norm in norms):
        raise TypeError(f"Expected `norms` to be a list of tensors, got a {type(norms).__name__}")
    if len(norms) == 0:
        raise ValueError(
            "Expected at least one kernel norm in `norms`, got none: was a CKConvMP evaluated "
            "inside `collect_kernel_norms`?"
        )
    return 0.5 * torch.stack(list(norms)).sum()
