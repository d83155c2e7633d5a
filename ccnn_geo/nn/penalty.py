"""The penalty on generated kernels, which takes the place of weight decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ccnn_geo.nn import CKConvMP


def kernel_penalty(model: nn.Module) -> Tensor:
    r"""Half the squared norm of all kernels of a model: :math:`\tfrac12 \sum_l \|k_l\|^2` (Eq. 3).

    The kernels are those generated at the offsets of the last forward pass, under their windows.
    On a cloud, the norm is that of one target's kernel, summed over its neighbours and averaged
    over the targets, so that it does not grow with the number of points.

    Args:
        model: Any module with `CKConvMP` layers, after a forward pass.

    Returns:
        The penalty, a scalar; its gradients reach the kernel networks and the windows.

    Raises:
        ValueError: If the model has no `CKConvMP`.
        RuntimeError: If there was no forward pass yet.
    """
    return 0.5 * torch.stack([conv.kernel_norm() for conv in _convolutions(model)]).sum()


def track_kernel_penalty(model: nn.Module, enabled: bool = True) -> None:
    """Let the forward passes of a model prepare `kernel_penalty`, so that it costs next to nothing.

    Every convolution then gathers the moments that the penalty needs in its own pass over the
    edges; without, `kernel_penalty` goes over them once more.

    Args:
        model: Any module with `CKConvMP` layers.
        enabled: Whether to.

    Raises:
        ValueError: If the model has no `CKConvMP`.
    """
    for conv in _convolutions(model):
        conv.track_moment = enabled


def _convolutions(model: nn.Module) -> list[CKConvMP]:
    convolutions = [module for module in model.modules() if isinstance(module, CKConvMP)]
    if not convolutions:
        raise ValueError(f"Expected a model with CKConvMP layers, got a {type(model).__name__}")
    return convolutions
