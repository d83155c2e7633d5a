"""Random transforms of point clouds."""

import math

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.base import DrawPoints, ShowsOptions, require_tensor, select_points
from ccnn_geo.transforms.functional import subset_indices

__all__ = ["GaussianJitter", "PointSubset", "RandomRotateZ", "RandomScale"]


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
