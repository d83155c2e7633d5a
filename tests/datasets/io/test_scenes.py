"""Scans with attributes and labels in files of every format, read and written."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from ccnn_geo.datasets import Scene, read_scene, write_scene
from ccnn_geo.datasets.io.las import read_las
from ccnn_geo.datasets.io.tables import read_table
from datasets_helpers import cloud, names, open3d, put

laspy = pytest.importorskip("laspy", reason="the extra `las` is missing")

ORIGIN = np.array([500_000.0, 5_400_000.0, 250.0])
CODES = np.arange(20) % 5


def scan(count: int = 20) -> Scene:
    """A georeferenced scan in whole millimetres, with all kinds of attributes."""
    generator = np.random.default_rng(0)
    _, normals = cloud(count)
    return Scene(
        ORIGIN + generator.integers(0, 50_000, (count, 3)) / 1000,
        {
            "color": (generator.integers(0, 256, (count, 3)) / 255).astype(np.float32),
            "normal": normals.astype(np.float32),
            "intensity": generator.integers(0, 60_000, count).astype(np.uint16),
            "time": generator.random(count),
        },
        CODES[:count],
    )


def put_las(path: Path, *, point_format: int = 1, count: int = 20, **columns) -> Path:
    """Makes a LAS or LAZ file in which every dimension but the coordinates varies."""
    version = "1.4" if point_format > 5 else "1.2"
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.full(3, 0.01), np.floor(ORIGIN)
    header.system_identifier = "a scanner"
    header.add_extra_dim(laspy.ExtraBytesParams("tree", "int32"))
    header.vlrs.append(laspy.VLR("someone", 7, "note", b"kept"))
    las = laspy.LasData(header)
    las.xyz = scan(count).points
    las.return_number = las.number_of_returns = np.arange(count) % 4 + 1
    las.intensity = 100 * np.arange(count)
    las.gps_time = np.arange(count) / 8
    las.user_data = np.arange(count) % 256
    las.point_source_id = 3 * np.arange(count)
    las.scan_direction_flag = np.arange(count) % 2
    las.synthetic = np.arange(count) % 3 == 0
    las.tree = 1000 * np.arange(count) - 7
    las.classification = np.arange(count) % 5
    for name, values in columns.items():
        las[name] = values
    las.write(path)
    return path


def put_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def patched(path: Path, offset: int, form: str, *values) -> Path:
    """Overwrites a part of a file."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    return put_bytes(path, bytes(content))


def cut(path: Path, length: int) -> Path:
    """Cuts a file; a negative length counts from its end."""
    return put_bytes(path, path.read_bytes()[:length])


class TestScene:
    def test_select_keeps_attributes_and_labels_beside_their_points(self):
        whole, index = scan(), np.array([7, 0, 19])
        part = whole.select(index)
        assert len(part) == 3
        np.testing.assert_array_equal(part.points, whole.points[index])
        np.testing.assert_array_equal(part.labels, [2, 0, 4])
        assert part.attributes.keys() == whole.attributes.keys()
        for name, values in part.attributes.items():
            np.testing.assert_array_equal(values, whole.attributes[name][index])

    def test_select_works_without_labels_and_attributes(self):
        part = Scene(np.eye(3)).select(np.array([2]))
        assert part.points.tolist() == [[0, 0, 1]]
        assert part.labels is None
        assert part.attributes == {}


class TestPly:
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_binary_files_give_every_property_of_the_vertices(self, tmp_path, order):
        row = np.dtype(
            [
                ("x", f"{order}f8"),
                ("y", f"{order}f8"),
                ("z", f"{order}f8"),
                ("red", "u1"),
                ("green", "u1"),
                ("blue", "u1"),
                ("nx", f"{order}f4"),
                ("ny", f"{order}f4"),
                ("nz", f"{order}f4"),
                ("reflectance", f"{order}u2"),
                ("scalar_Classification", f"{order}f4"),
            ]
        )
        kinds = {"f8": "double", "f4": "float", "u1": "uchar", "u2": "ushort"}
        table = np.zeros(2, row)
        table["x"], table["y"], table["z"] = 500_000.125, 5_400_000.001, [1, 2]
        table["red"], table["blue"], table["ny"] = [255, 51], [0, 102], [1, -1]
        table["reflectance"], table["scalar_Classification"] = [7, 60_000], [2, 5]
        size = {"<": "little", ">": "big"}[order]
        header = f"ply\nformat binary_{size}_endian 1.0\ncomment a scan\nelement vertex 2\n"
        header += "".join(f"property {kinds[row[name].str[1:]]} {name}\n" for name in row.names)
        path = put_bytes(tmp_path / "a.ply", header.encode() + b"end_header\n" + table.tobytes())
        scene = read_scene(path)
        assert scene.points.dtype == np.float64
        assert scene.points.tolist() == [
            [500_000.125, 5_400_000.001, 1],
            [500_000.125, 5_400_000.001, 2],
        ]
        assert scene.labels.tolist() == [2, 5]
        assert scene.attributes["reflectance"].tolist() == [7, 60_000]
        assert scene.attributes["normal"].tolist() == [[0, 1, 0], [0, -1, 0]]
        np.testing.assert_allclose(scene.attributes["color"], [[1, 0, 0], [0.2, 0, 0.4]])
        assert set(scene.attributes) == {"color", "normal", "reflectance"}

    def test_ascii_files_give_every_property_and_no_faces(self, tmp_path):
        text = (
            "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
            "property float z\nproperty uchar diffuse_red\nproperty uchar diffuse_green\n"
            "property uchar diffuse_blue\nproperty int label\nproperty float quality\n"
            "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
            "0 0 0 255 0 0 4 0.5\n1 0 0 0 255 0 -1 0.25\n0 1 0 0 0 51 255 1.5\n3 0 1 2\n"
        )
        scene = read_scene(put(tmp_path / "a.ply", text))
        assert scene.points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
        assert scene.labels.tolist() == [4, -1, 255]
        assert scene.labels.dtype == np.int64
        assert scene.attributes["quality"].tolist() == [0.5, 0.25, 1.5]
        np.testing.assert_allclose(scene.attributes["color"][2], [0, 0, 0.2])
        assert set(scene.attributes) == {"color", "quality"}


