"""PyG transforms of meshes, point clouds, voxels and grids.

Random transforms use the given `torch.Generator`, or the global one by default. No transform
modifies its input.
"""

from ccnn_geo.transforms.augment import (
    GaussianJitter,
    PointSubset,
    RandomRotateZ,
    RandomScale,
    RandomThinning,
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
from ccnn_geo.transforms.mesh import (
    AppendCategory,
    EstimateNormals,
    NormalizePositions,
    SampleMesh,
    StackFeatures,
)
from ccnn_geo.transforms.series import DropTimes, EvenTimes, TrapezoidWeights
from ccnn_geo.transforms.voxels import Voxelize, VoxelsToPoints

__all__ = [
    "AppendCategory",
    "DropTimes",
    "EstimateNormals",
    "EvenTimes",
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
    "RandomThinning",
    "ResizeImage",
    "SampleMesh",
    "StackFeatures",
    "TrapezoidWeights",
    "VoxelsToPoints",
    "Voxelize",
]
