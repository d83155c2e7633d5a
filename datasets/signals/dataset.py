"""Signals on grids, sequences, images or volumes of one size: data set and LightningDataModule.

A data set of signals of its own is a subclass of :class:`SignalDataModule` with a ``read`` that
returns arrays, and if need be a ``transform``; the rest is here.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from ..datamodule import ClassificationDataModule
from ..epochs import Split, draw_sample
from ..splits import stratified_holdout, stratified_subset

__all__ = ["SignalDataModule", "SignalDataset", "Signals"]

Transform = Callable[[Data], Data]


@dataclass(frozen=True, eq=False)
class Signals:
    """Signals on grids of one size, each of a class, as compact as they come.

    Attributes:
        x: The signals, `[M, C, *S]`, of any type of numbers.
        y: The class of each, whole numbers from 0, `[M]`.
        length: Where sequences are padded, how many of their steps count, `[M]`.
        scale: What a network sees is `x` times this, as float32.
    """

    x: np.ndarray
    y: np.ndarray
    length: np.ndarray | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Checks that there is a class, and a length, for every signal."""
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
        """Returns the number of signals."""
        return len(self.x)

    def select(self, indices: np.ndarray) -> "Signals":
        """Returns some of them."""
        length = None if self.length is None else self.length[indices]
        return Signals(self.x[indices], self.y[indices], length, self.scale)

    def sample(self, index: int) -> Data:
        """Returns one of them as what a loader stacks to batches."""
        x = torch.from_numpy(self.x[index : index + 1].astype(np.float32))
        data = Data(x=x.mul_(self.scale), y=_number(self.y[index]))
        if self.length is not None:
            data.length = _number(self.length[index])
        return data


def _number(value: np.integer) -> Tensor:
    return torch.tensor([int(value)])


class SignalDataset(Dataset[Data]):
    """Signals in memory.

    What a transform draws from torch's global generator depends, for evaluation signals, on seed
    and index, and for ``dataset[epoch, index]`` of training signals on the epoch too, see
    :class:`~ccnn_geo.datasets.PointCloudDataset`.

    Args:
        signals: The signals.
        classes: Names of the classes; a label is an index into them.
        train: Whether accesses differ from each other.
        seed: Seed of what the transform draws.
        transform: Applied at each access.

    Shapes:
        - ``dataset[index]`` has ``x`` :math:`[1, C, *S]`, ``y`` :math:`[1]` and, where sequences
          are padded, ``length`` :math:`[1]`; or what the transform makes of them

    Raises:
        ValueError: If a label is not that of a class.
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
        self.signals = signals
        self.classes = list(classes)
        self.train = train
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        """Returns the number of signals."""
        return len(self.signals)

    def __getitem__(self, key: int | tuple[int, int]) -> Data:
        """Returns one signal, by its index or by epoch and index."""
        return draw_sample(self._draw, key, len(self), train=self.train, seed=self.seed)

    def _draw(self, index: int) -> Data:
        data = self.signals.sample(index)
        return data if self.transform is None else self.transform(data)

    def __repr__(self) -> str:
        """Says how many signals of how many classes there are."""
        return f"{type(self).__name__}({len(self)}, num_classes={len(self.classes)})"


class SignalDataModule(ClassificationDataModule[SignalDataset]):
    """Training, validation and test signals, as batches that a `CCNNClassifier` takes.

    Validation is a stratified part of the training split; the test split is left for the end. The
    order of the training signals, and their augmentation, depend on `seed` and on the number of the
    epoch alone.

    A batch of B signals has `x [B, C, *S]` and `y [B]`, and where there are any `length [B]`, how
    many steps of a padded sequence count, `mask [B, *S]`, which cells do, and `spacing [B]` or
    `[B, D]`, the step of the grid in units of that of the training grids: 2 for every second
    sample. What a transform makes a cloud of has `x [N, C]`, `pos [N, D]` and `batch [N]` instead,
    with positions in units of the training grids' step.

    A subclass says in ``read`` what the signals are and in ``transform`` what a network sees of
    them, and has an argument ``name``. After ``setup``, ``num_features``, ``num_classes``,
    ``class_names``, ``split_sizes``, ``dim`` and ``size`` say what there is, and ``train_dataset``,
    ``val_dataset`` and ``test_dataset`` hold it.

    Args:
        root: Where the data come from.
        batch_size: Signals per batch and process.
        num_workers: Processes that prepare batches; with 0 they are prepared where they are used,
            which is fast enough for signals in memory.
        seed: Seed of the order of the signals and of their augmentation.
        split_seed: Seed of the validation split and of the subset of the training signals.
        val_fraction: Share of the training split held out for validation; 0 for none.
        train_size: Number of training signals to use, chosen with every class keeping its share;
            all by default. The validation split stays the same.

    Raises:
        ValueError: If an argument is out of range or a file is broken.
        OSError: If the data are not there.
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
        """Reads, or fetches, training signals, test signals and the names of the classes."""

    def transform(self, split: Split) -> Transform | None:
        """Returns what is done to a signal at each access; to one of `train`, augmentation too.

        Args:
            split: `"train"`; or `"test"`, which is also what validation signals get.
        """
        return None

    def prepare_data(self) -> None:
        """Fetches the data; Lightning calls it in one process."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Splits the data; every stage gets all the splits."""
        if self._datasets:
            return
        train, test, classes = self.read()
        kept, held_out = stratified_holdout(train.y, self.val_fraction, seed=self.split_seed)
        if self.train_size is not None:
            chosen = stratified_subset(train.y[kept], self.train_size, seed=self.split_seed)
            kept = kept[chosen]
        self._datasets = {
            "train": self._split(train.select(kept), classes, "train", self.seed),
            "val": self._split(train.select(held_out), classes, "test", self.split_seed),
            "test": self._split(test, classes, "test", self.split_seed),
        }

    @property
    def num_features(self) -> int:
        """Number of input channels, C."""
        return self.train_dataset.signals.x.shape[1]

    @property
    def size(self) -> tuple[int, ...]:
        """Cells of the training grids along every axis, S, in whose steps clouds have positions."""
        return self.train_dataset.signals.x.shape[2:]

    @property
    def dim(self) -> int:
        """Number of axes of the grids, or of coordinates of the points, D."""
        return self.train_dataset.signals.x.ndim - 2

    def _split(
        self, signals: Signals, classes: Sequence[str], split: Split, seed: int
    ) -> SignalDataset:
        return SignalDataset(
            signals, classes, train=split == "train", seed=seed, transform=self.transform(split)
        )
