"""Readers of time series: the UCR and UEA archives, and the PhysioNet Challenge 2012.

The measurements of the latter are irregular.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.npz import read_npz
from .ragged import check_offsets

__all__ = ["TimeSeries", "read_physionet", "read_physionet_record", "read_series", "read_ts"]

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
    offsets = check_offsets(path, "offsets", offsets, len(died), total)
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
    if x.ndim != expected or x.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers `{split}_x` of {expected} axes, got {x.dtype} of shape "
            f"{list(x.shape)}"
        )
    if np.isinf(x).any():
        raise ValueError(f"{path}: expected finite `{split}_x`, NaN if missing, got infinity")
    _check_classes(path, y, num_classes)
    if offsets is None:
        if len(x) != len(y):
            raise ValueError(f"{path}: expected {len(y)} series `{split}_x`, got {len(x)}")
        return _end_to_end([each.T for each in x], y)
    offsets = check_offsets(path, f"{split}_offsets", offsets, len(y), x.shape[1])
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


def _check_classes(path: Path, labels: np.ndarray, count: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(
            f"{path}: expected whole numbers as labels, at least one, got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
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
