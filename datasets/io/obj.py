"""Reader of OBJ meshes and clouds: vertices and faces, and nothing else of the format."""

from pathlib import Path

import numpy as np

from .polygons import triangulate
from .words import coordinates, numbers

__all__ = ["read_obj"]


def read_obj(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    r"""Read vertices and faces of an OBJ file, and cut polygons into triangles.

    Materials and textures are not loaded. A negative index counts back from the last vertex above
    the line, as the format defines.

    Args:
        path: The file.

    Shapes:
        - **output:** vertices :math:`[V, 3]`, float64; corner indices of the triangles
          :math:`[F, 3]`, int64, with F = 0 for a cloud

    Raises:
        ValueError: If a line cannot be parsed or an index is out of range; the message names the
            file and the line.
    """
    path = Path(path)
    vertices: list[list[float]] = []
    polygons: list[tuple[int, list[int]]] = []
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        keyword, *tokens = line.split("#", 1)[0].split() or [""]
        try:
            if keyword == "v":
                vertices.append(coordinates(tokens))
            elif keyword == "f":
                polygons.append((number, _corners(tokens, len(vertices))))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    array = np.array(vertices, dtype=np.float64).reshape(-1, 3)
    faces: list[tuple[int, int, int]] = []
    for number, corners in polygons:
        if max(corners) >= len(array):
            raise ValueError(
                f"{path}, line {number}: expected indices of {len(array)} vertices, got "
                f"{max(corners) + 1}"
            )
        faces.extend(triangulate(array, corners))
    return array, np.array(faces, dtype=np.int64).reshape(-1, 3)


def _corners(tokens: list[str], num_vertices: int) -> list[int]:
    """Return the corners of one face, counted from 0; `1/2/3` stands for vertex 1."""
    indices = numbers([token.partition("/")[0] for token in tokens], int)
    if len(indices) < 3:
        raise ValueError(f"expected 3 or more vertices, got {tokens}")
    corners = [index - 1 if index > 0 else num_vertices + index for index in indices]
    if 0 in indices or min(corners) < 0:
        raise ValueError(
            f"expected indices from 1 on, or back from -1 to -{num_vertices}, got "
            f"{min(indices, key=abs)}"
        )
    return corners
