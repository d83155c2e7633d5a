"""Random transforms of point clouds."""

import math

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.base import (
    DrawPoints,
    ShowsOptions,
    check_count,
    require_tensor,
    select_points,
)
from ccnn_geo.transforms.functional import subset_indices

__all__ = ["GaussianJitter", "PointSubset", "RandomRotateZ", "RandomScale", "RandomThinning"]


class PointSubset(DrawPoints):
    r"""Keeps a random subset of the points, with their attributes and the edges between them.

    Args:
        num_points: Number of points to keep. Clouds with fewer points are kept whole.
        seed: If given, the subset depends only on the seed and the size of the cloud. Otherwise,
            every call draws another one.
        generator: Generator if there is no seed; the global one by default.

    Shapes:
        - every attribute with one row per point: :math:`[N, *] \to [\min(N, P), *]`

    Raises:
        ValueError: If `num_points` is below 1, or if `pos` is missing.
    """

    def forward(self, data: Data) -> Data:
        """Subsample one cloud."""
        pos = require_tensor(data, "pos")
        generator = self.generator
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
        index = subset_indices(pos.size(0), self.num_points, generator).to(pos.device)
        return select_points(data, index)


class GaussianJitter(ShowsOptions):
    r"""Adds Gaussian noise to the positions, clipped along each axis.

    Args:
        sigma: Standard deviation along each axis, in the length unit of `pos`.
        clip: Largest absolute value along each axis, in the same unit.
        generator: Generator; the global one by default.

    Shapes:
        - `pos` :math:`[N, D]`

    Raises:
        ValueError: If `sigma` or `clip` is negative, or if `pos` is missing.
    """

    def __init__(
        self, sigma: float = 0.01, clip: float = 0.05, *, generator: torch.Generator | None = None
    ) -> None:
        if sigma < 0 or clip < 0:
            raise ValueError(f"Expected `sigma` and `clip` >= 0, got {sigma} and {clip}")
        self.sigma = sigma
        self.clip = clip
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Jitter one cloud."""
        pos = require_tensor(data, "pos")
        step = self.sigma * torch.randn(pos.shape, generator=self.generator)
        data.pos = pos + step.clamp(-self.clip, self.clip).to(pos)
        return data


class RandomScale(ShowsOptions):
    r"""Scales a cloud by a random factor; normals are unchanged.

    Args:
        scales: Smallest and largest factor, as in PyG.
        generator: Generator; the global one by default.

    Shapes:
        - `pos` :math:`[N, D]`

    Raises:
        ValueError: If not `0 < low <= high`, or if `pos` is missing.
    """

    def __init__(
        self, scales: tuple[float, float] = (0.8, 1.25), *, generator: torch.Generator | None = None
    ) -> None:
        if not (len(scales) == 2 and 0 < scales[0] <= scales[1] < math.inf):
            raise ValueError(f"Expected `scales` (low, high) with 0 < low <= high, got {scales}")
        self.scales = scales
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Scale one cloud."""
        pos = require_tensor(data, "pos")
        fraction = torch.rand((), generator=self.generator).item()
        low, high = self.scales
        data.pos = pos * (low + (high - low) * fraction)
        return data


class RandomRotateZ(ShowsOptions):
    r"""Rotates a cloud, and its normals, about the z axis by a random angle.

    Args:
        max_degrees: Largest absolute value of the angle, which is uniformly distributed.
        generator: Generator; the global one by default.

    Shapes:
        - `pos` :math:`[N, 3]`, and optionally `normal` :math:`[N, 3]`

    Raises:
        ValueError: If `max_degrees` is negative, or if `pos` is missing or of the wrong shape.
    """

    def __init__(
        self, max_degrees: float = 180.0, *, generator: torch.Generator | None = None
    ) -> None:
        if max_degrees < 0:
            raise ValueError(f"Expected `max_degrees` >= 0, got {max_degrees}")
        self.max_degrees = max_degrees
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Rotate one cloud."""
        pos = require_tensor(data, "pos", 3)
        fraction = 2 * torch.rand((), generator=self.generator).item() - 1
        angle = math.radians(self.max_degrees) * fraction
        cosine, sine = math.cos(angle), math.sin(angle)
        rotation = pos.new_tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        data.pos = pos @ rotation.t()
        if "normal" in data:
            normal = require_tensor(data, "normal", 3)
            data.normal = normal @ rotation.t().to(normal)
        return data


class RandomThinning(ShowsOptions):
    r"""Leaves out a random share of the points, evenly or more of them on one side.

    The share that stays is drawn once per cloud, such that all orders of magnitude are equally
    likely. With the probability `uneven`, the points on one side of a plane through the mean, in a
    random direction, are thinned further, by a random factor.

    Args:
        shares: Smallest and largest share of the points that stays.
        uneven: Probability of an uneven cloud.
        factors: Smallest and largest ratio of the densities on both sides of an uneven cloud.
        min_points: Smallest number of points; clouds with fewer are kept whole.
        generator: Generator; the global one by default.

    Shapes:
        - every attribute with one row per point: :math:`[N, *] \to [M, *]`

    Raises:
        TypeError: If `min_points` is not an integer.
        ValueError: If not `0 < low <= high <= 1`, another argument is out of range, or `pos` is
            missing.
    """

    def __init__(
        self,
        shares: tuple[float, float] = (0.1, 1.0),
        *,
        uneven: float = 0.0,
        factors: tuple[float, float] = (1.0, 8.0),
        min_points: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        if not (len(shares) == 2 and 0 < shares[0] <= shares[1] <= 1):
            raise ValueError(
                f"Expected `shares` (low, high) with 0 < low <= high <= 1, got {shares}"
            )
        if not 0 <= uneven <= 1:
            raise ValueError(f"Expected `uneven` in [0, 1], got {uneven}")
        if not (len(factors) == 2 and 1 <= factors[0] <= factors[1] < math.inf):
            raise ValueError(f"Expected `factors` (low, high) with 1 <= low <= high, got {factors}")
        self.shares = shares
        self.uneven = uneven
        self.factors = factors
        self.min_points = check_count("min_points", min_points)
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Thin one cloud."""
        pos = require_tensor(data, "pos")
        keep = torch.full((len(pos),), self._log_uniform(self.shares))
        if self._draw() < self.uneven:
            direction = torch.randn(pos.size(1), generator=self.generator)
            side = ((pos.cpu().double() - pos.cpu().double().mean(0)) @ direction.double()) > 0
            keep[side] /= self._log_uniform(self.factors)
        # The points with the largest surplus stay, whatever their number.
        surplus = keep - torch.rand(len(pos), generator=self.generator)
        count = max(int((surplus > 0).sum()), min(self.min_points, len(pos)))
        index = surplus.argsort(descending=True)[:count].sort().values
        return select_points(data, index.to(pos.device))

    def _log_uniform(self, bounds: tuple[float, float]) -> float:
        low, high = map(math.log, bounds)
        return math.exp(low + (high - low) * self._draw())

    def _draw(self) -> float:
        return torch.rand((), generator=self.generator).item()
