"""The reader of OFF meshes: every variant in the wild, and every way a file can be broken."""

import numpy as np
import pytest

from ccnn_geo.datasets import read_off

SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
HALVES = np.array([[0, 1, 2], [0, 2, 3]])


@pytest.fixture
def write(tmp_path):
    """Writes an OFF file and returns its path."""

    def write(content: str | bytes):
        path = tmp_path / "mesh.off"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


TRIANGLES = "3 0 1 2\n3 0 2 3\n"
VARIANTS = {
    "plain": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}",
    "glued header": f"OFF4 2 0\n{SQUARE}{TRIANGLES}",
    "counts on the keyword's line": f"OFF 4 2 0\n{SQUARE}{TRIANGLES}",
    "the keyword in small letters": f"off\n4 2 0\n{SQUARE}{TRIANGLES}",
    "no number of edges": f"OFF\n4 2\n{SQUARE}{TRIANGLES}",
    "wrong number of edges": f"OFF\n4 2 99\n{SQUARE}{TRIANGLES}",
    "Windows line ends": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".replace("\n", "\r\n"),
    "old Macintosh line ends": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".replace("\n", "\r"),
    "comments": f"# made by hand\nOFF # a square\n# counts\n4 2 0\n{SQUARE}# faces\n{TRIANGLES}",
    "blank lines": f"\n\nOFF\n\n4 2 0\n\n{SQUARE}\n \n{TRIANGLES}\n\n",
    "tabs and many spaces": f"OFF\n4\t2  0\n{SQUARE}{TRIANGLES}".replace(" ", " \t "),
    "no line end at the end": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".rstrip(),
    "a byte order mark": b"\xef\xbb\xbf" + f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".encode(),
    "exponents": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".replace("1 1 0", "1.0e0 +1E+0 -0.0"),
    "a quad": f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n",
    "a quad and a triangle of two corners": f"OFF\n4 2 0\n{SQUARE}4 0 1 2 3\n2 0 1\n",
    "face colours": f"OFF\n4 2 0\n{SQUARE}3 0 1 2 255 0 0\n3 0 2 3 0.5 0.5 0.5 1\n",
    "vertex colours": "COFF\n4 2 0\n" + SQUARE.replace("\n", " 255 0 0 255\n") + TRIANGLES,
    "vertex normals": "NOFF\n4 2 0\n" + SQUARE.replace("\n", " 0 0 1\n") + TRIANGLES,
    "words after the faces": f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}the end\n",
}


@pytest.mark.parametrize("content", VARIANTS.values(), ids=VARIANTS)
def test_reads_every_variant_as_the_same_square(write, content):
    vertices, faces = read_off(write(content))
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(faces, HALVES)
    assert vertices.dtype == np.float64
    assert faces.dtype == np.int64


def test_cuts_a_polygon_into_a_fan_of_triangles(write):
    vertices, faces = read_off(write(f"OFF\n5 2 0\n{SQUARE}-1 0.5 0\n5 0 1 2 3 4\n3 1 2 3\n"))
    assert len(vertices) == 5
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [1, 2, 3]]


def test_keeps_faces_without_area(write):
    _, faces = read_off(write(f"OFF\n4 2 0\n{SQUARE}3 1 1 1\n3 0 1 2\n"))
    assert faces.tolist() == [[1, 1, 1], [0, 1, 2]]


def test_keeps_the_full_precision_of_the_coordinates(write):
    line = "-0.26412730481333924 0.0018040552547949611 1e-300"
    vertices, _ = read_off(write(f"OFF\n3 1 0\n{line}\n1 0 0\n0 1 0\n3 0 1 2\n"))
    assert vertices[0].tolist() == [float(token) for token in line.split()]


