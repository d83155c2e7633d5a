"""What optimizers are told: groups of parameters, and the learning rate of every step."""

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
    """Sort the parameters of a model into groups for an optimizer.

    Args:
        model: Any module.
        learning_rate: Learning rate of everything but the windows.
        window_lr_ratio: Learning rate of the windows, in units of the other.
        weight_decay: Weight decay of the group `weights`.

    Returns:
        The groups `weights` (the matrices of layers), `kernels` (all of the kernel networks),
        `vectors` (norms and biases) and `windows` (their log-widths), those of them that have
        parameters. Only the first one decays: what a weight decay of the kernels is meant for,
        `kernel_penalty` does.
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
    """Return the learning rate of a step, in units of the highest one.

    Args:
        step: Optimizer steps taken so far.
        warmup_steps: Steps of the linear rise; the last of them has the highest rate.
        total_steps: Steps after which the rate is zero.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))
