"""Saving, loading and applying trained networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ccnn_geo.pretrained.card import ModelCard, Preprocessing, TilePreprocessing
from ccnn_geo.pretrained.model import PretrainedModule
from ccnn_geo.pretrained.storage import pretrained_names

if TYPE_CHECKING:
    from ccnn_geo.pretrained.labelling import Labeller, Labelling
    from ccnn_geo.pretrained.predictor import Classifier, Prediction

__all__ = [
    "Classifier",
    "Labeller",
    "Labelling",
    "ModelCard",
    "Prediction",
    "Preprocessing",
    "PretrainedModule",
    "TilePreprocessing",
    "pretrained_names",
]

# `ccnn_geo.nn` imports this package, and these modules import `ccnn_geo.nn`.
_ON_DEMAND = {
    "Classifier": "predictor",
    "Labeller": "labelling",
    "Labelling": "labelling",
    "Prediction": "predictor",
}


def __getattr__(name: str) -> Any:
    """Import what applies networks when it is first used."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
