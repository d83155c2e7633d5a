"""Recordings of the Free Spoken Digit Dataset, as arrays or as .wav files."""

import re
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from ccnn_geo.files import locked

from ..io.archives import extract_zip
from ..io.download import download
from ..io.npz import read_npz
from ..io.readers import visible_files

__all__ = ["SAMPLE_RATE", "Recordings", "find_recordings", "read_wav"]

SAMPLE_RATE = 8000
DIGITS = 10
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
        samples: Samples of each recording, int16 at 8 kHz, `[N]`.
        labels: Digits, `[M]`.
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


def read_wav(path: Path) -> np.ndarray:
    """Read a recording, with soundfile if it is installed and with SciPy otherwise.

    Args:
        path: A .wav file of one channel of 16-bit samples at 8 kHz.

    Returns:
        The samples, int16, `[N]`.

    Raises:
        ValueError: If the file is empty, cut short, broken or of another format; the message names
            it.
        OSError: If it cannot be read.
    """
    _check_complete(path)
    try:
        rate, samples = _decode(path)
    except Exception as error:  # broken files lead to exceptions of any type
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected a valid .wav file ({reason})") from error
    if rate != SAMPLE_RATE or samples.dtype != np.int16 or samples.shape[1] != 1:
        raise ValueError(
            f"{path}: expected int16 of one channel at {SAMPLE_RATE} Hz, got {samples.dtype} of "
            f"{samples.shape[1]} at {rate} Hz"
        )
    if len(samples) == 0:
        raise ValueError(f"{path}: expected at least one sample, got none")
    return samples[:, 0]


def _check_complete(path: Path) -> None:
    """Compare the size of a file with its header; decoders accept incomplete files."""
    with open(path, "rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        found = f"one that begins with {header!r}" if header else "an empty one"
        raise ValueError(f"{path}: expected a .wav file, got {found}")
    (size,) = struct.unpack("<I", header[4:8])
    actual = path.stat().st_size
    if size + 8 > actual:
        raise ValueError(f"{path}: expected {size + 8:,} bytes, got {actual:,}: it is cut short")


def _decode(path: Path) -> tuple[int, np.ndarray]:
    """Return the sample rate and the samples, `[N, channels]`."""
    soundfile = _soundfile()
    if soundfile is not None:
        # soundfile accepts only paths in UTF-8.
        with open(path, "rb") as file:
            # With "int16", it would convert samples of any type.
            kind = "int16" if soundfile.info(file).subtype == "PCM_16" else "float64"
            file.seek(0)
            samples, rate = soundfile.read(file, dtype=kind, always_2d=True)
        return rate, samples
    with warnings.catch_warnings():
        # Comments and other metadata are ignored.
        warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, samples = wavfile.read(path)
    return rate, samples if samples.ndim == 2 else samples[:, None]


@cache
def _soundfile() -> Any:
    """Return the module, or None if it, or the library that it needs, is not installed."""
    try:
        return import_module("soundfile")
    except (ImportError, OSError):
        return None


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
        splits.append(Recordings([read_wav(path) for *_, path in chosen], labels))
    return splits[0], splits[1]


def _read_arrays(path: Path) -> Recordings:
    """Read the recordings of one .npz file, without unpickling anything."""
    arrays = read_npz(path, ["samples", "offsets", "label"], ["speaker"])
    samples, offsets, label = arrays["samples"], arrays["offsets"], arrays["label"]
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise ValueError(
            f"{path}: expected int16 `samples` of shape [N], got {samples.dtype} of shape "
            f"{list(samples.shape)}"
        )
    if label.ndim != 1 or label.dtype.kind not in "iu" or len(label) == 0:
        raise ValueError(
            f"{path}: expected whole numbers `label` of shape [M], got {label.dtype} of shape "
            f"{list(label.shape)}"
        )
    if not 0 <= label.min() <= label.max() < DIGITS:
        raise ValueError(
            f"{path}: expected digits `label` from 0 to 9, got {label.min()} to {label.max()}"
        )
    if offsets.shape != (len(label) + 1,) or offsets.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers `offsets` of shape [{len(label) + 1}], one more than "
            f"there are labels, got {offsets.dtype} of shape {list(offsets.shape)}"
        )
    bounds = offsets.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(samples) or (np.diff(bounds) < 1).any():
        raise ValueError(
            f"{path}: expected `offsets` that rise from 0 to {len(samples)}, the number of samples"
        )
    if "speaker" in arrays and arrays["speaker"].shape != label.shape:
        raise ValueError(
            f"{path}: expected `speaker` of shape {list(label.shape)}, got "
            f"{list(arrays['speaker'].shape)}"
        )
    return Recordings(np.split(samples, bounds[1:-1]), label.astype(np.int64))
