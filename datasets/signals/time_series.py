"""Time series with their true time stamps, as clouds of one coordinate.

There are readers of the UCR and UEA archives (`.ts` files or arrays) and of the PhysioNet Challenge
2012, whose measurements are irregular.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.series import DropTimes, EvenTimes, TrapezoidWeights

from ..datamodule import ClassificationDataModule, check_choice
from ..dataset import ClassificationDataset, Transform
from ..io.npz import read_npz
from ..splits import stratified_split

__all__ = [
    "TimeSeries",
    "TimeSeriesDataModule",
    "TimeSeriesDataset",
    "read_physionet",
    "read_physionet_record",
    "read_series",
    "read_ts",
]

SeriesName = Literal["series", "physionet2012"]
Times = Literal["true", "even"]

# Descriptions of a patient come at minute 0; -1 stands for an unknown value.
_UNKNOWN = -1.0
_HOURS = 60.0


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """Labelled series of one split, end to end.

    Attributes:
        times: Time of every row, ascending within a series, float64, `[N]`.
        x: Values at these times, float32, `[N, C]`; NaN where a channel was not observed.
        offsets: Series i has the rows `offsets[i]` to `offsets[i + 1] - 1`, `[M + 1]`.
        y: Class indices, `[M]`.
    """

    times: np.ndarray
    x: np.ndarray
    offsets: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.y)

    def select(self, indices: np.ndarray) -> "TimeSeries":
        """Return the series at the given indices."""
        parts = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices]
        rows = np.concatenate(parts) if parts else np.arange(0)
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        return TimeSeries(self.times[rows], self.x[rows], offsets, self.y[indices])

    def duration(self) -> float:
        """Return the longest time from the first to the last row of a series."""
        starts, ends = self.offsets[:-1], self.offsets[1:] - 1
        return float((self.times[ends] - self.times[starts]).max())

    def typical_gap(self) -> float:
        """Return the mean time between neighbouring rows of a series."""
        gaps = np.diff(self.times)
        inside = np.ones(len(gaps), dtype=bool)
        inside[self.offsets[1:-1] - 1] = False
        return float(gaps[inside].mean())


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
            mean, std = np.nanmean(train.x, 0), np.nanstd(train.x, 0)
        settings = {
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


def read_series(path: Path) -> tuple[TimeSeries, TimeSeries, list[str]]:
    """Read training series, test series and class names of a data set of one file.

    Args:
        path: See `TimeSeriesDataModule`.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If a file is missing.
    """
    if path.suffix == ".ts":
        if not path.stem.endswith("_TRAIN"):
            raise ValueError(f"{path}: expected a file `<problem>_TRAIN.ts`")
        test_path = path.with_name(f"{path.stem.removesuffix('_TRAIN')}_TEST.ts")
        (train, classes), (test, others) = read_ts(path), read_ts(test_path)
        if classes != others:
            raise ValueError(f"{test_path}: expected the classes {classes}, got {others}")
        return train, test, classes
    required = ["train_x", "train_y", "test_x", "test_y", "classes"]
    arrays = read_npz(path, required, ["train_offsets", "test_offsets"])
    classes = [str(name) for name in arrays["classes"]]
    train, test = (_from_arrays(path, arrays, split, len(classes)) for split in ("train", "test"))
    return train, test, classes


def read_ts(path: Path) -> tuple[TimeSeries, list[str]]:
    """Read the series of a `.ts` file of the UCR or UEA archive, and the class names.

    Samples are at times 0, 1, 2 and so on; a value `?` is missing.

    Raises:
        ValueError: If the file is broken; the message names it and the line.
        OSError: If it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error})") from error
    classes: list[str] | None = None
    parts, labels, channels = [], [], None
    in_data = False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if not in_data:
            if words[0].lower() == "@classlabel" and words[1:2] == ["true"]:
                classes = words[2:]
            if words[0].lower() == "@timestamps" and words[1:2] == ["true"]:
                raise ValueError(f"{path}, line {number}: expected series without time stamps")
            in_data = words[0].lower() == "@data"
            continue
        *dimensions, label = line.strip().split(":")
        if classes is None or label not in classes or not dimensions:
            raise ValueError(
                f"{path}, line {number}: expected values and one of the classes {classes}, got "
                f"{label[:40]!r}"
            )
        values = [_numbers(path, number, dimension) for dimension in dimensions]
        lengths = {len(each) for each in values}
        if len(lengths) != 1 or channels not in (None, len(values)):
            raise ValueError(
                f"{path}, line {number}: expected {channels or len(values)} dimensions of one "
                f"length, got {len(values)} of {sorted(lengths)}"
            )
        channels = len(values)
        parts.append(np.stack(values, 1))
        labels.append(classes.index(label))
    if not parts or classes is None:
        raise ValueError(f"{path}: expected series after `@data` and their `@classLabel`, got none")
    return _end_to_end(parts, np.array(labels)), classes


