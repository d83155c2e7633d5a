"""Data set of point clouds in one `.npz` file."""

from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from ..cache import file_stamp
from ..io.npz import read_npz
from ..io.readers import Geometry
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions

__all__ = ["PointCloudArrays", "list_arrays"]

_SPLITS = ("train", "test")
_REQUIRED = [f"{split}_{name}" for split in _SPLITS for name in ("pos", "y")]
_OPTIONAL = ["classes", *(f"{split}_normal" for split in _SPLITS)]


class PointCloudArrays(SampledDataset):
    """Point clouds of one size as arrays in one `.npz` file, which is never unpickled.

    Args:
        path: The file. It holds `train_pos` and `test_pos`, numbers of shape `[M, N, 3]`, and
            `train_y` and `test_y`, integers of shape `[M]`; optionally also `train_normal` and
            `test_normal`, `[M, N, 3]`, and the names of the `classes`, `[C]`.
        **options: See `SampledDataset`.

    Raises:
        ValueError: If the file is not an `.npz` file, or if an array is missing, pickled, or of
            the wrong type or shape; the message names it.
        OSError: If the file does not exist.
    """

    def __init__(self, path: Path | str, **options: Unpack[SamplingOptions]) -> None:
        super().__init__(list_arrays(Path(path)), **options)


def list_arrays(path: Path) -> Listing:
    """Read the arrays of `PointCloudArrays` and list their clouds."""
    arrays = _load(path)
    labels = {split: arrays[f"{split}_y"] for split in _SPLITS}
    highest = max((int(y.max()) for y in labels.values() if len(y)), default=-1)
    lowest = min((int(y.min()) for y in labels.values() if len(y)), default=0)
    names = arrays.get("classes", np.arange(highest + 1))
    if names.ndim != 1 or lowest < 0 or highest >= len(names):
        raise ValueError(
            f"{path}: expected labels of the {names.size} `classes`, got {lowest} to {highest}"
        )
    stamp = file_stamp(path)
    items = {
        split: [
            Item(f"{split}_pos[{row}]", int(label), partial(_row, arrays, split, row), stamp)
            for row, label in enumerate(labels[split])
        ]
        for split in labels
    }
    classes = [str(name) for name in names]
    return Listing(path.stem, path, classes, items["train"], items["test"], in_memory=True)


def _row(arrays: dict[str, np.ndarray], split: str, row: int) -> Geometry:
    normals = arrays.get(f"{split}_normal")
    return Geometry(arrays[f"{split}_pos"][row], normals=None if normals is None else normals[row])


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read and check the arrays."""
    arrays = read_npz(path, _REQUIRED, _OPTIONAL)
    for split in _SPLITS:
        _check(path, arrays, split)
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray], split: str) -> None:
    pos, y = arrays[f"{split}_pos"], arrays[f"{split}_y"]
    normal = arrays.get(f"{split}_normal", pos)
    if pos.ndim != 3 or pos.shape[2] != 3 or pos.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers `{split}_pos` of shape [M, N, 3], "
            f"got {pos.dtype} of shape {list(pos.shape)}"
        )
    if y.shape != pos.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers `{split}_y` of shape [{len(pos)}], "
            f"got {y.dtype} of shape {list(y.shape)}"
        )
    if normal.shape != pos.shape or normal.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers `{split}_normal` of shape {list(pos.shape)}, "
            f"got {normal.dtype} of shape {list(normal.shape)}"
        )
