"""The transforms of `torch.func`: which of them are active, and computing outside them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def is_transformed() -> bool:
    """True inside `grad`, `vjp`, `jvp`, `vmap` and the like."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def is_vmapped() -> bool:
    """True inside `vmap`: values cannot be read, because a tensor stands for many."""
    return _is_inside(_functorch.TransformType.Vmap)


def is_forward_mode() -> bool:
    """True inside `jvp`, and so inside `jacfwd` and `hessian`."""
    return _is_inside(_functorch.TransformType.Jvp)


def outside_transforms(operand: Tensor) -> AbstractContextManager[Any]:
    """Suspend all transforms if none has touched the operand, so that results can be kept."""
    if not is_transformed() or _functorch.is_functorch_wrapped_tensor(operand):
        return nullcontext()
    return temporarily_clear_interpreter_stack()


def _is_inside(kind: _functorch.TransformType) -> bool:
    if not is_transformed():
        return False
    return any(level.key() == kind for level in _functorch.get_interpreter_stack())
