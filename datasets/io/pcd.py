"""Reader of PCD clouds: ASCII and binary with numpy, compressed ones with open3d."""

from pathlib import Path

import numpy as np

from ccnn_geo.extras import import_extra

__all__ = ["read_pcd", "read_pcd_columns"]

_KINDS = {"F": "f", "I": "i", "U": "u"}
_LONGEST_HEADER = 2**16


def read_pcd(path: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    r"""Read the points of a PCD file, and their normals if there are any.

    Args:
        path: The file.

    Shapes:
        - **output:** points :math:`[N, 3]` in the type of the file, and normals :math:`[N, 3]` or
          None

    Raises:
        ValueError: If the header cannot be parsed or the file is cut short.
        ImportError: If the data are compressed and open3d is not installed.
    """
    columns = read_pcd_columns(path)
    points = np.column_stack([columns[axis] for axis in "xyz"])
    names = ["normal_x", "normal_y", "normal_z"]
    normals = np.column_stack([columns[name] for name in names]) if names[0] in columns else None
    return points, normals


def read_pcd_columns(path: Path | str) -> dict[str, np.ndarray]:
    """Read all fields of a PCD file by their names.

    Args:
        path: The file.

    Returns:
        Arrays `[N]`, or `[N, COUNT]` for fields of several values. Of compressed files, only points
        and normals are read.

    Raises:
        ValueError: If the header cannot be parsed or the file is cut short.
        ImportError: If the data are compressed and open3d is not installed.
    """
    path = Path(path)
    header, body = _split(path)
    row = _row(path, header)
    count = _whole(path, header, "POINTS")[0]
    kind = header["DATA"][0].lower() if header.get("DATA") else ""
    if kind == "binary_compressed":
        return _read_compressed(path, row, count)
    if kind == "ascii":
        return _read_ascii(path, body, row, count)
    if kind != "binary":
        raise ValueError(f"{path}: expected DATA ascii, binary or binary_compressed, got {kind!r}")
    if len(body) < count * row.itemsize:
        raise ValueError(
            f"{path}: expected {count} points of {row.itemsize} bytes, the file is cut short "
            f"after {len(body) // row.itemsize}"
        )
    table = np.frombuffer(body, row, count)
    return {name: table[name] for name in row.names or ()}


def _split(path: Path) -> tuple[dict[str, list[str]], bytes]:
    """Return the entries of the header, and the body."""
    content = path.read_bytes()
    entries: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in entries:
        end = content.find(b"\n", start, start + _LONGEST_HEADER)
        if end < 0:
            raise ValueError(f"{path}: expected the header of a PCD file, which ends with DATA")
        line = content[start:end].decode("ascii", errors="replace").split("#", 1)[0].split()
        if line:
            entries[line[0].upper()] = line[1:]
        start = end + 1
    return entries, content[start:]


def _row(path: Path, header: dict[str, list[str]]) -> np.dtype:
    """Return the type of one point."""
    names = header.get("FIELDS", [])
    sizes, counts = _whole(path, header, "SIZE"), [1] * len(names)
    if "COUNT" in header:
        counts = _whole(path, header, "COUNT")
    kinds = header.get("TYPE", [])
    if not {"x", "y", "z"} <= set(names) or not len(names) == len(sizes) == len(kinds) == len(
        counts
    ):
        raise ValueError(
            f"{path}: expected FIELDS with x, y, z and a SIZE, TYPE and COUNT for each, got "
            f"{names}, {sizes}, {kinds}, {counts}"
        )
    normals = [name for name in ("normal_x", "normal_y", "normal_z") if name in names]
    if len(normals) not in (0, 3):
        raise ValueError(f"{path}: expected normal_x, normal_y and normal_z, got only {normals}")
    fields = []
    for place, (name, size, kind, count) in enumerate(
        zip(names, sizes, kinds, counts, strict=True)
    ):
        if kind not in _KINDS or size not in (1, 2, 4, 8) or (kind == "F" and size == 1):
            raise ValueError(
                f"{path}: expected a TYPE F, I or U of 1 to 8 bytes, got {kind} {size}"
            )
        # Fields of padding are all called "_".
        own = f"_{place}" if name == "_" else name
        scalar = f"<{_KINDS[kind]}{size}"
        fields.append((own, scalar) if count == 1 else (own, scalar, (count,)))
    return np.dtype(fields)


def _read_ascii(path: Path, body: bytes, row: np.dtype, count: int) -> dict[str, np.ndarray]:
    lines = [line.split() for line in body.splitlines() if line.strip()]
    width = sum(int(np.prod(row[name].shape)) for name in row.names or ())
    if len(lines) < count:
        raise ValueError(f"{path}: expected {count} points, the file ends after {len(lines)}")
    try:
        table = np.array(lines[:count], dtype=np.float64).reshape(count, -1)
    except ValueError as error:
        raise ValueError(f"{path}: expected {width} numbers for every point ({error})") from error
    if table.shape[1] != width:
        raise ValueError(f"{path}: expected {width} numbers for every point, got {table.shape[1]}")
    columns, start = {}, 0
    for name in row.names or ():
        shape = row[name].shape
        width = int(np.prod(shape))
        columns[name] = table[:, start : start + width].reshape(-1, *shape)
        start += width
    return columns


def _read_compressed(path: Path, row: np.dtype, count: int) -> dict[str, np.ndarray]:
    if any(row[axis] != np.dtype("<f4") for axis in "xyz"):
        raise ValueError(
            f"{path}: expected compressed coordinates of TYPE F and SIZE 4, got others"
        )
    open3d = import_extra("open3d", f"to read {path}", extra="mesh")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(path)
    points = np.asarray(cloud.points)
    if len(points) != count:
        raise ValueError(f"{path}: expected {count} points, got {len(points)}: it is damaged")
    columns = dict(zip("xyz", points.T, strict=True))
    if cloud.has_normals():
        names = ("normal_x", "normal_y", "normal_z")
        columns |= dict(zip(names, np.asarray(cloud.normals).T, strict=True))
    return columns


def _whole(path: Path, header: dict[str, list[str]], name: str) -> list[int]:
    """Return the integers of an entry of the header."""
    try:
        numbers = [int(token) for token in header[name]]
    except (KeyError, ValueError):
        numbers = []
    if not numbers or min(numbers) < 0:
        raise ValueError(f"{path}: expected whole numbers after {name}, got {header.get(name)}")
    return numbers
