"""Parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ccnn_geo.nn import GaussianWindow, KernelNetwork

__all__ = ["parameter_groups", "warmup_cosine"]


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    window_lr_ratio: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the parameters of a model as groups for an optimizer.

    The groups are `weights` (matrices of layers), `kernels` (parameters of kernel networks),
    `vectors` (norms and biases) and `windows` (logarithms of window widths). Weight decay applies
    to `weights` only; kernels are regularised by `kernel_penalty` instead.

    Args:
        model: Any module.
        learning_rate: Learning rate of all groups but `windows`.
        window_lr_ratio: Learning rate of `windows` divided by `learning_rate`.
        weight_decay: Weight decay of `weights`.

    Returns:
        The groups that are not empty, each with `name`, `params`, `lr` and `weight_decay`.
        Parameters that require no gradient are left out.
    """
    members: dict[str, list[nn.Parameter]]
    members = {"weights": [], "kernels": [], "vectors": [], "windows": []}
    special: dict[nn.Parameter, str] = {}
    for module in model.modules():
        if isinstance(module, (GaussianWindow, KernelNetwork)):
            group = "windows" if isinstance(module, GaussianWindow) else "kernels"
            special.update(dict.fromkeys(module.parameters(), group))
    for parameter in model.parameters():
        if parameter.requires_grad:
            default = "weights" if parameter.dim() > 1 else "vectors"
            members[special.get(parameter, default)].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": learning_rate * (window_lr_ratio if name == "windows" else 1.0),
            "weight_decay": weight_decay if name == "weights" else 0.0,
        }
        for name, parameters in members.items()
        if parameters
    ]


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of a step as a fraction of the highest one.

    The learning rate increases linearly during the warm-up and then decreases to zero along half a
    cosine.

    Args:
        step: Number of optimizer steps before this one.
        warmup_steps: Number of steps of the warm-up; the last of them has the highest rate.
        total_steps: Number of steps after which the rate is zero.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))
