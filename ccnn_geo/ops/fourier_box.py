"""Boxes of Fourier series that hold a cloud and the reach of a kernel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccnn_geo.ops.grid_backends.layout import fast_length
from ccnn_geo.ops.nufft_backends.transform import Modes
from ccnn_geo.ops.periodic import Period

MAX_MODES = 2**40
"""Modes of an axis beyond which no box is sized: no memory holds them."""


class Box(NamedTuple):
    """Box of the Fourier series of one cloud."""

    length: tuple[float, ...]
    """Length per axis in kernel units."""
    modes: Modes
    """Number of modes per axis, odd."""


@torch.no_grad()
def fourier_box(
    source: Tensor,
    target: Tensor,
    reach: tuple[float, ...],
    band: tuple[float, ...],
    period: Period,
) -> tuple[Tensor, Box]:
    """Return the centre of a cloud, `[D]`, and the box of its Fourier series."""
    parts = [part for part in (source, target) if len(part)]
    low = torch.stack([part.amin(0) for part in parts]).amin(0)
    high = torch.stack([part.amax(0) for part in parts]).amax(0)
    lengths, modes = [], []
    for side, end, frequency, wrap in zip((high - low).tolist(), reach, band, period, strict=True):
        length = max(side + end, 2 * end) if wrap is None else wrap
        if 2 * frequency * length > MAX_MODES:
            return (low + high) / 2, Box((math.inf,) * len(reach), (MAX_MODES,) * len(reach))
        count = fast_length(math.ceil(2 * frequency * length) + 1, odd=True)
        if wrap is None and frequency > 0:
            # The step depends on the bandwidth only, so that clouds of equal modes share a kernel.
            length = (count - 1) / (2 * frequency)
        lengths.append(length)
        modes.append(count)
    return (low + high) / 2, Box(tuple(lengths), tuple(modes))


def box_angles(pos: Tensor, center: Tensor, box: Box) -> Tensor:
    """Return positions in kernel units as angles in radians, `[N, D]`, float64."""
    lengths = torch.tensor(box.length, dtype=torch.float64, device=pos.device)
    turns = (pos - center) / lengths
    return 2 * math.pi * (turns - turns.detach().round())
