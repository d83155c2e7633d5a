"""Official archives: which form is used, what is downloaded, and how broken ones are named."""

import dataclasses
import hashlib
import re

import pytest

from ccnn_geo.datasets.io.releases import Release, find_release
from datasets_helpers import make_tar, put

CONTENT = ("train.bin", "test.bin", "names/")


@pytest.fixture
def archive(tmp_path):
    members = {"top/train.bin": "a", "top/test.bin": "b", "top/names/a": "c", "top/more": "d"}
    return make_tar(tmp_path / "served.tar.gz", members)


@pytest.fixture
def release(host, archive):
    content = archive.read_bytes()
    host.files["set.tar.gz"] = content
    urls = (f"{host.url}/absent", f"{host.url}/set.tar.gz")
    return Release("set.tar.gz", urls, ("set",), CONTENT, md5=hashlib.md5(content).hexdigest())


@pytest.fixture
def other():
    urls = ("http://127.0.0.1:9/other",)
    return Release("other.tar.gz", urls, ("other", "inner/other"), ("train", "test"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_is_downloaded_checked_and_extracted_once(host, release, other, root):
    for _ in range(2):
        assert find_release(root, "Set", [release, other]) == (release, root / "set")
        assert (root / "set" / "more").read_text() == "d"
        assert len(host.ranges) == 2  # one of each address


@pytest.mark.parametrize("key", ["md5", "sha256"])
def test_is_refused_with_a_wrong_checksum(release, root, key):
    wrong = dataclasses.replace(release, **{key: "0" * 32})
    with pytest.raises(OSError, match=f"expected a file with {key} 0{{32}}, got"):
        find_release(root, "Set", [wrong])
    assert not (root / "set.tar.gz").exists()
    assert not (root / "set").exists()


@pytest.mark.parametrize("folder", ["", "other", "inner/other"])
def test_extracted_content_is_preferred_to_an_archive(release, other, root, archive, folder):
    put(root / folder / "train")
    put(root / folder / "test")
    archive.rename(root / "set.tar.gz")
    assert find_release(root, "Set", [release, other], fetch=False) == (other, root / folder)


def test_an_archive_that_is_there_is_preferred_to_a_download(host, release, root, archive):
    root.mkdir()
    archive.rename(root / "mine.tar.gz")
    mine = dataclasses.replace(release, archive="mine.tar.gz", md5=None)
    assert find_release(root, "Set", [release, mine], fetch=False) == (mine, root / "set")
    assert host.ranges == []


def test_an_empty_folder_of_its_name_does_not_hide_an_archive(release, root, archive):
    (root / "set").mkdir(parents=True)
    archive.rename(root / "set.tar.gz")
    assert find_release(root, "Set", [release], fetch=False) == (release, root / "set")


def test_a_part_that_is_missing_is_named(host, release, root):
    put(root / "set" / "train.bin")
    with pytest.raises(FileNotFoundError, match="set: expected all of Set, got no test.bin, names"):
        find_release(root, "Set", [release])
    put(root / "set" / "test.bin")
    put(root / "set" / "names")
    with pytest.raises(FileNotFoundError, match="got no names/; .* to extract set.tar.gz anew"):
        find_release(root, "Set", [release])
    assert host.ranges == []


def test_an_archive_of_another_data_set_is_named(release, root, tmp_path):
    root.mkdir()
    make_tar(root / "set.tar.gz", {"top/data_batch_1.bin": "a", "top/README": "b"})
    message = "set: expected the content of Set, got no train.bin, .*; remove .* and set.tar.gz if"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            find_release(root, "Set", [release])


def test_an_archive_that_is_cut_short_is_named(release, root, archive):
    root.mkdir()
    (root / "set.tar.gz").write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(ValueError, match="set.tar.gz: expected a valid tar file .* it again"):
        find_release(root, "Set", [release])
    assert not (root / "set").exists()


def test_all_forms_are_named_where_nothing_is_found(release, other, root):
    message = (
        f"Expected Set in {root}: set, set.tar.gz (from {release.urls[0]}), "
        f"other, inner/other, other.tar.gz (from {other.urls[0]}), got none of them"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        find_release(root, "Set", [release, other], fetch=False)
    assert not root.exists()
