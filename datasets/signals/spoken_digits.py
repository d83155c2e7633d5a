"""Spoken digits as raw audio, and the LightningDataModule over them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from ..datamodule import check_choice
from ..epochs import Split
from .dataset import SignalDataModule, Signals
from .mnist import read_digits
from .recordings import SAMPLE_RATE, Recordings, find_recordings

__all__ = ["SpokenDigitsDataModule"]

DataName = Literal["spoken_digits", "digits"]


class SpokenDigitsDataModule(SignalDataModule):
    """The Free Spoken Digit Dataset: digits that people speak, as sequences of samples.

    Every recording is cropped or padded with silence to a second, 8,000 samples, which are float32
    in [-1, 1], `x [1, 1, 8000]`.

    A test recording may be sampled more coarsely than those of the training, which a network is
    told by `spacing`. Taking every second sample is all that is done, as in the paper: what lies
    above half of the new rate is not filtered out, and folds back.

    See :class:`~ccnn_geo.datasets.SignalDataModule` for what there is after ``setup``, and
    `find_recordings` for where the recordings are looked for. They are under CC BY-SA 4.0,
    https://github.com/Jakobovski/free-spoken-digit-dataset.

    Args:
        name: Data set: `spoken_digits`, or `digits`, small images of handwritten digits that come
            with the package, read row by row. They need no file, and make sure that everything
            runs; they are no stand-in for audio: a pixel says little about the next but one.
        root: Folder of the data set, which is downloaded to it if need be. By default
            `data/spoken_digits`.
        duration: Seconds of a recording that are kept.
        keep_lengths: Whether a network is told where a shorter recording ends, by `length [1]`, and
            leaves the padding out.
        normalize: Whether every recording is made as loud as it can be, its loudest sample -1 or 1.
        subsample: Which samples of test recordings are kept: every one, every second, and so on.
        train_subsample: The same for training and validation recordings.
        rescale: Whether a network is told of a difference between the two. Without, it takes a test
            recording for one that is `subsample / train_subsample` times as short.
        batch_size: Recordings per batch and process.
        num_workers: Processes that prepare batches; recordings are in memory and need none.
        seed: Seed of the order of the recordings.
        split_seed: Seed of the validation split and of the subset of the training recordings.
        val_fraction: Share of the training split held out for validation; 0 for none.
        train_size: Number of training recordings to use, see `SignalDataModule`.
        download: Whether to download the recordings if they are not there.

    Raises:
        ValueError: If an argument is out of range or a file is broken.
        OSError: If the recordings are not there.
    """

    def __init__(
        self,
        name: DataName = "spoken_digits",
        root: Path | None = None,
        *,
        duration: float = 1.0,
        keep_lengths: bool = False,
        normalize: bool = True,
        subsample: int = 1,
        train_subsample: int = 1,
        rescale: bool = True,
        batch_size: int = 20,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        download: bool = True,
    ) -> None:
        check_choice("name", name, get_args(DataName))
        super().__init__(
            Path("data/spoken_digits") if root is None else Path(root),
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            split_seed=split_seed,
            val_fraction=val_fraction,
            train_size=train_size,
        )
        if not 1 <= duration * SAMPLE_RATE < math.inf:
            raise ValueError(f"Expected `duration` of a sample or more, got {duration} seconds")
        for argument, step in (("subsample", subsample), ("train_subsample", train_subsample)):
            if step < 1:
                raise ValueError(f"Expected `{argument}` >= 1, got {step}")
        self.name = name
        self.duration = duration
        self.keep_lengths = keep_lengths
        self.normalize = normalize
        self.subsample = subsample
        self.train_subsample = train_subsample
        self.rescale = rescale
        self.download = download

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Reads, or fetches, the recordings, and keeps the samples asked for."""
        train, test = self._read()
        classes = [str(digit) for digit in range(10)]
        return every(train, self.train_subsample), every(test, self.subsample), classes

    def setup(self, stage: str | None = None) -> None:
        """Splits the recordings; validation is sampled as training is."""
        super().setup(stage)
        self.val_dataset.transform = self.transform("train")

    def transform(self, split: Split) -> BaseTransform | None:
        """Tells a network how far apart the samples of test recordings are."""
        if split == "train" or not self.rescale or self.subsample == self.train_subsample:
            return None
        return SetSpacing(self.subsample / self.train_subsample)

    def _read(self) -> tuple[Signals, Signals]:
        size = round(self.duration * SAMPLE_RATE)
        if self.name == "digits":
            train, test = map(in_rows, read_digits())
            return train, test
        train, test = (
            pad(each, size, keep_lengths=self.keep_lengths, normalize=self.normalize)
            for each in find_recordings(self.root, fetch=self.download)
        )
        return train, test


class SetSpacing(BaseTransform):
    """Says how far apart the cells of a grid are, in units of those of the training grids.

    Args:
        spacing: The step.
    """

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def forward(self, data: Data) -> Data:
        """Adds `spacing [1]`."""
        data.spacing = torch.tensor([self.spacing])
        return data


def pad(
    recordings: Recordings, size: int, *, keep_lengths: bool = False, normalize: bool = False
) -> Signals:
    """Crops or pads recordings to one size.

    Args:
        recordings: The recordings.
        size: Samples of each.
        keep_lengths: Whether to keep how many samples of each count.
        normalize: Whether to scale each to a peak of 1. What is silent stays so.

    Returns:
        Signals in [-1, 1], `[M, 1, size]`.
    """
    x = np.zeros((len(recordings.samples), 1, size), np.float32 if normalize else np.int16)
    lengths = np.array([min(len(samples), size) for samples in recordings.samples])
    for row, samples, length in zip(x[:, 0], recordings.samples, lengths, strict=True):
        row[:length] = samples[:length]
    if normalize:
        peaks = np.abs(x).max(axis=2, keepdims=True)
        x /= np.where(peaks > 0, peaks, 1)
    return Signals(
        x,
        recordings.labels,
        lengths if keep_lengths else None,
        scale=1.0 if normalize else 1 / 2**15,
    )


def in_rows(images: Signals) -> Signals:
    """Reads images row by row, as sequences of pixels."""
    x = images.x.reshape(*images.x.shape[:2], -1)
    return Signals(x, images.y, scale=images.scale)


def every(signals: Signals, step: int) -> Signals:
    """Keeps every so many-th sample of sequences, from the first on."""
    length = signals.length
    return Signals(
        signals.x[..., ::step],
        signals.y,
        None if length is None else -(-length // step),
        signals.scale,
    )
