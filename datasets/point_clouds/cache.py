"""The clouds of a data set: made in parallel, kept on disk, and mapped into memory.

A cache is a folder whose name carries every parameter that its content depends on and a fingerprint
of the source files. While it is being made, finished parts gather in a folder beside it; the cache
itself appears in one step, complete. So a run that was killed goes on from the finished parts, and
the points of a mesh depend on its own name and the seed alone: the bytes come out the same.
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

__all__ = ["Clouds", "Item", "cached_clouds", "make_clouds"]

_LOGGER = logging.getLogger(__name__)
# Raised whenever the same items and the same recipe would give other clouds.
_VERSION = 2
_TYPES = (np.dtype("<f4"), np.dtype("<f8"))
_ITEMS_PER_PART = 64


@dataclass(frozen=True)
class Item:
    """One mesh or raw cloud of a data set, not read yet.

    Attributes:
        name: Its name within the data set, unique in it.
        label: Index of its class.
        load: Reads it; must be picklable.
        stamp: Whatever changes when the source does.
    """

    name: str
    label: int
    load: Callable[[], Geometry]
    stamp: str


@dataclass(frozen=True)
class Clouds:
    """Point clouds of any sizes, end to end in one array.

    Attributes:
        points: Positions, and normals where there are any, `[T, 3]` or `[T, 6]`, float32 or
            float64.
        starts: First row of each cloud, `[M]`.
        sizes: Number of rows of each cloud, `[M]`.
        labels: Class index of each cloud, `[M]`.
    """

    points: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of clouds."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the rows of one cloud, `[N, 3]` or `[N, 6]`."""
        start = self.starts[index]
        return self.points[start : start + self.sizes[index]]

    @property
    def has_normals(self) -> bool:
        """Whether there is a normal beside every position."""
        return self.points.shape[1] == 6

    def select(self, indices: np.ndarray) -> "Clouds":
        """Returns the clouds at the given indices, without copying their points."""
        return Clouds(self.points, self.starts[indices], self.sizes[indices], self.labels[indices])


def make_clouds(items: Sequence[Item], sampling: Sampling) -> Clouds:
    """Makes the clouds of a few small items at once, in memory.

    Args:
        items: What to make them of.
        sampling: How to make them.

    Returns:
        ``sampling.resample`` clouds per item, one item after the other.
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
    """Return the clouds of the items from their cache, which is made if missing or damaged.

    Processes that ask for the same cache at the same time wait for the first.

    Args:
        items: What to make the clouds of.
        sampling: How to make them.
        folder: Where the caches of this data set lie; made if need be.
        key: First part of the cache's name.
        num_processes: Number of processes that make clouds; one per processor by default.

    Returns:
        ``sampling.resample`` clouds per item, one item after the other, mapped from the disk.

    Raises:
        ValueError: If an item cannot be read or sampled; the message names it. Or if `key` is not
            a plain name.
        OSError: If the cache cannot be written. Nothing half-written stays behind.
    """
    if not key or Path(key).name != key or "\\" in key or key.startswith("."):
        raise ValueError(f"Expected `key` to be the name of a folder, got {key!r}")
    cache = folder / _cache_name(items, sampling, key)
    arrays = _open(cache, len(items) * sampling.resample)
    if arrays is None:
        with locked(folder):
            # Another process may have made it in the meantime.
            arrays = _open(cache, len(items) * sampling.resample)
            if arrays is None:
                shutil.rmtree(cache, ignore_errors=True)
                _build(items, sampling, cache, num_processes)
                arrays = _open(cache, len(items) * sampling.resample)
    if arrays is None:
        raise OSError(f"{cache}: expected the cache that was just written, got other content")
    return _assemble(*arrays, items, sampling)


def _open(cache: Path, num_clouds: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Map the points and sizes of a cache; return None if it is missing or damaged."""
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
        _LOGGER.warning("Making the damaged cache %s again: %s", cache, error)
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
        _LOGGER.warning("Making the damaged cache %s again: wrong type or shape", cache)
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
    # open3d has threads of its own, which must not be carried over into a forked process.
    processes = 1 if sampling.estimate_normals else num_processes or _num_processors()
    done = len(items) - sum(map(len, missing.values()))
    with tqdm(total=len(items), initial=done, desc=f"making {cache.name}", disable=None) as bar:
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
    """Writes every part and yields its path once it is there."""
    if processes <= 1:
        yield from (_write_part(path, part, sampling) for path, part in parts.items())
        return
    # The platform's own way of starting processes, as in PyTorch's loaders. Where that is a fork,
    # it is a safe one: nothing that runs in the workers uses threads.
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
    """Makes clouds, end to end; the normals are left out unless every cloud has them."""
    clouds = [cloud for item in items for cloud in sampling.clouds(item.load(), item.name)]
    columns = min((cloud.shape[1] for cloud in clouds), default=3)
    sizes = np.array([len(cloud) for cloud in clouds], dtype=np.int64)
    if not clouds:
        return np.empty((0, columns), dtype=np.float32), sizes
    return np.concatenate([cloud[:, :columns] for cloud in clouds]), sizes


def _join(parts: Sequence[Path], folder: Path) -> None:
    """Joins finished parts into one array on disk, one part in memory at a time."""
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
