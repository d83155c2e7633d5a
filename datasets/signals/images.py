"""Base class of data modules of images, and checks of arrays of labelled images."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .dataset import SignalDataModule

__all__ = ["ImageDataModule", "check_images", "check_labels"]


class ImageDataModule(SignalDataModule):
    """Images, which transforms may flatten to sequences of pixels.

    Subclasses have an attribute `form`, the form of the input of a network.
    """

    form: str

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of an image, or length of a sequence."""
        image = super().size
        return (math.prod(image),) if self._is_sequence else image

    @property
    def dim(self) -> int:
        """Number of dimensions: 2 for images and clouds, 1 for sequences."""
        return 1 if self._is_sequence else super().dim

    @property
    def _is_sequence(self) -> bool:
        return self.form in ("sequential", "permuted")


def check_images(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    names: tuple[str, str],
    shape: tuple[int | str, ...],
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return images of unsigned bytes and their labels, int64, after a check of both.

    Args:
        path: The file, for error messages.
        arrays: Arrays by name.
        names: Names of the images and of the labels.
        shape: Expected shape of the images. Axes with names instead of numbers have any size.
        num_classes: Number of classes.

    Raises:
        ValueError: If they do not have the expected shape, type or range.
    """
    x, y = (arrays[name] for name in names)
    fits = len(shape) == x.ndim and all(
        isinstance(expected, str) or expected == actual
        for expected, actual in zip(shape, x.shape, strict=True)
    )
    if not fits or x.dtype != np.uint8 or x.size == 0:
        raise ValueError(
            f"{path}: expected images `{names[0]}` of shape [{', '.join(map(str, shape))}], "
            f"uint8, got {x.dtype} of shape {list(x.shape)}"
        )
    return x, check_labels(path, y, names[1], len(x), num_classes)


def check_labels(
    path: Path, labels: np.ndarray, name: str, count: int, num_classes: int, *, first: int = 0
) -> np.ndarray:
    """Return class indices, int64, after a check.

    Args:
        path: The file, for error messages.
        labels: The labels.
        name: Their name, for error messages.
        count: Expected number.
        num_classes: Number of classes.
        first: Label of the first class.

    Raises:
        ValueError: If they are not as many whole numbers from the first to the last class.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers `{name}` of shape [{count}], got {labels.dtype} of "
            f"shape {list(labels.shape)}"
        )
    last = first + num_classes - 1
    if count and not first <= labels.min() <= labels.max() <= last:
        raise ValueError(
            f"{path}: expected labels `{name}` from {first} to {last}, got {labels.min()} to "
            f"{labels.max()}"
        )
    return labels.astype(np.int64) - first
