"""Data modules of sequences whose test split may have another sampling rate than training."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import BaseTransform, Compose

from ..epochs import Split
from .dataset import SignalDataModule, Signals

__all__ = ["SetSpacing", "SubsampledDataModule", "every"]


class SubsampledDataModule(SignalDataModule):
    """Sequences, of which every n-th sample is kept.

    Test sequences can be subsampled more coarsely than training sequences; `spacing` then gives
    their step. As in the paper, there is no low-pass filter before subsampling, so that frequencies
    above half of the new rate are aliased.

    Subclasses implement `read_whole` and optionally `steps`.

    Args:
        root: Folder or file of the data.
        subsample: Step between the samples of test sequences that are kept.
        train_subsample: Step between the samples of training and validation sequences that are
            kept.
        rescale: If True, `spacing` gives the step of test sequences relative to training. If
            False, networks process them as if they were shorter by `subsample / train_subsample`.
        loading: Size of a batch and all other arguments of `SignalDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: Path,
        *,
        subsample: int = 1,
        train_subsample: int = 1,
        rescale: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(root, **loading)
        self.subsample = _check_step("subsample", subsample)
        self.train_subsample = _check_step("train_subsample", train_subsample)
        self.rescale = rescale
        self._whole_test: Signals | None = None

    @abstractmethod
    def read_whole(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return training sequences, test sequences and class names before subsampling."""

    def steps(self) -> list[BaseTransform]:
        """Return the transforms of every sequence, which do not depend on its sampling rate."""
        return []

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the subsampled sequences; download them if necessary."""
        train, test, classes = self.read_whole()
        self._whole_test = test
        return every(train, self.train_subsample), every(test, self.subsample), classes

    def setup(self, stage: str | None = None) -> None:
        """Split the sequences; validation is subsampled like training."""
        super().setup(stage)
        self.val_dataset.transform = self.transform("train")

    def transform(self, split: Split) -> BaseTransform:
        """Return the transform that sets the spacing of test sequences, if it is not 1."""
        if split == "train":
            return Compose(self.steps())
        return self._test_transform(self.subsample, rescale=self.rescale)

    def test_dataloader_at(self, subsample: int, *, rescale: bool = True) -> DataLoader:
        """Return a loader of the test sequences at another sampling rate.

        Args:
            subsample: Step between the samples that are kept.
            rescale: If True, `spacing` gives the step relative to training.

        Raises:
            ValueError: If `subsample` is below 1.
            RuntimeError: Before `setup`.
        """
        classes = self.class_names  # an error before `setup`, which reads `_whole_test`
        signals = every(cast(Signals, self._whole_test), _check_step("subsample", subsample))
        dataset = self._split(signals, classes, "test", self.split_seed)
        dataset.transform = self._test_transform(subsample, rescale=rescale)
        return self._loader(dataset)

    def _test_transform(self, subsample: int, *, rescale: bool) -> BaseTransform:
        steps = self.steps()
        if rescale and subsample != self.train_subsample:
            steps.append(SetSpacing(subsample / self.train_subsample))
        return Compose(steps)


class SetSpacing(BaseTransform):
    """Sets the step of a grid relative to the training grids.

    Args:
        spacing: The step.
    """

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def forward(self, data: Data) -> Data:
        """Set `spacing [1]`."""
        data.spacing = torch.tensor([self.spacing])
        return data


def every(signals: Signals, step: int) -> Signals:
    """Return sequences subsampled with the given step, without a copy."""
    length = None if signals.length is None else -(-signals.length // step)
    return replace(signals, x=signals.x[..., ::step], length=length)


def _check_step(argument: str, step: int) -> int:
    if step < 1:
        raise ValueError(f"Expected `{argument}` >= 1, got {step}")
    return step
