"""Files that decoders read wrongly, partly or for ever: the right values, or an error."""

import os
import struct
import sys

import numpy as np
import pytest

from ccnn_geo.datasets import read_geometry
from ccnn_geo.datasets.io.readers import geometry_files
from datasets_helpers import put

# A U of area 7, counter-clockwise: a 3 x 3 square without its upper middle of 1 x 2.
U = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]


def area(geometry):
    corners = geometry.points[geometry.faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.linalg.norm(crosses, axis=1).sum() / 2, crosses.sum(axis=0)


def polygon_file(path, points):
    rows = "".join(f"{x} {y} 0\n" for x, y in points)
    corners = " ".join(str(i) for i in range(len(points)))
    if path.suffix == ".off":
        return put(path, f"OFF\n{len(points)} 1 0\n{rows}{len(points)} {corners}\n")
    if path.suffix == ".ply":
        head = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\nproperty float x\n"
        head += "property float y\nproperty float z\nelement face 1\n"
        head += "property list uchar int vertex_indices\nend_header\n"
        return put(path, f"{head}{rows}{len(points)} {corners}\n")
    ones = " ".join(str(i + 1) for i in range(len(points)))
    return put(path, "".join(f"v {x} {y} 0\n" for x, y in points) + f"f {ones}\n")


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply"])
@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("backwards", [False, True])
def test_a_polygon_that_is_not_convex_keeps_its_area_whatever_its_first_corner(
    tmp_path, suffix, first, backwards
):
    points = U[first:] + U[:first]
    points = points[::-1] if backwards else points
    total, normal = area(read_geometry(polygon_file(tmp_path / f"u{suffix}", points)))
    assert total == pytest.approx(7)
    assert normal.tolist() == pytest.approx([0, 0, -14 if backwards else 14])


def test_a_polygon_that_is_seen_from_its_first_corner_needs_no_library(tmp_path, monkeypatch):
    arrow = [(1, 1), (4, 0), (3, 4), (0, 4), (0, 2)]  # its first corner is the reflex one
    monkeypatch.setitem(sys.modules, "mapbox_earcut", None)
    total, _ = area(read_geometry(polygon_file(tmp_path / "a.off", arrow)))
    x, y = np.transpose(arrow)
    assert total == pytest.approx(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    with pytest.raises(ImportError, match="Expected mapbox_earcut for a polygon that is not conv"):
        read_geometry(polygon_file(tmp_path / "u.off", U))


def pcd(kinds, data, rows, *, sizes="4 4 4", points=None):
    count = len(rows) if points is None else points
    header = (
        f"VERSION .7\nFIELDS x y z\nSIZE {sizes}\nTYPE {kinds}\nCOUNT 1 1 1\nWIDTH {count}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    )
    return header.encode()


ROWS = [[500000.125, 1.5, -2.0], [500001.25, 3.0, 4.0]]


def test_pcd_of_double_precision_is_read_exactly(tmp_path):
    path = tmp_path / "a.pcd"
    body = b"".join(struct.pack("<3d", *row) for row in ROWS)
    path.write_bytes(pcd("F F F", "binary", ROWS, sizes="8 8 8") + body)
    assert read_geometry(path).points.tolist() == ROWS
    path.write_bytes(pcd("F F F", "binary", ROWS, sizes="8 8 8") + body[:-1])
    with pytest.raises(ValueError, match="a.pcd: expected 2 points of 24 bytes, the file is cut"):
        read_geometry(path)


def test_an_ascii_pcd_that_is_cut_short_is_an_error(tmp_path):
    path = tmp_path / "a.pcd"
    body = "".join(f"{x} {y} {z}\n" for x, y, z in ROWS).encode()
    path.write_bytes(pcd("F F F", "ascii", ROWS) + body)
    assert read_geometry(path).points.tolist() == ROWS
    path.write_bytes(pcd("F F F", "ascii", ROWS, points=3) + body)
    with pytest.raises(ValueError, match="a.pcd: expected 3 points, the file ends after 2"):
        read_geometry(path)
    path.write_bytes(pcd("F F F", "ascii", ROWS) + body[:-6])
    with pytest.raises(ValueError, match="expected 3 numbers for every point"):
        read_geometry(path)


PLY = (
    "ply\nformat {kind} 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
)


def binary_ply(*faces):
    body = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    for face in faces:
        body += struct.pack(f"<B{len(face)}i", len(face), *face)
    return PLY.format(kind="binary_little_endian").encode() + body


def test_a_binary_ply_cut_at_any_byte_is_an_error(tmp_path):
    path = tmp_path / "a.ply"
    content = binary_ply((0, 1, 2))
    path.write_bytes(content)
    assert read_geometry(path).faces.tolist() == [[0, 1, 2]]
    for missing in range(1, 40):
        path.write_bytes(content[:-missing])
        with pytest.raises(ValueError, match="a.ply: .*(cut short|expected . rows)"):
            read_geometry(path)


def test_a_binary_ply_may_have_windows_line_ends_in_its_header(tmp_path):
    path = tmp_path / "a.ply"
    head, body = binary_ply((0, 1, 2)).split(b"end_header\n")
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body)
    geometry = read_geometry(path)
    assert geometry.points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert geometry.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "element", ["face 0\nproperty list uchar int vertex_indices", "face 0", "mark 3"]
)
def test_a_binary_ply_may_have_elements_without_content(tmp_path, element):
    path = tmp_path / "a.ply"
    head, body = binary_ply().split(b"end_header\n")
    head = head[: head.index(b"element face")] + f"element {element}\n".encode()
    path.write_bytes(head + b"end_header\n" + body)
    geometry = read_geometry(path)
    assert geometry.points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert geometry.faces is None


def test_a_binary_ply_may_end_with_a_face_without_corners(tmp_path):
    path = tmp_path / "a.ply"
    content = binary_ply((0, 1, 2), ())
    path.write_bytes(content.replace(b"element face 1", b"element face 2"))
    assert read_geometry(path).faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_ply_face_that_names_no_vertex_is_an_error(tmp_path, index):
    path = tmp_path / "a.ply"
    path.write_bytes(binary_ply((0, 1, index)))
    with pytest.raises(ValueError, match="a.ply: .*indices of 3 vertices"):
        read_geometry(path)


def test_an_ascii_ply_without_some_rows_is_an_error(tmp_path):
    text = PLY.format(kind="ascii") + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    assert read_geometry(put(tmp_path / "a.ply", text)).faces.tolist() == [[0, 1, 2]]
    for rows in (1, 2, 3, 4):
        cut = "\n".join(text.rstrip("\n").split("\n")[:-rows]) + "\n"
        with pytest.raises(ValueError, match="a.ply: .*expected . rows of `(face|vertex)`"):
            read_geometry(put(tmp_path / "a.ply", cut))


NORMALS = "property float nx\nproperty float ny\nproperty float nz\n"


def cloud_ply(properties, *rows):
    head = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\nproperty float x\n"
    head += f"property float y\nproperty float z\n{properties}end_header\n"
    return head + "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize("normal", ["0 0 25", "0 0 0", "nan 0 1"])
def test_normals_that_are_no_unit_vectors_are_an_error(tmp_path, normal):
    text = cloud_ply(NORMALS, "0 0 0 0 0 1", f"1 1 1 {normal}")
    with pytest.raises(ValueError, match=r"a.ply: expected normals of unit length.*for point 1"):
        read_geometry(put(tmp_path / "a.ply", text))


def test_a_ply_with_one_component_of_a_normal_is_an_error(tmp_path):
    text = cloud_ply("property float nx\n", "0 0 0 1")
    with pytest.raises(ValueError, match="nx, ny, nz, got no ny, nz"):
        read_geometry(put(tmp_path / "a.ply", text))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_points_that_are_not_finite_are_an_error(tmp_path, value):
    with pytest.raises(ValueError, match="a.xyz: expected finite coordinates.*for point 1"):
        read_geometry(put(tmp_path / "a.xyz", f"0 0 0\n1 {value} 1\n"))


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (TRIANGLE + "f 0 1 2\n", "line 4: expected indices from 1 on"),
        (TRIANGLE + "f 1 2 4\n", "line 4: expected indices of 3 vertices, got 4"),
        (TRIANGLE + "f 1 2 -4\n", "line 4: expected indices from 1 on, or back from -1 to -3"),
        (TRIANGLE + "f 1 2\n", "line 4: expected 3 or more vertices"),
        (TRIANGLE + "f 1 2 x\n", "line 4: expected whole numbers"),
        (TRIANGLE + "f 1 2 0_3\n", "line 4: expected whole numbers"),
        ("v 0 0\n", "line 1: expected 3 coordinates"),
        ("v 0 0 x\n", "line 1: expected numbers"),
        ("v 0 0 nan\n", "line 1: expected finite coordinates"),
    ],
)
def test_obj_lines_that_cannot_be_right_are_named(tmp_path, text, match):
    with pytest.raises(ValueError, match=f"a.obj.*{match}"):
        read_geometry(put(tmp_path / "a.obj", text))


