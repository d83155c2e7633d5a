"""Reader of tables of numbers, one row per point, and checks that all readers share."""

import re
import stat
from pathlib import Path

import numpy as np

from .npz import check_npy_size

__all__ = ["check_points", "read_table", "require_regular"]

_SEPARATORS = re.compile(r"[\s,;]+")
_COMMENTS = ("#", "//")


def require_regular(path: Path) -> None:
    """Check that a path is a regular file: reading a pipe or device would not end.

    Raises:
        ValueError: If it is a folder, device or pipe.
        OSError: If it does not exist.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: expected a regular file, got a folder, device or pipe")


def check_points(path: Path, points: np.ndarray) -> None:
    """Check that there are points, all of them finite.

    Args:
        path: The file that they were read from.
        points: Coordinates, `[N, 3]`.

    Raises:
        ValueError: If there are none, or if a coordinate is NaN or infinite.
    """
    if len(points) == 0:
        raise ValueError(f"{path}: expected at least one point, got none")
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path}: expected finite coordinates, got {points[bad[0]].tolist()} for point {bad[0]}"
        )


def read_table(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a table of numbers from an .npy file, or from text with or without names of columns.

    In text, columns are separated by commas or white space. Lines that begin with `#` or `//` are
    comments; the last of them, or one line without either, before the numbers names the columns.

    Args:
        path: The file.

    Returns:
        The names of the columns, empty unless there is one for each and, in a comment, x, y and z
        are among them; and the table, `[N, C]`.

    Raises:
        ValueError: If it is not a table of numbers; the message names the file.
    """
    names: list[str] = []
    commented = False
    try:
        if path.suffix.lower() == ".npy":
            check_npy_size(path)
            table = np.load(path, allow_pickle=False)
        else:
            names, lines, commented = _split_names(
                path.read_text(encoding="utf-8-sig").splitlines()
            )
            # Between commas there has to be one number: empty columns and decimal commas are
            # errors.
            separator = "," if any("," in line for line in lines) else None
            table = np.empty((0, 3))
            if names and not lines:
                raise ValueError("no row of numbers")
            if lines:
                table = np.loadtxt(lines, np.float64, ndmin=2, delimiter=separator)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path}: expected a table of numbers ({error})") from error
    fit = table.shape[1:] == (len(names),)
    # A comment may be about anything.
    fit &= not commented or {"x", "y", "z"} <= {name.lower() for name in names}
    return names if fit else [], table


def _split_names(lines: list[str]) -> tuple[list[str], list[str], bool]:
    """Return the names of the columns, the rows, and whether the names are in a comment."""
    rows = [line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENTS)]
    if rows and not _begins_with_number(rows[0]):
        return _SEPARATORS.split(rows[0].strip()), rows[1:], False
    first = next((number for number, line in enumerate(lines) if rows and line == rows[0]), 0)
    comments = [line.strip().lstrip("#/").strip() for line in lines[:first] if line.strip()]
    return _SEPARATORS.split(comments[-1]) if comments else [], rows, True


def _begins_with_number(line: str) -> bool:
    try:
        float(_SEPARATORS.split(line.strip())[0])
    except ValueError:
        return False
    return True
