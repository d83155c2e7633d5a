"""Points in a periodic box: positions and distances modulo a period, and images of sources."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.kernel_support import SUPPORT_TOLERANCE, KernelSupport
from ccnn_geo.ops.neighborhood import Neighborhood, relative_offsets
from ccnn_geo.ops.point_backends.checks import check_unmapped

Period = tuple[float | None, ...]
"""Length of the box along every axis, None along an axis that is not periodic."""

_HALF = 0.5 * (1 + SUPPORT_TOLERANCE)
"""Offsets of half a period count as positive, up to rounding, so that points on a lattice see the
same offsets wherever the box begins."""


class Images(NamedTuple):
    """The sources of a periodic graph, followed by the images that its edges start from."""

    pos: Tensor
    """Positions of S points and of G images, `[S + G, D]`."""
    origin: Tensor
    """The point that every image is of, `[G]`."""
    neighbors: Neighborhood
    """The graph, in which every target is next to its sources or to images of them."""


def wrap(pos: Tensor, period: Period) -> Tensor:
    """Return positions `[N, D]` modulo a period, in [0, period), in float64.

    The rounding error is relative to the period, however far the positions lie from the box.
    Gradients pass through unchanged.
    """
    columns = []
    for column, length in zip(pos.double().unbind(-1), period, strict=True):
        if length is not None:
            column = torch.remainder(column, length)
            # The remainder of a small negative number is rounded to the period itself.
            column = torch.where(column < length, column, column - length)
        columns.append(column)
    return torch.stack(columns, -1)


def shortest(offset: Tensor, length: float | None) -> Tensor:
    """Return the lengths of offsets along one axis, to nearest images if it has a period."""
    offset = offset.abs()
    if length is None:
        return offset
    offset = torch.fmod(offset, length)
    return torch.minimum(offset, length - offset)


@torch.compiler.disable  # the number of images, which is a size of tensors, depends on the data
def nearest_images(
    source: Tensor, target: Tensor, neighbors: Neighborhood, period: Period
) -> Images | None:
    """Replace the source of every edge by its image that is nearest to the target.

    An image is a source shifted by whole periods. It is a source of its own in the graph returned,
    on which a convolution needs no period. Only images that an edge leads from are made.

    Args:
        source: Positions of the sources in the box, float64, `[S, D]`.
        target: Positions of the targets in the box, float64, `[T, D]`.
        neighbors: The graph.
        period: Length of the box per axis.

    Returns:
        The sources with their images, or None if no edge leads across the boundary.
    """
    if neighbors.num_sources == 0:
        return None
    check_unmapped("`pos` in a periodic box", source)
    check_unmapped("`pos` in a periodic box", target)
    box = _boxes(source.detach(), target.detach(), neighbors, period)
    crossing = box.nonzero().squeeze(1)
    if crossing.numel() == 0:
        return None
    # Edges from one image share a number.
    number = box[crossing] * neighbors.num_sources + neighbors.index[crossing]
    numbers, image = torch.unique(number, return_inverse=True)
    edge = torch.empty_like(numbers).scatter_(0, image, crossing)  # any edge from every image
    origin = neighbors.index[edge]
    offsets = relative_offsets(source[origin], target[neighbors.target[edge]]).detach()
    shift = [
        torch.zeros_like(offset) if length is None else length * _periods(offset, length)
        for offset, length in zip(offsets.unbind(-1), period, strict=True)
    ]
    pos = torch.cat([source, source[origin] - torch.stack(shift, -1)])
    index = neighbors.index.index_copy(0, crossing, neighbors.num_sources + image)
    return Images(pos, origin, dataclasses.replace(neighbors, index=index, num_sources=len(pos)))


def _boxes(source: Tensor, target: Tensor, neighbors: Neighborhood, period: Period) -> Tensor:
    """Number the boxes that the nearest images of sources lie in, `[E]`.

    The box of the points is 0, and so are empty slots; the digits of the others in base 3 are the
    periods along the axes.
    """
    box = torch.zeros_like(neighbors.index)
    for axis, length in enumerate(period):
        if length is not None:
            ends = source[neighbors.source, axis], target[neighbors.target, axis]
            box = 3 * box + _periods(relative_offsets(*ends), length).long().remainder(3)
    return box if neighbors.occupied is None else box * neighbors.occupied


def _periods(offset: Tensor, length: float) -> Tensor:
    """Return the periods by which offsets are longer than those to the nearest images."""
    return torch.ceil(offset / length - _HALF)


def check_reach(support: KernelSupport, period: Period) -> None:
    """Check that a kernel reaches no farther than to the nearest image of any point.

    Raises:
        ValueError: If a period is less than twice the reach of the kernel.
    """
    halves = [math.inf if length is None else _HALF * length for length in period]
    if all(end <= half for end, half in zip(support.extent, halves, strict=True)):
        return  # whatever the window, which may be on a device that would have to be waited for
    check_half_period(support.reach(), period)


def check_half_period(reach: Sequence[float], period: Period) -> None:
    """Check that a reach per axis, in the unit of the period, is at most half a period.

    Raises:
        ValueError: If it is more.
    """
    for axis, (end, length) in enumerate(zip(reach, period, strict=True)):
        if length is not None and end > _HALF * length:
            raise ValueError(
                f"Expected `period` of at least twice the reach of the kernel, {end:g} along axis "
                f"{axis}, got {length:g}: choose a smaller `extent` or a `window_cutoff`, or "
                "repeat the points over several periods"
            )
