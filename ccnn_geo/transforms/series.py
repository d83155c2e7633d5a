"""Transforms of time series as clouds of one coordinate: `x [N, C]` and times `pos [N, 1]`."""

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.base import ShowsOptions, require_tensor, select_points

__all__ = ["DropTimes", "EvenTimes", "TrapezoidWeights"]


class DropTimes(ShowsOptions):
    """Keeps a random subset of the times of a series, at least two of them.

    Args:
        keep: Fraction to keep, above 0 and at most 1.

    Raises:
        ValueError: If `keep` is out of range, or if `pos` is missing.
    """

    def __init__(self, keep: float) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"Expected `keep` above 0 and at most 1, got {keep}")
        self.keep = keep

    def forward(self, data: Data) -> Data:
        """Subsample one series; the order is kept."""
        count = require_tensor(data, "pos", 1).size(0)
        kept = min(count, max(2, round(self.keep * count)))
        return select_points(data, torch.randperm(count)[:kept].sort().values)


class EvenTimes(ShowsOptions):
    """Replaces the times of a series by evenly spaced ones, as if they were not known.

    Args:
        step: Distance of the new times.

    Raises:
        ValueError: If `pos` is missing.
    """

    def __init__(self, step: float) -> None:
        self.step = step

    def forward(self, data: Data) -> Data:
        """Replace the times of one series."""
        pos = require_tensor(data, "pos", 1)
        data.pos = torch.arange(len(pos), dtype=pos.dtype, device=pos.device)[:, None] * self.step
        return data


class TrapezoidWeights(ShowsOptions):
    """Adds quadrature weights `weight [N]`, with which sums over times become integrals.

    The weight of a time is half of the gap to the time before plus half of the gap to the time
    after (trapezoidal rule), divided by `step`. First and last time have one gap only.

    Args:
        step: Distance of times whose weight is 1.

    Raises:
        ValueError: If `step` is not positive, times are not ascending, or `pos` is missing.
    """

    def __init__(self, step: float) -> None:
        if not step > 0:
            raise ValueError(f"Expected `step` > 0, got {step}")
        self.step = step

    def forward(self, data: Data) -> Data:
        """Add the weights of one series."""
        times = require_tensor(data, "pos", 1)[:, 0]
        gaps = times.diff()
        if bool((gaps < 0).any()):
            raise ValueError("Expected ascending times in `pos`, got others")
        if len(times) == 1:
            data.weight = torch.ones_like(times)
            return data
        ends = gaps[:1], gaps[-1:]
        both = torch.cat([ends[0], gaps]) + torch.cat([gaps, ends[1]])
        data.weight = both / (2 * self.step)
        return data
