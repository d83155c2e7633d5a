"""Descriptions of trained networks: task, classes, preprocessing, training and licence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

__all__ = ["ModelCard", "Preprocessing", "TilePreprocessing"]

# More points than any mesh is sampled to; what a file asks for has to fit into memory.
_MAX_POINTS = 2**24
_TASKS = ("classification", "segmentation")


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
            _check_count(name, entries[name])
        return cls(**entries)


@dataclass(frozen=True, kw_only=True)
class TilePreprocessing:
    """How to cut a scan into tiles for a network, see `ccnn_geo.datasets.scenes.tiles.Tiling`.

    Attributes:
        radius: Radius of a tile in the unit of the scans.
        voxel_size: Side of the voxels of which each keeps one point, in the same unit.
        num_points: Largest number of points that the network is given at a time.
        shape: `"column"` or `"sphere"`.
        features: Attributes of the points that are input features besides their positions.
    """

    radius: float
    voxel_size: float
    num_points: int
    shape: str
    features: tuple[str, ...]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read the settings from the content of a JSON file.

        Raises:
            ValueError: If an entry is missing, unknown, of another type or out of range.
        """
        entries = _entries("preprocessing", content, cls)
        entries["features"] = _names("features", entries["features"])
        _check_type("shape", entries["shape"], str)
        for name in ("radius", "voxel_size"):
            value = entries[name]
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"Expected a finite `{name}` of at least 0, got {value!r}")
        _check_count("num_points", entries["num_points"])
        return cls(**entries)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Description of a trained network, beyond its architecture and weights.

    Attributes:
        classes: Names of the classes, in the order of the outputs.
        preprocessing: How to prepare a cloud, or a scan.
        task: `"classification"` of clouds, or `"segmentation"`, a class for every point.
        description: A sentence about the network.
        training: Data set, seed, epochs and other facts about the training.
        accuracy: Fraction of correctly classified clouds or points, or another measure, by the name
            of the split.
        license: Licence of the weights.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing | TilePreprocessing
    task: str = "classification"
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
        # Older cards are all of classifiers, and have no task.
        entries = _entries("card", content, cls, task="classification")
        entries["classes"] = _names("classes", entries["classes"])
        tiled = isinstance(entries["preprocessing"], dict) and "radius" in entries["preprocessing"]
        recipe = TilePreprocessing if tiled else Preprocessing
        entries["preprocessing"] = recipe.from_json(entries["preprocessing"])
        if entries["task"] not in _TASKS:
            raise ValueError(f"Expected `task` to be one of {_TASKS}, got {entries['task']!r}")
        for name in ("description", "license"):
            _check_type(name, entries[name], str)
        for name in ("training", "accuracy"):
            _check_type(name, entries[name], dict)
        for split, value in entries["accuracy"].items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"Expected a finite `accuracy` of {split!r}, got {value!r}")
        return cls(**entries)


def _entries(name: str, content: Any, kind: type, **defaults: Any) -> dict[str, Any]:
    """Check that a JSON object has exactly the fields of a dataclass, but for those with defaults.

    Returns:
        The fields, completed by the defaults.
    """
    known = {each.name for each in fields(kind)}
    if not isinstance(content, dict) or content.keys() | defaults.keys() != known:
        got = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"Expected `{name}` with {sorted(known)}, got {got}")
    return {**defaults, **content}


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= _MAX_POINTS:
        raise ValueError(
            f"Expected `{name}` to be an integer from 1 to {_MAX_POINTS}, got {value!r}"
        )


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"Expected `{name}` to be a list of names, got {value!r}")
    return tuple(value)


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"Expected `{name}` of type {kind.__name__}, got {value!r}")
