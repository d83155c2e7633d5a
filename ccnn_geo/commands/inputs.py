"""Arguments that `predict` and `segment` share, and checks before anything is computed."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def add_input_arguments(parser: argparse.ArgumentParser, files: str, html: str) -> None:
    """Declare the files, the weights, the device and the forms of the output.

    Args:
        parser: The parser of a command.
        files: Help for the files.
        html: Help for the interactive page.
    """
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=files)
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_FOLDER",
        help="trained weights: a name listed by `info`, or a folder (default: see `info`)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where the network runs: cpu, cuda, ... (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--html", type=Path, metavar="FILE", help=html)


def expand(path: Path, find: Callable[[Path], list[Path]]) -> list[Path]:
    """Return the files in a folder, or the path itself if it is none or has none.

    Args:
        path: A file or folder.
        find: Returns the files below a folder.
    """
    return (find(path) if os.path.isdir(path) else []) or [path]


def check_page(file: Path) -> None:
    """Check that an interactive page can be drawn and written.

    Raises:
        ImportError: If plotly is not installed.
        OSError: If the file cannot be written.
    """
    from ccnn_geo.visualization.interactive import require_plotly

    require_plotly()
    if file.is_dir():
        raise IsADirectoryError(f"{file}: expected a file for the page, got a folder")
    check_writable(file)


def check_writable(file: Path) -> None:
    """Check that a file can be written to its folder.

    Raises:
        OSError: If it cannot; names the file.
    """
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise OSError(f"{file}: the file cannot be written ({error.strerror})") from error


def check_device(name: str) -> None:
    """Check that a device exists.

    Raises:
        ValueError: If it is CUDA and there is none.
        RuntimeError: If there is no such device.
    """
    import torch

    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"Expected `--device` to be one that `info` lists, got {name!r}")


def message(file: Path, error: Exception) -> str:
    """Return the message of an error, with the file that it is about."""
    known = isinstance(error, (ImportError, OSError, ValueError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return text if str(file) in text else f"{file}: {text}"
