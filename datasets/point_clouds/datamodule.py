"""LightningDataModule of the point-cloud data sets."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.augment import (
    GaussianJitter,
    RandomRotateZ,
    RandomScale,
    RandomThinning,
)
from ccnn_geo.transforms.mesh import AppendCategory, StackFeatures
from ccnn_geo.transforms.voxels import Voxelize

from ..datamodule import ClassificationDataModule, check_choice
from ..splits import stratified_split
from .arrays import list_arrays
from .dataset import DataSplit, Listing, PointCloudDataset, SampledDataset
from .folder import list_folder
from .h5 import ScanVariant, list_modelnet_h5, list_scanobjectnn
from .modelnet import list_modelnet
from .parts import list_shape_parts
from .sampling import Normalization
from .shapenet_part import list_shapenet_part
from .shapes import list_shapes

__all__ = ["PartSegmentationDataModule", "PointCloudDataModule"]

_LOGGER = logging.getLogger(__name__)

DataName = Literal[
    "modelnet40", "modelnet10", "modelnet40_h5", "scanobjectnn", "shapes", "folder", "arrays"
]  # fmt: skip
PartsName = Literal["shape_parts", "shapenet_part"]
Features = Literal["auto", "normal+pos", "pos"]


class PointCloudDataModule(ClassificationDataModule[PointCloudDataset]):
    """Training, validation and test clouds of a data set, as batches of PyG graphs.

    The validation split is a stratified part of the training split. In every epoch, a training
    cloud gets a new random subset of its points and new augmentation. Both, and the order of the
    clouds, depend only on `seed` and the epoch, so that neither the number of workers nor
    interruptions change a training. The points of validation and test clouds are always the same.

    After `setup`, the data sets are `train_dataset`, `val_dataset` and `test_dataset`, described by
    `num_features`, `num_classes`, `class_names` and `split_sizes`.

    Args:
        name: Data set: `modelnet40`, `modelnet10`, `modelnet40_h5` (clouds in HDF5 files),
            `scanobjectnn`, `shapes` (procedural), `folder` (user files,
            `root/<class>/{train,test}/*`) or `arrays` (one .npz file).
        root: Folder of the data set, or the file of `arrays`. ModelNet is downloaded to it if
            necessary. By default `data/modelnet40`, `data/modelnet10` or `data/shapes`.
        variant: Variant of `scanobjectnn`, see `ScanObjectNN`.
        num_points: Number of points, or voxels, per cloud that the network is given.
        voxels: Number of cells along each axis of the grid on which clouds are voxelized, see
            `ccnn_geo.transforms.Voxelize`. All points of a cloud are voxelized, and augmentation is
            applied to the voxels. By default, clouds are not voxelized.
        points_per_mesh: Number of points sampled once from the surface of each mesh and cached.
        batch_size: Number of clouds per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process, which is
            fast enough for clouds in memory.
        seed: Seed of the order of the clouds, their subsets and the augmentation.
        sampling_seed: Seed of the points sampled from the meshes, the validation split and the
            subset of the training clouds. Another seed needs another cache.
        val_fraction: Fraction of the training split held out for validation.
        resample: Number of clouds per training mesh, each with points of its own. The published
            tiny models use 2.
        train_size: Number of training meshes or clouds to use, as a stratified subset; all by
            default. The validation split stays the same.
        features: Input channels: `normal+pos`, `pos`, or `auto`, which includes the normals if
            there are any.
        estimate_normals: If True, normals of clouds without normals are estimated with open3d.
        normalize: `box` scales clouds to [-1, 1], `ball` to the unit ball, `none` not at all.
        random_scale: If True, training clouds are scaled by a random factor from 0.8 to 1.25.
        random_jitter: If True, training points are moved by small random steps.
        random_rotate_z: If True, training clouds are rotated about the z axis by a random angle.
        min_share: Smallest share of the points of a training cloud that the network is given. Below
            1, the share is random, and half of the clouds are denser on one side, so that the
            network learns any density; see `RandomThinning`.
        download: If True, ModelNet is downloaded if it is missing.
        cache_dir: Folder of the cache; by default `.ccnn_geo` beside the data.
        num_processes: Number of processes that sample meshes; one per processor by default.

    Raises:
        ValueError: If an argument is out of range or does not fit the data, or if a file is broken.
        OSError: If the data are missing, or the cache cannot be written.
    """

    def __init__(
        self,
        name: DataName = "modelnet40",
        root: Path | None = None,
        *,
        variant: ScanVariant = "pb_t50_rs",
        num_points: int = 512,
        voxels: int | None = None,
        points_per_mesh: int = 2048,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        sampling_seed: int = 0,
        val_fraction: float = 0.1,
        resample: int = 1,
        train_size: int | None = None,
        features: Features = "auto",
        estimate_normals: bool = False,
        normalize: Normalization = "box",
        random_scale: bool = False,
        random_jitter: bool = False,
        random_rotate_z: bool = False,
        min_share: float = 1.0,
        download: bool = True,
        cache_dir: Path | None = None,
        num_processes: int | None = None,
    ) -> None:
        check_choice("name", name, self._names)
        check_choice("features", features, get_args(Features))
        if root is None and name in ("folder", "arrays"):
            raise ValueError(f"Expected `root` for the data set {name!r}, got none")
        if voxels is not None and (voxels < 1 or features == "normal+pos"):
            raise ValueError(
                "Expected `voxels` >= 1, whose features are their positions, got "
                f"{voxels} and `features`={features!r}"
            )
        if not 0 < min_share <= 1:
            raise ValueError(f"Expected `min_share` above 0 and at most 1, got {min_share}")
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.name = name
        self.variant: ScanVariant = variant
        self.num_points = num_points
        self.voxels = voxels
        self.points_per_mesh = points_per_mesh
        self.sampling_seed = sampling_seed
        self.val_fraction = val_fraction
        self.resample = resample
        self.train_size = train_size
        self.features = features
        self.estimate_normals = estimate_normals
        self.normalize: Normalization = normalize
        self.random_scale = random_scale
        self.random_jitter = random_jitter
        self.random_rotate_z = random_rotate_z
        self.min_share = min_share
        self.download = download
        self.cache_dir = cache_dir
        self.num_processes = num_processes
        self._num_features = 0

    dim = 3

    _names = get_args(DataName)

    def prepare_data(self) -> None:
        """Download the data and build the caches; Lightning calls this in one process."""
        self._sampled()

    def setup(self, stage: str | None = None) -> None:
        """Split the data and choose the features; all splits are set up for every `stage`."""
        if self._datasets:
            return
        sampled = self._sampled()
        train, test = sampled["train"], sampled["test"]
        validation = sampled.get("val")
        kept, held_out = stratified_split(
            train.clouds.labels[:: self.resample],
            val_fraction=0.0 if validation else self.val_fraction,
            train_size=self.train_size,
            seed=self.sampling_seed,
        )
        # All clouds of a mesh are in the same split; validation uses only the first.
        repetitions = np.arange(self.resample)
        kept = (kept[:, None] * self.resample + repetitions).ravel()
        held_out = held_out * self.resample
        if validation:
            held_out = np.arange(len(validation))
        attributes = self._attributes(*sampled.values())
        voxelize = [] if self.voxels is None else [Voxelize(self.voxels, self.num_points)]
        features = [StackFeatures(attributes), *self._further_features(train)]
        augment = Compose([*voxelize, *self._augmentations(), *features])
        plain = Compose([*voxelize, *features])
        everything = np.arange(len(test))
        self._num_features = 3 * len(attributes)
        self._datasets = {
            "train": self._split(train, kept, augment, train=True, seed=self.seed),
            "val": self._split(
                validation or train, held_out, plain, train=False, seed=self.sampling_seed
            ),
            "test": self._split(test, everything, plain, train=False, seed=self.sampling_seed),
        }

    @property
    def num_features(self) -> int:
        """Number of input channels, 6 with normals and 3 without."""
        self._dataset("train")
        return self._num_features

    def _further_features(self, train: SampledDataset) -> list[BaseTransform]:
        """Return transforms that append further input channels."""
        return []

    def _sampled(self) -> dict[str, SampledDataset]:
        listing = self._listing()
        splits: list[DataSplit] = ["train", "test"]
        if listing.val is not None:
            splits.append("val")
        return {split: self._sample(listing, split) for split in splits}

    def _sample(self, listing: Listing, split: DataSplit) -> SampledDataset:
        return SampledDataset(
            listing,
            split=split,
            points_per_mesh=self.points_per_mesh,
            resample=self.resample,
            normalize=self.normalize,
            estimate_normals=self.estimate_normals,
            seed=self.sampling_seed,
            cache_dir=self.cache_dir,
            num_processes=self.num_processes,
        )

    def _listing(self) -> Listing:
        match self.name:
            case "modelnet40":
                return list_modelnet(self.root, "40", fetch=self.download)
            case "modelnet10":
                return list_modelnet(self.root, "10", fetch=self.download)
            case "modelnet40_h5":
                return list_modelnet_h5(self.root)
            case "scanobjectnn":
                return list_scanobjectnn(self.root, self.variant)
            case "shapes":
                return list_shapes(self.root, seed=self.sampling_seed)
            case "folder":
                return list_folder(self.root)
            case _:
                return list_arrays(self.root)

    def _split(
        self,
        sampled: SampledDataset,
        indices: np.ndarray,
        transform: BaseTransform,
        *,
        train: bool,
        seed: int,
    ) -> PointCloudDataset:
        return PointCloudDataset(
            sampled.clouds.select(indices),
            sampled.classes,
            categories=sampled.categories,
            parts=sampled.parts,
            train=train,
            num_points=self.num_points if self.voxels is None else self.points_per_mesh,
            seed=seed,
            transform=transform,
        )

    def _attributes(self, *splits: SampledDataset) -> tuple[str, ...]:
        """Return the attributes of the points that are the input features."""
        complete = all(split.has_normals for split in splits if len(split))
        if self.features == "pos" or self.voxels is not None:
            return ("pos",)
        if complete:
            return ("normal", "pos")
        if self.features == "auto":
            _LOGGER.warning("%s has no normals: the features are only the positions", self.root)
            return ("pos",)
        raise ValueError(
            f"Expected normals in {self.root} for `features`='normal+pos', got clouds without; "
            "set `features`='pos' or `estimate_normals`=True"
        )

    def _augmentations(self) -> list[BaseTransform]:
        switches: list[tuple[bool, Callable[[], BaseTransform]]] = [
            (self.random_rotate_z, RandomRotateZ),
            (self.random_scale, RandomScale),
            (self.random_jitter, GaussianJitter),
        ]
        thin = [RandomThinning((self.min_share, 1.0), uneven=0.5)] if self.min_share < 1 else []
        return [*thin, *(make() for wanted, make in switches if wanted)]


class PartSegmentationDataModule(PointCloudDataModule):
    """Clouds of objects whose points are labelled by part; see `PointCloudDataModule`.

    Labels are `y [N]`, one per point, and the category of an object is `category [1]`. The
    categories are `categories`, and `parts` has the labels that the points of each can have.

    Args:
        name: Data set: `shape_parts` (procedural) or `shapenet_part`.
        root: Folder of the data set; by default `data/shape_parts` or `data/shapenet_part`.
        category_input: If True, the category is an input of the network, one channel for each, as
            is usual for ShapeNetPart; otherwise, the network has to find it out.
        loading: See `PointCloudDataModule`; there are no voxels.

    Raises:
        ValueError: If an argument is out of range or does not fit the data, or if a file is broken.
        OSError: If the data are missing, or the cache cannot be written.
    """

    _names = get_args(PartsName)

    def __init__(
        self,
        name: PartsName = "shape_parts",
        root: Path | None = None,
        *,
        category_input: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(cast(Any, name), root, **loading)
        if self.voxels is not None:
            raise ValueError(f"Expected no `voxels` for labelled points, got {self.voxels}")
        self.category_input = category_input

    @property
    def categories(self) -> list[str]:
        """Names of the categories of objects."""
        return self.train_dataset.categories

    @property
    def parts(self) -> list[list[int]]:
        """The labels that the points of every category can have."""
        return self.train_dataset.parts

    @property
    def class_counts(self) -> list[int]:
        """Number of training points of every class."""
        clouds = self.train_dataset.clouds
        labels = np.concatenate([clouds.labels_of(index) for index in range(len(clouds))])
        return np.bincount(labels, minlength=self.num_classes).tolist()

    @property
    def num_features(self) -> int:
        """Number of input channels, including the channels of the category."""
        return super().num_features + (len(self.categories) if self.category_input else 0)

    def _further_features(self, train: SampledDataset) -> list[BaseTransform]:
        return [AppendCategory(len(train.categories))] if self.category_input else []

    def _listing(self) -> Listing:
        if self.name == "shapenet_part":
            return list_shapenet_part(self.root)
        return list_shape_parts(self.root, seed=self.sampling_seed)
