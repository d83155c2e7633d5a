"""Resumable downloads with checksums."""

import errno
import hashlib
import http.client
import logging
import os
import urllib.error
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .requests import open_url

__all__ = ["download"]

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
    md5: str | None = None,
    timeout: float = 30.0,
    patience: float = 60.0,
) -> Path:
    """Download a file from the first mirror that delivers it.

    What has arrived is kept in `<target>.part`, from which the next mirror or call resumes. The
    file is renamed to `target` once it is complete and its checksum is right.

    Args:
        urls: The mirrors, in order of preference.
        target: Path of the file. If it exists, nothing is downloaded.
        sha256: Its SHA-256 checksum in hexadecimal, if known.
        md5: Its MD5 checksum in hexadecimal, if known, for files published with no better one.
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
    known = {"sha256": sha256, "md5": md5}
    checksums = {algorithm: value for algorithm, value in known.items() if value is not None}
    failures = []
    for url in urls:
        try:
            _fetch_checked(url, part, checksums, timeout, patience)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            _LOGGER.warning("Could not download %s: %s", url, error)
            failures.append(f"  {url}: {error}")
        else:
            os.replace(part, target)
            return target
    listed = ", ".join(f"{algorithm} {value}" for algorithm, value in checksums.items())
    checksum = f" ({listed})" if listed else ""
    raise OSError(
        f"Could not download {target.name}:\n" + "\n".join(failures) + "\n"
        f"Download it by other means{checksum} and put it at {target.absolute()}"
    )


def _fetch_checked(
    url: str, part: Path, checksums: Mapping[str, str], timeout: float, patience: float
) -> None:
    """Fetch a file and check it; fetch a resumed one whose checksum is wrong once more."""
    resumed = part.exists()
    _fetch(url, part, timeout, patience)
    for algorithm, expected in checksums.items():
        actual = _checksum(part, algorithm)
        if actual == expected.lower():
            continue
        part.unlink()
        if not resumed:
            raise ValueError(f"expected a file with {algorithm} {expected}, got {actual}")
        return _fetch_checked(url, part, checksums, timeout, patience)


def _checksum(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        # Systems that forbid MD5 for security still allow it for checksums.
        return hashlib.file_digest(
            file, partial(hashlib.new, algorithm, usedforsecurity=False)
        ).hexdigest()


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
