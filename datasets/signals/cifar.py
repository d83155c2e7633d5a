"""CIFAR-10 and CIFAR-100: small colour images of 10 or 100 classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.grids import FlattenGrid, NormalizeChannels, RandomFlip, RandomShift

from ..datamodule import check_choice
from ..epochs import Split
from ..io.npz import read_npz
from ..io.pickles import read_pickle
from ..io.releases import Release, find_release
from .dataset import Signals
from .images import ImageDataModule, check_images, check_labels

__all__ = ["GRAY_STATISTICS", "CIFARDataModule", "read_cifar", "read_cifar_file", "to_gray"]

CIFARName = Literal["cifar10", "cifar100"]
CIFARForm = Literal["image", "sequential"]

_HOST = "https://www.cs.toronto.edu/~kriz"
_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def _release(archive: str, folder: str, content: list[str], md5: str) -> Release:
    return Release(archive, (f"{_HOST}/{archive}",), (folder,), tuple(content), md5=md5)


# Each as binary files and as pickles.
_RELEASES: dict[CIFARName, list[Release]] = {
    "cifar10": [
        _release(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            [f"{batch}.bin" for batch in _BATCHES],
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
        _release(
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            _BATCHES,
            "c58f30108f718f92721af3b95e74349a",
        ),
    ],
    "cifar100": [
        _release(
            "cifar-100-binary.tar.gz",
            "cifar-100-binary",
            ["train.bin", "test.bin"],
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
        _release(
            "cifar-100-python.tar.gz",
            "cifar-100-python",
            ["train", "test"],
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ],
}
_TITLES: dict[CIFARName, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_PIXELS = (3, 32, 32)
_CLASSES: dict[CIFARName, str] = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
        mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
        plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """,
}
# Means and deviations of the brightness of the training images, as published.
_STATISTICS: dict[CIFARName, tuple[Sequence[float], Sequence[float]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
GRAY_STATISTICS = ([122.6 / 255], [61 / 255])  # of the Long Range Arena
# Names of the labels in pickles; CIFAR-100 also has labels of 20 coarse classes.
_LABELS: dict[CIFARName, bytes] = {"cifar10": b"labels", "cifar100": b"fine_labels"}
# Bytes of a record before the pixels, of which the last one is the label.
_LABEL_BYTES: dict[CIFARName, int] = {"cifar10": 1, "cifar100": 2}


class CIFARDataModule(ImageDataModule):
    """CIFAR-10 or CIFAR-100, as images or as sequences of pixels.

    The forms are

    - `image`: `x [3, 32, 32]`;
    - `sequential`: the pixels row by row, `x [3, 1024]` (sCIFAR10).

    See `SignalDataModule` for batches and attributes, and `read_cifar` for the files. Of the
    official training images, 45,000 are for training and 5,000 for validation.

    Args:
        name: `cifar10` or `cifar100`.
        root: Folder of the data set, to which it is downloaded if necessary, or an `.npz` file. By
            default `data/cifar10` or `data/cifar100`.
        form: Form of the input of a network.
        gray: If True, images have one channel, the brightness, as in the Long Range Arena.
        augment: If True, training images are shifted by up to 4 pixels and mirrored at random. A
            shift is a crop of an image that is padded symmetrically.
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
        name: CIFARName = "cifar10",
        root: Path | None = None,
        *,
        form: CIFARForm = "image",
        gray: bool = False,
        augment: bool = False,
        normalize: bool = True,
        batch_size: int = 50,
        download: bool = True,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(CIFARName))
        check_choice("form", form, get_args(CIFARForm))
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            **loading,
        )
        self.name: CIFARName = name
        self.form: CIFARForm = form
        self.gray = gray
        self.augment = augment
        self.normalize = normalize
        self.download = download

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the images; download them if necessary."""
        train, test, classes = read_cifar(self.root, self.name, fetch=self.download)
        return (to_gray(train), to_gray(test), classes) if self.gray else (train, test, classes)

    def transform(self, split: Split) -> BaseTransform:
        """Return the transform from an image to the form, with augmentation for training."""
        steps: list[BaseTransform] = []
        if split == "train" and self.augment:
            steps += [RandomShift(4, padding="symmetric"), RandomFlip()]
        if self.normalize:
            statistics = GRAY_STATISTICS if self.gray else _STATISTICS[self.name]
            steps.append(NormalizeChannels(*statistics))
        if self.form == "sequential":
            steps.append(FlattenGrid())
        return Compose(steps)


def read_cifar(
    root: Path | str, name: CIFARName = "cifar10", *, fetch: bool = True
) -> tuple[Signals, Signals, list[str]]:
    """Read the official training and test images of CIFAR-10 or CIFAR-100.

    Args:
        root: An `.npz` file of `train_x [M, 32, 32, 3]` and `test_x`, uint8, and `train_y [M]` and
            `test_y`; or a folder, in which the first of these that exists is used:

            1. the official binary files, or their folder `cifar-10-batches-bin` or
               `cifar-100-binary`;
            2. the official pickles, or their folder `cifar-10-batches-py` or `cifar-100-python`,
               as torchvision extracts them; nothing in them is executed;
            3. the official archive of one of the two, which is extracted there;
            4. the archive of binary files from its official host, which is downloaded to `root`.
        name: `cifar10` or `cifar100`, whose labels are the 100 fine classes.
        fetch: If True, the archive is downloaded if nothing is found.

    Returns:
        The training and the test images, uint8, `[M, 3, 32, 32]` with `scale` 1 / 255, and the
        names of the classes.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If the data set is missing and cannot be downloaded; the message describes the
            manual download.
    """
    root = Path(root)
    check_choice("name", name, get_args(CIFARName))
    classes = _CLASSES[name].split()
    if root.suffix == ".npz":
        arrays = read_npz(root, ["train_x", "train_y", "test_x", "test_y"])
        train, test = (_from_arrays(root, arrays, each, classes) for each in ("train", "test"))
        return train, test, classes
    release, folder = find_release(root, _TITLES[name], _RELEASES[name], fetch=fetch)
    parts = {file: read_cifar_file(folder / file, name) for file in release.content}
    test = parts.pop(release.content[-1])
    x = np.concatenate([part.x for part in parts.values()])
    y = np.concatenate([part.y for part in parts.values()])
    return Signals(x, y, scale=test.scale), test, classes


def read_cifar_file(path: Path, name: CIFARName) -> Signals:
    """Read one of the official files, `[M, 3, 32, 32]`, see `read_cifar`.

    Args:
        path: A binary file, whose suffix is `.bin`, or a pickle.
        name: `cifar10` or `cifar100`.

    Raises:
        ValueError: If the file is broken or of another data set; the message names it.
        OSError: If it cannot be read.
    """
    read = _read_binary if path.suffix == ".bin" else _read_pickle
    x, labels = read(path, name)
    y = check_labels(path, labels, "labels", len(x), len(_CLASSES[name].split()))
    return Signals(x, y, scale=1 / 255)


def to_gray(images: Signals) -> Signals:
    """Return the brightness of colour images, rounded as Pillow does.

    Args:
        images: Red, green and blue, uint8, `[M, 3, H, W]`.

    Returns:
        Images, uint8, `[M, 1, H, W]`.
    """
    # The weights of ITU-R 601-2, 0.299, 0.587 and 0.114, times 2 ** 16; the last is the rounding.
    red, green, blue, half = (np.uint32(weight) for weight in (19595, 38470, 7471, 1 << 15))
    x = images.x
    gray = x[:, :1] * red
    gray += x[:, 1:2] * green
    gray += x[:, 2:] * blue
    gray += half
    gray >>= np.uint32(16)
    return Signals(gray.astype(np.uint8), images.y, scale=images.scale)


def _from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], split: str, classes: Sequence[str]
) -> Signals:
    x, y = check_images(path, arrays, (f"{split}_x", f"{split}_y"), ("M", 32, 32, 3), len(classes))
    return Signals(np.ascontiguousarray(np.moveaxis(x, 3, 1)), y, scale=1 / 255)


def _read_binary(path: Path, name: CIFARName) -> tuple[np.ndarray, np.ndarray]:
    start = _LABEL_BYTES[name]
    record = start + np.prod(_PIXELS)
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % record:
        raise ValueError(
            f"{path}: expected records of {record:,} bytes as in {_TITLES[name]}, got "
            f"{content.size:,} bytes"
        )
    records = content.reshape(-1, record)
    return records[:, start:].reshape(-1, *_PIXELS), records[:, start - 1]


def _read_pickle(path: Path, name: CIFARName) -> tuple[np.ndarray, np.ndarray]:
    content = read_pickle(path)
    key = _LABELS[name]
    if not isinstance(content, dict) or not content.keys() >= {b"data", key}:
        raise ValueError(
            f"{path}: expected a dict of b'data' and {key!r} as in {_TITLES[name]}, got other data"
        )
    data, labels = content[b"data"], content[key]
    pixels = int(np.prod(_PIXELS))
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != pixels:
        shape = list(data.shape) if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: expected images b'data' of shape [M, {pixels}], got {shape}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: expected a list {key!r} of whole numbers")
    return data.reshape(-1, *_PIXELS), np.array(labels)