BROKEN = {
    "an empty file": ("", "the file is empty"),
    "white space": (" \n\n", "the file is empty"),
    "another format": (
        "solid cube\n",
        "expected an ASCII OFF file, got one that starts with b'solid",
    ),
    "binary": (b"OFF BINARY\n\0\0\0\1", "expected an ASCII OFF file"),
    "four dimensions": ("4OFF\n1 1 0\n0 0 0 0\n3 0 0 0\n", "expected an ASCII OFF file"),
    "the keyword alone": ("OFF", "the numbers of vertices, faces and edges, got b''"),
    "one count": ("OFF\n4\n", "the numbers of vertices, faces and edges, got b'4'"),
    "counts that are no numbers": ("OFF\nfour two\n", "expected whole numbers, got .*four"),
    "underscores in counts": ("OFF\n1_0 2 0\n", "expected whole numbers, got .*1_0"),
    "underscores in a coordinate": ("OFF\n1 0 0\n1_0 0 0\n", "vertex 0: expected numbers, got"),
    "underscores in a face": (f"OFF\n4 1 0\n{SQUARE}3 0 1 0_2\n", "face 0: expected whole num"),
    "negative counts": ("OFF\n-4 2 0\n", "the numbers of vertices, faces and edges, got b'-4 2 0'"),
    "cut short after the header": (
        "OFF\n4 2 0\n",
        "expected 4 vertices and 2 faces, the file ends after 0 of those 6 lines",
    ),
    "cut short among the vertices": ("OFF\n4 2 0\n0 0 0\n1 0", "ends after 2 of those 6 lines"),
    "cut short before the faces": (f"OFF\n4 2 0\n{SQUARE}", "ends after 4 of those 6 lines"),
    "cut short among the faces": (f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n", "ends after 5 of those 6"),
    "cut short within a face": (
        f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n3 0 2",
        "face 1: expected 3 corners, the line has 2",
    ),
    "a vertex of two coordinates": ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", "vertex 1"),
    "vertices whose lengths add up": (
        "OFF\n3 1 0\n0 0\n0 1 0 0\n0 1 0\n3 0 1 2\n",
        r"line 3, vertex 0: expected 3 coordinates, got \[b'0', b'0'\]",
    ),
    "faces whose lengths add up": (
        f"OFF\n4 2 0\n{SQUARE}3 0 1\n3 3 0 1 2\n",
        "line 7, face 0: expected 3 corners, the line has 2",
    ),
    "a vertex without a line end": (
        "OFF\n3 1 0\n0 0 0 1 0 0\n0 1 0\n3 0 1 2\n",
        "expected 3 vertices and 1 faces, the file ends after 3 of those 4 lines",
    ),
    "an error after comments and blank lines": (
        f"# a\n\nOFF # b\n\n4 1 0\n{SQUARE}\n# c\n3 0 1 9\n",
        "line 12, face 0: expected indices of 4 vertices, got 0 to 9",
    ),
    "an error in a file of Windows": (
        f"OFF\n4 1 0\n{SQUARE}3 0 1 9\n".replace("\n", "\r\n"),
        "line 7, face 0: expected indices of 4 vertices",
    ),
    "a vertex that is no number": (
        "OFF\n3 1 0\n0 0 0\n1 0 x\n0 1 0\n3 0 1 2\n",
        r"vertex 1: expected numbers, got \[b'1', b'0', b'x'\]",
    ),
    "a face that is no number": (
        f"OFF\n4 1 0\n{SQUARE}3 0 one 2\n",
        "face 0: expected whole numbers",
    ),
    "a face with a fraction": (
        f"OFF\n4 1 0\n{SQUARE}3 0 1.5 2\n",
        "face 0: expected whole numbers",
    ),
    "a face of a negative size": (f"OFF\n4 1 0\n{SQUARE}-3 0 1 2\n", "face 0: expected -3"),
    "a negative index": (
        f"OFF\n4 1 0\n{SQUARE}3 0 1 -1\n",
        "line 7, face 0: .* of 4 vertices, got -1 to 1",
    ),
    "an index out of range": (
        f"OFF\n4 1 0\n{SQUARE}3 0 1 4\n",
        "line 7, face 0: .* of 4 vertices, got 0 to 4",
    ),
    "an index out of range in a quad": (f"OFF\n4 1 0\n{SQUARE}4 0 1 2 4\n", "got 0 to 4"),
    "no faces": (f"OFF\n4 0 0\n{SQUARE}", "expected at least one face, got none"),
    "an edge with a colour": (f"OFF\n4 1 0\n{SQUARE}2 3 1 0\n", "expected at least one face"),
    "edges alone": (f"OFF\n4 1 0\n{SQUARE}2 0 1\n", "expected at least one face, got none"),
    "nothing at all": ("OFF\n0 0 0\n", "expected at least one face, got none"),
    "a coordinate that is not a number": (
        f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".replace("1 1 0", "1 nan 0"),
        r"line 5, vertex 2: expected finite coordinates, got \[1.0, nan, 0.0\]",
    ),
    "an infinite coordinate": (
        f"OFF\n4 2 0\n{SQUARE}{TRIANGLES}".replace("1 1 0", "1 inf 0"),
        "expected finite coordinates",
    ),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_names_the_file_and_what_is_wrong_with_it(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        read_off(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.off"):
        read_off(tmp_path / "absent.off")


def test_the_fast_and_the_patient_way_agree(write):
    generator = np.random.default_rng(0)
    vertices = generator.standard_normal((50, 3))
    faces = generator.integers(50, size=(80, 3))
    lines = [" ".join(map(repr, row)) for row in vertices.tolist()]
    plain = [f"3 {a} {b} {c}" for a, b, c in faces]
    for endings in (plain, [f"{line} 7 7 7" for line in plain]):
        content = "\n".join(["OFF", "50 80 0", *lines, *endings])
        read_vertices, read_faces = read_off(write(content))
        np.testing.assert_array_equal(read_vertices, vertices)
        np.testing.assert_array_equal(read_faces, faces)
