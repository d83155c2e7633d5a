"""The official archive: found extracted or not, and extracted in part."""

import tarfile

import pytest

from ccnn_geo.datasets.signals.lra.release import find_official
from lra_helpers import put_expressions, put_paths

TABLES = ["basic_train.tsv", "basic_val.tsv", "basic_test.tsv"]


def find(root):
    return find_official(root, "ListOps", "listops-1000", TABLES, instead=", or something else")


@pytest.fixture
def archive(tmp_path):
    """An archive as nested as the official one, of two tasks."""
    inside = tmp_path / "made" / "lra_release" / "lra_release"
    put_expressions(inside / "listops-1000")
    put_paths(inside / "pathfinder32" / "curv_baseline", count=2)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "lra_release.gz", "w:gz") as file:
        file.add(tmp_path / "made" / "lra_release", "lra_release")
    return root / "lra_release.gz"


@pytest.mark.parametrize(
    "place",
    [".", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000"],
)
def test_a_folder_is_found_where_it_was_put(tmp_path, place):
    put_expressions(tmp_path / place)
    assert find(tmp_path) == tmp_path / place


def test_only_one_folder_of_the_archive_is_extracted_once(archive):
    root = archive.parent
    found = find(root)
    assert sorted(path.name for path in found.iterdir()) == sorted(TABLES)
    assert not list(root.rglob("*.png"))
    other = find_official(root, "Pathfinder", "pathfinder32/curv_baseline", ["imgs", "metadata"])
    assert len(list(other.rglob("*.png"))) == 2
    archive.unlink()
    assert find(root) == found


def test_without_files_the_error_says_what_to_download_and_where_to_put_it(tmp_path):
    message = (
        rf"Expected ListOps in {tmp_path}: basic_train.tsv, .* a folder listops-1000 with them, or "
        r"lra_release.gz, got none of these. Download https://storage.googleapis.com/long-range-"
        r"arena/lra_release.gz \(8 GB\) and put it there, or something else"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find(tmp_path)


def test_a_broken_archive_and_another_one_are_named(archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="lra_release.gz: expected a valid tar file"):
        find(archive.parent)
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made/lra_release/lra_release/pathfinder32", "lra_release/pathfinder32")
    with pytest.raises(ValueError, match="it holds no files to extract"):
        find(archive.parent)
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made/lra_release/lra_release/pathfinder32", "listops-1000/other")
    with pytest.raises(ValueError, match="expected basic_train.tsv, .* of ListOps, got none;"):
        find(archive.parent)
