"""`segment`: labels for every point of a file, written to files, and bad input."""

import json

import numpy as np
import pytest

from ccnn_geo.commands import main
from ccnn_geo.datasets import read_scene, write_scene
from ccnn_geo.datasets.io.scenes import Scene
from ccnn_geo.datasets.scenes.landscapes import make_landscape

LANDSCAPES = ["ground", "tree", "clutter"]


@pytest.fixture(scope="module")
def landscape() -> Scene:
    """A small scan from the air."""
    seeds = (make_landscape(seed=(5, number), side=20.0) for number in range(20))
    return next(scan for scan in seeds if 800 < len(scan) < 4000)


@pytest.fixture
def scan(landscape, tmp_path):
    path = tmp_path / "scan.ply"
    write_scene(path, landscape)
    return path


@pytest.fixture
def segment(capsys):
    """Runs `segment --json` and returns its exit code, the entries and the errors."""

    def run(*arguments):
        code = main(["segment", "--json", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_labels_every_point_and_writes_them_in_the_order_of_the_file(segment, scan, tmp_path):
    output = tmp_path / "labelled.ply"
    code, (entry,), err = segment(scan, "--output", output)
    assert (code, err) == (0, "")
    labelled, original = read_scene(output), read_scene(scan)
    np.testing.assert_array_equal(labelled.points, original.points)
    counts = np.bincount(labelled.labels, minlength=3).tolist()
    assert [row["points"] for row in entry["classes"]] == counts
    assert [row["name"] for row in entry["classes"]] == LANDSCAPES
    assert entry["points"] == len(original) and entry["points_after_thinning"] <= len(original)
    assert (labelled.labels == original.labels).mean() > 0.9
    colors = np.unique(np.column_stack([labelled.labels, labelled.attributes["color"]]), axis=0)
    assert len(colors) == len(np.unique(labelled.labels))
    assert labelled.attributes["confidence"].min() > 1 / 3 - 1e-6


def test_compares_with_true_labels(segment, scan):
    code, (entry,), _ = segment(scan, "--label", "label")
    assert code == 0 and entry["accuracy"] > 0.9
    assert all(0 <= row["iou"] <= 1 for row in entry["classes"] if row["iou"] is not None)


def test_prints_shares_and_measures(scan, tmp_path, capsys):
    assert (
        main(["segment", str(scan), "--label", "label", "--output", str(tmp_path / "a.npz")]) == 0
    )
    printed = capsys.readouterr().out
    assert "points" in printed and "%  ground, IoU" in printed and "mean IoU" in printed
    assert f"Wrote {tmp_path / 'a.npz'}" in printed


def test_from_las_to_las_everything_but_the_class_is_kept(segment, landscape, tmp_path):
    laspy = pytest.importorskip("laspy", reason="the extra `las` is missing")
    source, output = tmp_path / "scan.las", tmp_path / "labelled.las"
    header = laspy.LasHeader(version="1.2", point_format=1)
    header.scales, header.offsets = np.full(3, 0.01), np.array([684_000.0, 5_017_000, 0])
    las = laspy.LasData(header)
    las.xyz = landscape.points + (684_000.0, 5_017_000, 0)
    las.intensity = np.arange(len(landscape)) % 1000
    las.write(source)
    code, (entry,), _ = segment(source, "--output", output)
    found = laspy.read(output)
    assert code == 0
    for axis in "XYZ":
        np.testing.assert_array_equal(found[axis], las[axis])
    np.testing.assert_array_equal(found.intensity, las.intensity)
    codes = {"ground": 2, "tree": 5, "clutter": 1}
    counts = dict(zip(*np.unique(found.classification, return_counts=True), strict=True))
    assert counts == {
        codes[row["name"]]: row["points"] for row in entry["classes"] if row["points"]
    }


def test_several_files_go_to_a_folder_and_a_bad_one_does_not_stop_them(segment, scan, tmp_path):
    bad = tmp_path / "bad.xyz"
    bad.write_text("no numbers\n")
    code, entries, err = segment(scan, bad, "--output", tmp_path / "out")
    assert code == 1
    assert [sorted(each) for each in entries][1] == ["error", "file"]
    assert err.startswith(f"error: {bad}: expected a table of numbers")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scan.ply"]


def test_labels_the_parts_of_a_mesh(segment, tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="the extra `mesh` is missing")
    from ccnn_geo.datasets.point_clouds.parts import make_parts

    chair = make_parts("chair", seed=3)
    mesh = tmp_path / "chair.off"
    trimesh.Trimesh(chair.points, chair.faces, process=False).export(mesh)
    output = tmp_path / "parts.ply"
    code, (entry,), _ = segment(mesh, "--weights", "shape_parts", "--output", output)
    assert code == 0 and entry["points"] == 2048
    chairs = sum(row["points"] for row in entry["classes"] if row["name"].startswith("chair"))
    assert chairs > 0.8 * 2048
    assert len(read_scene(output)) == 2048


def test_writes_a_page_with_a_colour_per_class(segment, scan, tmp_path):
    pytest.importorskip("plotly", reason="the extra `viz` is missing")
    page = tmp_path / "seen.html"
    assert segment(scan, "--html", page)[0] == 0
    text = page.read_text()
    assert all(f'"name":"{name}"' in text for name in ("ground", "tree"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "labelled.xyz"], "which can carry labels, got labelled.xyz"),
        (["--output", "missing/labelled.ply"], "the file cannot be written"),
        (["--weights", "shapes"], "weights that label every point, got shapes with a card of"),
        (["--weights", "nowhere"], "name of weights"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(segment, scan, arguments, message):
    code, entries, err = segment(scan, *arguments)
    assert (code, entries) == (1, None)
    assert message in err


def test_one_output_file_for_several_scans_is_refused(segment, scan, tmp_path):
    code, _, err = segment(scan, scan, "--output", tmp_path / "one.ply")
    assert code == 1 and "`--output` to be a folder for 2 files" in err
    code, _, err = segment(scan, scan, "--output", tmp_path / "out")
    assert code == 1 and "files of different names" in err


def test_predict_says_that_weights_label_points(capsys, scan):
    assert main(["predict", str(scan), "--weights", "landscapes"]) == 1
    assert "use `Labeller`, or `python -m ccnn_geo segment`" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["ply", "las"])
def test_what_was_written_can_be_drawn(segment, scan, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")
    if suffix == "las":
        pytest.importorskip("laspy", reason="the extra `las` is missing")
    labelled, picture = tmp_path / f"labelled.{suffix}", tmp_path / "labelled.png"
    segment(scan, "--output", labelled)
    assert main(["plot", "labels", str(labelled), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    np.savetxt(tmp_path / "plain.xyz", np.eye(3))
    assert main(["plot", "labels", str(tmp_path / "plain.xyz"), str(picture)]) == 1


def test_codes_of_las_files_are_translated_to_compare_with(segment, scan, tmp_path):
    pytest.importorskip("laspy", reason="the extra `las` is missing")
    labelled = tmp_path / "labelled.las"
    segment(scan, "--output", labelled)
    code, (entry,), _ = segment(labelled, "--label", "classification")
    assert code == 0 and entry["accuracy"] > 0.99
