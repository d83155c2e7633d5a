"""Functions on the points of meshes and clouds."""

from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from ccnn_geo.extras import import_extra

__all__ = [
    "NormalizationMethod",
    "check_method",
    "estimate_normals",
    "normalize_positions",
    "sample_faces",
    "sample_surface",
    "subset_indices",
]

Array = TypeVar("Array", np.ndarray, Tensor)
NormalizationMethod = Literal["box", "ball"]


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, num_points: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""Sample points uniformly from the surface of a triangle mesh.

    Args:
        vertices: Vertices of the mesh, in any length unit.
        faces: Corner indices of the triangles.
        num_points: Number of points.
        seed: Seed of the points.

    Shapes:
        - **input:** vertices :math:`[V, 3]`, faces :math:`[F, 3]`
        - **output:** points :math:`[P, 3]`, unit normals of their faces :math:`[P, 3]`, float64

    Raises:
        ValueError: If a vertex is not finite, or if the mesh has no area.
        ImportError: If trimesh is not installed.
    """
    points, normals, _ = sample_faces(vertices, faces, num_points, seed=seed)
    return points, normals


def sample_faces(
    vertices: np.ndarray, faces: np.ndarray, num_points: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Sample points as `sample_surface` does, with the face that each of them lies on.

    Args:
        vertices: Vertices of the mesh, :math:`[V, 3]`.
        faces: Corner indices of the triangles, :math:`[F, 3]`.
        num_points: Number of points, P.
        seed: Seed of the points.

    Returns:
        Points :math:`[P, 3]`, unit normals :math:`[P, 3]` and indices of faces :math:`[P]`.

    Raises:
        ValueError: If a vertex is not finite, or if the mesh has no area.
        ImportError: If trimesh is not installed.
    """
    trimesh = import_extra("trimesh", "to sample meshes", extra="mesh")
    if not np.isfinite(vertices).all():
        raise ValueError("Expected `vertices` to be finite, got NaN or infinity")
    corners = vertices.astype(np.float64)[faces]
    edges = corners[:, [1, 2, 0]] - corners
    crosses = np.cross(edges[:, 0], -edges[:, 2])
    double_areas = np.linalg.norm(crosses, axis=-1)
    # Collinear corners get an area of this order by rounding of the coordinates.
    rounding = np.finfo(np.result_type(vertices, np.float32)).eps * np.abs(vertices).max(initial=0)
    solid = double_areas > 8 * rounding * np.linalg.norm(edges, axis=-1).max(axis=-1, initial=0)
    if not solid.any():
        raise ValueError(f"Expected a mesh with a surface, got zero area in all {len(faces)} faces")
    mesh = trimesh.Trimesh(vertices, faces[solid], process=False)
    areas = double_areas[solid]
    points, index = trimesh.sample.sample_surface(mesh, num_points, face_weight=areas, seed=seed)
    normals = crosses[solid][index] / areas[index, None]
    return np.asarray(points), normals, np.flatnonzero(solid)[index]


def normalize_positions(pos: Array, method: NormalizationMethod = "box") -> Array:
    r"""Move the centre of mass of a cloud to the origin and scale it to unit size.

    Args:
        pos: Positions in any length unit.
        method: `"box"` divides by the largest absolute coordinate, so that the cloud fits into
            :math:`[-1, 1]^D`; `"ball"` divides by the largest norm, so that it fits into the unit
            ball.

    Shapes:
        - **input:** :math:`[N, D]`, an array or a tensor
        - **output:** :math:`[N, D]`, of the same type; all zero if all positions are the same

    Raises:
        ValueError: If the method is unknown.
    """
    check_method(method)
    if len(pos) == 0:
        return pos
    exact: Any = pos.double() if isinstance(pos, Tensor) else pos.astype(np.float64)
    # Relative to the first point, identical points are exactly 0 and a distant origin cancels.
    # Halved, no difference overflows; scaled to 1, no square does.
    centred = 0.5 * exact - 0.5 * exact[:1]
    size = abs(centred).max()
    centred = centred / (size + (size == 0))
    centred = centred - centred.mean(0)
    size = abs(centred).max()
    centred = centred / (size + (size == 0))
    if method == "ball":
        size = (centred * centred).sum(-1).max() ** 0.5
        centred = centred / (size + (size == 0))
    return centred.to(pos.dtype) if isinstance(pos, Tensor) else centred.astype(pos.dtype)


def check_method(method: NormalizationMethod) -> NormalizationMethod:
    """Return a method of `normalize_positions`.

    Raises:
        ValueError: If it is unknown.
    """
    if method not in get_args(NormalizationMethod):
        raise ValueError(f"Expected `method` to be 'box' or 'ball', got {method!r}")
    return method


def estimate_normals(pos: np.ndarray, *, num_neighbors: int = 30) -> np.ndarray:
    r"""Estimate unit normals by fitting a plane to the neighbourhood of every point.

    Normals are oriented away from the centre of mass of the cloud.

    Args:
        pos: Positions of one cloud.
        num_neighbors: Number of points, including the point itself, to which a plane is fitted.

    Shapes:
        - **input:** :math:`[N, 3]`
        - **output:** :math:`[N, 3]`, float64

    Raises:
        ValueError: If there are fewer than three points, or if they are not finite.
        ImportError: If open3d is not installed.
    """
    if len(pos) < 3:
        raise ValueError(f"Expected at least 3 points to estimate normals, got {len(pos)}")
    if not np.isfinite(pos).all():
        raise ValueError("Expected finite points to estimate normals, got NaN or infinity")
    open3d = import_extra("open3d", "to estimate normals", extra="mesh")
    positions = np.asarray(pos, dtype=np.float64)
    # open3d computes covariances as differences of squares, which cancel far from the origin.
    positions = np.ascontiguousarray(positions - positions.mean(axis=0))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(positions))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(num_neighbors))
    normals = np.asarray(cloud.normals)
    outward = (positions * normals).sum(axis=-1, keepdims=True)
    return np.where(outward < 0, -normals, normals)


def subset_indices(
    num_available: int, num_points: int, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw distinct random indices.

    If there are at most `num_points`, all indices are returned in ascending order.

    Args:
        num_available: Number of points to draw from.
        num_points: Number of points to draw.
        generator: Generator; the global one by default.

    Shapes:
        - **output:** :math:`[\min(\text{num\_available}, \text{num\_points})]`, int64
    """
    if num_available <= num_points:
        return torch.arange(num_available)
    return torch.randperm(num_available, generator=generator)[:num_points]
