"""Labelled recordings, and those of the Free Spoken Digit Dataset as arrays or .wav files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccnn_geo.files import locked

from ..io.archives import extract_zip
from ..io.download import download
from ..io.npz import read_npz
from ..io.readers import visible_files
from ..io.wav import read_wav
from .ragged import check_ragged

__all__ = ["SAMPLE_RATE", "Recordings", "find_recordings", "recordings_from_arrays"]

SAMPLE_RATE = 8000
_DIGITS = 10
# Numbers of the recordings of every digit and speaker that form the test split.
_TEST_NUMBERS = range(5)
_WAV_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<number>\d+)\.(?i:wav)")
_ARCHIVE = "free-spoken-digit-dataset-1.0.10.zip"
# Release 1.0.10: 3,000 recordings of six speakers.
_URLS = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",
    "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/refs/tags/v1.0.10",
)
_SHA256 = "c680098f5d2355ba7cc4bd8b0ca9e0a24c00ebe3b4c552208889a4d28d4fbc2b"


@dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings of one split.

    Attributes:
        samples: Samples of each recording, int16, `[N]`.
        labels: Class indices, int64, `[M]`.
    """

    samples: list[np.ndarray]
    labels: np.ndarray


def find_recordings(root: Path, *, fetch: bool = True) -> tuple[Recordings, Recordings]:
    """Read the recordings of the training and the test split.

    The first of these sources that exists is used:

    1. the arrays `fsdd_train.npz` and `fsdd_test.npz` in `root`, where recording i has the samples
       `samples[offsets[i]:offsets[i + 1]]`, int16, the digit `label[i]` and optionally the speaker
       `speaker[i]`;
    2. files `<digit>_<speaker>_<number>.wav` in `root`, in its folder `recordings` or in the folder
       `recordings` of an extracted archive; numbers 0 to 4 are the official test split;
    3. the archive of release 1.0.10 in `root`, which is extracted there;
    4. the same archive from its official host, which is downloaded to `root`.

    Args:
        root: The folder.
        fetch: If True, the archive is downloaded if nothing is found.

    Returns:
        The training and the test split.

    Raises:
        ValueError: If a file is broken, or a split is empty; the message names it.
        OSError: If the data set is missing and cannot be downloaded; the message describes the
            manual download.
    """
    paths = [root / f"fsdd_{split}.npz" for split in ("train", "test")]
    if paths[0].is_file():
        return _read_arrays(paths[0]), _read_arrays(paths[1])
    archive = root / _ARCHIVE
    extracted = archive.with_suffix("")
    for folder in (root, root / "recordings", extracted / "recordings"):
        if visible_files(folder, {".wav"}):
            return _read_folder(folder)
    if not fetch and not archive.is_file():
        raise FileNotFoundError(
            f"Expected the Free Spoken Digit Dataset in {root}: its folder `recordings` of .wav "
            f"files, {archive.name} (from {_URLS[0]}) or {paths[0].name}, got none of them"
        )
    with locked(root / ".ccnn_geo"):
        extract_zip(download(_URLS, archive, sha256=_SHA256), extracted)
    return _read_folder(extracted / "recordings")


def _read_folder(folder: Path) -> tuple[Recordings, Recordings]:
    """Read all .wav files of a folder, sorted by digit, speaker and number."""
    named = []
    for path in visible_files(folder, {".wav"}):
        match = _WAV_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path}: expected a name such as 7_jackson_32.wav")
        digit, speaker, number = match.groups()
        named.append((int(digit), speaker, int(number), path))
    named.sort()
    splits = []
    for split, test in (("training", False), ("test", True)):
        chosen = [each for each in named if (each[2] in _TEST_NUMBERS) == test]
        if not chosen:
            raise ValueError(f"{folder}: expected {split} recordings among {len(named)}, got none")
        labels = np.array([digit for digit, *_ in chosen])
        splits.append(Recordings([read_wav(path, SAMPLE_RATE) for *_, path in chosen], labels))
    return splits[0], splits[1]


def _read_arrays(path: Path) -> Recordings:
    """Read the recordings of one .npz file, without unpickling anything."""
    arrays = read_npz(path, ["samples", "offsets", "label"], ["speaker"])
    recordings = recordings_from_arrays(path, arrays, "", _DIGITS)
    if "speaker" in arrays and arrays["speaker"].shape != recordings.labels.shape:
        raise ValueError(
            f"{path}: expected `speaker` of shape {list(recordings.labels.shape)}, got "
            f"{list(arrays['speaker'].shape)}"
        )
    return recordings


def recordings_from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], prefix: str, num_classes: int
) -> Recordings:
    """Return the recordings of three arrays, in which they lie end to end.

    Args:
        path: The file, for error messages.
        arrays: `samples`, int16, `[N]`, `offsets [M + 1]` and `label [M]`, by name. Recording i has
            the samples `samples[offsets[i]:offsets[i + 1]]`.
        prefix: What precedes the names.
        num_classes: Number of classes.

    Raises:
        ValueError: If they do not have the expected shape, type or range.
    """
    names = (f"{prefix}samples", f"{prefix}offsets", f"{prefix}label")
    samples, bounds, labels = check_ragged(path, arrays, names, np.int16, num_classes)
    return Recordings(np.split(samples, bounds[1:-1]), labels)