def test_relative_indices_count_from_the_line_they_stand_on(tmp_path):
    text = TRIANGLE + "f -3 -2 -1\n" + "v 5 5 5\nv 6 5 5\nv 5 6 5\nf -3 -2 -1\n"
    assert read_geometry(put(tmp_path / "a.obj", text)).faces.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("suffix", [".obj", ".xyz"])
def test_a_byte_order_mark_is_no_part_of_the_first_point(tmp_path, suffix):
    row = "v 1 2 3\n" if suffix == ".obj" else "1 2 3\n"
    path = put(tmp_path / f"a{suffix}", "\ufeff" + row + row)
    assert read_geometry(path).points.tolist() == [[1, 2, 3]] * 2


def test_textures_of_a_mesh_are_not_loaded(tmp_path):
    put(tmp_path / "a.mtl", "newmtl m\nmap_Kd missing.png\n")
    text = "mtllib a.mtl\nusemtl m\n" + TRIANGLE + "vt 0 0\nf 1/1 2/1 3/1\n"
    assert read_geometry(put(tmp_path / "a.obj", text)).faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("row", ["5", "1 2", "1.#QNAN 0 0", "-1.#IND 0 0"])
def test_off_rows_that_are_no_points_are_an_error(tmp_path, row):
    expected = "numbers" if "#" in row else "3 coordinates"
    text = f"OFF\n3 1 0\n{row}\n1 0 0\n0 1 0\n3 0 1 2\n"
    with pytest.raises(ValueError, match=f"a.off: line 3, vertex 0: expected {expected}"):
        read_geometry(put(tmp_path / "a.off", text))


