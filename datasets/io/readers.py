"""Readers that turn any supported file into one :class:`Geometry`."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccnn_geo.transforms.functional import import_open3d

from .off import read_off

__all__ = ["SUFFIXES", "Geometry", "read_geometry"]

_TRIMESH_SUFFIXES = (".ply", ".obj", ".stl")
_TABLE_SUFFIXES = (".xyz", ".txt", ".npy")
SUFFIXES = frozenset({".off", ".pcd", ".npz", *_TRIMESH_SUFFIXES, *_TABLE_SUFFIXES})


@dataclass(frozen=True)
class Geometry:
    """A triangle mesh, or a cloud where there are no faces.

    Attributes:
        points: Vertices of the mesh or points of the cloud, `[N, 3]`, in any length unit.
        faces: Corner indices of the triangles, `[F, 3]`, or None for a cloud.
        normals: Unit normals of the points of a cloud, `[N, 3]`, where they are known.
    """

    points: np.ndarray
    faces: np.ndarray | None = None
    normals: np.ndarray | None = None


def read_geometry(path: Path | str, *, allow_faceless: bool = False) -> Geometry:
    """Reads a mesh (off, ply, obj, stl) or a cloud (ply, obj, pcd, xyz, txt, npy, npz).

    Tables of numbers (xyz, txt, npy) have one point per row, its columns separated by commas or
    white space: three coordinates, then anything. Columns four to six are taken for normals where
    they have unit length, and ignored otherwise, as colours and intensities are. An .npz file has
    such a table, or its columns as arrays `pos` and, where they are known, `normal`.

    Args:
        path: The file; its suffix decides how it is read.
        allow_faceless: Whether an OFF file without faces is a cloud, not an error.

    Returns:
        The mesh or the cloud, as it stands in the file.

    Raises:
        ValueError: If the file holds no points, or cannot be understood.
        ImportError: If it takes trimesh or open3d to read it, and that is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(sorted(SUFFIXES))}, got {suffix!r}")
    if suffix == ".off":
        points, faces = read_off(path, allow_faceless=allow_faceless)
        geometry = Geometry(points, faces if len(faces) else None)
    elif suffix == ".npz":
        geometry = _from_table(path, _read_npz(path))
    elif suffix in _TABLE_SUFFIXES:
        geometry = _from_table(path, _read_table(path))
    elif suffix == ".pcd":
        geometry = _read_pcd(path)
    else:
        geometry = _read_trimesh(path)
    if len(geometry.points) == 0:
        raise ValueError(f"{path}: expected at least one point, got none")
    return geometry


def _read_table(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        content = path.read_text()
        if not content.strip():
            return np.empty((0, 3))
        return np.loadtxt(content.replace(",", " ").splitlines(), dtype=np.float64, ndmin=2)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path}: expected a table of numbers ({error})") from error


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in ("pos", "normal") if name in file] or list(file)
            if len(names) == 1 or names == ["pos", "normal"]:
                return np.concatenate([file[name] for name in names], axis=-1)
    # A single array that only calls itself an .npz file is no context.
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
    if table.shape[1] < 6 or not np.allclose(lengths, 1, atol=1e-2):
        return Geometry(table[:, :3])
    return Geometry(table[:, :3], normals=normals)


def _read_pcd(path: Path) -> Geometry:
    open3d = import_open3d(f"to read {path}")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(path)
    normals = np.asarray(cloud.normals) if cloud.has_normals() else None
    return Geometry(np.asarray(cloud.points), normals=normals)


def _read_trimesh(path: Path) -> Geometry:
    try:
        import trimesh
    except ImportError as error:
        hint = f"{path}: meshes are read by trimesh: pip install 'ccnn_geo[mesh]'"
        raise ImportError(hint) from error
    try:
        scene = trimesh.load_scene(path, process=False)
        mesh = scene.to_mesh()
    except Exception as error:  # its parsers raise whatever a broken file leads them to
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected a mesh or a cloud ({reason})") from error
    if len(mesh.faces) > 0:
        return Geometry(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    clouds = [part for part in scene.geometry.values() if isinstance(part, trimesh.PointCloud)]
    if len(clouds) != 1:
        raise ValueError(f"{path}: expected a mesh or one cloud, got {len(clouds)} clouds")
    return Geometry(np.asarray(clouds[0].vertices), normals=_ply_normals(clouds[0].metadata))


def _ply_normals(metadata: dict[str, Any]) -> np.ndarray | None:
    """Takes the normals of a cloud from the columns of its PLY file, where trimesh leaves them."""
    columns = metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})
    names = columns.dtype.names if isinstance(columns, np.ndarray) else columns
    if "nx" not in (names or ()):
        return None
    return np.column_stack([np.ravel(columns[axis]) for axis in ("nx", "ny", "nz")])
