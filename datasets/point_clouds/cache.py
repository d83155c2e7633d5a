"""Cache of sampled point clouds.

A cache is a folder whose name holds every parameter that determines its content, and a fingerprint
of the source files. It can be resumed after a kill, because the points of a mesh depend only on its
name and the seed; see `datasets.cache`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..cache import Arrays, cached_arrays, fingerprint, has_layout
from ..io.readers import Geometry
from .sampling import Sampling

__all__ = ["Clouds", "Item", "cached_clouds", "make_clouds"]

# Incremented whenever the same items and settings give different clouds.
_VERSION = 2
_TYPES = (np.dtype("<f4"), np.dtype("<f8"))
_ITEMS_PER_PART = 64


@dataclass(frozen=True)
class Item:
    """One mesh or raw cloud of a data set, read on demand.

    Attributes:
        name: Unique name within the data set.
        label: Index of the class.
        load: Function that reads the geometry; has to be picklable.
        stamp: Text that changes whenever the source changes.
    """

    name: str
    label: int
    load: Callable[[], Geometry]
    stamp: str


@dataclass(frozen=True)
class Clouds:
    """Point clouds of different sizes, concatenated in one array.

    Attributes:
        points: Positions `[T, 3]`, or positions and normals `[T, 6]`; float32 or float64.
        starts: First row of each cloud, `[M]`.
        sizes: Number of rows of each cloud, `[M]`.
        labels: Class index of each cloud, `[M]`.
        point_labels: Class index of each row, `[T]`, or None if the points have no classes.
    """

    points: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    point_labels: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of clouds."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the rows of one cloud, `[N, 3]` or `[N, 6]`."""
        return self.points[self._rows(index)]

    def labels_of(self, index: int) -> np.ndarray:
        """Return the classes of the points of one cloud, `[N]`.

        Raises:
            ValueError: If they have none.
        """
        if self.point_labels is None:
            raise ValueError("Expected clouds whose points have labels, got clouds without")
        return self.point_labels[self._rows(index)]

    def _rows(self, index: int) -> slice:
        return slice(self.starts[index], self.starts[index] + self.sizes[index])

    @property
    def has_normals(self) -> bool:
        """True if every point has a normal."""
        return self.points.shape[1] == 6

    def select(self, indices: np.ndarray) -> "Clouds":
        """Return the clouds at the given indices, without copying their points."""
        return replace(
            self,
            starts=self.starts[indices],
            sizes=self.sizes[indices],
            labels=self.labels[indices],
        )


def make_clouds(items: Sequence[Item], sampling: Sampling) -> Clouds:
    """Sample the clouds of all items in memory, without a cache.

    Args:
        items: Meshes or raw clouds.
        sampling: Settings of the sampling.

    Returns:
        `sampling.resample` consecutive clouds per item.
    """
    return _assemble(_sample(items, sampling), items, sampling)


def cached_clouds(
    items: Sequence[Item],
    sampling: Sampling,
    folder: Path,
    *,
    key: str,
    num_processes: int | None = None,
) -> Clouds:
    """Return the clouds of the items from a cache, which is built if it is missing or damaged.

    Concurrent processes that need the same cache wait for the first one to build it.

    Args:
        items: Meshes or raw clouds.
        sampling: Settings of the sampling.
        folder: Folder of the caches of this data set; created if necessary.
        key: First part of the cache's name.
        num_processes: Number of processes that sample clouds; one per processor by default.

    Returns:
        `sampling.resample` consecutive clouds per item, memory-mapped.

    Raises:
        ValueError: If an item cannot be read or sampled; the message names it. Or if `key` is not
            the name of a folder.
        OSError: If the cache cannot be written; no partial cache remains.
    """
    if not key or Path(key).name != key or "\\" in key or key.startswith("."):
        raise ValueError(f"Expected `key` to be the name of a folder, got {key!r}")
    arrays = cached_arrays(
        folder / _cache_name(items, sampling, key),
        items,
        partial(_sample, sampling=sampling),
        is_sound=partial(_is_sound, num_clouds=len(items) * sampling.resample),
        items_per_part=_ITEMS_PER_PART,
        # open3d uses threads, which do not survive a fork.
        num_processes=1 if sampling.estimate_normals else num_processes,
    )
    return _assemble(arrays, items, sampling)


def _is_sound(arrays: Arrays, *, num_clouds: int) -> bool:
    if arrays.keys() - {"point_labels"} != {"points", "sizes"}:
        return False
    points, sizes = arrays["points"], arrays["sizes"]
    labels = arrays.get("point_labels")
    return (
        labels is None or has_layout({"": labels}, {"": (points.shape[:1], np.int64)})
    ) and bool(
        points.dtype in _TYPES
        and points.ndim == 2
        and points.shape[1] in (3, 6)
        and sizes.dtype == np.int64
        and sizes.shape == (num_clouds,)
        and (sizes >= 0).all()
        and int(sizes.sum()) == len(points)
    )


def _cache_name(items: Sequence[Item], sampling: Sampling, key: str) -> str:
    sources = [[item.name, item.label, item.stamp] for item in items]
    parts = [
        key,
        f"{sampling.points_per_mesh}points",
        f"{sampling.resample}x",
        sampling.normalize,
        f"seed{sampling.seed}",
        *(["estimated"] if sampling.estimate_normals else []),
        fingerprint([_VERSION, asdict(sampling), sources]),
    ]
    return "-".join(parts)


def _assemble(arrays: Arrays, items: Sequence[Item], sampling: Sampling) -> Clouds:
    labels = np.repeat(np.array([item.label for item in items], np.int64), sampling.resample)
    sizes = np.array(arrays["sizes"])
    starts = np.cumsum(sizes) - sizes
    return Clouds(arrays["points"], starts, sizes, labels, arrays.get("point_labels"))


def _sample(items: Sequence[Item], sampling: Sampling) -> Arrays:
    """Return concatenated clouds and their sizes, with normals and labels if all have them."""
    clouds = [cloud for item in items for cloud in sampling.clouds(item.load(), item.name)]
    columns = min((cloud.rows.shape[1] for cloud in clouds), default=3)
    sizes = np.array([len(cloud.rows) for cloud in clouds], dtype=np.int64)
    if not clouds:
        return {"points": np.empty((0, columns), dtype=np.float32), "sizes": sizes}
    points = np.concatenate([cloud.rows[:, :columns] for cloud in clouds])
    labels = [cloud.labels for cloud in clouds if cloud.labels is not None]
    arrays = {"points": points, "sizes": sizes}
    if len(labels) == len(clouds):
        arrays["point_labels"] = np.concatenate(labels)
    return arrays
