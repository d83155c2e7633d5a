"""Numbers at the points of clouds: values to predict from the shape, or to interpolate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from ccnn_geo.transforms.augment import RandomRotateZ
from ccnn_geo.transforms.mesh import StackFeatures

from ..datamodule import SplitDataModule, check_choice
from ..dataset import SeededDataset, Transform
from ..io.npz import read_npz
from ..io.readers import visible_files
from ..io.scenes import SCENE_SUFFIXES, Scene, read_scene
from ..splits import random_holdout
from .dataset import feature_names, tile_features
from .tiles import Tiling

__all__ = ["Field", "FieldDataModule", "FieldTiles", "sphere_points"]

FieldName = Literal["folder", "sphere"]


@dataclass(frozen=True)
class Field:
    """Numbers at the points of one cloud.

    Attributes:
        points: Positions, `[N, 3]`.
        features: Input features besides the positions by name, `[N, C_i]`, float32.
        target: Numbers to predict, `[N, T]`, float32; NaN where they are unknown.
        given: Points whose numbers are inputs at evaluation, bool, `[N]`; None if none are.
    """

    points: np.ndarray
    features: dict[str, np.ndarray]
    target: np.ndarray
    given: np.ndarray | None = None


class FieldTiles(SeededDataset):
    """Tiles of clouds with a number, or several, at every point.

    If a share of the numbers is given, they are inputs: two channels for each, the normalised
    number and 1, or two zeros where it has to be predicted. Which ones are given is random in
    training.

    See `SeededDataset` for the randomness of tiles and transforms.

    Args:
        fields: The clouds.
        tiling: How clouds are cut into tiles; they are not thinned.
        mean: Mean of each number over the training points, `[T]`.
        scale: Standard deviation of each number over the training points, `[T]`.
        given_share: Share of the numbers that are given in training, or None if none are.
        whole: If True, every tile is around the middle of a cloud, and holds all of it.
        train: If True, tiles are around random points, `num_tiles` in an epoch; otherwise they
            cover the clouds, and every point is predicted in the one tile in whose middle it is.
        num_tiles: Number of training tiles in an epoch.
        seed: Seed of tiles and transforms.
        transform: Applied at each access.

    Shapes:
        - `dataset[index]` has `pos` :math:`[N, 3]`, relative to the tile and divided by its radius,
          the features :math:`[N, C_i]` by their names, `given` :math:`[N, 2 T]` if numbers are
          given, and `y` :math:`[N, T]`, NaN where nothing is to be predicted

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        tiling: Tiling,
        mean: np.ndarray,
        scale: np.ndarray,
        given_share: float | None = None,
        whole: bool = False,
        train: bool,
        num_tiles: int = 256,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(train=train, seed=seed, transform=transform)
        if num_tiles < 1:
            raise ValueError(f"Expected `num_tiles` >= 1, got {num_tiles}")
        self.fields = list(fields)
        self.tiling = tiling
        self.mean = mean
        self.scale = scale
        self.given_share = given_share
        self.whole = whole
        self._num_tiles = num_tiles
        self._trees = [tiling.tree(field.points) for field in fields]
        self._starts = np.cumsum([0, *(len(field.points) for field in fields)])
        self._centers = [] if train else self._covering()

    def __len__(self) -> int:
        """Return the number of tiles."""
        return self._num_tiles if self.train else len(self._centers)

    def _read(self, index: int) -> Data:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        if self.train:
            number, center = self._random_center(generator)
        else:
            number, center = self._centers[index]
        field = self.fields[number]
        inside = self.tiling.inside(self._trees[number], center)
        chosen = next(self.tiling.parts(inside, generator))
        data = Data(pos=torch.from_numpy(self.tiling.local(field.points[chosen], center)))
        for name, columns in field.features.items():
            data[name] = torch.from_numpy(columns[chosen])
        target = field.target[chosen].copy()
        if self.given_share is not None:
            if self.train:
                given = generator.random(len(chosen)) < self.given_share
            else:
                given = np.zeros(len(chosen), bool) if field.given is None else field.given[chosen]
            given = given[:, None] & np.isfinite(target)
            values = np.where(given, (target - self.mean) / self.scale, 0.0)
            data.given = torch.from_numpy(
                np.concatenate([values, given], axis=1).astype(np.float32)
            )
            target[given] = np.nan
        if not (self.train or self.whole):
            own = self.tiling.in_cell(field.points[chosen], center, field.points)
            target[~own] = np.nan
        data.y = torch.from_numpy(target)
        return data

    def _random_center(self, generator: np.random.Generator) -> tuple[int, np.ndarray]:
        point = int(generator.integers(self._starts[-1]))
        number = int(np.searchsorted(self._starts, point, side="right")) - 1
        field = self.fields[number]
        return number, _middle(field) if self.whole else field.points[point - self._starts[number]]

    def _covering(self) -> list[tuple[int, np.ndarray]]:
        if self.whole:
            return [(number, _middle(field)) for number, field in enumerate(self.fields)]
        return [
            (number, center)
            for number, field in enumerate(self.fields)
            for center in self.tiling.centers(field.points)
        ]


