"""What the LightningDataModules of clouds and of signals have in common."""

from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import Sampler
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from .epochs import EpochSampler

__all__ = ["ClassificationDataModule", "ClassifiedDataset", "check_choice"]


class ClassifiedDataset(Protocol):
    """Samples of several classes, got by an index, or by epoch and index."""

    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> Data: ...


T = TypeVar("T", bound=ClassifiedDataset)


class ClassificationDataModule(pl.LightningDataModule, Generic[T]):
    """Batches of three splits, whose order depends on the seed and the epoch's number alone.

    A subclass fills ``_datasets`` in its ``setup``.

    Args:
        root: Where the data come from.
        batch_size: Samples per batch and process.
        num_workers: Processes that prepare batches; with 0 they are prepared where they are used.
        seed: Seed of the order of the training samples.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, root: Path, *, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                "Expected `batch_size` >= 1 and `num_workers` >= 0, "
                f"got {batch_size} and {num_workers}"
            )
        self.root = root
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._datasets: dict[str, T] = {}

    @property
    def train_dataset(self) -> T:
        """The training samples."""
        return self._dataset("train")

    @property
    def val_dataset(self) -> T:
        """The validation samples, held out of the training split."""
        return self._dataset("val")

    @property
    def test_dataset(self) -> T:
        """The test samples."""
        return self._dataset("test")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.train_dataset.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of samples per split."""
        return {split: len(self._dataset(split)) for split in ("train", "val", "test")}

    def train_dataloader(self) -> DataLoader:
        """Returns shuffled batches of training samples."""
        dataset, trainer = self.train_dataset, self.trainer
        if trainer is None:
            return self._loader(dataset, EpochSampler(dataset, seed=self.seed))
        sampler = EpochSampler(
            dataset, seed=self.seed, num_replicas=trainer.world_size, rank=trainer.global_rank
        )
        # A resumed Trainer lets workers begin on the first batches before it names the epoch.
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Returns batches of validation samples, or no loader where nothing was held out."""
        return self._loader(self.val_dataset) if len(self.val_dataset) else []

    def test_dataloader(self) -> DataLoader:
        """Returns batches of test samples."""
        if len(self.test_dataset) == 0:
            raise ValueError(f"{self.root}: expected test samples, got none")
        return self._loader(self.test_dataset)

    def _loader(self, dataset: T, sampler: Sampler[tuple[int, int]] | None = None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _dataset(self, split: str) -> T:
        if not self._datasets:
            raise RuntimeError("Expected `setup()` to be called first; a Trainer does so by itself")
        return self._datasets[split]


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not one of the choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"Expected `{argument}` to be one of {choices}, got {value!r}")
