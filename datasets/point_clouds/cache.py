"""Cache of sampled point clouds: computed in parallel, stored on disk and memory-mapped.

A cache is a folder whose name holds every parameter that determines its content, and a fingerprint
of the source files. Finished parts are collected in a folder beside it, and the cache appears in
one step once it is complete. A killed run is resumed from the finished parts with the same result,
because the points of a mesh depend only on its name and the seed.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ccnn_geo.files import atomic_write, locked

from ..io.readers import Geometry
from .sampling import Sampling

__all__ = ["Clouds", "Item", "cached_clouds", "file_stamp", "make_clouds"]

_LOGGER = logging.getLogger(__name__)
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


def file_stamp(path: Path) -> str:
    """Return the stamp of a file, its size and time of modification."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True)
class Clouds:
    """Point clouds of different sizes, concatenated in one array.

    Attributes:
        points: Positions `[T, 3]`, or positions and normals `[T, 6]`; float32 or float64.
        starts: First row of each cloud, `[M]`.
        sizes: Number of rows of each cloud, `[M]`.
        labels: Class index of each cloud, `[M]`.
    """

    points: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of clouds."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the rows of one cloud, `[N, 3]` or `[N, 6]`."""
        start = self.starts[index]
        return self.points[start : start + self.sizes[index]]

    @property
    def has_normals(self) -> bool:
        """True if every point has a normal."""
        return self.points.shape[1] == 6

    def select(self, indices: np.ndarray) -> "Clouds":
        """Return the clouds at the given indices, without copying their points."""
        return Clouds(self.points, self.starts[indices], self.sizes[indices], self.labels[indices])


def make_clouds(items: Sequence[Item], sampling: Sampling) -> Clouds:
    """Sample the clouds of all items in memory, without a cache.

    Args:
        items: Meshes or raw clouds.
        sampling: Settings of the sampling.

    Returns:
        `sampling.resample` consecutive clouds per item.
    """
    points, sizes = _sample(items, sampling)
    return _assemble(points, sizes, items, sampling)


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
    cache = folder / _cache_name(items, sampling, key)
    arrays = _open(cache, len(items) * sampling.resample)
    if arrays is None:
        with locked(folder):
            # Another process may have built it in the meantime.
            arrays = _open(cache, len(items) * sampling.resample)
            if arrays is None:
                shutil.rmtree(cache, ignore_errors=True)
                _build(items, sampling, cache, num_processes)
                arrays = _open(cache, len(items) * sampling.resample)
    if arrays is None:
        raise OSError(f"{cache}: expected the cache that was just written, got other content")
    return _assemble(*arrays, items, sampling)


