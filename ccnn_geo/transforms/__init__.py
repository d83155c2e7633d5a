"""PyG transforms of meshes, point clouds, voxels and grids.

Random transforms use the given `torch.Generator`, or the global one by default. No transform
modifies its input.
"""

from ccnn_geo.transforms.augment import (
    GaussianJitter,
    PointSubset,
    RandomRotateZ,
    RandomScale,
)
from ccnn_geo.transforms.grids import (
    FlattenGrid,
    GridToPoints,
    MaskEmptyCells,
    NormalizeChannels,
    RandomCrop,
    RandomFlip,
    RandomRotateImage,
    RandomShift,
    ResizeImage,
)
from ccnn_geo.transforms.mesh import EstimateNormals, NormalizePositions, SampleMesh, StackFeatures
from ccnn_geo.transforms.voxels import Voxelize, VoxelsToPoints

__all__ = [
    "EstimateNormals",
    "FlattenGrid",
    "GaussianJitter",
    "GridToPoints",
    "MaskEmptyCells",
    "NormalizeChannels",
    "NormalizePositions",
    "PointSubset",
    "RandomCrop",
    "RandomFlip",
    "RandomRotateImage",
    "RandomRotateZ",
    "RandomScale",
    "RandomShift",
    "ResizeImage",
    "SampleMesh",
    "StackFeatures",
    "VoxelsToPoints",
    "Voxelize",
]
