"""Triangulation of polygons in space."""

import numpy as np

from ccnn_geo.extras import import_extra

__all__ = ["triangulate"]


def triangulate(vertices: np.ndarray, corners: list[int]) -> list[tuple[int, int, int]]:
    """Triangulate a polygon.

    A polygon of which all is seen from its first corner, such as a convex one, becomes a fan. Any
    other is projected along its normal and triangulated by `mapbox_earcut`.

    Args:
        vertices: Vertices of the mesh, `[V, 3]`.
        corners: Indices of the polygon's corners in order; fewer than three have no surface.

    Returns:
        Corner indices of the triangles.

    Raises:
        ImportError: If the polygon does not become a fan and `mapbox_earcut` is not installed.
    """
    fan = [(corners[0], *pair) for pair in zip(corners[1:-1], corners[2:], strict=False)]
    if len(corners) < 4:
        return fan
    ring = vertices[corners] - vertices[corners[0]]
    sectors = np.cross(ring[1:-1], ring[2:])
    normal = sectors.sum(axis=0)
    if not normal.any() or (sectors @ normal >= 0).all():
        return fan
    earcut = import_extra("mapbox_earcut", "for a polygon that is not convex", extra="mesh")
    # Projection onto the two axes in which the polygon has the largest area.
    dropped = int(np.abs(normal).argmax())
    flat = np.ascontiguousarray(np.delete(ring, dropped, axis=1), dtype=np.float64)
    found = earcut.triangulate_float64(flat, np.array([len(corners)], dtype=np.uint32))
    triangles = np.asarray(found, dtype=np.int64).reshape(-1, 3)
    first, second, third = (ring[triangles[:, side]] for side in range(3))
    against = np.cross(second - first, third - first) @ normal < 0
    triangles[against] = triangles[against][:, ::-1]
    return [tuple(corners[i] for i in triangle) for triangle in triangles.tolist()]  # type: ignore[misc]
