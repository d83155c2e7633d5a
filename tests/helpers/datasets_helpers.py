"""What the tests of the data sets share: small files of every kind."""

import http.server
import importlib
import io
import re
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
import pytest
from scipy.io import wavfile

BOX = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
# A file name of the single byte 0xff, as Python shows it.
NOT_UTF8 = "\udcff"
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="file names are text")
OPTIONS = {"num_points": 16, "points_per_mesh": 32, "num_processes": 1}


def put(path: Path, content: str = BOX) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def put_classes(root: Path, *names: str) -> Path:
    """Makes two training meshes and one test mesh of every class."""
    for name in names:
        for split, number in (("train", 1), ("train", 2), ("test", 3)):
            put(root / name / split / f"{name}_{number:04d}.off")
    return root


def cloud(num_points: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a ball of points and its normals."""
    normals = np.random.default_rng(seed).standard_normal((num_points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return 3 * normals, normals


def make_zip(
    path: Path, members: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, str | bytes]) -> Path:
    """Makes a tar file, compressed if its name ends with "gz"; names of folders end with "/"."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            body = content.encode() if isinstance(content, str) else content
            member.size = len(body)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(body))
    return path


def names(folder: Path) -> list[str]:
    """Returns the paths of all files in a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def open3d() -> ModuleType:
    """Skips where open3d, or a system library that it needs, is missing."""
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d or a system library that it needs is missing: {error}")


class Host:
    """A host that serves `files`, and can be told to misbehave.

    Attributes:
        files: Content by name.
        url: Its address.
        ranges: What each request asked for, `None` being everything.
        break_after: Numbers of bytes after which the next connections break.
        drip_after: Numbers of bytes, headers included, after which the next answers drip: 200 bytes
            one by one with pauses, then the rest.
        honours_ranges: Whether it sends the part that it is asked for, or everything.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.url = ""
        self.ranges: list[str | None] = []
        self.break_after: list[int] = []
        self.drip_after: list[int] = []
        self.honours_ranges = True

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        if self.drip_after:
            handler.wfile = Dripping(handler.wfile, self.drip_after.pop(0))
        content = self.files.get(handler.path.lstrip("/"))
        if content is None:
            handler.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        partial = wanted is not None and self.honours_ranges
        if partial and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = content[start:] if partial else content
        handler.send_response(206 if partial else 200)
        handler.send_header("Content-Length", str(len(body)))
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        length = self.break_after.pop(0) if self.break_after else len(body)
        handler.wfile.write(body[:length])


class Dripping(io.BufferedIOBase):
    """Writes some bytes at once, 200 more one by one with pauses, and the rest."""

    def __init__(self, file: BinaryIO, after: int) -> None:
        self.file = file
        self.after = after
        self.drips = 200

    def write(self, content: bytes) -> None:
        slow = content[self.after : self.after + self.drips]
        self.file.write(content[: self.after])
        for byte in slow:
            self.file.write(bytes([byte]))
            time.sleep(0.01)
        self.file.write(content[self.after + self.drips :])
        self.after = max(self.after - len(content), 0)
        self.drips -= len(slow)


@contextmanager
def serve() -> Iterator[Host]:
    """Lets a host answer on a port of this machine."""
    host = Host()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # where the client gives up
                host.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        host.url = f"http://127.0.0.1:{server.server_port}"
        yield host
        server.shutdown()
        thread.join()


def put_recordings(
    folder: Path, digits: Iterable[int] = (0, 1), numbers: Iterable[int] = range(7)
) -> Path:
    """Makes recordings of two speakers, of 40 to 120 samples, the tone of a digit in each."""
    folder.mkdir(parents=True, exist_ok=True)
    for digit, speaker, number in product(digits, ("ann", "bob"), numbers):
        steps = np.arange(40 * (1 + number % 3))
        samples = 1000 * (number + 1) * np.cos(0.2 * (digit + 1) * steps)
        wavfile.write(folder / f"{digit}_{speaker}_{number}.wav", 8000, samples.astype(np.int16))
    return folder


def recording_arrays(**changes) -> dict[str, np.ndarray]:
    """Returns the arrays of three recordings, of 3, 1 and 2 samples."""
    content = {
        "samples": np.array([5, -5, 7, 1, 2, -32768], np.int16),
        "offsets": np.array([0, 3, 4, 6]),
        "label": np.array([0, 9, 9], np.uint8),
        "speaker": np.array(["ann", "bob", "bob"]),
        **changes,
    }
    return {name: array for name, array in content.items() if array is not None}


def python2_pickle(content: dict[bytes, object]) -> bytes:
    """Pickles a dict of bytes, whole numbers, lists of those and arrays of bytes as Python 2 does.

    This is the form of the official files of CIFAR, which Python 3 does not write.
    """
    items = b"".join(_python2(key) + _python2(value) for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."


def _python2(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"T" + len(value).to_bytes(4, "little") + value
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    assert isinstance(value, np.ndarray)
    by_columns = not value.flags.c_contiguous
    minus_one = _python2(-1)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNN" + minus_one + minus_one + b"K\x00tb"
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    state = b"(K\x01" + shape + dtype + (b"\x88" if by_columns else b"\x89")
    data = _python2(value.tobytes("F" if by_columns else "C"))
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return new + state + data + b"tb"
