"""Writing files that other processes read, and that survive an interruption."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps every other process out of this block for the same folder."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        hint = f"cannot write here ({error.strerror}); choose another folder, e.g. by `cache_dir`"
        raise OSError(error.errno, hint, str(folder)) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name once it is complete, and not at all otherwise."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that appears under its name once it is complete; NaN becomes null.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
