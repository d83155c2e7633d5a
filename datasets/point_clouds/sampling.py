"""Sampling of meshes and raw clouds."""

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ccnn_geo.transforms.functional import estimate_normals, normalize_positions, sample_faces

from ..io.readers import Geometry

__all__ = ["Normalization", "SampledCloud", "Sampling"]

Normalization = Literal["box", "ball", "none"]


class SampledCloud(NamedTuple):
    """Points of one mesh or raw cloud."""

    rows: np.ndarray
    """Positions and normals, `[N, 6]`, or positions, `[N, 3]`."""
    labels: np.ndarray | None
    """Class of every point, `[N]`, int64, or None if there are none."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the sampling, which together with the source files determine the clouds.

    Attributes:
        points_per_mesh: Number of points sampled from the surface of a mesh. A raw cloud with more
            points is subsampled to as many; one with fewer is kept whole.
        resample: Number of clouds per mesh, each with points of its own.
        normalize: `"box"` moves the centre of mass of a cloud to the origin and scales it to
            [-1, 1], `"ball"` to the unit ball; `"none"` keeps the coordinates.
        estimate_normals: If True, normals of raw clouds without normals are estimated with open3d.
        seed: Seed of the points, together with the name of the mesh.
    """

    points_per_mesh: int = 2048
    resample: int = 1
    normalize: Normalization = "box"
    estimate_normals: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("points_per_mesh", "resample"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, got {getattr(self, name)}")
        if self.normalize not in get_args(Normalization):
            raise ValueError(
                f"Expected `normalize` to be one of {get_args(Normalization)}, "
                f"got {self.normalize!r}"
            )
        if self.seed < 0:
            raise ValueError(f"Expected `seed` to be at least 0, got {self.seed}")

    def clouds(self, geometry: Geometry, name: str) -> list[SampledCloud]:
        """Sample the clouds of one mesh or raw cloud.

        Args:
            geometry: The mesh or raw cloud.
            name: Name within the data set, from which the seeds of the points are derived.

        Returns:
            `resample` clouds. Their rows are float32, or float64 if `normalize="none"` and the
            type of the coordinates does not fit into float32.

        Raises:
            ValueError: If a coordinate is not finite, if there are no points, or if a mesh has no
                area.
        """
        if not np.isfinite(geometry.points).all() or len(geometry.points) == 0:
            raise ValueError(f"{name}: expected at least one point, all of them finite")
        try:
            normals = self._normals(geometry)
            return [
                self._cloud(geometry, normals, _seed(self.seed, name, repetition))
                for repetition in range(self.resample)
            ]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _normals(self, geometry: Geometry) -> np.ndarray | None:
        missing = geometry.normals is None and geometry.faces is None
        if missing and self.estimate_normals:
            return estimate_normals(geometry.points)
        return geometry.normals

    def _cloud(self, geometry: Geometry, normals: np.ndarray | None, seed: int) -> SampledCloud:
        points, labels = geometry.points, geometry.labels
        if geometry.faces is not None:
            points, normals, faces = sample_faces(
                points, geometry.faces, self.points_per_mesh, seed=seed
            )
            labels = None if labels is None else labels[faces]
        elif len(points) > self.points_per_mesh:
            kept = np.random.default_rng(seed).permutation(len(points))[: self.points_per_mesh]
            points, normals = points[kept], None if normals is None else normals[kept]
            labels = None if labels is None else labels[kept]
        # Coordinates far from the origin would lose digits in float32.
        exact = self.normalize == "none" and not np.can_cast(points.dtype, np.float32)
        if self.normalize != "none":
            points = normalize_positions(points.astype(np.float64), self.normalize)
        columns = [points] if normals is None else [points, normals]
        rows = np.concatenate(columns, axis=1).astype(np.float64 if exact else np.float32)
        return SampledCloud(rows, None if labels is None else labels.astype(np.int64))


def _seed(seed: int, name: str, repetition: int) -> int:
    """Derive a seed that does not depend on the order in which the meshes are processed."""
    # File names need not be UTF-8: bytes that are not are written out.
    key = f"{seed}/{repetition}/{name}".encode(errors="backslashreplace")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
