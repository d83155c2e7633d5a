"""Training with Lightning, which is imported on demand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ccnn_geo.training.optim import parameter_groups, warmup_cosine

if TYPE_CHECKING:
    from ccnn_geo.training.classifier import CCNNClassifier, ClassMeanAccuracy
    from ccnn_geo.training.cli import (
        ExperimentCLI,
        PointCloudCLI,
        RegressionCLI,
        SegmentationCLI,
        SignalCLI,
    )
    from ccnn_geo.training.module import CCNNModule
    from ccnn_geo.training.regressor import CCNNRegressor
    from ccnn_geo.training.report import ConfusionMatrix, RunReport
    from ccnn_geo.training.segmenter import CCNNSegmenter, PartIoU

_ON_DEMAND = {
    "CCNNClassifier": "classifier",
    "CCNNModule": "module",
    "CCNNRegressor": "regressor",
    "CCNNSegmenter": "segmenter",
    "ClassMeanAccuracy": "classifier",
    "ConfusionMatrix": "report",
    "ExperimentCLI": "cli",
    "PartIoU": "segmenter",
    "PointCloudCLI": "cli",
    "RegressionCLI": "cli",
    "RunReport": "report",
    "SegmentationCLI": "cli",
    "SignalCLI": "cli",
}

__all__ = [
    "CCNNClassifier",
    "CCNNModule",
    "CCNNRegressor",
    "CCNNSegmenter",
    "ClassMeanAccuracy",
    "ConfusionMatrix",
    "ExperimentCLI",
    "PartIoU",
    "PointCloudCLI",
    "RegressionCLI",
    "RunReport",
    "SegmentationCLI",
    "SignalCLI",
    "parameter_groups",
    "warmup_cosine",
]


def __getattr__(name: str) -> Any:
    """Import what needs Lightning when it is first used."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
