"""Reader and writer of LAS and LAZ files of airborne and terrestrial laser scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from ccnn_geo.extras import import_extra

__all__ = ["LAS_SUFFIXES", "las_codes", "las_labels", "las_names", "read_las", "write_las"]

LAS_SUFFIXES = (".las", ".laz")
_PURPOSE = "to read and write LAS and LAZ files"
_COORDINATES = ("X", "Y", "Z")
# LAZ needs about two bytes for a point; a header that promises far more is damaged.
_MAX_POINTS_PER_BYTE = 64
_MAX_PLAIN_CODE = 31
_LARGEST_SCALE = 1e-3
_DIGITS = 7
_MAX_MULTIPLE = 2**30
_ANGLE_UNIT = 0.006
_LONGEST_NAME = 32
_OWN_DIMENSIONS = {*_COORDINATES, "classification", "red", "green", "blue", "color", "normal"}
_COLOR_SCALE = 257
"""From colours in 8 bits to the 16 bits of a LAS file."""


_CODES = {
    "clutter": 1, "unclassified": 1, "ground": 2, "low vegetation": 3, "medium vegetation": 4,
    "tree": 5, "vegetation": 5, "high vegetation": 5, "building": 6, "noise": 7, "water": 9,
    "rail": 10, "road": 11,
}  # fmt: skip
"""Codes of the LAS specification by the name of the class, of several names the one to show first;
other classes are numbered from 64 on, its range for users."""
_FIRST_FREE_CODE = 64


def las_codes(classes: Sequence[str]) -> np.ndarray:
    """Return the code of every class in LAS files, `[C]`."""
    codes = [_CODES.get(name, _FIRST_FREE_CODE + number) for number, name in enumerate(classes)]
    return np.array(codes)


def las_names(codes: Sequence[int]) -> list[str]:
    """Return the names of codes in LAS files; numbers for those without."""
    names = {code: name for name, code in reversed(_CODES.items())}
    return [names.get(code, str(code)) for code in codes]


def las_labels(codes: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the classes of points from their codes in a LAS file, -1 for codes of no class.

    Args:
        codes: Codes, `[N]`.
        classes: Names of the classes.
    """
    labels = np.full(len(codes), -1, np.int64)
    for number, code in enumerate(las_codes(classes)):
        labels[codes == code] = number
    return labels


