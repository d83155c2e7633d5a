"""Extraction of archives: what lands where, what is refused, and that nothing is left behind."""

import errno
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from ccnn_geo.datasets.io.archives import extract_tar, extract_zip
from datasets_helpers import BOX, make_tar, make_zip, names


@dataclass
class Kind:
    """A kind of archive.

    Attributes:
        name: Name of an archive.
        make: Makes one of members by name.
        extract: The tested function.
    """

    name: str
    make: Callable[..., Path]
    extract: Callable[..., Path]

    @property
    def broken(self) -> str:
        return f"{self.name}: expected a valid {self.name.split('.')[1]} file"


KINDS = [
    Kind("a.zip", make_zip, extract_zip),
    Kind("a.tar", make_tar, extract_tar),
    Kind("a.tar.gz", make_tar, extract_tar),
]


@pytest.fixture(params=KINDS, ids=[kind.name for kind in KINDS])
def kind(request):
    return request.param


class TestExtract:
    def test_extracts_everything_without_the_top_folder(self, tmp_path, kind):
        members = {
            "Top/a/": "",
            "Top/a/1.off": "one",
            "Top/2.txt": "two",
            "Top/.DS_Store": "x",
            "._Top": "x",
            "__MACOSX/Top/2.txt": "x",
        }
        target = kind.extract(kind.make(tmp_path / kind.name, members), tmp_path / "out")
        assert names(target) == ["2.txt", "a/1.off"]
        assert (target / "a/1.off").read_text() == "one"
        assert sorted(path.name for path in tmp_path.iterdir()) == [kind.name, "out"]

    def test_keeps_several_top_folders(self, tmp_path, kind):
        members = {"a/1.off": "one", "b/2.off": "two"}
        target = kind.extract(kind.make(tmp_path / kind.name, members), tmp_path / "out")
        assert names(target) == ["a/1.off", "b/2.off"]

    def test_leaves_alone_what_is_there(self, tmp_path, kind):
        (tmp_path / "out").mkdir()
        assert kind.extract(tmp_path / kind.name, tmp_path / "out") == tmp_path / "out"

    def test_clears_away_what_a_killed_run_left(self, tmp_path, kind):
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "stale").touch()
        archive = kind.make(tmp_path / kind.name, {"1.off": "one"})
        assert names(kind.extract(archive, tmp_path / "out")) == ["1.off"]

    @pytest.mark.parametrize(
        "name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil", "C:/evil", "a/.."]
    )
    def test_refuses_members_that_would_leave_the_folder(self, tmp_path, kind, name):
        path = kind.make(tmp_path / kind.name, {"fine": "one", name: "two"})
        with pytest.raises(ValueError, match=f"{kind.broken} .* would land outside the folder"):
            kind.extract(path, tmp_path / "inner" / "out")
        assert list(tmp_path.rglob("*")) == [path]

    def test_names_an_archive_that_is_cut_short_at_any_point(self, tmp_path, kind):
        path = kind.make(tmp_path / kind.name, {"a/1.off": BOX, "b/2.off": BOX})
        whole = path.read_bytes()
        # Tar files are padded with zeros.
        end = len(whole.rstrip(b"\0")) if kind.name == "a.tar" else len(whole)
        for length in range(0, end, 7):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"{kind.broken} .* it again"):
                kind.extract(path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [path]

    def test_names_a_corrupt_archive_and_leaves_nothing(self, tmp_path, kind):
        path = kind.make(tmp_path / kind.name, {"1.off": "sound", "2.off": 99 * BOX})
        content = bytearray(path.read_bytes())
        content[120] ^= 255
        path.write_bytes(content)
        with pytest.raises(ValueError, match=kind.broken):
            kind.extract(path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [path]

    def test_refuses_a_file_of_another_kind(self, tmp_path, kind):
        path = tmp_path / kind.name
        path.write_text("<html>Gone</html>" * 100)
        with pytest.raises(ValueError, match=kind.broken):
            kind.extract(path, tmp_path / "out")

    def test_refuses_an_archive_without_files(self, tmp_path, kind):
        path = kind.make(tmp_path / kind.name, {"a/": ""})
        with pytest.raises(ValueError, match="it holds no files"):
            kind.extract(path, tmp_path / "out")

    def test_looks_for_room_before_it_starts(self, tmp_path, kind, monkeypatch):
        path = kind.make(tmp_path / kind.name, {"1.off": BOX, "2.off": BOX})
        usage = shutil.disk_usage(tmp_path)._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        needed = f"{2 * len(BOX)} bytes are needed to extract {kind.name}, 100 are free"
        with pytest.raises(OSError, match=needed):
            kind.extract(path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [path]

    def test_a_disk_that_fills_up_leaves_nothing(self, tmp_path, kind, monkeypatch):
        path = kind.make(tmp_path / kind.name, {"1.off": BOX})

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left on device"):
            kind.extract(path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [path]


class TestExtractZip:
    def test_refuses_links(self, tmp_path):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            link = zipfile.ZipInfo("link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        with pytest.raises(ValueError, match="member 'link' is a link or a device"):
            extract_zip(path, tmp_path / "out")

    def test_verifies_the_checksum_of_stored_members(self, tmp_path):
        path = make_zip(tmp_path / "a.zip", {"1.off": BOX}, zipfile.ZIP_STORED)
        content = bytearray(path.read_bytes())
        content[60] ^= 255
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Bad CRC-32 for file '1.off'"):
            extract_zip(path, tmp_path / "out")


class TestExtractTar:
    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    )
    def test_refuses_links_and_devices(self, tmp_path, kind):
        path = make_tar(tmp_path / "a.tar", {"1.off": "one"})
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("odd")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        with pytest.raises(ValueError, match="a.tar: .*member 'odd' is a link or a device"):
            extract_tar(path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [path]

    def test_recognizes_the_compression_whatever_the_name(self, tmp_path):
        path = make_tar(tmp_path / "release.gz", {"a": "one"}).rename(tmp_path / "release.tar")
        assert names(extract_tar(path, tmp_path / "out")) == ["a"]

    def test_extracts_only_the_chosen_members(self, tmp_path):
        members = {"top/top/a/1": "one", "top/top/b/2": "two", "top/top/a/3": "three"}
        path = make_tar(tmp_path / "a.tar.gz", {**members, "../evil": "unread"})
        seen = []

        def chosen(member: PurePosixPath) -> bool:
            seen.append(str(member))
            return "a" in member.parts

        target = extract_tar(path, tmp_path / "out", members=chosen)
        assert names(target) == ["top/a/1", "top/a/3"]
        assert (target / "top/a/3").read_text() == "three"
        assert seen == [*members, "../evil"]

    def test_refuses_a_choice_that_no_member_meets(self, tmp_path):
        path = make_tar(tmp_path / "a.tar", {"a/1": "one"})
        with pytest.raises(ValueError, match="it holds no files to extract"):
            extract_tar(path, tmp_path / "out", members=lambda member: member.name == "2")

    def test_long_names_and_names_that_begin_with_a_dot_are_kept(self, tmp_path):
        long = f"{'x' * 90}/{'y' * 90}/1.off"
        path = make_tar(tmp_path / "a.tar", {f"./top/{long}": "one", "./top/2.off": "two"})
        assert names(extract_tar(path, tmp_path / "out")) == sorted([long, "2.off"])

    def test_verifies_the_checksum_of_a_compressed_file(self, tmp_path):
        path = make_tar(tmp_path / "a.tar.gz", {"1.off": BOX})
        content = bytearray(path.read_bytes())
        content[-5] ^= 255  # of the checksum, which follows all members
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.tar.gz: .*CRC check failed"):
            extract_tar(path, tmp_path / "out")

    def test_members_after_a_broken_header_or_a_cut_before_it_are_not_lost_silently(self, tmp_path):
        path = make_tar(tmp_path / "a.tar", {"1.off": "one", "2.off": "two"})
        content = bytearray(path.read_bytes())
        second = 2 * tarfile.BLOCKSIZE
        content[second] ^= 255
        for cut in (content, content[:second]):
            path.write_bytes(cut)
            with pytest.raises(ValueError, match="cut short or corrupt: its end mark is missing"):
                extract_tar(path, tmp_path / "out")
