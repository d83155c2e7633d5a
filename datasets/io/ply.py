"""Checks of PLY files that decoders leave out: whether everything that the header says is there."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["check_ply"]

_BYTES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8,
    "float64": 8,
}  # fmt: skip
_LONGEST_HEADER = 2**16


Order = Literal["little", "big"]


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[list[str]]


def check_ply(path: Path) -> None:
    """Check that a PLY file holds as many rows as its header says, and whole normals.

    Raises:
        ValueError: If the header cannot be understood, the file is cut short, or a vertex has some
            components of a normal and not others.
    """
    with open(path, "rb") as file:
        start = file.read(_LONGEST_HEADER)
        end = start.find(b"end_header")
        newline = start.find(b"\n", end)
        if not start.startswith(b"ply") or end < 0 or newline < 0:
            raise ValueError(f"{path}: expected a PLY file with a header that ends")
        lines = start[:end].decode("ascii", errors="replace").splitlines()
        kind, elements = _parse(path, lines)
        file.seek(newline + 1)
        body = file.read()
    for element in elements:
        normals = [p[-1] for p in element.properties if p[-1] in ("nx", "ny", "nz")]
        if len(normals) not in (0, 3):
            raise ValueError(f"{path}: expected normals nx, ny and nz, got only {normals}")
    if kind == "ascii":
        _check_rows(path, body, elements)
    else:
        _check_bytes(path, body, elements, "big" if kind == "binary_big_endian" else "little")


def _parse(path: Path, lines: list[str]) -> tuple[str, list[_Element]]:
    kind, elements = "", []
    try:
        for line in lines[1:]:
            keyword, *words = line.split() or [""]
            if keyword == "format":
                kind = words[0]
            elif keyword == "element":
                elements.append(_Element(words[0], int(words[1]), []))
            elif keyword == "property":
                if any(word not in _BYTES for word in words[(words[0] == "list") : -1]):
                    raise ValueError(line)
                elements[-1].properties.append(words)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: expected the header of a PLY file, got {line!r}") from error
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"{path}: expected a format ascii or binary, got {kind!r}")
    if any(element.rows < 0 for element in elements):
        raise ValueError(f"{path}: expected numbers of elements from 0 on, got a negative one")
    return kind, elements


def _check_rows(path: Path, body: bytes, elements: list[_Element]) -> None:
    lines = [line for line in body.splitlines() if line.strip()]
    place = 0
    for element in elements:
        if len(lines) - place < element.rows:
            raise ValueError(
                f"{path}: expected {element.rows} rows of `{element.name}`, the file ends after "
                f"{max(len(lines) - place, 0)}"
            )
        place += element.rows
        if element.rows and not any(p[0] == "list" for p in element.properties):
            last = lines[place - 1].split()
            if len(last) < len(element.properties):
                raise ValueError(
                    f"{path}: expected {len(element.properties)} values in the last row of "
                    f"`{element.name}`, got {len(last)}"
                )


def _check_bytes(path: Path, body: bytes, elements: list[_Element], order: Order) -> None:
    place = 0
    for element in elements:
        if any(p[0] == "list" for p in element.properties):
            place = _end_of_lists(body, place, element, order)
        else:
            place += element.rows * sum(_BYTES[p[0]] for p in element.properties)
        if place > len(body):
            raise ValueError(
                f"{path}: expected {element.rows} rows of `{element.name}`, the file is cut short "
                f"by {place - len(body)} bytes"
            )


def _end_of_lists(body: bytes, place: int, element: _Element, order: Order) -> int:
    """Return where the rows of an element end, some of whose properties are lists."""
    if len(element.properties) == 1 and element.rows:
        # Nearly always, all rows are triangles: one look at every count instead of a loop.
        _, kind, item, _ = element.properties[0]
        width = _BYTES[kind]
        row = width + int.from_bytes(body[place : place + width], order) * _BYTES[item]
        end = place + element.rows * row
        if end <= len(body):
            rows = np.frombuffer(body, np.uint8, element.rows * row, place).reshape(-1, row)
            if (rows[:, :width] == rows[:1, :width]).all():
                return end
    for _ in range(element.rows):
        for words in element.properties:
            if words[0] == "list":
                width = _BYTES[words[1]]
                length = int.from_bytes(body[place : place + width], order)
                place += width + length * _BYTES[words[2]]
            else:
                place += _BYTES[words[0]]
        if place > len(body):
            return place
    return place
