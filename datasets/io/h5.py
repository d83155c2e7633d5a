"""Reader of HDF5 files of clouds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccnn_geo.extras import import_extra

from .tables import require_regular

__all__ = ["read_h5_clouds"]


def read_h5_clouds(
    path: Path, num_classes: int, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read clouds of equally many points and their labels.

    Args:
        path: The file, with the data sets `data [M, N, 3]` and `label [M]` or `[M, 1]`.
        num_classes: Number of classes.
        optional: Names of further data sets `[M, N, 3]`, which may be missing.

    Returns:
        `data` and the optional data sets that exist, float32, and `label [M]`, int64.

    Raises:
        ValueError: If the file is no HDF5 file, lacks a data set, or one has another shape or type,
            or labels out of range; the message names both.
        ImportError: If h5py is not installed.
        OSError: If the file does not exist.
    """
    h5py = import_extra("h5py", f"to read {path}", extra="h5")
    require_regular(path)
    try:
        with h5py.File(path, "r") as file:
            there = sorted(name for name, each in file.items() if isinstance(each, h5py.Dataset))
            missing = [name for name in ("data", "label") if name not in there]
            if missing:
                raise ValueError(f"no data set {', '.join(missing)}, but {', '.join(there)}")
            names = ["data", *(name for name in optional if name in there)]
            clouds = {name: _cloud(name, file[name]) for name in names}
            label = np.asarray(file["label"])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected an HDF5 file of clouds ({error})") from error
    count, points = clouds["data"].shape[:2]
    for name, values in clouds.items():
        if values.shape[:2] != (count, points):
            raise ValueError(
                f"{path}: expected `{name}` of shape [{count}, {points}, 3], as `data`, got "
                f"{list(values.shape)}"
            )
    if label.shape not in ((count,), (count, 1)) or label.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers `label` of shape [{count}], got {label.dtype} of "
            f"shape {list(label.shape)}"
        )
    labels = label.reshape(-1).astype(np.int64)
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"{path}: expected labels of {num_classes} classes, got {labels.min()} to "
            f"{labels.max()}"
        )
    return {**clouds, "label": labels}


def _cloud(name: str, dataset: object) -> np.ndarray:
    """Read a data set of points, whose shape is checked before it is read."""
    shape, kind = dataset.shape, dataset.dtype.kind  # type: ignore[attr-defined]
    if len(shape) != 3 or shape[2] != 3 or kind not in "fiu":
        raise ValueError(f"`{name}` has {kind!r} of shape {list(shape)} instead of [M, N, 3]")
    return np.asarray(dataset, dtype=np.float32)
