"""Resumable downloads with checksums, and extraction of zip files."""

import errno
import hashlib
import http.client
import logging
import os
import shutil
import stat
import urllib.error
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from .requests import open_url

__all__ = ["download", "extract_zip"]

_LOGGER = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 16
_ATTEMPTS_PER_MIRROR = 3
# Some hosts reject the default user agent of Python.
_HEADERS = {"User-Agent": "ccnn_geo", "Accept-Encoding": "identity"}


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
    patience: float = 60.0,
) -> Path:
    """Download a file from the first mirror that delivers it.

    What has arrived is kept in `<target>.part`, from which the next mirror or call resumes. The
    file is renamed to `target` once it is complete and its checksum is right.

    Args:
        urls: The mirrors, in order of preference.
        target: Path of the file. If it exists, nothing is downloaded.
        sha256: Its checksum in hexadecimal, if known.
        timeout: Seconds after which a mirror that sends nothing is given up.
        patience: Seconds after which a mirror that has sent less than 1 KiB per second is given up.

    Returns:
        The target.

    Raises:
        OSError: If no mirror delivered the file, with a hint where to put it by hand; or if the
            disk is full.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures = []
    for url in urls:
        try:
            _fetch_checked(url, part, sha256, timeout, patience)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            _LOGGER.warning("Could not download %s: %s", url, error)
            failures.append(f"  {url}: {error}")
        else:
            os.replace(part, target)
            return target
    checksum = f" (sha256 {sha256})" if sha256 else ""
    raise OSError(
        f"Could not download {target.name}:\n" + "\n".join(failures) + "\n"
        f"Download it by other means{checksum} and put it at {target.absolute()}"
    )


def _fetch_checked(
    url: str, part: Path, sha256: str | None, timeout: float, patience: float
) -> None:
    """Fetch a file and check it; fetch a resumed one whose checksum is wrong once more."""
    resumed = part.exists()
    _fetch(url, part, timeout, patience)
    actual = _sha256(part)
    if sha256 is None or actual == sha256.lower():
        return
    part.unlink()
    if not resumed:
        raise ValueError(f"expected a file with sha256 {sha256}, got {actual}")
    _fetch_checked(url, part, sha256, timeout, patience)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, timeout: float, patience: float) -> None:
    """Fetch the missing part of a file; retry while broken connections deliver some of it."""
    for attempt in range(1, _ATTEMPTS_PER_MIRROR + 1):
        before = _size(part)
        try:
            _fetch_once(url, part, timeout, patience)
            return
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            if _size(part) == before or attempt == _ATTEMPTS_PER_MIRROR:
                raise
            _LOGGER.warning("Going on after a broken connection to %s: %s", url, error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_once(url: str, part: Path, timeout: float, patience: float) -> None:
    offset = _size(part)
    headers = _HEADERS | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = open_url(url, headers=headers, timeout=timeout, patience=patience)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
            raise
        if error.headers.get("Content-Range") != f"bytes */{offset}":
            part.unlink()
            raise ConnectionError("the host has less of the file than was there") from error
        return
    with response:
        resumed = f"bytes {offset}-"
        if not response.headers.get("Content-Range", "").startswith(resumed):
            offset = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else offset + int(length)
        progress = tqdm(
            total=total, initial=offset, desc=part.stem, unit="B", unit_scale=True, disable=None
        )
        with progress, open(part, "ab" if offset else "wb") as file:
            while chunk := response.read1(_CHUNK_BYTES):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def extract_zip(archive: Path, target: Path) -> Path:
    """Extract a zip file into a folder that appears once it is complete.

    A single top-level folder, as in `ModelNet10.zip`, is removed from the paths, and the metadata
    of macOS are omitted. The checksum of every member is verified.

    Args:
        archive: The zip file.
        target: The folder. If it exists, nothing is extracted.

    Returns:
        The target.

    Raises:
        ValueError: If the archive is cut short, corrupt or encrypted, or if a member would land
            outside the folder or is not a plain file.
        OSError: If there is not enough free space on the disk.
    """
    if target.exists():
        return target
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as source:
            members = _members(source)
            _check_room(archive, target.parent, members)
            for path, member in members.items():
                _extract_member(source, member, unfinished / path)
        os.replace(unfinished, target)
    except (
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{archive}: expected a valid zip file ({error}); delete it and download it again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _members(source: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the members by their paths in the folder, all of which have to be inside it."""
    members = {}
    for member in source.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts):
            raise ValueError(f"member {member.filename!r} would land outside the folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"member {member.filename!r} is a link or a device")
        unwanted = "__MACOSX" in path.parts or path.name in ("", ".DS_Store")
        if not member.is_dir() and not unwanted:
            members[path] = member
    if not members:
        raise ValueError("it holds no files")
    if len({path.parts[0] for path in members}) == 1 and all(len(p.parts) > 1 for p in members):
        members = {PurePosixPath(*path.parts[1:]): member for path, member in members.items()}
    return members


def _check_room(archive: Path, folder: Path, members: dict[PurePosixPath, zipfile.ZipInfo]) -> None:
    needed = sum(member.file_size for member in members.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"{needed:,} bytes are needed to extract {archive.name}, {free:,} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def _extract_member(source: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open(member) as compressed, open(path, "wb") as file:
        shutil.copyfileobj(compressed, file, _CHUNK_BYTES)
