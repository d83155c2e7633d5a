"""Time series with their true time stamps, as clouds of one coordinate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.series import DropTimes, EvenTimes, TrapezoidWeights

from ..datamodule import ClassificationDataModule, check_choice
from ..dataset import ClassificationDataset, Transform
from ..splits import stratified_split
from .time_series_files import TimeSeries, read_physionet, read_series

__all__ = ["TimeSeriesDataModule", "TimeSeriesDataset"]

SeriesName = Literal["series", "physionet2012"]
Times = Literal["true", "even"]


class TimeSeriesDataset(ClassificationDataset):
    """Time series in memory, see `ClassificationDataset` for the randomness of transforms.

    Args:
        series: The series.
        classes: Names of the classes.
        mean: Mean of every channel, `[C]`.
        std: Standard deviation of every channel, `[C]`.
        unit: Time that is 1 in `pos`.
        observed: If True, there are C more channels, 1 where a value was observed.
        train: If True, each access draws another random transform.
        seed: Seed of the transform.
        transform: Applied at each access.

    Shapes:
        - `dataset[index]` has `x` :math:`[N, C]` or :math:`[N, 2 C]`, `pos` :math:`[N, 1]`, times
          since the first one, and `y` :math:`[1]`
    """

    def __init__(
        self,
        series: TimeSeries,
        classes: Sequence[str],
        *,
        mean: np.ndarray,
        std: np.ndarray,
        unit: float,
        observed: bool,
        train: bool,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(classes, train=train, seed=seed, transform=transform)
        self.series = series
        self.mean = mean
        self.std = std
        self.unit = unit
        self.observed = observed

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.series)

    def _read(self, index: int) -> Data:
        rows = slice(self.series.offsets[index], self.series.offsets[index + 1])
        values = (self.series.x[rows] - self.mean) / self.std
        missing = np.isnan(values)
        x = np.where(missing, 0.0, values)
        if self.observed:
            x = np.concatenate([x, ~missing], 1)
        times = (self.series.times[rows] - self.series.times[rows.start]) / self.unit
        return Data(
            x=torch.from_numpy(x.astype(np.float32)),
            pos=torch.from_numpy(times[:, None].astype(np.float32)),
            y=torch.tensor([int(self.series.y[index])]),
        )


class TimeSeriesDataModule(ClassificationDataModule[TimeSeriesDataset]):
    """Time series with their true time stamps, as batches of clouds for `CCNNClassifier`.

    A batch of B series has `x [N, C]`, `pos [N, 1]`, `batch [N]` and `y [B]`. Times are in units of
    the longest training series, so that an extent of 1 sees all of it. Channels have mean 0 and
    deviation 1 in training; a value that was not observed is 0, and if there are such values, there
    are C more channels that are 1 where one was.

    The validation split is a stratified part of the training split.

    Args:
        name: `series`, an archive's data set of one file, or `physionet2012`, death in hospital
            from measurements of 48 hours in intensive care.
        root: For `series`, an `.npz` file of `train_x [C, N]`, `train_offsets [M + 1]`,
            `train_y [M]`, `classes` and the same for the test (or `train_x [M, C, L]` without
            offsets), or the file `<problem>_TRAIN.ts` of the UCR or UEA archive, with
            `<problem>_TEST.ts` beside it. For `physionet2012`, an `.npz` file, or the folder of
            `set-a`, `set-c`, `Outcomes-a.txt` and `Outcomes-c.txt`.
        times: `true`, or `even` for the order of the times alone.
        keep: Fraction of the times that test series keep, drawn at random.
        train_keep: Fraction of the times that training and validation series keep.
        weights: If True, every time has the quadrature weight of the trapezoidal rule, with which
            a network gives similar answers for fewer or unevenly spaced times.
        batch_size: Number of series per batch and process.
        num_workers: Number of worker processes of a loader.
        seed: Seed of the order of the series and their transforms.
        split_seed: Seed of the validation split and the subset of the training series.
        val_fraction: Fraction of the training split held out for validation.
        train_size: Number of training series to use; all by default.

    Raises:
        ValueError: If an argument is out of range or a file is broken; the message names it.
        OSError: If the files are missing.
    """

    def __init__(
        self,
        name: SeriesName = "series",
        root: Path | None = None,
        *,
        times: Times = "true",
        keep: float = 1.0,
        train_keep: float = 1.0,
        weights: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
    ) -> None:
        check_choice("name", name, get_args(SeriesName))
        check_choice("times", times, get_args(Times))
        if root is None:
            raise ValueError("Expected `root`, the file or folder of the series, got none")
        super().__init__(Path(root), batch_size=batch_size, num_workers=num_workers, seed=seed)
        DropTimes(keep), DropTimes(train_keep)
        self.name = name
        self.times = times
        self.keep = keep
        self.train_keep = train_keep
        self.weights = weights
        self.split_seed = split_seed
        self.val_fraction = val_fraction
        self.train_size = train_size

    dim = 1

    @property
    def num_features(self) -> int:
        """Number of input channels."""
        return self.train_dataset[0].x.shape[1]

    def prepare_data(self) -> None:
        """Read the data; Lightning calls this in one process."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read and split the series; all splits are set up for every `stage`."""
        if self._datasets:
            return
        read = read_physionet if self.name == "physionet2012" else read_series
        series, test, classes = read(self.root)
        kept, held_out = stratified_split(
            series.y,
            val_fraction=self.val_fraction,
            train_size=self.train_size,
            seed=self.split_seed,
        )
        train = series.select(kept)
        unit, gap = train.duration(), train.typical_gap()
        if not (unit > 0 and gap > 0):
            raise ValueError(f"{self.root}: expected training series of several times")
        observed = bool(np.isnan(train.x).any() or np.isnan(test.x).any())
        with np.errstate(invalid="ignore"):
            mean = np.nanmean(train.x, 0, np.float64)
            std = np.nanstd(train.x, 0, np.float64)
        settings: dict[str, Any] = {
            "classes": classes,
            "mean": np.nan_to_num(mean),
            "std": np.where(std > 0, std, 1.0),
            "unit": unit,
            "observed": observed,
        }

        def dataset(part: TimeSeries, keep: float, seed: int, *, train: bool) -> TimeSeriesDataset:
            transform = self._transform(keep, gap / unit)
            return TimeSeriesDataset(part, train=train, seed=seed, transform=transform, **settings)

        self._datasets = {
            "train": dataset(train, self.train_keep, self.seed, train=True),
            "val": dataset(series.select(held_out), self.train_keep, self.split_seed, train=False),
            "test": dataset(test, self.keep, self.split_seed, train=False),
        }

    def _transform(self, keep: float, step: float) -> BaseTransform:
        steps: list[BaseTransform] = [DropTimes(keep)] if keep < 1 else []
        if self.times == "even":
            steps.append(EvenTimes(step))
        if self.weights:
            steps.append(TrapezoidWeights(step))
        return Compose(steps)
