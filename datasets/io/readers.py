"""Reader of meshes and point clouds in all supported formats."""

import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccnn_geo.extras import import_extra

from .obj import read_obj
from .off import read_off
from .pcd import read_pcd
from .ply import read_ply
from .tables import check_points, read_table, require_regular

__all__ = ["SUFFIXES", "Geometry", "read_geometry"]

_TABLE_SUFFIXES = (".xyz", ".txt", ".npy")
SUFFIXES = frozenset({".npz", ".obj", ".off", ".pcd", ".ply", ".stl", *_TABLE_SUFFIXES})

NORMAL_TOLERANCE = 1e-2
"""Largest deviation of the length of a unit normal."""


@dataclass(frozen=True)
class Geometry:
    """A triangle mesh, or a point cloud if there are no faces.

    Attributes:
        points: Vertices of the mesh or points of the cloud, `[N, 3]`, in any length unit.
        faces: Corner indices of the triangles, `[F, 3]`, or None for a cloud.
        normals: Unit normals of the points of a cloud, `[N, 3]`, or None if they are unknown.
        labels: Class of every point of a cloud, `[N]`, or of every face of a mesh, `[F]`; None if
            there are none.
    """

    points: np.ndarray
    faces: np.ndarray | None = None
    normals: np.ndarray | None = None
    labels: np.ndarray | None = None


def read_geometry(path: Path | str, *, allow_faceless: bool = False) -> Geometry:
    """Read a mesh (off, ply, obj, stl) or a cloud (ply, obj, pcd, xyz, txt, npy, npz).

    Tables of numbers (xyz, txt, npy) have one point per row and columns that are separated by
    commas or white space. The first three columns are coordinates. Columns four to six are normals
    if all of them have unit length; otherwise they are ignored, like colours and intensities. An
    .npz file holds such a table, or an array `pos` and optionally an array `normal`.

    Args:
        path: The file; its suffix determines the format.
        allow_faceless: If True, an OFF file without faces is a cloud, not an error.

    Returns:
        The mesh or cloud, neither centred nor scaled. Points are finite, indices of faces in range
        and normals of unit length.

    Raises:
        ValueError: If the file is not a regular file, holds no points, or cannot be parsed.
        ImportError: If reading the file needs trimesh, mapbox_earcut or open3d, and it is not
            installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(sorted(SUFFIXES))}, got {suffix!r}")
    require_regular(path)
    if suffix == ".off":
        points, faces = read_off(path, allow_faceless=allow_faceless)
        geometry = Geometry(points, faces if len(faces) else None)
    elif suffix == ".obj":
        points, faces = read_obj(path)
        geometry = Geometry(points, faces if len(faces) else None)
    elif suffix == ".npz":
        geometry = _from_table(path, _read_npz(path))
    elif suffix in _TABLE_SUFFIXES:
        geometry = _from_table(path, read_table(path)[1])
    elif suffix == ".pcd":
        points, normals = read_pcd(path)
        geometry = Geometry(points, normals=normals)
    elif suffix == ".ply":
        points, faces, normals = read_ply(path)
        geometry = Geometry(points, faces) if len(faces) else Geometry(points, normals=normals)
    else:
        geometry = _read_stl(path)
    _check(path, geometry)
    return geometry


def geometry_files(folder: Path) -> list[Path]:
    """Return the files below a folder that `read_geometry` supports, see `files_below`."""
    return files_below(folder, SUFFIXES)


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder with some suffixes, sorted.

    Hidden files and the content of hidden folders, such as caches, are omitted.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def visible_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files of a folder with some suffixes, sorted; none if the folder is missing.

    Hidden files, such as those that macOS leaves in archives, are omitted.
    """
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def _check(path: Path, geometry: Geometry) -> None:
    """Check the result of a reader."""
    points, faces, normals = geometry.points, geometry.faces, geometry.normals
    check_points(path, points)
    if faces is not None and (faces.min() < 0 or faces.max() >= len(points)):
        raise ValueError(
            f"{path}: expected indices of {len(points)} vertices in the faces, got {faces.min()} "
            f"to {faces.max()}"
        )
    if normals is None:
        return
    if normals.shape != points.shape:
        raise ValueError(
            f"{path}: expected a normal for each of {len(points)} points, got {len(normals)}"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(normals.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= NORMAL_TOLERANCE))
    if len(bad):
        raise ValueError(
            f"{path}: expected normals of unit length, got {normals[bad[0]].tolist()} for point "
            f"{bad[0]}"
        )


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in ("pos", "normal") if name in file] or list(file)
            if len(names) == 1 or names == ["pos", "normal"]:
                return np.concatenate([file[name] for name in names], axis=-1)
    # `np.load` of an .npy file with the suffix .npz returns an array, which is no context manager.
    except (EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays ({error})") from error
    raise ValueError(f"{path}: expected an array `pos`, or a single array, got {', '.join(names)}")


def _from_table(path: Path, table: np.ndarray) -> Geometry:
    numeric = table.dtype.kind in "fiu"
    if not numeric or table.ndim != 2 or table.shape[1] < 3:
        raise ValueError(
            f"{path}: expected numbers of shape [N, 3] or [N, 6], "
            f"got {table.dtype} of shape {list(table.shape)}"
        )
    normals = table[:, 3:6].astype(np.float64)
    lengths = np.linalg.norm(normals, axis=1)
    if table.shape[1] < 6 or not np.allclose(lengths, 1, atol=NORMAL_TOLERANCE):
        return Geometry(table[:, :3])
    return Geometry(table[:, :3], normals=normals)


def _read_stl(path: Path) -> Geometry:
    trimesh = import_extra("trimesh", f"to read {path}", extra="mesh")
    try:
        # trimesh accepts only paths in UTF-8.
        with open(path, "rb") as file:
            mesh = trimesh.load_scene(file, file_type="stl", process=False).to_mesh()
    except Exception as error:  # broken files lead to exceptions of any type
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected an STL mesh ({reason})") from error
    if len(mesh.faces) == 0:
        raise ValueError(f"{path}: expected at least one face, got none")
    return Geometry(np.asarray(mesh.vertices), np.asarray(mesh.faces))