def read_las(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read the points of a LAS or LAZ file with all their dimensions.

    Args:
        path: The file.

    Returns:
        Coordinates `[N, 3]`, float64, as exact as the file has them; and every other dimension by
        its name in laspy, `[N]` or `[N, K]`.

    Raises:
        ValueError: If the file cannot be parsed, a scale is not positive or finite, or points are
            missing.
        ImportError: If laspy, or lazrs for LAZ, is not installed.
    """
    las = _read(path)
    names = [name for name in las.point_format.dimension_names if name not in _COORDINATES]
    return np.asarray(las.xyz, dtype=np.float64), {name: np.array(las[name]) for name in names}


def write_las(
    file: BinaryIO,
    points: np.ndarray,
    codes: np.ndarray,
    *,
    compress: bool,
    colors: np.ndarray | None = None,
    attributes: Mapping[str, np.ndarray] = MappingProxyType({}),
    source: Path | None = None,
) -> None:
    """Write classified points as LAS or LAZ.

    Args:
        file: File to write to.
        points: Coordinates, `[N, 3]`; stored as multiples of 0.001, of less for small scans, or
            of the scale of the source.
        codes: Classification of every point, 0 to 255, `[N]`.
        compress: If True, write LAZ.
        colors: Colours from 0 to 255, `[N, 3]`; not used with a source.
        attributes: Further numbers of the points by name, `[N]`, which become dimensions of
            the format where these have their names and hold them, and extra ones otherwise; not
            used with a source.
        source: A LAS or LAZ file of the same points in the same order, of which header and all
            other dimensions are kept.

    Raises:
        ValueError: If the source cannot be parsed, or has another number of points.
        ImportError: If laspy, or lazrs for LAZ, is not installed.
    """
    laspy = _laspy(compressed=compress)
    if source is None:
        points = points.astype(np.float64)  # whole numbers would overflow
        header = laspy.LasHeader(version="1.4", point_format=7)
        low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
        header.scales = np.full(3, _scale(extent))
        # The offsets are multiples of the scale, so that rounding is all that is lost.
        header.offsets = np.floor(low / header.scales) * header.scales
        las = laspy.LasData(header)
        las.xyz = points
        for name, values in attributes.items():
            if values.ndim == 1 and values.dtype.kind in "fiu" and name not in _OWN_DIMENSIONS:
                _add_dimension(las, name, values)
        if colors is not None:
            las.red, las.green, las.blue = colors.T.astype(np.uint16) * _COLOR_SCALE
    else:
        las = _read(source)
        if len(las.points) != len(points):
            raise ValueError(
                f"{source}: expected {len(points):,} points, got {len(las.points):,} now"
            )
        if codes.max(initial=0) > _MAX_PLAIN_CODE and las.point_format.id < 6:
            # Formats up to 5 have five bits for the class, and the scan angle in whole degrees.
            rank = np.array(las.scan_angle_rank)
            las = laspy.convert(las, point_format_id=_wide_format(las.point_format.id))
            las.scan_angle = np.rint(rank / _ANGLE_UNIT).astype(np.int16)
    las.classification = codes.astype(np.uint8)
    las.write(file, do_compress=compress)


def _add_dimension(las: Any, name: str, values: np.ndarray) -> None:
    """Write numbers to the dimension of their name if they fit it, and to an extra one if not."""
    laspy = _laspy(compressed=False)
    dimensions = {each.name: each for each in las.point_format.dimensions}
    dimension = dimensions.get(name)
    if dimension is not None:
        whole = bool((values == np.floor(values)).all())
        if whole and dimension.min <= values.min() <= values.max() <= dimension.max:
            las[name] = values
            return
        name = f"{name}_"  # for example reflectances below 1 as `intensity`
    name = name[:_LONGEST_NAME]
    las.add_extra_dim(laspy.ExtraBytesParams(name, values.dtype))
    las[name] = values


def _scale(extent: float) -> float:
    """Return a power of ten that resolves points, and whose multiples fit into 31 bits."""
    if extent == 0:
        return _LARGEST_SCALE
    finest = 10.0 ** math.ceil(math.log10((extent + 1) / _MAX_MULTIPLE))
    return max(finest, min(_LARGEST_SCALE, 10.0 ** math.floor(math.log10(extent) - _DIGITS)))


def _wide_format(number: int) -> int:
    """Return the point format with one byte for the class and the same other dimensions."""
    return {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}[number]


def _read(path: Path) -> Any:
    compressed = path.suffix.lower() == ".laz"
    laspy = _laspy(compressed=compressed)
    size = path.stat().st_size
    try:
        with laspy.open(path) as reader:
            header = reader.header
            _check_header(header, size, compressed)
            las = reader.read()
    except ImportError:
        raise
    except Exception as error:  # damaged files lead to exceptions of any type
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected a LAS or LAZ file ({reason})") from error
    if len(las.points) != header.point_count:
        raise ValueError(
            f"{path}: expected {header.point_count:,} points, the file is cut short after "
            f"{len(las.points):,}"
        )
    return las


def _check_header(header: Any, size: int, compressed: bool) -> None:
    scales = np.asarray(header.scales)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(f"expected positive scales of the coordinates, got {scales.tolist()}")
    if not np.isfinite(header.offsets).all():
        raise ValueError(f"expected finite offsets, got {list(header.offsets)}")
    most = size * _MAX_POINTS_PER_BYTE if compressed else size // header.point_format.size
    if header.point_count > most:
        raise ValueError(
            f"expected at most {most:,} points in {size:,} bytes, the header says "
            f"{header.point_count:,}"
        )


def _laspy(*, compressed: bool) -> Any:
    if compressed:
        import_extra("lazrs", _PURPOSE, extra="las")
    return import_extra("laspy", _PURPOSE, extra="las")
