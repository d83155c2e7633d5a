"""Data set and LightningDataModule of signals on grids: sequences, images or volumes of one size.

A new data set is a subclass of `SignalDataModule` that implements `read`, which returns arrays, and
optionally `transform`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        length: Lengths of padded sequences, `[M]`, for pairs `[M, 2]`, or None.
        scale: Factor by which samples are multiplied after the conversion to float32.
        num_embeddings: Number of tokens if `x` holds token numbers, `[M, 1, *S]`. They are not
            converted; 0 is padding.
        pairs: If True, the two channels of `x [M, 2, *S]` are signals that are classified together.
    """

    x: np.ndarray
    y: np.ndarray
    length: np.ndarray | None = None
    scale: float = 1.0
    num_embeddings: int | None = None
    pairs: bool = False

    def __post_init__(self) -> None:
        """Check types and shapes."""
        if self.x.ndim < 3 or self.x.dtype.kind not in "fiu":
            raise ValueError(
                f"Expected numbers `x` of shape [M, C, *S], got {self.x.dtype} of shape "
                f"{list(self.x.shape)}"
            )
        one = self.x.shape[:1]
        both = (*one, 2) if self.pairs else one
        for name, numbers, shape in (("y", self.y, one), ("length", self.length, both)):
            if numbers is not None and (numbers.shape != shape or numbers.dtype.kind not in "iu"):
                raise ValueError(
                    f"Expected whole numbers `{name}` of shape {list(shape)}, got "
                    f"{numbers.dtype} of shape {list(numbers.shape)}"
                )
        channels = 2 if self.pairs else self.x.shape[1]
        if self.num_embeddings is not None:
            channels = 2 if self.pairs else 1
            if self.x.dtype.kind not in "iu":
                raise ValueError(f"Expected whole numbers as tokens `x`, got {self.x.dtype}")
            if self.x.size and not 0 <= self.x.min() <= self.x.max() < self.num_embeddings:
                raise ValueError(
                    f"Expected tokens `x` from 0 to {self.num_embeddings - 1}, got "
                    f"{self.x.min()} to {self.x.max()}"
                )
        if self.x.shape[1] != channels:
            raise ValueError(f"Expected `x` of {channels} channels, got {self.x.shape[1]}")

    def __len__(self) -> int:
        """Return the number of signals."""
        return len(self.x)

    def select(self, indices: np.ndarray) -> "Signals":
        """Return the signals at the given indices, without a copy of consecutive ones."""
        rows: np.ndarray | slice = indices
        if len(indices) and (np.diff(indices) == 1).all():
            rows = slice(indices[0], indices[-1] + 1)
        length = None if self.length is None else self.length[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], length=length)

    def sample(self, index: int) -> Data:
        """Return one signal, `x [1, C, *S]` and `y [1]`, for padded sequences with `length [1]`.

        A pair is `x [2, 1, *S]` with `length [2]`.
        """
        stored = self.x[index, :, None] if self.pairs else self.x[index : index + 1]
        if self.num_embeddings is None:
            x = torch.from_numpy(stored.astype(np.float32)).mul_(self.scale)
        else:
            x = torch.from_numpy(stored.astype(np.int64))
        data = Data(x=x, y=_numbers(self.y[index]))
        if self.length is not None:
            data.length = _numbers(self.length[index])
        return data


def _numbers(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_1d(values).astype(np.int64))


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
          padded, `length` :math:`[1]`, before the transform is applied; see `Signals.sample`

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

    The validation split is a stratified part of the training split, unless the data set has one of
    its own. The order and the augmentation of the training signals depend only on `seed` and the
    epoch.

    A batch of B signals has `x [B, C, *S]` and `y [B]`, and optionally `length [B]`, the lengths of
    padded sequences, `mask [B, *S]`, True for occupied cells, and `spacing [B]` or `[B, D]`, the
    step of the grid relative to the training grids, for example 2 for every second sample.
    Token numbers are int64. Pairs of signals are consecutive, `x [2 B, 1, *S]`.
    Transforms to clouds give `x [N, C]`, `pos [N, D]` and `batch [N]` instead, with positions in
    steps of the training grids.

    Subclasses implement `read`, optionally `transform` and `measure`, and have an argument `name`.
    After `setup`, the data sets are `train_dataset`, `val_dataset` and `test_dataset`, described by
    `num_features`, `num_embeddings`, `pairs`, `num_classes`, `class_names`, `split_sizes`, `dim`
    and `size`.

    Args:
        root: Folder or file of the data.
        batch_size: Number of signals per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process, which is
            fast enough for signals in memory.
        seed: Seed of the order of the signals and their augmentation.
        split_seed: Seed of the validation split and the subset of the training signals.
        val_fraction: Fraction of the training split held out for validation; ignored if the data
            set has validation signals of its own.
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
        self._validation: np.ndarray | None = None

    @abstractmethod
    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return training signals, test signals and class names; download them if necessary.

        If the data set has validation signals of its own, they are among the training signals, and
        `_validation [M]` is set to True for them.
        """

    def transform(self, split: Split) -> Transform | None:
        """Return the transform that is applied at each access.

        Args:
            split: `"train"`, with augmentation, or `"test"`, also used for validation.
        """
        return None

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
        kept, held_out = stratified_split(
            whole.y,
            val_fraction=self.val_fraction,
            train_size=self.train_size,
            seed=self.split_seed,
            validation=self._validation,
        )
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
        return 1 if self.pairs else self.train_dataset.signals.x.shape[1]

    @property
    def num_embeddings(self) -> int | None:
        """Number of tokens if signals are token numbers, else None."""
        return self.train_dataset.signals.num_embeddings

    @property
    def pairs(self) -> bool:
        """Whether two signals are classified together."""
        return self.train_dataset.signals.pairs

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
