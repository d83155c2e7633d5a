"""Reader of OFF meshes, in every variant that ModelNet and its relatives come in."""

import re
from pathlib import Path

import numpy as np

from .polygons import triangulate

__all__ = ["read_off"]

# The counts may be glued to the keyword, as in `OFF3514 3546 0`; a byte order mark may precede it.
_HEADER = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?P<keyword>(?:ST)?C?N?4?n?OFF|off)(?P<binary>[ \t]+BINARY)?\s*"
    rb"(?P<counts>[^\r\n]*)"
)
# Not the `#` of `-1.#IND`, by which some programs write NaN.
_COMMENT = re.compile(rb"(?<![^\s])#[^\r\n]*")
_SUPPORTED = (b"OFF", b"off", b"COFF", b"NOFF", b"CNOFF", b"STOFF")


def read_off(path: Path | str, *, allow_faceless: bool = False) -> tuple[np.ndarray, np.ndarray]:
    r"""Reads an OFF mesh and cuts its polygons into triangles.

    Understands ``OFF`` with the counts on the keyword's own line, glued to it or below it, Windows
    line ends, comments, blank lines, polygons of any size, and colours, normals or texture
    coordinates beside vertices and faces (``COFF``, ``NOFF``, ``STOFF``), which are ignored. Faces
    of fewer than three corners have no surface and are left out.

    Args:
        path: The file.
        allow_faceless: Whether a file of vertices alone is read too.

    Shapes:
        - **output:** vertices :math:`[V, 3]`, float64, in the file's own length unit; corner
          indices of the triangles :math:`[F, 3]`, int64

    Raises:
        ValueError: If the file is empty, cut short, binary, not an OFF file, or without faces, or
            if an index is negative or out of range, or a coordinate not finite.
    """
    path = Path(path)
    try:
        return _parse(path.read_bytes(), allow_faceless)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(content: bytes, allow_faceless: bool) -> tuple[np.ndarray, np.ndarray]:
    if not content.strip():
        raise ValueError("the file is empty")
    if b"#" in content:
        content = _COMMENT.sub(b"", content)
    header = _HEADER.match(content)
    if header is None or header["keyword"] not in _SUPPORTED or header["binary"]:
        raise ValueError(f"expected an ASCII OFF file, got one that starts with {content[:20]!r}")
    num_vertices, num_faces = _parse_counts(header["counts"])
    body = content[header.end() :]
    parsed = _parse_triangles(body, num_vertices, num_faces)
    if parsed is None:
        parsed = _parse_lines(body, num_vertices, num_faces)
    vertices, faces = parsed
    if not np.isfinite(vertices).all():
        raise ValueError("expected finite coordinates, got NaN or infinity")
    if len(faces) == 0:
        if allow_faceless:
            return vertices, faces
        raise ValueError("expected at least one face, got none")
    if faces.min() < 0 or faces.max() >= num_vertices:
        low, high = faces.min(), faces.max()
        raise ValueError(
            f"expected indices of {num_vertices} vertices in the faces, got {low} to {high}"
        )
    return vertices, faces


def _parse_counts(line: bytes) -> tuple[int, int]:
    """Reads the numbers of vertices and faces; the number of edges is often wrong or missing."""
    try:
        counts = [int(token) for token in line.split()]
    except ValueError:
        counts = []
    if len(counts) not in (2, 3) or min(counts) < 0:
        raise ValueError(f"expected the numbers of vertices, faces and edges, got {line[:40]!r}")
    return counts[0], counts[1]


def _parse_triangles(
    body: bytes, num_vertices: int, num_faces: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads a body of bare vertices and triangles at once; returns None if it holds other things.

    Nearly every file is of this kind, and this is ten times as fast as going line by line.
    """
    ends = np.flatnonzero(np.frombuffer(body, dtype=np.uint8) == ord("\n"))
    # The line of the counts still has its end.
    if len(ends) <= num_vertices:
        return None
    middle = ends[num_vertices]
    try:
        vertices = _numbers(body[:middle], np.float64)
        faces = _numbers(body[middle:], np.int64)
    except ValueError:
        return None
    if len(vertices) != 3 * num_vertices or len(faces) != 4 * num_faces:
        return None
    faces = faces.reshape(-1, 4)
    if (faces[:, 0] != 3).any():
        return None
    return vertices.reshape(-1, 3), faces[:, 1:]


def _numbers(text: bytes, dtype: type[np.number]) -> np.ndarray:
    """Read numbers between white space; numpy takes white space alone for a number."""
    return np.fromstring(text, dtype, sep=" ") if text.strip() else np.empty(0, dtype)


def _parse_lines(body: bytes, num_vertices: int, num_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one vertex or face from every line that is not blank; more on a line is ignored."""
    lines = [line for line in (line.split() for line in body.splitlines()) if line]
    if len(lines) < num_vertices + num_faces:
        raise ValueError(
            f"expected {num_vertices} vertices and {num_faces} faces, "
            f"the file ends after {len(lines)} of those {num_vertices + num_faces} lines"
        )
    vertices = np.empty((num_vertices, 3))
    for number, line in enumerate(lines[:num_vertices]):
        try:
            coordinates = [float(token) for token in line[:3]]
            if len(coordinates) != 3:
                raise ValueError(len(coordinates))
            vertices[number] = coordinates
        except ValueError as error:
            raise ValueError(f"vertex {number}: expected 3 coordinates, got {line[:3]}") from error
    faces: list[tuple[int, int, int]] = []
    for number, line in enumerate(lines[num_vertices : num_vertices + num_faces]):
        faces.extend(_triangles(number, line, vertices))
    return vertices, np.array(faces, dtype=np.int64).reshape(-1, 3)


def _triangles(number: int, line: list[bytes], vertices: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut the polygon of one line into triangles."""
    try:
        size = int(line[0])
        corners = [int(token) for token in line[1 : 1 + max(size, 0)]]
    except ValueError as error:
        raise ValueError(f"face {number}: expected whole numbers, got {line[:5]}") from error
    if size < 0 or len(corners) < size:
        raise ValueError(f"face {number}: expected {size} corners, the line has {len(corners)}")
    if corners and not 0 <= min(corners) <= max(corners) < len(vertices):
        raise ValueError(
            f"expected indices of {len(vertices)} vertices in the faces, got {min(corners)} to "
            f"{max(corners)}"
        )
    return triangulate(vertices, corners) if size >= 3 else []
