"""Reader of OFF meshes, including the malformed variants of ModelNet."""

import re
from pathlib import Path

import numpy as np

from .polygons import triangulate
from .words import coordinates, numbers

__all__ = ["read_off"]

# The counts may follow the keyword directly, as in `OFF3514 3546 0`; a byte order mark may precede.
_HEADER = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?P<keyword>(?:ST)?C?N?4?n?OFF|off)(?P<binary>[ \t]+BINARY)?\s*"
    rb"(?P<counts>[^\r\n]*)"
)
# Not the `#` of `-1.#IND`, by which some programs write NaN.
_COMMENT = re.compile(rb"(?<![^\s])#[^\r\n]*")
_SUPPORTED = (b"OFF", b"off", b"COFF", b"NOFF", b"CNOFF", b"STOFF")


def read_off(path: Path | str, *, allow_faceless: bool = False) -> tuple[np.ndarray, np.ndarray]:
    r"""Read an OFF mesh and cut its polygons into triangles.

    Supports `OFF` with the counts on the keyword's own line, directly after it or below it, Windows
    line ends, comments, blank lines, polygons of any size, and colours, normals or texture
    coordinates beside vertices and faces (`COFF`, `NOFF`, `STOFF`), which are ignored. Faces of
    fewer than three corners have no surface and are omitted.

    Args:
        path: The file.
        allow_faceless: If True, a file without faces is not an error.

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
    # The first line is the end of the line of the counts.
    body, first = content[header.end() :], len(header[0].splitlines())
    parsed = _parse_triangles(body, num_vertices, num_faces)
    if parsed is None:
        parsed = _parse_lines(body, first, num_vertices, num_faces)
    vertices, faces = parsed
    if len(faces) == 0 and not allow_faceless:
        raise ValueError("expected at least one face, got none")
    return vertices, faces


def _parse_counts(line: bytes) -> tuple[int, int]:
    """Return the numbers of vertices and faces; the number of edges is often wrong or missing."""
    counts = numbers(line.split(), int)
    if len(counts) not in (2, 3) or min(counts) < 0:
        raise ValueError(f"expected the numbers of vertices, faces and edges, got {line[:40]!r}")
    return counts[0], counts[1]


def _parse_triangles(
    body: bytes, num_vertices: int, num_faces: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a body of bare vertices and triangles at once; return None if it is anything else.

    Nearly every file is of this kind, and this is ten times as fast as going line by line.
    """
    ends, lengths = _rows(body)
    if len(ends) <= num_vertices or len(lengths) <= num_vertices + num_faces:
        return None
    rows = np.split(lengths, [1, 1 + num_vertices, 1 + num_vertices + num_faces])
    if any((row != length).any() for row, length in zip(rows, (0, 3, 4, 0), strict=True)):
        return None
    middle = ends[num_vertices]
    try:
        vertices = _numbers(body[:middle], np.float64).reshape(num_vertices, 3)
        faces = _numbers(body[middle:], np.int64).reshape(num_faces, 4)
    except ValueError:
        return None
    sizes, corners = faces[:, 0], faces[:, 1:]
    if (sizes != 3).any() or (corners < 0).any() or (corners >= num_vertices).any():
        return None
    return (vertices, corners) if np.isfinite(vertices).all() else None


def _rows(body: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of line ends, `[L]`, and the number of words of each line, `[L + 1]`."""
    content = np.frombuffer(body, dtype=np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    begins = content > ord(" ")
    begins[1:] &= content[:-1] <= ord(" ")
    words = np.flatnonzero(begins)
    return ends, np.diff(np.searchsorted(words, ends), prepend=0, append=len(words))


def _numbers(text: bytes, dtype: type[np.number]) -> np.ndarray:
    """Read numbers between white space; numpy parses white space alone as a number."""
    return np.fromstring(text, dtype, sep=" ") if text.strip() else np.empty(0, dtype)


def _parse_lines(
    body: bytes, first: int, num_vertices: int, num_faces: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read one vertex or face from every line that is not blank; ignore more on a line.

    Args:
        body: What follows the counts.
        first: Number of the line on which it begins.
        num_vertices: Number of vertices.
        num_faces: Number of faces.
    """
    lines = [
        (number, words)
        for number, line in enumerate(body.splitlines(), first)
        if (words := line.split())
    ]
    if len(lines) < num_vertices + num_faces:
        raise ValueError(
            f"expected {num_vertices} vertices and {num_faces} faces, "
            f"the file ends after {len(lines)} of those {num_vertices + num_faces} lines"
        )
    vertices = np.empty((num_vertices, 3))
    for index, (number, words) in enumerate(lines[:num_vertices]):
        try:
            vertices[index] = coordinates(words)
        except ValueError as error:
            raise ValueError(f"line {number}, vertex {index}: {error}") from error
    faces: list[tuple[int, int, int]] = []
    for index, (number, words) in enumerate(lines[num_vertices : num_vertices + num_faces]):
        try:
            faces.extend(_triangles(words, vertices))
        except ValueError as error:
            raise ValueError(f"line {number}, face {index}: {error}") from error
    return vertices, np.array(faces, dtype=np.int64).reshape(-1, 3)


def _triangles(words: list[bytes], vertices: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut the polygon of one line into triangles."""
    size = numbers(words[:1], int)[0]
    corners = numbers(words[1 : 1 + max(size, 0)], int)
    if size < 0 or len(corners) < size:
        raise ValueError(f"expected {size} corners, the line has {len(corners)}")
    if corners and not 0 <= min(corners) <= max(corners) < len(vertices):
        raise ValueError(
            f"expected indices of {len(vertices)} vertices, got {min(corners)} to {max(corners)}"
        )
    return triangulate(vertices, corners) if size >= 3 else []
