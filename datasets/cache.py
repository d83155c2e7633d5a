"""Arrays computed in parallel, and caches of them: stored on disk and memory-mapped.

A cache is a folder of one `.npy` file per array. Finished parts are collected in a folder beside
it, and the cache appears in one step once it is complete. A killed run is resumed from the finished
parts with the same result, provided that a part depends only on its items.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ccnn_geo.files import atomic_write, locked

__all__ = [
    "Arrays",
    "Make",
    "cached_arrays",
    "file_stamp",
    "fingerprint",
    "has_layout",
    "make_arrays",
]

_LOGGER = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]
# Returns the arrays of consecutive items; has to be picklable.
Make = Callable[[Any], Arrays]
Key = TypeVar("Key", bound=Hashable)
Job = TypeVar("Job")
Result = TypeVar("Result")


def file_stamp(path: Path) -> str:
    """Return a text that changes with a file: its size and time of modification."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def fingerprint(parameters: Any) -> str:
    """Return a short name of parameters, which JSON can express, for the name of a cache."""
    content = json.dumps(parameters).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def has_layout(arrays: Arrays, layout: Mapping[str, tuple[tuple[int, ...], type]]) -> bool:
    """Return whether arrays have the given names, shapes and types."""
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    return found == {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in layout.items()}


def make_arrays(
    items: Sequence[Any], make: Make, *, items_per_part: int, num_processes: int | None = None
) -> Arrays:
    """Return the arrays of all items in memory, without a cache.

    Args:
        items: The items.
        make: Returns the arrays of consecutive items by name, see `cached_arrays`.
        items_per_part: Number of items that are passed to `make` at a time.
        num_processes: Number of processes that run `make`; one per processor by default.

    Returns:
        The arrays by name.
    """
    starts = range(0, max(len(items), 1), items_per_part)
    jobs = {start: items[start : start + items_per_part] for start in starts}
    parts = dict(_in_parallel(make, jobs, num_processes))
    ordered = [parts[start] for start in starts]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}


def cached_arrays(
    cache: Path,
    items: Sequence[Any],
    make: Make,
    *,
    is_sound: Callable[[Arrays], bool],
    items_per_part: int,
    num_processes: int | None = None,
) -> Arrays:
    """Return the arrays of all items from a cache, which is built if it is missing or damaged.

    Concurrent processes that need the same cache wait for the first one to build it.

    Args:
        cache: Folder of the cache. Its name has to identify the items and what `make` does.
        items: The items, at least one. A `range` serves for what is generated from numbers.
        make: Returns the arrays of consecutive items by name. Those of all items are concatenated
            along the first axis; of arrays with different numbers of columns, only the first
            columns that all have are kept.
        is_sound: Returns True if arrays that were read have the expected names, types and shapes.
        items_per_part: Number of items that are passed to `make` at a time.
        num_processes: Number of processes that run `make`; one per processor by default.

    Returns:
        The arrays by name, memory-mapped.

    Raises:
        OSError: If the cache cannot be written; no partial cache remains.
    """
    arrays = _open(cache, is_sound)
    if arrays is None:
        with locked(cache.parent):
            # Another process may have built it in the meantime.
            arrays = _open(cache, is_sound)
            if arrays is None:
                shutil.rmtree(cache, ignore_errors=True)
                _build(cache, items, make, items_per_part, num_processes)
                arrays = _open(cache, is_sound)
    if arrays is None:
        raise OSError(f"{cache}: expected the cache that was just written, got other content")
    return arrays


def _open(cache: Path, is_sound: Callable[[Arrays], bool]) -> Arrays | None:
    """Memory-map the arrays of a cache; return None if it is missing or damaged."""
    if not cache.exists():
        return None
    # Left by a process that was killed before it removed the parts of the finished cache.
    parts = _parts_folder(cache)
    if parts.exists():
        shutil.rmtree(parts, ignore_errors=True)
    try:
        arrays = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
            for path in sorted(cache.glob("*.npy"))
        }
    except (EOFError, FileNotFoundError, ValueError) as error:
        _LOGGER.warning("Rebuilding the damaged cache %s: %s", cache, error)
        return None
    if not is_sound(arrays):
        _LOGGER.warning("Rebuilding the damaged cache %s: wrong type or shape", cache)
        return None
    return arrays


def _parts_folder(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.parts")


def _build(
    cache: Path, items: Sequence[Any], make: Make, items_per_part: int, num_processes: int | None
) -> None:
    folder = _parts_folder(cache)
    folder.mkdir(exist_ok=True)
    parts = {
        folder / f"{start:07d}-{items_per_part}.npz": items[start : start + items_per_part]
        for start in range(0, len(items), items_per_part)
    }
    missing = {path: (path, part) for path, part in parts.items() if not path.exists()}
    done = len(items) - sum(len(part) for _, part in missing.values())
    with tqdm(total=len(items), initial=done, desc=f"building {cache.name}", disable=None) as bar:
        for path, _ in _in_parallel(partial(_write_part, make), missing, num_processes):
            bar.update(len(parts[path]))
    finished = folder / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    _join(list(parts), finished)
    os.replace(finished, cache)
    # Another process may be removing them too.
    shutil.rmtree(folder, ignore_errors=True)


def _write_part(make: Make, job: tuple[Path, Sequence[Any]]) -> None:
    path, items = job
    arrays: dict[str, Any] = make(items)
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def _join(parts: Sequence[Path], folder: Path) -> None:
    """Concatenate the arrays of the parts on disk, with one part in memory at a time."""
    layouts: dict[str, list[tuple[tuple[int, ...], np.dtype]]] = {}
    for path in parts:
        with np.load(path, allow_pickle=False) as part:
            for name, array in part.items():
                layouts.setdefault(name, []).append((array.shape, array.dtype))
    for name, layout in layouts.items():
        shapes = [shape for shape, _ in layout]
        columns = tuple(map(min, zip(*(shape[1:] for shape in shapes), strict=True)))
        dtype = np.result_type(*(dtype for _, dtype in layout)).newbyteorder("<")
        cut = (slice(None), *map(slice, columns))
        with atomic_write(folder / f"{name}.npy") as file:
            shape = (sum(rows for rows, *_ in shapes), *columns)
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for path in parts:
                with np.load(path, allow_pickle=False) as part:
                    rows = np.ascontiguousarray(part[name][cut], dtype=dtype)
                file.write(rows.data)


def _in_parallel(
    function: Callable[[Job], Result], jobs: Mapping[Key, Job], num_processes: int | None
) -> Iterator[tuple[Key, Result]]:
    """Yield the result of every job with its key, in the order in which they are finished."""
    processes = min(num_processes or _num_processors(), len(jobs))
    if processes <= 1:
        yield from ((key, function(job)) for key, job in jobs.items())
        return
    # The default start method of the platform, as in PyTorch's loaders. A fork is safe, because
    # nothing that runs in the workers uses threads.
    context = multiprocessing.get_context()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        futures = {pool.submit(function, job): key for key, job in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
