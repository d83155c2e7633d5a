"""Data sets of point clouds, of whole scans and of signals on grids.

The data modules need Lightning and are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .epochs import EpochSampler
from .io.off import read_off
from .io.readers import Geometry, read_geometry
from .io.scenes import Scene, read_scene, write_scene
from .point_clouds.arrays import PointCloudArrays
from .point_clouds.dataset import PointCloudDataset, SampledDataset
from .point_clouds.folder import PointCloudFolder
from .point_clouds.h5 import ModelNetH5, ScanObjectNN
from .point_clouds.modelnet import ModelNet
from .point_clouds.parts import ShapeParts
from .point_clouds.shapenet_part import ShapeNetPart
from .point_clouds.shapes import Shapes

if TYPE_CHECKING:
    from .point_clouds.datamodule import PartSegmentationDataModule, PointCloudDataModule
    from .scenes.datamodule import SceneDataModule
    from .scenes.fields import FieldDataModule
    from .signals.cifar import CIFARDataModule
    from .signals.dataset import SignalDataModule
    from .signals.lra.datamodule import LRADataModule
    from .signals.mnist import MNISTDataModule
    from .signals.speech_commands import SpeechCommandsDataModule
    from .signals.spoken_digits import SpokenDigitsDataModule
    from .signals.stl10 import STL10DataModule
    from .signals.time_series import TimeSeriesDataModule

__all__ = [
    "CIFARDataModule",
    "EpochSampler",
    "FieldDataModule",
    "Geometry",
    "LRADataModule",
    "MNISTDataModule",
    "ModelNet",
    "ModelNetH5",
    "PartSegmentationDataModule",
    "PointCloudArrays",
    "PointCloudDataModule",
    "PointCloudDataset",
    "PointCloudFolder",
    "STL10DataModule",
    "SampledDataset",
    "ScanObjectNN",
    "Scene",
    "SceneDataModule",
    "ShapeNetPart",
    "ShapeParts",
    "Shapes",
    "SignalDataModule",
    "SpeechCommandsDataModule",
    "SpokenDigitsDataModule",
    "TimeSeriesDataModule",
    "read_geometry",
    "read_off",
    "read_scene",
    "write_scene",
]


_DATA_MODULES = {
    "CIFARDataModule": "signals.cifar",
    "FieldDataModule": "scenes.fields",
    "LRADataModule": "signals.lra.datamodule",
    "MNISTDataModule": "signals.mnist",
    "PartSegmentationDataModule": "point_clouds.datamodule",
    "PointCloudDataModule": "point_clouds.datamodule",
    "STL10DataModule": "signals.stl10",
    "SceneDataModule": "scenes.datamodule",
    "SignalDataModule": "signals.dataset",
    "SpeechCommandsDataModule": "signals.speech_commands",
    "SpokenDigitsDataModule": "signals.spoken_digits",
    "TimeSeriesDataModule": "signals.time_series",
}


def __getattr__(name: str) -> Any:
    """Import a data module when it is first used."""
    if name not in _DATA_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_DATA_MODULES[name]}", __name__), name)
