"""Readers of meshes and clouds in files of any kind."""

import numpy as np
import pytest
import trimesh

from ccnn_geo.datasets import read_geometry
from datasets_helpers import NOT_UTF8, cloud, needs_bytes, open3d, put


class TestReadGeometry:
    @pytest.mark.parametrize("suffix", ["off", "ply", "obj", "stl", "STL"])
    def test_reads_meshes(self, tmp_path, suffix):
        mesh = trimesh.creation.box((1, 2, 3))
        path = tmp_path / f"box.{suffix}"
        mesh.export(path, file_type=suffix.lower())
        geometry = read_geometry(path)
        corners = geometry.points[geometry.faces]
        np.testing.assert_allclose(corners, mesh.triangles, atol=1e-6)

    @pytest.mark.parametrize("suffix", ["xyz", "txt", "npy"])
    @pytest.mark.parametrize("columns", [3, 4, 6, 8])
    def test_reads_tables_with_and_without_normals(self, tmp_path, suffix, columns):
        points, normals = cloud()
        table = np.concatenate([points, normals, np.ones((40, 2))], axis=1)[:, :columns]
        path = tmp_path / f"cloud.{suffix}"
        if suffix == "npy":
            np.save(path, table)
        else:
            np.savetxt(path, table, delimiter="," if suffix == "txt" else " ")
        geometry = read_geometry(path)
        np.testing.assert_allclose(geometry.points, points)
        assert geometry.faces is None
        if columns < 6:
            assert geometry.normals is None
        else:
            np.testing.assert_allclose(geometry.normals, normals)

    @pytest.mark.parametrize("names", [("pos",), ("pos", "normal"), ("table",)])
    def test_reads_npz_files(self, tmp_path, names):
        points, normals = cloud()
        table = np.concatenate([points, normals], axis=1)
        arrays = {"pos": points, "normal": normals, "table": table}
        np.savez(tmp_path / "cloud.npz", **{name: arrays[name] for name in names})
        geometry = read_geometry(str(tmp_path / "cloud.npz"))
        np.testing.assert_array_equal(geometry.points, points)
        if names == ("pos",):
            assert geometry.normals is None
        else:
            np.testing.assert_array_equal(geometry.normals, normals)

    def test_columns_that_are_no_unit_vectors_are_not_taken_for_normals(self, tmp_path):
        points, _ = cloud()
        np.savetxt(tmp_path / "coloured.xyz", np.concatenate([points, 100 + points], axis=1))
        geometry = read_geometry(tmp_path / "coloured.xyz")
        np.testing.assert_allclose(geometry.points, points)
        assert geometry.normals is None

    def test_reads_numbers_of_every_type(self, tmp_path):
        for dtype in (np.float16, np.float32, np.int32, np.uint8):
            np.save(tmp_path / "cloud.npy", np.arange(12).reshape(4, 3).astype(dtype))
            np.testing.assert_array_equal(
                read_geometry(tmp_path / "cloud.npy").points, np.arange(12).reshape(4, 3)
            )

    @pytest.mark.parametrize("suffix", ["ply", "pcd"])
    @pytest.mark.parametrize("ascii", [True, False])
    def test_reads_clouds_that_open3d_wrote(self, tmp_path, suffix, ascii):
        o3d = open3d()
        points, normals = cloud()
        written = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
        path = tmp_path / f"cloud.{suffix}"
        for known in (False, True):
            if known:
                written.normals = o3d.utility.Vector3dVector(normals)
            assert o3d.io.write_point_cloud(path, written, write_ascii=ascii)
            geometry = read_geometry(path)
            np.testing.assert_allclose(geometry.points, points, atol=1e-5)
            assert geometry.faces is None
            assert (geometry.normals is not None) == known
        np.testing.assert_allclose(geometry.normals, normals, atol=1e-5)

    def test_reads_the_cloud_of_an_obj_file(self, tmp_path):
        path = put(tmp_path / "cloud.obj", "v 0 0 0\nv 1 2 3\n")
        assert read_geometry(path).points.tolist() == [[0, 0, 0], [1, 2, 3]]

    def test_joins_the_parts_of_an_obj_file(self, tmp_path):
        parts = "o a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\no b\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf 4 5 6\n"
        geometry = read_geometry(put(tmp_path / "parts.obj", parts))
        assert geometry.points.shape == (6, 3)
        assert geometry.points[geometry.faces].max() == 6

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.xyz", "", "at least one point, got none"),
            ("a.xyz", "0 0\n1 1\n", r"shape \[N, 3\] or \[N, 6\], got float64 of shape \[2, 2\]"),
            ("a.xyz", "0 0 0\n1 1\n", "a table of numbers .*columns changed"),
            ("a.txt", "x,y,z\n", "a table of numbers"),
            ("a.npy", "", "a table of numbers"),
            ("a.npz", "", "an .npz file of plain arrays"),
            ("a.npz", "garbage", "an .npz file of plain arrays"),
            ("a.off", "OFF\n1 0 0\n0 0 0\n", "at least one face, got none"),
            ("a.ply", "ply\nformat ascii 1.0\n", "a PLY header from `ply`"),
            ("a.ply", "garbage", "a PLY header from `ply`"),
            ("a.obj", "", "at least one point, got none"),
            ("a.stl", "", "at least one face, got none"),
            ("a.doc", "", "expected one of .npy, .*, got '.doc'"),
        ],
    )
    def test_names_the_file_and_what_is_wrong_with_it(self, tmp_path, name, content, message):
        path = put(tmp_path / name, content)
        with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
            read_geometry(path)

    def test_a_broken_pcd_file_is_named(self, tmp_path):
        path = put(tmp_path / "a.pcd", "garbage")
        with pytest.raises(ValueError, match=rf"^{path}: expected the header of a PCD file"):
            read_geometry(path)

    def test_objects_are_never_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
        with pytest.raises(ValueError, match="a.npy: expected a table of numbers"):
            read_geometry(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"one": np.zeros((2, 3)), "two": np.zeros((2, 3))}, "`pos`, .* got one, two"),
            ({"pos": np.zeros((2, 3)), "normal": np.zeros((4, 3))}, "plain arrays .*must match"),
            ({"pos": np.array([{}])}, "plain arrays .*allow_pickle=False"),
            ({"pos": np.zeros((5, 2, 3))}, r"\[N, 3\] or \[N, 6\], got float64 of shape \[5, 2, 3"),
        ],
    )
    def test_npz_files_of_other_arrays(self, tmp_path, arrays, message):
        np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
        with pytest.raises(ValueError, match=f"a.npz: expected .*{message}"):
            read_geometry(tmp_path / "a.npz")

    def test_an_array_that_calls_itself_npz(self, tmp_path):
        with open(tmp_path / "a.npz", "wb") as stream:
            np.save(stream, np.zeros((2, 3)))
        with pytest.raises(ValueError, match="a.npz: expected an .npz file of plain arrays"):
            read_geometry(tmp_path / "a.npz")

    def test_off_files_without_faces_are_clouds_on_request(self, tmp_path):
        path = put(tmp_path / "a.off", "OFF\n2 0 0\n0 0 0\n1 2 3\n")
        geometry = read_geometry(path, allow_faceless=True)
        assert geometry.points.tolist() == [[0, 0, 0], [1, 2, 3]]
        assert geometry.faces is None
        with pytest.raises(ValueError, match="a.off: expected at least one point, got none"):
            read_geometry(put(path, "OFF\n0 0 0\n"), allow_faceless=True)

    @needs_bytes
    @pytest.mark.parametrize("suffix", ["off", "ply", "obj", "stl"])
    def test_names_of_meshes_need_not_be_utf8(self, tmp_path, suffix):
        mesh = trimesh.creation.box((1, 2, 3))
        mesh.export(tmp_path / f"box.{suffix}")
        path = (tmp_path / f"box.{suffix}").rename(tmp_path / f"{NOT_UTF8}.{suffix}")
        geometry = read_geometry(path)
        np.testing.assert_allclose(geometry.points[geometry.faces], mesh.triangles, atol=1e-6)

    @needs_bytes
    @pytest.mark.parametrize("suffix", ["xyz", "npy", "npz"])
    def test_names_of_tables_need_not_be_utf8(self, tmp_path, suffix):
        points, _ = cloud()
        with open(tmp_path / f"{NOT_UTF8}.{suffix}", "wb") as file:
            {"xyz": np.savetxt, "npy": np.save, "npz": np.savez}[suffix](file, points)
        np.testing.assert_array_equal(
            read_geometry(tmp_path / f"{NOT_UTF8}.{suffix}").points, points
        )

    @needs_bytes
    @pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}], ids=str)
    def test_names_of_pcd_files_need_not_be_utf8(self, tmp_path, options):
        library = open3d()
        points, _ = cloud()
        scan = library.geometry.PointCloud(library.utility.Vector3dVector(points))
        library.io.write_point_cloud(str(tmp_path / "a.pcd"), scan, **options)
        path = (tmp_path / "a.pcd").rename(tmp_path / f"{NOT_UTF8}.pcd")
        np.testing.assert_allclose(read_geometry(path).points, points, atol=1e-5)

    def test_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
        with pytest.raises(ImportError, match=r"Expected trimesh to read .*a.stl: pip install"):
            read_geometry(put(tmp_path / "a.stl", "solid"))
