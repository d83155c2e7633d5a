"""Data sets of clouds, ModelNet, one's own files or shapes; and of signals, images and audio.

The data modules need Lightning, and are imported when they are first asked for.
"""

from importlib import import_module
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
    from .mnist import MNISTDataModule
    from .signals import SignalDataModule
    from .spoken_digits import SpokenDigitsDataModule

__all__ = [
    "EpochSampler",
    "Geometry",
    "MNISTDataModule",
    "ModelNet",
    "PointCloudArrays",
    "PointCloudDataModule",
    "PointCloudDataset",
    "PointCloudFolder",
    "SampledDataset",
    "Shapes",
    "SignalDataModule",
    "SpokenDigitsDataModule",
    "read_geometry",
    "read_off",
]


_DATA_MODULES = {
    "MNISTDataModule": "mnist",
    "PointCloudDataModule": "datamodule",
    "SignalDataModule": "signals",
    "SpokenDigitsDataModule": "spoken_digits",
}


def __getattr__(name: str) -> Any:
    """Imports a data module when it is asked for."""
    if name not in _DATA_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_DATA_MODULES[name]}", __name__), name)
