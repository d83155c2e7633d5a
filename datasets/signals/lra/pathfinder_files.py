"""Files of Pathfinder: images with lists of their labels, and arrays."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ccnn_geo.extras import import_extra

from ...cache import Arrays, cached_arrays, file_stamp, fingerprint, has_layout
from ...io.npz import read_npz
from ...io.readers import visible_files
from ...splits import stratified_holdout
from ..dataset import Signals
from ..images import check_images

__all__ = ["read_pathfinder_arrays", "read_pathfinder_folder"]

_IMAGES_PER_PART = 1000
# Incremented whenever the same files give other arrays.
_VERSION = 1
_LABELS = {"0": 0, "1": 1}
# An empty file of the official archive.
_KNOWN_EMPTY = PurePosixPath("curv_baseline/imgs/0/sample_172.png")
_TENTH = 0.1
_NINTH = 1 / 9


@dataclass(frozen=True)
class _Entry:
    """A line of a list: an image, its label, and where the line is."""

    path: Path
    label: int
    line: str


def read_pathfinder_folder(
    folder: Path, resolution: int, *, cache_dir: Path, num_processes: int | None = None
) -> tuple[Signals, np.ndarray, Signals]:
    """Read the images of a folder, 80 % for training and 10 % each for validation and testing.

    Args:
        folder: A folder such as `curv_contour_length_14`, with lists `metadata/*.npy`, which are
            text. A line has the folder of an image, its name, its number, its label, 0 or 1, and
            more.
        resolution: Pixels along each side, R.
        cache_dir: Folder of the cache of the pixels.
        num_processes: Number of processes that read images; one per processor by default.

    Returns:
        The images for training and validation, `[M, 1, R, R]`, True for those for validation,
        `[M]`, and the images for testing.

    Raises:
        ValueError: If a list or an image is broken; the message names it.
        OSError: If an image is missing, or the cache cannot be written.
        ImportError: If Pillow is not installed.
    """
    lists = visible_files(folder / "metadata", {".npy"})
    entries = [entry for path in lists for entry in _read_list(folder, path)]
    if not entries:
        raise ValueError(f"{folder / 'metadata'}: expected .npy files with lines of text, got none")
    labels = np.array([entry.label for entry in entries])
    rest, test = stratified_holdout(labels, _TENTH, seed=0)
    train, val = (rest[each] for each in stratified_holdout(labels[rest], _NINTH, seed=0))
    # In this order, all splits are consecutive in the cache.
    ordered = [entries[index] for index in (*val, *train, *test)]
    stamps = [[path.name, file_stamp(path)] for path in lists]
    parameters = [_VERSION, resolution, str(folder.absolute()), stamps]
    shape = (len(ordered), resolution, resolution)
    arrays = cached_arrays(
        cache_dir / f"{folder.name}-{fingerprint(parameters)}",
        ordered,
        partial(_read_images, resolution=resolution),
        is_sound=partial(has_layout, layout={"images": (shape, np.uint8)}),
        items_per_part=_IMAGES_PER_PART,
        num_processes=num_processes,
    )
    signals = Signals(
        arrays["images"][:, None], np.array([entry.label for entry in ordered]), scale=1 / 255
    )
    count = len(val) + len(train)
    whole, numbers = signals.select(np.arange(count)), np.arange(count, len(signals))
    return whole, np.arange(count) < len(val), signals.select(numbers)


def read_pathfinder_arrays(path: Path, resolution: int) -> tuple[Signals, Signals]:
    """Read images of an `.npz` file.

    Args:
        path: A file of `train_x [M, R, R]` and `test_x`, uint8, and `train_y [M]` and `test_y`.
        resolution: Pixels along each side, R.

    Returns:
        The training and the test images, `[M, 1, R, R]`.

    Raises:
        ValueError: If the file is broken; the message names it.
        OSError: If it cannot be read.
    """
    arrays = read_npz(path, ["train_x", "train_y", "test_x", "test_y"])
    train, test = (_from_arrays(path, arrays, split, resolution) for split in ("train", "test"))
    return train, test


def _from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], split: str, resolution: int
) -> Signals:
    names = (f"{split}_x", f"{split}_y")
    x, y = check_images(path, arrays, names, ("M", resolution, resolution), len(_LABELS))
    return Signals(x[:, None], y, scale=1 / 255)


def _read_list(folder: Path, path: Path) -> list[_Entry]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except ValueError as error:
        raise ValueError(f"{path}: expected lines of text, got other content") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) < 4 or fields[3] not in _LABELS:
            raise ValueError(
                f"{path}, line {number}: expected a folder, a file, a number and a label 0 or 1, "
                f"got {line[:80]!r}"
            )
        name = PurePosixPath(fields[0], fields[1])
        if name.is_absolute() or ".." in name.parts or re.search(r"[\\:]", str(name)):
            raise ValueError(f"{path}, line {number}: expected a file in {folder}, got {name}")
        image = folder / name
        known = PurePosixPath(folder.name) / name == _KNOWN_EMPTY
        if not (known and image.is_file() and image.stat().st_size == 0):
            entries.append(_Entry(image, _LABELS[fields[3]], f"{path}, line {number}"))
    return entries


def _read_images(entries: Sequence[_Entry], resolution: int) -> Arrays:
    """Return the pixels of images as one array."""
    pillow = import_extra("PIL.Image", "to read images", extra="train")
    images = np.empty((len(entries), resolution, resolution), np.uint8)
    for pixels, entry in zip(images, entries, strict=True):
        if not entry.path.is_file():
            raise FileNotFoundError(f"{entry.line}: expected the image {entry.path}, got none")
        try:
            with pillow.open(entry.path, formats=["PNG"]) as image:
                size = image.size
                if size == pixels.shape:
                    pixels[:] = image.convert("L")
        except Exception as error:  # broken files lead to exceptions of any type
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{entry.path}: expected a valid PNG file ({reason})") from error
        if size != pixels.shape:
            raise ValueError(
                f"{entry.path}: expected an image of {resolution} x {resolution} pixels, got "
                f"{size[0]} x {size[1]}"
            )
    return {"images": images}
