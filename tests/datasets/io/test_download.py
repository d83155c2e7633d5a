"""Download from a host on this machine: resume, checksum, mirrors."""

import errno
import hashlib
import http.server
import socket
from pathlib import Path

import pytest

from ccnn_geo.datasets import ModelNet
from ccnn_geo.datasets.io import download as download_module
from ccnn_geo.datasets.io.download import download
from ccnn_geo.datasets.point_clouds import modelnet as modelnet_module
from datasets_helpers import BOX, OPTIONS, make_zip, names

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def host(host):
    host.files["file.bin"] = CONTENT
    return host


@pytest.fixture
def dead_url(host):
    """A port on which nothing listens: that of a server which is closed again."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
    return f"http://127.0.0.1:{port}/file.bin"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "file.bin"


def part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


class TestDownload:
    def test_fetches_a_file_and_leaves_nothing_else(self, host, target):
        assert download([f"{host.url}/file.bin"], target, sha256=SHA256.upper()) == target
        assert target.read_bytes() == CONTENT
        assert list(target.parent.iterdir()) == [target]

    def test_does_nothing_for_a_file_that_is_there(self, host, target):
        target.parent.mkdir()
        target.write_bytes(b"mine")
        download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == b"mine"
        assert host.ranges == []

    def test_goes_on_where_an_earlier_call_was_cut_off(self, host, target):
        target.parent.mkdir()
        part(target).write_bytes(CONTENT[:1000])
        download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == CONTENT
        assert host.ranges == ["bytes=1000-"]

    def test_goes_on_by_itself_after_a_broken_connection(self, host, target):
        host.break_after = [600_000, 200_000]
        download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == CONTENT
        assert host.ranges == [None, "bytes=600000-", "bytes=800000-"]

    def test_starts_again_where_a_host_cannot_resume(self, host, target):
        host.honours_ranges = False
        target.parent.mkdir()
        part(target).write_bytes(CONTENT[:1000])
        download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == CONTENT

    def test_takes_a_part_that_was_complete_already(self, host, target):
        target.parent.mkdir()
        part(target).write_bytes(CONTENT)
        download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == CONTENT
        assert host.ranges == [f"bytes={len(CONTENT)}-"]

    @pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(CONTENT), b"x" * 2 * len(CONTENT)])
    def test_a_part_of_another_file_is_thrown_away_and_fetched_again(self, host, target, stale):
        target.parent.mkdir()
        part(target).write_bytes(stale)
        download([f"{host.url}/file.bin"] * 2, target, sha256=SHA256)
        assert target.read_bytes() == CONTENT

    def test_the_next_mirror_goes_on_where_the_last_one_failed(self, host, dead_url, target):
        host.files["short.bin"] = CONTENT
        host.break_after = [500_000, 0]
        urls = [dead_url, f"{host.url}/absent.bin", f"{host.url}/short.bin", f"{host.url}/file.bin"]
        download(urls, target, sha256=SHA256)
        assert target.read_bytes() == CONTENT
        assert host.ranges == [None, None, "bytes=500000-", "bytes=500000-"]

    def test_a_mirror_with_another_file_is_passed_over(self, host, target):
        host.files["page.html"] = b"<html>Gone</html>"
        download([f"{host.url}/page.html", f"{host.url}/file.bin"], target, sha256=SHA256)
        assert target.read_bytes() == CONTENT

    def test_a_wrong_checksum_leaves_nothing_behind(self, host, target):
        with pytest.raises(OSError, match=f"expected a file with sha256 {'0' * 64}, got {SHA256}"):
            download([f"{host.url}/file.bin"], target, sha256="0" * 64)
        assert list(target.parent.iterdir()) == []

    def test_md5_is_checked_alone_or_beside_sha256(self, host, target):
        md5 = hashlib.md5(CONTENT).hexdigest()
        with pytest.raises(OSError, match=f"expected a file with md5 {'0' * 32}, got {md5}"):
            download([f"{host.url}/file.bin"], target, sha256=SHA256, md5="0" * 32)
        with pytest.raises(OSError, match=f"expected a file with sha256 {'0' * 64}, got {SHA256}"):
            download([f"{host.url}/file.bin"], target, sha256="0" * 64, md5=md5)
        assert list(target.parent.iterdir()) == []
        download([f"{host.url}/file.bin"], target, md5=md5.upper())
        assert target.read_bytes() == CONTENT

    def test_says_where_to_put_the_file_by_hand(self, host, dead_url, target):
        urls = [dead_url, f"{host.url}/absent.bin"]
        with pytest.raises(OSError, match="Could not download file.bin") as caught:
            download(urls, target, sha256=SHA256)
        message = str(caught.value)
        assert f"{urls[0]}: <urlopen error" in message
        assert f"{urls[1]}: HTTP Error 404" in message
        assert f"(sha256 {SHA256}) and put it at {target}" in message
        with pytest.raises(OSError, match="by other means [(]md5 1f[)] and put it at"):
            download(urls, target, md5="1f")
        with pytest.raises(OSError, match="by other means and put it at"):
            download(urls, target)

    def test_what_arrived_is_kept_when_the_last_mirror_fails(self, host, target):
        host.break_after = [400_000, 0, 0]
        with pytest.raises(OSError, match="the connection ended after 400000 of 1048576 bytes"):
            download([f"{host.url}/file.bin"], target, sha256=SHA256)
        assert not target.exists()
        assert part(target).read_bytes() == CONTENT[:400_000]

    @pytest.mark.parametrize("after", [0, 500_000])
    def test_a_host_that_drips_is_given_up_in_the_headers_and_in_the_body(
        self, host, target, after
    ):
        host.drip_after = [after]
        with pytest.raises(OSError, match="the host is too slow: expected 512 bytes within 0.5 s"):
            download([f"{host.url}/file.bin"], target, sha256=SHA256, patience=0.5)
        assert host.ranges == [None]
        assert not target.exists()

    def test_the_next_mirror_goes_on_where_a_slow_one_was_given_up(self, host, target):
        host.drip_after = [500_000]
        download([f"{host.url}/file.bin"] * 2, target, sha256=SHA256, patience=0.5)
        assert target.read_bytes() == CONTENT
        first, second = host.ranges
        assert first is None
        assert int(second.removeprefix("bytes=").removesuffix("-")) > 490_000

    def test_a_host_that_says_nothing_is_given_up(self, target):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/file.bin"
            with pytest.raises(OSError, match=f"{url}: timed out"):
                download([url], target, timeout=0.1)

    def test_a_full_disk_does_not_try_the_other_mirrors(self, host, target, monkeypatch):
        def full(file, *arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(download_module, "open", full, raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            download([f"{host.url}/file.bin"] * 3, target, sha256=SHA256)
        assert len(host.ranges) == 1
        assert not target.exists()


class TestModelNetArchive:
    MEMBERS = {
        "ModelNet10/README.txt": "hello",
        "ModelNet10/chair/train/chair_0001.off": BOX,
        "ModelNet10/chair/test/chair_0890.off": BOX,
        "__MACOSX/ModelNet10/._README.txt": "x",
    }

    @pytest.fixture
    def mirrors(self, host, dead_url, tmp_path, monkeypatch):
        """Lets the data set look for its archive on this machine."""
        archive = make_zip(tmp_path / "served.zip", self.MEMBERS)
        host.files["ModelNet10.zip"] = archive.read_bytes()
        urls = {"10": (dead_url, f"{host.url}/ModelNet10.zip")}
        checksums = {"10": hashlib.sha256(archive.read_bytes()).hexdigest()}
        monkeypatch.setattr(modelnet_module, "_URLS", urls)
        monkeypatch.setattr(modelnet_module, "_SHA256", checksums)

    def test_is_downloaded_extracted_and_read(self, host, mirrors, tmp_path):
        root = tmp_path / "root"
        assert len(ModelNet(root, "10", **OPTIONS)) == 1
        assert len(ModelNet(root, "10", split="test", **OPTIONS)) == 1
        assert host.ranges == [None]
        assert names(root / "ModelNet10")[-1] == "chair/train/chair_0001.off"

    def test_may_be_put_there_by_hand(self, tmp_path):
        make_zip(tmp_path / "ModelNet10.zip", self.MEMBERS)
        assert len(ModelNet(tmp_path, "10", download=False, **OPTIONS)) == 1

    def test_an_empty_folder_of_its_name_does_not_hide_it(self, tmp_path):
        make_zip(tmp_path / "ModelNet10.zip", self.MEMBERS)
        (tmp_path / "ModelNet10").mkdir()
        assert len(ModelNet(tmp_path, "10", download=False, **OPTIONS)) == 1

    def test_a_folder_within_a_folder_of_its_name_is_found(self, tmp_path):
        make_zip(tmp_path / "ModelNet10.zip", self.MEMBERS)
        ModelNet(tmp_path, "10", download=False, **OPTIONS)
        (tmp_path / "ModelNet10.zip").unlink()
        (tmp_path / "ModelNet10").rename(tmp_path / "inner")
        (tmp_path / "ModelNet10").mkdir()
        (tmp_path / "inner").rename(tmp_path / "ModelNet10" / "ModelNet10")
        assert len(ModelNet(tmp_path, "10", download=False, **OPTIONS)) == 1

    def test_is_named_where_it_is_broken(self, tmp_path):
        path = make_zip(tmp_path / "ModelNet10.zip", self.MEMBERS)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match="ModelNet10.zip: expected a valid zip file"):
            ModelNet(tmp_path, "10")
        assert not (tmp_path / "ModelNet10").exists()

    def test_without_a_network_one_is_told_where_to_put_it(self, dead_url, tmp_path, monkeypatch):
        monkeypatch.setattr(modelnet_module, "_URLS", {"10": (dead_url,)})
        with pytest.raises(OSError, match=f"and put it at {tmp_path}/ModelNet10.zip"):
            ModelNet(tmp_path, "10")