def _open(cache: Path, num_clouds: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Memory-map the points and sizes of a cache; return None if it is missing or damaged."""
    if not cache.exists():
        return None
    # Left by a process that was killed before it removed the parts of the finished cache.
    parts = cache.with_name(f"{cache.name}.parts")
    if parts.exists():
        shutil.rmtree(parts, ignore_errors=True)
    try:
        points = np.load(cache / "points.npy", mmap_mode="r", allow_pickle=False)
        sizes = np.load(cache / "sizes.npy", mmap_mode="r", allow_pickle=False)
    except (EOFError, FileNotFoundError, ValueError) as error:
        _LOGGER.warning("Rebuilding the damaged cache %s: %s", cache, error)
        return None
    sound = (
        points.dtype in _TYPES
        and points.ndim == 2
        and points.shape[1] in (3, 6)
        and sizes.dtype == np.int64
        and sizes.shape == (num_clouds,)
        and (sizes >= 0).all()
        and int(sizes.sum()) == len(points)
    )
    if not sound:
        _LOGGER.warning("Rebuilding the damaged cache %s: wrong type or shape", cache)
        return None
    return points.view(np.ndarray), np.array(sizes)


def _cache_name(items: Sequence[Item], sampling: Sampling, key: str) -> str:
    sources = [[item.name, item.label, item.stamp] for item in items]
    content = json.dumps([_VERSION, asdict(sampling), sources])
    fingerprint = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    parts = [
        key,
        f"{sampling.points_per_mesh}points",
        f"{sampling.resample}x",
        sampling.normalize,
        f"seed{sampling.seed}",
        *(["estimated"] if sampling.estimate_normals else []),
        fingerprint,
    ]
    return "-".join(parts)


def _assemble(
    points: np.ndarray, sizes: np.ndarray, items: Sequence[Item], sampling: Sampling
) -> Clouds:
    labels = np.repeat(np.array([item.label for item in items], np.int64), sampling.resample)
    return Clouds(points, np.cumsum(sizes) - sizes, sizes, labels)


def _build(
    items: Sequence[Item], sampling: Sampling, cache: Path, num_processes: int | None
) -> None:
    parts_folder = cache.with_name(f"{cache.name}.parts")
    parts_folder.mkdir(exist_ok=True)
    parts = {
        parts_folder / f"{start:07d}-{_ITEMS_PER_PART}.npz": items[start : start + _ITEMS_PER_PART]
        for start in range(0, len(items), _ITEMS_PER_PART)
    }
    missing = {path: part for path, part in parts.items() if not path.exists()}
    # open3d uses threads, which do not survive a fork.
    processes = 1 if sampling.estimate_normals else num_processes or _num_processors()
    done = len(items) - sum(map(len, missing.values()))
    with tqdm(total=len(items), initial=done, desc=f"building {cache.name}", disable=None) as bar:
        for path in _write_parts(missing, sampling, min(processes, len(missing))):
            bar.update(len(parts[path]))
    finished = parts_folder / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    _join(list(parts), finished)
    os.replace(finished, cache)
    # Another process may be removing them too.
    shutil.rmtree(parts_folder, ignore_errors=True)


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_parts(
    parts: dict[Path, Sequence[Item]], sampling: Sampling, processes: int
) -> Iterator[Path]:
    """Write every part and yield its path once it is complete."""
    if processes <= 1:
        yield from (_write_part(path, part, sampling) for path, part in parts.items())
        return
    # The default start method of the platform, as in PyTorch's loaders. A fork is safe, because
    # nothing that runs in the workers uses threads.
    context = multiprocessing.get_context()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_write_part, path, part, sampling) for path, part in parts.items()]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this worker soon after its parent has ended, however that happened."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    # A forked worker would inherit a handler that keeps the parent alive, such as Lightning's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=watch, daemon=True).start()


def _write_part(path: Path, items: Sequence[Item], sampling: Sampling) -> Path:
    points, sizes = _sample(items, sampling)
    with atomic_write(path) as file:
        np.savez(file, points=points, sizes=sizes)
    return path


def _sample(items: Sequence[Item], sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Return concatenated clouds and their sizes, with normals if all clouds have them."""
    clouds = [cloud for item in items for cloud in sampling.clouds(item.load(), item.name)]
    columns = min((cloud.shape[1] for cloud in clouds), default=3)
    sizes = np.array([len(cloud) for cloud in clouds], dtype=np.int64)
    if not clouds:
        return np.empty((0, columns), dtype=np.float32), sizes
    return np.concatenate([cloud[:, :columns] for cloud in clouds]), sizes


def _join(parts: Sequence[Path], folder: Path) -> None:
    """Concatenate the parts into one array on disk, with one part in memory at a time."""
    shapes, types, sizes = [], [], []
    for path in parts:
        with np.load(path, allow_pickle=False) as part:
            points = part["points"]
            shapes.append(points.shape)
            types.append(points.dtype)
            sizes.append(part["sizes"])
    shape = (sum(rows for rows, _ in shapes), min(columns for _, columns in shapes))
    dtype = np.result_type(*types).newbyteorder("<")
    with atomic_write(folder / "points.npy") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for path in parts:
            with np.load(path, allow_pickle=False) as part:
                rows = np.ascontiguousarray(part["points"][:, : shape[1]], dtype=dtype)
            file.write(rows.data)
    with atomic_write(folder / "sizes.npy") as file:
        np.save(file, np.concatenate(sizes))