class TestPcd:
    def test_packed_colours_are_unpacked(self, tmp_path):
        colors = np.array([[255, 128, 3], [0, 51, 254]], np.uint32)
        table = np.zeros(2, [("xyz", "<f4", 3), ("rgb", "<f4"), ("label", "<u4"), ("_", "<f4")])
        table["xyz"] = [[0, 1, 2], [3, 4, 5]]
        packed = colors[:, 0] << 16 | colors[:, 1] << 8 | colors[:, 2]
        table["rgb"], table["label"] = packed.view(np.float32), [9, 300]
        header = (
            "VERSION .7\nFIELDS x y z rgb label _\nSIZE 4 4 4 4 4 4\nTYPE F F F F U F\n"
            "COUNT 1 1 1 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA binary\n"
        )
        scene = read_scene(put_bytes(tmp_path / "a.pcd", header.encode() + table.tobytes()))
        assert scene.points.tolist() == [[0, 1, 2], [3, 4, 5]]
        np.testing.assert_allclose(scene.attributes["color"], colors / 255, atol=1e-7)
        assert scene.labels.tolist() == [9, 300]
        assert set(scene.attributes) == {"color"}

    def test_ascii_files_give_all_fields(self, tmp_path):
        text = (
            "VERSION .7\nFIELDS x y z normal_x normal_y normal_z intensity class\n"
            "SIZE 8 8 8 4 4 4 4 4\nTYPE F F F F F F F I\nCOUNT 1 1 1 1 1 1 1 1\nWIDTH 2\n"
            "HEIGHT 1\nPOINTS 2\nDATA ascii\n"
            "500000.001 0 0 0 0 1 12 3\n500000.002 0 0 0 1 0 13 4\n"
        )
        scene = read_scene(put(tmp_path / "a.pcd", text))
        assert scene.points[:, 0].tolist() == [500_000.001, 500_000.002]
        assert scene.attributes["normal"].tolist() == [[0, 0, 1], [0, 1, 0]]
        assert scene.attributes["intensity"].tolist() == [12, 13]
        assert scene.labels.tolist() == [3, 4]


class TestLas:
    @pytest.mark.parametrize("suffix", ["las", "laz", "LAS"])
    @pytest.mark.parametrize("point_format", [1, 6])
    def test_gives_exact_coordinates_and_all_dimensions(self, tmp_path, suffix, point_format):
        path = put_las(tmp_path / f"a.{suffix}", point_format=point_format)
        scene = read_scene(path)
        np.testing.assert_allclose(scene.points, scan().points, rtol=0, atol=0.005 + 1e-8)
        np.testing.assert_array_equal(scene.points, laspy.read(path).xyz)
        assert scene.labels.tolist() == CODES.tolist()
        expected = {
            "intensity": 100 * np.arange(20),
            "gps_time": np.arange(20) / 8,
            "tree": 1000 * np.arange(20) - 7,
            "return_number": np.arange(20) % 4 + 1,
            "point_source_id": 3 * np.arange(20),
        }
        for name, values in expected.items():
            np.testing.assert_array_equal(scene.attributes[name], values)
        assert not {"X", "Y", "Z", "classification"} & scene.attributes.keys()

    @pytest.mark.parametrize("factor", [1, 257])
    def test_colours_may_fill_eight_or_sixteen_bits(self, tmp_path, factor):
        colors = np.array([[255, 0, 51], [0, 102, 0]])
        channels = dict(zip(("red", "green", "blue"), factor * colors.T, strict=True))
        put_las(tmp_path / "a.las", point_format=3, count=2, **channels)
        found = read_scene(tmp_path / "a.las").attributes["color"]
        np.testing.assert_allclose(found, colors / 255, atol=1e-7)

    def test_another_dimension_may_hold_the_labels(self, tmp_path):
        scene = read_scene(put_las(tmp_path / "a.las"), label="tree")
        assert scene.labels.tolist() == (1000 * np.arange(20) - 7).tolist()
        assert scene.attributes["classification"].tolist() == CODES.tolist()


