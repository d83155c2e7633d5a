"""Reader of pickled data that executes nothing."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["read_pickle"]


def read_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, strings, bytes, numbers and arrays of unsigned bytes.

    Pickles can execute code when they are read. Here, no function or class that a file names is
    ever looked up: the few names that NumPy's arrays need stand for classes of this module, and any
    other name is an error. Strings that Python 2 wrote are bytes.

    Args:
        path: The file.

    Returns:
        The content, arrays being read-only.

    Raises:
        ValueError: If the file is broken or holds anything else; the message names it.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _plain(_Unpickler(file).load())
        except Exception as error:  # broken pickles lead to exceptions of any type
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}: expected a pickle of plain data ({reason})") from error


class _Array:
    """Stands for `numpy.ndarray` and the function that reconstructs it."""

    def __init__(self, *arguments: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], Any, bool, bytes]) -> None:
        _, shape, dtype, by_columns, data = state
        if not isinstance(dtype, _UnsignedByte):
            raise pickle.UnpicklingError("expected arrays of unsigned bytes")
        flat = np.frombuffer(data, np.uint8)
        self.array = flat.reshape(shape, order="F" if by_columns else "C")


class _UnsignedByte:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: str | bytes, *arguments: Any) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"expected arrays of unsigned bytes, got {code!r}")

    def __setstate__(self, state: tuple) -> None:
        """Ignore the state: bytes have no byte order."""


class _Encoded:
    """Stands for `_codecs.encode`, which Python 3 calls for bytes in files for Python 2."""

    def __new__(cls, text: str, encoding: str | bytes) -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"expected bytes as latin1, got {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        """Accept no state."""
        raise pickle.UnpicklingError("expected bytes without a state")


# Every name stands for a class with `__setstate__`, so that no file can set its attributes.
_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _UnsignedByte,
    ("_codecs", "encode"): _Encoded,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data; nothing was executed")
        return _ALLOWED[module, name]


def _plain(content: Any) -> Any:
    """Return the content with arrays in place of what stands for them."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map(_plain, content))
    if isinstance(content, _Array) and content.array is not None:
        return content.array
    if not isinstance(content, str | bytes | int | float | None):
        raise pickle.UnpicklingError(f"{type(content).__name__} is not plain data")
    return content
