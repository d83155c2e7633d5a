"""What the tests of the data sets share: small files of every kind."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BOX = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
OPTIONS = {"num_points": 16, "points_per_mesh": 32, "num_processes": 1}


def put(path: Path, content: str = BOX) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def put_classes(root: Path, *names: str) -> Path:
    """Makes two training meshes and one test mesh of every class."""
    for name in names:
        for split, number in (("train", 1), ("train", 2), ("test", 3)):
            put(root / name / split / f"{name}_{number:04d}.off")
    return root


def cloud(num_points: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a ball of points and its normals."""
    normals = np.random.default_rng(seed).standard_normal((num_points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return 3 * normals, normals


def open3d() -> ModuleType:
    """Skips where open3d, or a system library that it needs, is missing."""
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d or a system library that it needs is missing: {error}")