class TestNpz:
    @pytest.mark.parametrize("name", ["pos", "points"])
    def test_gives_arrays_by_their_names(self, tmp_path, name):
        points = np.arange(6.0).reshape(2, 3)
        arrays = {
            name: points,
            "classification": np.uint8([3, 4]),
            "moments": np.ones((2, 5)),
            "colors": np.uint8([[255, 0, 0], [0, 51, 0]]),
        }
        np.savez(tmp_path / "a.npz", **arrays)
        scene = read_scene(tmp_path / "a.npz")
        np.testing.assert_array_equal(scene.points, points)
        assert scene.labels.tolist() == [3, 4]
        np.testing.assert_array_equal(scene.attributes["moments"], np.ones((2, 5)))
        np.testing.assert_allclose(scene.attributes["color"], [[1, 0, 0], [0, 0.2, 0]])
        assert set(scene.attributes) == {"moments", "color"}

    def test_coordinates_may_be_three_arrays(self, tmp_path):
        axes = {"X": np.array([1.0, 2.0]), "Y": np.array([3.0, 4.0]), "Z": np.array([5.0, 6.0])}
        np.savez(tmp_path / "a.npz", **axes, height=np.array([7.0, 8.0]))
        scene = read_scene(tmp_path / "a.npz")
        assert scene.points.tolist() == [[1, 3, 5], [2, 4, 6]]
        assert {name: values.tolist() for name, values in scene.attributes.items()} == {
            "height": [7, 8]
        }

    @pytest.mark.parametrize(
        ("colors", "expected"),
        [
            (np.array([[0.5, 1.0, 0.0]]), [0.5, 1.0, 0.0]),
            (np.array([[51.0, 255.0, 0.0]]), [0.2, 1.0, 0.0]),
            (np.array([[1, 0, 0]], np.uint8), [1 / 255, 0, 0]),
            (np.array([[255, 0, 51]], np.int64), [1.0, 0.0, 0.2]),
            (np.array([[65535, 0, 13107]], np.uint16), [1.0, 0.0, 0.2]),
        ],
        ids=["fractions", "floats to 255", "bytes", "integers", "sixteen bits"],
    )
    def test_colours_are_fractions_whatever_their_type(self, tmp_path, colors, expected):
        np.savez(tmp_path / "a.npz", pos=np.zeros((1, 3)), color=colors)
        found = read_scene(tmp_path / "a.npz").attributes["color"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)


class TestTables:
    @pytest.mark.parametrize("suffix", ["xyz", "txt"])
    @pytest.mark.parametrize(
        "header",
        [
            "x y z intensity label",
            "# x y z intensity label",
            "#by someone\n#\n# x,y,z,intensity,label",
            "//X Y Z intensity Label",
            "// x;y;z;intensity;label",
            "\ufeffx y z intensity label",
        ],
    )
    def test_the_first_row_may_name_the_columns(self, tmp_path, suffix, header):
        path = tmp_path / f"a.{suffix}"
        path.write_text(f"{header}\n500000.001 1 2 7 3\n500000.002 4 5 8 -1\n", encoding="utf-8")
        scene = read_scene(path)
        assert scene.points.tolist() == [[500_000.001, 1, 2], [500_000.002, 4, 5]]
        assert scene.attributes["intensity"].tolist() == [7, 8]
        assert scene.labels.tolist() == [3, -1]
        assert set(scene.attributes) == {"intensity"}

    def test_columns_may_be_in_any_order_and_separated_by_commas(self, tmp_path):
        path = put(tmp_path / "a.txt", "class,z,red,green,blue,x,y\n2,3,255,51,0,1.5,2\n")
        scene = read_scene(path)
        assert scene.points.tolist() == [[1.5, 2, 3]]
        assert scene.labels.tolist() == [2]
        np.testing.assert_allclose(scene.attributes["color"], [[1, 0.2, 0]], rtol=1e-6)

    @pytest.mark.parametrize("suffix", ["xyz", "txt", "npy"])
    def test_without_names_columns_are_recognised_by_their_values(self, tmp_path, suffix):
        points, normals = cloud()
        others = {
            "normal": normals,
            "color": np.random.default_rng(0).integers(0, 256, (40, 3)),
            "column_4": 100 + points,
        }
        for name, columns in others.items():
            table = np.concatenate([points, columns, np.full((40, 1), 5.5)], axis=1)
            path = tmp_path / f"{name}.{suffix}"
            if suffix == "npy":
                np.save(path, table)
            else:
                np.savetxt(path, table, delimiter="," if suffix == "txt" else " ")
            scene = read_scene(path)
            np.testing.assert_allclose(scene.points, points, rtol=1e-15)
            assert scene.attributes["column_7"].tolist() == [5.5] * 40
            assert scene.labels is None
            expected = {
                "normal": normals,
                "color": others["color"] / 255,
                "column_4": 100 + points[:, 0],
            }[name]
            np.testing.assert_allclose(scene.attributes[name], expected, atol=1e-7)

    def test_a_column_without_a_name_can_hold_the_labels(self, tmp_path):
        path = put(tmp_path / "a.xyz", "0 0 0 4\n1 1 1 5\n")
        assert read_scene(path).labels is None
        scene = read_scene(path, label="column_4")
        assert scene.labels.tolist() == [4, 5]
        assert scene.attributes == {}

    def test_whole_numbers_beyond_255_are_no_colours(self, tmp_path):
        scene = read_scene(put(tmp_path / "a.xyz", "0 0 0 256 0 0\n1 1 1 0 0 0\n"))
        assert sorted(scene.attributes) == ["column_4", "column_5", "column_6"]

    def test_names_that_do_not_fit_the_columns_are_ignored(self, tmp_path):
        names, table = read_table(put(tmp_path / "a.xyz", "# my scan\n1 2 3 4\n"))
        assert names == []
        assert table.tolist() == [[1, 2, 3, 4]]


