"""Base class of the LightningDataModules for clouds and signals."""

from pathlib import Path
from typing import Generic, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import Sampler
from torch_geometric.loader import DataLoader

from .dataset import ClassificationDataset, SeededDataset
from .epochs import EpochSampler, UnrepeatedSampler

__all__ = ["ClassificationDataModule", "SplitDataModule", "check_choice"]


T = TypeVar("T", bound=SeededDataset)


class SplitDataModule(pl.LightningDataModule, Generic[T]):
    """Loaders of three splits, whose order depends only on the seed and the epoch.

    Subclasses fill `_datasets` in `setup`.

    Args:
        root: Folder or file of the data.
        batch_size: Number of samples per batch and process.
        num_workers: Number of worker processes of a loader; 0 loads in the main process.
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
        self._resumed_epoch = 0

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
    def split_sizes(self) -> dict[str, int]:
        """Number of samples per split."""
        return {split: len(self._dataset(split)) for split in ("train", "val", "test")}

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the training samples, shuffled."""
        dataset, trainer = self.train_dataset, self.trainer
        if trainer is None:
            return self._loader(dataset, EpochSampler(dataset, seed=self.seed))
        sampler = EpochSampler(
            dataset, seed=self.seed, num_replicas=trainer.world_size, rank=trainer.global_rank
        )
        # A resumed Trainer starts the workers before it calls `set_epoch`, and before it restores
        # its own count of the epochs.
        resumed = self._resumed_epoch if trainer.ckpt_path else 0
        sampler.set_epoch(max(_completed_epochs(trainer), resumed))
        return self._loader(dataset, sampler)

    def state_dict(self) -> dict[str, int]:
        """Return the number of completed epochs for a checkpoint."""
        return {} if self.trainer is None else {"epoch": _completed_epochs(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the epochs of a checkpoint."""
        self._resumed_epoch = state_dict.get("epoch", 0)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the validation samples, or an empty list if there are none."""
        return self._evaluation_loader("val") if len(self.val_dataset) else []

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test samples."""
        if len(self.test_dataset) == 0:
            raise ValueError(f"{self.root}: expected test samples, got none")
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader:
        """Return a loader whose samples the processes share without repetition.

        Raises:
            ValueError: If there are fewer samples than processes.
        """
        dataset, trainer = self._dataset(split), self.trainer
        if trainer is None or trainer.world_size == 1:
            return self._loader(dataset)
        if len(dataset) < trainer.world_size:
            raise ValueError(
                f"{self.root}: expected a sample for each of {trainer.world_size} processes in "
                f"the {split} split, got {len(dataset)}"
            )
        sampler = UnrepeatedSampler(dataset, trainer.world_size, trainer.global_rank)
        return self._loader(dataset, sampler)

    def _loader(self, dataset: T, sampler: Sampler | None = None) -> DataLoader:
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


C = TypeVar("C", bound=ClassificationDataset)


class ClassificationDataModule(SplitDataModule[C]):
    """A `SplitDataModule` of labelled samples."""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label."""
        return self.train_dataset.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def _completed_epochs(trainer: pl.Trainer) -> int:
    return trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that an argument is one of its choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"Expected `{argument}` to be one of {choices}, got {value!r}")
