"""How a mesh or a raw cloud becomes the cloud that is kept."""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ccnn_geo.transforms.functional import estimate_normals, normalize_positions, sample_surface

from ..io.readers import Geometry

__all__ = ["Normalization", "Sampling"]

Normalization = Literal["box", "ball", "none"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A recipe: everything besides the source files that the kept clouds depend on.

    Attributes:
        points_per_mesh: Points drawn from the surface of a mesh. A raw cloud with more points is
            thinned to as many, one with fewer is kept whole.
        resample: Clouds made of every mesh, each from points of its own.
        normalize: ``"box"`` moves the centre of mass of a cloud to the origin and scales it to the
            box [-1, 1], ``"ball"`` to the unit ball, ``"none"`` leaves it as it is.
        estimate_normals: Whether a raw cloud without normals gets estimated ones.
        seed: Seed of the points. Those of one mesh depend on it and on the mesh's name alone.
    """

    points_per_mesh: int = 2048
    resample: int = 1
    normalize: Normalization = "box"
    estimate_normals: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
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

    def clouds(self, geometry: Geometry, name: str) -> list[np.ndarray]:
        """Makes the clouds of one mesh or raw cloud.

        Args:
            geometry: The mesh or raw cloud.
            name: Its name within the data set; the seeds of its points are derived from it.

        Returns:
            `resample` clouds of shape `[N, 6]`, positions then normals, or `[N, 3]` if normals are
            neither known nor to be estimated. They are float32, but for `normalize="none"`, which
            keeps coordinates in double precision exactly.

        Raises:
            ValueError: If a coordinate is not finite, if there are no points, or if a mesh has no
                area.
        """
        if not np.isfinite(geometry.points).all() or len(geometry.points) == 0:
            raise ValueError(f"{name}: expected at least one point, all of them finite")
        try:
            points, normals = geometry.points, self._normals(geometry)
            return [
                self._cloud(points, normals, geometry.faces, _seed(self.seed, name, repetition))
                for repetition in range(self.resample)
            ]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _normals(self, geometry: Geometry) -> np.ndarray | None:
        missing = geometry.normals is None and geometry.faces is None
        if missing and self.estimate_normals:
            return estimate_normals(geometry.points)
        return geometry.normals

    def _cloud(
        self, points: np.ndarray, normals: np.ndarray | None, faces: np.ndarray | None, seed: int
    ) -> np.ndarray:
        if faces is not None:
            points, normals = sample_surface(points, faces, self.points_per_mesh, seed=seed)
        elif len(points) > self.points_per_mesh:
            kept = np.random.default_rng(seed).permutation(len(points))[: self.points_per_mesh]
            points, normals = points[kept], None if normals is None else normals[kept]
        # Coordinates far from the origin would lose digits in float32.
        exact = self.normalize == "none" and not np.can_cast(points.dtype, np.float32)
        if self.normalize != "none":
            points = normalize_positions(points.astype(np.float64), self.normalize)
        columns = [points] if normals is None else [points, normals]
        return np.concatenate(columns, axis=1).astype(np.float64 if exact else np.float32)


def _seed(seed: int, name: str, repetition: int) -> int:
    """Derive a seed that does not depend on the order in which the meshes are processed."""
    # File names need not be UTF-8: bytes that are not are written out.
    key = f"{seed}/{repetition}/{name}".encode(errors="backslashreplace")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