class TestKitti:
    table = np.array([[1, 2, 3, 0.5], [4, 5, 6, 0.25]], "<f4")

    @pytest.mark.parametrize("place", ["velodyne/7.label", "labels/7.label"])
    def test_labels_are_beside_the_points_or_in_a_folder_of_their_own(self, tmp_path, place):
        for folder in ("velodyne", "labels"):
            (tmp_path / folder).mkdir()
        path = put_bytes(tmp_path / "velodyne/7.bin", self.table.tobytes())
        put_bytes(tmp_path / place, np.array([40, 3 << 16 | 252], "<u4").tobytes())
        scene = read_scene(path)
        assert scene.points.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert scene.points.dtype == np.float32
        assert scene.attributes["intensity"].tolist() == [0.5, 0.25]
        assert scene.labels.tolist() == [40, 252]

    def test_there_may_be_no_labels(self, tmp_path):
        scene = read_scene(put_bytes(tmp_path / "7.bin", self.table.tobytes()))
        assert scene.labels is None
        assert len(scene) == 2

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_labels_of_another_number_of_points(self, tmp_path, count):
        path = put_bytes(tmp_path / "7.bin", self.table.tobytes())
        put_bytes(tmp_path / "7.label", np.zeros(count, "<u4").tobytes())
        message = rf"^{tmp_path}/7.label: expected a label for each of 2 points, got {count}"
        with pytest.raises(ValueError, match=message):
            read_scene(path)


class TestLabelNames:
    @pytest.mark.parametrize(
        "name",
        ["label", "Labels", "CLASS", "classification", "semantic", "semantic_seg", "scalar_Label",
         "scalar_Classification", "part"],
    )  # fmt: skip
    def test_usual_names_are_found(self, tmp_path, name):
        np.savez(tmp_path / "a.npz", pos=np.zeros((2, 3)), other=[5, 6], **{name: [1.0, 2.0]})
        scene = read_scene(tmp_path / "a.npz")
        assert scene.labels.tolist() == [1, 2]
        assert scene.labels.dtype == np.int64
        assert set(scene.attributes) == {"other"}

    def test_of_several_names_the_most_specific_is_taken(self, tmp_path):
        arrays = {"part": [1], "classification": [2], "label": [3], "pos": np.zeros((1, 3))}
        np.savez(tmp_path / "a.npz", **arrays)
        scene = read_scene(tmp_path / "a.npz")
        assert scene.labels.tolist() == [3]
        assert set(scene.attributes) == {"part", "classification"}

    def test_a_name_can_be_given_and_has_to_exist(self, tmp_path):
        np.savez(tmp_path / "a.npz", pos=np.zeros((1, 3)), label=[3], species=[4])
        assert read_scene(tmp_path / "a.npz", label="species").labels.tolist() == [4]
        message = r"a.npz: expected labels in an attribute 'kind', got \['label', 'species'\]"
        with pytest.raises(ValueError, match=message):
            read_scene(tmp_path / "a.npz", label="kind")

    @pytest.mark.parametrize(
        ("labels", "found"),
        [
            ([0.5, 1.0], r"float64 of shape \[2\]"),
            ([np.nan, 1.0], r"float64 of shape \[2\]"),
            ([[1, 2], [3, 4]], r"int64 of shape \[2, 2\]"),
            (["tree", "ground"], r"<U6 of shape \[2\]"),
        ],
    )
    def test_labels_have_to_be_whole_numbers(self, tmp_path, labels, found):
        np.savez(tmp_path / "a.npz", pos=np.zeros((2, 3)), label=labels)
        message = rf"a.npz: expected whole numbers `label` of shape \[N\], got {found}"
        with pytest.raises(ValueError, match=message):
            read_scene(tmp_path / "a.npz")


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", ["ply", "npz"])
    def test_nothing_changes(self, tmp_path, suffix):
        written = scan()
        write_scene(tmp_path / f"a.{suffix}", written)
        read = read_scene(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read.points, written.points)
        np.testing.assert_array_equal(read.labels, written.labels)
        assert read.attributes.keys() == written.attributes.keys()
        for name, values in written.attributes.items():
            np.testing.assert_array_equal(read.attributes[name], values)
            assert read.attributes[name].dtype == values.dtype
        assert names(tmp_path) == [f"a.{suffix}"]

    @pytest.mark.parametrize("suffix", ["ply", "npz"])
    def test_single_precision_stays_single(self, tmp_path, suffix):
        points = np.float32([[0.1, 0.2, 0.3]])
        write_scene(tmp_path / f"a.{suffix}", Scene(points))
        read = read_scene(tmp_path / f"a.{suffix}")
        assert read.points.dtype == np.float32
        np.testing.assert_array_equal(read.points, points)
        assert read.labels is None
        assert read.attributes == {}

    def test_columns_of_ply_files_are_numbered_and_their_names_have_no_spaces(self, tmp_path):
        attributes = {"my moments": np.array([[1, 2], [3, 4]]), "flag": np.array([True, False])}
        write_scene(tmp_path / "a.ply", Scene(np.zeros((2, 3)), attributes))
        read = read_scene(tmp_path / "a.ply").attributes
        assert {name: values.tolist() for name, values in read.items()} == {
            "my_moments_0": [1, 3],
            "my_moments_1": [2, 4],
            "flag": [1, 0],
        }

    @pytest.mark.parametrize("suffix", ["ply", "npz"])
    def test_colours_can_be_replaced(self, tmp_path, suffix):
        colors = np.arange(60).reshape(20, 3).astype(np.uint8)
        write_scene(tmp_path / f"a.{suffix}", scan(), colors=colors)
        read = read_scene(tmp_path / f"a.{suffix}").attributes["color"]
        np.testing.assert_allclose(255 * read, colors, atol=1e-4)

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    def test_las_files_keep_millimetres_labels_and_given_colours(self, tmp_path, suffix):
        written = scan()
        colors = np.arange(60).reshape(20, 3).astype(np.uint8)
        write_scene(tmp_path / f"a.{suffix}", written, colors=colors)
        read = read_scene(tmp_path / f"a.{suffix}")
        np.testing.assert_allclose(read.points, written.points, rtol=0, atol=2e-9)
        np.testing.assert_array_equal(read.labels, written.labels)
        np.testing.assert_allclose(255 * read.attributes["color"], colors, atol=1e-4)
        with laspy.open(tmp_path / f"a.{suffix}") as file:
            assert file.header.are_points_compressed == (suffix == "laz")

    @pytest.mark.parametrize(("extent", "step"), [(1.0, 1e-7), (50.0, 1e-6), (4e6, 0.01)])
    def test_las_files_resolve_scans_of_every_size(self, tmp_path, extent, step):
        points = extent * np.random.default_rng(0).random((20, 3))
        write_scene(tmp_path / "a.las", Scene(points))
        read = read_scene(tmp_path / "a.las")
        np.testing.assert_allclose(read.points, points, rtol=0, atol=0.51 * step)
        assert read.labels.tolist() == [0] * 20

    def test_codes_replace_the_labels_of_las_files(self, tmp_path):
        codes = np.where(CODES == 0, 2, 200)
        write_scene(tmp_path / "a.las", scan(), codes=codes)
        assert read_scene(tmp_path / "a.las").labels.tolist() == codes.tolist()

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    @pytest.mark.parametrize("source_suffix", ["las", "laz"])
    @pytest.mark.parametrize("point_format", [1, 7])
    def test_las_files_keep_everything_else_of_their_source(
        self, tmp_path, suffix, source_suffix, point_format
    ):
        source = put_las(tmp_path / f"source.{source_suffix}", point_format=point_format)
        scene = read_scene(source)
        labels = 4 - scene.labels
        target = tmp_path / f"target.{suffix}"
        write_scene(target, Scene(scene.points, {}, labels), source=source)
        before, after = laspy.read(source), laspy.read(target)
        np.testing.assert_array_equal(after.classification, labels)
        for name in before.point_format.dimension_names:
            if name != "classification":
                np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        assert after.point_format == before.point_format
        assert after.header.version == before.header.version
        assert after.header.system_identifier == "a scanner"
        np.testing.assert_array_equal(after.header.scales, before.header.scales)
        np.testing.assert_array_equal(after.header.offsets, before.header.offsets)
        (note,) = after.header.vlrs.get("VLR")
        assert (note.record_id, note.record_data) == (7, b"kept")

    @pytest.mark.parametrize("point_format", [1, 3, 6])
    def test_codes_above_31_fit_and_keep_the_other_dimensions(self, tmp_path, point_format):
        source = put_las(tmp_path / "source.las", point_format=point_format)
        scene = read_scene(source)
        codes = np.where(CODES == 4, 255, 32)
        write_scene(tmp_path / "target.las", scene, codes=codes, source=source)
        read = read_scene(tmp_path / "target.las")
        assert read.labels.tolist() == codes.tolist()
        np.testing.assert_array_equal(read.points, scene.points)
        for name in ("intensity", "return_number", "number_of_returns", "gps_time", "user_data",
                     "point_source_id", "scan_direction_flag", "synthetic", "tree"):  # fmt: skip
            np.testing.assert_array_equal(
                read.attributes[name], scene.attributes[name], err_msg=name
            )

    def test_colours_of_a_source_are_kept(self, tmp_path):
        source = put_las(tmp_path / "source.las", point_format=3, red=np.arange(20) * 3000)
        colors = np.full((20, 3), 9, np.uint8)
        write_scene(tmp_path / "a.las", read_scene(source), colors=colors, source=source)
        assert laspy.read(tmp_path / "a.las").red.tolist() == (np.arange(20) * 3000).tolist()

    def test_a_source_of_another_format_is_no_template(self, tmp_path):
        write_scene(tmp_path / "source.ply", scan())
        write_scene(tmp_path / "a.las", scan(), source=tmp_path / "source.ply")
        assert read_scene(tmp_path / "a.las").labels.tolist() == CODES.tolist()