def _middle(field: Field) -> np.ndarray:
    return field.points.mean(axis=0)


class FieldDataModule(SplitDataModule[FieldTiles]):
    """Numbers at the points of clouds, as batches of PyG graphs; see `FieldTiles`.

    Args:
        name: `folder`, files `root/{train,val,test}/*` with the numbers as attributes, or
            `sphere`, one file of points on the globe.
        root: The folder; or an .npz file of `train_lat`, `train_lon`, `test_lat` and `test_lon` in
            degrees, `[N]`, and the numbers as `train_NAME` and `test_NAME`, `[N]`. Points of the
            globe lie on the unit sphere.
        target: Names of the numbers to predict.
        features: Names of attributes that are input features, for example `[normal]`.
        given_share: Share of the numbers that are given in training; the others are predicted from
            these and the positions, as in an interpolation. For `sphere`, all training points are
            given to predict the others. None if no number is given.
        val_fraction: Fraction of the training files (of the training points of the globe) held out
            for validation, unless there is a folder `val`.
        radius: Radius of a tile in the unit of the points; with 0, a tile is a whole cloud.
        num_points: Largest number of points of a tile that the network is given.
        num_tiles: Number of training tiles in an epoch.
        random_rotate_z: If True, training tiles are rotated about the third axis by random angles.
        batch_size: Number of tiles per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process.
        seed: Seed of the tiles and the augmentation.
        split_seed: Seed of the validation split.

    Raises:
        ValueError: If an argument is out of range or does not fit the data, or if a file is broken.
        OSError: If the data are missing.
    """

    dim = 3
    per_point = True

    def __init__(
        self,
        name: FieldName = "folder",
        root: Path | None = None,
        *,
        target: Sequence[str] = ("target",),
        features: Sequence[str] = (),
        given_share: float | None = None,
        val_fraction: float = 0.1,
        radius: float = 0.0,
        num_points: int = 1024,
        num_tiles: int = 256,
        random_rotate_z: bool = False,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        check_choice("name", name, get_args(FieldName))
        if root is None:
            raise ValueError("Expected `root`, the folder or file of the numbers, got none")
        if not target:
            raise ValueError("Expected `target` to name the numbers to predict, got none")
        if given_share is not None and not 0 < given_share < 1:
            raise ValueError(f"Expected `given_share` in (0, 1), got {given_share}")
        if name == "sphere" and (given_share is None or radius <= 0):
            raise ValueError(
                "Expected `given_share` and a `radius` of tiles for points on the globe, got "
                f"{given_share} and {radius}"
            )
        if not 0 <= val_fraction < 1:
            raise ValueError(f"Expected `val_fraction` in [0, 1), got {val_fraction}")
        super().__init__(Path(root), batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.name = name
        self.target = tuple(target)
        self.features = tuple(features)
        self.given_share = given_share
        self.val_fraction = val_fraction
        self.radius = radius
        self.num_points = num_points
        self.num_tiles = num_tiles
        self.random_rotate_z = random_rotate_z
        self.split_seed = split_seed

    def setup(self, stage: str | None = None) -> None:
        """Read the numbers and split them; all splits are set up for every `stage`."""
        if self._datasets:
            return
        fields = self._globe() if self.name == "sphere" else self._folder()
        numbers = np.concatenate([field.target for field in fields["train"]]).astype(np.float64)
        if not np.isfinite(numbers).any(axis=0).all():
            raise ValueError(f"{self.root}: expected known numbers for every target, got none")
        self._mean, deviation = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)
        self._scale = np.where(deviation > 0, deviation, 1.0)
        given = [] if self.given_share is None else ["given"]
        stack = StackFeatures(("pos", *feature_names(self.features), *given))
        rotate = [RandomRotateZ()] if self.random_rotate_z else []
        transforms = {"train": Compose([*rotate, stack]), "val": stack, "test": stack}
        everything = [field.points for split in fields.values() for field in split]
        self._datasets = {
            split: FieldTiles(
                fields[split],
                tiling=self._tiling(everything),
                mean=self._mean,
                scale=self._scale,
                given_share=self.given_share,
                whole=self.radius == 0,
                train=split == "train",
                num_tiles=self.num_tiles,
                seed=self.seed if split == "train" else self.split_seed,
                transform=transform,
            )
            for split, transform in transforms.items()
        }

    @property
    def num_features(self) -> int:
        """Number of input channels, including three of the position."""
        given = 0 if self.given_share is None else 2 * len(self.target)
        features = self.train_dataset.fields[0].features.values()
        return 3 + sum(each.shape[1] for each in features) + given

    @property
    def num_targets(self) -> int:
        """Number of numbers to predict at every point."""
        return len(self.target)

    @property
    def target_mean(self) -> list[float]:
        """Mean of each number over the training points."""
        self._dataset("train")
        return self._mean.tolist()

    @property
    def target_scale(self) -> list[float]:
        """Standard deviation of each number over the training points."""
        self._dataset("train")
        return self._scale.tolist()

    def _tiling(self, clouds: Sequence[np.ndarray]) -> Tiling:
        radius = self.radius
        if radius == 0:
            radius = 1.001 * max(
                float(np.linalg.norm(points - points.mean(axis=0), axis=1).max())
                for points in clouds
            )
        return Tiling(radius=radius, voxel_size=0.0, num_points=self.num_points, shape="sphere")

    def _folder(self) -> dict[str, list[Field]]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"Expected a folder {{train,val,test}}/*, got {self.root}")
        files = {
            split: visible_files(self.root / split, SCENE_SUFFIXES)
            for split in ("train", "val", "test")
        }
        if not files["train"]:
            kinds = ", ".join(sorted(SCENE_SUFFIXES))
            raise ValueError(f"{self.root / 'train'}: expected clouds ({kinds}), got none")
        if not (self.root / "val").is_dir():
            held_out = random_holdout(len(files["train"]), self.val_fraction, seed=self.split_seed)
            files["val"] = [path for path, out in zip(files["train"], held_out, strict=True) if out]
            files["train"] = [path for path in files["train"] if path not in files["val"]]
        return {
            split: [self._field(path, read_scene(path)) for path in paths]
            for split, paths in files.items()
        }

    def _field(self, path: Path, scene: Scene) -> Field:
        target = _columns(path, scene.attributes, self.target)
        return Field(scene.points, tile_features(str(path), scene, self.features), target)

    def _globe(self) -> dict[str, list[Field]]:
        """Return the training points, and for validation and test the points given for each."""
        names = ("lat", "lon", *self.target, *self.features)
        arrays = read_npz(self.root, [f"{split}_{name}" for split in _GLOBE for name in names])
        points: dict[str, np.ndarray] = {}
        features: dict[str, dict[str, np.ndarray]] = {}
        target: dict[str, np.ndarray] = {}
        for split in _GLOBE:
            own = {name: arrays[f"{split}_{name}"] for name in names}
            points[split] = sphere_points(self.root, own["lat"], own["lon"])
            target[split] = _columns(self.root, own, self.target)
            features[split] = tile_features(
                str(self.root), Scene(points[split], own), self.features
            )
        whole = Field(points["train"], features["train"], target["train"])
        others = Field(points["test"], features["test"], target["test"])
        held_out = random_holdout(len(whole.points), self.val_fraction, seed=self.split_seed)
        val = [replace(whole, given=~held_out)] if held_out.any() else []
        return {"train": [_select(whole, ~held_out)], "val": val, "test": [_joined(whole, others)]}


