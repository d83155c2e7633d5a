"""Real files, recorded and modelled by people outside this project, where they are at hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from ccnn_geo.datasets import ModelNet, PointCloudArrays, PointCloudFolder, read_geometry, read_off
from ccnn_geo.datasets.io.archives import extract_zip
from ccnn_geo.transforms.functional import sample_surface

DATA = Path(__file__).parents[3] / "shared" / "data"
MESHES = sorted((DATA / "meshes").glob("*.off"))
OPTIONS = {"num_points": 512, "points_per_mesh": 2048, "num_processes": 1}

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the folder of real data, {DATA}, is missing"
)


@pytest.mark.parametrize("path", MESHES, ids=[path.stem for path in MESHES])
class TestMeshes:
    def test_are_read_as_trimesh_reads_them(self, path):
        vertices, faces = read_off(path)
        reference = trimesh.load_mesh(path, process=False)
        np.testing.assert_allclose(vertices, reference.vertices)
        np.testing.assert_array_equal(faces, reference.faces)

    def test_are_read_with_a_glued_header_and_windows_line_ends(self, path, tmp_path):
        glued = path.read_bytes().replace(b"OFF\n", b"OFF", 1).replace(b"\n", b"\r\n")
        (tmp_path / "glued.off").write_bytes(glued)
        for found, expected in zip(read_off(tmp_path / "glued.off"), read_off(path), strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_give_points_on_their_surface_with_the_normals_of_faces(self, path):
        vertices, faces = read_off(path)
        points, normals = sample_surface(vertices, faces, 300, seed=0)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-12)
        corners = vertices[faces]
        crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = np.linalg.norm(crosses, axis=1, keepdims=True)
        solid = areas[:, 0] > 0
        units = crosses[solid] / areas[solid]
        # Distance from each point to the plane of each face that has its normal.
        offsets = np.einsum("pfk,fk->pf", points[:, None] - corners[solid, 0], units)
        unlike = np.linalg.norm(normals[:, None] - units, axis=2) > 1e-6
        size = np.ptp(vertices, axis=0).max()
        assert np.abs(np.where(unlike, np.inf, offsets)).min(axis=1).max() < 1e-9 * size


def test_faces_without_area_occur_and_are_left_out():
    flat = 0
    for path in MESHES:
        vertices, faces = read_off(path)
        corners = vertices[faces]
        crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat += int((np.linalg.norm(crosses, axis=1) == 0).sum())
        assert np.isfinite(sample_surface(vertices, faces, 100, seed=0)[1]).all()
    assert flat > 0


def test_a_folder_of_meshes_is_modelnet10(tmp_path):
    for path in MESHES:
        label, number = path.stem.split("_")
        split = "test" if (label, number) in (("bathtub", "0004"), ("chair", "0002")) else "train"
        (tmp_path / label / split).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / label / split / path.name)
    train = ModelNet(tmp_path, "10", **OPTIONS)
    test = ModelNet(tmp_path, "10", split="test", **OPTIONS)
    assert [train.classes[label] for label in train.clouds.labels] == [
        "bathtub",
        "bathtub",
        "chair",
        "toilet",
    ]
    assert len(test) == 2
    for data in [*train, *test]:
        assert data.pos.shape == data.normal.shape == (512, 3)
        assert data.pos.abs().max() <= 1
        torch.testing.assert_close(data.normal.norm(dim=1), torch.ones(512))


def test_resampled_clouds_are_modelnet40(tmp_path):
    (tmp_path / "airplane").mkdir()
    for split, name in (("train", "airplane_0001"), ("test", "airplane_0627")):
        shutil.copyfile(
            DATA / "normal_resampled" / f"{name}.txt", tmp_path / "airplane" / f"{name}.txt"
        )
        (tmp_path / f"modelnet40_{split}.txt").write_text(f"{name}\n")
    train = ModelNet(tmp_path, "40", normalize="none", **OPTIONS)
    assert train.clouds.sizes.tolist() == [2048]
    assert train.has_normals
    source = read_geometry(tmp_path / "airplane/airplane_0001.txt")
    assert source.points.shape == source.normals.shape == (10_000, 3)
    rows = np.concatenate([source.points, source.normals], axis=1)
    assert {row.tobytes() for row in train.clouds[0]} <= {row.tobytes() for row in rows}
    assert len(ModelNet(tmp_path, "40", split="test", **OPTIONS)) == 1


def test_the_geometric_shapes_are_a_folder_of_forty_classes(tmp_path):
    root = extract_zip(DATA / "geometric_shapes.zip", tmp_path / "shapes")
    train = PointCloudFolder(root, **OPTIONS)
    assert train.num_classes == len(train) == 40
    assert {"2d_moon", "3d_torus"} <= set(train.classes)
    assert train.has_normals
    assert len(PointCloudFolder(root, split="test", **OPTIONS)) == 40
    flat = train.classes.index("2d_moon")
    assert np.ptp(train.clouds[flat][:, :3], axis=0).min() == 0


def test_the_clouds_of_modelnet10_are_read_from_their_arrays():
    train = PointCloudArrays(DATA / "modelnet10_1024.npz")
    test = PointCloudArrays(DATA / "modelnet10_1024.npz", split="test")
    assert (len(train), len(test)) == (3991, 454)
    assert train.classes[0] == "bathtub"
    assert np.bincount(train.clouds.labels).tolist() == [
        106,
        515,
        889,
        200,
        200,
        465,
        200,
        680,
        392,
        344,
    ]
    assert not train.has_normals
    assert np.abs(train.clouds.points).max() == 1
    assert train[0].pos.shape == (512, 3)