class TestWriteErrors:
    @pytest.mark.parametrize("name", ["a.xyz", "a.pcd", "a.bin", "a"])
    def test_a_format_that_cannot_be_written(self, tmp_path, name):
        message = rf"^{tmp_path}/{name}: expected one of .las, .laz, .npz, .ply to write labels to"
        with pytest.raises(ValueError, match=message):
            write_scene(tmp_path / name, scan())
        assert names(tmp_path) == []

    @pytest.mark.parametrize("label", [-1, 256])
    def test_labels_that_las_cannot_hold_leave_the_old_file(self, tmp_path, label):
        path = put_las(tmp_path / "a.las")
        old = path.read_bytes()
        scene = Scene(np.eye(3), labels=np.array([0, 1, label]))
        with pytest.raises(ValueError, match=r"a.las: expected labels from 0 to 255, got"):
            write_scene(path, scene)
        assert path.read_bytes() == old
        assert names(tmp_path) == ["a.las"]

    def test_a_source_of_another_number_of_points(self, tmp_path):
        source = put_las(tmp_path / "source.las")
        message = rf"^{source}: expected 3 points, got 20 now"
        with pytest.raises(ValueError, match=message):
            write_scene(tmp_path / "a.las", Scene(np.eye(3)), source=source)
        assert names(tmp_path) == ["source.las"]

    @pytest.mark.parametrize("suffix", ["ply", "npz", "las", "laz"])
    def test_a_missing_folder(self, tmp_path, suffix):
        path = tmp_path / "missing" / f"a.{suffix}"
        with pytest.raises(FileNotFoundError, match=rf"cannot write: .*{path}"):
            write_scene(path, scan())
        assert names(tmp_path) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to the superuser")
    def test_a_folder_that_cannot_be_written(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match=rf"cannot write: .*{tmp_path}/a.ply"):
            write_scene(tmp_path / "a.ply", scan())
        assert names(tmp_path) == []

    @pytest.mark.parametrize("suffix", ["ply", "npz", "las", "laz"])
    def test_a_full_disk_leaves_nothing(self, tmp_path, suffix, monkeypatch):
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=rf"cannot write: No space left .*a.{suffix}"):
            write_scene(tmp_path / f"a.{suffix}", scan())
        assert names(tmp_path) == []


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.doc", "", "expected one of .bin, .las, .laz, .*, got '.doc'"),
            ("a.xyz", "", "at least one point, got none"),
            ("a.xyz", "x y z\n", "a table of numbers .*no row of numbers"),
            ("a.xyz", "0 0\n1 1\n", r"numbers of shape \[N, 3\] or wider, got float64 of shape"),
            ("a.xyz", "0 0 0\n1 1\n", "a table of numbers .*columns changed"),
            ("a.xyz", "0 0 0\n1 nan 1\n", r"finite coordinates, got \[1.0, nan, 1.0\] for point 1"),
            ("a.xyz", "0 0 inf\n", r"finite coordinates, got \[0.0, 0.0, inf\] for point 0"),
            ("a.txt", "a b c d\n0 0 0 0\n", r"coordinates x, y and z, got \['a', 'b', 'c', 'd'\]"),
            ("a.txt", "1,2,3,\n", "a table of numbers"),
            ("a.txt", "1,5 2,5 3,5\n", "a table of numbers"),
            ("a.npy", "", "a table of numbers"),
            ("a.npz", "", "an .npz file of plain arrays"),
            ("a.npz", "garbage", "an .npz file of plain arrays"),
            ("a.ply", "garbage", "a cloud .*a PLY header from `ply`"),
            ("a.ply", "ply\nformat ascii 1.0\nend_header\n", r"coordinates x, y and z, got \[\]"),
            ("a.pcd", "garbage", "the header of a PCD file"),
            ("a.bin", "fifteen  bytes.", "as float32, 16 bytes for every point, got 15 bytes"),
            ("a.bin", "", "at least one point, got none"),
            ("a.las", "", "a LAS or LAZ file"),
            ("a.las", "garbage", "a LAS or LAZ file"),
            ("a.laz", "LASF", "a LAS or LAZ file"),
        ],
    )
    def test_the_file_and_its_fault_are_named(self, tmp_path, name, content, message):
        path = put(tmp_path / name, content)
        with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
            read_scene(path)

    @pytest.mark.parametrize("suffix", ["ply", "npz", "las", "laz"])
    @pytest.mark.parametrize("share", [0.2, 0.9, 0.99])
    def test_files_that_were_cut(self, tmp_path, suffix, share):
        path = tmp_path / f"a.{suffix}"
        write_scene(path, scan())
        cut(path, int(share * path.stat().st_size))
        with pytest.raises(ValueError, match=rf"^{path}: expected"):
            read_scene(path)

    def test_a_las_file_without_its_last_points(self, tmp_path):
        path = put_las(tmp_path / "a.las")
        size = laspy.read(path).point_format.size
        with pytest.raises(ValueError, match="a.las: expected 20 points, the file is cut short af"):
            read_scene(cut(path, -2 * size))

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    def test_a_las_file_without_points(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        laspy.LasData(laspy.LasHeader(version="1.2", point_format=1)).write(path)
        with pytest.raises(ValueError, match=f"a.{suffix}: .*at least one point, got none"):
            read_scene(path)

    @pytest.mark.parametrize("value", [0.0, -0.01, np.nan, np.inf])
    def test_a_las_file_with_a_scale_that_is_not_positive(self, tmp_path, value):
        path = patched(put_las(tmp_path / "a.las"), 131, "<d", value)
        with pytest.raises(ValueError, match=r"a.las: .*positive scales .* got \["):
            read_scene(path)

    def test_a_las_file_with_an_offset_that_is_not_finite(self, tmp_path):
        path = patched(put_las(tmp_path / "a.las"), 163, "<d", np.nan)
        with pytest.raises(ValueError, match=r"a.las: .*finite offsets"):
            read_scene(path)

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    def test_a_header_that_promises_more_points(self, tmp_path, suffix):
        path = patched(put_las(tmp_path / f"a.{suffix}"), 107, "<I", 2**31)
        with pytest.raises(ValueError, match=f"a.{suffix}: .*the header says 2,147,483,648"):
            read_scene(path)

    @pytest.mark.parametrize("suffix", ["ply", "pcd"])
    def test_a_text_header_that_promises_more_points(self, tmp_path, suffix):
        content = {
            "ply": "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
            "property float z\nend_header\n0 0 0\n",
            "pcd": "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\n"
            "HEIGHT 1\nPOINTS 3\nDATA ascii\n0 0 0\n",
        }[suffix]
        path = put(tmp_path / f"a.{suffix}", content)
        with pytest.raises(ValueError, match=rf"^{path}: .*expected 3 (rows|points)"):
            read_scene(path)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"table": np.zeros((2, 3))}, r"coordinates x, y and z, got \['table'\]"),
            ({"pos": np.zeros((2, 2))}, r"coordinates of shape \[N, 3\], got float64 .*\[2, 2\]"),
            ({"pos": np.array([["a"] * 3])}, r"coordinates of shape \[N, 3\], got <U1"),
            ({"pos": np.zeros((0, 3))}, "at least one point, got none"),
            ({"pos": np.full((1, 3), np.nan)}, r"finite coordinates, got \[nan, nan, nan\]"),
            (
                {"pos": np.zeros((2, 3)), "label": np.zeros(3)},
                r"`label` for each of 2 points, got shape \[3\]",
            ),
            ({"pos": np.zeros((2, 3)), "unit": "m"}, r"`unit` for each of 2 points, got shape \["),
            ({"pos": np.array([{}])}, "a plain array `pos` .*allow_pickle=False"),
        ],
    )
    def test_npz_files_of_other_arrays(self, tmp_path, arrays, message):
        np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
        with pytest.raises(ValueError, match=f"a.npz: expected .*{message}"):
            read_scene(tmp_path / "a.npz")

    def test_folders_and_pipes_are_not_read(self, tmp_path):
        (tmp_path / "a.las").mkdir()
        os.mkfifo(tmp_path / "b.xyz")
        for name in ("a.las", "b.xyz"):
            with pytest.raises(ValueError, match=f"{name}: expected a regular file, got a folder"):
                read_scene(tmp_path / name)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="a.ply"):
            read_scene(tmp_path / "a.ply")

    def test_says_what_to_install(self, tmp_path, monkeypatch):
        path = put_las(tmp_path / "a.las")
        monkeypatch.setitem(__import__("sys").modules, "laspy", None)
        with pytest.raises(ImportError, match="Expected laspy to read and write LAS and LAZ files"):
            read_scene(path)


