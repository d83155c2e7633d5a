"""Reader of .wav files."""

import struct
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

__all__ = ["read_wav"]


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """Read a recording, with soundfile if it is installed and with SciPy otherwise.

    Args:
        path: A .wav file of one channel of 16-bit samples.
        sample_rate: Expected number of samples per second.

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
    if rate != sample_rate or samples.dtype != np.int16 or samples.shape[1] != 1:
        raise ValueError(
            f"{path}: expected int16 of one channel at {sample_rate} Hz, got {samples.dtype} of "
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