def read_physionet(root: Path) -> tuple[TimeSeries, TimeSeries, list[str]]:
    """Read the PhysioNet/CinC Challenge 2012: set-a for training, set-c for the test.

    Times are in hours. Measurements of one minute form one row; a variable that was measured
    several times in a minute has the last value.

    Args:
        root: See `TimeSeriesDataModule`.

    Returns:
        Training series, test series and the class names `survived` and `died`.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If a file is missing.
    """
    classes = ["survived", "died"]
    splits = {"train": "a", "test": "c"}
    if root.suffix == ".npz":
        keys = ("minute", "variable", "value", "offsets", "death")
        names = [f"{split}_{key}" for split in splits for key in keys]
        arrays = read_npz(root, [*names, "variables"])
        count = len(arrays["variables"])
        train, test = (
            _gather(root, [arrays[f"{split}_{key}"] for key in keys], count) for split in splits
        )
        return train, test, classes
    records = {
        split: [
            (path, *read_physionet_record(path), died) for path, died in _outcomes(root, letter)
        ]
        for split, letter in splits.items()
    }
    variables = sorted({name for _, _, names, _, _ in records["train"] for name in names})
    number = {name: index for index, name in enumerate(variables)}
    series = []
    for rows in records.values():
        known = [np.array([name in number for name in names], bool) for _, _, names, _, _ in rows]
        parts = [
            (minutes[kept], [number[name] for name in names if name in number], values[kept])
            for (_, minutes, names, values, _), kept in zip(rows, known, strict=True)
        ]
        minutes, numbers, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        offsets = np.cumsum([0, *(len(part[0]) for part in parts)])
        died = np.array([row[-1] for row in rows])
        measured = [minutes, numbers, values, offsets, died]
        series.append(_gather(root, measured, len(variables)))
    return series[0], series[1], classes


