"""Descriptions of trained classifiers: classes, preprocessing, training and licence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

__all__ = ["ModelCard", "Preprocessing"]

# More points than any mesh is sampled to; what a file asks for has to fit into memory.
_MAX_POINTS = 2**24


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How to prepare a cloud for a network.

    Attributes:
        num_points: Number of points of a training cloud.
        features: Attributes of the points that are concatenated to the features, in this order.
        normalize: `"box"`, `"ball"` or `"none"`, see `ccnn_geo.transforms.NormalizePositions`.
        points_per_mesh: Number of points sampled from the surface of a mesh, of which the network
            sees `num_points`. Clouds with more points are subsampled to as many.
    """

    num_points: int
    features: tuple[str, ...]
    normalize: str
    points_per_mesh: int

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read the settings from the content of a JSON file.

        Raises:
            ValueError: If an entry is missing, unknown, of another type or out of range.
        """
        entries = _entries("preprocessing", content, cls)
        entries["features"] = _names("features", entries["features"])
        _check_type("normalize", entries["normalize"], str)
        for name in ("num_points", "points_per_mesh"):
            value = entries[name]
            if type(value) is not int or not 1 <= value <= _MAX_POINTS:
                raise ValueError(
                    f"Expected `{name}` to be an integer from 1 to {_MAX_POINTS}, got {value!r}"
                )
        return cls(**entries)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Description of a trained classifier, beyond its architecture and weights.

    Attributes:
        classes: Names of the classes, in the order of the outputs.
        preprocessing: How to prepare a cloud.
        description: A sentence about the network.
        training: Data set, seed, epochs and other facts about the training.
        accuracy: Fraction of correctly classified clouds, by the name of the split.
        license: Licence of the weights.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    description: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    license: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read a card from the content of a JSON file.

        Raises:
            ValueError: If an entry is missing, unknown, of another type or out of range.
        """
        entries = _entries("card", content, cls)
        entries["classes"] = _names("classes", entries["classes"])
        entries["preprocessing"] = Preprocessing.from_json(entries["preprocessing"])
        for name in ("description", "license"):
            _check_type(name, entries[name], str)
        for name in ("training", "accuracy"):
            _check_type(name, entries[name], dict)
        for split, value in entries["accuracy"].items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"Expected a finite `accuracy` of {split!r}, got {value!r}")
        return cls(**entries)


def _entries(name: str, content: Any, kind: type) -> dict[str, Any]:
    """Check that a JSON object has exactly the fields of a dataclass."""
    known = {each.name for each in fields(kind)}
    if not isinstance(content, dict) or content.keys() != known:
        got = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"Expected `{name}` with {sorted(known)}, got {got}")
    return dict(content)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"Expected `{name}` to be a list of names, got {value!r}")
    return tuple(value)


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"Expected `{name}` of type {kind.__name__}, got {value!r}")
