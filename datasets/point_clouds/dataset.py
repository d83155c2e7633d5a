"""Base classes of the point-cloud data sets, with reproducible random subsets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch_geometric.data import Data

from ccnn_geo.transforms.functional import subset_indices

from ..dataset import ClassificationDataset, Transform
from .cache import Clouds, Item, cached_clouds, make_clouds
from .sampling import Normalization, Sampling

__all__ = [
    "DataSplit",
    "Listing",
    "PointCloudDataset",
    "SampledDataset",
    "SamplingOptions",
]


DataSplit = Literal["train", "val", "test"]


class PointCloudDataset(ClassificationDataset):
    """Point clouds in memory, of which each access returns a random subset of the points.

    See `ClassificationDataset` for the randomness of subsets and transforms.

    Args:
        clouds: The clouds.
        classes: Names of the classes; a label is an index into them.
        categories: Names of the categories of clouds whose points have labels; the classes by
            default.
        parts: The labels that the points of every category can have; any by default.
        train: If True, each access draws another subset.
        num_points: Number of points per access. Clouds with fewer points are returned whole.
        seed: Seed of the subsets and of the transform.
        transform: Applied at each access.

    Shapes:
        - `dataset[index]` has `pos` :math:`[N, 3]`, `normal` :math:`[N, 3]` if the clouds have
          normals, and `y` :math:`[1]`; if the points have labels, these are `y` :math:`[N]`, and
          the class of the cloud is `category` :math:`[1]`

    Raises:
        ValueError: If `num_points` is below 1 or `seed` below 0.
    """

    def __init__(
        self,
        clouds: Clouds,
        classes: Sequence[str],
        *,
        categories: Sequence[str] | None = None,
        parts: Sequence[Sequence[int]] | None = None,
        train: bool,
        num_points: int = 512,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        if num_points < 1:
            raise ValueError(f"Expected `num_points` to be at least 1, got {num_points}")
        super().__init__(classes, train=train, seed=seed, transform=transform)
        self.categories = list(classes if categories is None else categories)
        everything = [range(len(classes))] * len(self.categories)
        self.parts = [list(labels) for labels in (everything if parts is None else parts)]
        self.clouds = clouds
        self.num_points = num_points

    @property
    def has_normals(self) -> bool:
        """True if every point has a normal."""
        return self.clouds.has_normals

    def __len__(self) -> int:
        """Return the number of clouds."""
        return len(self.clouds)

    def _read(self, index: int) -> Data:
        rows = self.clouds[index]
        subset = subset_indices(len(rows), self.num_points)
        points = torch.from_numpy(rows[subset.numpy()])
        data = Data(pos=points[:, :3].contiguous())
        label = torch.tensor([int(self.clouds.labels[index])])
        if self.clouds.point_labels is None:
            data.y = label
        else:
            data.y = torch.from_numpy(self.clouds.labels_of(index)[subset.numpy()])
            data.category = label
        if self.has_normals:
            data.normal = points[:, 3:].contiguous()
        return data


@dataclass(frozen=True)
class Listing:
    """Content of a data set before its files are read.

    Attributes:
        key: First part of the names of the caches.
        source: Folder or file of the data.
        classes: Names of the classes.
        train: The training items.
        test: The test items; may be empty.
        in_memory: If True, the clouds are not cached unless normals are estimated.
        val: The validation items, if the data set has a split of its own.
        point_classes: Names of the classes of the points, if they have labels.
        parts: For every class of clouds, the classes that its points can have.
    """

    key: str
    source: Path
    classes: list[str]
    train: list[Item] = field(repr=False)
    test: list[Item] = field(repr=False)
    in_memory: bool = False
    val: list[Item] | None = field(default=None, repr=False)
    point_classes: list[str] | None = None
    parts: list[list[int]] | None = None

    def __post_init__(self) -> None:
        """Check that every class of the test split is in the training split."""
        if not self.train:
            raise ValueError(f"{self.source}: expected at least one training cloud, got none")
        others = [*self.test, *(self.val or [])]
        unknown = {item.label for item in others} - {item.label for item in self.train}
        if unknown:
            names = ", ".join(self.classes[label] for label in sorted(unknown))
            raise ValueError(
                f"{self.source}: expected every class in the training split, "
                f"got classes only in other splits: {names}"
            )

    @property
    def cache_folder(self) -> Path:
        """Default folder of the caches."""
        folder = self.source.parent if self.source.is_file() else self.source
        return folder / ".ccnn_geo"


class SamplingOptions(TypedDict, total=False):
    """Arguments that all data sets share, see `SampledDataset`."""

    split: DataSplit
    num_points: int
    points_per_mesh: int
    resample: int
    normalize: Normalization
    estimate_normals: bool
    seed: int
    transform: Transform | None
    cache_dir: Path | str | None
    num_processes: int | None


class SampledDataset(PointCloudDataset):
    """One split of a data set, whose meshes and clouds are sampled once and cached.

    Args:
        listing: Content of the data set.
        split: `"train"`, with a new random subset at each access, `"test"`, or `"val"`, if the
            data set has such a split.
        num_points: Number of points per cloud and access.
        points_per_mesh: Number of points sampled once from the surface of a mesh. A raw cloud with
            more points is subsampled to as many.
        resample: Number of clouds per training mesh, each with points of its own. The published
            tiny models use 2.
        normalize: `"box"` moves the centre of mass of a cloud to the origin and scales it to
            [-1, 1], `"ball"` to the unit ball; `"none"` keeps the coordinates, in float64 if the
            type of the file does not fit into float32.
        estimate_normals: If True, normals of raw clouds without normals are estimated with open3d.
        seed: Seed of the points sampled from the meshes and of the subsets.
        transform: Applied at each access.
        cache_dir: Folder of the cache; by default `.ccnn_geo` beside the data.
        num_processes: Number of processes that build the cache; one per processor by default.

    Raises:
        ValueError: If an argument is out of range, or if the data cannot be read; the message
            names the file.
        OSError: If the cache cannot be written.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        split: DataSplit = "train",
        num_points: int = 512,
        points_per_mesh: int = 2048,
        resample: int = 1,
        normalize: Normalization = "box",
        estimate_normals: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
        cache_dir: Path | str | None = None,
        num_processes: int | None = None,
    ) -> None:
        items = _items(listing, split)
        sampling = Sampling(
            points_per_mesh=points_per_mesh,
            resample=resample if split == "train" else 1,
            normalize=normalize,
            estimate_normals=estimate_normals,
            seed=seed,
        )
        if not items or (listing.in_memory and not estimate_normals):
            clouds = make_clouds(items, sampling)
        else:
            folder = listing.cache_folder if cache_dir is None else Path(cache_dir)
            key = f"{listing.key}-{split}"
            clouds = cached_clouds(items, sampling, folder, key=key, num_processes=num_processes)
        super().__init__(
            clouds,
            listing.classes if listing.point_classes is None else listing.point_classes,
            categories=listing.classes,
            parts=listing.parts,
            train=split == "train",
            num_points=num_points,
            seed=seed,
            transform=transform,
        )


def _items(listing: Listing, split: str) -> list[Item]:
    splits = {"train": listing.train, "test": listing.test}
    if listing.val is not None:
        splits["val"] = listing.val
    if split not in splits:
        raise ValueError(f"Expected `split` to be one of {tuple(splits)}, got {split!r}")
    return splits[split]
