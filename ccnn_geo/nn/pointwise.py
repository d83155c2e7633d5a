"""Layers that treat every point alike, whether points come as rows or as the cells of a grid.

Features of points are rows, `[N, C]`; those of a grid of P cells have their channels first,
`[B, C, P]`, as convolutions on grids want them, so that nothing needs to be transposed on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointwiseLinear(nn.Linear):
    """A linear map of the channels: `nn.Linear` that takes `[B, C, P]` besides `[N, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C_in]` to `[N, C_out]`, or `[B, C_in, P]` to `[B, C_out, P]`."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map the channels of `[N, C]` or `[B, C, P]` by a matrix `[C_out, C]` and a bias `[C_out]`."""
    if x.dim() != 3:
        return nn.functional.linear(x, weight, bias)
    weights = weight.expand(len(x), *weight.shape)
    return torch.bmm(weights, x) if bias is None else torch.baddbmm(bias.unsqueeze(-1), weights, x)


def reset_linear(layer: nn.Linear) -> None:
    """Draw a linear layer anew for the GELU that follows it (He et al. 2015), bias zero."""
    nn.init.kaiming_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def compare_pairs(features: Tensor) -> Tensor:
    """Return u, v, u * v and u - v of consecutive rows u and v, `[2 B, C]` to `[B, 4 C]`.

    Raises:
        ValueError: If the number of rows is odd.
    """
    if len(features) % 2:
        raise ValueError(f"Expected `pairs` of clouds or grids, got {len(features)} of them")
    first, second = features.unflatten(0, (-1, 2)).unbind(1)
    return torch.cat([first, second, first * second, first - second], -1)


class ChannelDropout(nn.Module):
    """Drop whole channels of a cloud or grid: every point of it loses the same ones.

    Args:
        p: Probability that a channel is dropped.
        elementwise: Drop single values instead.

    Raises:
        ValueError: If `p` is not in [0, 1).
    """

    def __init__(self, p: float = 0.0, *, elementwise: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Expected a dropout probability in [0, 1), got {p}")
        self.p = p
        self.elementwise = elementwise

    def forward(
        self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Drop channels of `x`, `[N, C]` with clouds in `batch [N]`, or `[B, C, P]`."""
        if not self.training or self.p == 0.0:
            return x
        if self.elementwise:
            return nn.functional.dropout(x, self.p, training=True)
        if x.dim() == 3:
            return x * nn.functional.dropout(x.new_ones(*x.shape[:2], 1), self.p, training=True)
        clouds = 1 if batch is None else batch_size or int(batch[-1]) + 1
        kept = nn.functional.dropout(x.new_ones(clouds, x.size(1)), self.p, training=True)
        return x * (kept if batch is None else kept[batch])

    def extra_repr(self) -> str:
        """Show the probability and what is dropped."""
        return f"p={self.p}" + (", elementwise=True" if self.elementwise else "")
