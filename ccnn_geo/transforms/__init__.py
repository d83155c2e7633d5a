"""PyG transforms of meshes, point clouds, voxels and grids.

Random transforms draw from the `torch.Generator` given, or else from torch's global one, so that a
seeded run repeats. No transform modifies the data it is given.
"""

from ccnn_geo.transforms.augment import (
    GaussianJitter,
    PointSubset,
    RandomRotateZ,
    RandomScale,
)
from ccnn_geo.transforms.grids import FlattenGrid, GridToPoints, MaskEmptyCells, RandomShift
from ccnn_geo.transforms.mesh import EstimateNormals, NormalizePositions, SampleMesh, StackFeatures
from ccnn_geo.transforms.voxels import Voxelize, VoxelsToPoints

__all__ = [
    "EstimateNormals",
    "FlattenGrid",
    "GaussianJitter",
    "GridToPoints",
    "MaskEmptyCells",
    "NormalizePositions",
    "PointSubset",
    "RandomRotateZ",
    "RandomScale",
    "RandomShift",
    "SampleMesh",
    "StackFeatures",
    "VoxelsToPoints",
    "Voxelize",
]
