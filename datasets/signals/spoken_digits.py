"""LightningDataModule of spoken digits as raw audio."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..datamodule import check_choice
from .dataset import Signals
from .mnist import read_digits
from .recordings import SAMPLE_RATE, Recordings, find_recordings
from .subsampling import SubsampledDataModule

__all__ = ["SpokenDigitsDataModule"]

DataName = Literal["spoken_digits", "digits"]


class SpokenDigitsDataModule(SubsampledDataModule):
    """The Free Spoken Digit Dataset, as sequences of audio samples.

    Every recording is cropped, or padded with zeros, to one second: `x [1, 1, 8000]`, float32 in
    [-1, 1].

    See `SubsampledDataModule` for tests at other sampling rates, `SignalDataModule` for the
    attributes after `setup`, and `find_recordings` for the sources.
    The recordings are under CC BY-SA 4.0, https://github.com/Jakobovski/free-spoken-digit-dataset.

    Args:
        name: Data set: `spoken_digits`, or `digits`, the 8 x 8 handwritten digits of the package
            as sequences of pixels. They need no file and serve for tests, but are no substitute for
            audio, because subsampling destroys them.
        root: Folder of the data set, to which it is downloaded if necessary. By default
            `data/spoken_digits`.
        duration: Length of the cropped or padded recordings in seconds.
        keep_lengths: If True, `length [1]` gives the unpadded length, and networks ignore the
            padding.
        normalize: If True, every recording is scaled to a peak of 1.
        batch_size: Number of recordings per batch and process.
        download: If True, the recordings are downloaded if they are missing.
        loading: Sampling rates, workers, seeds and the other arguments of `SubsampledDataModule`.

    Raises:
        ValueError: If an argument is out of range or a file is broken.
        OSError: If the recordings are missing.
    """

    def __init__(
        self,
        name: DataName = "spoken_digits",
        root: Path | None = None,
        *,
        duration: float = 1.0,
        keep_lengths: bool = False,
        normalize: bool = True,
        batch_size: int = 20,
        download: bool = True,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(DataName))
        super().__init__(
            Path("data/spoken_digits") if root is None else Path(root),
            batch_size=batch_size,
            **loading,
        )
        if not 1 <= duration * SAMPLE_RATE < math.inf:
            raise ValueError(f"Expected `duration` of a sample or more, got {duration} seconds")
        self.name = name
        self.duration = duration
        self.keep_lengths = keep_lengths
        self.normalize = normalize
        self.download = download

    def read_whole(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the recordings before subsampling; download them if necessary."""
        classes = [str(digit) for digit in range(10)]
        if self.name == "digits":
            train, test = map(in_rows, read_digits())
            return train, test, classes
        size = round(self.duration * SAMPLE_RATE)
        train, test = (
            pad(each, size, keep_lengths=self.keep_lengths, normalize=self.normalize)
            for each in find_recordings(self.root, fetch=self.download)
        )
        return train, test, classes


def pad(
    recordings: Recordings, size: int, *, keep_lengths: bool = False, normalize: bool = False
) -> Signals:
    """Crop or pad recordings to one size.

    Args:
        recordings: The recordings.
        size: Number of samples.
        keep_lengths: If True, the result has the unpadded lengths.
        normalize: If True, each recording is scaled to a peak of 1, unless it is silent.

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
    """Return images as sequences of pixels, row by row."""
    x = images.x.reshape(*images.x.shape[:2], -1)
    return replace(images, x=x)
