"""The transforms of `torch.func`: which of them are active, and computing outside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """True inside `grad`, `vjp`, `jvp`, `vmap` and the like."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def is_vmapped() -> bool:
    """True inside `vmap`: values cannot be read, because a tensor stands for many."""
    return _is_inside(_functorch.TransformType.Vmap)


def is_forward_mode() -> bool:
    """True inside `jvp`, and so inside `jacfwd` and `hessian`."""
    return _is_inside(_functorch.TransformType.Jvp)


def has_tangents(*operands: Tensor) -> bool:
    """True if forward-mode differentiation is under way with respect to an operand."""
    if torch.compiler.is_compiling():
        return False
    return is_forward_mode() or any(
        forward_ad.unpack_dual(operand).tangent is not None for operand in operands
    )


def is_batched(tensor: Tensor) -> bool:
    """True for a tensor that stands for the many examples of `vmap`."""
    while not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def unwrapped(tensor: Tensor) -> Tensor:
    """Return the values of a tensor, without the levels of transforms."""
    while not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def check_single_gradient(grad: Tensor) -> None:
    """Check that a gradient does not stand for many.

    Raises:
        RuntimeError: If it comes from `is_grads_batched` of `torch.autograd.grad`.
    """
    if not torch.compiler.is_compiling() and _functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError(
            "Expected a single gradient, got many at a time (`is_grads_batched` of "
            "torch.autograd.grad, `vectorize` of its Jacobians): use torch.func.jacrev or vmap"
        )


def outside_transforms(operand: Tensor) -> AbstractContextManager[Any]:
    """Suspend all transforms if none has touched the operand, so that results can be kept."""
    if not is_transformed() or _functorch.is_functorch_wrapped_tensor(operand):
        return nullcontext()
    return temporarily_clear_interpreter_stack()


def for_each_example(
    run: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    """Call a function once per example of `vmap`, and stack its outputs; the rule of `vmap`.

    Args:
        run: The function, of tensors and other arguments.
        info: Number of examples and more, see `torch.autograd.Function.vmap`.
        in_dims: Axis of the examples of every tensor, None where they share it.
        arguments: The arguments.
    """
    examples = [
        run(
            *(
                argument.select(axis, number) if isinstance(axis, int) else argument
                for argument, axis in zip(arguments, in_dims, strict=True)
            )
        )
        for number in range(info.batch_size)
    ]
    outputs = [torch.stack(each) for each in zip(*examples, strict=True)]
    return outputs, [0] * len(outputs)


class Looped(torch.autograd.Function):
    """A function of several outputs that `torch.func.vmap` calls once per example."""

    @classmethod
    def vmap(cls, info, in_dims, *arguments):  # type: ignore[no-untyped-def]
        """Stack the outputs of single examples."""
        outputs, axes = for_each_example(cls.apply, info, in_dims, *arguments)
        return tuple(outputs), tuple(axes)


def _is_inside(kind: _functorch.TransformType) -> bool:
    if not is_transformed():
        return False
    return any(level.key() == kind for level in _functorch.get_interpreter_stack())
