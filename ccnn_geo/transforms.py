"""PyG transforms between a mesh or a raw cloud and what a network takes in.

The random ones draw from a ``torch.Generator`` handed to them, or else from torch's global one, so
that a seeded run repeats. None of them modifies the data it is given.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from ccnn_geo.points import (
    NormalizationMethod,
    estimate_normals,
    normalize_positions,
    sample_surface,
    subset_indices,
)

__all__ = [
    "EstimateNormals",
    "NormalizePositions",
    "PointSubset",
    "RandomJitter",
    "RandomRotateZ",
    "RandomScale",
    "SampleMesh",
    "StackFeatures",
]


def require_tensor(data: Data, name: str, width: int | None = None) -> Tensor:
    """Returns an attribute of one cloud, `[N, width]` where a width is given."""
    value = data[name] if name in data else None
    if not isinstance(value, Tensor):
        there = ", ".join(f"`{key}`" for key in data.keys()) or "nothing"
        raise ValueError(f"Expected data with a tensor `{name}`, got {there}")
    if width is not None and (value.dim() != 2 or value.size(1) != width):
        raise ValueError(f"Expected `{name}` of shape [N, {width}], got {list(value.shape)}")
    return value


class ShowsOptions(BaseTransform):
    """A transform that shows what it was made with."""

    def __repr__(self) -> str:
        options = {key: value for key, value in vars(self).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


class _Draw(ShowsOptions):
    """A transform that draws points."""

    def __init__(
        self, num_points: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        if num_points < 1:
            raise ValueError(f"Expected `num_points` to be at least 1, got {num_points}")
        self.num_points = num_points
        self.seed = seed
        self.generator = generator


class SampleMesh(_Draw):
    r"""Replaces a mesh by points drawn uniformly from its surface, with the normals of their faces.

    A face is drawn in proportion to its area, so that faces of zero area never are. Every attribute
    that belonged to the vertices goes with them, and so does ``face``.

    Args:
        num_points: Number of points to draw.
        seed: If given, a mesh gets the same points every time. Otherwise every call draws afresh.
        generator: Source of randomness where there is no seed; torch's global one by default.

    Shapes:
        - **input:** ``pos`` :math:`[V, 3]`, ``face`` :math:`[3, F]`
        - **output:** ``pos`` :math:`[P, 3]`, ``normal`` :math:`[P, 3]`

    Raises:
        ValueError: If ``pos`` or ``face`` is missing or of the wrong shape, if an index is out of
            range, if a vertex is not finite, or if the mesh has no area.
    """

    def forward(self, data: Data) -> Data:
        """Samples one mesh."""
        pos, face = require_tensor(data, "pos", 3), require_tensor(data, "face")
        if face.dim() != 2 or face.size(0) != 3:
            raise ValueError(f"Expected `face` of shape [3, F], got {list(face.shape)}")
        if face.numel() > 0 and not 0 <= int(face.min()) <= int(face.max()) < len(pos):
            raise ValueError(f"Expected `face` to index {len(pos)} vertices, got others too")
        seed = self.seed
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        points, normals = sample_surface(
            pos.numpy(force=True), face.t().numpy(force=True), self.num_points, seed=seed
        )
        for key in [key for key in data.node_attrs() if key not in ("pos", "face")]:
            del data[key]
        del data["face"]
        data.pos = torch.from_numpy(points).to(pos)
        data.normal = torch.from_numpy(normals).to(pos)
        return data


class NormalizePositions(ShowsOptions):
    r"""Moves the centre of mass of a cloud to the origin and scales it to unit size.

    Args:
        method: ``"box"`` scales to :math:`[-1, 1]^D` by the largest absolute coordinate, ``"ball"``
            to the unit ball by the largest distance from the centre.

    Shapes:
        - ``pos`` :math:`[N, D]`; all zero if all positions are the same

    Raises:
        ValueError: If the method is unknown, or if ``pos`` is missing, empty or not finite.
    """

    def __init__(self, method: NormalizationMethod = "box") -> None:
        if method not in ("box", "ball"):
            raise ValueError(f"Expected `method` to be 'box' or 'ball', got {method!r}")
        self.method: NormalizationMethod = method

    def forward(self, data: Data) -> Data:
        """Normalises one cloud."""
        pos = require_tensor(data, "pos")
        if pos.size(0) == 0 or not bool(pos.isfinite().all()):
            raise ValueError("Expected `pos` with at least one point, all of them finite")
        data.pos = normalize_positions(pos, self.method)
        return data


class EstimateNormals(ShowsOptions):
    r"""Adds normals to a cloud by fitting planes to neighbourhoods, with open3d.

    They look away from the centre of mass of the cloud, since a plane alone has two sides.

    Args:
        num_neighbors: Points, the point itself among them, to which a plane is fitted.

    Shapes:
        - **input:** ``pos`` :math:`[N, 3]`
        - **output:** ``normal`` :math:`[N, 3]`, of unit length

    Raises:
        ValueError: If ``pos`` is missing or of the wrong shape, or if there are fewer than three
            points.
        ImportError: If open3d is not installed.
    """

    def __init__(self, num_neighbors: int = 30) -> None:
        if num_neighbors < 3:
            raise ValueError(f"Expected `num_neighbors` to be at least 3, got {num_neighbors}")
        self.num_neighbors = num_neighbors

    def forward(self, data: Data) -> Data:
        """Estimates the normals of one cloud."""
        pos = require_tensor(data, "pos", 3)
        normals = estimate_normals(pos.numpy(force=True), num_neighbors=self.num_neighbors)
        data.normal = torch.from_numpy(normals).to(pos)
        return data


class PointSubset(_Draw):
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
        for key in data.node_attrs():
            if isinstance(data[key], Tensor):
                data[key] = data[key][index]
        return data


class RandomJitter(ShowsOptions):
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
        low: Smallest factor.
        high: Largest factor.
        generator: Source of randomness; torch's global one by default.

    Shapes:
        - ``pos`` :math:`[N, D]`

    Raises:
        ValueError: If not ``0 < low <= high``, or if ``pos`` is missing.
    """

    def __init__(
        self, low: float = 0.8, high: float = 1.25, *, generator: torch.Generator | None = None
    ) -> None:
        if not 0 < low <= high:
            raise ValueError(f"Expected 0 < `low` <= `high`, got {low} and {high}")
        self.low = low
        self.high = high
        self.generator = generator

    def forward(self, data: Data) -> Data:
        """Scales one cloud."""
        pos = require_tensor(data, "pos")
        fraction = torch.rand((), generator=self.generator).item()
        data.pos = pos * (self.low + (self.high - self.low) * fraction)
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


class StackFeatures(ShowsOptions):
    r"""Stacks attributes of the points into the features ``x`` that a network takes in.

    Args:
        attributes: Names, in the order of the channels. The default, normals then positions, makes
            the six channels of the published point-cloud models.

    Shapes:
        - **input:** the attributes :math:`[N, C_i]`
        - **output:** ``x`` :math:`[N, \sum_i C_i]`

    Raises:
        ValueError: If no attribute is named, if one is missing, or if one is not two-dimensional.
    """

    def __init__(self, attributes: Sequence[str] = ("normal", "pos")) -> None:
        if isinstance(attributes, str) or len(attributes) == 0:
            raise ValueError(f"Expected `attributes` to be a sequence of names, got {attributes!r}")
        self.attributes = tuple(attributes)

    def forward(self, data: Data) -> Data:
        """Stacks the features of one cloud."""
        columns = [require_tensor(data, name) for name in self.attributes]
        for name, column in zip(self.attributes, columns, strict=True):
            if column.dim() != 2:
                raise ValueError(f"Expected `{name}` of shape [N, C], got {list(column.shape)}")
        data.x = torch.cat(columns, dim=-1)
        return data
