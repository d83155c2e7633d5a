"""Reader of PLY files, ASCII and binary, which checks the number of rows and every index."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .polygons import triangulate
from .words import numbers

__all__ = ["read_ply", "read_ply_columns"]

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_FACE_LISTS = ("vertex_indices", "vertex_index")


@dataclass
class _Element:
    """An element of the header, with properties (name, type, type of the length of a list)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read the vertices, faces and vertex normals of a PLY file.

    Args:
        path: The file.

    Returns:
        Vertices `[V, 3]`, float64; corner indices of the triangles `[F, 3]`, int64; normals
        `[V, 3]` or None.

    Raises:
        ValueError: If the header is broken, rows are missing, or an index is out of range.
    """
    try:
        elements = _elements(path.read_bytes())
        vertices, normals = np.empty((0, 3)), None
        if "vertex" in elements:
            vertices = _vectors(elements["vertex"], ("x", "y", "z"))
            if any(name in elements["vertex"] for name in ("nx", "ny", "nz")):
                normals = _vectors(elements["vertex"], ("nx", "ny", "nz"))
        columns = elements.get("face", {})
        names = [name for name in _FACE_LISTS if name in columns]
        return vertices, _triangles(vertices, columns[names[0]] if names else []), normals
    except ValueError as error:
        raise ValueError(f"{path}: expected a mesh or a cloud ({error})") from error


def read_ply_columns(path: Path) -> dict[str, np.ndarray]:
    """Read all numbers of the vertices of a PLY file by the name of their property.

    Args:
        path: The file.

    Returns:
        Arrays `[V]`, in the type of the file; properties that are lists are omitted.

    Raises:
        ValueError: If the header is broken, or rows are missing.
    """
    try:
        columns = _elements(path.read_bytes()).get("vertex", {})
    except ValueError as error:
        raise ValueError(f"{path}: expected a cloud ({error})") from error
    arrays = {name: np.asarray(column) for name, column in columns.items() if _is_flat(column)}
    return {name: array for name, array in arrays.items() if array.ndim == 1}


def _is_flat(column: Any) -> bool:
    return isinstance(column, np.ndarray) or not any(isinstance(each, list) for each in column)


def _elements(content: bytes) -> dict[str, dict[str, Any]]:
    """Return the columns of every element."""
    order, elements, body = _header(content)
    reader = _Ascii(body) if order == "" else _Binary(body, order)
    return {element.name: reader.read(element) for element in elements}


def _triangles(vertices: np.ndarray, polygons: Any) -> np.ndarray:
    if isinstance(polygons, np.ndarray) and polygons.ndim == 2 and polygons.shape[1] == 3:
        return polygons.astype(np.int64)  # `read_geometry` checks indices of triangles
    for number, corners in enumerate(polygons):
        if len(corners) and not 0 <= min(corners) <= max(corners) < len(vertices):
            raise ValueError(
                f"expected indices of {len(vertices)} vertices in the faces, got {min(corners)} to "
                f"{max(corners)} in face {number}"
            )
    cut = [triangle for corners in polygons for triangle in triangulate(vertices, list(corners))]
    return np.array(cut, dtype=np.int64).reshape(-1, 3)


def _vectors(columns: dict[str, Any], names: tuple[str, str, str]) -> np.ndarray:
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"expected properties {', '.join(names)}, got no {', '.join(missing)}")
    return np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in names])


def _header(content: bytes) -> tuple[str, list[_Element], bytes]:
    head, found, body = content.partition(b"end_header")
    lines = [line.split() for line in head.decode("latin-1").splitlines()]
    if not found or not lines or lines[0] != ["ply"]:
        raise ValueError("expected a PLY header from `ply` to `end_header`")
    order, elements = None, list[_Element]()
    for number, words in enumerate(lines[1:], 2):
        match words:
            case ["format", name, _] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, kind, name] if elements and (
                kind in _TYPES and _TYPES.get(length, "f")[0] in "iu"
            ):
                elements[-1].properties.append((name, _TYPES[kind], _TYPES[length]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind], None))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise ValueError(f"line {number}: unknown header line {' '.join(words)!r}")
    if order is None:
        raise ValueError("expected a line `format` in the header")
    body = body[2:] if body.startswith(b"\r\n") else body[1:]
    return order, elements, body


class _Ascii:
    """Reader of the rows of an ASCII file."""

    def __init__(self, body: bytes) -> None:
        self.lines = iter([tokens for line in body.splitlines() if (tokens := line.split())])

    def read(self, element: _Element) -> dict[str, Any]:
        columns: dict[str, list] = {name: [] for name, _, _ in element.properties}
        for row in range(element.count):
            tokens = next(self.lines, None)
            if tokens is None:
                raise ValueError(f"expected {element.count} rows of `{element.name}`, got {row}")
            start = 0
            try:
                for name, kind, length in element.properties:
                    convert = float if kind[0] == "f" else int
                    size = 1 if length is None else numbers(tokens[start : start + 1], int)[0]
                    start += length is not None
                    values = numbers(tokens[start : start + size], convert)
                    if size < 0 or len(values) != size:
                        raise ValueError(f"the row ends within `{name}`")
                    start += size
                    columns[name].append(values[0] if length is None else values)
            except (ValueError, IndexError) as error:
                raise ValueError(f"`{element.name}` row {row}: {error}") from error
            if start != len(tokens):
                raise ValueError(
                    f"`{element.name}` row {row}: expected {start} values, got {len(tokens)}"
                )
        return columns


class _Binary:
    """Reader of the rows of a binary file."""

    def __init__(self, body: bytes, order: str) -> None:
        self.body, self.order, self.start = body, order, 0

    def read(self, element: _Element) -> dict[str, Any]:
        sizes: dict[str, int] = {}
        start = self.start
        # The usual case: every list is as long as the first row's.
        fields: list[tuple] = []
        for number, (name, kind, length) in enumerate(element.properties):
            if length is not None and element.count:
                sizes[name] = int(self._take(start, length, 1)[0])
                fields.append((f"length {number}", self.order + length))
                start += np.dtype(length).itemsize
            size = sizes.get(name, 1)
            fields.append(
                (name, self.order + kind, (size,)) if name in sizes else (name, self.order + kind)
            )
            start += max(size, 0) * np.dtype(kind).itemsize
        if not element.count or not fields:
            return {name: [] for name, _, _ in element.properties}
        if min(sizes.values(), default=0) >= 0:
            dtype = np.dtype(fields)
            if self.start + element.count * dtype.itemsize <= len(self.body):
                rows = np.frombuffer(self.body, dtype, element.count, self.start)
                lengths = [
                    (rows[f"length {number}"] == sizes[name]).all()
                    for number, (name, _, length) in enumerate(element.properties)
                    if length is not None
                ]
                if all(lengths):
                    self.start += element.count * dtype.itemsize
                    return {name: rows[name] for name, _, _ in element.properties}
        return self._rows(element)

    def _rows(self, element: _Element) -> dict[str, Any]:
        columns: dict[str, list] = {name: [] for name, _, _ in element.properties}
        for _ in range(element.count):
            for name, kind, length in element.properties:
                size = 1
                if length is not None:
                    size = int(self._take(self.start, length, 1)[0])
                    self.start += np.dtype(length).itemsize
                values = self._take(self.start, kind, size).tolist()
                self.start += size * np.dtype(kind).itemsize
                columns[name].append(values[0] if length is None else values)
        return columns

    def _take(self, start: int, kind: str, count: int) -> np.ndarray:
        if count < 0 or start + count * np.dtype(kind).itemsize > len(self.body):
            raise ValueError("the file is cut short")
        return np.frombuffer(self.body, self.order + kind, count, start)
