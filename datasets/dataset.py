"""Base class of the data sets in memory."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch.utils.data import Dataset
from torch_geometric.data import Data

from .epochs import seeded

__all__ = ["ClassificationDataset", "SeededDataset", "Transform"]

Transform = Callable[[Data], Data]


class SeededDataset(Dataset[Data]):
    """Samples whose randomness is determined by seed, epoch and index.

    Subclasses implement `__len__` and `_read`, which may use torch's global generator, as
    transforms do. A training sample `dataset[epoch, index]` is determined by seed, epoch and index,
    whereas `dataset[index]` uses the current state of the generator. An evaluation sample is
    determined by seed and index. `EpochSampler` uses epochs, so that a training does not depend on
    the number of workers or on restarts.

    Args:
        train: If True, each access draws another sample.
        seed: Seed of the samples.
        transform: Applied at each access.

    Raises:
        ValueError: If `seed` is below 0.
    """

    def __init__(self, *, train: bool, seed: int, transform: Transform | None) -> None:
        if seed < 0:
            raise ValueError(f"Expected `seed` to be at least 0, got {seed}")
        self.train = train
        self.seed = seed
        self.transform = transform

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> Data:
        """Return one sample by its index, or by epoch and index.

        Raises:
            IndexError: If the index is out of range.
        """
        epoch, index = key if isinstance(key, tuple) else (None, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected an index of one of {len(self)} samples, got {index}")
        index %= len(self)
        if not self.train:
            with seeded(self.seed, index):
                return self._sample(index)
        if epoch is None:
            return self._sample(index)
        with seeded(self.seed, index, epoch):
            return self._sample(index)

    def _sample(self, index: int) -> Data:
        data = self._read(index)
        return data if self.transform is None else self.transform(data)

    @abstractmethod
    def _read(self, index: int) -> Data:
        """Return one sample before the transform."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"


class ClassificationDataset(SeededDataset):
    """Labelled samples; see `SeededDataset` for their randomness.

    Args:
        classes: Names of the classes; a label is an index into them.
        train: If True, each access draws another sample.
        seed: Seed of the samples.
        transform: Applied at each access.

    Raises:
        ValueError: If `seed` is below 0.
    """

    def __init__(
        self, classes: Sequence[str], *, train: bool, seed: int, transform: Transform | None
    ) -> None:
        super().__init__(train=train, seed=seed, transform=transform)
        self.classes = list(classes)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without a sample."""
        return len(self.classes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, num_classes={self.num_classes})"
