"""Checks of arrays of different lengths that lie end to end in one array."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .images import check_labels

__all__ = ["check_offsets", "check_ragged"]


def check_ragged(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    names: tuple[str, str, str],
    dtype: type[np.number],
    num_classes: int,
    *,
    per_label: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values that lie end to end, where they begin, and labels, after a check of all.

    Args:
        path: The file, for error messages.
        arrays: Arrays by name.
        names: Names of the values, `[N]`, of the offsets, `[K * M + 1]`, and of the labels, `[M]`.
            Part i consists of `values[offsets[i]:offsets[i + 1]]`.
        dtype: Expected type of the values.
        num_classes: Number of classes.
        per_label: Number of parts that have a label together, K.

    Returns:
        The values, the offsets, int64, and the labels, int64.

    Raises:
        ValueError: If they do not have the expected shape, type or range.
    """
    values, offsets, label = (arrays[name] for name in names)
    if values.ndim != 1 or values.dtype != dtype:
        raise ValueError(
            f"{path}: expected {np.dtype(dtype)} `{names[0]}` of shape [N], got {values.dtype} of "
            f"shape {list(values.shape)}"
        )
    if label.ndim != 1 or len(label) == 0:
        raise ValueError(
            f"{path}: expected whole numbers `{names[2]}` of shape [M], got {label.dtype} of "
            f"shape {list(label.shape)}"
        )
    labels = check_labels(path, label, names[2], len(label), num_classes)
    count = per_label * len(labels)
    return values, check_offsets(path, names[1], offsets, count, len(values)), labels


def check_offsets(path: Path, name: str, offsets: np.ndarray, count: int, total: int) -> np.ndarray:
    """Return the bounds of parts that lie end to end, none of them empty, as int64.

    Args:
        path: The file, for error messages.
        name: Name of the offsets.
        offsets: The offsets, `[count + 1]`.
        count: Number of parts.
        total: Length of all parts together.

    Raises:
        ValueError: If they are not whole numbers that rise from 0 to `total`.
    """
    if offsets.shape != (count + 1,) or offsets.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers `{name}` of shape [{count + 1}], for {count} parts, "
            f"got {offsets.dtype} of shape {list(offsets.shape)}"
        )
    bounds = offsets.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != total or (np.diff(bounds) < 1).any():
        raise ValueError(f"{path}: expected `{name}` that rise from 0 to {total}, the whole length")
    return bounds
