"""Data set and LightningDataModule of signals on grids: sequences, images or volumes of one size.

A new data set is a subclass of `SignalDataModule` that implements `read`, which returns arrays, and
optionally `transform`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ..datamodule import ClassificationDataModule
from ..dataset import ClassificationDataset, Transform
from ..epochs import Split
from ..splits import stratified_split

__all__ = ["SignalDataModule", "SignalDataset", "Signals"]


@dataclass(frozen=True, eq=False)
class Signals:
    """Labelled signals on grids of one size, in the type in which they are stored.

    Attributes:
        x: Signals, `[M, C, *S]`, of any type of numbers.
        y: Class indices, `[M]`.
        length: Lengths of padded sequences, `[M]`, or None.
        scale: Factor by which samples are multiplied after the conversion to float32.
    """

    x: np.ndarray
    y: np.ndarray
    length: np.ndarray | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check types and shapes."""
        if self.x.ndim < 3 or self.x.dtype.kind not in "fiu":
            raise ValueError(
                f"Expected numbers `x` of shape [M, C, *S], got {self.x.dtype} of shape "
                f"{list(self.x.shape)}"
            )
        for name, numbers in (("y", self.y), ("length", self.length)):
            if numbers is not None and (
                numbers.shape != self.x.shape[:1] or numbers.dtype.kind not in "iu"
            ):
                raise ValueError(
                    f"Expected whole numbers `{name}` of shape [{len(self.x)}], got "
                    f"{numbers.dtype} of shape {list(numbers.shape)}"
                )

    def __len__(self) -> int:
        """Return the number of signals."""
        return len(self.x)

    def select(self, indices: np.ndarray) -> "Signals":
        """Return the signals at the given indices."""
        length = None if self.length is None else self.length[indices]
        return Signals(self.x[indices], self.y[indices], length, self.scale)

    def sample(self, index: int) -> Data:
        """Return one signal, `x [1, C, *S]` and `y [1]`, for padded sequences with `length [1]`."""
        x = torch.from_numpy(self.x[index : index + 1].astype(np.float32))
        data = Data(x=x.mul_(self.scale), y=_number(self.y[index]))
        if self.length is not None:
            data.length = _number(self.length[index])
        return data


def _number(value: np.integer) -> Tensor:
    return torch.tensor([int(value)])


class SignalDataset(ClassificationDataset):
    """Signals in memory, see `ClassificationDataset` for the randomness of transforms.

    Args:
        signals: The signals.
        classes: Names of the classes; a label is an index into them.
        train: If True, each access draws another random transform.
        seed: Seed of the transform.
        transform: Applied at each access.

    Shapes:
        - `dataset[index]` has `x` :math:`[1, C, *S]`, `y` :math:`[1]` and, if sequences are
          padded, `length` :math:`[1]`, before the transform is applied

    Raises:
        ValueError: If a label is out of range.
    """

    def __init__(
        self,
        signals: Signals,
        classes: Sequence[str],
        *,
        train: bool,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        if len(signals) and not 0 <= signals.y.min() <= signals.y.max() < len(classes):
            raise ValueError(
                f"Expected labels of the {len(classes)} classes, got {signals.y.min()} to "
                f"{signals.y.max()}"
            )
        super().__init__(classes, train=train, seed=seed, transform=transform)
        self.signals = signals

    def __len__(self) -> int:
        """Return the number of signals."""
        return len(self.signals)

    def _read(self, index: int) -> Data:
        return self.signals.sample(index)


class SignalDataModule(ClassificationDataModule[SignalDataset]):
    """Training, validation and test signals, as batches for `CCNNClassifier`.

    The validation split is a stratified part of the training split. The order and the augmentation
    of the training signals depend only on `seed` and the epoch.

    A batch of B signals has `x [B, C, *S]` and `y [B]`, and optionally `length [B]`, the lengths of
    padded sequences, `mask [B, *S]`, True for occupied cells, and `spacing [B]` or `[B, D]`, the
    step of the grid relative to the training grids, for example 2 for every second sample.
    Transforms to clouds give `x [N, C]`, `pos [N, D]` and `batch [N]` instead, with positions in
    steps of the training grids.

    Subclasses implement `read`, optionally `transform`, `hold_out` and `measure`, and have an
    argument `name`. After `setup`, the
    data sets are `train_dataset`, `val_dataset` and `test_dataset`, described by `num_features`,
    `num_classes`, `class_names`, `split_sizes`, `dim` and `size`.

    Args:
        root: Folder or file of the data.
        batch_size: Number of signals per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process, which is
            fast enough for signals in memory.
        seed: Seed of the order of the signals and their augmentation.
        split_seed: Seed of the validation split and the subset of the training signals.
        val_fraction: Fraction of the training split held out for validation.
        train_size: Number of training signals to use, as a stratified subset; all by default. The
            validation split stays the same.

    Raises:
        ValueError: If an argument is out of range or a file is broken.
        OSError: If the data are missing.
    """

    def __init__(
        self,
        root: Path,
        *,
        batch_size: int = 100,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
    ) -> None:
        super().__init__(root, batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.split_seed = split_seed
        self.val_fraction = val_fraction
        self.train_size = train_size

    @abstractmethod
    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return training signals, test signals and class names; download them if necessary."""

    def transform(self, split: Split) -> Transform | None:
        """Return the transform that is applied at each access.

        Args:
            split: `"train"`, with augmentation, or `"test"`, also used for validation.
        """
        return None

    def hold_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training signals to use, and of the validation signals.

        Args:
            labels: Class index of every signal of the training split, `[M]`.
        """
        return stratified_split(
            labels,
            val_fraction=self.val_fraction,
            train_size=self.train_size,
            seed=self.split_seed,
        )

    def measure(self, train: Signals) -> None:
        """Measure what transforms need to know of the training signals; nothing by default."""

    def prepare_data(self) -> None:
        """Download the data; Lightning calls this in one process."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Split the data; all splits are set up for every `stage`."""
        if self._datasets:
            return
        whole, test, classes = self.read()
        kept, held_out = self.hold_out(whole.y)
        train, val = whole.select(kept), whole.select(held_out)
        self.measure(train)
        self._datasets = {
            "train": self._split(train, classes, "train", self.seed),
            "val": self._split(val, classes, "test", self.split_seed),
            "test": self._split(test, classes, "test", self.split_seed),
        }

    @property
    def num_features(self) -> int:
        """Number of input channels, C."""
        return self.train_dataset.signals.x.shape[1]

    @property
    def size(self) -> tuple[int, ...]:
        """Number of cells of the training grids along each axis, S."""
        return self.train_dataset.signals.x.shape[2:]

    @property
    def dim(self) -> int:
        """Number of dimensions of the grids or clouds, D."""
        return self.train_dataset.signals.x.ndim - 2

    def _split(
        self, signals: Signals, classes: Sequence[str], split: Split, seed: int
    ) -> SignalDataset:
        return SignalDataset(
            signals, classes, train=split == "train", seed=seed, transform=self.transform(split)
        )
