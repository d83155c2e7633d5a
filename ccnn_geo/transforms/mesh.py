"""Transforms of meshes and clouds to the input of a network."""

from collections.abc import Sequence

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.base import (
    DrawPoints,
    ShowsOptions,
    check_count,
    drop_points,
    require_tensor,
)
from ccnn_geo.transforms.functional import (
    NormalizationMethod,
    check_method,
    estimate_normals,
    normalize_positions,
    sample_surface,
)

__all__ = ["AppendCategory", "EstimateNormals", "NormalizePositions", "SampleMesh", "StackFeatures"]


class SampleMesh(DrawPoints):
    r"""Samples points uniformly from the surface of a mesh, with the normals of their faces.

    The attributes of vertices and faces are removed.

    Args:
        num_points: Number of points.
        seed: If given, every call gives the same points. Otherwise, every call draws others.
        generator: Generator if there is no seed; the global one by default.

    Shapes:
        - **input:** `pos` :math:`[V, 3]`, `face` :math:`[3, F]`
        - **output:** `pos` :math:`[P, 3]`, `normal` :math:`[P, 3]`

    Raises:
        ValueError: If `pos` or `face` is missing or of the wrong shape, if an index is out of
            range, if a vertex is not finite, or if the mesh has no area.
    """

    def forward(self, data: Data) -> Data:
        """Sample one mesh."""
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
        drop_points(data)
        data.pos = torch.from_numpy(points).to(pos)
        data.normal = torch.from_numpy(normals).to(pos)
        return data


class NormalizePositions(ShowsOptions):
    r"""Moves the centre of mass of a cloud to the origin and scales it to unit size.

    Args:
        method: `"box"` scales to :math:`[-1, 1]^D`, `"ball"` to the unit ball.

    Shapes:
        - `pos` :math:`[N, D]`; all zero if all positions are the same

    Raises:
        ValueError: If the method is unknown, or if `pos` is missing, empty or not finite.
    """

    def __init__(self, method: NormalizationMethod = "box") -> None:
        self.method: NormalizationMethod = check_method(method)

    def forward(self, data: Data) -> Data:
        """Normalize one cloud."""
        pos = require_tensor(data, "pos")
        if pos.size(0) == 0 or not bool(pos.isfinite().all()):
            raise ValueError("Expected `pos` with at least one point, all of them finite")
        data.pos = normalize_positions(pos, self.method)
        return data


class EstimateNormals(ShowsOptions):
    r"""Estimates unit normals by fitting planes to neighbourhoods, with open3d.

    Normals are oriented away from the centre of mass of the cloud.

    Args:
        num_neighbors: Number of points, including the point itself, to which a plane is fitted.

    Shapes:
        - **input:** `pos` :math:`[N, 3]`
        - **output:** `normal` :math:`[N, 3]`, of unit length

    Raises:
        ValueError: If `pos` is missing or of the wrong shape, or if there are fewer than three
            points.
        ImportError: If open3d is not installed.
    """

    def __init__(self, num_neighbors: int = 30) -> None:
        self.num_neighbors = check_count("num_neighbors", num_neighbors, least=3)

    def forward(self, data: Data) -> Data:
        """Estimate the normals of one cloud."""
        pos = require_tensor(data, "pos", 3)
        normals = estimate_normals(pos.numpy(force=True), num_neighbors=self.num_neighbors)
        data.normal = torch.from_numpy(normals).to(pos)
        return data


class StackFeatures(ShowsOptions):
    r"""Concatenates attributes of the points to the input features `x`.

    Args:
        attributes: Names of the attributes, in the order of the channels. By default normals and
            positions, the six channels of the published point-cloud models.

    Shapes:
        - **input:** the attributes :math:`[N, C_i]`
        - **output:** `x` :math:`[N, \sum_i C_i]`

    Raises:
        ValueError: If no attribute is named, if one is missing, or if one is not two-dimensional.
    """

    def __init__(self, attributes: Sequence[str] = ("normal", "pos")) -> None:
        if isinstance(attributes, str) or len(attributes) == 0:
            raise ValueError(f"Expected `attributes` to be a sequence of names, got {attributes!r}")
        self.attributes = tuple(attributes)

    def forward(self, data: Data) -> Data:
        """Concatenate the attributes of one cloud."""
        columns = [require_tensor(data, name) for name in self.attributes]
        for name, column in zip(self.attributes, columns, strict=True):
            if column.dim() != 2:
                raise ValueError(f"Expected `{name}` of shape [N, C], got {list(column.shape)}")
        data.x = torch.cat(columns, dim=-1)
        return data


class AppendCategory(ShowsOptions):
    r"""Appends the category of the cloud to the features of its points, one channel for each.

    Args:
        num_categories: Number of categories, K.

    Shapes:
        - **input:** `x` :math:`[N, C]`, `category` :math:`[1]`, an index from 0 to K - 1
        - **output:** `x` :math:`[N, C + K]`

    Raises:
        TypeError: If the number is not an integer.
        ValueError: If the number is below 1, an attribute is missing, or the index is out of range.
    """

    def __init__(self, num_categories: int) -> None:
        self.num_categories = check_count("num_categories", num_categories)

    def forward(self, data: Data) -> Data:
        """Append the category of one cloud."""
        x, category = require_tensor(data, "x"), require_tensor(data, "category")
        if category.numel() != 1 or not 0 <= int(category) < self.num_categories:
            raise ValueError(
                f"Expected `category` to be one index below {self.num_categories}, got "
                f"{category.tolist()}"
            )
        channels = x.new_zeros(len(x), self.num_categories)
        channels[:, int(category)] = 1
        data.x = torch.cat([x, channels], dim=-1)
        return data
