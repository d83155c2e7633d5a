"""Handwritten digits: MNIST, and smaller digits that come with the package.

The latter are 1,797 digits of 8 x 8 pixels from *Optical Recognition of Handwritten Digits*
(E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), as scikit-learn distributes
them; see `digits/README.md` beside this module.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.files import locked
from ccnn_geo.transforms.grids import (
    FlattenGrid,
    GridToPoints,
    MaskEmptyCells,
    NormalizeChannels,
    RandomShift,
)

from ..datamodule import check_choice
from ..epochs import Split
from ..io.download import download
from ..io.npz import read_npz
from .dataset import Signals
from .images import ImageDataModule, check_images

__all__ = ["MNISTDataModule", "read_digits", "read_idx", "read_mnist"]

DigitsName = Literal["digits", "mnist"]
DigitsForm = Literal["image", "masked", "cloud", "sequential", "permuted"]

_CLASSES = [str(digit) for digit in range(10)]
_EMBEDDED = Path(__file__).parent / "digits" / "digits.npz"
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)
_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_UNSIGNED_BYTES = 8


class MNISTDataModule(ImageDataModule):
    """Handwritten digits as images, as clouds of nonzero pixels, or as sequences of pixels.

    Brightness is from 0 to 1 unless it is normalized. See `SignalDataModule` for batches and
    attributes. The forms of a digit of H x W pixels are

    - `image`: `x [1, H, W]`;
    - `masked`: an image and a `mask [H, W]` of the nonzero pixels, the others being empty cells;
    - `cloud`: the nonzero pixels as points, with brightness `x [N, 1]` and row and column
      `pos [N, 2]`; a network for `masked` gives the same output;
    - `sequential`: the pixels row by row, `x [1, H * W]` (sMNIST);
    - `permuted`: the pixels in a random order that all digits share (pMNIST).

    Args:
        name: `mnist`, or `digits`, which are 8 x 8 pixels and need no file.
        root: For `mnist`, the folder of the four official files, compressed or not, which are
            downloaded to it if necessary; or an `.npz` file of `train_x [M, H, W]` and `test_x`,
            uint8, and `train_y [M]` and `test_y`. By default the folder `data/mnist`.
        form: Form of the input of a network.
        batch_size: Number of digits per batch and process.
        permutation_seed: Seed of the order of `permuted` pixels.
        max_shift: Largest random shift of training digits along each axis, in pixels.
        normalize: If True, MNIST's mean 0.1307 is subtracted from the brightness, which is then
            divided by its deviation 0.3081. Not for `masked` and `cloud`, whose zeros are empty.
        download: If True, the official files are downloaded if they are missing.
        loading: Workers, seeds, validation split and size of the training split, see
            `SignalDataModule`.

    Raises:
        ValueError: If an argument is out of range or a file is broken; the message names it.
        OSError: If the files are missing and cannot be downloaded; the message describes the manual
            download.
    """

    def __init__(
        self,
        name: DigitsName = "mnist",
        root: Path | None = None,
        *,
        form: DigitsForm = "image",
        batch_size: int = 100,
        permutation_seed: int = 0,
        max_shift: int = 0,
        normalize: bool = False,
        download: bool = True,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(DigitsName))
        check_choice("form", form, get_args(DigitsForm))
        if max_shift < 0:
            raise ValueError(f"Expected `max_shift` >= 0, got {max_shift}")
        if normalize and form in ("masked", "cloud"):
            raise ValueError(f"Expected `normalize` to be False for `form` {form!r}, got True")
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            **loading,
        )
        self.name = name
        self.form: DigitsForm = form
        self.permutation_seed = permutation_seed
        self.max_shift = max_shift
        self.normalize = normalize
        self.download = download

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the digits; download them if necessary."""
        if self.name == "digits":
            return *read_digits(), _CLASSES
        return *read_mnist(self.root, fetch=self.download), _CLASSES

    def transform(self, split: Split) -> BaseTransform:
        """Return the transform from an image to the form, with random shifts for training."""
        steps: list[BaseTransform] = []
        if split == "train" and self.max_shift:
            steps.append(RandomShift(self.max_shift))
        if self.normalize:
            steps.append(NormalizeChannels([0.1307], [0.3081]))
        forms: dict[DigitsForm, list[BaseTransform]] = {
            "image": [],
            "masked": [MaskEmptyCells()],
            "cloud": [GridToPoints()],
            "sequential": [FlattenGrid()],
            "permuted": [FlattenGrid(self.permutation_seed)],
        }
        return Compose([*steps, *forms[self.form]])


def read_digits() -> tuple[Signals, Signals]:
    """Return the digits of the package: 1,437 for training and 360 for testing, `[M, 1, 8, 8]`."""
    arrays = read_npz(_EMBEDDED, _ARRAYS)
    return _signals(_EMBEDDED, arrays, "train", 16), _signals(_EMBEDDED, arrays, "test", 16)


def read_mnist(root: Path, *, fetch: bool = True) -> tuple[Signals, Signals]:
    """Read the training and the test split of MNIST, `[M, 1, H, W]`.

    Args:
        root: Folder of the official files, or an `.npz` file, see `MNISTDataModule`.
        fetch: If True, missing files are downloaded to the folder.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If a file is missing and cannot be downloaded.
    """
    if root.suffix == ".npz":
        arrays = read_npz(root, _ARRAYS)
    else:
        arrays = {}
        for split, names in _FILES.items():
            paths = [_find(root, name, fetch) for name in names]
            arrays[f"{split}_x"], arrays[f"{split}_y"] = map(read_idx, paths)
    return _signals(root, arrays, "train", 255), _signals(root, arrays, "test", 255)


def read_idx(path: Path) -> np.ndarray:
    """Read an array of unsigned bytes from a file in MNIST's idx format, compressed or not.

    Raises:
        ValueError: If the file is broken, cut short or not of this format.
        OSError: If it cannot be read.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: expected a valid gzip file ({error}); delete it and download it again"
            ) from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTES]):
        raise ValueError(
            f"{path}: expected an idx file of unsigned bytes, which begins with 00 00 08, got "
            f"{content[:3].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: expected {start} bytes of header, got {len(content)} in all")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path}: expected {math.prod(shape)} bytes for shape {list(shape)}, got "
            f"{len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(root: Path, name: str, fetch: bool) -> Path:
    """Return one of the official files, compressed or not; download it if it is missing."""
    path = root / name
    for there in (path, path.with_suffix("")):
        if there.is_file():
            return there
    if not fetch:
        raise FileNotFoundError(
            f"Expected {name} in {root} (from {_MIRRORS[0]}/{name}), got no such file"
        )
    with locked(root / ".ccnn_geo"):
        return download([f"{url}/{name}" for url in _MIRRORS], path, sha256=_SHA256[name])


def _signals(path: Path, arrays: dict[str, np.ndarray], split: str, brightest: int) -> Signals:
    x, y = check_images(path, arrays, (f"{split}_x", f"{split}_y"), ("M", "H", "W"), 10)
    return Signals(x[:, None], y, scale=1 / brightest)