class TestRealFiles:
    def test_airborne_scans_are_read_as_they_were_published(self, shared_data):
        with np.load(shared_data / "airborne_lidar.npz") as reference:
            for name in ("Megaplot", "MixedConifer"):
                scene = read_scene(shared_data / f"original/las/{name}.laz")
                local = scene.points - scene.points.min(axis=0)
                np.testing.assert_allclose(local, reference[f"{name}_pos"], atol=1e-4)
                np.testing.assert_array_equal(scene.labels, reference[f"{name}_label"])
                for attribute in ("intensity", "return_number"):
                    np.testing.assert_array_equal(
                        scene.attributes[attribute], reference[f"{name}_{attribute}"]
                    )

    def test_las_and_laz_files_of_the_same_scan_are_equal(self, shared_data):
        folder = shared_data / "original/las"
        part = read_scene(folder / "MixedConifer_first10000.las")
        first = read_scene(folder / "MixedConifer.laz").select(np.arange(10_000))
        np.testing.assert_array_equal(part.points, first.points)
        np.testing.assert_array_equal(part.labels, first.labels)
        np.testing.assert_array_equal(part.attributes["treeID"], first.attributes["treeID"])

    @pytest.mark.parametrize("suffix", ["las", "laz"])
    def test_a_relabelled_airborne_scan_keeps_everything_else(self, shared_data, tmp_path, suffix):
        source = shared_data / "original/las/MixedConifer_first10000.las"
        scene = read_scene(source)
        labels = 3 - scene.labels
        target = tmp_path / f"a.{suffix}"
        write_scene(target, Scene(scene.points, labels=labels), source=source)
        points, columns = read_las(target)
        np.testing.assert_array_equal(points, scene.points)
        np.testing.assert_array_equal(columns.pop("classification"), labels)
        assert columns.keys() == scene.attributes.keys()
        for name, values in columns.items():
            np.testing.assert_array_equal(values, scene.attributes[name])

    def test_a_sweep_of_kitti(self, shared_data):
        path = shared_data / "original/kitti/velodyne/000000.bin"
        scene = read_scene(path)
        assert len(scene) == 123_389
        assert scene.labels is None
        raw = np.fromfile(path, "<f4").reshape(-1, 4)
        np.testing.assert_array_equal(scene.points, raw[:, :3])
        np.testing.assert_array_equal(scene.attributes["intensity"], raw[:, 3])
        assert 0 <= raw[:, 3].min() < raw[:, 3].max() <= 1

    def test_points_of_semantickitti_have_labels(self, shared_data):
        folder = shared_data / "original/mmdet3d_snippets/semantickitti/sequences/00"
        scene = read_scene(folder / "velodyne/000000.bin")
        raw = np.fromfile(folder / "labels/000000.label", "<u4")
        assert len(scene) == 50
        np.testing.assert_array_equal(scene.labels, raw % 65536)
        assert set(scene.labels.tolist()) >= {0, 80}

    def test_a_fragment_of_open3d(self, shared_data):
        path = shared_data / "original/pcd/fragment.pcd"
        scene = read_scene(path)
        reference = open3d().io.read_point_cloud(str(path))
        assert len(scene) == 113_662
        np.testing.assert_allclose(scene.points, np.asarray(reference.points))
        np.testing.assert_allclose(
            scene.attributes["color"], np.asarray(reference.colors), atol=1e-6
        )
        np.testing.assert_allclose(scene.attributes["normal"], np.asarray(reference.normals))
        assert "curvature" in scene.attributes