_GLOBE = ("train", "test")


def _select(field: Field, kept: np.ndarray) -> Field:
    features = {name: columns[kept] for name, columns in field.features.items()}
    return Field(field.points[kept], features, field.target[kept])


def _joined(given: Field, others: Field) -> Field:
    """Return the points of two clouds, the numbers of the first of which are given."""
    points = np.concatenate([given.points, others.points])
    target = np.concatenate([given.target, others.target])
    features = {
        name: np.concatenate([columns, others.features[name]])
        for name, columns in given.features.items()
    }
    return Field(points, features, target, np.arange(len(points)) < len(given.points))


def sphere_points(path: Path, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return points of the unit sphere, `[N, 3]`, the third axis to the north pole.

    Args:
        path: The file, for error messages.
        latitude: Degrees north, `[N]`.
        longitude: Degrees east, `[N]`.

    Raises:
        ValueError: If shapes differ, or an angle is out of range.
    """
    if latitude.ndim != 1 or latitude.shape != longitude.shape:
        raise ValueError(
            f"{path}: expected latitudes and longitudes of shape [N], got {list(latitude.shape)} "
            f"and {list(longitude.shape)}"
        )
    if not (np.abs(latitude) <= 90).all() or not (np.abs(longitude) <= 360).all():
        raise ValueError(
            f"{path}: expected latitudes from -90 to 90 and longitudes up to 360 degrees"
        )
    north, east = np.radians(latitude.astype(np.float64)), np.radians(longitude.astype(np.float64))
    return np.column_stack(
        [np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)]
    )


def _columns(path: Path, attributes: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return numbers at points, `[N, T]`, float32."""
    columns = []
    for name in names:
        if name not in attributes:
            raise ValueError(
                f"{path}: expected numbers {name!r} to predict, got {', '.join(sorted(attributes))}"
            )
        values = attributes[name]
        if values.ndim != 1 or values.dtype.kind not in "fiu" or np.isinf(values).any():
            raise ValueError(
                f"{path}: expected finite numbers {name!r} of shape [N], NaN where unknown, got "
                f"{values.dtype} of shape {list(values.shape)}"
            )
        columns.append(values.astype(np.float32))
    return np.column_stack(columns)
