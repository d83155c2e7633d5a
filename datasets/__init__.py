"""Point-cloud data sets: ModelNet, one's own files or arrays, and one made on the spot.

The data module needs Lightning, and is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from .arrays import PointCloudArrays
from .dataset import EpochSampler, PointCloudDataset, SampledDataset
from .folder import PointCloudFolder
from .modelnet import ModelNet
from .off import read_off
from .readers import Geometry, read_geometry
from .shapes import Shapes

if TYPE_CHECKING:
    from .datamodule import PointCloudDataModule

__all__ = [
    "EpochSampler",
    "Geometry",
    "ModelNet",
    "PointCloudArrays",
    "PointCloudDataModule",
    "PointCloudDataset",
    "PointCloudFolder",
    "SampledDataset",
    "Shapes",
    "read_geometry",
    "read_off",
]


def __getattr__(name: str) -> Any:
    """Imports the data module when it is asked for."""
    if name != "PointCloudDataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .datamodule import PointCloudDataModule

    return PointCloudDataModule