def test_colours_named_by_cloudcompare_are_colours(tmp_path):
    text = "//X Y Z R G B Classification\n0 0 0 255 0 51 2\n"
    scene = read_scene(put(tmp_path / "a.txt", text))
    np.testing.assert_allclose(scene.attributes["color"], [[1, 0, 0.2]], rtol=1e-6)


def test_a_comment_of_as_many_words_as_columns_names_none(tmp_path):
    scene = read_scene(put(tmp_path / "a.xyz", "# made by me\n1 2 3\n"))
    assert scene.points.tolist() == [[1, 2, 3]]


def test_infinite_labels_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", pos=np.zeros((2, 3)), label=[1.0, np.inf])
    with pytest.raises(ValueError, match="a.npz: expected whole numbers `label`"):
        read_scene(tmp_path / "a.npz")


def test_coordinates_of_different_lengths_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(3), z=np.zeros(2))
    with pytest.raises(ValueError, match="a.npz: expected"):
        read_scene(tmp_path / "a.npz")


@pytest.mark.parametrize("colors", [["a", "b"], np.zeros((2, 5)), np.zeros(2)])
def test_colours_of_another_kind_are_refused_by_name(tmp_path, colors):
    np.savez(tmp_path / "a.npz", pos=np.zeros((2, 3)), color=colors)
    with pytest.raises(ValueError, match="a.npz: expected .*`color`"):
        read_scene(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["F", "U"])
