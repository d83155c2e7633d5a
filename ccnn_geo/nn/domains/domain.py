"""What a network is written against: domains, and convolutions that evaluate on them."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch_geometric.nn import global_max_pool, global_mean_pool

from ccnn_geo.nn.pointwise import ChannelDropout
from ccnn_geo.ops import KernelSupport

Readout = Literal["mean", "max"]


class Convolution(Protocol):
    """A convolution that evaluates on every domain, see `CKConvMP`."""

    def support(self) -> KernelSupport:
        """Return support and window of the kernel as they are now."""

    def convolve_points(
        self, x: Tensor, points: Any, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output on `Points`, and the kernel norm if requested."""

    def convolve_grid(
        self, x: Tensor, grid: Any, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output on a `Grid`, and the kernel norm if requested."""

    def convolve_all_points(
        self, x: Tensor, points: Any, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output on `AllPoints`, and the kernel norm if requested."""


class Domain(Protocol):
    """The points or cells that features belong to."""

    @property
    def norms(self) -> list[Tensor] | None:
        """Kernel norms of the convolutions evaluated so far, or None if they are not requested."""

    def features(self, x: Tensor) -> Tensor:
        """Convert an input to the form that layers expect."""

    def output(self, features: Tensor) -> Tensor:
        """Convert features back to the form of the input."""

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution."""

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels, the same ones at all points of a cloud or cells of a grid."""

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of every cloud or grid, `[B, C]`."""


class PointDomain:
    """Base of domains of points, whose features are rows `[N, C]`."""

    source: Tensor
    target: Tensor
    weight: Tensor | None
    batch: Tensor | None
    batch_size: int | None

    @property
    def pos(self) -> Tensor | tuple[Tensor, Tensor]:
        """Positions, or a pair (positions of the sources, positions of the targets)."""
        return self.source if self.source is self.target else (self.source, self.target)

    def features(self, x: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return x

    def output(self, features: Tensor) -> Tensor:
        """Return features `[N, C]` as they are."""
        return features

    def drop(self, dropout: ChannelDropout, features: Tensor) -> Tensor:
        """Drop channels of `[N, C]`, the same ones at all points of a cloud."""
        return dropout(features, self.batch, self.batch_size)

    def pool(self, features: Tensor, readout: Readout) -> Tensor:
        """Reduce the features of every cloud, `[B, C]`; means have the quadrature weights."""
        weight = None if self.weight is None else self.weight[: len(features)]  # without images
        return pool_rows(features, readout, self.batch, self.batch_size, weight)


def pool_rows(
    rows: Tensor,
    readout: Readout,
    batch: Tensor | None,
    batch_size: int | None,
    weight: Tensor | None = None,
) -> Tensor:
    """Reduce rows `[N, C]` to one for every element of a batch, `[B, C]`.

    Args:
        rows: The rows.
        readout: `"mean"` or `"max"`.
        batch: Element of every row, `[N]`.
        batch_size: Number of elements, B.
        weight: Weight of every row in a mean, `[N]`; equal by default, and where all are zero.
    """
    if readout == "max":
        return global_max_pool(rows, batch, batch_size)
    if weight is None:
        return global_mean_pool(rows, batch, batch_size)
    column = weight.to(rows.dtype).unsqueeze(-1)
    total = global_mean_pool(column, batch, batch_size)
    pooled = global_mean_pool(rows * column, batch, batch_size)
    plain = global_mean_pool(rows, batch, batch_size)
    return torch.where(total > 0, pooled / total.where(total > 0, 1.0), plain)


def keep_norm(norms: list[Tensor] | None, output: Tensor, norm: Tensor | None) -> Tensor:
    """Append a kernel norm to the norms of the domain, and return the output."""
    if norms is not None and norm is not None:
        norms.append(norm)
    return output
