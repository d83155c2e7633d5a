"""The recordings of the Free Spoken Digit Dataset, from whichever form of them there is."""

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

from ..io.download import download, extract_zip
from ..io.npz import read_npz

__all__ = ["SAMPLE_RATE", "Recordings", "find_recordings", "read_wav"]

SAMPLE_RATE = 8000
DIGITS = 10
# Of every digit and speaker, the recordings with these numbers are the test split.
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
        samples: The samples of each, int16 at 8 kHz, `[N]`.
        labels: The digit of each, `[M]`.
    """

    samples: list[np.ndarray]
    labels: np.ndarray


def find_recordings(root: Path, *, fetch: bool = True) -> tuple[Recordings, Recordings]:
    """Reads the recordings of the training and the test split.

    They are taken from the first of these that there is:

    1. the arrays ``fsdd_train.npz`` and ``fsdd_test.npz`` in ``root``. Recording i is
       ``samples[offsets[i]:offsets[i + 1]]``, int16, and ``label[i]`` says which digit it is,
       ``speaker[i]``, if it is there, who speaks;
    2. files ``<digit>_<speaker>_<number>.wav`` in ``root``, in its folder ``recordings`` or in that
       of an extracted archive. Numbers 0 to 4 are the test split, as the data set's authors say;
    3. the archive of release 1.0.10 in ``root``, which is extracted there;
    4. the same from its official host, which is put there.

    Args:
        root: The folder.
        fetch: Whether to download the archive if there is nothing.

    Returns:
        The training and the test split.

    Raises:
        ValueError: If a file is broken, or a split is empty; the message names it.
        OSError: If the data set is not there and cannot be downloaded; the message says what to put
            where by hand.
    """
    paths = [root / f"fsdd_{split}.npz" for split in ("train", "test")]
    if paths[0].is_file():
        return _read_arrays(paths[0]), _read_arrays(paths[1])
    archive = root / _ARCHIVE
    extracted = archive.with_suffix("")
    for folder in (root, root / "recordings", extracted / "recordings"):
        if _wavs(folder):
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
    """Reads a recording, by soundfile where it is installed, otherwise by SciPy.

    Args:
        path: A .wav file of one channel of 16-bit samples at 8 kHz.

    Returns:
        Its samples, int16, `[N]`.

    Raises:
        ValueError: If the file is empty, cut short or broken, or holds anything else; the message
            names it.
        OSError: If it cannot be read.
    """
    _check_complete(path)
    try:
        rate, samples = _decode(path)
    # Decoders raise whatever a broken header leads them to.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected a sound .wav file ({reason})") from error
    if rate != SAMPLE_RATE or samples.dtype != np.int16 or samples.shape[1] != 1:
        raise ValueError(
            f"{path}: expected int16 of one channel at {SAMPLE_RATE} Hz, got {samples.dtype} of "
            f"{samples.shape[1]} at {rate} Hz"
        )
    if len(samples) == 0:
        raise ValueError(f"{path}: expected at least one sample, got none")
    return samples[:, 0]


def _check_complete(path: Path) -> None:
    """Compares the size of a file with what its header says; decoders return what there is."""
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
        # Opened here, because it encodes paths in UTF-8, which not every name is.
        with open(path, "rb") as file:
            # It would convert anything to int16.
            kind = "int16" if soundfile.info(file).subtype == "PCM_16" else "float64"
            file.seek(0)
            samples, rate = soundfile.read(file, dtype=kind, always_2d=True)
        return rate, samples
    with warnings.catch_warnings():
        # Comments and the like, which are of no use here.
        warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, samples = wavfile.read(path)
    return rate, samples if samples.ndim == 2 else samples[:, None]


@cache
def _soundfile() -> Any:
    """Returns the module where it is installed, and with it the library that it needs."""
    try:
        return import_module("soundfile")
    except (ImportError, OSError):
        return None


def _wavs(folder: Path) -> list[Path]:
    """Return the recordings of a folder; hidden files, such as macOS's `._*.wav`, are none."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".wav" and not path.name.startswith(".") and path.is_file()
    )


def _read_folder(folder: Path) -> tuple[Recordings, Recordings]:
    """Reads all .wav files of a folder, in the order of digit, speaker and number."""
    named = []
    for path in _wavs(folder):
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
    """Reads the recordings of one .npz file, which is never unpickled."""
    required = ("samples", "offsets", "label")
    arrays = read_npz(path, (*required, "speaker"))
    missing = [f"`{name}`" for name in required if name not in arrays]
    if missing:
        raise ValueError(f"{path}: expected an array {' and '.join(missing)}, got none")
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