def test_packed_colours_of_ascii_pcd_files_are_unpacked(tmp_path, kind):
    packed = np.array([255 << 16 | 51 << 8 | 102], np.uint32)
    value = packed[0] if kind == "U" else f"{packed.view(np.float32)[0]:.9g}"
    text = (
        f"VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F {kind}\nCOUNT 1 1 1 1\nWIDTH 1\n"
        f"HEIGHT 1\nPOINTS 1\nDATA ascii\n0 0 0 {value}\n"
    )
    scene = read_scene(put(tmp_path / "a.pcd", text))
    np.testing.assert_allclose(scene.attributes["color"], [[1, 0.2, 0.4]], rtol=1e-6)


def test_las_files_hold_tiny_scans_beside_a_whole_number(tmp_path):
    points = np.array([[0.9, 0.9, 0.9], [0.901, 0.9, 0.9]])
    write_scene(tmp_path / "a.las", Scene(points))
    np.testing.assert_allclose(read_scene(tmp_path / "a.las").points, points, rtol=0, atol=1e-9)


def test_las_files_keep_the_colours_of_the_scene(tmp_path):
    write_scene(tmp_path / "a.las", scan())
    found = read_scene(tmp_path / "a.las").attributes["color"]
    np.testing.assert_allclose(found, scan().attributes["color"], atol=1e-6)


def test_codes_above_31_keep_the_scan_angle_of_old_formats(tmp_path):
    source = put_las(tmp_path / "a.las", scan_angle_rank=np.arange(20) - 10)
    write_scene(tmp_path / "b.las", read_scene(source), codes=np.full(20, 40), source=source)
    degrees = laspy.read(tmp_path / "b.las")["scan_angle"] * 0.006
    np.testing.assert_allclose(degrees, np.arange(20) - 10, atol=0.0031)


def test_a_label_file_that_was_cut_within_a_label_is_refused(tmp_path):
    path = put_bytes(tmp_path / "7.bin", TestKitti.table.tobytes())
    put_bytes(tmp_path / "7.label", np.zeros(3, "<u4").tobytes()[:-2])
    with pytest.raises(ValueError, match="7.label: expected a label for each of 2 points"):
        read_scene(path)


def test_a_folder_that_is_a_file_is_an_error_that_names_the_target(tmp_path):
    put(tmp_path / "file", "content")
    with pytest.raises(OSError, match=rf"cannot write: .*{tmp_path}/file/a.ply"):
        write_scene(tmp_path / "file/a.ply", scan())


@pytest.mark.parametrize("suffix", ["ply", "npz"])
@pytest.mark.parametrize("name", ["y", "file"])
def test_attributes_of_any_name_leave_the_coordinates_alone(tmp_path, suffix, name):
    points = np.arange(6.0).reshape(2, 3)
    write_scene(tmp_path / f"a.{suffix}", Scene(points, {name: np.array([7, 8])}))
    assert read_scene(tmp_path / f"a.{suffix}").points.tolist() == points.tolist()


def test_las_files_hold_small_whole_numbers_of_any_range(tmp_path):
    points = np.array([[-30_000, 0, 0], [30_000, 0, 0]], np.int16)
    write_scene(tmp_path / "a.las", Scene(points))
    np.testing.assert_allclose(read_scene(tmp_path / "a.las").points, points, atol=1e-3)


def test_the_transparency_of_colours_is_dropped(tmp_path):
    colors = np.array([[51, 102, 255, 7]], np.uint8)
    np.savez(tmp_path / "a.npz", pos=np.zeros((1, 3)), color=colors)
    found = read_scene(tmp_path / "a.npz").attributes["color"]
    np.testing.assert_allclose(found, [[0.2, 0.4, 1.0]])


def test_numbers_that_do_not_fit_a_dimension_of_las_get_one_of_their_own(tmp_path):
    pytest.importorskip("laspy", reason="the extra `las` is missing")
    attributes = {
        "intensity": np.array([0.25, 0.5], np.float32), "user_data": np.array([3, 255]),
        "height": np.array([1.5, -2.0]),
    }  # fmt: skip
    write_scene(tmp_path / "a.las", Scene(np.eye(3)[:2], attributes))
    found = read_scene(tmp_path / "a.las").attributes
    assert found["intensity_"].tolist() == [0.25, 0.5]
    assert found["user_data"].tolist() == [3, 255]
    assert found["height"].tolist() == [1.5, -2.0]
