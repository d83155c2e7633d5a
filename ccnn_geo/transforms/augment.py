"""Random transforms of point clouds.

They draw from the `torch.Generator` given, or else from torch's global one, so that a seeded run
repeats.
"""

import math

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.base import DrawPoints, ShowsOptions, require_tensor, select_points
from ccnn_geo.transforms.functional import subset_indices

__all__ = ["GaussianJitter", "PointSubset", "RandomRotateZ", "RandomScale"]


class PointSubset(DrawPoints):
    r"""Keeps a random subset of the points of a cloud, with all that belongs to them.

    Args:
        num_points: Number of points to keep. A smaller cloud is kept whole.
        seed: If given, clouds of one size always keep the same points. Otherwise every call draws
            afresh.
        generator: Source of randomness where there is no seed; torch's global one by default.

    Shapes:
        - every attribute with one row per point: :math:`[N, *] \to [\min(N, P), *]`

    Raises:
        ValueError: If ``num_points`` is below 1, or if ``pos`` is missing.
    """

    def forward(self, data: Data) -> Data:
        """Thins one cloud."""
        pos = require_tensor(data, "pos")
        generator = self.generator
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
        index = subset_indices(pos.size(0), self.num_points, generator).to(pos.device)
        return select_points(data, index)


class GaussianJitter(ShowsOptions):
    r"""Moves every point by its own small Gaussian step, cut off at a largest one.

    Args:
        sigma: Standard deviation of a step along each axis, in the length unit of ``pos``.
        clip: Largest step along an axis, in the same unit.
        generator: Source of randomness; torch's global one by default.

    Shapes:
        - ``pos`` :math:`[N, D]`

    Raises:
        ValueError: If ``sigma`` or ``clip`` is negative, or if ``pos`` is missing.
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
        """Jitters one cloud."""
        pos = require_tensor(data, "pos")
        step = self.sigma * torch.randn(pos.shape, generator=self.generator)
        data.pos = pos + step.clamp(-self.clip, self.clip).to(pos)
        return data


class RandomScale(ShowsOptions):
    r"""Scales a cloud by one random factor; its normals stay as they are.

    Args:
        scales: Smallest and largest factor, as in PyG.
        generator: Source of randomness; torch's global one by default.

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
    r"""Turns a cloud about the vertical through the origin by a random angle, normals included.

    Args:
        max_degrees: The angle is uniform between minus and plus this.
        generator: Source of randomness; torch's global one by default.

    Shapes:
        - ``pos`` :math:`[N, 3]`, ``normal`` :math:`[N, 3]` where there is one

    Raises:
        ValueError: If ``max_degrees`` is negative, or if ``pos`` is missing or of the wrong shape.
    """

    def __init__(
        self, max_degrees: float = 180.0, *, generator: torch.Generator | None = None
    ) -> None:
        if max_degrees < 0:
            raise ValueError(f"Expected `max_degrees` >= 0, got {max_degrees}")
        self.max_degrees = max_degrees
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Turns one cloud."""
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
