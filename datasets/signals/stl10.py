"""STL-10: colour images of 10 classes, of 96 x 96 pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.base import check_count
from ccnn_geo.transforms.grids import (
    NormalizeChannels,
    RandomCrop,
    RandomFlip,
    RandomRotateImage,
    ResizeImage,
)

from ..datamodule import check_choice
from ..epochs import Split
from ..io.npz import read_npz
from ..io.releases import Release, find_release
from ..splits import stratified_holdout
from .dataset import SignalDataModule, Signals
from .images import check_images, check_labels

__all__ = ["STL10DataModule", "read_stl10", "read_stl10_images"]

STL10Name = Literal["stl10"]

_SIZE = 96
_CLASSES = "airplane bird car cat deer dog horse monkey ship truck".split()
_RELEASE = Release(
    "stl10_binary.tar.gz",
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    ("stl10_binary",),
    ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
    md5="91f7769df0f17e558f3565bffb0c7dfb",
    unused=("unlabeled_X.bin",),
)
# Means and deviations of the brightness of the training images, as published.
_MEAN = [0.44671, 0.43981, 0.40665]
_DEVIATION = [0.26034, 0.25658, 0.27127]
# Fraction of the images of an .npz file that is the test split.
_TEST_FRACTION = 0.2


class STL10DataModule(SignalDataModule):
    """STL-10, as images `x [3, size, size]`.

    See `SignalDataModule` for batches and attributes, and `read_stl10` for the files. Of the
    official training images, 4,500 are for training and 500 for validation. Images are kept in
    memory as bytes and converted one by one.

    Args:
        name: `stl10`.
        root: Folder of the data set, to which it is downloaded if necessary, or an `.npz` file. By
            default `data/stl10`.
        size: Height and width to which images are resized, bilinearly. The published results are
            of 256 pixels in the authors' code, of 96 in the paper.
        augment: If True, training images are rotated by up to 15 degrees, cropped and mirrored at
            random. Crops are of images that are resized to 17 / 16 of `size`.
        normalize: If True, the published mean and deviation of each channel are subtracted and
            divided by; otherwise, brightness is from 0 to 1.
        batch_size: Number of images per batch and process.
        download: If True, the official archive is downloaded if it is missing.
        loading: Workers, seeds, validation split and size of the training split, see
            `SignalDataModule`.

    Raises:
        ValueError: If an argument is out of range or a file is broken; the message names it.
        OSError: If the files are missing and cannot be downloaded; the message describes the manual
            download.
    """

    def __init__(
        self,
        name: STL10Name = "stl10",
        root: Path | None = None,
        *,
        size: int = _SIZE,
        augment: bool = False,
        normalize: bool = True,
        batch_size: int = 64,
        download: bool = True,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(STL10Name))
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            **loading,
        )
        self.name = name
        self.image_size = check_count("size", size)
        self.augment = augment
        self.normalize = normalize
        self.download = download

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the images; download them if necessary."""
        return read_stl10(self.root, fetch=self.download)

    def transform(self, split: Split) -> BaseTransform:
        """Return the transform that resizes images, with augmentation for training."""
        size = self.image_size
        steps: list[BaseTransform] = [ResizeImage(size)]
        if split == "train" and self.augment:
            larger = ResizeImage(round(size * 17 / 16))
            steps = [larger, RandomRotateImage(15), RandomCrop(size), RandomFlip()]
        if self.normalize:
            steps.append(NormalizeChannels(_MEAN, _DEVIATION))
        return Compose(steps)

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of an image."""
        return (self.image_size, self.image_size)


def read_stl10(root: Path | str, *, fetch: bool = True) -> tuple[Signals, Signals, list[str]]:
    """Read the labelled training and test images of STL-10.

    Args:
        root: An `.npz` file of images `x [M, 96, 96, 3]`, uint8, their classes `y [M]` and, if they
            are not the official ones, the names of the classes, `groups`, of which a stratified
            fifth is the test split; or a folder, in which the first of these that exists is used:

            1. the official files `train_X.bin`, `train_y.bin`, `test_X.bin` and `test_y.bin`, or
               their folder `stl10_binary`;
            2. the official archive, which is extracted there, without the unlabelled images;
            3. the same archive from its official host, which is downloaded to `root`.
        fetch: If True, the archive is downloaded if nothing is found.

    Returns:
        The training and the test images, uint8, `[M, 3, 96, 96]` with `scale` 1 / 255, and the
        names of the classes.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If the data set is missing and cannot be downloaded; the message describes the
            manual download.
    """
    root = Path(root)
    if root.suffix == ".npz":
        return _read_arrays(root)
    _, folder = find_release(root, "STL-10", [_RELEASE], fetch=fetch)
    train, test = (_read_split(folder, split) for split in ("train", "test"))
    return train, test, _CLASSES


def read_stl10_images(path: Path) -> np.ndarray:
    """Read one of the official files of images, labelled or not.

    Returns:
        The images, uint8, `[M, 3, 96, 96]`.

    Raises:
        ValueError: If the file is empty or cut short; the message names it.
        OSError: If it cannot be read.
    """
    content = np.fromfile(path, np.uint8)
    pixels = 3 * _SIZE * _SIZE
    if content.size == 0 or content.size % pixels:
        raise ValueError(
            f"{path}: expected images of {pixels:,} bytes as in STL-10, got {content.size:,} bytes"
        )
    return content.reshape(-1, 3, _SIZE, _SIZE).swapaxes(2, 3)  # stored column by column


def _read_split(folder: Path, split: str) -> Signals:
    x = read_stl10_images(folder / f"{split}_X.bin")
    path = folder / f"{split}_y.bin"
    labels = np.fromfile(path, np.uint8)
    y = check_labels(path, labels, "labels", len(x), len(_CLASSES), first=1)
    return Signals(x, y, scale=1 / 255)


def _read_arrays(path: Path) -> tuple[Signals, Signals, list[str]]:
    arrays = read_npz(path, ["x", "y"], ["groups"])
    classes = list(map(str, arrays.get("groups", _CLASSES)))
    x, y = check_images(path, arrays, ("x", "y"), ("M", _SIZE, _SIZE, 3), len(classes))
    images = Signals(np.moveaxis(x, 3, 1), y, scale=1 / 255)
    train, test = stratified_holdout(y, _TEST_FRACTION, seed=0)
    return images.select(train), images.select(test), classes
