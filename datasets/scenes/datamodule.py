"""LightningDataModule of labelled scans."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.augment import (
    GaussianJitter,
    RandomRotateZ,
    RandomScale,
    RandomThinning,
)
from ccnn_geo.transforms.mesh import StackFeatures

from ..datamodule import ClassificationDataModule, check_choice
from ..io.scenes import Scene
from ..splits import random_holdout
from .dataset import SceneTiles, feature_names
from .listing import Scenes, list_landscapes, list_s3dis, list_scene_arrays, list_scene_folder
from .tiles import TileShape, Tiling

__all__ = ["SceneDataModule"]

_LOGGER = logging.getLogger(__name__)

ScenesName = Literal["landscapes", "folder", "s3dis", "arrays"]


class SceneDataModule(ClassificationDataModule[SceneTiles]):
    """Tiles of labelled scans, as batches of PyG graphs.

    Training tiles are drawn at random with balanced classes; tiles of validation and test cover
    their scans, see `SceneTiles`. Both depend only on `seed` and the epoch.

    After `setup`, the whole test scans are `test_scenes`.

    Args:
        name: Data set: `landscapes` (procedural), `folder` (scans of your own,
            `root/{train,val,test}/*`), `s3dis`, or `arrays` (one .npz file).
        root: Folder of the data set, or the file of `arrays`.
        label: Name of the attribute that holds the labels in the files of `folder`; by default,
            `label`, `class`, `classification` and similar names are tried.
        test_area: Area of `s3dis` and `arrays` to test on.
        train_scenes: Number of procedural training scans.
        test_scenes: Number of procedural test scans.
        val_fraction: Fraction of the training scans held out for validation, at least one, unless
            the data set has a validation split.
        radius: Radius of a tile in the unit of the scans.
        voxel_size: Side of the voxels of which each keeps one point, in the same unit; 0 keeps all.
        num_points: Largest number of points of a tile that the network is given.
        shape: `column` for outdoor scans whose third axis points up, or `sphere`.
        num_tiles: Number of training tiles in an epoch.
        features: Attributes of the points that are input features besides their positions, for
            example `[color]` or `[intensity]`.
        random_rotate_z: If True, training tiles are rotated about the third axis by random angles.
        random_scale: If True, training tiles are scaled by a random factor from 0.8 to 1.25.
        random_jitter: If True, training points are moved by small random steps.
        random_thinning: If True, up to 90 % of the points of a training tile are left out, and
            sometimes more on one side, so that the network learns many densities.
        batch_size: Number of tiles per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process.
        seed: Seed of the tiles and the augmentation.
        sampling_seed: Seed of procedural scans and of the validation split.
        cache_dir: Folder of the cache of `s3dis`; by default `.ccnn_geo` beside the data.
        num_processes: Number of processes that read `s3dis`; one per processor by default.

    Raises:
        ValueError: If an argument is out of range or does not fit the data, or if a file is broken.
        OSError: If the data are missing.
    """

    dim = 3

    def __init__(
        self,
        name: ScenesName = "landscapes",
        root: Path | None = None,
        *,
        label: str | None = None,
        test_area: int = 5,
        train_scenes: int = 40,
        test_scenes: int = 6,
        val_fraction: float = 0.1,
        radius: float = 8.0,
        voxel_size: float = 0.4,
        num_points: int = 1024,
        shape: TileShape = "column",
        num_tiles: int = 512,
        features: Sequence[str] = (),
        random_rotate_z: bool = True,
        random_scale: bool = True,
        random_jitter: bool = False,
        random_thinning: bool = True,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        sampling_seed: int = 0,
        cache_dir: Path | None = None,
        num_processes: int | None = None,
    ) -> None:
        check_choice("name", name, get_args(ScenesName))
        if root is None and name != "landscapes":
            raise ValueError(f"Expected `root` for the data set {name!r}, got none")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"Expected `val_fraction` in [0, 1), got {val_fraction}")
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.name = name
        self.label = label
        self.test_area = test_area
        self.train_scenes = train_scenes
        self.num_test_scenes = test_scenes
        self.val_fraction = val_fraction
        self.tiling = Tiling(
            radius=radius, voxel_size=voxel_size, num_points=num_points, shape=shape
        )
        self.num_tiles = num_tiles
        self.features = tuple(features)
        self.random_rotate_z = random_rotate_z
        self.random_scale = random_scale
        self.random_jitter = random_jitter
        self.random_thinning = random_thinning
        self.sampling_seed = sampling_seed
        self.cache_dir = cache_dir
        self.num_processes = num_processes
        self.test_scenes: dict[str, Scene] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read or generate the scans and split them; all splits are set up for every `stage`."""
        if self._datasets:
            return
        scenes = self._scenes()
        train, val = _split(scenes, self.val_fraction, self.sampling_seed)
        stack = StackFeatures(("pos", *feature_names(self.features)))
        augment = Compose([*self._augmentations(), stack])
        self.test_scenes = scenes.test
        self._datasets = {
            "train": self._tiles(train, scenes.classes, train=True, transform=augment),
            "val": self._tiles(val, scenes.classes, train=False, transform=stack),
            "test": self._tiles(scenes.test, scenes.classes, train=False, transform=stack),
        }
        absent = [
            name
            for name, count in zip(scenes.classes, self.class_counts, strict=True)
            if count == 0
        ]
        if absent:
            _LOGGER.warning("%s: no training point has the class %s", self.root, ", ".join(absent))

    @property
    def class_counts(self) -> list[int]:
        """Number of training points of every class, after thinning."""
        return self.train_dataset.class_counts

    @property
    def num_features(self) -> int:
        """Number of input channels, including three of the position."""
        return 3 + sum(each.shape[1] for each in self.train_dataset.features[0].values())

    def _scenes(self) -> Scenes:
        match self.name:
            case "landscapes":
                return list_landscapes(
                    seed=self.sampling_seed,
                    train_scenes=self.train_scenes,
                    test_scenes=self.num_test_scenes,
                )
            case "folder":
                return list_scene_folder(self.root, label=self.label)
            case "s3dis":
                return list_s3dis(
                    self.root,
                    test_area=self.test_area,
                    cache_dir=self.cache_dir,
                    num_processes=self.num_processes,
                )
            case _:
                return list_scene_arrays(self.root, test_area=self.test_area)

    def _tiles(
        self,
        scenes: dict[str, Scene],
        classes: Sequence[str],
        *,
        train: bool,
        transform: BaseTransform,
    ) -> SceneTiles:
        return SceneTiles(
            scenes,
            classes,
            tiling=self.tiling,
            features=self.features,
            train=train,
            num_tiles=self.num_tiles,
            seed=self.seed if train else self.sampling_seed,
            transform=transform,
        )

    def _augmentations(self) -> list[BaseTransform]:
        transforms: list[BaseTransform] = []
        if self.random_thinning:
            transforms.append(RandomThinning(uneven=0.3))
        if self.random_rotate_z:
            transforms.append(RandomRotateZ())
        if self.random_scale:
            transforms.append(RandomScale())
        if self.random_jitter:
            transforms.append(GaussianJitter(0.003, 0.01))
        return transforms


def _split(scenes: Scenes, fraction: float, seed: int) -> tuple[dict[str, Scene], dict[str, Scene]]:
    """Return training and validation scans."""
    if scenes.val is not None:
        return scenes.train, scenes.val
    held_out = random_holdout(len(scenes.train), fraction, seed=seed)
    train, val = (
        {
            name: scene
            for (name, scene), out in zip(scenes.train.items(), held_out, strict=True)
            if out == wanted
        }
        for wanted in (False, True)
    )
    return train, val
