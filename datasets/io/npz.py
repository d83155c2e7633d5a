"""Reader of `.npz` files of plain arrays."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def check_npy_size(path: Path) -> None:
    """Compare the size of an `.npy` file with its header, before memory is allocated.

    Raises:
        ValueError: If the file is too small or does not hold plain numbers.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("expected plain numbers, got pickled objects")
        expected = math.prod(shape) * dtype.itemsize
        there = path.stat().st_size - file.tell()
    if there < expected:
        raise ValueError(f"expected {expected} bytes of shape {list(shape)}, got {there}")


def read_npz(
    path: Path, required: Sequence[str] = (), optional: Sequence[str] | None = ()
) -> dict[str, np.ndarray]:
    """Read arrays of an `.npz` file, without unpickling anything.

    Args:
        path: The file.
        required: Names of arrays that have to exist.
        optional: Names of arrays that may be missing; None for all that there are.

    Raises:
        ValueError: If the file is broken, or if an array is missing or not a plain array.
        OSError: If the file does not exist.
    """
    with open(path, "rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except (EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: expected an .npz file of plain arrays ({error})") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError(f"{path}: expected an .npz file of several arrays, got a single one")
        missing = [f"`{name}`" for name in required if name not in file]
        if missing:
            raise ValueError(f"{path}: expected an array {' and '.join(missing)}, got none")
        names = list(file) if optional is None else [*required, *optional]
        return {name: _read(path, file, name) for name in names if name in file}


def _read(path: Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return file[name]
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a plain array `{name}` ({error})") from error
