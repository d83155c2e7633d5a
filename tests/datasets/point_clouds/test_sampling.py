"""How a mesh or a cloud becomes the cloud that is kept."""

import sys

import numpy as np
import pytest

from ccnn_geo.datasets import Geometry, PointCloudFolder
from ccnn_geo.datasets.point_clouds.sampling import Sampling
from datasets_helpers import OPTIONS, cloud

# Metres of a projected grid: the millimetres are lost in float32.
GEOREFERENCED = np.array([[500_000.123, 5_400_000.25, 100.5], [500_000.124, 5_400_001.5, 100.75]])


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.float64),
        (np.int16, np.float32),
        (np.int64, np.float64),
    ],
)
def test_without_normalisation_no_digit_is_lost(stored, kept):
    points = (cloud(20)[0] * 1000).astype(stored)
    found = Sampling(normalize="none").clouds(Geometry(points), "a")[0].rows
    assert found.dtype == kept
    np.testing.assert_array_equal(found, points.astype(kept))


@pytest.mark.parametrize("normalize", ["box", "ball"])
def test_normalised_clouds_are_single_precision(normalize):
    points, normals = cloud(20)
    found = Sampling(normalize=normalize).clouds(Geometry(points, normals=normals), "a")[0].rows
    assert found.dtype == np.float32


def test_normals_of_a_mesh_are_never_estimated(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    mesh = Geometry(np.eye(3), np.array([[0, 1, 2]]))
    found = Sampling(points_per_mesh=8, estimate_normals=True).clouds(mesh, "a")[0].rows
    np.testing.assert_allclose(np.abs(found[:, 3:]), 3**-0.5, rtol=1e-6)
    with pytest.raises(ImportError, match="Expected open3d to estimate normals"):
        Sampling(estimate_normals=True).clouds(Geometry(np.eye(3)), "a")


def test_georeferenced_clouds_go_through_the_cache_exactly(tmp_path):
    """One cloud is of single and one of double precision: the cache is of the larger type."""
    folder = tmp_path / "a/train"
    folder.mkdir(parents=True)
    single = cloud(5)[0].astype(np.float32)
    np.save(folder / "0.npy", single)
    np.save(folder / "1.npy", GEOREFERENCED)
    for _ in range(2):
        train = PointCloudFolder(tmp_path, normalize="none", **OPTIONS)
        np.testing.assert_array_equal(train.clouds[0], single)
        np.testing.assert_array_equal(train.clouds[1], GEOREFERENCED)
        np.testing.assert_array_equal(train[1].pos.numpy(), GEOREFERENCED)
