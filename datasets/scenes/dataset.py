"""Tiles of labelled scans, drawn at random or covering the scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch_geometric.data import Data

from ..dataset import ClassificationDataset, Transform
from ..io.scenes import Scene
from .tiles import Tiling, thinned

__all__ = ["SceneTiles", "feature_names", "tile_features"]


class SceneTiles(ClassificationDataset):
    """Tiles of scans, whose points are labelled.

    Training tiles are centred on random points, whose class is drawn first: every class that occurs
    is the centre of equally many tiles. Evaluation tiles cover the scans.

    See `ClassificationDataset` for the randomness of tiles and transforms.

    Args:
        scenes: The scans by name, with labels.
        classes: Names of the classes.
        tiling: How scans are thinned and cut into tiles.
        features: Attributes of the points that are input features, besides their positions.
        train: If True, tiles are drawn at random, `num_tiles` in an epoch.
        num_tiles: Number of training tiles in an epoch.
        seed: Seed of tiles and transforms.
        transform: Applied at each access.

    Shapes:
        - `dataset[index]` has `pos` :math:`[N, 3]`, see `Tiling.local`, the features
          :math:`[N, C_i]` by the names of `feature_names`, and `y` :math:`[N]`, -1 for points
          without a class

    Raises:
        ValueError: If an argument is out of range, or a scan lacks a feature.
    """

    def __init__(
        self,
        scenes: Mapping[str, Scene],
        classes: Sequence[str],
        *,
        tiling: Tiling,
        features: Sequence[str] = (),
        train: bool,
        num_tiles: int = 256,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(classes, train=train, seed=seed, transform=transform)
        if num_tiles < 1:
            raise ValueError(f"Expected `num_tiles` >= 1, got {num_tiles}")
        self.tiling = tiling
        self.scenes = [
            scene.select(thinned(scene.points, tiling.voxel_size)) for scene in scenes.values()
        ]
        self.features = [
            tile_features(name, scene, features)
            for name, scene in zip(scenes, self.scenes, strict=True)
        ]
        self._trees = [tiling.tree(scene.points) for scene in self.scenes]
        self._num_tiles = num_tiles
        self._centers = [] if train else self._covering()
        self._members = self._by_class() if train else []

    @property
    def class_counts(self) -> list[int]:
        """Number of points of every class, after thinning."""
        labels = [self._labels(scene) for scene in self.scenes]
        counts = [np.bincount(each[each >= 0], minlength=self.num_classes) for each in labels]
        return np.sum(counts, axis=0).tolist()

    def __len__(self) -> int:
        """Return the number of tiles."""
        return self._num_tiles if self.train else len(self._centers)

    def _read(self, index: int) -> Data:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        if self.train:
            members = self._members[generator.integers(len(self._members))]
            number, point = members[generator.integers(len(members))]
            center = self.scenes[number].points[point]
        else:
            number, center = self._centers[index]
        inside = self.tiling.inside(self._trees[number], center)
        chosen = next(self.tiling.parts(inside, generator))
        scene = self.scenes[number]
        # The ground of a column follows from all its points, not only from the chosen ones.
        pos = self.tiling.local(scene.points[inside], center)[np.searchsorted(inside, chosen)]
        data = Data(pos=torch.from_numpy(pos), y=torch.from_numpy(self._labels(scene)[chosen]))
        for name, columns in self.features[number].items():
            data[name] = torch.from_numpy(columns[chosen])
        return data

    def _covering(self) -> list[tuple[int, np.ndarray]]:
        return [
            (number, center)
            for number, scene in enumerate(self.scenes)
            for center in self.tiling.centers(scene.points)
        ]

    def _by_class(self) -> list[np.ndarray]:
        """Return the points of every class that occurs, as pairs of scan and point, `[M, 2]`."""
        members = []
        for label in range(self.num_classes):
            pairs = [
                np.column_stack([np.full(len(points), number), points])
                for number, scene in enumerate(self.scenes)
                for points in [np.flatnonzero(self._labels(scene) == label)]
            ]
            if sum(map(len, pairs)):
                members.append(np.concatenate(pairs))
        if not members:
            raise ValueError("Expected training scans with labelled points, got none")
        return members

    @staticmethod
    def _labels(scene: Scene) -> np.ndarray:
        if scene.labels is None:
            raise ValueError("Expected scans with labels, got one without")
        return scene.labels


def tile_features(name: str, scene: Scene, features: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the attributes of a scan that are input features, `[N, C_i]`, float32.

    Args:
        name: Name of the scan, for the error message.
        scene: The scan.
        features: Names of the attributes.

    Returns:
        The features by the names of `feature_names`, in their order.

    Raises:
        ValueError: If the scan lacks an attribute, or one is not finite.
    """
    columns = {}
    for feature, key in zip(features, feature_names(features), strict=True):
        if feature not in scene.attributes:
            there = ", ".join(sorted(scene.attributes)) or "none"
            raise ValueError(f"{name}: expected an attribute {feature!r}, got {there}")
        values = scene.attributes[feature].reshape(len(scene), -1).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: expected finite `{feature}`, got NaN or infinity")
        columns[key] = values
    return columns


def feature_names(features: Sequence[str]) -> tuple[str, ...]:
    """Return the names of features in a sample; rotations turn the one that is called `normal`."""
    return tuple(
        name if name == "normal" else f"feature_{number}" for number, name in enumerate(features)
    )