@pytest.mark.parametrize("row", ["0,,1,2", "0,5 1,25 3,0", "1,2,"])
def test_empty_columns_and_decimal_commas_are_an_error(tmp_path, row):
    with pytest.raises(ValueError, match="a.txt: expected a table of numbers"):
        read_geometry(put(tmp_path / "a.txt", f"{row}\n{row}\n"))
    path = put(tmp_path / "a.txt", "0.5, 1.25, 3\n1,2,3\n")
    assert read_geometry(path).points.tolist() == [[0.5, 1.25, 3], [1, 2, 3]]


def test_an_array_that_declares_more_than_the_file_holds_is_an_error(tmp_path):
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2_000_000_000, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="a.npy.*48000000000 bytes of shape.*got 0"):
        read_geometry(path)


def test_pipes_devices_and_folders_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.xyz")
    (tmp_path / "b.obj").mkdir()
    (tmp_path / "c.xyz").symlink_to("/dev/zero")
    for name in ("a.xyz", "b.obj", "c.xyz"):
        with pytest.raises(ValueError, match=f"{name}: expected a regular file"):
            read_geometry(tmp_path / name)


def test_files_of_a_folder_are_those_that_a_person_put_there(tmp_path):
    seen = [put(tmp_path / name) for name in ("a.off", "sub/b.OFF")]
    put(tmp_path / ".ccnn_geo" / "key" / "points.npy")
    put(tmp_path / "._a.off")
    put(tmp_path / "notes.md")
    (tmp_path / "x.obj").mkdir()
    assert geometry_files(tmp_path) == seen


def test_large_coordinates_keep_their_digits(tmp_path):
    rows = [[500000.123456, 5600000.25, 101.5], [500000.123457, 5600000.5, 101.5]]
    text = "\n".join(" ".join(map(repr, row)) for row in rows)
    assert read_geometry(put(tmp_path / "a.xyz", text)).points.tolist() == rows