def read_physionet_record(path: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Read one record of the PhysioNet Challenge 2012.

    Returns:
        Minute `[E]`, variable and value `[E]` of every measurement.

    Raises:
        ValueError: If the file is broken; the message names it and the line.
        OSError: If it cannot be read.
    """
    minutes, names, values = [], [], []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        if next(reader, None) != ["Time", "Parameter", "Value"]:
            raise ValueError(f"{path}: expected the columns Time, Parameter, Value")
        for row in reader:
            try:
                time, name, value = row
                hours, minute = time.split(":")
                minutes.append(60 * int(hours) + int(minute))
                values.append(float(value))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected hh:mm, a name and a number, got "
                    f"{','.join(row)[:60]!r}"
                ) from error
            names.append(name)
    kept = [index for index, name in enumerate(names) if name not in ("RecordID", "")]
    order = sorted(kept, key=minutes.__getitem__)
    return (
        np.array([minutes[index] for index in order], np.int64),
        [names[index] for index in order],
        np.array([values[index] for index in order], np.float32),
    )


def _outcomes(root: Path, letter: str) -> list[tuple[Path, int]]:
    """Return the paths of the records of a set that have an outcome, and who died."""
    path = root / f"Outcomes-{letter}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the PhysioNet Challenge 2012 in {root}: set-a, set-c, Outcomes-a.txt and "
            "Outcomes-c.txt (from https://physionet.org/content/challenge-2012/), got no "
            f"{path.name}"
        )
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = ("RecordID", "In-hospital_death")
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected columns {columns}, got {reader.fieldnames}")
        rows = [
            (root / f"set-{letter}" / f"{row[columns[0]]}.txt", row[columns[1]]) for row in reader
        ]
    for record, died in rows:
        if died not in ("0", "1"):
            raise ValueError(f"{path}: expected 0 or 1 for {record.stem}, got {died!r}")
        if not record.is_file():
            raise FileNotFoundError(f"Expected the record {record} of {path}, got no such file")
    if not rows:
        raise ValueError(f"{path}: expected at least one record, got none")
    return [(record, int(died)) for record, died in rows]


def _gather(path: Path, measured: Sequence[np.ndarray], count: int) -> TimeSeries:
    """Return measurements as rows with one column per variable.

    Args:
        path: The file, for error messages.
        measured: Minutes, variables and values of the measurements, `[E]`, in order of their
            minutes, offsets of the records, and who died.
        count: Number of variables.
    """
    minutes, variables, values, offsets, died = measured
    total = len(minutes)
    _check_offsets(path, offsets, len(died), total)
    if not len(variables) == len(values) == total:
        raise ValueError(f"{path}: expected as many minutes as variables and values")
    if total and not 0 <= variables.min() <= variables.max() < count:
        raise ValueError(f"{path}: expected variables from 0 to {count - 1}")
    _check_classes(path, died, 2)
    record = np.repeat(np.arange(len(died)), np.diff(offsets))
    keys = record * (np.int64(minutes.max(initial=0)) + 1) + minutes
    if (np.diff(keys) < 0).any():
        raise ValueError(f"{path}: expected ascending minutes in every record")
    unique, row = np.unique(keys, return_inverse=True)
    x = np.full((len(unique), count), np.nan, np.float32)
    known = values != _UNKNOWN
    x[row[known], variables[known]] = values[known]
    first = np.unique(row, return_index=True)[1]
    lengths = np.bincount(record[first], minlength=len(died))
    return TimeSeries(minutes[first] / _HOURS, x, np.cumsum([0, *lengths]), died.astype(np.int64))


def _from_arrays(
    path: Path, arrays: dict[str, np.ndarray], split: str, num_classes: int
) -> TimeSeries:
    x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
    offsets = arrays.get(f"{split}_offsets")
    expected = 3 if offsets is None else 2
    if x.ndim != expected or x.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected numbers `{split}_x` of {expected} axes, got {x.dtype} of shape "
            f"{list(x.shape)}"
        )
    _check_classes(path, y, num_classes)
    if offsets is None:
        if len(x) != len(y):
            raise ValueError(f"{path}: expected {len(y)} series `{split}_x`, got {len(x)}")
        return _end_to_end([each.T for each in x], y)
    _check_offsets(path, offsets, len(y), x.shape[1])
    ends = zip(offsets[:-1], offsets[1:], strict=True)
    return _end_to_end([x[:, start:end].T for start, end in ends], y)


def _end_to_end(parts: Sequence[np.ndarray], labels: np.ndarray) -> TimeSeries:
    """Return series `[L, C]` at times 0, 1, 2 and so on."""
    return TimeSeries(
        np.concatenate([np.arange(len(part), dtype=np.float64) for part in parts]),
        np.concatenate(parts).astype(np.float32),
        np.cumsum([0, *(len(part) for part in parts)]),
        labels.astype(np.int64),
    )


def _check_offsets(path: Path, offsets: np.ndarray, count: int, total: int) -> None:
    fits = offsets.shape == (count + 1,) and offsets.dtype.kind in "iu"
    if not fits or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
        raise ValueError(
            f"{path}: expected {count + 1} ascending offsets from 0 to {total}, no series empty"
        )


def _check_classes(path: Path, labels: np.ndarray, count: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"{path}: expected whole numbers as labels, got {labels.dtype}")
    if not 0 <= labels.min() <= labels.max() < count:
        raise ValueError(
            f"{path}: expected labels from 0 to {count - 1}, got {labels.min()} to {labels.max()}"
        )


def _numbers(path: Path, line: int, text: str) -> np.ndarray:
    try:
        values = [float("nan" if word.strip() == "?" else word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"{path}, line {line}: expected numbers, got {text[:40]!r} ({error})"
        ) from error
    return np.array(values, np.float32)
