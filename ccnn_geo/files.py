"""Reading and writing files that other processes share, and that survive an interruption."""

import json
import math
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ccnn_geo.text import printable

_UNFINISHED = ".tmp"


@contextmanager
def locked(folder: Path, *, timeout: float = -1, setting: str = "cache_dir") -> Iterator[None]:
    """Make a folder and keep every other process out of this block for the same folder.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        folder: The folder, created if necessary.
        timeout: Seconds to wait for another process; without limit if negative.
        setting: Name of the setting that chooses the folder, for the error message.

    Raises:
        TimeoutError: If another process still has the folder; names the folder and the process.
        OSError: If the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    owner = folder.absolute() / ".lock.owner"  # the working directory may change meanwhile
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(f"{folder}: in use by {_read_owner(owner)}") from error
    except OSError as error:
        hint = f"cannot write here ({error.strerror}); choose another folder, e.g. by `{setting}`"
        raise OSError(error.errno, hint, str(folder)) from error
    with held:
        try:
            with atomic_write(owner) as file:
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            owner.unlink(missing_ok=True)


def _read_owner(file: Path) -> str:
    """Return the process that a lock's file names, or something vague if there is none."""
    try:
        return printable(file.read_text(errors="replace")[:100])
    except OSError:
        return "another process"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is complete, and not at all otherwise.

    It is written beside its target, so that the two are on one file system. What stood under the
    name before stays until then.

    Raises:
        OSError: If it cannot be written; names the file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed calls of `atomic_write` left; nobody else may be writing to the folder."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file by `atomic_write`; NaN becomes null.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_write(path) as file:
        file.write((json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is not one; names the file.
        OSError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON file ({error})") from error


def require_entries(path: Path, content: Any, *names: str) -> None:
    """Check that a JSON file holds an object with some entries.

    Raises:
        ValueError: If it does not; names the file and what is missing.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with {', '.join(names)}, got other JSON")
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path}: expected entries {', '.join(names)}, got none {missing}")


def check_name(argument: str, name: str) -> str:
    """Return a name of a file or folder that stays inside the folder where it is put.

    Raises:
        ValueError: If it is empty, has a separator, or is `.` or `..`.
    """
    if name in ("", ".", "..") or any(each in name for each in "/\\\0"):
        raise ValueError(f"Expected `{argument}` to be a name without separators, got {name!r}")
    return name


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
